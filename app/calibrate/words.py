"""Numbers of the Calibrate pages as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Numbers = Mapping[str, Any]
"""A piece of saved JSON."""
EXCERPT = 220
"""Characters of a text that a list shows."""


def share(value: float | None, digits: int = 0) -> str:
    """A share as people read it: ``83 %``."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{100 * value:.{digits}f}\u202f%"


def thin(count: int) -> str:
    """A count as people read it: ``12 345``."""
    return f"{count:,}"


def points(value: float | None) -> str:
    """A difference of two shares in percentage points, with its sign."""
    if value is None or not np.isfinite(value):
        return "–"
    shown = f"{100 * value:+.1f}"
    return ("±0.0" if shown in ("+0.0", "-0.0") else shown).replace("-", "−")


def plain(value: float | None) -> str:
    """A figure between −1 and 1."""
    if value is None or not np.isfinite(value):
        return "–"
    shown = f"{value:.2f}"
    return ("0.00" if shown == "-0.00" else shown).replace("-", "−")


def between(part: Numbers, text: Callable[[float | None], str] = share) -> str:
    """An interval in words that fit a table."""
    low, high = part.get("low"), part.get("high")
    if low is None or high is None:
        return ""
    return f"{text(low).removesuffix(chr(0x202F) + '%')} to {text(high)}"


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def when(moment: str) -> str:
    """A moment as it stands in a list: 23 November 2026, 15:04 UTC."""
    months = ("January", "February", "March", "April", "May", "June", "July", "August",
              "September", "October", "November", "December")  # fmt: skip
    day, _, time = moment.partition("T")
    year, month, date = day.split("-")
    return f"{int(date)} {months[int(month) - 1]} {year}, {time[:5]} UTC"
