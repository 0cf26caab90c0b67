"""The same calibration on several splits of the rows: how much of a result is the luck of one.

With few test texts one split says little, since a single text moves its accuracy by points. Each
repetition draws training, validation and test rows anew, trains anew and is read anew. Intervals
are bootstraps of two levels (`engine.calibration.evidence.resampling`): repetitions are drawn with
replacement, and so are the distinct rows that were tested in any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.calibration.evidence.baselines import UNTRAINED
from engine.calibration.evidence.controls import Cells
from engine.calibration.evidence.findings import counted, percent, points, side
from engine.calibration.evidence.metrics import Interval
from engine.calibration.evidence.prompting import label_logits
from engine.calibration.evidence.resampling import Bootstrap, Draws
from engine.calibration.evidence.untaught_words import TaskLabels, Words, read_by, words_for
from engine.calibration.labelled.tasks import Task
from engine.calibration.training.calibrated import untrained
from engine.calibration.training.features import TaskStates, task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.calibration.training.tuning import calibrated_states
from engine.checkpoints import NOTHING, Checkpoints, Kept
from engine.progress import Steps
from engine.space import LatentSpace

FEW: Final = 30
"""Test texts below which one split says little: one text is more than three points of accuracy."""
MOST: Final = 20
"""Repetitions at most."""

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """One calibration over several splits."""

    seeds: tuple[int, ...]
    """By which each was drawn."""
    tested: int
    """Distinct texts that were tested in any of them."""
    baseline: str
    """The reading without training that is best on the average, in words."""
    untrained: Interval
    """Its accuracy."""
    after: Interval
    """Of the calibrations."""
    difference: Interval
    """After minus it, paired."""
    per_split: tuple[tuple[float, float], ...]
    """Of each split, the accuracy of that reading and of the calibration."""
    untaught: Interval | None
    """By words that were never taught, over all sets of words; None where there are none."""
    untaught_random: Interval | None
    """The same words' random directions, after training to random bases."""
    untaught_difference: Interval | None
    """The former minus the latter, paired."""

    @property
    def sentence(self) -> str:
        """What all splits say together."""
        ending = {
            "above": "more than",
            "below": "less than",
            "around": "not told apart from",
        }[side(self.difference)]
        words = (
            f"Over {counted(len(self.seeds), 'split')} of the rows, with"
            f" {counted(self.tested, 'different test text')}, the calibration reads"
            f" {percent(self.after)} rightly, {ending} {self.baseline},"
            f" {percent(self.untrained)}: {points(self.difference)}."
        )
        if self.untaught is None or self.untaught_difference is None:
            return words
        known = {
            "above": "more than",
            "below": "less than",
            "around": "not told apart from",
        }[side(self.untaught_difference)]
        assert self.untaught_random is not None
        return (
            f"{words} By words that were never taught {percent(self.untaught)}, {known} their"
            f" random directions, {percent(self.untaught_random)}."
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return asdict(self) | {"sentence": self.sentence}


def repeat_splits(
    space: LatentSpace,
    draw: Callable[[int], Task],
    options: CalibrationOptions,
    seeds: Sequence[int],
    *,
    untaught: Words | None = None,
    cache_dir: Path | None = None,
    kept: Checkpoints = NOTHING,
) -> Steps[Splits]:
    """Calibrate on each split, beside a training to random bases.

    Args:
        space: the model; called on the thread that owns it.
        draw: makes the task whose rows a seed has split.
        options: of the calibration; each split's own seed takes the place of theirs.
        seeds: one for each split.
        untaught: label → words that were never taught; None proposes some.
        cache_dir: where states are kept: splits of one table hold the same texts.
        kept: where each training's answers are kept.

    Raises:
        OptionError: rows that cannot be split so, or words that cannot be used.
    """
    cells = Cells(kept)
    rows: list[Labels] = []
    right: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in (*UNTRAINED, "after")}
    by_words: dict[str, list[NDArray[np.bool_]]] = {"own": [], "random": []}
    by_rows: list[Labels] = []
    for seed in seeds:
        task, own = draw(seed), replace(options, seed=seed)
        states = yield from task_states(space, task, layers=(options.layer,), cache_dir=cache_dir)
        truth: Labels = task.labels["test"]
        words = words_for(space, TaskLabels.of(task), untaught)
        for name in ("own", "random"):
            frame = options.frame if name == "own" else "random"
            # A head's centroids are made of the head's rows, of which none are random.
            target = options.target if name == "own" or options.kind != "head" else "module"
            training = replace(own, frame=frame, target=target)
            found = yield from cells.training(
                f"split {seed}, bases {name}",
                states,
                task,
                training,
                partial(_train, space, task, states, training),
                f"split {seed}",
            )
            if name == "own":
                right["after"].append(found.tensors["answer"].numpy() == truth)
            if words is not None:
                said = read_by(space, training, words, found.tensors["states"])
                by_words[name] += [row == truth for row in said]
                by_rows += [task.row_keys("test")] * len(said) if name == "own" else []
        plain = untrained(space, task, options).read_calibrated(states.at(options.layer)["test"])
        logits = label_logits(space.model, states.last["test"], task.label_tokens)
        right["logits"].append(logits.argmax(1) == truth)
        right["bases"].append(plain.predicted.cpu().numpy() == truth)
        right["largest"].append(truth == np.bincount(truth).argmax())
        rows.append(task.row_keys("test"))
    drawn = Bootstrap(rows, seed=options.seed)
    best = max(UNTRAINED, key=lambda one: float(np.mean([hits.mean() for hits in right[one]])))
    after, before = drawn.accuracy(right["after"]), drawn.accuracy(right[best])
    own_words: Draws | None = None
    random: Draws | None = None
    if by_rows:
        several = Bootstrap(by_rows, seed=options.seed)
        own_words, random = (several.accuracy(by_words[name]) for name in ("own", "random"))
    return Splits(
        seeds=tuple(seeds),
        tested=len(np.unique(np.concatenate(rows))),
        baseline=UNTRAINED[best],
        untrained=before.interval,
        after=after.interval,
        difference=after.minus(before).interval,
        per_split=tuple(
            (float(a.mean()), float(b.mean()))
            for a, b in zip(right[best], right["after"], strict=True)
        ),
        untaught=None if own_words is None else own_words.interval,
        untaught_random=None if random is None else random.interval,
        untaught_difference=None
        if own_words is None or random is None
        else own_words.minus(random).interval,
    )


def _train(
    space: LatentSpace, task: Task, states: TaskStates, options: CalibrationOptions
) -> Steps[Kept]:
    trained = yield from calibrate(space, states, task, options)
    moved: Tensor = (yield from calibrated_states(trained, space, states, task)).cpu()
    answer: torch.Tensor = trained.read_calibrated(moved).predicted.cpu()
    return Kept({"answer": answer, "states": moved}, {})
