"""The Kneser–Ney n-gram: by hand, by the definition, and as a distribution."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from training.kneserney import KneserNey, fit
from training.ngrams import fit_ngrams, sample

A, B, C, D = range(4)
TEXT = (A, B, A, C, A, B)
"""Pairs ab twice, ba, ac and ca once."""


class KneserNeyByHand:
    """The formula word for word, with dictionaries of tuples."""

    def __init__(self, stream: tuple[int, ...], symbols: int, order: int) -> None:
        self.symbols, self.order = symbols, order
        runs = {
            k: Counter(stream[i : i + k] for i in range(len(stream) - k + 1))
            for k in range(1, order + 1)
        }
        self.counts = {order: runs[order]}
        for k in range(1, order):  # how many different symbols stand before each k-gram
            self.counts[k] = Counter(run[1:] for run in runs[k + 1])
        self.discounts = {}
        for k, counts in self.counts.items():
            once = sum(n == 1 for n in counts.values())
            twice = sum(n == 2 for n in counts.values())
            self.discounts[k] = once / (once + 2 * twice) if once else 0.5

    def probability(self, history: tuple[int, ...], symbol: int, k: int | None = None) -> float:
        k = min(self.order, len(history) + 1) if k is None else k
        if k == 0:
            return 1 / self.symbols
        h = history[len(history) - k + 1 :]
        after = {run[-1]: n for run, n in self.counts[k].items() if run[:-1] == h}
        lower = self.probability(history, symbol, k - 1)
        if not after:
            return lower
        total, discount = sum(after.values()), self.discounts[k]
        kept = max(after.get(symbol, 0) - discount, 0.0)
        return kept / total + discount * len(after) / total * lower


def by_definition(stream: Sequence[int], symbols: int, order: int) -> KneserNeyByHand:
    return KneserNeyByHand(tuple(stream), symbols, order)


@pytest.mark.parametrize(
    ("history", "symbol", "expected"),
    [
        # D_2 = 3/(3 + 2·1), D_1 = 2/(2 + 2·1); p_1 = 1/2, 1/4, 1/4 for a, b, c.
        ((A,), A, 0.4 * 0.5),
        ((A,), B, (2 - 0.6) / 3 + 0.4 * 0.25),
        ((A,), C, (1 - 0.6) / 3 + 0.4 * 0.25),
        ((B,), A, 0.4 + 0.6 * 0.5),
        ((C,), B, 0.6 * 0.25),
        ((), A, 0.5),
        ((), C, 0.25),
    ],
)
def test_a_tiny_text_computed_by_hand(
    history: tuple[int, ...], symbol: int, expected: float
) -> None:
    """Six symbols, order 2: the probabilities that the formula gives on paper."""
    model = fit(TEXT, symbols=3, order=2)
    assert model.probabilities([*history, symbol])[-1] == pytest.approx(expected, abs=1e-12)


def test_the_discounts_of_the_tiny_text() -> None:
    """n₁/(n₁ + 2n₂) of each order."""
    model = fit(TEXT, symbols=3, order=2)
    assert [level.discount for level in model.levels] == pytest.approx([0.5, 0.6])


def test_an_unseen_symbol_and_an_unseen_context() -> None:
    """What was never seen has its share of the uniform; after it, the lower order answers."""
    model = fit(TEXT, symbols=4, order=2)
    assert model.probabilities([D])[0] == pytest.approx(0.5 * 3 / 4 / 4)
    assert np.allclose(model.distribution([D]), model.distribution([]))


def test_nothing_is_impossible() -> None:
    """Where nothing was seen just once the unseen still have a share: no bit count is infinite."""
    model = fit([A] * 9, symbols=3, order=1)
    assert model.distribution([]) == pytest.approx([1 - 1 / 18 * 2 / 3, 1 / 54, 1 / 54])


@settings(max_examples=60, deadline=None)
@given(
    stream=st.lists(st.integers(0, 3), min_size=5, max_size=80),
    history=st.lists(st.integers(0, 4), max_size=6),
    order=st.integers(1, 5),
)
def test_it_is_the_definition_and_sums_to_one(
    stream: list[int], history: list[int], order: int
) -> None:
    """After any history, seen or not, every probability is the definition's and they sum to 1."""
    model, hand = fit(stream, symbols=5, order=order), by_definition(stream, 5, order)
    found = model.distribution(history)
    expected = [hand.probability(tuple(history), symbol) for symbol in range(5)]
    assert np.allclose(found, expected, atol=1e-12)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert (found > 0).all()


def test_a_stream_is_scored_symbol_by_symbol() -> None:
    """The bits of a stream are those of its symbols, each after all that stand before it."""
    rng = np.random.default_rng(0)
    stream, other = rng.integers(0, 6, 400), rng.integers(0, 6, 60)
    model, hand = fit(stream, symbols=6, order=4), by_definition(stream.tolist(), 6, 4)
    row = tuple(other.tolist())
    expected = -sum(math.log2(hand.probability(row[:i], row[i])) for i in range(5, len(row)))
    assert model.bits_of(other, first=5) == pytest.approx(expected, rel=1e-12)


def test_longer_orders_learn_longer_patterns() -> None:
    """A text that repeats after four symbols needs an order that sees far enough back."""
    pattern = [0, 1, 0, 2] * 60
    bits = [fit(pattern, 3, order).bits_of(pattern, 8) for order in (1, 2, 3, 4)]
    assert bits[0] > 2 * bits[1] > 20 * bits[2]


@pytest.mark.parametrize(
    ("stream", "symbols", "order", "says"),
    [
        ([0, 1, 2], 2, 1, r"in \[0, 2\)"),
        ([0, -1], 2, 1, r"in \[0, 2\)"),
        ([0] * 20, 256, 9, "order 1 to 8; got 9"),
        ([0] * 20, 256, 0, "order 1 to 8; got 0"),
        ([0, 1], 2, 3, "needs 3 symbols; got 2"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    stream: list[int], symbols: int, order: int, says: str
) -> None:
    """One sentence that says what is allowed."""
    with pytest.raises(ValueError, match=says):
        fit(stream, symbols, order)


def test_bits_per_byte_of_both_readers(small_model: Path) -> None:
    """Bytes and tokens of the same text are charged for the same bytes, by the same formula."""
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    texts = ["The cat sat on the mat. Naïve café!", "The cat saw the dog, and the dog the cat."]
    held_out = ["The dog sat on the cat.", "Über all."]
    size = sum(len(text.encode()) for text in held_out)
    by_bytes, by_tokens = fit_ngrams(texts, tokenizer, len(tokenizer))
    streams = {
        by_bytes.name: [[0, *text.encode()] for text in held_out],
        by_tokens.name: [[0, *tokenizer.encode(text)] for text in held_out],
    }
    assert tokenizer.bos_token_id == 0
    for ngram in (by_bytes, by_tokens):
        hand = by_definition(_training_stream(ngram.name, texts, tokenizer), *_shape(ngram.model))
        bits = -sum(
            math.log2(hand.probability(tuple(row[:i]), row[i]))
            for row in streams[ngram.name]
            for i in range(1, len(row))
        )
        assert ngram.bits_per_byte(held_out) == pytest.approx(bits / size, rel=1e-9)


def _training_stream(name: str, texts: list[str], tokenizer: object) -> list[int]:
    encode = (lambda t: list(t.encode())) if name.startswith("byte") else tokenizer.encode  # type: ignore[attr-defined]
    return [0, *encode(texts[0]), 0, *encode(texts[1]), 0]


def _shape(model: KneserNey) -> tuple[int, int]:
    return model.symbols, model.order


def test_the_sample_keeps_the_shares(tmp_path: Path) -> None:
    """Each source gives its share of the bytes, cut to it, and no half character."""
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("é" * 5000, encoding="utf-8")
    places = {name: tmp_path / f"{name}.txt" for name in "ab"}
    first, second = sample(places, {"a": 3.0, "b": 1.0}, 1001)
    assert (len(first.encode()), len(second.encode())) == (750, 250)
