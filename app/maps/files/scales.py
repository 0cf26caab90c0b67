"""The colours of numbers in a saved picture: those of the page's own picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.figures.theme import Theme
from engine.maps import KINDS

STEPS = 48
"""Colours of a scale of numbers."""
UNKNOWN = 255
"""The step of what has no value."""
_SKEWED = 0.15
"""A scale goes by rank where the middle value lies within this share of an end."""


@dataclass(frozen=True)
class Scale:
    """Which number has which colour, among the bases or among the states."""

    name: str
    low: float
    high: float
    middle: float
    """Half of the values lie below it."""
    ranked: bool
    """Whether the steps go by the value's rank, and not by the value."""


def stepped(
    values: npt.NDArray[Any], kind: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.uint8], tuple[Scale, ...]]:
    """The step of each number on its scale, as ``scale`` of ``static/js/map-points.js`` has it.

    Bases and states have a scale each: a state may be a thousand times as long. Steps are even
    from the lowest value to the highest; where half of the values would share a few, they are
    even in rank.

    Args:
        values: per point (n); not finite where unknown.
        kind: per point its place in `KINDS` (n).

    Returns:
        Steps from 0 to `STEPS` − 1, `UNKNOWN` where there is no value; and the scales in use.
    """
    given = values.astype(np.float64)
    codes = np.full(len(given), UNKNOWN, dtype=np.uint8)
    scales = []
    basis = kind == KINDS.index("basis")
    for name, group in (("bases", basis), ("states", ~basis)):
        own = np.flatnonzero(group & np.isfinite(given))
        if len(own) == 0:
            continue
        ordered = np.sort(given[own])
        low, high, last = float(ordered[0]), float(ordered[-1]), len(ordered) - 1
        wide = high - low or 1.0
        middle = float(ordered[(last + 1) // 2])
        ranked = high > low and not _SKEWED <= (middle - low) / wide <= 1 - _SKEWED
        share = np.searchsorted(ordered, given[own]) / last if ranked else (given[own] - low) / wide
        codes[own] = np.floor(share * (STEPS - 1) + 0.5)
        scales.append(Scale(name, low, high, middle, ranked))
    return codes, tuple(scales)


def ramp(colours: Theme) -> Any:
    """A colour for each step, for matplotlib."""
    from matplotlib.colors import LinearSegmentedColormap

    # The palest step would be lost on the page's own colour.
    return LinearSegmentedColormap.from_list("lexiscope", colours.sequential[1:], STEPS)
