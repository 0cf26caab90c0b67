"""Which token of one vocabulary is which of another's: those that say the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

from engine.errors import OptionError
from engine.model.vocabulary import Vocabulary

FEWEST: Final = 500
"""Vocabularies that share fewer tokens are not compared."""


@dataclass(frozen=True)
class SharedCount:
    """How many tokens two vocabularies share."""

    shared: int
    sizes: tuple[int, int]
    """Rows of either."""
    whole: bool
    """Whether every row stands for the same token in both, so that nothing is left out."""

    @property
    def sentence(self) -> str:
        """How much is shared."""
        if self.whole:
            return f"Both have the same vocabulary of {self.shared:,} tokens."
        return (
            f"{self.shared:,} tokens stand in both vocabularies, of {self.sizes[0]:,} and"
            f" {self.sizes[1]:,}; probabilities are compared over these, scaled to sum to 1."
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "sizes": list(self.sizes), "sentence": self.sentence}


@dataclass(frozen=True)
class Shared:
    """m tokens that two vocabularies share, as rows of either."""

    first: Tensor
    """m row numbers of the one, rising."""
    other: Tensor
    """The same tokens' rows of the other."""
    sizes: tuple[int, int]
    """Rows of either vocabulary."""
    whole: bool
    """As in the count."""

    def __len__(self) -> int:
        return len(self.first)

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """The rows of either."""
        return self.first, self.other

    @property
    def count(self) -> SharedCount:
        """Their number alone."""
        return SharedCount(len(self), self.sizes, self.whole)


def shared_vocabulary(first: Vocabulary, other: Vocabulary, *, fewest: int = FEWEST) -> Shared:
    """Pair the rows of two vocabularies whose tokens have the same text.

    Equal vocabularies are paired row by row. Otherwise rows without a token and texts that a
    vocabulary has more than once are left out, since nothing says which is which.

    Args:
        first: of one model.
        other: of another.
        fewest: how many tokens both must have.

    Raises:
        OptionError: they have fewer.
    """
    sizes = (first.size, other.size)
    if first.size == other.size and first.texts == other.texts:
        every = torch.arange(first.size)
        return Shared(every, every, sizes, True)
    own, known = _unique(first), _unique(other)
    pairs = sorted((own[text], known[text]) for text in own.keys() & known.keys())
    if len(pairs) < fewest:
        raise OptionError(
            f"the two vocabularies share {len(pairs):,} tokens of {sizes[0]:,} and {sizes[1]:,};"
            f" at least {fewest:,} are needed to compare what the models say."
        )
    a, b = zip(*pairs, strict=True)
    return Shared(torch.tensor(a), torch.tensor(b), sizes, False)


def _unique(vocabulary: Vocabulary) -> dict[str, int]:
    """The rows whose text no other row has; rows without a token are none of them."""
    counts = Counter(vocabulary.texts)
    return {
        text: id
        for id, text in enumerate(vocabulary.texts)
        if counts[text] == 1 and vocabulary.is_token(id)
    }
