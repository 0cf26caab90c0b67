"""The tokenizers: label words whole, and every string back unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from training.tokenizer import LABEL_WORDS, train_tokenizer

HOSTILE = (
    "",
    " ",
    "\n\n\t  \r\n",
    "  two spaces before and after  ",
    "don't you'll I'M",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈",
    "漢字とかなカナ",
    "naïve café e\u0301",
    "\u202egnihton\u202c \u200b\ufeff",
    "<script>alert('x')</script>",
    "\x00\x01\x7f",
    "a" * 1000,
    "0123456789 3.14159 1,000,000",
)


@pytest.fixture(scope="module")
def shipped(small_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model)


@pytest.mark.parametrize("word", LABEL_WORDS)
def test_a_label_word_is_one_token_of_the_small_model(shipped: Any, word: str) -> None:
    """A label word with a space before it is a single token, alone and in a sentence."""
    (token,) = shipped.encode(f" {word}", add_special_tokens=False)
    assert shipped.decode([token]) == f" {word}"
    assert token in shipped.encode(f"The label is {word}.", add_special_tokens=False)


def test_label_words_are_learned_not_added(shipped: Any) -> None:
    """The only added token is end-of-text: label words have their merges."""
    assert list(shipped.get_added_vocab()) == ["<|endoftext|>"]
    assert shipped.bos_token_id == shipped.eos_token_id == 0


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_unchanged(shipped: Any, text: str) -> None:
    """Encoding then decoding is the identity, and encoding adds no token of its own."""
    assert shipped.decode(shipped.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_comes_back_unchanged(toy_tokenizer: Tokenizer, text: str) -> None:
    """A tokenizer that has seen only plain English sentences encodes every string."""
    ids = toy_tokenizer.encode(text).ids
    # The mark itself, spelled out, is the mark: the only text that does not come back as text.
    assert toy_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_offsets_tile_the_text(shipped: Any) -> None:
    """The offsets of plain text lie side by side and cover it."""
    text = "Offsets of tokens, side by side; 42 of them."
    offsets = shipped(text, return_offsets_mapping=True)["offset_mapping"]
    assert "".join(text[start:end] for start, end in offsets) == text


def test_bytes_of_rare_characters_share_the_character(shipped: Any) -> None:
    """A character split over several tokens gives each of them its own place in the text."""
    text = "A 漢 and 🙂."
    offsets = shipped(text, return_offsets_mapping=True)["offset_mapping"]
    assert {text[start:end].strip() for start, end in offsets} >= {"漢", "🙂"}
    assert offsets == sorted(offsets)


def test_the_same_text_gives_the_same_tokenizer(tmp_path: Path) -> None:
    """Training is deterministic."""
    text = tmp_path / "text.txt"
    text.write_text("one two three four five six seven " * 50)
    first, second = (
        train_tokenizer({"a": text}, {"a": 1.0}, 512, sample_bytes=10_000) for _ in range(2)
    )
    assert first.to_str() == second.to_str()


def test_a_vocabulary_too_small_for_the_labels_is_refused(tmp_path: Path) -> None:
    """The message names the words that are not single tokens."""
    text = tmp_path / "text.txt"
    text.write_text("nothing much")
    with pytest.raises(ValueError, match=r"with 300 tokens these are not: .*technology"):
        train_tokenizer({"a": text}, {"a": 1.0}, 300, sample_bytes=10_000)
