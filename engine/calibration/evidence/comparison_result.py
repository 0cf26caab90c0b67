"""What a comparison gives: both sides, controls, layers, rows, the sentence on top, JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.calibration.evidence.findings import side
from engine.calibration.evidence.metrics import ClassificationReport, Interval
from engine.calibration.evidence.plane import Plane
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
class ControlLine:
    """The same training with something taken away."""

    name: str
    title: str
    accuracy: Interval
    difference: Interval
    """Calibration minus the control, paired."""
    at_chance: bool
    """Whether its interval reaches down to always guessing the largest class."""
    runs: int
    """Trainings that are averaged."""


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
    accuracy_difference: Interval
    """After minus before, paired."""
    macro_f1_difference: Interval
    logits: ClassificationReport
    """The model's own zero-shot answers among the label tokens."""
    probe: ClassificationReport
    probe_difference: Interval
    """Calibration minus probe, paired."""
    probe_strength: float
    controls: tuple[ControlLine, ...]
    layers: LayerCurve | None
    plane: Plane
    rows: tuple[TestRow, ...]
    chance: float
    """Share of the largest class in the test rows."""
    options: Mapping[str, Any]
    seconds: float

    @property
    def flips(self) -> dict[str, int]:
        """How many rows of each kind."""
        kinds = [r.flip for r in self.rows]
        return {kind: kinds.count(kind) for kind in ("fixed", "broken", "changed")}

    @property
    def sentence(self) -> str:
        """What happened, and whether it beats the linear probe on the same rows."""
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
            "before": self.before.to_dict(names),
            "after": self.after.to_dict(names),
            "difference": {
                "accuracy": asdict(self.accuracy_difference),
                "macro_f1": asdict(self.macro_f1_difference),
            },
            "logits": self.logits.to_dict(),
            "probe": {
                "accuracy": asdict(self.probe.accuracy),
                "macro_f1": asdict(self.probe.macro_f1),
                "difference": asdict(self.probe_difference),
                "settings": {"C": self.probe_strength},
            },
            "controls": [asdict(one) for one in self.controls],
            "layers": None if self.layers is None else asdict(self.layers),
            "map": self.plane.to_dict() | {"labels": list(names)},
            "rows": [asdict(row) for row in self.rows],
            "flips": self.flips,
            "options": dict(self.options),
            "seconds": self.seconds,
        }


def verdict(found: Comparison) -> str:
    """One plain sentence; a second where the control on shuffled labels is above chance."""
    n = found.after.report.n
    before, after = (_whole(x.report.accuracy) for x in (found.before, found.after))
    change = f"the accuracy on {n:,} test texts from {before} to {after}"
    first = {
        "above": f"Calibration raised {change}",
        "below": f"Calibration lowered {change}",
        "around": f"Calibration moved {change}, which chance alone could do",
    }[side(found.accuracy_difference)]
    probe = {
        "above": "it beats a linear probe on the same texts, which reaches {}",
        "below": "a linear probe on the same texts reaches {} and does better",
        "around": "a linear probe on the same texts reaches {}, so no difference between the two"
        " can be told",
    }[side(found.probe_difference)].format(_whole(found.probe.accuracy))
    shuffled = next((c for c in found.controls if c.name == "shuffled-labels"), None)
    control = ""
    if shuffled is not None and not shuffled.at_chance:
        control = (
            f" Trained on shuffled labels it still reaches {_whole(shuffled.accuracy)}, above"
            " chance: part of the gain does not come from the labels."
        )
    return f"{first}; {probe}.{control}"


def _whole(interval: Interval) -> str:
    return f"{100 * interval.value:.0f} %"
