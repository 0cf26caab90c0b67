"""A calibration on disk: safetensors and JSON in one folder, whole or not there.

``weights.safetensors`` holds the label centroids and whatever was trained; ``calibration.json`` the
settings, fingerprints, history, versions and the digest of the weights. The folder is written
aside, flushed and renamed. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.calibration.labelled.words import LabelToken
from engine.calibration.training.calibrated import Calibration, Epoch, centroids_for
from engine.calibration.training.losses import Centroids
from engine.calibration.training.module import CalibrationModule
from engine.calibration.training.options import CalibrationOptions
from engine.errors import ArtifactError, shorten
from engine.json_number import plain
from engine.space import LatentSpace

FORMAT: Final = "lexiscope calibration 1"
WEIGHTS: Final = "weights.safetensors"
INFO: Final = "calibration.json"
LIBRARIES: Final = ("lexiscope", "torch", "transformers", "numpy", "peft")


def save(calibration: Calibration, folder: Path, *, extra: Mapping[str, Any] | None = None) -> Path:
    """Write a calibration; a folder of that name is replaced.

    Args:
        calibration: what was trained.
        folder: where to; its parent is made.
        extra: kept under ``extra`` in the JSON, such as metrics.

    Returns:
        The folder.

    Raises:
        ArtifactError: it cannot be written.
    """
    tensors = {f"centroids.{n}": t for n, t in calibration.centroids.tensors().items()}
    if calibration.module is not None:
        state = calibration.module.state_dict()
        tensors |= {f"module.{n}": t.detach().cpu().contiguous() for n, t in state.items()}
    tensors |= {f"tuned.{n}": t.contiguous() for n, t in calibration.tuned.items()}
    aside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".tmp-"))
        save_file(tensors, aside / WEIGHTS)
        info = {
            **describe(calibration),
            "weights_digest": _digest(aside / WEIGHTS),
            "extra": dict(extra or {}),
        }
        text = json.dumps(plain(info), ensure_ascii=False, indent=1, allow_nan=False)
        (aside / INFO).write_text(text, encoding="utf-8")
        for name in (WEIGHTS, INFO):
            _flush(aside / name)
        _flush(aside)
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".tmp-"))
            folder.replace(old / "old")
            aside.replace(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            aside.replace(folder)
        _flush(folder.parent)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"the calibration cannot be written to {shorten(folder.name)} ({error}); check the"
            " folder and the free space."
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def describe(calibration: Calibration) -> dict[str, Any]:
    """All that is known about a calibration but its weights."""
    return {
        "format": FORMAT,
        "options": calibration.options.to_dict(),
        "model": {"fingerprint": calibration.model, "name": calibration.model_name},
        "task": dict(calibration.task_info),
        "labels": list(calibration.label_names),
        "words": list(calibration.label_words),
        "history": [asdict(epoch) for epoch in calibration.history],
        "best_epoch": calibration.best_epoch,
        "reading_temperature": calibration.reading_temperature,
        "seconds": calibration.seconds,
        "trained_weights": calibration.trained_weights,
        "stored_bytes": calibration.stored_bytes,
        "versions": dict.fromkeys(LIBRARIES, "not installed") | versions(),
    }


def versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Of libraries that numbers depend on; those that are installed."""
    out = {}
    for name in names:
        with suppress(PackageNotFoundError):
            out[name] = version(name)
    return out


def read_info(folder: Path) -> dict[str, Any]:
    """What stands in ``calibration.json``, for lists; no weights are opened.

    Raises:
        ArtifactError: not there, damaged, or of another format.
    """
    shown = shorten(folder.name)
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"there is no calibration in {shown}; choose another.") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the calibration {shown} is damaged; train it anew.") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise ArtifactError(
            f"the calibration {shown} is of an unknown format; it was not written by this version."
        )
    return info


def load_calibration(folder: Path, space: LatentSpace) -> Calibration:
    """Open a calibration for the model that it was trained on; its logits are the same bits.

    Raises:
        ArtifactError: not there, damaged, or another model's.
    """
    info = read_info(folder)
    shown = shorten(folder.name)
    try:
        if _digest(folder / WEIGHTS) != info["weights_digest"]:
            raise ValueError("digest")
        tensors = load_file(folder / WEIGHTS)
        result = _rebuild(info, tensors, space)
    except ArtifactError:
        raise
    except (
        OSError,
        SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,  # a list or a text where an object was written
        ArithmeticError,
        RuntimeError,
    ) as error:
        raise ArtifactError(f"the calibration {shown} is damaged; train it anew.") from error
    return result


def _rebuild(
    info: Mapping[str, Any], tensors: dict[str, Tensor], space: LatentSpace
) -> Calibration:
    model = info["model"]
    options = CalibrationOptions.from_dict(info["options"])
    labels = [LabelToken.from_dict(plain) for plain in info["task"]["labels"]]
    result = Calibration(
        options=options,
        model=str(model["fingerprint"]),
        model_name=str(model["name"]),
        task=str(info["task"]["fingerprint"]),
        task_info=info["task"],
        label_names=tuple(info["labels"]),
        label_words=tuple(info["words"]),
        centroids=_placeholder(),
        tuned=_part(tensors, "tuned."),
        history=tuple(Epoch(**_numbers(epoch)) for epoch in info["history"]),
        best_epoch=int(info["best_epoch"]),
        reading_temperature=float(info["reading_temperature"]),
        seconds=float(info["seconds"]),
        trained_weights=int(info["trained_weights"]),
    )
    result.check_model(space)
    result.centroids = _centroids(space, labels, options, tensors, result.tuned)
    module = _part(tensors, "module.")
    if module:
        made = CalibrationModule(
            space.model.width,
            pooling=options.pooling,
            start=options.start,
            dropout=options.dropout,
            seed=options.seed,
        )
        made.load_state_dict(module)
        made.requires_grad_(False)
        result.module = made.eval().to(result.centroids.labels.device)
    elif options.kind == "module":
        raise ValueError("no module")
    return result


def _centroids(
    space: LatentSpace,
    labels: list[LabelToken],
    options: CalibrationOptions,
    tensors: dict[str, Tensor],
    tuned: Mapping[str, Tensor],
) -> Centroids:
    """Those of the space, with the label vectors as they were stored."""
    base = centroids_for(space, labels, options)
    device = base.labels.device
    if "head.weight" in tuned:
        rows = tuned["head.weight"].to(device)
        transform = space.frame(options.frame).transform
        bases = rows if transform is None else rows @ transform.float().to(device)
        base = base.with_matrix(bases, bases if options.frame == "tight" else rows)
    stored = {n: t.to(device) for n, t in _part(tensors, "centroids.").items()}
    if stored["labels"].shape != base.labels.shape:
        raise ValueError("shape")
    return replace(
        base,
        labels=stored["labels"],
        rows=stored["rows"],
        bias=stored.get("bias"),
        shift=stored.get("shift"),
        product_shift=stored.get("product_shift"),
    )


def _placeholder() -> Centroids:
    none = torch.empty(0, 0)
    return Centroids("output", "labels", (), none, none, None, None)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _numbers(plain: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null stands for it."""
    return {k: math.nan if v is None else v for k, v in plain.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
