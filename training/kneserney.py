"""An interpolated Kneser–Ney n-gram: the floor that a language model of the same text must pass.

p_k(w | h) = max(c_k(hw) − D_k, 0)/c_k(h·) + D_k·N_k(h·)/c_k(h·) · p_{k−1}(w | h′)

h′ is h without its oldest symbol, N_k(h·) the number of different symbols seen after h, and
c_k(h·) = Σ_w c_k(hw). For the highest order c is the count; below it is the number of different
symbols seen before the k-gram. D_k = n₁/(n₁ + 2n₂) from the k-grams with c = 1 and c = 2, and ½
where none has c = 1, since D_k = 0 would leave nothing for what was not seen. A context that was
never seen hands over to the next lower order; p_0 is uniform. Kneser and Ney 1995, the interpolated
form of Chen and Goodman 1999; one discount per order.

Symbols are small numbers: bytes, or tokens. Knows nothing about files or tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Symbols = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.float64]

NO_SINGLES: Final = 0.5
"""D_k of an order none of whose k-grams has c = 1."""


@dataclass(frozen=True)
class Level:
    """All k-grams of one order, each packed into one number, the oldest symbol highest."""

    grams: Symbols
    """Different k-grams, ascending."""
    counts: npt.NDArray[np.int64]
    """c_k of each."""
    contexts: Symbols
    """Different beginnings of k − 1 symbols, ascending."""
    totals: npt.NDArray[np.int64]
    """c_k(h·) of each context."""
    followers: npt.NDArray[np.int64]
    """N_k(h·) of each context."""
    discount: float
    """D_k, in (0, 1]."""


@dataclass(frozen=True)
class KneserNey:
    """A fitted model; its probabilities sum to 1 over the symbols after every history."""

    symbols: int
    """How many different symbols there are."""
    bits: int
    """Bits of one packed symbol."""
    levels: tuple[Level, ...]
    """Orders 1 to n."""

    @property
    def order(self) -> int:
        """n: the longest k-gram."""
        return len(self.levels)

    @property
    def grams(self) -> int:
        """k-grams kept, all orders together."""
        return sum(len(level.grams) for level in self.levels)

    def probabilities(self, stream: npt.ArrayLike, first: int = 0) -> Numbers:
        """The probability of each symbol from position `first` on, given those before it.

        Args:
            stream: symbols, shape (n,).
            first: the positions before it are given, not scored.

        Returns:
            Shape (n − first,), each in (0, 1].

        Raises:
            ValueError: a symbol that the model does not have.
        """
        text = _checked(stream, self.symbols)
        result = np.full(len(text), 1.0 / self.symbols)
        for k, level in enumerate(self.levels, start=1):
            grams = _packed(text, k, self.bits)
            if len(grams) == 0:
                break
            here = result[k - 1 :]  # the positions that have k − 1 symbols before them
            counts = _look_up(level.grams, level.counts, grams)
            contexts = grams >> np.uint64(self.bits) if k > 1 else np.zeros_like(grams)
            totals = _look_up(level.contexts, level.totals, contexts)
            followers = _look_up(level.contexts, level.followers, contexts)
            seen = totals > 0
            kept = np.maximum(counts[seen] - level.discount, 0.0)
            shared = level.discount * followers[seen] * here[seen]
            here[seen] = (kept + shared) / totals[seen]
        return result[first:]

    def distribution(self, history: npt.ArrayLike) -> Numbers:
        """The probability of every symbol after a history, shape (symbols,)."""
        given = np.asarray(history, dtype=np.int64)
        before = given[max(0, len(given) - self.order + 1) :]
        return np.array(
            [self.probabilities([*before, symbol])[-1] for symbol in range(self.symbols)]
        )

    def bits_of(self, stream: npt.ArrayLike, first: int = 0) -> float:
        """−Σ log₂ p over the positions from `first` on."""
        return float(-np.log2(self.probabilities(stream, first)).sum())


def fit(stream: npt.ArrayLike, symbols: int, order: int) -> KneserNey:
    """Counts a stream.

    Args:
        stream: symbols in [0, symbols), shape (n,), n ≥ order. Documents stand one after another
            with a mark of their own between them.
        symbols: how many different symbols there may be.
        order: n of the n-gram.

    Raises:
        ValueError: the n-gram does not fit 64 bits, or there is too little text.
    """
    text = _checked(stream, symbols)
    bits = max(1, (symbols - 1).bit_length())
    if order < 1 or order * bits > 64:
        raise ValueError(
            f"An n-gram over {symbols} symbols must be of order 1 to {64 // bits}; got {order}."
        )
    if len(text) < order:
        raise ValueError(f"An n-gram of order {order} needs {order} symbols; got {len(text)}.")
    levels: list[Level] = []
    seen, counts = np.unique(_packed(text, order, bits), return_counts=True)
    grams = seen
    for k in range(order, 0, -1):
        levels.append(_level(grams, counts, k, bits))
        if k > 1:
            # Each different k-gram is one symbol seen before its last k − 1.
            mask = np.uint64((1 << (bits * (k - 1))) - 1)
            grams, counts = np.unique(seen & mask, return_counts=True)
            # The text's own beginning may have nothing before it, and still is a (k − 1)-gram.
            start = _packed(text[: k - 1], k - 1, bits)
            place = int(np.searchsorted(grams, start[0]))
            there = place < len(grams) and grams[place] == start[0]
            seen = grams if there else np.insert(grams, place, start[0])
    return KneserNey(symbols, bits, tuple(reversed(levels)))


def _level(grams: Symbols, counts: npt.NDArray[np.int64], k: int, bits: int) -> Level:
    contexts = grams >> np.uint64(bits) if k > 1 else np.zeros_like(grams)
    starts = np.flatnonzero(np.r_[True, contexts[1:] != contexts[:-1]])
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return Level(
        grams=grams,
        counts=counts,
        contexts=contexts[starts],
        totals=np.add.reduceat(counts, starts),
        followers=np.diff(np.r_[starts, len(grams)]),
        discount=once / (once + 2 * twice) if once else NO_SINGLES,
    )


def _packed(text: Symbols, k: int, bits: int) -> Symbols:
    """Every run of k symbols as one number: n − k + 1 of them."""
    length = max(0, len(text) - k + 1)
    grams = np.zeros(length, dtype=np.uint64)
    for i in range(k):
        grams <<= np.uint64(bits)
        grams |= text[i : i + length]
    return grams


def _look_up(
    keys: Symbols, values: npt.NDArray[np.int64], wanted: Symbols
) -> npt.NDArray[np.int64]:
    """The values of the wanted keys, 0 where a key is not there."""
    # Ascending questions walk through the table once; in the text's order each would be a miss.
    asked, back = np.unique(wanted, return_inverse=True)
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)[back]


def _checked(stream: npt.ArrayLike, symbols: int) -> Symbols:
    text = np.asarray(stream)
    if text.ndim != 1 or (len(text) and not 0 <= int(text.min()) <= int(text.max()) < symbols):
        raise ValueError(f"A stream must be one row of numbers in [0, {symbols}).")
    return text.astype(np.uint64)
