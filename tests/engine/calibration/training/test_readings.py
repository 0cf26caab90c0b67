"""A prompt under a calibration: by hand, and against the batches that training reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import planted_tasks
import pytest
import torch
from tiny_models import Spaces

from engine import LatentSpace
from engine.calibration.labelled.tasks import Task
from engine.calibration.training.calibrated import Calibration
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.readings import calibrated_readings
from engine.calibration.training.train import calibrate
from engine.calibration.training.tuning import predict
from engine.errors import ArtifactError, Cancelled, OptionError, PromptError
from engine.progress import drain

CLOSE = 1e-4
"""Training reads padded batches, a reading one prompt."""

CASES = [
    ("llama", {}),
    ("llama", {"target": "head"}),
    ("gpt2", {"target": "head", "loss": "mm", "inference": "mm"}),
    ("phi", {"loss": "mm", "inference": "mm"}),
    ("gemma2", {"centroids": "vocabulary", "inference_over": "vocabulary"}),
    ("llama", {"target": "layers:1"}),
    ("gpt2", {"target": "lora", "rank": 2}),
    ("bert", {}),
]


def made(space: LatentSpace, **settings: Any) -> tuple[Task, Any, Calibration]:
    task = planted_tasks.task(space, 60)
    states = drain(task_states(space, task, layers=(settings.get("layer", -1),)))
    options = CalibrationOptions(**({"epochs": 2} | settings))
    return task, states, drain(calibrate(space, states, task, options))


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_the_last_position_says_what_the_evaluation_says(
    spaces: Spaces, name: str, settings: dict[str, Any]
) -> None:
    space = spaces[name]
    task, states, calibration = made(space, **settings)
    expected = drain(predict(calibration, space, states, task))
    for i, prompt in enumerate(task.prompts["test"][:3]):
        found = calibrated_readings(space, calibration, prompt, k=2)
        assert found.labels == task.label_names
        assert len(found.positions) == len(task.ids["test"][i])
        last = found.positions[-1].after
        scores = [one.score for one in last.labels]
        np.testing.assert_allclose(scores, expected.scores[i].numpy(), atol=CLOSE, rtol=CLOSE)
        odds = [one.probability for one in last.labels]
        np.testing.assert_allclose(odds, expected.probabilities[i].numpy(), atol=CLOSE)
        assert last.predicted == int(np.argmax(scores))


def test_before_is_the_cosine_of_the_state_with_the_labels_bases(spaces: Spaces) -> None:
    space = spaces["llama"]
    task, _, calibration = made(space)
    prompt = task.prompts["test"][0]
    found = calibrated_readings(space, calibration, prompt, k=7)
    raw = space.model.states(task.ids["test"][0]).raw[-1]
    states = space.model.read_out(raw).double().numpy()
    bases = space.frame("output").vectors(torch.arange(space.model.vocabulary)).double().numpy()
    unit = bases / np.linalg.norm(bases, axis=1, keepdims=True)
    cosines = states @ unit.T / np.linalg.norm(states, axis=1, keepdims=True)
    ids = [token.id_used for token in task.label_tokens]
    temperature = calibration.options.reading_temperature
    for row, position in zip(cosines, found.positions, strict=True):
        mine = [one.score for one in position.before.labels]
        np.testing.assert_allclose(mine, row[ids], atol=1e-5)
        odds = np.exp(row[ids] / temperature)
        probabilities = [one.probability for one in position.before.labels]
        np.testing.assert_allclose(probabilities, odds / odds.sum(), atol=1e-5)
        best = np.argsort(-row)[:7]
        np.testing.assert_allclose([n.score for n in position.before.top], row[best], atol=1e-5)
        assert [n.token.id for n in position.before.top] == best.tolist()


def test_after_is_the_module_on_the_state(spaces: Spaces) -> None:
    space = spaces["llama"]
    task, _, calibration = made(space)
    found = calibrated_readings(space, calibration, task.prompts["test"][0], k=3)
    raw = space.model.states(task.ids["test"][0]).raw[-1]
    states = space.model.read_out(raw)
    moved = calibration.apply(states).double().numpy()
    bases = space.frame("output").vectors(torch.arange(space.model.vocabulary)).double().numpy()
    unit = bases / np.linalg.norm(bases, axis=1, keepdims=True)
    cosines = moved @ unit.T / np.linalg.norm(moved, axis=1, keepdims=True)
    own = states.double().numpy()
    turned = (own * moved).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(moved, axis=1)
    np.testing.assert_allclose([p.cosine for p in found.positions], turned, atol=1e-5)
    for row, position in zip(cosines, found.positions, strict=True):
        assert [n.token.id for n in position.after.top] == np.argsort(-row)[:3].tolist()


def test_a_trained_head_puts_its_own_rows_among_the_nearest(spaces: Spaces) -> None:
    space = spaces["llama"]
    task, _, calibration = made(space, target="head")
    prompt = task.prompts["test"][0]
    raw = space.model.states(task.ids["test"][0]).raw[-1]
    state = space.model.read_out(raw)[-1]
    # Planted: the first label's own row is the last state itself, the second's points away.
    planted = calibration.centroids.labels.clone()
    planted[0], planted[1] = state, -state
    calibration.centroids = calibration.centroids.with_rows(planted, planted)
    found = calibrated_readings(space, calibration, prompt, k=50)
    last = found.positions[-1]
    first, second = (token.id_used for token in task.label_tokens[:2])
    assert last.cosine == pytest.approx(1.0)
    assert last.after.top[0].token.id == first
    assert last.after.top[0].score == pytest.approx(1.0)
    assert second not in [near.token.id for near in last.after.top]
    before = {near.token.id: near.score for near in last.before.top}
    after = {near.token.id: near.score for near in last.after.top}
    others = (set(before) & set(after)) - {token.id_used for token in task.label_tokens}
    assert len(others) > 40
    for one in others:
        assert after[one] == pytest.approx(before[one], abs=1e-5)


def test_a_calibration_of_another_layer_reads_that_layer(spaces: Spaces) -> None:
    space = spaces["llama"]
    task, states, calibration = made(space, layer=1)
    found = calibrated_readings(space, calibration, task.prompts["test"][0])
    assert found.layer == 1
    expected = drain(predict(calibration, space, states, task))
    scores = [one.score for one in found.positions[-1].after.labels]
    np.testing.assert_allclose(scores, expected.scores[0].numpy(), atol=CLOSE)


def test_what_cannot_be_read_is_refused(spaces: Spaces) -> None:
    space = spaces["llama"]
    task, _, calibration = made(space)
    prompt = task.prompts["test"][0]
    with pytest.raises(ArtifactError, match="belongs to"):
        calibrated_readings(spaces["gpt2"], calibration, prompt)
    for k in (-1, 51):
        with pytest.raises(OptionError, match="k must be from 0 to 50"):
            calibrated_readings(space, calibration, prompt, k=k)
    with pytest.raises(PromptError):
        calibrated_readings(space, calibration, "")
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Cancelled("nobody waits.")

    with pytest.raises(Cancelled):
        calibrated_readings(space, calibration, prompt, check=stop)
    bare = calibrated_readings(space, calibration, prompt, k=0)
    assert all(one.before.top == () for one in bare.positions)


def test_it_is_written_out_in_full_and_with_its_caution(spaces: Spaces) -> None:
    space = spaces["llama"]
    task, _, calibration = made(space)
    told = calibrated_readings(space, calibration, task.prompts["test"][0], k=1).to_dict()
    assert set(told) == {
        "prompt", "layer", "labels", "similarity", "frame", "caution", "tokens", "positions",
    }  # fmt: skip
    assert len(told["tokens"]) == len(told["positions"])
    assert told["positions"][0]["position"] == 0
    assert set(told["positions"][0]["after"]) == {"labels", "predicted", "top"}
    assert "never checked" in told["caution"]
