"""Type in pictures: which fonts, how wide a text is, and where its lines break."""

from __future__ import annotations

from functools import cache
from typing import Any

_FAMILIES = (
    "Inter", "Source Sans 3", "Noto Sans", "Liberation Sans", "Arial", "DejaVu Sans",
    "Noto Sans Symbols2", "Noto Sans Math", "Noto Sans CJK SC", "Noto Sans Arabic",
    "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai",
)  # fmt: skip
_MISSING = "▯"


def shown(label: str) -> str:
    """A label without the sign of its leading space, where more than that is left."""
    return label.removeprefix("␣") or label


@cache
def families() -> tuple[str, ...]:
    """The families of the list that this machine has; Matplotlib brings the last resort along."""
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return tuple(name for name in _FAMILIES if name in there)


@cache
def _fonts() -> tuple[Any, ...]:
    from matplotlib.font_manager import findfont, get_font

    return tuple(get_font(findfont(name)) for name in families())


@cache
def _charmaps() -> tuple[frozenset[int], ...]:
    return tuple(frozenset(font.get_charmap()) for font in _fonts())


def drawable(text: str) -> str:
    """The text with a box for each character that no font here has."""
    known = _charmaps()
    return "".join(c if any(ord(c) in one for one in known) else _MISSING for c in text)


@cache
def _advance(character: str) -> float:
    """The width of a character relative to the size of the type."""
    from matplotlib.ft2font import LoadFlags

    for font, known in zip(_fonts(), _charmaps(), strict=True):
        if ord(character) in known:
            glyph = font.load_char(ord(character), flags=LoadFlags.NO_SCALE)
            return float(glyph.horiAdvance) / float(font.units_per_EM)
    return 0.6


def width_of(text: str, size: float) -> float:
    """The width of a text in type of this size, in the same unit."""
    return size * sum(_advance(c) for c in text)


def wrapped(text: str, size: float, room: float, *, most: int) -> list[str]:
    """Lines that fit the room; beyond the last allowed one an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if width_of(longer, size) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " …"]
    return lines
