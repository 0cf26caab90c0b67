"""Training a toy: it learns, it resumes where it stopped, it ends when its time is used up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import pytest
import torch

from training.config import Config
from training.data import Mixture, open_streams
from training.train import CHECKPOINT, Record, Run, rate, train

CPU = torch.device("cpu")


def _records(run: Run, work: Path, folder: Path, **options: object) -> Iterator[Record]:
    config = run.config
    stream, _ = open_streams(work / "packed", "toy")
    mixture = Mixture({"toy": stream}, config.weights, config.context, config.seed)
    return train(run, mixture, mixture, folder, **options)  # type: ignore[arg-type]


def test_a_few_steps_lower_the_loss(toy_work: Path, toy_config: Config, tmp_path: Path) -> None:
    """From the loss of chance, the toy language is learned to less than half of it."""
    records = list(_records(Run.start(toy_config, 0, CPU), toy_work, tmp_path))
    assert [record.step for record in records] == list(range(1, toy_config.steps + 1))
    assert records[0].loss == pytest.approx(torch.log(torch.tensor(512.0)).item(), abs=0.1)
    assert records[-1].valid is not None
    assert records[-1].valid["toy"] < records[0].loss / 2
    assert records[-1].tokens == toy_config.steps * toy_config.rows * toy_config.context


def test_a_resumed_run_is_the_uninterrupted_run(
    toy_work: Path, toy_config: Config, tmp_path: Path
) -> None:
    """Losses and weights after the interruption are equal to the last bit."""
    whole = Run.start(toy_config, 0, CPU)
    expected = [record.loss for record in _records(whole, toy_work, tmp_path)]
    other = tmp_path / "other"
    other.mkdir()
    # Stopped three steps after the checkpoint of step 20: those three are done again.
    list(islice(_records(Run.start(toy_config, 0, CPU), toy_work, other), 23))
    resumed = Run.resume(other / CHECKPOINT, CPU)
    assert resumed.step == 20
    assert [record.loss for record in _records(resumed, toy_work, other)] == expected[20:]
    for before, after in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_the_seed_decides_the_weights(toy_config: Config) -> None:
    """Two runs of a seed begin alike; another seed begins elsewhere."""
    first, same, other = (
        Run.start(replace(toy_config, seed=seed), 0, CPU).model.lm_head.weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_run_limited_by_time_ends_with_its_schedule(
    toy_work: Path, toy_config: Config, tmp_path: Path
) -> None:
    """With a clock of a second a reading and half a minute, the last rate is nearly zero."""
    readings = count(start=100.0)
    run = Run.start(replace(toy_config, steps=10_000), 0, CPU)
    records = list(
        _records(run, toy_work, tmp_path, minutes=0.5, clock=lambda: float(next(readings)))
    )
    assert len(records) == 30
    assert records[-1].rate == pytest.approx(1 / 30, abs=1e-3)
    assert records[-1].valid is not None
    assert Run.resume(tmp_path / CHECKPOINT, CPU).seconds == 30.0


def test_the_rate_rises_then_falls_to_zero() -> None:
    """It lies in [0, 1], starts near zero, peaks after the warm-up and ends at zero."""
    rates = [rate(step, step / 100, warmup_steps=10) for step in range(101)]
    assert max(rates) == rates[9]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[100] == 0.0
