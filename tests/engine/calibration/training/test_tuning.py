"""Tuning the model's own layers: on a copy, exactly the parameters asked for, down the slope."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import planted_tasks
import pytest
import torch
from tiny_models import Spaces
from torch import Tensor

from engine.calibration.training import tuning
from engine.calibration.training.below import read_below
from engine.calibration.training.calibrated import untrained
from engine.calibration.training.features import task_states
from engine.calibration.training.losses import clustering_loss
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.calibration.training.tuning import (
    calibrated_states,
    last_states,
    predict,
    prepare,
    tuned_model,
)
from engine.errors import BudgetExceeded, OptionError
from engine.model.language_model import LanguageModel
from engine.progress import Steps, drain

PADDED = 1e-3
"""Relative: losses of the same texts in other batches, after some steps of the optimiser."""


@pytest.mark.parametrize(
    ("name", "target", "inside"),
    [
        ("llama", "layers:1", ["model.layers.2."]),
        ("llama", "layers:2", ["model.layers.1.", "model.layers.2."]),
        ("gpt2", "layers:all", ["transformer.h."]),
        ("bf16", "layers:1", ["model.layers.2."]),
    ],
)
def test_layer_tuning_changes_exactly_those_parameters(
    spaces: Spaces, name: str, target: str, inside: list[str]
) -> None:
    space = spaces[name]
    task = planted_tasks.task(space, 60)
    states = drain(task_states(space, task))
    options = CalibrationOptions(target=target, epochs=1, learning_rate=1e-3, patience=0)
    found = drain(calibrate(space, states, task, options))
    start = dict(prepare(space.model, options).module.named_parameters())
    assert set(found.tuned) == {n for n in start if n.startswith(tuple(inside))}
    end = dict(tuned_model(found, space.model).module.named_parameters())
    for n, p in end.items():
        assert torch.equal(p, found.tuned[n] if n in found.tuned else start[n])
    if found.best_epoch > 0:  # the key biases of attention have no slope, and stay
        changed = [n for n in found.tuned if not torch.equal(end[n], start[n])]
        assert len(changed) >= 0.8 * len(found.tuned)
    assert found.trained_weights == sum(t.numel() for t in found.tuned.values())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "bert"])
def test_lora_trains_its_two_matrices_per_projection_only(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    task = planted_tasks.task(space, 60)
    states = drain(task_states(space, task))
    options = CalibrationOptions(target="lora", rank=2, epochs=1, learning_rate=0.01, patience=0)
    found = drain(calibrate(space, states, task, options))
    assert found.tuned
    assert all("lora_A" in n or "lora_B" in n for n in found.tuned)
    twin = tuned_model(found, space.model)
    own = space.model.module.state_dict()
    for n, t in twin.module.state_dict().items():
        if "lora_" in n:
            assert torch.equal(t, found.tuned[n])
        else:
            assert torch.equal(t, own[n.replace(".base_layer", "")].float())
    projections = {n.split(".lora_")[0] for n in found.tuned}
    assert len(found.tuned) == 2 * len(projections)
    assert len(projections) % space.model.blocks == 0


@pytest.mark.parametrize("target", ["layers:2", "lora"])
def test_tuning_lowers_the_training_loss_and_predicts_with_the_tuned_model(
    spaces: Spaces, target: str
) -> None:
    space = spaces["llama"]
    task = planted_tasks.task(space, 60, valid=0)
    states = drain(task_states(space, task))
    options = CalibrationOptions(target=target, epochs=8, learning_rate=5e-3, patience=0)
    found = drain(calibrate(space, states, task, options))
    assert found.history[-1].train_loss < found.history[0].train_loss
    calibrated = drain(calibrated_states(found, space, states, task, "train"))
    y = torch.from_numpy(task.labels["train"])
    loss = clustering_loss("sm", calibrated, y, found.centroids, options.used_temperature)
    assert float(loss) < found.history[0].train_loss
    answer = drain(predict(found, space, states, task, "train"))
    assert torch.equal(answer.predicted, found.read_calibrated(calibrated).predicted)
    with pytest.raises(OptionError, match="predict"):
        found.apply(states.normed["test"])


def test_gradients_through_the_model_are_finite_differences(spaces: Spaces) -> None:
    """What tuning follows is the slope of the loss in the last block's weights."""
    space = spaces["llama"]
    task = planted_tasks.task(space, 30)
    twin = prepare(space.model, CalibrationOptions(target="layers:1"))
    twin.module.double()
    own = untrained(space, task).centroids
    ids, y = task.ids["train"][:5], torch.from_numpy(task.labels["train"][:5])

    def loss() -> Tensor:
        # read_out answers in float32, so the difference is taken over a larger step
        return clustering_loss("sm", last_states(twin, ids), y, own, 0.5)

    loss().backward()  # type: ignore[no-untyped-call]
    weight = next(p for p in twin.module.parameters() if p.requires_grad)
    assert weight.grad is not None
    flat, slope = weight.data.view(-1), weight.grad.view(-1)
    for i in slope.abs().topk(5).indices.tolist():
        kept, step = float(flat[i]), 1e-2
        flat[i] = kept + step
        above = loss().item()
        flat[i] = kept - step
        below = loss().item()
        flat[i] = kept
        assert float(slope[i]) == pytest.approx((above - below) / (2 * step), rel=0.03, abs=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gpt_neox", "bert"])
def test_frozen_blocks_below_run_once_per_text_and_the_training_is_the_same(
    spaces: Spaces, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens through a matrix of the first block are counted; without the cache the same losses."""
    space = spaces[name]
    task = planted_tasks.task(space, 40)
    states = drain(task_states(space, task))
    options = CalibrationOptions(target="layers:1", epochs=3, learning_rate=1e-3, patience=0)
    tokens: list[int] = []
    plain = tuning.prepare

    def counting(*given: Any) -> LanguageModel:
        twin = plain(*given)
        inside = [m for m in twin.anatomy.blocks[0].modules() if not list(m.children())]
        matrix = next(m for m in inside if getattr(m, "weight", None) is not None
                      and m.weight.dim() == 2)  # fmt: skip
        matrix.register_forward_hook(lambda m, args, out: tokens.append(out[..., 0].numel()))
        return twin

    monkeypatch.setattr(tuning, "prepare", counting)
    own = drain(calibrate(space, states, task, options))
    once = sum(tokens)
    unique = {ids for split in ("train", "valid") for ids in task.ids[split]}
    most = max(map(len, unique))
    assert sum(map(len, unique)) <= once <= most * len(unique)  # padding included
    tokens.clear()

    def whole(*given: Any, **more: Any) -> Steps[None]:
        yield from ()

    monkeypatch.setattr(tuning, "read_below", whole)
    other = drain(calibrate(space, states, task, options))
    assert sum(tokens) >= 3 * sum(map(len, unique))
    losses = [[(e.train_loss, e.valid_loss) for e in one.history] for one in (own, other)]
    np.testing.assert_allclose(*losses, rtol=PADDED)
    twin = tuned_model(own, space.model)
    assert all("forward" not in vars(block) for block in twin.anatomy.blocks)


def test_states_that_do_not_fit_the_budget_are_not_kept(spaces: Spaces) -> None:
    """Nor is anything where the first block is trained."""
    space = spaces["llama"]
    ids = planted_tasks.task(space, 20).ids["train"]
    twin = prepare(space.model, CalibrationOptions(target="layers:1"))
    last = len(twin.anatomy.blocks) - 1
    kept = drain(read_below(twin, last, ids, part_tokens=64))
    assert kept is not None
    assert set(kept.held) == set(ids)
    for own, state in kept.held.items():
        torch.testing.assert_close(state, space.model.states(own).raw[last], rtol=1e-4, atol=1e-5)
    assert drain(read_below(twin, 0, ids, part_tokens=64)) is None
    poor = replace(twin.limits, memory_budget_mib=0)
    monkey = LanguageModel(twin.module, twin.tokenizer, name="poor", limits=poor)
    assert drain(read_below(monkey, last, ids, part_tokens=64)) is None


def test_a_batch_in_parts_has_the_gradients_of_the_whole(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a few texts and one part of all train alike."""
    space = spaces["llama"]
    task = planted_tasks.task(space, 40)
    states = drain(task_states(space, task))
    options = CalibrationOptions(target="lora", rank=2, epochs=2, learning_rate=0.01, patience=0)
    histories = []
    for tokens in (2048, 24):
        monkeypatch.setattr(tuning, "GRADIENT_TOKENS", tokens)
        found = drain(calibrate(space, states, task, options))
        histories.append([(e.train_loss, e.valid_loss) for e in found.history])
    np.testing.assert_allclose(*histories, rtol=PADDED)


@pytest.mark.slow
def test_the_copy_is_gone_when_the_training_is(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No copy is alive where memory is given back, and it is given back."""
    space = spaces["llama"]
    task = planted_tasks.task(space, 30)
    states = drain(task_states(space, task))
    plain, twins, alive = tuning.prepare, [], []

    def noting(*given: Any) -> LanguageModel:
        twin = plain(*given)
        twins.append(weakref.ref(twin.module))
        return twin

    def back() -> None:
        gc.collect()
        alive.append(sum(one() is not None for one in twins))

    monkeypatch.setattr(tuning, "prepare", noting)
    monkeypatch.setattr(tuning, "give_memory_back", back)
    options = CalibrationOptions(target="lora", epochs=1, patience=0)
    found = drain(calibrate(space, states, task, options))
    drain(predict(found, space, states, task))
    assert len(twins) == 2
    assert alive == [0, 0]


def test_a_copy_that_does_not_fit_is_refused(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 60)
    memory = type("Memory", (), {"available": 1000})
    monkeypatch.setattr(tuning.psutil, "virtual_memory", memory)
    with pytest.raises(BudgetExceeded, match="copy"):
        drain(calibrate(space, states, task, CalibrationOptions(target="lora")))
