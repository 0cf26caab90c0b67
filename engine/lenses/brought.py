"""A text that is brought, in pieces that a model reads whole: what a lens may be fitted on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from engine.errors import OptionError, PromptError
from engine.model.language_model import LanguageModel

PIECE: Final = 1024
"""Characters of a piece at most; a quarter as many tokens of English."""
FEWEST: Final = 64
"""Tokens below which nothing can be fitted and held out."""


def pieces(model: LanguageModel, text: str, most: int) -> list[tuple[int, ...]]:
    """Token ids of a text, piece by piece, cut between words.

    Args:
        model: that shall read them.
        text: any.
        most: tokens in all at most; the rest of the text is left.

    Raises:
        OptionError: the text is too short.
    """
    found: list[tuple[int, ...]] = []
    total = 0
    for part in _parts(text):
        waiting = [part]
        while waiting and total < most:
            piece = waiting.pop()
            try:
                ids = model.tokenize(piece).ids
            except PromptError:  # nothing but spaces, or more tokens than the model takes
                half = len(piece) // 2
                waiting += [piece[half:], piece[:half]] if piece.strip() and half else []
                continue
            found.append(ids)
            total += len(ids)
    if total < FEWEST or len(found) < 2:
        raise OptionError(
            f"a lens is fitted on a text of at least {FEWEST} tokens in two pieces; this one has"
            f" {total} in {len(found)}."
        )
    return found


def _parts(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        stop = min(len(text), start + PIECE)
        space = text.rfind(" ", start + PIECE // 2, stop) if stop < len(text) else -1
        stop = space if space > 0 else stop
        yield text[start:stop]
        start = stop
