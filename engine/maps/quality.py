"""How true a picture is: who of a point's true neighbours are its neighbours on the map.

For a query i let N_i be its k nearest points in the model (after preprocessing, Euclidean) and M_i
those on the map; r(i, j) is the rank of j by distance in the model, s(i, j) on the map.

* kept: |N_i ∩ M_i|, mean over queries, of k;
* trustworthiness: 1 − c·mean_i Σ_{j ∈ M_i \\ N_i} (r(i, j) − k), c = 2 / (k(2n − 3k − 1)): it falls
  where the map shows strangers as neighbours (Venna & Kaski 2001; scikit-learn's formula);
* continuity: the same with the roles of model and map exchanged: it falls where the map tears
  neighbours apart;
* rank correlation: Spearman's ρ of distances over sampled pairs.

Up to :data:`EXACT` points every point is a query and the figures are exact; above, a seeded sample
of queries is compared with all points and an interval is given (bootstrap over queries, 95 %). A
seeded random projection of the same points gets the same figures: what a picture shows by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.json_number import Plain
from engine.maps.arrays import Doubles, Floats, Longs
from engine.maps.clouds import Cloud, Written
from engine.maps.neighbours import distance_blocks, overlap
from engine.progress import Check, no_check

K: Final = 15
EXACT: Final = 3000
QUERIES: Final = 750
_PAIRS: Final = 20
"""Distances per query that the rank correlation takes."""
_RESAMPLES: Final = 1000
WEAK_KEPT: Final = 0.1
"""A map that keeps less than this share of neighbours is weak for reading neighbours."""
WEAK_TRUST: Final = 0.75
_EVERY_POINT: Final = 12_000
"""Up to so many points, :func:`distortion` looks at each of them."""


@dataclass(frozen=True)
class Estimate(Plain):
    """A figure, and where it is sampled its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Quality(Plain):
    """What a map may be trusted with."""

    sentence: str
    weak: bool
    n: int
    k: int
    """Neighbours looked at; less than 15 where the map has few points."""
    queries: int
    exact: bool
    """Whether every point was a query."""
    kept: Estimate
    """Mean number of true neighbours that are neighbours on the map, of k."""
    trustworthiness: Estimate
    """In [0, 1]; about 0.5 is chance."""
    continuity: Estimate
    """In [0, 1]."""
    rank_correlation: float
    """Spearman's ρ of distances over sampled pairs, in [−1, 1]."""
    random: dict[str, float]
    """The same four of a random projection: kept, trustworthiness, continuity, rank_correlation."""


@dataclass
class _Scores:
    """Per query: neighbours kept, and rank penalties of false and missing ones."""

    kept: Doubles
    false: Doubles
    missing: Doubles
    near: Doubles
    """Sampled squared distances on the map."""


def measure_quality(
    vectors: Floats | Cloud,
    coordinates: Floats,
    *,
    k: int = K,
    seed: int = 0,
    queries: int = QUERIES,
    check: Check = no_check,
) -> Quality:
    """The figures of a map.

    Args:
        vectors: the points as they were projected, after preprocessing (n × d).
        coordinates: where the map puts them, far points unclipped (n × dims).
        k: neighbours looked at.
        seed: of the sample, the pairs, the random projection and the bootstrap.
        queries: how many points are compared with all above :data:`EXACT`; n or more: every one.
    """
    cloud = Written(vectors) if isinstance(vectors, np.ndarray) else vectors
    n = len(cloud)
    k = min(k, (n - 1) // 2)
    generator = np.random.default_rng(seed)
    nan = float("nan")
    if k < 1:
        words = (
            f"A map of {n:,} {'point' if n == 1 else 'points'} has no neighbourhoods to speak of;"
            " add points to judge it."
        )
        none, names = Estimate(nan), ("kept", "trustworthiness", "continuity", "rank_correlation")
        return Quality(words, True, n, 0, 0, True, none, none, none, nan, dict.fromkeys(names, nan))
    exact = n <= max(EXACT, queries)
    chosen: Longs = (
        np.arange(n) if exact else np.sort(generator.choice(n, size=min(queries, n), replace=False))
    )
    plane = generator.standard_normal((cloud.width, coordinates.shape[1])) / np.sqrt(cloud.width)
    chance = cloud.along(plane)
    pairs = generator.integers(0, n - 1, size=(len(chosen), min(_PAIRS, n - 1)))
    pairs += pairs >= chosen[:, None]  # never the point itself
    far, (ours, random) = _compare(cloud, (coordinates, chance), chosen, k, pairs, check)
    scale = 2.0 / (k * (2.0 * n - 3.0 * k - 1.0))

    def estimate(values: Doubles) -> Estimate:
        mean = float(values.mean())
        if exact:
            return Estimate(mean)
        draws = generator.integers(0, len(values), size=(_RESAMPLES, len(values)))
        low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
        return Estimate(mean, float(low), float(high))

    kept = estimate(ours.kept)
    trust, continuity = estimate(1 - scale * ours.false), estimate(1 - scale * ours.missing)
    rho = _spearman(far, ours.near)
    by_chance = {
        "kept": float(random.kept.mean()),
        "trustworthiness": float(1 - scale * random.false.mean()),
        "continuity": float(1 - scale * random.missing.mean()),
        "rank_correlation": _spearman(far, random.near),
    }
    weak = kept.value < WEAK_KEPT * k or trust.value < WEAK_TRUST
    sentence = _kept_words(k, kept.value, by_chance["kept"])
    if weak:
        sentence += " Weak: do not read neighbours off this map; ask for a point's true ones."
    return Quality(
        sentence, weak, n, k, len(chosen), exact, kept, trust, continuity, rho, by_chance
    )


def _kept_words(k: int, kept: float, chance: float) -> str:
    if k == 1:
        return (
            f"A point's nearest neighbour in the model is also its nearest here in"
            f" {100 * kept:.0f} % of cases; in a random picture in {100 * chance:.0f} %."
        )
    verb = "is" if count_words(kept) == "1" else "are"
    return (
        f"Of a point's {k} nearest neighbours in the model, {count_words(kept)} {verb} among the"
        f" {k} nearest here; a random picture keeps {count_words(chance)}."
    )


def count_words(x: float) -> str:
    """A mean number of neighbours as people read it."""
    if x >= 10 or x == round(x):
        return f"{x:.0f}"
    return f"{x:.1f}" if x >= 0.05 else f"{x:.2f}"


def _compare(
    cloud: Cloud,
    maps: tuple[Floats, ...],
    queries: Longs,
    k: int,
    pairs: Longs,
    check: Check,
) -> tuple[Doubles, list[_Scores]]:
    """Distances in the model at the pairs, and the scores of each map; model distances once."""
    m = len(queries)
    far = np.empty(pairs.shape)
    scores = [_Scores(np.empty(m), np.empty(m), np.empty(m), np.empty(pairs.shape)) for _ in maps]
    planes = [distance_blocks(x, queries, check) for x in maps]
    # Blocks of all spaces have the same rows: their size depends on n only.
    for rows, block in cloud.blocks(queries, check):
        true = block.numpy()
        true_near = block.topk(k, dim=1, largest=False).indices.numpy()
        true_sorted = np.sort(true, axis=1)
        far[rows] = np.take_along_axis(true, pairs[rows], axis=1)
        for plane, out in zip(planes, scores, strict=True):
            _, flat = next(plane)
            seen = flat.numpy()
            seen_near = flat.topk(k, dim=1, largest=False).indices.numpy()
            out.near[rows] = np.take_along_axis(seen, pairs[rows], axis=1)
            strangers = _penalty(true, true_sorted, seen_near, k)
            lost = _penalty(seen, np.sort(seen, axis=1), true_near, k)
            out.false[rows], out.missing[rows] = strangers, lost
            out.kept[rows] = overlap(true_near, seen_near)
        check()
    return far, scores


def _penalty(distances: Floats, ordered: Floats, near: Longs, k: int) -> Doubles:
    """Σ over `near` of max(0, rank − k), rank = 1 + the number of points that are nearer."""
    wanted = np.take_along_axis(distances, near, axis=1)
    out = np.empty(len(near))
    for i, (row, values) in enumerate(zip(ordered, wanted, strict=True)):
        ranks = 1 + np.searchsorted(row, values, side="left")
        out[i] = np.maximum(ranks - k, 0).sum()
    return out


def _ranks(values: Doubles) -> Doubles:
    """1 for the smallest; equal values share the mean of their ranks.

    SciPy's is the same, but the first badge would wait a second for its package to be read.
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Doubles = np.cumsum(counts) - (counts - 1) / 2
    return ranks[place]


def _spearman(a: Doubles, b: Doubles) -> float:
    x, y = _ranks(a.ravel()), _ranks(b.ravel())
    x, y = x - x.mean(), y - y.mean()
    bottom = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / bottom if bottom > 0 else float("nan")


@dataclass(frozen=True)
class Distortion:
    """How wrong the map is about each point."""

    value: Floats
    """1 − kept / k in [0, 1]; NaN where the point was not looked at (n)."""
    k: int
    looked_at: int


def distortion(
    vectors: Floats,
    coordinates: Floats,
    *,
    k: int = K,
    seed: int = 0,
    check: Check = no_check,
) -> Distortion:
    """Share of each point's k nearest in the model that are not among its k nearest on the map.

    As many of its neighbours on the map are then false as true ones are missing. Above
    :data:`_EVERY_POINT` points a seeded sample of so many is looked at.
    """
    n = len(vectors)
    k = min(k, n - 1)
    value = np.full(n, np.nan, dtype=np.float32)
    if k < 1:
        return Distortion(value, 0, 0)
    limit = int(min(_EVERY_POINT, max(1000, _EVERY_POINT**2 // n)))
    chosen: Longs = np.arange(n)
    if n > _EVERY_POINT:
        chosen = np.sort(np.random.default_rng(seed).choice(n, size=limit, replace=False))
    plane = distance_blocks(coordinates, chosen, check)
    for rows, block in distance_blocks(vectors, chosen, check):
        _, flat = next(plane)
        true = block.topk(k, dim=1, largest=False).indices.numpy()
        seen = flat.topk(k, dim=1, largest=False).indices.numpy()
        value[chosen[rows]] = 1 - overlap(true, seen) / k
    return Distortion(value, k, len(chosen))
