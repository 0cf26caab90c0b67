"""Where padding shows in a model's states, texts of one length go through it together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import planted_tasks
import pytest
from tiny_models import made

from engine import load
from engine.calibration.evidence import peft_tuning
from engine.calibration.training import tuning
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.model import texts
from engine.progress import drain


def test_no_training_step_pads_a_model_in_which_padding_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is learned from and what is tested are each text's states alone."""
    folder = made(
        "ConvBertForMaskedLM", tmp_path, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, max_position_embeddings=64,
        embedding_size=16, head_ratio=2, conv_kernel_size=3,
    )  # fmt: skip
    space = load(folder, device="cpu", offline=True, cache_dir=tmp_path / "cache")
    task = planted_tasks.task(space, 40)
    lengths = {len(ids) for ids in task.ids["train"]}
    assert len(lengths) > 1, "a task of one length would show nothing"
    seen: list[set[int]] = []

    def padded(batch: Any, filler: int = 0) -> Any:
        seen.append({len(ids) for ids in batch})
        return texts.padded(batch, filler)

    for module in (tuning, peft_tuning):
        monkeypatch.setattr(module, "padded", padded)
    states = drain(task_states(space, task))
    options = CalibrationOptions(target="layers:1", epochs=1, learning_rate=1e-3, patience=0)
    drain(calibrate(space, states, task, options))
    assert seen
    assert all(len(one) == 1 for one in seen)
    for row, ids in enumerate(task.ids["train"][:8]):
        alone = space.model.read_out(space.model.states(ids).raw[-1, -1:])[0]
        found = states.normed["train"][row]
        assert (found - alone).abs().max() <= 1e-5 * alone.abs().max()
