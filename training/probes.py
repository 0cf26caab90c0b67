"""What a model's last-layer states know of labels: probe and calibration beside a bag of words.

Every method gets the same rows: fitted on the training rows, its strength chosen on the validation
rows, judged on the test rows. The bag of words sees no model at all: what the states add over word
counts is what the model knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.calibration.evidence.metrics import Interval, bootstrap_interval, paired_interval
from engine.calibration.evidence.probes import fit_probe
from engine.calibration.labelled.known import known_spec
from engine.calibration.labelled.tables import read_table
from engine.calibration.labelled.tasks import Task, make_task
from engine.calibration.training.calibrated import untrained
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.progress import drain
from engine.space import LatentSpace

DATASETS: Final = ("agnews", "sst2", "subj")
TITLES: Final = {"agnews": "AG News", "sst2": "SST-2", "subj": "SUBJ"}
STRENGTHS: Final = (0.1, 1.0, 10.0, 100.0)
"""C of the bag of words that is chosen from."""

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class MethodScore:
    """One method on one data set."""

    method: str
    accuracy: Interval
    """Share of the test rows that are right; 95 % bootstrap interval over them."""
    over_words: Interval
    """This minus the bag of words on the same rows; an interval without 0 is a difference."""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For the report's JSON."""
        return {
            "method": self.method,
            "accuracy": asdict(self.accuracy),
            "over_words": asdict(self.over_words),
            "note": self.note,
        }


@dataclass(frozen=True)
class ProbeTable:
    """All methods on one data set."""

    name: str
    sizes: dict[str, int]
    """Rows of train, valid and test."""
    chance: float
    """Share of the test rows in their largest class."""
    scores: tuple[MethodScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """For the report's JSON."""
        return {
            "name": self.name,
            "sizes": self.sizes,
            "chance": self.chance,
            "methods": [score.to_dict() for score in self.scores],
        }


def probe_tables(
    space: LatentSpace, folder: Path, *, train: int, valid: int, test: int, seed: int = 0
) -> Iterator[ProbeTable]:
    """The data sets of a folder one by one.

    Args:
        space: whose last-layer states.
        folder: holds `NAME/train.jsonl` and `NAME/test.jsonl` with `text` and `label`.
        train: rows to fit on.
        valid: rows to choose strengths and the best epoch by.
        test: rows to judge on.
        seed: of the sample of rows, of the calibration and of the intervals.
    """
    for name in DATASETS:
        spec = known_spec(name, train=train, valid=valid, test=test, seed=seed)
        task = make_task(
            spec,
            read_table(folder / name / "train.jsonl", "train.jsonl"),
            space.model,
            test=read_table(folder / name / "test.jsonl", "test.jsonl"),
        )
        yield compare(space, task, TITLES[name], seed=seed)


def compare(space: LatentSpace, task: Task, title: str, *, seed: int = 0) -> ProbeTable:
    """Bag of words, the label words' bases as they are, linear probe and calibration."""
    states = drain(task_states(space, task))
    rows = {split: states.normed[split].cpu().double().numpy() for split in task.labels}
    labels = task.labels
    words, words_note = bag_of_words(task)
    probe = drain(
        fit_probe(rows["train"], labels["train"], rows["valid"], labels["valid"], task.classes)
    )
    options = CalibrationOptions(seed=seed)
    before = untrained(space, task, options)
    after = drain(calibrate(space, states, task, options))
    test = states.normed["test"]
    answers: tuple[tuple[str, Labels, str], ...] = (
        ("bag of words", words, words_note),
        ("label words' bases, untrained", before.read(test).predicted.cpu().numpy(), ""),
        (
            "linear probe on last-layer states",
            probe.scores(rows["test"]).argmax(1),
            f"C = {probe.strength:g}",
        ),
        (
            "calibration module on last-layer states",
            after.read(test).predicted.cpu().numpy(),
            f"loss {options.loss}, epoch {after.best_epoch} kept",
        ),
    )
    truth = labels["test"]
    base = (words == truth).astype(float)
    scores = []
    for method, predicted, note in answers:
        right = (predicted == truth).astype(float)
        scores.append(
            MethodScore(
                method,
                bootstrap_interval(right, seed=seed),
                paired_interval(right, base, seed=seed),
                note,
            )
        )
    return ProbeTable(
        title,
        {split: task.size(split) for split in labels},
        float(np.bincount(truth).max() / len(truth)),
        tuple(scores),
    )


def bag_of_words(task: Task) -> tuple[Labels, str]:
    """A logistic regression on tf-idf word counts: predicted classes of the test rows, and C.

    Lower-cased words of the bare texts, without the prompt; C of the best validation accuracy.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    count = TfidfVectorizer(sublinear_tf=True)
    train = count.fit_transform(task.texts["train"])
    valid, test = (count.transform(task.texts[split]) for split in ("valid", "test"))
    best: tuple[float, float, Any] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(train, task.labels["train"])
        right = float(np.mean(model.predict(valid) == task.labels["valid"]))
        if best is None or right > best[0]:
            best = (right, strength, model)
    assert best is not None
    predicted: Labels = np.asarray(best[2].predict(test), dtype=np.int64)
    return predicted, f"C = {best[1]:g}"
