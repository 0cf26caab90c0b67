"""What is kept of long work is whole and its own, and work that goes on from it loses no bit."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import planted_tasks
import pytest
import torch
from tiny_models import Spaces

from engine import checkpoints
from engine.calibration.evidence import ablation, controls, evaluation
from engine.calibration.evidence.ablation import ablate
from engine.calibration.evidence.comparison import compare_before_after
from engine.calibration.evidence.evaluation import evaluate
from engine.calibration.evidence.protocol import MethodSettings
from engine.calibration.training import epochs
from engine.calibration.training.calibrated import Calibration
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.checkpoints import NOTHING, Checkpoints, sweep, tensor_digest
from engine.errors import OptionError
from engine.progress import Progress, Steps, drain

pytestmark = pytest.mark.slow

VALUES: dict[str, Any] = {"a": [1, 0.1 + 0.2, None], "b": math.inf, "text": "é\u202e"}
TENSORS = {
    "matrix": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
    "one": torch.tensor(7.0),
    "none": torch.empty(0, 4),
    "whole": torch.tensor([2**53 + 1]),
    "bytes": torch.Generator().manual_seed(3).get_state(),
    "half": torch.tensor([1.5, math.nan], dtype=torch.bfloat16),
}


def test_what_is_kept_comes_back_exactly(tmp_path: Path) -> None:
    place = Checkpoints(tmp_path / "work").of("a part", seed=1)
    assert place.load() is None
    assert place.save(TENSORS, VALUES, place="step 1 of 2")
    found = place.load()
    assert found is not None
    assert found.values == VALUES
    assert set(found.tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert tensor_digest(found.tensors[name]) == tensor_digest(tensor)
    assert tensor_digest(TENSORS["matrix"]) != tensor_digest(TENSORS["matrix"].reshape(2, 3))
    assert not list(tmp_path.rglob(".tmp-*"))


def test_what_belongs_to_other_work_is_not_used_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owner = Checkpoints(tmp_path)
    owner.of("a part", seed=1).save({}, {"n": 1})
    assert owner.of("another part", seed=1).load() is None
    assert not caplog.records
    assert owner.of("a part", seed=2).load() is None
    assert owner.of("a part", seed=1).keyed(model="x").load() is None
    assert caplog.text.count("is of other work") == 2
    same = owner.of("a part").keyed(seed=1).load()
    assert same is not None
    assert same.values == {"n": 1}


def test_no_damaged_file_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Checkpoints(tmp_path).of("a part")
    place.save({"t": torch.arange(8.0)}, {"n": 1, "long": "x" * 40}, place="here")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for cut in (0, 3, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert place.load() is None
        assert Checkpoints(tmp_path).place in (None, "here")
    used = 0
    for byte in range(len(whole)):
        flipped = bytearray(whole)
        flipped[byte] ^= 1
        path.write_bytes(flipped)
        found = place.load()
        if found is not None:  # the place and the name are for people only
            used += 1
            assert found.values == {"n": 1, "long": "x" * 40}
            assert torch.equal(found.tensors["t"], torch.arange(8.0))
    assert used < 40
    assert "damaged" in caplog.text


def test_a_full_disk_costs_the_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = Checkpoints(tmp_path).of("a part")
    assert place.save({}, {"n": 1})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert not place.save({}, {"n": 2})
    assert "was not kept" in caplog.text
    found = place.load()
    assert found is not None
    assert found.values == {"n": 1}
    assert len(list(tmp_path.iterdir())) == 1
    assert not Checkpoints(tmp_path, reserve=2**62).of("a part").save({}, {"n": 3})
    assert place.save({}, {"n": 4})


def test_what_is_flushed_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows flushes no file that was opened for reading."""
    fsync, flushed = os.fsync, []

    def strict(handle: int) -> None:
        os.write(handle, b"")
        flushed.append(handle)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", strict)
    assert Checkpoints(tmp_path / "kept").of("part").save({}, {"step": 1})
    assert flushed


def test_dropped_work_leaves_nothing_and_keeps_nothing(tmp_path: Path) -> None:
    owner = Checkpoints(tmp_path / "work")
    assert owner.place is None
    owner.of("one").save({}, {}, place="first")
    for path in (tmp_path / "work").iterdir():
        os.utime(path, (1000, 1000))
    owner.of("two").save({}, {}, place="second")
    owner.of("three").save({}, {})
    assert owner.place == "second"
    owner.drop()
    assert not owner.of("one").save({}, {})
    assert not owner.of("one").due
    assert not (tmp_path / "work").exists()
    assert NOTHING.of("one").load() is None
    assert not NOTHING.of("one").save({}, {})


def test_a_large_checkpoint_is_written_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    place = Checkpoints(tmp_path, every_s=30).of("a part")
    now[0] += 29
    assert not place.due
    now[0] += 1
    assert place.due
    write = checkpoints.write_aside

    def slow(path: Path, how: Callable[[Path], object]) -> None:
        write(path, how)
        now[0] += 10

    monkeypatch.setattr(checkpoints, "write_aside", slow)
    place.save({}, {})
    now[0] += 199
    assert not place.due
    now[0] += 2
    assert place.due


def test_old_folders_are_swept_and_young_ones_stay(tmp_path: Path) -> None:
    for name in ("old", "young"):
        Checkpoints(tmp_path / name).of("a part").save({}, {})
        (tmp_path / name / ".tmp-left").write_bytes(b"by a kill")
    (tmp_path / "empty").mkdir()
    (path,) = (tmp_path / "old").glob("*.safetensors")
    before = time.time() - 1000
    os.utime(path, (before, before))
    assert sweep(tmp_path, 500) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["young"]
    assert [p.suffix for p in (tmp_path / "young").iterdir()] == [".safetensors"]
    assert sweep(tmp_path / "absent", 500) == 0


# Work that goes on


def run_with_breaks(
    make: Callable[[Checkpoints], Steps[Any]], folder: Path, breaks: list[tuple[str, int]]
) -> tuple[Any, list[Progress]]:
    """Drive the work to its end, through interruptions after so many steps each.

    ``close`` is a server that ends in an orderly way; ``kill`` goes on from the files as they lay
    at that moment. Some steps are said by the clock, so a slow machine needs more of them to reach
    the first file; a kill waits for it.
    """
    seen: list[Progress] = []
    for number, (how, after) in enumerate(breaks):
        steps = make(Checkpoints(folder, every_s=0 if how == "kill" else 1e9))
        for _ in range(after):
            next(steps)
        if how == "kill":
            while not list(folder.glob("*.safetensors")):
                next(steps)
            lies = folder.with_name(f"{folder.name}-{number}")
            shutil.copytree(folder, lies)
            steps.close()
            folder = lies
        else:
            steps.close()
        assert list(folder.glob("*.safetensors"))
    steps = make(Checkpoints(folder, every_s=1e9))
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return end.value, seen


def told(calibration: Calibration) -> dict[str, Any]:
    """Everything of a calibration but its seconds, in values that compare exactly."""
    tensors = dict(calibration.tuned)
    if calibration.module is not None:
        tensors |= calibration.module.state_dict()
    tensors["centroids"] = calibration.centroids.labels
    return {
        "tensors": {name: tensor_digest(t) for name, t in tensors.items()},
        "history": [repr((e.number, e.train_loss, e.valid_loss, e.valid_accuracy))
                    for e in calibration.history],
        "best": calibration.best_epoch,
        "temperature": calibration.reading_temperature,
        "weights": calibration.trained_weights,
    }  # fmt: skip


BREAKS = [("close", 7), ("kill", 9), ("close", 1), ("kill", 4)]


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 9, "batch": 16},
        {"epochs": 9, "batch": 16, "dropout": 0.3, "start": "random", "pooling": "groups"},
        {"epochs": 60, "batch": 16, "patience": 8, "learning_rate": 0.02},
        {"target": "head", "epochs": 9, "batch": 16},
        {"target": "head", "centroids": "vocabulary", "inference_over": "vocabulary", "epochs": 6,
         "batch": 16},
        {"target": "layers:2", "epochs": 3, "batch": 12, "learning_rate": 2e-3},
        {"target": "lora", "rank": 2, "epochs": 3, "batch": 12, "learning_rate": 2e-2},
    ],
    ids=str,
)  # fmt: skip
def test_a_training_that_was_interrupted_ends_with_the_same_bits(
    spaces: Spaces, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "_STEP_SECONDS", -1.0)  # a step is one batch
    space = spaces["llama"]
    task = planted_tasks.task(space, 60)
    states = drain(task_states(space, task))
    options = CalibrationOptions(**settings)
    whole = drain(calibrate(space, states, task, options))

    def make(kept: Checkpoints) -> Steps[Calibration]:
        return calibrate(space, states, task, options, checkpoint=kept.of("training"))

    found, seen = run_with_breaks(make, tmp_path / "work", BREAKS)
    assert told(found) == told(whole)
    # It went on where it was: the first step says so, and fewer were left than there are in all.
    assert seen[0].done > 0
    assert len(found.history) > 1


def test_a_finished_training_is_not_trained_again_and_another_one_is(
    spaces: Spaces, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 60)
    place = Checkpoints(tmp_path).of("training")
    options = CalibrationOptions(epochs=4)
    whole = drain(calibrate(space, states, task, options, checkpoint=place))
    steps = calibrate(space, states, task, options, checkpoint=place)
    assert next(steps).done == whole.history[-1].number
    assert told(drain(steps)) == told(whole)
    for other in (CalibrationOptions(epochs=4, seed=1), CalibrationOptions(epochs=5)):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            next(calibrate(space, states, task, other, checkpoint=place))
            assert "other work" in caplog.text


def test_an_ablation_goes_on_after_its_last_training(
    spaces: Spaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "_STEP_SECONDS", -1.0)
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 60)
    base = CalibrationOptions(epochs=2, batch=32)
    wanted = {"frames": ("output", "random"), "losses": ("sm", "mm-exp"), "seeds": (0, 1)}
    trained: list[str] = []
    monkeypatch.setattr(ablation, "calibrate", counting(trained))
    whole = drain(ablate(space, task, states, base=base, **wanted)).to_dict()
    assert len(trained) == 8
    trained.clear()

    def make(kept: Checkpoints) -> Steps[Any]:
        return ablate(space, task, states, base=base, **wanted, kept=kept)

    found, _ = run_with_breaks(make, tmp_path / "work", [("close", 6), ("kill", 4), ("close", 7)])
    assert len(trained) == 8 + 3  # each of three was interrupted in a training
    assert "ended before the work was interrupted" in found.notes[0]
    assert without_times(found.to_dict()) == without_times(whole)


def test_a_comparison_goes_on_after_its_last_control(
    spaces: Spaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "_STEP_SECONDS", -1.0)
    space = spaces["llama"]
    task = planted_tasks.task(space, 60)
    states = drain(task_states(space, task))
    calibration = drain(calibrate(space, states, task, CalibrationOptions(epochs=2, batch=32)))
    trained: list[str] = []
    monkeypatch.setattr(controls, "calibrate", counting(trained))

    def make(kept: Checkpoints) -> Steps[Any]:
        return compare_before_after(space, task, states, calibration, kept=kept)

    whole = drain(make(NOTHING)).to_dict()
    assert len(trained) == 6
    trained.clear()
    breaks = [("kill", 30), ("close", 30), ("kill", 10)]
    found, _ = run_with_breaks(make, tmp_path / "work", breaks)
    assert 6 <= len(trained) <= 6 + 3
    assert without_times(found.to_dict()) == without_times(whole)


def test_a_table_of_methods_goes_on_after_its_last_method(
    spaces: Spaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = spaces["llama"]
    task = planted_tasks.task(space, 60)
    methods = ("zero-shot", "knn-prompting", "linear-probe", "ia3", "calibration-sm")
    settings = MethodSettings(adapter_epochs=1, calibration=CalibrationOptions(epochs=2))
    ran: list[str] = []
    run = evaluation.run_method

    def counted(method: Any, context: Any) -> Steps[Any]:
        ran.append(method.name)
        if method.name == "ia3":
            raise OptionError("this one is left out.")
        return (yield from run(method, context))

    monkeypatch.setattr(evaluation, "run_method", counted)

    def make(kept: Checkpoints) -> Steps[Any]:
        return evaluate(space, [task], methods, (0, 1), settings=settings, kept=kept)

    whole = drain(make(NOTHING)).to_dict()
    assert len(ran) == 9  # what is left out for one seed is left out for the others
    ran.clear()
    found, _ = run_with_breaks(make, tmp_path / "work", [("close", 12), ("kill", 12)])
    assert 9 <= len(ran) <= 9 + 2
    assert without_times(found.to_dict()) == without_times(whole)
    assert "before the work was interrupted" in str(found.to_dict())
    ran.clear()
    read: list[int] = []
    monkeypatch.setattr(evaluation, "prepare", lambda *a, **k: read.append(1))
    drain(make(Checkpoints(next(tmp_path.glob("work-1")))))
    assert ran == []
    assert read == []


def counting(trained: list[str]) -> Callable[..., Steps[Calibration]]:
    """`calibrate`, noting each call."""

    def counted(space: Any, states: Any, task: Any, options: Any, **more: Any) -> Steps[Any]:
        trained.append(options.loss)
        return (yield from calibrate(space, states, task, options, **more))

    return counted


def without_times(value: Any) -> Any:
    """The same document without what a clock or the process's memory has to do with."""
    if isinstance(value, dict):
        timed = {"seconds", "seconds_train", "seconds_infer", "peak_bytes", "notes", "findings"}
        return {k: without_times(v) for k, v in value.items() if k not in timed}
    if isinstance(value, list | tuple):
        return [without_times(v) for v in value]
    return repr(value)  # floats to the last bit, NaN too
