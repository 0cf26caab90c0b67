"""A calibration on disk: the same bits again, whole or not there, and one model's only."""

from __future__ import annotations

import json
from pathlib import Path

import planted_tasks
import pytest
import torch
from same_numbers import assert_same
from tiny_models import Spaces

from engine.calibration.training import artifact
from engine.calibration.training.artifact import load_calibration, read_info, save
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.calibration.training.tuning import predict
from engine.errors import ArtifactError
from engine.progress import drain

CASES = [
    ("llama", {}),
    ("phi", {"loss": "mm", "inference": "mm", "pooling": "groups", "standardise": False}),
    ("gemma2", {"centroids": "vocabulary", "inference_over": "vocabulary"}),
    ("llama", {"frame": "random", "start": "random"}),
    ("llama", {"target": "head"}),
    ("phi", {"target": "head", "loss": "mm", "inference": "mm", "centroids": "vocabulary",
             "inference_over": "vocabulary"}),
    ("llama", {"target": "layers:1"}),
    ("gpt2", {"target": "lora", "rank": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_a_reopened_calibration_gives_the_same_numbers(
    spaces: Spaces, tmp_path: Path, name: str, settings: dict
) -> None:
    space = spaces[name]
    task = planted_tasks.task(space, 90)
    states = drain(task_states(space, task))
    made = drain(calibrate(space, states, task, CalibrationOptions(epochs=2, **settings)))
    folder = save(made, tmp_path / "one", extra={"accuracy": 0.5, "none": float("nan")})
    assert sorted(p.name for p in folder.iterdir()) == ["calibration.json", "weights.safetensors"]
    again = load_calibration(folder, space)
    one = drain(predict(made, space, states, task))
    two = drain(predict(again, space, states, task))
    assert_same(two.scores, one.scores)
    assert_same(two.probabilities, one.probabilities)
    assert artifact.describe(again)["options"] == artifact.describe(made)["options"]
    assert str(again.history) == str(made.history)  # NaN is not equal to itself
    assert again.label_names == made.label_names
    assert again.stored_bytes == made.stored_bytes > 0
    info = read_info(folder)
    assert info["extra"] == {"accuracy": 0.5, "none": None}
    assert info["task"]["fingerprint"] == task.fingerprint
    assert info["versions"]["torch"] == torch.__version__


@pytest.fixture
def saved(spaces: Spaces, tmp_path: Path) -> Path:
    space = spaces["llama"]
    task, states = planted_tasks.planted(space, 60)
    made = drain(calibrate(space, states, task, CalibrationOptions(epochs=1)))
    return save(made, tmp_path / "one")


def test_a_foreign_models_is_refused_with_a_sentence(saved: Path, spaces: Spaces) -> None:
    with pytest.raises(ArtifactError) as caught:
        load_calibration(saved, spaces["qwen3"])
    message = str(caught.value)
    assert "belongs to" in message
    assert "\n" not in message


def test_damage_is_found(saved: Path, spaces: Spaces) -> None:
    space = spaces["llama"]
    weights, info = saved / artifact.WEIGHTS, saved / artifact.INFO
    whole, text = weights.read_bytes(), info.read_text(encoding="utf-8")
    flipped = bytearray(whole)
    flipped[-3] ^= 32
    plain = json.loads(text)
    for content, said in (
        (bytes(flipped), text),
        (whole[:100], text),
        (b"", text),
        (whole, text[:-20]),
        (whole, "[]"),
        (whole, json.dumps(plain | {"format": "lexiscope calibration 99"})),
        (whole, json.dumps({k: v for k, v in plain.items() if k != "options"})),
        (whole, json.dumps(plain | {"options": {"target": "moon"}})),
        (whole, json.dumps(plain | {"history": [{"number": "x"}]})),
        (whole, json.dumps(plain | {"task": {}})),
    ):
        weights.write_bytes(content)
        info.write_text(said, encoding="utf-8")
        with pytest.raises(ArtifactError) as caught:
            load_calibration(saved, space)
        assert "\n" not in str(caught.value)
    with pytest.raises(ArtifactError, match="no calibration"):
        load_calibration(saved.parent / "none", space)


@pytest.mark.parametrize("part", ["_flush", "save_file", "_digest"])
def test_a_save_that_fails_leaves_nothing_or_the_old_one(
    saved: Path, spaces: Spaces, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    made = load_calibration(saved, spaces["llama"])
    before = {p.name: p.read_bytes() for p in saved.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, part, full)
    for folder in (saved, saved.parent / "two"):
        with pytest.raises(ArtifactError, match="No space"):
            save(made, folder)
    monkeypatch.undo()
    assert [p.name for p in saved.parent.iterdir()] == ["one"]
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_a_folder_is_replaced_whole(saved: Path, spaces: Spaces) -> None:
    made = load_calibration(saved, spaces["llama"])
    (saved / "old.txt").write_text("left over")
    save(made, saved)
    assert sorted(p.name for p in saved.iterdir()) == ["calibration.json", "weights.safetensors"]
    assert [p.name for p in saved.parent.iterdir()] == ["one"]
