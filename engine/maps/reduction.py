"""UMAP in a process of its own: one at a time, warm, with progress, cancel and a cache.

What is fitted: all points of the map after preprocessing, each divided by its length; their
principal axes (exact; 50 unless asked otherwise); Euclidean distances there, which for vectors of
length 1 have the order of cosine; exact nearest neighbours up to 40,000 points and UMAP's
own search above; started from the first principal axes, seeded and therefore on one thread. A
second run with the next seed on the same points gives the noise
floor: how far points lie from themselves when nothing has changed.
"""

from __future__ import annotations

import threading
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from cachetools import LRUCache

from engine.checkpoints import write_aside
from engine.maps.arrays import Floats
from engine.maps.axes import procrustes, rms_radius
from engine.maps.umap_process import UmapProblem, UmapProcess
from engine.progress import Steps

FILES: Final = 100
"""Layouts that stay on the disk."""


@dataclass(frozen=True)
class UmapResult:
    """Coordinates, and the same from the next seed."""

    fingerprint: str
    coordinates: Floats
    """n × dims."""
    variance: float = 1.0
    """Share of the variance that the axes under it hold, in [0, 1]."""
    second: Floats | None = None
    """From seed + 1; None until it is done."""

    def movement(self) -> Floats | None:
        """Distance of each point from itself between the two seeds, after Procrustes, in RMS radii
        of the map (n)."""
        if self.second is None:
            return None
        target = self.coordinates.astype(np.float64)
        fit = procrustes(self.second.astype(np.float64), target)
        moved = self.second.astype(np.float64) @ fit.rotation + fit.offset - target
        radius = rms_radius(target)
        out: Floats = (np.linalg.norm(moved, axis=1) / max(radius, 1e-300)).astype(np.float32)
        return out

    @property
    def noise_floor(self) -> float | None:
        """Median of :meth:`movement`."""
        moved = self.movement()
        return None if moved is None else float(np.median(moved))


class UmapCache:
    """Finished layouts, in memory and on the disk. Any thread may use it.

    Args:
        folder: where they are kept; None keeps them in memory only.
        limit: how many stay in memory.
    """

    def __init__(self, folder: Path | None, limit: int = 8) -> None:
        self.folder = folder
        self.version = 0
        """How often a layout was kept: what was said of a map before holds for one of them."""
        self._kept: LRUCache[str, UmapResult] = LRUCache(limit)
        self._lock = threading.Lock()

    def get(self, fingerprint: str, shape: tuple[int, int]) -> UmapResult | None:
        """A layout of this map; None where there is none or its file is damaged."""
        with self._lock:
            found = self._kept.get(fingerprint)
        if found is not None:
            return found
        if self.folder is None:
            return None
        try:
            with (
                self._path(fingerprint).open("rb") as opened,
                np.load(opened, allow_pickle=False) as file,
            ):
                parts = {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
        sound = all(
            parts[n].shape == shape and parts[n].dtype == np.float32 and np.isfinite(parts[n]).all()
            for n in ("coordinates", "second")
            if n in parts
        )
        if "coordinates" not in parts or not sound:
            return None
        result = UmapResult(
            fingerprint,
            parts["coordinates"],
            float(parts["variance"]) if "variance" in parts else 1.0,
            parts.get("second"),
        )
        self._keep(result)
        return result

    def put(self, result: UmapResult) -> None:
        """Keep a layout; a folder that cannot be written is no error."""
        self._keep(result)
        self.version += 1
        if self.folder is None:
            return
        arrays: dict[str, Any] = {
            "coordinates": result.coordinates,
            "variance": np.float64(result.variance),
        }
        if result.second is not None:
            arrays["second"] = result.second
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_aside(
                self._path(result.fingerprint),
                lambda aside: np.savez(aside, allow_pickle=False, **arrays),
            )
            # Another seed or setting is another file: the oldest go.
            files = sorted(self.folder.glob("umap-*.npz"), key=lambda p: p.stat().st_mtime)
            for old in files[:-FILES]:
                old.unlink(missing_ok=True)
        except OSError:
            return

    def _keep(self, result: UmapResult) -> None:
        with self._lock:
            self._kept[result.fingerprint] = result

    def _path(self, fingerprint: str) -> Path:
        assert self.folder is not None
        return self.folder / f"umap-{fingerprint}.npz"


def reduce(
    problem: UmapProblem, cache: UmapCache, process: UmapProcess, *, floor: bool = True
) -> Steps[UmapResult]:
    """Lay a problem out and keep it, then again with the next seed for the noise floor.

    Needs no model: any thread may drive it. What is cached is not done again; a result is kept
    whole or not at all.

    Args:
        problem: what to lay out.
        cache: where results are looked for and kept.
        process: that runs UMAP.
        floor: whether the second seed is run too.

    Raises:
        WorkError: UMAP failed.
    """
    shape = (len(problem.points), problem.dims)
    result = cache.get(problem.fingerprint, shape)
    if result is None:
        coordinates = yield from process.layout(problem)
        result = UmapResult(problem.fingerprint, coordinates, problem.variance)
        cache.put(result)
    if floor and result.second is None:
        again = replace(problem, seed=problem.seed + 1)
        second = yield from process.layout(again, note="noise floor: ")
        result = replace(result, second=second)
        cache.put(result)
    return result
