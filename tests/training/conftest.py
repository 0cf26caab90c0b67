"""A toy language made here, a tokenizer trained on it, and a network small enough to train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from toy_language import toy_text

from training.config import SMALL, Config
from training.data import pack_source
from training.tokenizer import save_tokenizer, train_tokenizer

SMALL_MODEL = Path(__file__).parents[2] / "models" / "small"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a network is faster on one thread, and its sums have one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toy_config() -> Config:
    """Forty steps of a two-block network."""
    return replace(
        SMALL,
        name="toy",
        vocab_size=512,
        width=32,
        layers=2,
        heads=2,
        hidden=64,
        context=32,
        short_context=16,
        short_steps=15,
        positions=64,
        weights={"toy": 1.0},
        rows=8,
        rows_at_once=4,
        steps=40,
        warmup_steps=5,
        valid_every_steps=40,
        valid_rows=8,
        save_every_steps=20,
    )


@pytest.fixture(scope="session")
def toy_work(tmp_path_factory: pytest.TempPathFactory, toy_config: Config) -> Path:
    """A work folder with the toy's tokenizer and packed text."""
    work = tmp_path_factory.mktemp("work")
    text = work / "toy.txt"
    text.write_text(toy_text(0))
    tokenizer = train_tokenizer(
        {"toy": text}, toy_config.weights, toy_config.vocab_size, sample_bytes=100_000
    )
    save_tokenizer(tokenizer, work / "tokenizer", toy_config.positions)
    pack_source("toy", text, tokenizer, work / "packed")
    return work


@pytest.fixture(scope="session")
def toy_tokenizer(toy_work: Path) -> Tokenizer:
    """The toy's tokenizer."""
    return Tokenizer.from_file(str(toy_work / "tokenizer" / "tokenizer.json"))


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The folder of the shipped small model."""
    if not (SMALL_MODEL / "model.safetensors").exists():
        pytest.skip("models/small holds no weights: train and export them first")
    return SMALL_MODEL
