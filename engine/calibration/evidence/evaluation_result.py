"""What an evaluation gives: runs, cells, averages, and the whole table as JSON and as flat rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.calibration.evidence.findings import Difference, Finding
from engine.calibration.evidence.methods import METHODS
from engine.calibration.evidence.metrics import Interval, confusion


@dataclass(frozen=True)
class Run:
    """One method on one task with one seed."""

    seed: int
    accuracy: float
    macro_f1: float
    ece: float | None
    """Expected calibration error, 15 bins; None where a method gives no probabilities."""
    seconds_train: float
    seconds_infer: float
    peak_bytes: int
    stored_bytes: int
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    truth: NDArray[np.int64] = field(repr=False)
    """Class of each test row (n)."""
    predicted: NDArray[np.int64] = field(repr=False)
    """What was answered (n)."""
    rows: NDArray[np.int64] = field(repr=False)
    """Which test rows these are (n), from :meth:`Task.row_keys`: seeds may share some."""
    classes: int

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which test rows (n)."""
        same: NDArray[np.bool_] = self.truth == self.predicted
        return same

    @property
    def table(self) -> NDArray[np.int64]:
        """Rows of true class i called j (C × C)."""
        return confusion(self.truth, self.predicted, self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Without the rows."""
        plain = {n: getattr(self, n) for n in self.__dataclass_fields__}
        for name in ("truth", "predicted", "rows", "classes"):
            del plain[name]
        return plain | {
            "settings": dict(self.settings),
            "notes": list(self.notes),
            "table": self.table.tolist(),
        }


@dataclass(frozen=True)
class Cell:
    """One method on one task, over the seeds."""

    accuracy: Interval
    macro_f1: Interval
    ece: float | None
    """Mean over the seeds."""
    seconds_train: float
    """Mean over the seeds, like the following."""
    seconds_infer: float
    peak_bytes: float
    stored_bytes: float
    per_seed: tuple[Run, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Of all seeds, each sentence once."""
        return tuple(dict.fromkeys(note for run in self.per_seed for note in run.notes))

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "accuracy": self.accuracy.to_dict(),
            "macro_f1": self.macro_f1.to_dict(),
            "ece": self.ece,
            "seconds_train": self.seconds_train,
            "seconds_infer": self.seconds_infer,
            "peak_bytes": self.peak_bytes,
            "stored_bytes": self.stored_bytes,
            "per_seed": [run.to_dict() for run in self.per_seed],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class TaskLine:
    """What was classified."""

    name: str
    label_names: tuple[str, ...]
    label_words: tuple[str, ...]
    train: int
    valid: int
    test: int
    median_tokens: float
    """Of a test prompt."""
    chance: float
    """Share of the largest class in the test rows: what guessing it always reaches."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        plain = {n: getattr(self, n) for n in self.__dataclass_fields__}
        names = ("label_names", "label_words")
        return plain | {n: list(plain[n]) for n in names}


@dataclass(frozen=True)
class Average:
    """One method over all tasks that it ran for."""

    accuracy: Interval
    macro_f1: Interval
    seconds_train: float
    """Summed over the tasks, mean over the seeds."""
    seconds_infer: float
    tasks: int

    @property
    def seconds(self) -> float:
        """Both parts."""
        return self.seconds_train + self.seconds_infer


@dataclass(frozen=True)
class Evaluation:
    """The table, the differences, and what follows from them in plain sentences."""

    model: Mapping[str, Any]
    """name, fingerprint, parameters, width, vocabulary."""
    tasks: tuple[TaskLine, ...]
    methods: tuple[str, ...]
    """Names in the order of the table."""
    seeds: tuple[int, ...]
    cells: Mapping[tuple[str, str], Cell]
    """(method, task) → cell."""
    left_out: Mapping[tuple[str, str], str]
    """(method, task) → why it did not run."""
    averages: Mapping[str, Average]
    """Of the methods that ran for every task."""
    differences: tuple[Difference, ...]
    findings: tuple[Finding, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def sentence(self) -> str:
        """The first finding."""
        return self.findings[0].text if self.findings else "Nothing was compared."

    def title(self, method: str) -> str:
        """A method's name for people."""
        return METHODS[method].title

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "sentence": self.sentence,
            "model": dict(self.model),
            "tasks": [task.to_dict() for task in self.tasks],
            "methods": [
                {
                    "name": m,
                    "title": METHODS[m].title,
                    "kind": METHODS[m].kind,
                    "needs": METHODS[m].needs,
                    "source": METHODS[m].source,
                    "average": None if m not in self.averages else _average(self.averages[m]),
                    "tasks": {
                        t.name: self.cells[m, t.name].to_dict()
                        for t in self.tasks
                        if (m, t.name) in self.cells
                    },
                    "left_out": {
                        t.name: self.left_out[m, t.name]
                        for t in self.tasks
                        if (m, t.name) in self.left_out
                    },
                }
                for m in self.methods
            ],
            "differences": [d.to_dict() for d in self.differences],
            "findings": [f.to_dict() for f in self.findings],
            "seeds": list(self.seeds),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Flat, one per method and task and one per method for the average: for CSV."""
        out: list[dict[str, Any]] = []
        for method in self.methods:
            for task in self.tasks:
                cell = self.cells.get((method, task.name))
                if cell is not None:
                    out.append(_row(method, task.name, len(cell.per_seed), cell))
            if method in self.averages:
                out.append(_row(method, "average", len(self.seeds), self.averages[method]))
        return out


def _average(average: Average) -> dict[str, Any]:
    return {
        "accuracy": average.accuracy.to_dict(),
        "macro_f1": average.macro_f1.to_dict(),
        "seconds_train": average.seconds_train,
        "seconds_infer": average.seconds_infer,
        "tasks": average.tasks,
    }


def _row(method: str, task: str, seeds: int, cell: Cell | Average) -> dict[str, Any]:
    return {
        "method": method,
        "task": task,
        "seeds": seeds,
        "accuracy": cell.accuracy.value,
        "accuracy_low": cell.accuracy.low,
        "accuracy_high": cell.accuracy.high,
        "macro_f1": cell.macro_f1.value,
        "macro_f1_low": cell.macro_f1.low,
        "macro_f1_high": cell.macro_f1.high,
        "ece": getattr(cell, "ece", None),
        "seconds_train": cell.seconds_train,
        "seconds_infer": cell.seconds_infer,
        "peak_bytes": getattr(cell, "peak_bytes", None),
        "stored_bytes": getattr(cell, "stored_bytes", None),
    }
