"""What a comparison gives: both sides, controls, layers, rows, the sentence on top, JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.calibration.evidence.baselines import Baseline
from engine.calibration.evidence.controls import ControlLine
from engine.calibration.evidence.findings import side
from engine.calibration.evidence.left_out import LeftOut
from engine.calibration.evidence.metrics import ClassificationReport, Interval
from engine.calibration.evidence.plane import Plane
from engine.calibration.evidence.untaught import Moved, Untaught
from engine.calibration.labelled.tasks import Task


@dataclass(frozen=True)
class Side:
    """One side of the comparison."""

    report: ClassificationReport
    own_similarity: Interval
    """Mean cosine to the own label's basis, in [−1, 1]."""
    margin: Interval
    """Mean cosine to the own label's basis minus that to the nearest other, in [−2, 2]."""
    knn: Mapping[int, Interval]
    """k → accuracy of the majority of the k nearest training states by cosine, treated alike."""

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """The JSON contract."""
        plain = self.report.to_dict()
        for one in plain["per_class"]:
            one["label"] = names[one["label"]]
        return plain | {
            "own_similarity": asdict(self.own_similarity),
            "margin": asdict(self.margin),
            "knn": {str(k): asdict(one) for k, one in self.knn.items()},
        }


@dataclass(frozen=True)
class LayerCurve:
    """How well the labels can be read at each layer."""

    layers: tuple[int, ...]
    reading: tuple[Interval, ...]
    """Accuracy of the nearest label basis, nothing trained."""
    probe: tuple[Interval, ...]
    """Accuracy of a linear probe trained at that layer."""
    calibrated_layer: int
    after: Interval
    """Accuracy after the calibration, at its layer."""


@dataclass(frozen=True)
class TestRow:
    """One test text before and after."""

    __test__ = False  # no test, whatever its name says to pytest

    index: int
    line: int
    """In its file."""
    text: str
    prompt: str
    label: str
    predicted_before: str
    predicted_after: str
    probability_before: float
    """Of what was predicted."""
    probability_after: float
    flip: str | None
    """``fixed``, ``broken``, ``changed`` (wrong both times, in another way), or None."""


@dataclass(frozen=True)
class Comparison:
    """Everything that a page shows about one calibration."""

    task: Task
    before: Side
    after: Side
    baseline: Baseline
    """The best that is reached without training: what the calibration has to beat."""
    accuracy_difference: Interval
    """After minus before, paired."""
    macro_f1_difference: Interval
    logits: ClassificationReport
    """The model's own zero-shot answers among the label tokens."""
    thresholds: ClassificationReport
    """One threshold per class on the untrained cosines to the head's rows."""
    thresholds_difference: Interval
    """Calibration minus thresholds, paired."""
    probe: ClassificationReport
    probe_difference: Interval
    """Calibration minus probe, paired."""
    probe_strength: float
    controls: tuple[ControlLine, ...]
    untaught: Untaught | None
    """Read by words that were never taught; None where the vocabulary has none to propose."""
    moved: Moved
    """The test states that it was measured on, for whoever asks by other words later."""
    left_out: LeftOut | None
    """Each class left out in turn; None without controls, and of fewer than three or many."""
    layers: LayerCurve | None
    plane: Plane
    rows: tuple[TestRow, ...]
    chance: float
    """Share of the largest class in the test rows."""
    options: Mapping[str, Any]
    seconds: float
    warning: str = ""
    """Where no epoch of the training was better than its start."""

    @property
    def flips(self) -> dict[str, int]:
        """How many rows of each kind."""
        kinds = [r.flip for r in self.rows]
        return {kind: kinds.count(kind) for kind in ("fixed", "broken", "changed")}

    @property
    def sentence(self) -> str:
        """What it reaches beside the best without training, the probe and thresholds alone."""
        return verdict(self)

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        task, names = self.task, self.task.label_names
        return {
            "sentence": self.sentence,
            "task": {
                "name": task.name,
                "label_names": list(names),
                "label_words": list(task.label_words),
                "train": task.size("train"),
                "valid": task.size("valid"),
                "test": task.size("test"),
                "fingerprint": task.fingerprint,
            },
            "chance": self.chance,
            "warning": self.warning,
            "baseline": self.baseline.to_dict(),
            "before": self.before.to_dict(names),
            "after": self.after.to_dict(names),
            "difference": {
                "accuracy": asdict(self.accuracy_difference),
                "macro_f1": asdict(self.macro_f1_difference),
            },
            "logits": self.logits.to_dict(),
            "thresholds": {
                "accuracy": asdict(self.thresholds.accuracy),
                "macro_f1": asdict(self.thresholds.macro_f1),
                "difference": asdict(self.thresholds_difference),
            },
            "probe": {
                "accuracy": asdict(self.probe.accuracy),
                "macro_f1": asdict(self.probe.macro_f1),
                "difference": asdict(self.probe_difference),
                "settings": {"C": self.probe_strength},
            },
            "controls": [asdict(one) for one in self.controls],
            "untaught": None if self.untaught is None else self.untaught.to_dict(),
            "left_out": None if self.left_out is None else self.left_out.to_dict(),
            "layers": None if self.layers is None else asdict(self.layers),
            "map": self.plane.to_dict() | {"labels": list(names)},
            "rows": [asdict(row) for row in self.rows],
            "flips": self.flips,
            "options": dict(self.options),
            "seconds": self.seconds,
        }


def verdict(found: Comparison) -> str:
    """What was reached, beside the best without training; what else explains it.

    The gain is bias removal where thresholds on untrained cosines do as well. A training that kept
    its start and a control on shuffled labels above chance are said in sentences of their own.
    """
    after, baseline = found.after.report, found.baseline
    place = {
        "above": "more than {}",
        "below": "less than {}",
        "around": "and cannot be told apart from {}",
    }
    against = place[side(baseline.difference)].format(baseline.title)
    first = (
        f"Calibration reads {_whole(after.accuracy)} of {after.n:,} test texts rightly,"
        f" {against}, the best without training, at {_whole(baseline.accuracy)}"
    )
    if after.accuracy.high < found.chance:
        first += f"; that is below chance, {100 * found.chance:.0f} %"
    probe = {
        "above": "it beats a linear probe on the same texts, which reaches {}",
        "below": "a linear probe on the same texts reaches {} and does better",
        "around": "a linear probe on the same texts reaches {}, so no difference between the two"
        " can be told",
    }[side(found.probe_difference)].format(_whole(found.probe.accuracy))
    said = [found.warning, f"{first}; {probe}.", _bias(found)]
    shuffled = next((c for c in found.controls if c.name == "shuffled-labels"), None)
    if shuffled is not None and not shuffled.at_chance:
        said.append(
            f"Trained on shuffled labels it still reaches {_whole(shuffled.accuracy)}, above"
            " chance: part of the gain does not come from the labels."
        )
    return " ".join(one for one in said if one)


def _bias(found: Comparison) -> str:
    """Whether thresholds explain what moved since before."""
    if side(found.accuracy_difference) != "above" or side(found.thresholds_difference) == "above":
        return ""
    better = ", and more" if side(found.thresholds_difference) == "below" else ""
    return (
        f"One threshold per class on the untrained head cosines reaches"
        f" {_whole(found.thresholds.accuracy)}{better}: the gain over the reading before is bias"
        " removal."
    )


def _whole(interval: Interval) -> str:
    return f"{100 * interval.value:.0f} %"
