"""Semantic neighbours: against a brute-force search, and on a head with planted fields."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import engine
from engine.space import LatentSpace
from training.neighbours import ASKED, FIELDS, NEAREST, belongs, chosen_words, neighbours

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def space(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentSpace:
    return engine.load(small_model, cache_dir=tmp_path_factory.mktemp("cache"))


def test_the_fields_are_ten_and_do_not_overlap() -> None:
    """Ten fields of 12 to 25 words; no word stands twice or in two fields."""
    assert len(FIELDS) == 10
    assert all(12 <= len(words) <= 25 for words in FIELDS.values())
    words = [word for field in FIELDS.values() for word in field]
    assert len(set(words)) == len(words)


def test_fifty_words_are_asked_of_the_small_model(space: LatentSpace) -> None:
    """Five of each field, each of them one token; the words come in the order of the lists."""
    chosen = chosen_words(space)
    assert len(chosen) == 10 * ASKED
    for field, word, token in chosen:
        assert space.vocabulary.texts[token].strip() == word
        assert word in FIELDS[field]
    for field, words in FIELDS.items():
        places = [words.index(word) for name, word, _ in chosen if name == field]
        assert places == sorted(places)
        assert len(places) == ASKED


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        (" cats", "dog", True),
        ("Cat", "dog", True),
        (" cat", "cat", False),
        (" Cats", "cat", False),
        (" catalogue", "dog", False),
        (" red", "dog", False),
        ("", "dog", False),
    ],
)
def test_what_counts_as_another_word(text: str, word: str, expected: bool) -> None:
    """Case and a plural s do not matter; the word itself and other fields' words do not count."""
    assert belongs(text, word, FIELDS["animals"]) is expected


def test_nearest_equals_a_search_by_hand(space: LatentSpace) -> None:
    """In float64 over the explicit pseudo-inverse and the explicit rows, the same five tokens."""
    found = neighbours(space, ("output", "head", "input"))
    head = space.model.anatomy.weight.detach().double()
    vectors = {
        "output": torch.linalg.pinv(head).T,
        "head": head,
        "input": space.model.anatomy.embedding.weight.detach().double(),
    }
    for name, rows in vectors.items():
        unit = rows / rows.norm(dim=1, keepdim=True)
        for (_, _, token), asked in zip(chosen_words(space), found[name].words, strict=True):
            cosines = (unit @ unit[token]).index_fill(0, torch.tensor([token]), -2.0)
            expected = [space.vocabulary.texts[i] for i in cosines.topk(NEAREST).indices.tolist()]
            assert list(asked.nearest) == expected
            assert asked.found == any(
                belongs(text, asked.word, FIELDS[asked.field]) for text in expected
            )
    shares = [np.mean([w.found for w in f.words]) for f in found.values()]
    assert [f.share.value for f in found.values()] == pytest.approx(shares)
    assert all(f.share.low <= f.share.value <= f.share.high for f in found.values())


def test_planted_fields_are_found_and_the_control_is_not(
    small_model: Path, tmp_path: Path, space: LatentSpace
) -> None:
    """In a head whose field words share a direction every word is found, in random rows hardly."""
    model = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    draw = torch.Generator().manual_seed(0)
    head = model.get_output_embeddings().weight
    tokens = {text.strip(): i for i, text in enumerate(space.vocabulary.texts) if text[:1] == " "}
    with torch.no_grad():
        head.copy_(torch.randn(head.shape, generator=draw))
        for words in FIELDS.values():
            centre = 4 * torch.randn(head.shape[1], generator=draw)
            for word in words:
                if word in tokens:
                    head[tokens[word]] += centre
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(small_model / name, tmp_path / name)
    planted = engine.load(tmp_path, cache_dir=tmp_path / "cache")
    found = neighbours(planted, ("head", "output", "random"))
    assert found["head"].share.value == 1.0
    assert found["output"].share.value == 1.0
    assert found["random"].share.value < 0.2
