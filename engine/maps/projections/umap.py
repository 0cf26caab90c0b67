"""UMAP: a layout of neighbourhoods, found step by step in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from engine.errors import OptionError
from engine.maps.arrays import Floats
from engine.maps.axes import Axes, principal_axes
from engine.maps.preprocessing import moments_of
from engine.maps.projections.projection import Layout, Projection, Ratio, Settings
from engine.maps.reduction import UmapResult
from engine.maps.umap_process import UmapProblem

CAUTION: Final = (
    "Gaps, sizes and distances between groups are not meaningful here; neighbours may be."
)
_NOISE: Final = 2.0
"""Motion of so many noise floors is not told from noise."""
LEAST: Final = 10
"""Points that UMAP needs to say anything."""


def make_problem(vectors: Floats, options: Settings, fingerprint: str) -> UmapProblem:
    """What UMAP is to lay out: principal axes of unit rows.

    Args:
        vectors: the points after preprocessing (n × d).
        options: UMAP's settings.
        fingerprint: of the map.

    Raises:
        OptionError: too few points, or all of them equal.
    """
    n, d = vectors.shape
    if n < LEAST:
        raise OptionError(
            f"UMAP needs at least {LEAST} points and this map has {n}; add points or choose the"
            " shared projection."
        )
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit = (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    axes = principal_axes(moments_of(unit), min(options.principal, d))
    return UmapProblem(
        fingerprint=fingerprint,
        points=axes.place(unit).astype(np.float32),
        variance=min(1.0, sum(axes.shares)),
        dims=options.dims,
        neighbours=options.neighbours,
        min_dist=float(options.min_dist),
        seed=options.seed,
    )


def _notes(options: Settings, result: UmapResult, width: int) -> list[str]:
    notes, n = [], len(result.coordinates)
    if result.variance < 0.9:
        notes.append(
            f"The {min(options.principal, width)} principal axes that UMAP starts from hold"
            f" {100 * result.variance:.0f} % of the points' variance; more of them keep more of"
            " the neighbourhoods."
        )
    if n <= options.neighbours:
        notes.append(
            f"UMAP was asked for {options.neighbours} neighbours and took {n - 1},"
            " all that there are."
        )
    return notes


def _motion(floors: Sequence[float], ratio: Ratio | None) -> str:
    if ratio is None:
        return (
            " How far points move between two seeds is not known yet, so the motion cannot be"
            " judged."
        )
    pairs, spread = len(floors), ""
    if pairs > 1:
        spread = f", the median of {pairs} pairs of seeds; from {ratio.low:.2f} to {ratio.high:.2f}"
    noise = (
        "this motion is not above the noise of UMAP."
        if ratio.value <= _NOISE
        else "only a part of the motion can be real."
    )
    return (
        f" Two seeds on the same data already differ by {np.median(floors):.2f}; the motion is"
        f" {ratio.value:.2f} times that{spread}: {noise}"
    )


def _blind_to(options: Settings, axes: Axes | None) -> str:
    return (
        f"{CAUTION} Blind to distances; where a point lies differs from seed to seed, so it"
        " shows no movement between layers."
    )


UMAP = Projection(
    name="umap",
    title="UMAP",
    help="For finding groups; a job of about half a minute.",
    brief="UMAP",
    formula="y minimises the cross entropy of the neighbourhoods' fuzzy sets",
    layout=Layout(
        problem=make_problem,
        title=lambda options, layer: (
            f"UMAP of {layer}, {options.neighbours} neighbours, seed {options.seed}"
        ),
        notes=_notes,
        caution=CAUTION,
    ),
    words=lambda options: (
        f"UMAP of {options.principal} principal axes, cosine, seed {options.seed}"
    ),
    heading=lambda options: f"UMAP, seed {options.seed}",
    provenance=lambda options: (
        f"UMAP ({options.neighbours} neighbours, minimum distance {options.min_dist:g})"
    ),
    axis_names=lambda options, axes: tuple(f"UMAP {i + 1}" for i in range(options.dims)),
    blind_to=_blind_to,
    motion=_motion,
    packages=("umap-learn",),
)
