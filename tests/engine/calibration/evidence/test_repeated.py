"""Repeated splits: each recounted by a training of its own, on rows that were drawn anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import planted_tasks
import pytest
from tiny_models import Spaces

from engine.calibration.evidence.repeated import repeat_splits
from engine.calibration.labelled.tasks import Task
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.progress import drain

pytestmark = pytest.mark.slow


def test_every_split_is_trained_and_tested_anew(spaces: Spaces) -> None:
    space = spaces["llama"]
    options = CalibrationOptions(epochs=2, patience=0)

    def draw(seed: int) -> Task:
        return planted_tasks.task(space, 60, seed=seed)

    seeds = (3, 4, 5)
    found = drain(repeat_splits(space, draw, options, seeds))
    assert found.seeds == seeds
    tested: set[str] = set()
    for seed, (before, after) in zip(seeds, found.per_split, strict=True):
        task = draw(seed)
        truth, texts = task.labels["test"], task.texts["test"]
        tested |= set(texts)
        states = drain(task_states(space, task))
        trained = drain(calibrate(space, states, task, replace(options, seed=seed)))
        said = trained.read_calibrated(trained.apply(states.normed["test"])).predicted.numpy()
        assert after == pytest.approx(np.mean(said == truth))
        ids = [token.id_used for token in task.label_tokens]
        head = space.model.anatomy.weight.detach().double()[ids]
        rows = states.last["test"].double()
        vectors = np.linalg.pinv(space.model.anatomy.weight.detach().double().numpy()).T[ids]
        near = rows.numpy() @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
        by = {
            "the model's own answer": (rows @ head.T).argmax(1).numpy(),
            "the nearest label basis": near.argmax(1),
            "always guessing the largest class": np.full(len(truth), np.bincount(truth).argmax()),
        }
        assert before == pytest.approx(np.mean(by[found.baseline] == truth))
    assert found.tested == len(tested)
    assert found.after.value == pytest.approx(np.mean([b for _, b in found.per_split]))
    assert found.untrained.value == pytest.approx(np.mean([a for a, _ in found.per_split]))
    assert found.difference.value == pytest.approx(found.after.value - found.untrained.value)
    assert found.difference.low < found.difference.value < found.difference.high
    # No other reading without training is better on the average.
    assert found.untrained.value >= 1 / 3 - 1e-9
    assert str(len(tested)) in found.sentence
