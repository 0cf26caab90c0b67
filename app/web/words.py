"""Numbers, spans, moments and sentences as people read them, and the choices of a switch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Choice:
    """One of a few values of a switch, as a form field or as a link."""

    value: str
    label: str
    chosen: bool
    help: str = ""
    href: str = ""


def choices(table: Iterable[tuple[str, ...]], chosen: str) -> tuple[Choice, ...]:
    """The rows of a table (value, label and perhaps help) as the choices of a switch."""
    return tuple(Choice(v, label, v == chosen, *more) for v, label, *more in table)


def number(x: float | int | None, digits: int = 3) -> str:
    """A number with so many significant digits, as people read it; ``–`` where there is none."""
    if x is None:
        return "–"
    if isinstance(x, int) and not isinstance(x, bool):
        return f"{x:,}"
    value = float(x)
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if -4 <= size < 6:
        shown = f"{value:.{max(digits - 1 - size, 0)}f}"
        return shown if float(shown) != 0 else "0"
    return f"{value:.{max(digits - 1, 0)}e}"


def probability(value: float) -> str:
    """A probability: three decimals, and never a bare 0 for what is only small."""
    value = float(value)
    if value != value:
        return "–"
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A number that may be negative, with a real minus sign."""
    return number(value if value is None else float(value), digits).replace("-", "−")


def digits_apart(values: Iterable[float], least: int = 3, most: int = 8) -> int:
    """The fewest significant digits at which numbers that differ are written differently.

    Args:
        values: a column of numbers.
        least: digits at any rate.
        most: digits at most; a float32 has no more.
    """
    some = set(map(float, values))
    tries = range(least, most)
    return next((n for n in tries if len({number(v, n) for v in some}) == len(some)), most)


def sentence(text: str) -> str:
    """Text that stands in the middle of sentences elsewhere, as the beginning of one."""
    return text[:1].upper() + text[1:]


def begun(text: str) -> str:
    """A sentence with a capital at its start, unless it starts with a name such as ``a.csv``."""
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    return text if any(sign in first.rstrip(".") for sign in ".'\"`“‘") else sentence(text)


def seconds(value: float | None) -> str:
    """A duration as people read it."""
    if value is None:
        return "–"
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes / 60:.1f} h"


def size(value: float | None) -> str:
    """Bytes as people read them."""
    if value is None:
        return "–"
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= step:
            shown = value / step
            return f"{shown:.1f} {unit}" if shown < 10 else f"{shown:.0f} {unit}"
    return f"{value:.0f} B"


def span(number: float) -> str:
    """A span as the settings give it: ``1 second``, ``0.5 seconds``."""
    return f"{number:g} second{'' if number == 1 else 's'}"


def iso(seconds: float) -> str:
    """A time since 1970 as people and JSON read it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
