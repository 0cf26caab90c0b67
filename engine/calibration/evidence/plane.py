"""States before and after in one picture: a plane made from the label bases alone.

The linear map that puts the C label bases on the corners of a regular polygon, neighbours being the
most similar: with the unit bases as rows of B and the corners as rows of V, W = (B − b̄)⁺ V, of
least norm, and a state stands at (r̂ − b̄)·W. No state, before or after, takes part in the choice of
the plane, so what it shows of them was not chosen for them. Two labels give one axis; the second is
then the first principal component of the states *before*, orthogonal to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """Positions in one frame; rows in the order of the test rows and of the labels."""

    before: Numbers
    """n × 2."""
    after: Numbers
    """n × 2."""
    bases: Numbers
    """C × 2."""
    variance_before: float
    """Share of the variance of the states before that the plane shows, in [0, 1]."""
    variance_after: float
    """The same of the states after."""
    fitted_on: str
    axes: Numbers = field(repr=False)
    """W, d × 2."""
    centre: Numbers = field(repr=False)
    """The mean of the unit bases (d)."""

    def place(self, states: Tensor) -> Numbers:
        """Where other states stand in the same plane: n × d to n × 2."""
        where: Numbers = (_unit(states) - self.centre) @ self.axes
        return where

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "before": np.round(self.before, 6).tolist(),
            "after": np.round(self.after, 6).tolist(),
            "bases": np.round(self.bases, 6).tolist(),
            "variance_shown_before": self.variance_before,
            "variance_shown_after": self.variance_after,
            "fitted_on": self.fitted_on,
        }


def fit_plane(before: Tensor, after: Tensor, bases: Tensor) -> Plane:
    """Make the plane from the bases, place everything in it.

    Args:
        before: n × d.
        after: n × d, the same rows.
        bases: C × d, at least two.
    """
    a, b, c = (_unit(x) for x in (before, after, bases))
    centre = c.mean(0)
    if len(c) == 2:
        first = np.linalg.pinv(c - centre) @ np.array([[-1.0], [1.0]])
        axes = np.concatenate([first, _across(a, first)], axis=1)
        words = (
            "across: the two label bases alone; up: the first principal component of the states"
            " before, orthogonal to it; not on the states after"
        )
    else:
        axes = np.linalg.pinv(c - centre) @ _corners(c)
        words = (
            "the label bases alone, placed on the corners of a regular polygon; no state took part"
        )
    return Plane(
        before=(a - centre) @ axes,
        after=(b - centre) @ axes,
        bases=(c - centre) @ axes,
        variance_before=_shown(a, axes),
        variance_after=_shown(b, axes),
        fitted_on=words,
        axes=axes,
        centre=centre,
    )


def _corners(bases: Numbers) -> Numbers:
    """A corner of the unit circle for each base, going from each to the most similar one left."""
    cosines = bases @ bases.T
    order = [0]
    while len(order) < len(bases):
        left = [i for i in range(len(bases)) if i not in order]
        order.append(max(left, key=lambda i: cosines[order[-1], i]))
    angles = np.empty(len(bases))
    angles[order] = np.pi / 2 - 2 * np.pi * np.arange(len(bases)) / len(bases)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _across(states: Numbers, first: Numbers) -> Numbers:
    """The direction of most variance orthogonal to another: d × 1, its largest entry positive."""
    spread = states - states.mean(0)
    along = first / np.linalg.norm(first)
    spread = spread - (spread @ along) @ along.T
    axis = np.linalg.eigh(spread.T @ spread)[1][:, -1:]
    axis = axis - along * (along.T @ axis)  # where no variance is left, any direction came out
    out: Numbers = axis * np.sign(axis[np.abs(axis).argmax()])
    return out


def _unit(rows: Tensor) -> Numbers:
    wide: Numbers = rows.detach().cpu().double().numpy()
    unit: Numbers = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
    return unit


def _shown(rows: Numbers, axes: Numbers) -> float:
    spread = rows - rows.mean(0)
    total = float((spread**2).sum())
    inside = spread @ np.linalg.qr(axes)[0]
    return float((inside**2).sum()) / total if total > 0 else 1.0
