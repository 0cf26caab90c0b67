"""States of a task: the model's own, computed once, kept by content."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import planted_tasks
import pytest
import torch
from tiny_models import Spaces

from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tasks import SPLITS, make_task
from engine.calibration.training import features
from engine.calibration.training.features import task_states
from engine.errors import BudgetExceeded, LayerError, NonFiniteError
from engine.progress import drain

CLOSE = 2e-5
"""Batches are padded and rounded differently."""


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt_proj", "bert"])
def test_states_are_those_of_single_prompts_at_every_layer(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    task = planted_tasks.task(space, 30)
    layers = tuple(range(space.model.blocks + 1))
    states = drain(task_states(space, task, layers=layers))
    assert states.layer == space.model.blocks
    assert states.computed == 30
    for split in SPLITS:
        assert states.lengths[split] == tuple(len(ids) for ids in task.ids[split])
        for i, ids in enumerate(task.ids[split][:4]):
            raw = space.model.states(ids).raw[:, -1]
            for layer in layers:
                normed = space.model.read_out(raw[layer])
                assert torch.allclose(states.at(layer)[split][i], normed, atol=CLOSE)
    assert torch.equal(states.normed["test"], states.at(-1)["test"])


def test_nothing_is_computed_twice_whatever_the_split(spaces: Spaces, tmp_path: Path) -> None:
    space = spaces["llama"]
    first = planted_tasks.task(space, 60, seed=1)
    one = drain(task_states(space, first, cache_dir=tmp_path))
    assert (one.computed, one.cached) == (60, 0)
    again = drain(task_states(space, first, cache_dir=tmp_path))
    assert (again.computed, again.cached) == (0, 60)
    for split in SPLITS:
        assert torch.equal(again.normed[split], one.normed[split])
    other = planted_tasks.task(space, 60, seed=2)
    found = drain(task_states(space, other, cache_dir=tmp_path))
    assert found.computed == 0
    by_ids = {
        ids: state for s in SPLITS for ids, state in zip(first.ids[s], one.normed[s], strict=True)
    }
    for split in SPLITS:
        for ids, state in zip(other.ids[split], found.normed[split], strict=True):
            assert torch.equal(state, by_ids[ids])
    more = drain(task_states(space, first, layers=(1, -1), cache_dir=tmp_path))
    assert more.computed == 60  # layer 1 was not there


def test_stopped_work_goes_on_where_it_was(
    spaces: Spaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "CHUNK_TEXTS", 16)
    space = spaces["llama"]
    task = planted_tasks.task(space, 60)
    steps = task_states(space, task, cache_dir=tmp_path, batch_tokens=64)
    for progress in steps:
        if progress.done >= 36:
            break
    steps.close()
    kept = sorted(tmp_path.rglob("*.safetensors"))
    assert len(kept) == 2
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".tmp")]
    states = drain(task_states(space, task, cache_dir=tmp_path))
    assert (states.computed, states.cached) == (28, 32)
    fresh = drain(task_states(space, task))
    for split in SPLITS:
        assert torch.allclose(states.normed[split], fresh.normed[split], atol=CLOSE)


def test_stopped_work_gives_the_bits_of_work_that_was_not_stopped(
    spaces: Spaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where other work had left some of the states, and where all layers are read after."""
    monkeypatch.setattr(features, "CHUNK_TEXTS", 16)
    space = spaces["llama"]
    task = planted_tasks.task(space, 60)
    some = planted_tasks.task(space, 60, train=9)
    for name in ("whole", "stopped"):
        drain(task_states(space, some, cache_dir=tmp_path / name))
    whole = drain(task_states(space, task, cache_dir=tmp_path / "whole", batch_tokens=64))
    assert whole.cached > 0
    for after in (2, 3, 1):
        steps = task_states(space, task, cache_dir=tmp_path / "stopped", batch_tokens=64)
        for _ in range(after):
            next(steps)
        steps.close()
    drain(task_states(space, task, cache_dir=tmp_path / "stopped", batch_tokens=64))
    every = tuple(range(space.model.blocks + 1))
    drain(task_states(space, task, layers=every, cache_dir=tmp_path / "stopped", batch_tokens=64))
    stopped = drain(task_states(space, task, cache_dir=tmp_path / "stopped", batch_tokens=64))
    assert stopped.computed == 0
    for split in SPLITS:
        assert torch.equal(stopped.normed[split], whole.normed[split])


def test_a_damaged_or_foreign_file_is_not_used(spaces: Spaces, tmp_path: Path) -> None:
    space = spaces["llama"]
    task = planted_tasks.task(space, 20)
    drain(task_states(space, task, cache_dir=tmp_path))
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 64  # one bit of one state: still a finite number
    path.write_bytes(content)
    assert drain(task_states(space, task, cache_dir=tmp_path)).computed == 20
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(b"")
    assert drain(task_states(space, task, cache_dir=tmp_path)).computed == 20
    other = spaces["qwen3"]
    same_ids = replace(planted_tasks.task(other, 20), ids=task.ids)
    assert drain(task_states(other, same_ids, cache_dir=tmp_path)).computed == 20


def test_a_folder_that_cannot_be_written_is_no_error(spaces: Spaces, tmp_path: Path) -> None:
    block = tmp_path / "file"
    block.write_text("in the way")
    states = drain(
        task_states(spaces["llama"], planted_tasks.task(spaces["llama"], 20), cache_dir=block)
    )
    assert states.computed == 20


def test_layers_that_are_not_there(spaces: Spaces) -> None:
    space = spaces["llama"]
    task = planted_tasks.task(space, 20)
    with pytest.raises(LayerError):
        drain(task_states(space, task, layers=(9,)))
    states = drain(task_states(space, task))
    with pytest.raises(LayerError, match="were not taken"):
        states.at(1)


def test_states_that_are_no_numbers_name_the_line(spaces: Spaces) -> None:
    space = spaces.fresh("nan")
    task = make_task(TaskSpec(template="{text}"), planted_tasks.table(20), space.model)
    with pytest.raises(NonFiniteError, match="line"):
        drain(task_states(space, task))


def test_the_store_is_bounded_and_forgets_what_was_read_longest_ago(
    spaces: Spaces, tmp_path: Path
) -> None:
    space = spaces["llama"]
    tasks = [
        make_task(TaskSpec(template=f"{{text}} {n}"), planted_tasks.table(20), space.model)
        for n in range(3)
    ]
    for task in tasks:
        drain(task_states(space, task, cache_dir=tmp_path))
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3
    for i, path in enumerate(files):
        os.utime(path, (1000 + i, 1000 + i))
    drain(task_states(space, tasks[0], cache_dir=tmp_path))  # reads its own file again
    (fresh,) = [p for p in files if p.stat().st_mtime > 10_000]
    store = features._Store(tmp_path, space.model.fingerprint, (3,))
    store.trim(limit=2 * fresh.stat().st_size)
    left = sorted(tmp_path.rglob("*.safetensors"))
    assert fresh in left
    assert len(left) == 2
    assert drain(task_states(space, tasks[0], cache_dir=tmp_path)).computed == 0


def test_states_beyond_the_memory_are_refused(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = spaces["llama"]
    task = planted_tasks.task(space, 20)
    memory = type("Memory", (), {"available": 1000})
    monkeypatch.setattr(features.psutil, "virtual_memory", memory)
    with pytest.raises(BudgetExceeded, match="fewer texts"):
        drain(task_states(space, task))
