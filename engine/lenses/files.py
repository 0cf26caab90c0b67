"""A fitted lens as a file: safetensors with the fingerprint of the model that it belongs to."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from engine.checkpoints import write_aside
from engine.errors import ArtifactError, shorten
from engine.lenses.kind import Lens, LensRow

_FORMAT: Final = "1"
_MANY: Final = 64
"""Files of a folder that are looked at."""


def path_of(folder: Path, name: str, model: str) -> Path:
    """Where a model's lens lies."""
    return folder / f"lens-{name}-{model}.safetensors"


def save(lens: Lens, path: Path) -> None:
    """Write a lens: whole, or not at all.

    Raises:
        OSError: it cannot be written there.
    """
    parts = {"maps": lens.maps.contiguous(), "offsets": lens.offsets.contiguous()}
    plain = {"name": lens.name, "model": lens.model, "text": lens.text,
             "positions": lens.positions, "held_out": lens.held_out, "seconds": lens.seconds,
             "rows": [asdict(row) for row in lens.rows]}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"format": _FORMAT, "lens": json.dumps(plain)}
    write_aside(path, partial(save_file, parts, metadata=meta))


def load(path: Path, *, model: str, blocks: int, width: int) -> Lens | None:
    """A lens that was kept; None where there is none, or it is damaged or another model's.

    Args:
        path: the file.
        model: the fingerprint that it must bear.
        blocks: L.
        width: d.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            if meta.get("format") != _FORMAT:
                return None
            plain = json.loads(meta["lens"])
            maps, offsets = file.get_tensor("maps"), file.get_tensor("offsets")
        rows = tuple(LensRow(**row) for row in plain.pop("rows"))
        lens = Lens(maps=maps, offsets=offsets, rows=rows, **plain)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError):
        return None
    sound = (
        lens.model == model
        and tuple(maps.shape) == (blocks, width, width)
        and tuple(offsets.shape) == (blocks, width)
        and bool(torch.isfinite(maps).all())
        and bool(torch.isfinite(offsets).all())
    )
    return lens if sound else None


def open_folder(folder: Path, *, model: str, blocks: int, width: int) -> Lens:
    """The lens that a folder holds for a model; the arguments are those of :func:`load`.

    Raises:
        ArtifactError: there is none, it is damaged, or it is another model's.
    """
    shown = shorten(folder.name)
    there = sorted(folder.glob("lens-*.safetensors"))[:_MANY]
    for path in there:
        found = load(path, model=model, blocks=blocks, width=width)
        if found is not None:
            return found
    if not there:
        raise ArtifactError(
            f"there is no lens in {shown!r}; give a folder that 'lexiscope lens fit' wrote."
        )
    if any(path.stem.endswith(model) for path in there):
        raise ArtifactError(f"the lens in {shown!r} is damaged; fit it anew.")
    other = there[0].stem.rpartition("-")[2][:12]
    raise ArtifactError(
        f"the lens in {shown!r} belongs to another model ({other} there, {model[:12]} here); fit"
        " one to this model."
    )
