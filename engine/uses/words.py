"""Whether calibrated states still speak the vocabulary: a small run on a set that ships.

The module is trained towards the two label words' vectors in a frame; then the test states are read
by words that no training saw (`engine.calibration.evidence.untaught`). The same is done with head
rows and with random vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from engine.calibration.evidence.evaluation import evaluate
from engine.calibration.evidence.evaluation_result import Run
from engine.calibration.evidence.resampling import Bootstrap, Draws
from engine.calibration.evidence.untaught_words import TaskLabels, propose_words
from engine.calibration.labelled.known import example_sets
from engine.calibration.labelled.tasks import make_task
from engine.errors import OptionError
from engine.interventions.doses import Interval
from engine.json_number import Plain
from engine.progress import Steps
from engine.space import LatentSpace

METHODS: Final[Mapping[str, str]] = {
    "output": "calibration-sm",
    "head": "head-rows",
    "random": "random-bases",
}
"""Frame → the method that trains towards it."""
SET: Final = "sentiment"
TRAIN, TEST = 200, 150


@dataclass(frozen=True)
class FrameWords(Plain):
    """States calibrated to one frame."""

    frame: str
    taught: Interval
    """Accuracy by the words that were trained on."""
    untaught: Interval
    """Accuracy by words that no training saw, over sets of words and texts."""
    less: Interval | None
    """Untaught accuracy of the semantic bases less this, paired; None for the bases."""


@dataclass(frozen=True)
class Words(Plain):
    """Calibrated states read by words that were never taught."""

    name: str
    """Of the labelled set."""
    train: int
    test: int
    chance: float
    words: tuple[tuple[str, ...], ...]
    """Sets of one word for each label."""
    frames: tuple[FrameWords, ...]

    def at(self, frame: str) -> FrameWords:
        """The row of a frame."""
        return next(one for one in self.frames if one.frame == frame)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Words:
        """From :meth:`to_dict`; raises KeyError and TypeError on anything else."""
        names = ("taught", "untaught", "less")
        rows = tuple(
            FrameWords(**row | {n: None if row[n] is None else Interval(**row[n]) for n in names})
            for row in plain["frames"]
        )
        return cls(**{**plain, "frames": rows, "words": tuple(map(tuple, plain["words"]))})


def measure_words(space: LatentSpace) -> Steps[Words]:
    """Calibrate to three frames, and read the test texts by words that were not taught.

    Args:
        space: called on its thread.

    Raises:
        OptionError: no words can be proposed, or a training cannot be run.
    """
    given = example_sets()[SET]
    spec = replace(given.spec, train=TRAIN, test=TEST)
    task = make_task(spec, given.table, space.model)
    proposed = propose_words(space, TaskLabels.of(task))
    if proposed is None:
        raise OptionError(
            "this model has no words near those of the labels by which its states could be read."
        )
    found = yield from evaluate(space, [task], tuple(METHODS.values()), seeds=(0,))
    if found.left_out:
        raise OptionError(next(iter(found.left_out.values())))
    runs = {f: found.cells[method, task.name].per_seed[0] for f, method in METHODS.items()}
    drawn = {frame: _untaught(run) for frame, run in runs.items()}
    rows = []
    for frame, run in runs.items():
        own = drawn[frame]
        less = None if frame == "output" else drawn["output"].minus(own)
        taught = Bootstrap([run.rows]).accuracy([run.predicted == run.truth])
        rows.append(FrameWords(frame, _of(taught), _of(own), None if less is None else _of(less)))
    return Words(
        name=given.title,
        train=task.size("train"),
        test=task.size("test"),
        chance=found.tasks[0].chance,
        words=tuple(tuple(token.word for token in one) for one in proposed.sets),
        frames=tuple(rows),
    )


def _untaught(run: Run) -> Draws:
    """Accuracy by untaught words: each set of them is drawn as a run of its own."""
    assert run.untaught is not None
    right = [said == run.truth for said in run.untaught]
    return Bootstrap([run.rows] * len(right)).accuracy(right)


def _of(draws: Draws) -> Interval:
    found = draws.interval
    return Interval(found.value, found.low, found.high)
