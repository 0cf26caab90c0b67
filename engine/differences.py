"""What differs between two documents of plain values: a saved one, and the same computed again.

Two machines give other last digits, so floating-point numbers may differ by `CLOSE` of their size,
or of 1 where they are smaller; everything else must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

CLOSE: Final = 1e-4


@dataclass(frozen=True)
class Differences:
    """What was found."""

    numbers: int = 0
    """Numbers that stand on both sides."""
    largest: float = 0.0
    """Largest absolute difference of two of them; infinity where only one is a number."""
    differs: str = ""
    """The first place that is not the same, in a few words; empty where there is none."""

    def and_(self, other: Differences) -> Differences:
        """Both together, in this order."""
        return Differences(
            self.numbers + other.numbers,
            max(self.largest, other.largest),
            self.differs or other.differs,
        )


def differences(
    given: Any, anew: Any, *, ignored: Collection[str] = (), path: str = ""
) -> Differences:
    """Compare two JSON values, number by number.

    Args:
        given: the saved one.
        anew: computed again.
        ignored: names of fields that need not agree, such as seconds.
        path: where both stand, for the words.
    """
    here = path or "the document"
    if isinstance(anew, dict) and isinstance(given, dict):
        names = [name for name in anew if name not in ignored]
        if {name for name in given if name not in ignored} != set(names):
            return Differences(differs=f"{here} has other fields")
        parts = [(f"{path}.{name}" if path else name, given[name], anew[name]) for name in names]
    elif isinstance(anew, list) and isinstance(given, list):
        if len(given) != len(anew):
            return Differences(differs=f"{here} has another length")
        parts = [(f"{path}[{i}]", a, b) for i, (a, b) in enumerate(zip(given, anew, strict=True))]
    else:
        return _leaf(given, anew, here)
    found = Differences()
    for name, a, b in parts:
        found = found.and_(differences(a, b, ignored=ignored, path=name))
    return found


def same(given: Any, anew: Any) -> bool:
    """Whether two plain values are equal, or as near as `CLOSE`."""
    if is_number(given) and is_number(anew) and float in (type(given), type(anew)):
        return math.isclose(given, anew, rel_tol=CLOSE, abs_tol=CLOSE)
    return type(given) is type(anew) and bool(given == anew)


def is_number(value: Any) -> bool:
    """True and False are none."""
    return isinstance(value, float | int) and not isinstance(value, bool)


def _leaf(given: Any, anew: Any, here: str) -> Differences:
    differs = "" if same(given, anew) else f"{here} differs"
    pair = is_number(given), is_number(anew)
    if all(pair):
        return Differences(1, abs(float(given) - float(anew)), differs)
    return Differences(0, math.inf if any(pair) else 0.0, differs)
