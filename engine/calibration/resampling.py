"""Bootstraps of two levels: seeds, and test rows within a seed.

What is resampled is counted, not listed: drawing n rows with replacement and counting how many are
right is one multinomial draw, so a thousand repetitions are one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.calibration.metrics import LEVEL, RESAMPLES, Interval
from engine.errors import OptionError

_SEED: Final = 20240116


@dataclass(frozen=True)
class Draws:
    """A figure, and what it was in each repetition."""

    value: float
    repetitions: NDArray[np.float64]

    @property
    def interval(self) -> Interval:
        """Percentiles of the repetitions around the figure."""
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(self.repetitions, [tail, 1 - tail])
        return Interval(self.value, float(low), float(high))

    @staticmethod
    def mean(parts: Sequence[Draws]) -> Draws:
        """The mean of several figures whose repetitions come from different seeds."""
        repeated = np.mean([p.repetitions for p in parts], axis=0)
        return Draws(float(np.mean([p.value for p in parts])), repeated)


def _over_seeds(
    values: Sequence[float], repeated: Sequence[NDArray[np.float64]], seed: int
) -> Draws:
    """Of figures per seed: their mean, and repetitions that draw the seeds too."""
    if not values:
        raise OptionError("there is no run to take an interval of.")
    pick = np.random.default_rng([_SEED, seed]).integers(0, len(values), (RESAMPLES, len(values)))
    table = np.stack(repeated, axis=1)  # (repetition, seed)
    return Draws(float(np.mean(values)), np.take_along_axis(table, pick, 1).mean(axis=1))


def accuracy_draws(right: Sequence[NDArray[np.bool_]], *, seed: int = 0) -> Draws:
    """Share of rows that are right, over seeds.

    Args:
        right: per seed, which rows.
        seed: of the draws.
    """
    draws = np.random.default_rng([_SEED, seed, 1])
    repeated = [draws.binomial(len(r), r.mean(), RESAMPLES) / len(r) for r in right]
    return _over_seeds([float(r.mean()) for r in right], repeated, seed)


def difference_draws(
    first: Sequence[NDArray[np.bool_]], second: Sequence[NDArray[np.bool_]], *, seed: int = 0
) -> Draws:
    """Accuracy of one method minus that of another on the same rows, over seeds.

    Rows are drawn for both at once: what counts is how often only one of them is right.
    """
    draws = np.random.default_rng([_SEED, seed, 2])
    values, repeated = [], []
    for a, b in zip(first, second, strict=True):
        if len(a) != len(b):
            raise OptionError(f"a paired difference needs the same rows; got {len(a)}, {len(b)}.")
        n = len(a)
        shares = np.array([np.mean(a & ~b), np.mean(~a & b), 0.0])
        shares[2] = max(0.0, 1 - shares[0] - shares[1])
        counts = draws.multinomial(n, shares / shares.sum(), RESAMPLES)
        values.append(float(a.mean() - b.mean()))
        repeated.append((counts[:, 0] - counts[:, 1]) / n)
    return _over_seeds(values, repeated, seed)


def f1_draws(tables: Sequence[NDArray[np.int64]], *, seed: int = 0) -> Draws:
    """Macro-F1 over seeds, from confusion tables (C × C each)."""
    draws = np.random.default_rng([_SEED, seed, 3])
    values, repeated = [], []
    for table in tables:
        n, classes = int(table.sum()), len(table)
        drawn = draws.multinomial(n, table.ravel() / n, RESAMPLES)
        repeated.append(_macro_f1(drawn.reshape(RESAMPLES, classes, classes)))
        values.append(float(_macro_f1(table[None])[0]))
    return _over_seeds(values, repeated, seed)


def _macro_f1(tables: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean F1 over the classes that occur as label or prediction, of each table."""
    hit = np.diagonal(tables, axis1=1, axis2=2).astype(float)
    seen = (tables.sum(1) + tables.sum(2)).astype(float)
    f1 = np.where(seen > 0, 2 * hit / np.maximum(seen, 1), 0.0)
    out: NDArray[np.float64] = f1.sum(1) / np.maximum((seen > 0).sum(1), 1)
    return out


def f1_difference(
    labels: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    classes: int,
    *,
    seed: int = 0,
) -> Interval:
    """Macro-F1 of one set of predictions minus another's on the same rows, paired.

    A row is one of C³ cases (label, first's answer, second's answer); drawing rows is drawing how
    often each case that occurs comes.
    """
    codes = (labels * classes + first) * classes + second
    cases, counts = np.unique(codes, return_counts=True)
    drawn = np.random.default_rng([_SEED, seed, 4]).multinomial(
        len(labels), counts / len(labels), RESAMPLES
    )
    truth, one, other = cases // classes**2, cases // classes % classes, cases % classes

    def f1(table_counts: NDArray[np.int64]) -> NDArray[np.float64]:
        out = []
        for said in (one, other):
            tables = np.zeros((len(table_counts), classes * classes), dtype=np.int64)
            for case, place in enumerate(truth * classes + said):
                tables[:, place] += table_counts[:, case]
            out.append(_macro_f1(tables.reshape(-1, classes, classes)))
        difference: NDArray[np.float64] = out[0] - out[1]
        return difference

    return Draws(float(f1(counts[None])[0]), f1(drawn)).interval
