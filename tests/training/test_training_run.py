"""Training a toy: it learns, it resumes where it stopped, it ends when its time is used up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from toy_language import toy_text

from training.config import CONFIGS, LARGE, Config
from training.data import Mixture, open_streams, pack_source
from training.export import SHARD_BYTES
from training.model import build
from training.train import CHECKPOINT, Record, Run, batch, main, rate, train

pytestmark = pytest.mark.slow

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


def test_the_first_steps_have_short_rows(toy_work: Path, toy_config: Config) -> None:
    """As many tokens a step as the others: twice the rows of half the length, up to the border."""
    stream, _ = open_streams(toy_work / "packed", "toy")
    mixture = Mixture({"toy": stream}, toy_config.weights, toy_config.context, toy_config.seed)
    assert [tuple(batch(toy_config, mixture, step).shape) for step in (0, 14, 15, 39)] == [
        (16, 17), (16, 17), (8, 33), (8, 33),
    ]  # fmt: skip
    whole = replace(toy_config, short_context=None)
    assert torch.equal(batch(whole, mixture, 0), mixture.batch(0, toy_config.rows))


def test_rows_that_do_not_fit_are_refused(toy_config: Config) -> None:
    """Short rows that do not divide the long ones, and rows longer than the model can read."""
    with pytest.raises(ValueError, match="divide the context of 32 tokens; got 12"):
        replace(toy_config, short_context=12)
    with pytest.raises(ValueError, match=r"at most 64 tokens.*got 128"):
        replace(toy_config, context=128)


def test_the_command_can_make_a_run_longer(
    toy_work: Path,
    toy_tokenizer: Tokenizer,
    toy_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`--steps` sets the length of a run that resumes, and the checkpoint remembers it."""
    work, text = tmp_path / "work", tmp_path / "text"
    text.mkdir()
    for seed, split in enumerate(("train", "valid")):
        (text / f"{split}.txt").write_text(toy_text(seed))
    shutil.copytree(toy_work / "tokenizer", work / "tokenizer")
    pack_source("toy", text, toy_tokenizer, work / "packed")
    monkeypatch.setitem(CONFIGS, "toy", toy_config)
    command = ["--config", "toy", "--work", str(work), "--device", "cpu", "--no-compile"]
    main([*command, "--steps", "4"])
    assert Run.resume(work / "toy" / CHECKPOINT, CPU).config.steps == 4
    main([*command, "--steps", "7"])
    longer = Run.resume(work / "toy" / CHECKPOINT, CPU)
    assert (longer.step, longer.config) == (7, replace(toy_config, steps=7))


def test_the_large_model_has_the_size_that_may_be_shipped() -> None:
    """20 to 30 million parameters; bfloat16 in four shards at most, under 60 MB."""
    with torch.device("meta"):
        model = build(LARGE, 0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 20e6 <= parameters <= 30e6
    assert 2 * parameters <= 60e6
    assert 2 * max(parameter.numel() for parameter in model.parameters()) <= SHARD_BYTES
    assert LARGE.steps * LARGE.rows * LARGE.context >= 300e6


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
