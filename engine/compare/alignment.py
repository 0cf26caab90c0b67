"""Which token of one text stands where which token of another does.

By tokens: the longest runs of equal ids (Ratcliff & Obershelp 1988); between two runs tokens are
paired from the end of the gap, because a state has read what lies before it. By characters: tokens
are paired where they end at the same character, so the texts may be cut into other tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import accumulate
from typing import Final, Literal

from engine.errors import OptionError
from engine.model.vocabulary import Token

ALIGNMENTS: Final = ("tokens", "characters")
AlignmentName = Literal["tokens", "characters"]
Pairs = tuple[tuple[int, int], ...]


def align(first: Sequence[Token], other: Sequence[Token], by: str = "tokens") -> Pairs:
    """Pairs of positions, rising in both; what has no partner is in none.

    Args:
        first: the tokens of one text.
        other: those of the other.
        by: one of :data:`ALIGNMENTS`.

    Raises:
        OptionError: another way.
    """
    if by not in ALIGNMENTS:
        raise OptionError(f"align must be one of {', '.join(ALIGNMENTS)}; got {by[:40]!r}.")
    if by == "tokens":
        return _matched([token.id for token in first], [token.id for token in other])
    texts = ["".join(token.text for token in own) for own in (first, other)]
    ends = [
        {end - 1: n for n, end in enumerate(accumulate(len(token.text) for token in own))}
        for own in (first, other)
    ]
    return tuple(
        (ends[0][i], ends[1][j]) for i, j in _matched(*texts) if i in ends[0] and j in ends[1]
    )


def _matched(first: Sequence[object], other: Sequence[object]) -> Pairs:
    out: list[tuple[int, int]] = []
    # Nothing is junk: a frequent token is as good as any.
    matcher = SequenceMatcher(None, first, other, autojunk=False)
    for _, a, b, c, d in matcher.get_opcodes():
        count = min(b - a, d - c)
        out += zip(range(b - count, b), range(d - count, d), strict=True)
    return tuple(out)
