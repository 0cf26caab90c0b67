"""Words that no training saw: does a calibrated space still speak the vocabulary?

A module can learn any few directions, so on the words that it was taught random bases do as well as
semantic ones. What only the vocabulary's own frame can give is that *other* words read the moved
states as well: after training towards ``positive`` and ``negative``, what do ``good`` and ``bad``
say? (The question and the measure are ours; the paper reads by the taught words alone.)

Words come in sets of one for each label (`engine.calibration.evidence.untaught_words`); each set is
a reading of its own, as the label words are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.calibration.evidence.findings import counted, percent, points, side
from engine.calibration.evidence.metrics import Interval
from engine.calibration.evidence.resampling import Bootstrap, Draws
from engine.calibration.evidence.untaught_words import TaskLabels, UntaughtWords, read_by
from engine.calibration.training.options import CalibrationOptions
from engine.errors import OptionError
from engine.space import LatentSpace

ASKED: Final = 20
"""Words that can be asked for at once."""


@dataclass(frozen=True)
class SetLine:
    """One set of words."""

    words: tuple[str, ...]
    """One for each label."""
    cosine: float
    """Mean cosine of their bases to the label words'."""
    before: float
    """Accuracy by them of the states as the model leaves them."""
    after: float
    """And of the calibrated states."""


@dataclass(frozen=True)
class Untaught:
    """Calibrated states read by words that were never taught; accuracies over sets and rows."""

    sets: tuple[SetLine, ...]
    before: Interval
    after: Interval
    taught: float
    """Accuracy by the taught words."""
    random: Interval | None
    """The same words' random directions, read after training to random bases."""
    random_difference: Interval | None
    """Semantic minus random, paired."""
    shuffled: Interval | None
    """The same words after training on shuffled labels, over all such trainings."""
    chance: float
    note: str

    @property
    def lowest(self) -> float:
        """Of the sets, after."""
        return min(one.after for one in self.sets)

    @property
    def sentence(self) -> str:
        """What it says about the bases, whichever way it came out."""
        words = (
            f"Read by {counted(len(self.sets), 'set')} of words that were never taught, the"
            f" calibrated states give {percent(self.after)}, by the taught words"
            f" {100 * self.taught:.1f} %"
        )
        if self.after.low <= self.chance:
            return (
                f"{words}. That is not above chance ({100 * self.chance:.1f} %): the calibrated"
                " space reads no other words."
            )
        if self.random is None or self.random_difference is None:
            return f"{words}."
        ending = {
            "above": "so the bases matter: the space still speaks the vocabulary",
            "below": "so random directions carry over better, and the bases do not matter",
            "around": "so it is not told apart from them, and the bases are not seen to matter",
        }[side(self.random_difference)]
        return (
            f"{words}. The words' random directions give {percent(self.random)}, a difference of"
            f" {points(self.random_difference)}; {ending}."
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return asdict(self) | {"lowest": self.lowest, "sentence": self.sentence}


@dataclass(frozen=True)
class Moved:
    """Test states (n × d each) after the trainings that are compared; empty where none was run."""

    before: Tensor
    after: Tensor
    random: tuple[Tensor, ...] = ()
    """After training to random bases."""
    shuffled: tuple[Tensor, ...] = ()
    """After training on shuffled labels."""


def measure_untaught(
    space: LatentSpace,
    options: CalibrationOptions,
    words: UntaughtWords,
    moved: Moved,
    truth: NDArray[np.int64],
    *,
    taught: float,
    seed: int = 0,
) -> Untaught:
    """Every set of words on the states of every training.

    Args:
        space: the model.
        options: of the calibration; the control to random bases is read in the frame ``random``.
        words: k sets.
        moved: states of the test rows.
        truth: their classes (n).
        taught: accuracy by the taught words, to stand beside.
        seed: of the bootstrap over sets and rows.
    """

    def right(states: Sequence[Tensor], frame: str) -> list[NDArray[np.bool_]]:
        own = replace(options, frame=frame)
        return [row == truth for one in states for row in read_by(space, own, words, one)]

    def drawn(rows: Sequence[NDArray[np.bool_]]) -> Draws | None:
        if not rows:
            return None
        return Bootstrap.same_rows(len(truth), len(rows), seed=seed).accuracy(rows)

    before, after = right([moved.before], options.frame), right([moved.after], options.frame)
    whole, random = drawn(after), drawn(right(moved.random, "random"))
    shuffled, start = drawn(right(moved.shuffled, options.frame)), drawn(before)
    assert whole is not None
    assert start is not None
    return Untaught(
        sets=tuple(
            SetLine(
                tuple(token.word for token in tokens),
                float(np.mean(cosines)),
                float(b.mean()),
                float(a.mean()),
            )
            for tokens, cosines, b, a in zip(words.sets, words.cosines, before, after, strict=True)
        ),
        before=start.interval,
        after=whole.interval,
        taught=taught,
        random=None if random is None else random.interval,
        random_difference=None if random is None else whole.minus(random).interval,
        shuffled=None if shuffled is None else shuffled.interval,
        chance=float(np.bincount(truth).max() / len(truth)),
        note=words.note,
    )


@dataclass(frozen=True)
class Asked:
    """Test states read by any words at all: which of them is nearest."""

    words: tuple[str, ...]
    labels: tuple[str, ...]
    before: tuple[tuple[float, ...], ...]
    """Share of each label's texts that each word is nearest to (C × m; rows sum to 1)."""
    after: tuple[tuple[float, ...], ...]
    rows: int
    """Test texts."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return asdict(self)


def ask_by_words(
    space: LatentSpace,
    options: CalibrationOptions,
    labels: TaskLabels,
    words: Sequence[str],
    moved: Moved,
    truth: NDArray[np.int64],
) -> Asked:
    """Which of some words is nearest to the texts of each label, before and after.

    Args:
        space: whose words.
        options: of the calibration.
        labels: its labels.
        words: from 2 to :data:`ASKED`, taught or not.
        moved: states of the test rows.
        truth: their classes (n).

    Raises:
        OptionError: too few or too many words, or two with the same token.
    """
    if not 2 <= len(words) <= ASKED:
        raise OptionError(f"give from 2 to {ASKED} words with commas; got {len(words)}.")
    tokens = labels.tokens_of(space, words)
    one = UntaughtWords((tokens,), (), len(words), 0)

    def shares(states: Tensor) -> tuple[tuple[float, ...], ...]:
        [said] = read_by(space, options, one, states)
        chosen = np.eye(len(words))[said]
        return tuple(
            tuple(chosen[truth == place].mean(0).tolist() if (truth == place).any() else ())
            for place in range(len(labels.names))
        )

    return Asked(tuple(words), labels.names, shares(moved.before), shares(moved.after), len(truth))
