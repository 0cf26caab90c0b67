"""Atlases that ship: the UMAP of all bases of a model, made once, so that nobody waits for it.

A file of `atlases/` holds the places as 16-bit numbers (a step is 1/65,535 of the range, far below
a pixel), the regions, and in `meta` what they were made of, by which versions, and how true they
are. It stands in for a layout of the same model and the same settings. UMAP on another machine
gives another picture, so a shipped one is not checked by running it again but by measuring it
again: see :func:`engine.maps.verify.verify`. Made by ``python -m training.atlas``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.maps.arrays import Bools, Doubles, Floats, Longs
from engine.maps.options import MapOptions, versions
from engine.maps.quality import Quality
from engine.maps.reduction import UmapResult

FOLDER: Final = Path(__file__).with_name("atlases")
_STEPS: Final = 65_535
OPTIONS: Final = MapOptions(projection="umap")
"""What an atlas shows: all bases as they are by default, in the plane."""
_FREE: Final = frozenset({"layer", "state", "lens", "bos", "chat", "prompt", "texts", "side"})
"""Settings that are about states: none lays the bases out otherwise."""
STATES_NOTE: Final = (
    "The atlas was laid out without the text: each of its states stands at the word whose basis is"
    " nearest to it (cosine), however near that is."
)


@dataclass(frozen=True, eq=False)
class Atlas:
    """A layout that ships."""

    meta: dict[str, Any]
    """Model, options, versions, quality, noise floor, variance and digest."""
    result: UmapResult
    """Under the digest's name."""


def is_atlas(options: MapOptions, width: int) -> bool:
    """Whether these are the settings of an atlas, whatever states are drawn on it.

    Args:
        width: of the model: there are no more principal axes.
    """
    if options.calibration is not None:
        return False
    one, other = options.to_dict(), OPTIONS.to_dict()
    for plain in (one, other):
        plain["principal"] = min(plain["principal"], width)
    return all(one.get(name) == other.get(name) for name in one | other if name not in _FREE)


@cache
def find_atlas(model: str) -> Atlas | None:
    """The atlas of the model with this fingerprint; None where none ships."""
    path = FOLDER / f"{model}.npz"
    if not model.isalnum() or not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        parts = {name: file[name] for name in file.files}
    meta = json.loads(str(parts["meta"][()]))
    result = UmapResult(
        meta["digest"],
        _places(parts["steps"], parts["range"]),
        meta["variance"],
        labels=parts["labels"].astype(np.int32),
        central=parts["central"].astype(np.int32),
        shipped=tuple(meta.get("noise_floors") or [meta["noise_floor"]]),
        atlas=meta["digest"],
    )
    return Atlas(meta, result)


def with_states(result: UmapResult, nearest: Longs, placed: Bools) -> UmapResult:
    """An atlas with states on it, each where its nearest basis is.

    Args:
        nearest: of each state the id of the basis that is nearest to it (n).
        placed: which of them are finite; the others have no place (n).
    """
    at = np.where(placed[:, None], result.coordinates[nearest], np.nan)
    assert result.labels is not None
    none = np.full((len(result.labels), len(nearest)), -1, dtype=np.int32)
    return replace(
        result,
        coordinates=np.concatenate([result.coordinates, at.astype(np.float32)]),
        labels=np.concatenate([result.labels, none], axis=1),
    )


def _places(steps: np.ndarray, limits: Doubles) -> Floats:
    low, high = limits
    out: Floats = (low + steps.astype(np.float64) / _STEPS * (high - low)).astype(np.float32)
    return out


def quantised(coordinates: Floats) -> tuple[np.ndarray, Doubles, Floats]:
    """The places as 16-bit steps of their range (n × dims), the range (2 × dims), and the places
    that these give back, half a step off at most."""
    exact = coordinates.astype(np.float64)
    limits = np.stack([exact.min(axis=0), exact.max(axis=0)])
    wide = np.where(limits[1] > limits[0], limits[1] - limits[0], 1.0)
    steps = np.round((exact - limits[0]) / wide * _STEPS).astype(np.uint16)
    return steps, limits, _places(steps, limits)


def digest_of(places: Floats) -> str:
    """Names the places of an atlas (BLAKE2b)."""
    return hashlib.blake2b(places.astype("<f4").tobytes(), digest_size=16).hexdigest()


def write_atlas(
    path: Path, model: dict[str, Any], options: MapOptions, result: UmapResult, quality: Quality
) -> None:
    """Keep a finished layout as an atlas.

    Args:
        path: the file.
        model: its name, revision and fingerprint.
        options: of the map, resolved.
        result: its layout, with regions and noise floor.
        quality: of the quantised places.
    """
    steps, limits, places = quantised(result.coordinates)
    assert result.labels is not None
    assert result.central is not None
    meta = {
        "model": model,
        "options": options.to_dict(),
        "versions": versions(options),
        "variance": result.variance,
        "noise_floor": result.noise_floor,
        "noise_floors": list(result.noise_floors),
        "quality": quality.to_dict(),
        "digest": digest_of(places),
    }
    np.savez_compressed(
        path,
        allow_pickle=False,
        steps=steps,
        range=limits,
        labels=result.labels.astype(np.int16),
        central=result.central.astype(np.int32),
        meta=np.array(json.dumps(meta, sort_keys=True)),
    )
