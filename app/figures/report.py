"""The drawings of an evaluation's report: where ``report/_means.html`` and its neighbour draw.

SVG that takes its colours from the page's style. Pure: nothing here knows the web or the engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from app.figures.calibrate import Tick

WIDTH: Final = 960
_LEFT, _RIGHT, _ROW = 250, 110, 27


@dataclass(frozen=True)
class Bar:
    """One method as it is drawn."""

    title: str
    colour: int
    """Which of the theme's line colours."""
    value: float
    """Mean accuracy, in [0, 1]."""
    low: float
    high: float
    seconds: float
    """Of training and inference together."""
    named: bool
    """Whether its name is written in any case."""


@dataclass(frozen=True)
class Mark:
    """A method's dot, its name, and what is said under the pointer."""

    title: str
    said: str
    colour: int
    x: str
    y: str
    name_y: str
    """Empty where the name is not written."""
    low: str = ""
    high: str = ""
    text: str = ""
    joint_y: str = ""
    """The end of the line that joins a name further down to its dot; empty: there is none."""


@dataclass(frozen=True)
class Drawing:
    """Axes and methods; positions are pixels of a drawing `WIDTH` wide."""

    height: int
    across: tuple[Tick, ...]
    down: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    chance: Tick | None = None


def means_with_intervals(bars: Sequence[Bar], chance: float) -> Drawing | None:
    """Mean accuracy of every method in the order given, a row each; None where there is none."""
    if not bars:
        return None
    low = min([chance, *(bar.low for bar in bars)])
    high = max(bar.high for bar in bars)
    first = max(0.0, math.floor(20 * low - 0.2) / 20)
    last = min(1.0, math.ceil(20 * high + 0.2) / 20)
    step = 0.05 if last - first <= 0.5 else 0.1
    grid = [first + i * step for i in range(round((last - first) / step) + 1)]

    def x(value: float) -> str:
        return f"{_LEFT + (value - first) / (last - first) * (WIDTH - _LEFT - _RIGHT):.1f}"

    marks = []
    for place, bar in enumerate(bars):
        y, shown = 22 + place * _ROW, f"{100 * bar.value:.1f}"
        said = f"{shown} ({100 * bar.low:.1f} to {100 * bar.high:.1f})"
        ends = x(bar.low), x(bar.high)
        marks.append(
            Mark(bar.title, said, bar.colour, x(bar.value), f"{y}", f"{y + 4}", *ends, shown)
        )
    return Drawing(
        _ROW * len(bars) + 56,
        tuple(Tick(x(at), f"{100 * at:.0f}") for at in grid),
        (),
        tuple(marks),
        Tick(x(chance), f"chance {100 * chance:.1f}"),
    )


def accuracy_and_time(bars: Sequence[Bar]) -> Drawing | None:
    """Seconds against mean accuracy, a dot per method that took any; None where none did.

    Named are those that say so and the front: methods that none is at least as accurate as and
    quicker.
    """
    bars = [bar for bar in bars if bar.seconds > 0]
    if not bars:
        return None
    height, top, bottom, left, right = 420, 18, 50, 60, 170
    least = math.log10(min(bar.seconds for bar in bars)) - 0.12
    most = max(math.log10(max(bar.seconds for bar in bars)) + 0.12, least + 0.62)
    low = min(bar.value for bar in bars) - 0.02
    high = max(bar.value for bar in bars) + 0.02

    def x(seconds: float) -> float:
        return left + (math.log10(seconds) - least) / (most - least) * (WIDTH - left - right)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (height - top - bottom)

    step = 0.1 if high - low > 0.25 else 0.05
    levels, level = [], math.ceil(low / step) * step
    while level <= high:
        levels.append(level)
        level += step
    # Names stand right of their dots and move down until they cover neither a dot nor a name.
    taken = [(x(bar.seconds) - 8, x(bar.seconds) + 8, y(bar.value), 13.0) for bar in bars]
    marks = []
    for bar in sorted(bars, key=lambda bar: -bar.value):
        px, py = x(bar.seconds), y(bar.value)
        name_y = joint_y = ""
        if bar.named or _leads(bar, bars):
            begin, end, ty = px + 12, px + 14 + 6.6 * len(bar.title), py
            while any(begin < z and end > w and abs(ty - at) < gap for w, z, at, gap in taken):
                ty += 3.0
            taken.append((begin, end, ty, 14.0))
            name_y = f"{ty + 4:.1f}"
            joint_y = f"{ty:.1f}" if abs(ty - py) > 5 else ""
        said = f"{100 * bar.value:.1f} %, {bar.seconds:,.2f} s"
        marks.append(
            Mark(bar.title, said, bar.colour, f"{px:.1f}", f"{py:.1f}", name_y, joint_y=joint_y)
        )
    return Drawing(
        max(height, round(max(at for _, _, at, _ in taken)) + 30),
        tuple(Tick(f"{x(value):.1f}", f"{value:g} s") for value in _decades(least, most)),
        tuple(Tick(f"{y(level):.1f}", f"{100 * level:.0f}") for level in levels),
        tuple(marks),
    )


def _leads(one: Bar, others: Sequence[Bar]) -> bool:
    """Whether no other is as accurate and quicker, or as quick and more accurate."""
    own = (one.value, -one.seconds)
    return not any(
        other.value >= own[0] and -other.seconds >= own[1] and (other.value, -other.seconds) != own
        for other in others
    )


def _decades(least: float, most: float) -> Iterator[float]:
    """1, 2, 5 steps of a logarithmic axis."""
    for power in range(math.floor(least), math.ceil(most) + 1):
        for factor in (1, 2, 5):
            value = factor * 10.0**power
            if least <= math.log10(value) <= most:
                yield value
