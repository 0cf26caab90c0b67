"""A class that was never taught: is it still found by its own basis?

Each class is left out in turn: the module is trained on the others alone, and then the left-out
class's own basis, which took no part, ranks all test texts, taught classes included. The figure is
the area under the ROC curve (AUROC) with which it finds its own: 1 where all of them come first,
0.5 by chance. Beside it stand the same ranking before, and the same with random bases. The question
and the measure are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.calibration.evidence.controls import Cells
from engine.calibration.evidence.findings import side
from engine.calibration.evidence.metrics import RESAMPLES, Interval
from engine.calibration.evidence.resampling import Draws
from engine.calibration.labelled.tasks import SPLITS, Task
from engine.calibration.training.calibrated import centroids_for
from engine.calibration.training.features import TaskStates
from engine.calibration.training.losses import Centroids
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.checkpoints import Kept
from engine.progress import Steps
from engine.space import LatentSpace

FEWEST: Final = 3
"""Classes: of two, one alone is left to be taught."""
MOST: Final = 8
"""Classes beyond which it would take longer than everything else together."""
_AT_ONCE: Final = 1_000_000
"""Weights of a bootstrap at once."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class LeftOutClass:
    """One class, left out."""

    label: str
    before: float
    """AUROC of its own basis before any training."""
    after: float
    """After training to the other classes."""
    random: float
    """After training the others to random bases, by its own random direction."""


@dataclass(frozen=True)
class LeftOut:
    """Every class left out in turn; means over the classes."""

    classes: tuple[LeftOutClass, ...]
    before: Interval
    after: Interval
    random: Interval
    random_difference: Interval
    """After minus random, paired."""
    change: Interval
    """After minus before, paired."""

    @property
    def sentence(self) -> str:
        """Where it works and where it fails."""
        words = (
            f"Left out of the training, a class is found by its own basis with an AUROC of"
            f" {_span(self.after)} on the average"
        )
        if self.after.low <= 0.5:
            return f"{words}: no better than chance (0.50). Here it fails."
        change = {
            "above": "more than before the training",
            "below": "less than before the training",
            "around": "about as before the training",
        }[side(self.change)]
        random = {
            "above": "more than",
            "below": "less than",
            "around": "not told apart from",
        }[side(self.random_difference)]
        weak = [one.label for one in self.classes if one.after <= 0.5]
        failed = f" It fails for {', '.join(weak)}." if weak else ""
        return (
            f"{words}, {change}, {_span(self.before)}, and {random} random bases,"
            f" {_span(self.random)}.{failed}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return asdict(self) | {"sentence": self.sentence}


def _span(part: Interval) -> str:
    return f"{part.value:.2f} ({part.low:.2f} to {part.high:.2f})"


def taken_out(task: Task, options: CalibrationOptions) -> list[int]:
    """The classes that can be left out: those with test texts, where a module is trained."""
    if options.kind != "module" or not FEWEST <= task.classes <= MOST:
        return []
    truth: NDArray[np.int64] = task.labels["test"]
    return [c for c in range(task.classes) if 0 < (truth == c).sum() < len(truth)]


def leave_one_out(
    space: LatentSpace,
    task: Task,
    states: TaskStates,
    options: CalibrationOptions,
    cells: Cells,
    *,
    seed: int = 0,
) -> Steps[LeftOut | None]:
    """Train without each class in turn, to the options' bases and to random ones.

    None where there are too few classes or too many, or no module is trained.

    Args:
        space: the model.
        task: with its test rows.
        states: of the task, with the layer that the options name.
        options: of the calibration.
        cells: where rankings are kept.
        seed: of the bootstrap over the test rows.
    """
    present = taken_out(task, options)
    rows = states.at(options.layer)["test"]
    truth: NDArray[np.int64] = task.labels["test"]
    found: dict[str, list[Numbers]] = {"before": [], "after": [], "random": []}
    for left in present:
        for name, frame in (("after", options.frame), ("random", "random")):
            own = replace(options, frame=frame)
            basis = centroids_for(space, task.label_tokens, replace(own, inference_over="labels"))
            if name == "after":
                start = basis.scores(rows.to(basis.labels.device), "sm")
                found["before"].append(_ranking(start, left))
            held = yield from cells.training(
                f"class {left} left out, bases {frame}",
                states,
                task,
                own,
                partial(_rank_left_out, space, task, states, own, basis, left),
                f"class {left + 1} left out",
            )
            found[name].append(held.tensors["ranking"].numpy())
    if not present:
        return None
    drawn = {name: _mean_auroc(own, truth, present, seed) for name, own in found.items()}
    each = {
        name: [float(auroc(s, truth == c)) for s, c in zip(own, present, strict=True)]
        for name, own in found.items()
    }
    return LeftOut(
        classes=tuple(
            LeftOutClass(task.label_names[c], *(each[name][i] for name in each))
            for i, c in enumerate(present)
        ),
        before=drawn["before"].interval,
        after=drawn["after"].interval,
        random=drawn["random"].interval,
        random_difference=drawn["after"].minus(drawn["random"]).interval,
        change=drawn["after"].minus(drawn["before"]).interval,
    )


def _rank_left_out(
    space: LatentSpace,
    task: Task,
    states: TaskStates,
    options: CalibrationOptions,
    basis: Centroids,
    left: int,
) -> Steps[Kept]:
    """How the basis of a class ranks the test rows after a training without it."""
    some, theirs = without(task, states, left)
    trained = yield from calibrate(space, theirs, some, options)
    moved = trained.apply(states.at(options.layer)["test"])
    return Kept({"ranking": torch.from_numpy(_ranking(basis.scores(moved, "sm"), left))}, {})


def _ranking(cosines: Tensor, left: int) -> Numbers:
    out: Numbers = cosines[:, left].detach().cpu().double().numpy()
    return out


def without(task: Task, states: TaskStates, left: int) -> tuple[Task, TaskStates]:
    """A task without the rows and the label of one class, and its states."""
    keep = {s: np.flatnonzero(task.labels[s] != left) for s in SPLITS}

    def rows(parts: Any) -> dict[str, tuple[Any, ...]]:
        return {s: tuple(parts[s][i] for i in keep[s]) for s in SPLITS}

    def others(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*parts[:left], *parts[left + 1 :])

    labels = {s: task.labels[s][keep[s]] for s in SPLITS}
    some = replace(
        task,
        label_names=others(task.label_names),
        label_tokens=others(task.label_tokens),
        texts=rows(task.texts),
        prompts=rows(task.prompts),
        ids=rows(task.ids),
        lines=rows(task.lines),
        labels={s: own - (own > left) for s, own in labels.items()},
        note=f"without {task.label_names[left]}",
    )
    return some, states.of_rows(keep, task=some.fingerprint)


def auroc(scores: Numbers, positive: NDArray[np.bool_], weights: Numbers | None = None) -> Numbers:
    """P(a positive's score > a negative's) + ½ P(equal), for each row of weights.

    Args:
        scores: n.
        positive: n.
        weights: repetitions × n, how often each row counts; None is once.

    Returns:
        One per repetition, or a single number; not a number where a side has no weight.
    """
    every = np.ones((1, len(scores))) if weights is None else weights
    _, places = np.unique(scores, return_inverse=True)
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=-1))
    own, others = (  # weight of each score, the smallest first
        np.add.reduceat((every * kind)[:, order], starts, axis=1) for kind in (positive, ~positive)
    )
    below = np.cumsum(others, axis=1) - others
    with np.errstate(invalid="ignore"):
        out: Numbers = (own * (below + others / 2)).sum(1) / (own.sum(1) * others.sum(1))
    return out[0] if weights is None else out


def _mean_auroc(
    rankings: list[Numbers], truth: NDArray[np.int64], classes: list[int], seed: int
) -> Draws:
    """Mean over the classes, repeated over drawn test rows; the same draws for every ranking."""
    values = [float(auroc(own, truth == c)) for own, c in zip(rankings, classes, strict=True)]
    parts = [
        np.stack([auroc(own, truth == c, w) for own, c in zip(rankings, classes, strict=True)])
        for w in _weights(len(truth), seed)
    ]
    whole = np.concatenate(parts, axis=1)
    return Draws(float(np.mean(values)), np.nanmean(whole, axis=0))


def _weights(n: int, seed: int) -> Iterator[Numbers]:
    draw, done = np.random.default_rng(seed), 0
    while done < RESAMPLES:
        count = min(max(1, _AT_ONCE // n), RESAMPLES - done)
        yield draw.multinomial(n, np.full(n, 1 / n), size=count).astype(float)
        done += count
