"""What is reached without moving a state: what a calibration has to beat before it is a gain.

Three readings need no label at all: the model's own answer among the label tokens, the nearest
label basis, and always guessing the largest class. A gain is measured against the best of them, for
the reading that a calibration starts from may lie far below what the model says itself.

A fourth learns one number per class from the training rows: thresholds on the untrained cosines to
the head's rows. Cosines to single rows carry a bias of their own (Zhao et al. 2021 for
probabilities), and a calibration that does no better than thresholds has removed that and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.calibration.evidence.metrics import (
    ClassificationReport,
    Interval,
    bootstrap_interval,
    classification_report,
    paired_interval,
)
from engine.calibration.evidence.prompting import label_cosines
from engine.calibration.evidence.protocol import MethodContext, Outcome, softmax
from engine.calibration.labelled.tasks import Task
from engine.calibration.training.features import TaskStates
from engine.progress import Steps
from engine.space import LatentSpace

UNTRAINED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "logits": "the model's own answer",
        "bases": "the nearest label basis",
        "largest": "always guessing the largest class",
    }
)
"""Readings that nothing is trained for, by name; of equal ones the first counts."""
FRAME: Final = "head"
"""Whose cosines the thresholds are on."""
_MOST: Final = 50.0
"""Bound of the numbers of a fit, in units of the scores' spread: separable rows have no optimum."""


@dataclass(frozen=True)
class Baseline:
    """The best reading without training, and what a calibration adds to it."""

    name: str
    """One of :data:`UNTRAINED`."""
    title: str
    accuracy: Interval
    difference: Interval
    """Calibration minus it, paired."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return asdict(self)


def best_untrained(
    right: Mapping[str, NDArray[np.float64]], after: NDArray[np.float64], *, seed: int = 0
) -> Baseline:
    """The best of the readings without training.

    Args:
        right: name → for each test row, 1.0 where that reading is right (n).
        after: the same for the calibration.
        seed: of the bootstraps.
    """
    name = max(UNTRAINED, key=lambda one: float(right[one].mean()))
    return Baseline(
        name,
        UNTRAINED[name],
        bootstrap_interval(right[name], seed=seed),
        paired_interval(after, right[name], seed=seed),
    )


@dataclass(frozen=True)
class Thresholds:
    """Scores s of C classes become a·s + b: one slope a ≥ 0 for all, one offset b_y per class."""

    slope: float
    offsets: NDArray[np.float64]

    def scores(self, given: NDArray[np.float64]) -> NDArray[np.float64]:
        """n × C → n × C; a softmax of them are probabilities."""
        out: NDArray[np.float64] = self.slope * given + self.offsets
        return out


def fit_thresholds(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> Thresholds:
    """The slope and the offsets that make the labels likeliest: min −Σ log softmax(a·s + b)_y.

    Convex; for two classes a logistic regression on s₁ − s₀ (Platt 1999), for more its kin with one
    slope ("bias-corrected temperature scaling", Alexandari et al. 2020).

    Args:
        scores: n × C, larger is likelier.
        labels: class of each row (n).
    """
    from scipy.optimize import minimize

    spread = float(scores.std()) or 1.0
    near = (scores - scores.mean()) / spread
    own = np.eye(scores.shape[1])[labels]

    def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        made = softmax(x[0] * near + x[1:])
        gap = (made - own) / len(own)
        value = -np.log(np.maximum((made * own).sum(1), 1e-300)).mean()
        return float(value), np.concatenate([[float((gap * near).sum())], gap.sum(0)])

    start = np.concatenate([[1.0], np.zeros(scores.shape[1])])
    bounds = [(0.0, _MOST)] + [(-_MOST, _MOST)] * scores.shape[1]
    x = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Thresholds(float(x[0]) / spread, x[1:] - x[0] * scores.mean() / spread)


def _threshold_scores(
    space: LatentSpace, task: Task, states: TaskStates, layer: int
) -> NDArray[np.float64]:
    """Scores of the test rows: n × C, by thresholds that the training rows gave."""
    at = states.at(layer)
    train, test = (label_cosines(space, task, at[split], FRAME) for split in ("train", "test"))
    return fit_thresholds(train, task.labels["train"]).scores(test)


def threshold_report(
    space: LatentSpace, task: Task, states: TaskStates, layer: int, *, seed: int = 0
) -> tuple[ClassificationReport, NDArray[np.float64]]:
    """How the test rows are read by thresholds, and 1.0 for each that is read rightly (n)."""
    truth = task.labels["test"]
    said = _threshold_scores(space, task, states, layer).argmax(1)
    report = classification_report(truth, said, task.classes, seed=seed)
    return report, (said == truth).astype(float)


def head_thresholds(context: MethodContext) -> Steps[Outcome]:
    """The same as a method among its competitors."""
    watch = context.stopwatch(context.train_seconds, context.test_seconds)
    with watch.training():
        scores = _threshold_scores(
            context.space, context.task, context.states, context.settings.calibration.layer
        )
    yield from ()
    return Outcome(
        "head-thresholds",
        scores,
        softmax(scores),
        watch.train,
        watch.infer,
        8 * (1 + context.task.classes),
    )
