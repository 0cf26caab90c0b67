"""What is done to vectors before a map is fitted, and moments of bases without writing them out.

A basis is b_i = M·x_i with x_i a resident row, so Σ b_i b_iᵀ/‖b_i‖² = M·(Σ x_i x_iᵀ/‖b_i‖²)·M: one
weighted Gram matrix of rows, taken in chunks, gives the covariance of all v preprocessed bases
without a v × d copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch

from engine.errors import NonFiniteError, OptionError
from engine.frames.frame import Frame
from engine.maps.arrays import Doubles, Floats
from engine.progress import Check

_ROWS = 4096
_APPLIED = 512
"""Rows that are treated at once: they stay in the processor's cache."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every point of a map before anything is fitted or placed."""

    name: str
    title: str
    """On the switch of the page."""
    words: str
    """In the title of a map."""
    heading: str
    """The same, shorter."""
    centred: bool = False
    """Bases minus the mean of all bases of the frame, states minus that of the states shown."""
    scaled: bool = False
    """Then each dimension divided by its standard deviation: of the bases, of the states."""
    unit: bool = False
    """Each divided by its own length; goes with neither of the others."""


PREPROCESSINGS: Final[Mapping[str, Preprocessing]] = {
    one.name: one
    for one in (
        Preprocessing("raw", "raw", "vectors as they are", "lengths as they are"),
        Preprocessing("centred", "centred", "bases and states centred", "centred", centred=True),
        Preprocessing("unit", "unit length", "vectors of length 1", "length 1", unit=True),
        Preprocessing(
            "standardised", "standardised", "bases and states standardised", "standardised",
            centred=True, scaled=True,
        ),
    )
}  # fmt: skip
"""By name; a new one is its value here."""

if TYPE_CHECKING:
    PreprocessingName = str
else:
    PreprocessingName = Literal[tuple(PREPROCESSINGS)]
    """For models of questions: the names, and no other."""


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a set of vectors, float64."""

    n: int
    mean: Doubles
    """d."""
    covariance: Doubles
    """d × d, divided by n − 1 as scikit-learn does."""

    @property
    def scale(self) -> Doubles:
        """Standard deviation of each dimension, 1 where it does not vary (d)."""
        square = np.clip(np.diag(self.covariance), 0, None)
        # A dimension that is constant up to rounding must not be blown up to size one.
        flat = square <= 1e-20 * max(float(square.max(initial=0.0)), 1e-300)
        return np.where(flat, 1.0, np.sqrt(np.where(flat, 1.0, square)))


@dataclass(frozen=True)
class Treatment:
    """What is done to a group of vectors: (x − offset)·factor, then each to length 1 if asked."""

    offset: Doubles | None = None
    """d."""
    factor: Doubles | None = None
    """d."""
    unit: bool = False

    def apply(self, vectors: Floats, out: Floats | None = None) -> Floats:
        """n × d → n × d, float32; float64 inside. A zero vector stays zero.

        Args:
            out: where they are written; None: where nothing is done to them, they are given back.
        """
        if self.offset is None and self.factor is None and not self.unit:
            if out is None:
                return vectors
            out[:] = vectors
            return out
        if out is None:
            out = np.empty(vectors.shape, dtype=np.float32)
        for start in range(0, len(vectors), _APPLIED):
            out[start : start + _APPLIED] = self.exact(vectors[start : start + _APPLIED])
        return out

    def exact(self, vectors: Floats | Doubles) -> Doubles:
        """The same in float64."""
        x: Doubles = vectors.astype(np.float64)
        if self.offset is not None:
            x -= self.offset
        if self.factor is not None:
            x *= self.factor
        if self.unit:
            norms = np.linalg.norm(x, axis=1, keepdims=True)
            x /= np.where(norms > 0, norms, 1.0)
        return x


def moments_of(vectors: Floats | Doubles) -> Moments:
    """Of vectors at hand (n × d)."""
    n, d = vectors.shape
    mean: Doubles = vectors.mean(axis=0, dtype=np.float64)
    total = np.zeros((d, d))
    for start in range(0, n, _ROWS):
        x = vectors[start : start + _ROWS].astype(np.float64) - mean
        total += x.T @ x
    return Moments(n, mean, total / max(n - 1, 1))


def moments_of_bases(frame: Frame, *, unit: bool, check: Check) -> Moments:
    """Of all vectors of a frame, each divided by its length where `unit`.

    Raises:
        NonFiniteError: the frame holds NaN or infinity.
    """
    v, d = frame.size, frame.width
    square = torch.zeros(d, d, dtype=torch.float64)
    total = torch.zeros(d, dtype=torch.float64)
    for start in range(0, v, _ROWS):
        check()
        stop = min(start + _ROWS, v)
        rows = frame.block(start, stop).cpu().double() * frame.factor
        if unit:
            norms = frame.norms[start:stop].cpu().double().unsqueeze(1)
            rows /= torch.where(norms > 0, norms, torch.ones_like(norms))
        total += rows.sum(0)
        square += rows.T @ rows
    if frame.transform is not None:
        total = frame.transform @ total
        square = frame.transform @ square @ frame.transform
    mean = total / v
    covariance = (square - v * torch.outer(mean, mean)) / max(v - 1, 1)
    out = Moments(v, mean.numpy(), ((covariance + covariance.T) / 2).numpy())
    if not (np.isfinite(out.mean).all() and np.isfinite(out.covariance).all()):
        raise NonFiniteError(
            f"the frame {frame.name!r} holds NaN or infinity, so its bases have no map."
        )
    return out


def treat_bases(moments: Moments | None, preprocessing: str) -> Treatment:
    """The treatment of bases.

    Args:
        moments: of all raw bases of the frame; may be None where nothing is taken off them.
        preprocessing: one of :data:`PREPROCESSINGS`.
    """
    how = PREPROCESSINGS[preprocessing]
    if not how.centred:
        return Treatment(unit=how.unit)
    assert moments is not None
    return Treatment(moments.mean, 1 / moments.scale if how.scaled else None)


def treat_states(vectors: Floats, preprocessing: str) -> Treatment:
    """The treatment of the states shown (m × d).

    Raises:
        OptionError: too few states for a mean of their own.
    """
    if not PREPROCESSINGS[preprocessing].centred:
        return treat_bases(None, preprocessing)
    if len(vectors) == 1:
        raise OptionError(
            f"preprocessing {preprocessing!r} takes the mean of the states off each, so one state"
            " becomes nothing; choose unit or raw, or give more text."
        )
    return treat_bases(moments_of(vectors), preprocessing) if len(vectors) else Treatment()


def treated_moments(moments: Moments, treatment: Treatment) -> Moments:
    """Moments after an offset and a factor (not after division by length)."""
    assert not treatment.unit
    mean, covariance = moments.mean, moments.covariance
    if treatment.offset is not None:
        mean = mean - treatment.offset
    if treatment.factor is not None:
        mean = mean * treatment.factor
        covariance = covariance * np.outer(treatment.factor, treatment.factor)
    return Moments(moments.n, mean, covariance)
