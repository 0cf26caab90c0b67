"""The Calibrate page's figures, as geometry that a template writes out as SVG.

Not Plotly: the loss curve is redrawn every second while a job runs, and before and after must be
readable without script, in print and in both colour modes. So numbers go in and positions come
out, in percent of the drawing's box; lines and dots keep their width at any size.

Pure: nothing here knows the web or the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LINES = 8
"""Colours of lines and labels; the ninth begins again with the first."""
LABEL_LINES = (0, 5, 2, 3, 4, 6, 7, 1)
"""The line colours that labels take, in order; the Map page's, which leaves out the prompt's."""
MAX_DRAWN = 400
"""Points that one map draws at most."""


@dataclass(frozen=True)
class Tick:
    """A number on an axis."""

    at: str
    """Percent from the left or from the top."""
    text: str


@dataclass(frozen=True)
class Dot:
    """A value with its interval on a horizontal axis."""

    at: str
    """Percent from the left."""
    low: str
    high: str
    clipped: bool
    """Whether the axis ends before the value does."""


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    colour: int
    """Which of the line colours."""
    dash: str
    """As SVG writes it; empty: drawn through."""
    path: str
    """x,y pairs in percent of the box, y downward."""
    band: str
    """The interval around it as a closed outline, or empty."""
    dots: tuple[tuple[str, str], ...]
    """Where single points are marked: (left, top)."""


@dataclass(frozen=True)
class Chart:
    """Curves over a common axis."""

    label: str
    """What it shows, for who cannot see it."""
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    mark: str | None = None
    """Percent from the left of a vertical line that means something, named by `mark_text`."""
    mark_text: str = ""
    level: str | None = None
    """Percent from the top of a horizontal line, chance for one, named by `level_text`."""
    level_text: str = ""


@dataclass(frozen=True)
class Series:
    """What a curve is made of."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    colour: int = 0
    dash: str = ""
    dotted: bool = False
    """Mark each of its points."""


def percent(value: float) -> str:
    """A position as SVG takes it."""
    text = f"{100 * value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers inside [low, high], at least three and else about so many.

    They are steps of 1, 2 or 5 times a power of ten.
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    found: list[float] = []
    while len(found) < 3:
        rough = (high - low) / wanted
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(s for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
        first = math.ceil(low / step - 1e-9)
        last = math.floor(high / step + 1e-9)
        found = [i * step for i in range(first, last + 1)]
        wanted += 1
    return found


def label_colour(place: int) -> int:
    """The line colour of the label at a place of its set: the same on every page."""
    return LABEL_LINES[place % len(LABEL_LINES)]


def plain(value: float, step: float = 0.0) -> str:
    """A tick's number, with the digits that its step needs."""
    if step <= 0:
        return f"{value:g}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{digits}f}".replace("-0.0", "0.0") if digits else f"{value:,.0f}"


def dot(value: float, low: float, high: float, *, start: float = 0.0, end: float = 1.0) -> Dot:
    """A value and its interval on an axis from `start` to `end`."""

    def at(x: float) -> str:
        return percent(min(1.0, max(0.0, (x - start) / (end - start))))

    return Dot(at(value), at(low), at(high), not start <= value <= end)


def chart(
    series: Sequence[Series],
    *,
    label: str,
    x_title: str,
    y_title: str,
    y_range: tuple[float, float] | None = None,
    mark: tuple[float, str] | None = None,
    level: tuple[float, str] | None = None,
    shares: bool = False,
) -> Chart:
    """Curves with their intervals over a common horizontal axis.

    Args:
        series: the curves; a value of None or NaN interrupts its curve.
        label: what the chart shows, for who cannot see it.
        x_title: name and unit of the horizontal axis.
        y_title: name and unit of the vertical axis.
        y_range: lowest and highest value drawn; None: what the values need.
        mark: a place on the horizontal axis with its name.
        level: a height with its name, chance for one.
        shares: write the vertical axis as percent, for shares in [0, 1].
    """
    xs = [x for one in series for x in one.x]
    left, right = (min(xs), max(xs)) if xs else (0.0, 1.0)
    if right <= left:
        left, right = left - 0.5, left + 0.5
    ys = [
        float(v)
        for one in series
        for part in (one.y, one.low, one.high)
        for v in part
        if v is not None and math.isfinite(v)
    ] + ([level[0]] if level else [])
    low, high = y_range or _room(ys)

    def across(x: float) -> float:
        return (x - left) / (right - left)

    def down(y: float) -> float:
        return 1 - (min(max(y, low), high) - low) / (high - low)

    # Layers and epochs are whole numbers.
    x_values = [x for x in ticks(left, right, 8) if abs(x - round(x)) < 1e-9]
    y_values = ticks(low, high, 4)
    x_step = x_values[1] - x_values[0] if len(x_values) > 1 else 0.0
    y_step = y_values[1] - y_values[0] if len(y_values) > 1 else 0.0
    return Chart(
        label=label,
        x_title=x_title,
        y_title=y_title,
        x_ticks=tuple(Tick(percent(across(x)), plain(x, x_step)) for x in x_values),
        y_ticks=tuple(
            Tick(percent(down(y)), f"{100 * y:.0f}\u202f%" if shares else plain(y, y_step))
            for y in y_values
        ),
        lines=tuple(_line(one, across, down) for one in series),
        mark=None if mark is None else percent(across(mark[0])),
        mark_text="" if mark is None else mark[1],
        level=None if level is None else percent(down(level[0])),
        level_text="" if level is None else level[1],
    )


def _room(ys: Sequence[float]) -> tuple[float, float]:
    """A range around the values with a little air, from 0 where they begin near it."""
    if not ys:
        return 0.0, 1.0
    low, high = min(ys), max(ys)
    air = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
    return (0.0 if 0 <= low < 0.35 * high else low - air), high + air


def _line(one: Series, across: Callable[[float], float], down: Callable[[float], float]) -> Line:
    spots = [
        (percent(across(x)), percent(down(y)))
        for x, y in zip(one.x, one.y, strict=True)
        if y is not None and math.isfinite(y)
    ]
    band = ""
    if one.low and one.high:
        edges = [
            (x, a, b)
            for x, a, b in zip(one.x, one.low, one.high, strict=True)
            if a is not None and b is not None
        ]
        outline = [f"{percent(across(x))},{percent(down(b))}" for x, _, b in edges]
        outline += [f"{percent(across(x))},{percent(down(a))}" for x, a, _ in reversed(edges)]
        band = " ".join(outline)
    return Line(
        one.name,
        one.colour % LINES,
        one.dash,
        " ".join(f"{x},{y}" for x, y in spots),
        band,
        tuple(spots) if one.dotted else (),
    )


# ---- the map ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One text's state before and after."""

    row: int
    """Which of the test rows."""
    colour: int
    """The colour of its label."""
    x0: str
    y0: str
    x1: str
    y1: str
    right0: bool
    """Whether its label's basis was the nearest before."""
    right1: bool


@dataclass(frozen=True)
class Anchor:
    """A label word's basis."""

    colour: int
    name: str
    x: str
    y: str
    above: bool
    """Whether its name stands above it or below: away from the middle, where the states are."""


@dataclass(frozen=True)
class Movement:
    """Before and after in one and the same frame."""

    points: tuple[Point, ...]
    anchors: tuple[Anchor, ...]
    count: int
    """How many texts there are, of which `points` are drawn."""
    middle: tuple[float, float]
    """What stands in the middle of the box."""
    unit: float
    """Of the height of the box; its width is `shape` of them."""
    shape: float

    def place(self, x: float, y: float) -> tuple[str, str]:
        """From the left and from the top, in percent."""
        return (
            percent(0.5 + (x - self.middle[0]) / (self.unit * self.shape)),
            percent(0.5 - (y - self.middle[1]) / self.unit),
        )


def movement(
    before: Floats,
    after: Floats,
    anchors: Floats,
    *,
    labels: Sequence[int],
    names: Sequence[str],
    right_before: Sequence[bool],
    right_after: Sequence[bool],
    shape: float = 4 / 3,
    most: int = MAX_DRAWN,
) -> Movement:
    """The states of the test texts before and after, over the bases of their label words.

    One scale for both directions and for both moments, so that a distance on the picture means
    the same everywhere.

    Args:
        before: text × 2.
        after: text × 2, by the same projection.
        anchors: label × 2, by the same projection.
        labels: each text's label.
        names: each label's word.
        right_before: whether each text was read rightly before.
        right_after: and after.
        shape: width over height of the box.
        most: points drawn at most; more are thinned evenly.
    """
    every = np.concatenate([before, after, anchors]).astype(np.float64)
    every = every[np.isfinite(every).all(axis=1)]
    low, high = every.min(axis=0), every.max(axis=0)
    middle, span = (low + high) / 2, np.maximum(high - low, 1e-9)
    # One unit is equally long both ways: the box is `shape` units wide where it is one high.
    unit = max(span[0] / shape, span[1]) * 1.24

    box = Movement((), (), len(labels), (float(middle[0]), float(middle[1])), float(unit), shape)

    def place(xy: Floats) -> tuple[str, str]:
        return box.place(float(xy[0]), float(xy[1]))

    count = len(labels)
    rows = range(count) if count <= most else np.linspace(0, count - 1, most).astype(int).tolist()
    points = tuple(
        Point(
            row,
            label_colour(int(labels[row])),
            *place(before[row]),
            *place(after[row]),
            bool(right_before[row]),
            bool(right_after[row]),
        )
        for row in rows
        if np.isfinite(before[row]).all() and np.isfinite(after[row]).all()
    )
    marks = []
    for i, name in enumerate(names):
        x, y = place(anchors[i])
        marks.append(Anchor(label_colour(i), name, x, y, float(y) < 50))
    return replace(box, points=points, anchors=tuple(marks))
