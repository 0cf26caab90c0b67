"""Bootstraps of two levels: seeds, and the test rows that they share.

Seeds that draw their test rows from one file draw some of them twice, so their figures err together
and a mean over seeds is less sure than as many rows of their own would make it. What is resampled
is therefore the union of the seeds' distinct rows: a repetition gives each row a weight, how often
it is drawn with replacement, and the same weight wherever the row occurs; then seeds are drawn with
replacement. Methods are compared under the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.calibration.evidence.metrics import LEVEL, RESAMPLES, Interval
from engine.errors import OptionError

_SEED: Final = 20240116
_CELLS: Final = 2_000_000
"""Weights drawn at once."""
_Figure = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


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

    def minus(self, other: Draws) -> Draws:
        """A paired difference: both sides must come from one :class:`Bootstrap`."""
        return Draws(self.value - other.value, self.repetitions - other.repetitions)

    @staticmethod
    def mean(parts: Sequence[Draws]) -> Draws:
        """The mean of several figures that were drawn independently."""
        repeated = np.mean([p.repetitions for p in parts], axis=0)
        return Draws(float(np.mean([p.value for p in parts])), repeated)


class Bootstrap:
    """Repetitions over the distinct test rows of all seeds, and over the seeds.

    Everything that one bootstrap gives rests on the same draws, so differences are paired.

    Args:
        rows: per seed, what its test rows are; equal numbers are the same row.
        seed: of the draws.

    Raises:
        OptionError: no seed, or a seed without rows.
    """

    def __init__(self, rows: Sequence[NDArray[np.int64]], *, seed: int = 0) -> None:
        if not rows or any(len(own) == 0 for own in rows):
            raise OptionError("there is no run to take an interval of.")
        known, place = np.unique(np.concatenate(rows), return_inverse=True)
        self._distinct = len(known)
        self._places = np.split(place, np.cumsum([len(own) for own in rows])[:-1])
        self._seed = seed
        draw = np.random.default_rng([_SEED, seed])
        self._pick = draw.integers(0, len(rows), (RESAMPLES, len(rows)))

    @classmethod
    def same_rows(cls, rows: int, seeds: int = 1, *, seed: int = 0) -> Bootstrap:
        """For runs that are all tested on the same rows."""
        return cls([np.arange(rows)] * seeds, seed=seed)

    def accuracy(self, right: Sequence[NDArray[np.bool_]]) -> Draws:
        """Share of rows that are right, mean over the seeds.

        Args:
            right: per seed, which rows, in the order of its rows.
        """
        self._check(right)
        return self._draws([own.astype(float)[:, None] for own in right], _share)

    def macro_f1(
        self,
        truth: Sequence[NDArray[np.int64]],
        predicted: Sequence[NDArray[np.int64]],
        classes: int,
    ) -> Draws:
        """Macro-F1 over the classes that occur as label or answer, mean over the seeds.

        Args:
            truth: per seed, the class of each row.
            predicted: per seed, the answer to each row.
            classes: how many there are.
        """
        self._check(truth)
        self._check(predicted)
        eye = np.eye(classes)
        counted = []
        for labels, said in zip(truth, predicted, strict=True):
            hits = eye[labels] * (labels == said)[:, None]
            counted.append(np.concatenate([hits, eye[labels] + eye[said]], axis=1))
        return self._draws(counted, _macro_f1)

    def _check(self, given: Sequence[NDArray[Any]]) -> None:
        if [len(own) for own in given] != [len(own) for own in self._places]:
            raise OptionError(
                "a bootstrap over seeds needs an answer for each row of each seed; got"
                f" {[len(own) for own in given]} for rows {[len(own) for own in self._places]}."
            )

    def _draws(self, counted: Sequence[NDArray[np.float64]], figure: _Figure) -> Draws:
        """A figure of each seed's sums over rows, repeated over drawn rows and drawn seeds."""
        n, width = self._distinct, counted[0].shape[1] + 1
        whole = np.zeros((n, len(counted), width))  # last column: is the row one of the seed's
        for place, (places, own) in enumerate(zip(self._places, counted, strict=True)):
            rows = np.concatenate([own, np.ones((len(own), 1))], axis=1)
            np.add.at(whole[:, place], places, rows)
        found = _of_sums(whole.sum(axis=0), figure)
        flat = whole.reshape(n, -1)
        repeated = np.concatenate(
            [
                _of_sums((weights @ flat).reshape(len(weights), len(counted), width), figure)
                for weights in self._weights()
            ]
        )
        repeated = np.where(np.isnan(repeated), found, repeated)  # none of a seed's rows was drawn
        drawn = np.take_along_axis(repeated, self._pick, axis=1).mean(axis=1)
        return Draws(float(found.mean()), drawn)

    def _weights(self) -> Iterator[NDArray[np.float64]]:
        """How often each distinct row is drawn, repetition × row, a block at a time."""
        draw = np.random.default_rng([_SEED, self._seed, 1])
        n, done = self._distinct, 0
        while done < RESAMPLES:
            count = min(max(1, _CELLS // n), RESAMPLES - done)
            drawn = draw.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
            # Counting n draws with replacement is one multinomial draw of weights.
            counts = np.bincount(drawn.ravel(), minlength=count * n)
            yield counts.reshape(count, n).astype(float)
            done += count


def _of_sums(sums: NDArray[np.float64], figure: _Figure) -> NDArray[np.float64]:
    """Of sums and, in the last column, numbers of rows; not a number where there is no row."""
    rows = sums[..., -1]
    out: NDArray[np.float64] = np.where(
        rows > 0, figure(sums[..., :-1], np.maximum(rows, 1)), np.nan
    )
    return out


def _share(sums: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = sums[..., 0] / rows
    return out


def _macro_f1(sums: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean F1 over the classes that occur: twice the hits by labels and answers together."""
    hits, seen = np.split(sums, 2, axis=-1)
    f1 = np.where(seen > 0, 2 * hits / np.maximum(seen, 1), 0.0)
    out: NDArray[np.float64] = f1.sum(-1) / np.maximum((seen > 0).sum(-1), 1)
    return out
