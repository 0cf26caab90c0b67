"""UMAP in a process of its own: one at a time, warm, with progress, cancel and a cache.

What is fitted: all points of the map after preprocessing, each divided by its length; their
principal axes (exact; all unless asked otherwise); Euclidean distances there, which for vectors of
length 1 have the order of cosine; exact nearest neighbours up to 40,000 points and UMAP's
own search above; started from the first principal axes, seeded and therefore on one thread.
Further runs with the next seeds on the same points give the noise floor: how far points lie from
themselves when nothing has changed, between every two of the layouts.
"""

from __future__ import annotations

import threading
import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from cachetools import LRUCache

from engine.checkpoints import write_aside
from engine.maps.arrays import Doubles, Floats, Ints
from engine.maps.axes import procrustes, rms_radius
from engine.maps.umap_process import UmapProblem, UmapProcess
from engine.progress import Steps

MANY: Final = 200
"""From so many points on a layout has regions."""
SEEDS: Final = 2
"""Further seeds that a layout is made with for the noise floor: with its own, three pairs."""
FILES: Final = 100
"""Layouts that stay on the disk."""
_OTHER: Final = "other"
"""In a file, the layouts from further seeds are named so, and numbered."""


@dataclass(frozen=True)
class UmapResult:
    """Coordinates, and the same from the next seeds."""

    fingerprint: str
    coordinates: Floats
    """n × dims."""
    variance: float = 1.0
    """Share of the variance that the axes under it hold, in [0, 1]."""
    others: tuple[Floats, ...] = ()
    """From the seeds after its own, as far as they are done."""
    labels: Ints | None = None
    """The region of each point at each level, the coarsest first; −1 for none (levels × n). None
    until they are found, and where there are few points."""
    central: Ints | None = None
    """Of each region its most central points, and −1 behind them (regions × some)."""
    shipped: tuple[float, ...] = ()
    """Of a layout that was shipped: the noise floors as they were measured."""
    atlas: str = ""
    """Of a layout that was shipped: the digest of its places."""

    @cached_property
    def noise_floors(self) -> tuple[float, ...]:
        """Of every two of the layouts the median distance of a point from itself, after Procrustes,
        in RMS radii of the first; none until all seeds are done."""
        if len(self.others) < SEEDS:
            return self.shipped
        every = [one.astype(np.float64) for one in (self.coordinates, *self.others)]
        return tuple(_movement(a, b) for a, b in combinations(every, 2))

    @property
    def noise_floor(self) -> float | None:
        """Their median."""
        return float(np.median(self.noise_floors)) if self.noise_floors else None


def _movement(target: Doubles, other: Doubles) -> float:
    fit = procrustes(other, target)
    moved = np.linalg.norm(other @ fit.rotation + fit.offset - target, axis=1)
    return float(np.median(moved)) / max(rms_radius(target), 1e-300)


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
        self._drafts: LRUCache[str, Floats] = LRUCache(2)
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
            for n in parts
            if n == "coordinates" or n.startswith(_OTHER)
        )
        if "coordinates" not in parts or not sound or not _whole(parts, shape[0]):
            return None
        result = UmapResult(
            fingerprint,
            parts["coordinates"],
            float(parts["variance"]) if "variance" in parts else 1.0,
            tuple(parts[n] for n in sorted(parts) if n.startswith(_OTHER)),
            parts.get("labels"),
            parts.get("central"),
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
        more: dict[str, Any] = {"labels": result.labels, "central": result.central}
        more |= {f"{_OTHER}{n}": one for n, one in enumerate(result.others)}
        arrays |= {name: array for name, array in more.items() if array is not None}
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

    def draft(self, fingerprint: str) -> Floats | None:
        """The places of a layout under way as they were lately (n × dims); None where none is."""
        with self._lock:
            return self._drafts.get(fingerprint)

    def sketch(self, fingerprint: str, places: Floats) -> None:
        """Show where a layout under way is."""
        with self._lock:
            self._drafts[fingerprint] = places

    def _keep(self, result: UmapResult) -> None:
        with self._lock:
            self._kept[result.fingerprint] = result
            self._drafts.pop(result.fingerprint, None)

    def _path(self, fingerprint: str) -> Path:
        assert self.folder is not None
        return self.folder / f"umap-{fingerprint}.npz"


def _whole(parts: dict[str, Any], n: int) -> bool:
    """Whether the regions of a file, where it has any, are those of so many points."""
    if "labels" not in parts or "central" not in parts:
        return "labels" not in parts and "central" not in parts
    labels, central = parts["labels"], parts["central"]
    kinds = labels.dtype.kind == central.dtype.kind == "i"
    shaped = labels.ndim == central.ndim == 2 and labels.shape[1] == n
    if not kinds or not shaped:
        return False
    return bool((labels < len(central)).all() and (central < n).all())


def reduce(
    problem: UmapProblem, cache: UmapCache, process: UmapProcess, *, floor: bool = True
) -> Steps[UmapResult]:
    """Lay a problem out and keep it, find its regions, then lay it out again with the next seeds
    for the noise floor.

    Needs no model: any thread may drive it. What is cached is not done again; a result is kept
    whole or not at all.

    Args:
        problem: what to lay out.
        cache: where results are looked for and kept.
        process: that runs UMAP.
        floor: whether the further seeds are run too.

    Raises:
        WorkError: UMAP failed.
    """
    shape = (len(problem.points), problem.dims)
    result = cache.get(problem.fingerprint, shape)
    if result is None:
        watch = partial(cache.sketch, problem.fingerprint)
        coordinates = yield from process.layout(problem, watch=watch)
        result = UmapResult(problem.fingerprint, coordinates, problem.variance)
        cache.put(result)
    if result.labels is None and len(problem.points) >= MANY:
        labels, central = yield from process.regions(problem, result.coordinates)
        result = replace(result, labels=labels, central=central)
        cache.put(result)
    while floor and len(result.others) < SEEDS:
        number = len(result.others) + 1
        again = replace(problem, seed=problem.seed + number)
        other = yield from process.layout(again, note=f"noise floor, seed {number} of {SEEDS}: ")
        result = replace(result, others=(*result.others, other))
        cache.put(result)
    return result
