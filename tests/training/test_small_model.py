"""The shipped small model: a language model in earnest, though a small one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.evaluate import score

SENTENCES = (
    "The old man opened the door and looked out into the garden where the children played.",
    "She had been waiting for the letter all morning, and when it came she dared not read it.",
    "A company that raises its prices too far will lose its customers to another company.",
    "The heart pumps blood through the body, and the blood carries oxygen to the cells.",
    "The president may veto a bill, and the congress may then vote on it again.",
)
"""Written for this test."""

MARGIN = 0.5
"""Nats per token by which context must help."""

CHANCE_MARGIN = 4.0
"""Nats per token by which it must beat a uniform guess: as if among a fiftieth of the tokens."""

HELD_OUT = Path(__file__).parents[3] / "shared" / "data" / "corpus" / "openstax-ccby"


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model)


@pytest.fixture(scope="module")
def model(small_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32).eval()


def test_its_frames_are_two(model: Any) -> None:
    """Embedding and head are different matrices with different values."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert embedding.shape == head.shape
    assert not torch.allclose(embedding, head)


def test_every_token_has_a_direction(model: Any) -> None:
    """No row of either frame is zero, that of end-of-text included: each was trained."""
    for frame in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        assert float(frame.detach().norm(dim=1).min()) > 0.0


def test_it_beats_its_own_unigram(model: Any, tokenizer: Any) -> None:
    """With context it predicts new sentences far better than its mean prediction does."""
    rows = [[tokenizer.bos_token_id, *tokenizer.encode(sentence)] for sentence in SENTENCES]
    with torch.no_grad():
        given = torch.cat([model(torch.tensor([row[:-1]])).logits[0].softmax(-1) for row in rows])
    targets = torch.tensor([token for row in rows for token in row[1:]])
    floor = -given.mean(0)[targets].log().mean()
    assert score(model, tokenizer, SENTENCES, window=256).loss < float(floor) - MARGIN


def test_it_beats_chance_and_a_compressor(model: Any, tokenizer: Any) -> None:
    """It needs fewer bits than a uniform guess over the vocabulary and than `xz`."""
    measured = score(model, tokenizer, SENTENCES, window=256)
    assert measured.loss < math.log(len(tokenizer)) - CHANCE_MARGIN
    assert measured.bits_per_byte < measured.xz_bits_per_byte / 2


def test_word_order_matters_to_it(model: Any, tokenizer: Any) -> None:
    """The words of a sentence backwards are less likely: more than a unigram was learned."""
    backwards = [" ".join(reversed(sentence.split())) for sentence in SENTENCES]
    forwards = score(model, tokenizer, SENTENCES, window=256).loss
    assert forwards + MARGIN < score(model, tokenizer, backwards, window=256).loss
