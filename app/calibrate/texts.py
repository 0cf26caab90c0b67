"""The test texts of a finished calibration, one by one: confusions, classes, flips, the map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.calibrate.words import Numbers, excerpt, share
from app.figures import calibrate as figures
from app.figures.calibrate import Dot, Movement, Point
from engine.calibration.evidence.own_text import OwnText

MAX_FLIPS = 8
"""Changed texts of one kind that the page lists; the rest is in the CSV."""


@dataclass(frozen=True)
class Count:
    """A cell of a confusion matrix."""

    text: str
    heat: int
    right: bool


@dataclass(frozen=True)
class Confusion:
    """Which label was read as which."""

    name: str
    right_text: str
    """How many of the texts stand on the diagonal."""
    rows: tuple[tuple[str, tuple[Count, ...]], ...]


@dataclass(frozen=True)
class ClassLine:
    """One label's figures before and after."""

    label: str
    word: str
    colour: int
    support: str
    precision: tuple[str, str]
    recall: tuple[str, str]
    f1: tuple[str, str]
    start: Dot
    end: Dot
    worse: bool


@dataclass(frozen=True)
class Flip:
    """A text whose reading changed."""

    text: str
    label: str
    before: str
    after: str
    before_probability: str
    after_probability: str
    href: str | None
    """Its trace; None where the loaded model is another one."""


@dataclass(frozen=True)
class FlipList:
    """Texts whose reading changed in the same way."""

    key: str
    name: str
    count: int
    rows: tuple[Flip, ...]


@dataclass(frozen=True)
class OwnDot:
    """A text of somebody's own, as the map and the line below it show it."""

    prompt: str
    point: Point
    outside: bool
    """Whether it lies outside of the picture and is drawn at its edge."""
    sides: tuple[tuple[str, int, str, str], ...]
    """Before and after: the moment, the label's colour, the label, its probability."""


@dataclass(frozen=True)
class MapView:
    """The map before and after."""

    figure: Movement
    caption: str
    texts: tuple[dict[str, Any], ...]
    """For the tooltip: each drawn row's text, label and readings."""

    def own(self, found: OwnText) -> OwnDot:
        """A text of somebody's own on the same map."""
        places, colours, inside = [], [], True
        for one in (found.before, found.after):
            exact = [float(x) for x in self.figure.place(one.x, one.y)]
            edge = [min(98.0, max(2.0, x)) for x in exact]
            inside = inside and exact == edge
            places += [f"{x:.2f}" for x in edge]
            colours.append(figures.label_colour(found.labels.index(one.label)))
        x0, y0, x1, y1 = places
        named = zip(("before", "after"), colours, (found.before, found.after), strict=True)
        return OwnDot(
            found.prompt,
            Point(-1, colours[1], x0, y0, x1, y1, True, True),
            not inside,
            tuple((when, hue, one.label, share(one.probability)) for when, hue, one in named),
        )


def dot_of(part: Numbers, start: float = 0.0, end: float = 1.0) -> Dot:
    """A saved figure, with its interval where it has one, on an axis from `start` to `end`."""
    value = float(part["value"])
    low, high = part.get("low"), part.get("high")
    return figures.dot(
        value,
        value if low is None else float(low),
        value if high is None else float(high),
        start=start,
        end=end,
    )


def confusion(name: str, counts: Sequence[Sequence[int]], names: Sequence[str]) -> Confusion:
    """A matrix of counts, row = true label; the deeper, the more of its row."""

    def depth(n: int, row: Sequence[int]) -> int:
        return 0 if n == 0 else max(1, min(6, round(6 * n / sum(row))))

    rows = tuple(
        (label, tuple(Count(f"{n}", depth(n, row), i == j) for j, n in enumerate(row)))
        for i, (label, row) in enumerate(zip(names, counts, strict=True))
    )
    right = sum(row[i] for i, row in enumerate(counts))
    return Confusion(name, f"{right} of {sum(map(sum, counts))} right", rows)


def class_lines(comparison: Numbers, words: Sequence[str]) -> tuple[ClassLine, ...]:
    """Precision, recall and F1 of each label, before and after."""
    lines = []
    sides = comparison["before"]["per_class"], comparison["after"]["per_class"]
    for i, (word, *both) in enumerate(zip(words, *sides, strict=True)):
        precision, recall, f1 = (
            (share(both[0][key]), share(both[1][key])) for key in ("precision", "recall", "f1")
        )
        start, end = (dot_of({"value": one["f1"]}) for one in both)
        lines.append(
            ClassLine(
                label=str(both[0]["label"]),
                word=word,
                colour=figures.label_colour(i),
                support=str(both[0]["support"]),
                precision=precision,
                recall=recall,
                f1=f1,
                start=start,
                end=end,
                worse=both[1]["f1"] < both[0]["f1"],
            )
        )
    return tuple(lines)


_FLIPS = (
    ("fixed", "Now read rightly"),
    ("broken", "Now read wrongly"),
    ("changed", "Wrong before and after, in another way"),
)


def flip_lists(rows: Sequence[Numbers], link: Callable[[str], str | None]) -> tuple[FlipList, ...]:
    """The texts whose reading changed: won, lost, and wrong in another way; the surest first."""
    lists = []
    for key, title in _FLIPS:
        found = [row for row in rows if row["flip"] == key]
        # The surest first: what the module is most certain of teaches most.
        found.sort(key=lambda row: -float(row["probability_after"]))
        shown = tuple(
            Flip(
                excerpt(str(row["text"])),
                str(row["label"]),
                str(row["predicted_before"]),
                str(row["predicted_after"]),
                share(row["probability_before"]),
                share(row["probability_after"]),
                link(str(row["prompt"])),
            )
            for row in found[:MAX_FLIPS]
        )
        lists.append(FlipList(key, title, len(found), shown))
    return tuple(lists)


def map_view(comparison: Numbers, names: Sequence[str], words: Sequence[str]) -> MapView | None:
    """Both maps in one frame, with what the tooltip says of each dot."""
    drawn = comparison.get("map")
    if not drawn or not comparison["rows"]:
        return None
    rows = comparison["rows"]
    figure = figures.movement(
        np.asarray(drawn["before"], dtype=np.float64),
        np.asarray(drawn["after"], dtype=np.float64),
        np.asarray(drawn["bases"], dtype=np.float64),
        labels=[names.index(row["label"]) for row in rows],
        names=words,
        right_before=[row["predicted_before"] == row["label"] for row in rows],
        right_after=[row["predicted_after"] == row["label"] for row in rows],
    )
    thinned = ""
    if len(figure.points) < figure.count:
        thinned = f" {len(figure.points)} of {figure.count} texts are drawn, evenly chosen."
    caption = (
        f"Frame: {drawn['fitted_on']}. It shows {share(drawn['variance_shown_before'])} of the"
        f" variance before and {share(drawn['variance_shown_after'])} after; what lies outside of"
        f" this plane cannot be seen.{thinned}"
    )
    texts = tuple(
        {
            "row": point.row,
            "text": excerpt(str(rows[point.row]["text"]), 160),
            "label": rows[point.row]["label"],
            "before": rows[point.row]["predicted_before"],
            "after": rows[point.row]["predicted_after"],
        }
        for point in figure.points
    )
    return MapView(figure, caption, texts)
