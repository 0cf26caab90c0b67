"""What differs between two maps of the same points: motion on the picture, neighbours in the model.

For a point at y_i on one map and z_i on the other, in units of the first map's RMS radius R:

* displacement ‖z_i − y_i‖ / R;
* relative displacement: the same of (z_i − y_i) minus the mean motion of its k nearest points in
  the model: what it does that its neighbourhood does not;
* kNN Jaccard in the model: |A_i ∩ B_i| / |A_i ∪ B_i|, which no projection can distort.

For UMAP the second map is turned onto the first (Procrustes). Beside its motion stand the noise
floor, the motion between two seeds on the same data of the first map, and the ratio of the two,
median displacement / noise floor, for every pair of seeds: its median, and its range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.errors import OptionError
from engine.json_number import Plain
from engine.maps.arrays import Floats, Ints, Longs
from engine.maps.axes import procrustes, rms_radius
from engine.maps.neighbours import jaccard, nearest
from engine.maps.points import BASIS, KINDS, MapPoints
from engine.maps.projections import PROJECTIONS
from engine.maps.quality import Estimate
from engine.maps.result import Map
from engine.progress import Check, no_check

MOVERS: Final = 20
_LISTED: Final = 5
_LIMIT: Final = 10_000
"""Points whose neighbours are looked for; above, the movers and a sample of so many."""


@dataclass(frozen=True)
class Mover(Plain):
    """One of the points that move most."""

    index: int
    kind: str
    label: str
    displacement: float
    """In RMS radii of the first map."""
    relative: float
    """The same, relative to its neighbours in the model."""
    jaccard: float
    gained: tuple[str, ...]
    """Labels of near points of the second layer that were not near at the first, at most five."""
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Changes(Plain):
    """What differs between two layers, point by point."""

    layers: tuple[int, int]
    n: int
    k: int
    moving: int
    """Points that may move: states, where bases stay where they are."""
    radius: float
    """RMS radius of the first map, in its coordinates: the unit of every displacement."""
    median: float
    """Median displacement of the points that may move."""
    median_relative: float
    median_jaccard: float
    noise_floor: float | None
    """UMAP: median displacement between two seeds on the first layer's data; the median over the
    pairs of seeds."""
    noise_ratio: Estimate | None
    """Median displacement over the noise floor, about 1 where nothing but the seed differs: the
    median over the pairs of seeds, and the least and largest of them."""
    noise_pairs: int
    """Pairs of seeds."""
    sentence: str
    movers: tuple[Mover, ...]
    """Largest displacement first."""
    displacement: Floats
    """n."""
    relative: Floats
    """n; NaN where neighbours were not looked for."""
    jaccard: Floats
    """n; NaN where neighbours were not looked for."""


def measure_changes(
    maps: tuple[Map, Map],
    vectors: tuple[Floats, Floats],
    *,
    k: int = 15,
    check: Check = no_check,
) -> Changes:
    """Compare two maps of the same points.

    Args:
        maps: the first and the second.
        vectors: of their points after preprocessing, in the model (each n × d).

    Raises:
        OptionError: the maps do not have the same points.
    """
    first, second = maps
    points = first.points
    n = len(points)
    same = n == len(second.points) and first.dims == second.dims
    if not same or not (
        np.array_equal(points.kind, second.points.kind)
        and np.array_equal(points.row, second.points.row)
    ):
        raise OptionError("two maps can be compared only where they have the same points.")
    if not 1 <= k <= 200:
        raise OptionError(f"k must be from 1 to 200; got {k}.")
    a = first.coordinates.astype(np.float64)
    b = second.coordinates.astype(np.float64)
    is_job = PROJECTIONS[first.options.projection].is_job
    if is_job:
        fit = procrustes(b, a)
        b = b @ fit.rotation + fit.offset
    radius = rms_radius(a)
    unit = radius if radius > 0 else 1.0
    motion = (b - a) / unit
    displacement = np.linalg.norm(motion, axis=1).astype(np.float32)
    # A job lays bases out anew for every layer; elsewhere they stay where they are.
    moving = np.arange(n) if is_job else np.flatnonzero(points.kind != BASIS)
    top: Longs = moving[np.argsort(-displacement[moving], kind="stable")][:MOVERS]
    chosen = _chosen(moving, top, first.options.seed)
    relative = np.full(n, np.nan, dtype=np.float32)
    alike = np.full(n, np.nan, dtype=np.float32)
    lists: dict[int, tuple[Ints, Ints]] = {}
    none = np.empty(0, dtype=np.int32)
    if len(chosen) and n > 1:
        near_a, _ = nearest(vectors[0], chosen, k, check)
        near_b, _ = nearest(vectors[1], chosen, k, check)
        own = motion[chosen] - motion[near_a].mean(axis=1)
        relative[chosen] = np.linalg.norm(own, axis=1)
        alike[chosen] = jaccard(near_a, near_b)
        lists = dict(zip(chosen.tolist(), zip(near_a, near_b, strict=True), strict=True))
    movers = tuple(
        Mover(
            index=i,
            kind=KINDS[points.kind[i]],
            label=points.label(i),
            displacement=float(displacement[i]),
            relative=float(relative[i]),
            jaccard=float(alike[i]),
            gained=_labels(points, after, before),
            lost=_labels(points, before, after),
        )
        for i in top.tolist()
        for before, after in [lists.get(i, (none, none))]
    )
    median = float(np.median(displacement[moving])) if len(moving) else 0.0
    ratio = _ratio(median, first.noise_floors)
    return Changes(
        layers=(first.layer, second.layer),
        n=n,
        k=min(k, n - 1),
        moving=len(moving),
        radius=radius,
        displacement=displacement,
        relative=relative,
        jaccard=alike,
        median=median,
        median_relative=_median(relative[chosen]),
        median_jaccard=_median(alike[chosen]),
        movers=movers,
        noise_floor=first.noise_floor,
        noise_ratio=ratio,
        noise_pairs=len(first.noise_floors),
        sentence=_sentence(first, second, median, _median(alike[chosen]), ratio, len(moving)),
    )


def _ratio(median: float, floors: Sequence[float]) -> Estimate | None:
    """A motion in each of the noise floors; None where one is not known or nothing."""
    if not floors or not all(floors):
        return None
    every = [median / one for one in floors]
    return Estimate(float(np.median(every)), min(every), max(every))


def _chosen(moving: Longs, top: Longs, seed: int) -> Longs:
    if len(moving) <= _LIMIT:
        return moving
    sample = np.random.default_rng(seed).choice(moving, size=_LIMIT, replace=False)
    return np.union1d(sample, top)


def _median(x: Floats) -> float:
    return float(np.median(x)) if len(x) else float("nan")


def _labels(points: MapPoints, near: Ints, others: Ints) -> tuple[str, ...]:
    """Of the near points that are not among the others, the first few."""
    return tuple(points.label(int(j)) for j in near if j not in others)[:_LISTED]


def _span(first: Map, second: Map) -> str:
    calibration = second.options.calibration
    if calibration is not None and first.layer == second.layer:
        return f"From before to after the calibration “{calibration.label}”"
    return f"From layer {first.layer} to {second.layer}"


def _sentence(
    first: Map, second: Map, median: float, alike: float, ratio: Estimate | None, moving: int
) -> str:
    if not moving:
        return (
            "Bases are the same at every layer, and no state is on this map, so nothing moves; add"
            " a prompt or texts, or choose the vocabulary alone."
        )
    text = (
        f"{_span(first, second)} a point moves {median:.2f} map radii (median)"
        f" and keeps {100 * alike:.0f} % of its neighbourhood in the model (kNN Jaccard)."
    )
    return text + PROJECTIONS[first.options.projection].motion(first.noise_floors, ratio)
