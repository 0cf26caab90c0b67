"""Probe, calibration and bag of words on labels that can be read off and on labels that cannot."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tables import read_table
from engine.calibration.labelled.tasks import Task, make_task, shuffled_labels
from engine.space import LatentSpace
from training.probes import bag_of_words, compare

pytestmark = pytest.mark.slow

CHANCE_MARGIN = 0.15
"""Three standard deviations of the accuracy of 100 coin tosses."""


@pytest.fixture(scope="module")
def space(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentSpace:
    return engine.load(small_model, cache_dir=tmp_path_factory.mktemp("cache"), threads=1)


@pytest.fixture(scope="module")
def task(space: LatentSpace, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Sentences that end in a word of their class, after random words of no class."""
    draw = random.Random(0)
    ends = {"positive": ["good", "great", "happy"], "negative": ["bad", "terrible", "sad"]}
    filler = [
        "the",
        "house",
        "river",
        "morning",
        "letter",
        "man",
        "street",
        "window",
        "garden",
        "paper",
        "book",
    ]
    rows = []
    for i in range(400):
        label = ("positive", "negative")[i % 2]
        text = " ".join([*draw.choices(filler, k=6), str(i), "was", draw.choice(ends[label])])
        rows.append(json.dumps({"text": text, "label": label}))
    file = tmp_path_factory.mktemp("data") / "made.jsonl"
    file.write_text("\n".join(rows), encoding="utf-8")
    spec = TaskSpec(name="made", test=100, valid=60, seed=0)
    return make_task(spec, read_table(file, file.name), space.model)


def test_what_can_be_read_off_is_read_off(space: LatentSpace, task: Task) -> None:
    """The bag of words is perfect, the trained readings of the states are close to it."""
    table = compare(space, task, "made")
    scores = {score.method: score for score in table.scores}
    words = scores["bag of words"]
    assert words.accuracy.value == 1.0
    assert words.over_words.low == words.over_words.high == 0.0
    for method in ("linear probe on last-layer states", "calibration module on last-layer states"):
        assert scores[method].accuracy.value >= 0.9
    for score in table.scores:
        assert score.over_words.value == pytest.approx(score.accuracy.value - 1.0)
        assert score.accuracy.low <= score.accuracy.value <= score.accuracy.high
    assert table.sizes == {"train": 240, "valid": 60, "test": 100}
    assert table.chance == pytest.approx(
        max(np.bincount(task.labels["test"])) / len(task.labels["test"])
    )


def test_shuffled_labels_teach_nothing(space: LatentSpace, task: Task) -> None:
    """With the training labels permuted every method is at chance: nothing leaks from the test."""
    table = compare(space, shuffled_labels(task, seed=1), "shuffled")
    for score in table.scores[:1] + table.scores[2:]:
        assert abs(score.accuracy.value - 0.5) < CHANCE_MARGIN


def test_the_bag_of_words_says_its_strength(task: Task) -> None:
    """Predictions are class numbers of the test rows; the note names the C that was chosen."""
    predicted, note = bag_of_words(task)
    assert predicted.shape == task.labels["test"].shape
    assert set(predicted.tolist()) <= {0, 1}
    assert note.startswith("C = ")
