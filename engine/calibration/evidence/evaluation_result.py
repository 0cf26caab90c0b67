"""What an evaluation gives: runs, cells, averages, and the whole table as JSON and as flat rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from engine.calibration.evidence.methods import METHODS
from engine.calibration.evidence.metrics import Interval, confusion, flat


@dataclass(frozen=True)
class Run:
    """One method on one task with one seed."""

    seed: int
    accuracy: float
    macro_f1: float
    ari: float
    """Adjusted Rand index of answers and labels: 1 equal, 0 by chance."""
    nmi: float
    """Their normalised mutual information, in [0, 1]."""
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
    untaught: NDArray[np.int64] | None = field(default=None, repr=False)
    """What each set of untaught words answered (k × n); None where there is none."""

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
        rows = ("truth", "predicted", "rows", "classes", "untaught")
        plain = {name: value for name, value in vars(self).items() if name not in rows}
        return plain | {"settings": dict(self.settings), "table": self.table.tolist()}


@dataclass(frozen=True)
class Cell:
    """One method on one task, over the seeds."""

    accuracy: Interval
    macro_f1: Interval
    ece: float | None
    """Mean over the seeds, like the following."""
    seconds_train: float
    seconds_infer: float
    peak_bytes: float
    stored_bytes: float
    ari: float
    """No interval: a row that is drawn twice would be a pair that agrees with itself."""
    nmi: float
    per_seed: tuple[Run, ...]
    untaught: Interval | None = None
    """Accuracy by words that were never taught, over sets of words, seeds and rows."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Of all seeds, each sentence once."""
        return tuple(dict.fromkeys(note for run in self.per_seed for note in run.notes))

    @property
    def kept_start(self) -> int:
        """Runs in which no epoch was better than the start: nothing that was trained is in them."""
        return sum(run.settings.get("best_epoch") == 0 for run in self.per_seed)

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return vars(self) | {
            "kept_start": self.kept_start,
            "accuracy": asdict(self.accuracy),
            "macro_f1": asdict(self.macro_f1),
            "untaught": None if self.untaught is None else asdict(self.untaught),
            "per_seed": [run.to_dict() for run in self.per_seed],
            "notes": self.notes,
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
    spec: Mapping[str, Any] = field(default_factory=dict)
    """How the rows became a task: :meth:`TaskSpec.to_dict`."""
    draws: tuple[tuple[int, str], ...] = ()
    """Per seed, the seed that the rows were drawn by, and their fingerprint."""


@dataclass(frozen=True)
class Average:
    """One method over all tasks that it ran for."""

    accuracy: Interval
    macro_f1: Interval
    seconds_train: float
    """Summed over the tasks, mean over the seeds."""
    seconds_infer: float
    ari: float
    """Mean over the tasks and seeds, like the next."""
    nmi: float
    tasks: int
    untaught: Interval | None = None
    """Where every task has words that were never taught."""

    @property
    def seconds(self) -> float:
        """Both parts."""
        return self.seconds_train + self.seconds_infer


Verdict = Literal["met", "missed", "open", "said"]


@dataclass(frozen=True)
class Difference:
    """Accuracy of one method minus another's on the same rows, in [−1, 1]."""

    first: str
    second: str
    mean: Interval
    """Over the tasks that both ran for."""
    per_task: Mapping[str, Interval]


@dataclass(frozen=True)
class Finding:
    """One sentence, and whether it meets a goal."""

    text: str
    verdict: Verdict = "said"
    """``met`` or ``missed`` a goal; ``open`` where the interval allows both; ``said`` no goal."""
    goal: str = ""


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

    def marked(self, method: str) -> str:
        """The same beside figures: with the mark of those that hold nothing of a training."""
        own = [cell for (name, _), cell in self.cells.items() if name == method]
        kept, runs = sum(c.kept_start for c in own), sum(len(c.per_seed) for c in own)
        return self.title(method) + f" (best epoch 0 in {kept} of {runs})" * bool(kept)

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "sentence": self.sentence,
            "model": dict(self.model),
            "tasks": [asdict(task) for task in self.tasks],
            "methods": [
                {
                    "name": m,
                    "title": METHODS[m].title,
                    "kind": METHODS[m].kind,
                    "needs": METHODS[m].needs,
                    "source": METHODS[m].source,
                    "average": asdict(self.averages[m]) if m in self.averages else None,
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
            "differences": [asdict(one) for one in self.differences],
            "findings": [asdict(one) for one in self.findings],
            "seeds": list(self.seeds),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Flat, one per method and task and one per method for the average: for CSV."""
        out = []
        for method in self.methods:
            for task in self.tasks:
                cell = self.cells.get((method, task.name))
                if cell is not None:
                    out.append(_row(method, task.name, len(cell.per_seed), cell))
            if method in self.averages:
                out.append(_row(method, "average", len(self.seeds), self.averages[method]))
        return out


_COLUMNS: Final = (
    *("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "macro_f1_low", "macro_f1_high"),
    *(
        "untaught",
        "untaught_low",
        "untaught_high",
        "ari",
        "nmi",
        "ece",
        "seconds_train",
        "seconds_infer",
        "peak_bytes",
        "stored_bytes",
    ),
)


def _row(method: str, task: str, seeds: int, cell: Cell | Average) -> dict[str, Any]:
    found = flat(cell)
    figures = {name: found.get(name) for name in _COLUMNS}
    return {"method": method, "task": task, "seeds": seeds, **figures}
