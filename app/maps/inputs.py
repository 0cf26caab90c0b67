"""What a question about a map names: concept axes."""

from __future__ import annotations

import re

from engine.errors import OptionError

_MOST_AXES = 3


def concept_axes(text: str) -> tuple[tuple[str, str], ...]:
    """The pairs of ``king-queen,man-woman``; a backslash makes the next character plain.

    Raises:
        OptionError: a pair that is none, or too many.
    """
    if not text:
        return ()
    pairs = [_split(one, "-") for one in _split(text, ",")]
    if len(pairs) > _MOST_AXES or any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise OptionError(
            "axes must be a plus and a minus token for each dimension, such as "
            "king-queen,man-woman; write \\- and \\, for those characters themselves."
        )
    return tuple((_plain(pair[0]), _plain(pair[1])) for pair in pairs)


def _split(text: str, at: str) -> list[str]:
    """Cut where the character stands without a backslash before it."""
    parts = [""]
    for piece in re.findall(r"\\.|[^\\]|\\$", text, re.DOTALL):
        if piece == at:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
