"""A tiny seeded model with hostile tokens, and the app around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from asgi import BASE, HOSTILE, PROMPT, load_tiny, settings_with
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from starlette.testclient import TestClient
from tiny_models import byte_level
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from app.main import create_app
from engine import LatentSpace

# A busy machine must not decide about a property.
settings.register_profile("app", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("app")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of three blocks, with a byte-level tokenizer that was made here."""
    folder = tmp_path_factory.mktemp("tiny")
    texts = [f"{PROMPT}. The dog sat on the cat."] * 4
    raw = byte_level(texts, 320, special=["<|endoftext|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    tokenizer.add_tokens(HOSTILE)
    tokenizer.save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=24,
        n_layer=3,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = GPT2LMHeadModel(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny model's decomposition is kept between loads."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def space(model_folder: Path, cache: Path) -> LatentSpace:
    """For the apps that a test makes, one after the other."""
    return load_tiny(model_folder, cache)


@pytest.fixture(scope="session")
def reference(model_folder: Path, cache: Path) -> LatentSpace:
    """For the test's own thread: what the engine says by itself."""
    return load_tiny(model_folder, cache)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine's environment reaches a test."""
    for name in [name for name in os.environ if name.upper().startswith("LEXISCOPE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def app(space: LatentSpace) -> FastAPI:
    """The app around the tiny model, not started."""
    return create_app(settings_with(), space)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the started app, under a name that it answers to."""
    with TestClient(app, base_url=BASE) as client:
        yield client


@pytest.fixture(scope="session")
def shared_client(model_folder: Path, cache: Path) -> Iterator[TestClient]:
    """One started app for tests that only read."""
    app = create_app(settings_with(), load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE) as client:
        yield client
