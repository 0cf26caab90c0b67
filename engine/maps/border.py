"""The window of a map: far points are drawn at its border, counted and listed, never dropped.

A first token tens of radii away is normal in language models. With it in the window everything else
would be a dot, so the window is drawn around the bulk, and each point outside is moved to the place
on the border that is nearest to it. Per axis and kind of point the window reaches

* to 8 scaled median absolute deviations (1.4826·MAD) from the median on either side, and
* from 200 points on also to the 1 and 99 percent quantiles, widened by half their distance,

whichever is wider, but never past the outermost point. Kinds and layers are joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.maps.arrays import Bools, Doubles, Floats, Ints

_DEVIATIONS: Final = 8.0 * 1.4826
_QUANTILES: Final = (0.01, 0.99)
_MANY: Final = 200
_WIDEN: Final = 0.5
MARGIN: Final = 0.02
"""Of the window's width, left free at each side so that no point is cut by the edge."""


@dataclass(frozen=True)
class Border:
    """Which points are drawn at the border, and where."""

    low: Doubles
    """Least coordinate per axis that is drawn (dims)."""
    high: Doubles
    """Largest (dims)."""
    outside: Bools
    """Drawn at the border (n)."""
    clipped: Floats
    """Coordinates as drawn (n × dims)."""
    shared: bool
    """Whether the window is the same at every layer."""

    @property
    def count(self) -> int:
        """Points at the border; the others are drawn where they are."""
        return int(self.outside.sum())

    @property
    def indices(self) -> Ints:
        """Of the points at the border, in order."""
        return np.flatnonzero(self.outside).astype(np.int32)

    @property
    def range(self) -> list[list[float]]:
        """Axis ranges with a margin: ``[[x0, x1], [y0, y1]]``."""
        wide = self.high - self.low
        wide = np.where(wide > 0, wide, 1.0) * MARGIN
        return [
            [float(a - m), float(b + m)] for a, b, m in zip(self.low, self.high, wide, strict=True)
        ]


Window = tuple[Doubles, Doubles]


def window(coordinates: Floats, kind: np.ndarray) -> Window:
    """Least and largest coordinate per axis that is drawn, for these points.

    Args:
        coordinates: n × dims.
        kind: a number per point; each kind gets a window of its own and they are joined (n).
    """
    parts = [_bulk(coordinates[kind == k].astype(np.float64)) for k in np.unique(kind)]
    return join(parts)


def join(windows: Sequence[Window]) -> Window:
    """The smallest window around some windows."""
    return (
        np.min([low for low, _ in windows], axis=0),
        np.max([high for _, high in windows], axis=0),
    )


def _bulk(points: Doubles) -> Window:
    middle = np.median(points, axis=0)
    spread = _DEVIATIONS * np.median(np.abs(points - middle), axis=0)
    # More than half of the points may be equal: then the middle says nothing about the rest.
    first, last = np.quantile(points, [0.05, 0.95], axis=0)
    spread = np.where(spread > 0, spread, np.maximum(last - middle, middle - first) * 2)
    low, high = middle - spread, middle + spread
    if len(points) >= _MANY:
        first, last = np.quantile(points, _QUANTILES, axis=0)
        low = np.minimum(low, first - _WIDEN * (last - first))
        high = np.maximum(high, last + _WIDEN * (last - first))
    return np.maximum(low, points.min(axis=0)), np.minimum(high, points.max(axis=0))


def draw_border(coordinates: Floats, limits: Window, *, shared: bool) -> Border:
    """Move the points outside a window to its border."""
    low, high = limits
    # Limits as float32 too, so that a point on the limit is not outside by rounding.
    least, most = low.astype(np.float32), high.astype(np.float32)
    clipped = np.clip(coordinates, least, most)
    outside: Bools = np.any((coordinates < least) | (coordinates > most), axis=1)
    return Border(low, high, outside, clipped, shared)
