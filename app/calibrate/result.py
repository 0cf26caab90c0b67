"""A finished calibration as the Calibrate page shows it: before and after, and what it is worth.

Reads the saved figures as they were written down (`engine.calibration.evidence.comparison` and its
neighbours), so that a result reopened next year says what it said on the day. Every number is
finished here, down to its text; the templates decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.calibrate.checks import Check, checks
from app.calibrate.standings import ByWords, LeftOutTable, Standing, by_words, left_out, standings
from app.calibrate.texts import (
    ClassLine,
    Confusion,
    FlipList,
    MapView,
    class_lines,
    confusion,
    dot_of,
    flip_lists,
    map_view,
)
from app.calibrate.words import Numbers, between, plain, share
from app.figures import calibrate as figures
from app.figures.calibrate import Chart, Dot, Series, Tick
from app.jobs.panel import curves
from app.web.words import seconds


@dataclass(frozen=True)
class Change:
    """A figure before and after."""

    name: str
    what: str
    before: str
    after: str
    before_interval: str
    after_interval: str
    start: Dot
    end: Dot
    worse: bool
    """Whether it moved in the wrong direction."""


@dataclass(frozen=True)
class Headline:
    """The best without training, and what was reached."""

    before: str
    after: str
    what: str
    """Of which texts."""
    baseline: str
    """What the first figure is, in a sentence."""


@dataclass(frozen=True)
class SplitsTable:
    """The same over several splits."""

    sentence: str
    rows: tuple[tuple[str, str, str], ...]
    """Each split: its seed, the best without training, the calibration."""


@dataclass(frozen=True)
class Story:
    """Everything that the comparison says, ready to be shown."""

    headline: Headline
    splits: SplitsTable | None
    sentence: str
    warning: str
    """Where the training kept its start: it belongs to every figure."""
    checks: tuple[Check, ...]
    standings: tuple[Standing, ...]
    chance: str
    """Percent from the left of the scale of accuracy."""
    chance_text: str
    scale: tuple[Tick, ...]
    groups: tuple[tuple[str, tuple[Change, ...]], ...]
    """Figures that belong together, under a name."""
    untaught: ByWords | None
    left_out: LeftOutTable | None
    map: MapView | None
    words: tuple[str, ...]
    confusions: tuple[Confusion, ...]
    classes: tuple[ClassLine, ...]
    flips: tuple[FlipList, ...]
    layers: Chart | None
    layers_sentence: str
    test_rows: str


def story(comparison: Numbers, trace_link: Callable[[str], str | None]) -> Story:
    """The comparison as it is shown.

    Args:
        comparison: what `engine.calibration.evidence.comparison.Comparison.to_dict` wrote.
        trace_link: gives the address of a prompt's trace, or None where there is none.
    """
    task = comparison["task"]
    names = [str(name) for name in task["label_names"]]
    words = [str(word) for word in task["label_words"]]
    return Story(
        headline=_headline(comparison),
        splits=_splits(comparison.get("splits")),
        sentence=str(comparison["sentence"])
        .removeprefix(str(comparison.get("warning", "")))
        .strip(),
        warning=str(comparison.get("warning", "")),
        checks=checks(comparison),
        standings=standings(comparison),
        chance=figures.percent(float(comparison["chance"])),
        chance_text=share(comparison["chance"]),
        scale=tuple(Tick(figures.percent(x), share(x)) for x in (0, 0.25, 0.5, 0.75, 1)),
        groups=_groups(comparison),
        untaught=by_words(comparison["untaught"], names) if comparison.get("untaught") else None,
        left_out=left_out(comparison["left_out"]) if comparison.get("left_out") else None,
        map=map_view(comparison, names, words),
        words=tuple(words),
        confusions=tuple(
            confusion(name, comparison[key]["confusion"], names)
            for name, key in (("Before", "before"), ("After", "after"))
        ),
        classes=class_lines(comparison, words),
        flips=flip_lists(comparison["rows"], trace_link),
        layers=layer_curves(comparison),
        layers_sentence=layers_sentence(comparison),
        test_rows=f"{len(comparison['rows']):,}",
    )


def _headline(comparison: Numbers) -> Headline:
    splits, rows = comparison.get("splits"), f"{len(comparison['rows']):,}"
    best = comparison.get("baseline") or {
        "title": "the nearest label basis",
        "accuracy": comparison["before"]["accuracy"],
    }
    before, after, title = best["accuracy"], comparison["after"]["accuracy"], str(best["title"])
    what = f"of {rows} texts it never saw"
    if splits:
        before, after, title = splits["untrained"], splits["after"], str(splits["baseline"])
        what = (
            f"({between(after)}) on the average of {len(splits['seeds'])} splits, of"
            f" {splits['tested']} texts that were held back"
        )
    old = share(before["value"])
    return Headline(
        old, share(after["value"]), what, f"{old} is {title}, the best without training."
    )


def _splits(measured: Numbers | None) -> SplitsTable | None:
    if not measured:
        return None
    pairs = zip(measured["seeds"], measured["per_split"], strict=True)
    rows = tuple((f"{seed}", share(before), share(after)) for seed, (before, after) in pairs)
    return SplitsTable(str(measured["sentence"]), rows)


_FIGURES: tuple[tuple[str, tuple[tuple[str, str, str, bool], ...]], ...] = (
    (
        "Reading the label",
        (
            ("accuracy", "accuracy", "texts whose nearest label basis is their own", True),
            ("macro_f1", "macro-F1", "mean of the labels' F1, each label alike", True),
            ("ece", "calibration error", "expected, 15 bins: stated minus true certainty; lower is"
             " better", False),
        ),
    ),
    (
        "The pull towards the bases",
        (
            ("own_similarity", "cosine to the own basis", "mean over the texts", True),
            ("margin", "margin to the next basis", "own cosine minus the best other one", True),
        ),
    ),
    (
        "The shape of the space",
        (
            ("ari", "adjusted Rand index", "regions of the bases against the labels; 0 is chance",
             True),
            ("nmi", "mutual information", "normalised; 0 to 1", True),
            ("knn.1", "kNN, k = 1", "label of the nearest training text", True),
            ("knn.16", "kNN, k = 16", "majority of the nearest 16", True),
            ("knn.256", "kNN, k = 256", "majority of the nearest 256", True),
        ),
    ),
)  # fmt: skip


_DECIMAL = frozenset({"own_similarity", "margin", "ari", "nmi"})


def _part(side: Numbers, key: str) -> Numbers | None:
    """A figure with its interval, where it has one; None where it was not measured."""
    name, _, inner = key.partition(".")
    part: Any = side.get(name)
    if inner and part is not None:
        part = part.get(inner)
    if isinstance(part, int | float):
        part = {"value": part}
    return None if part is None or part.get("value") is None else part


def _groups(comparison: Numbers) -> tuple[tuple[str, tuple[Change, ...]], ...]:
    groups = [
        (name, tuple(one for one in (_change(comparison, *key) for key in keys) if one))
        for name, keys in _FIGURES
    ]
    return tuple((name, rows) for name, rows in groups if rows)


def _change(comparison: Numbers, key: str, title: str, what: str, rises: bool) -> Change | None:
    before, after = (_part(comparison[side], key) for side in ("before", "after"))
    if before is None or after is None:
        return None
    text: Callable[[float | None], str] = plain if key in _DECIMAL else share
    values = before["value"], after["value"]
    start = -1.0 if key in ("own_similarity", "margin") else min(0.0, *values)
    end = max(1.0, *values)
    return Change(
        title,
        what,
        text(values[0]),
        text(values[1]),
        between(before, text),
        between(after, text),
        dot_of(before, start, end),
        dot_of(after, start, end),
        worse=values[1] < values[0] if rises else values[1] > values[0],
    )


@dataclass(frozen=True)
class Learning:
    """How the training went."""

    loss: Chart
    accuracy: Chart
    sentence: str


def learning(history: Sequence[Numbers], best: int | None, seconds_spent: float) -> Learning | None:
    """The curves of the training; None where nothing was trained."""
    epochs = [{"epoch": entry["number"], **entry} for entry in history]
    if not epochs:
        return None
    loss, accuracy = curves(epochs, best)
    last = int(epochs[-1]["epoch"])
    kept = f"kept that of epoch {best}, the best on the validation texts, " if best else ""
    if best == 0:
        kept = "kept its start, for no epoch was better on the validation texts, "
    return Learning(
        loss,
        accuracy,
        f"It went {last} epochs over the training texts, {kept}and took {seconds(seconds_spent)}.",
    )


def layer_curves(comparison: Numbers) -> Chart | None:
    """Accuracy of the bases and of a linear probe by layer; None where it was not measured."""
    curve = comparison.get("layers")
    if not curve:
        return None
    xs = [float(layer) for layer in curve["layers"]]

    def series(name: str, parts: Sequence[Numbers], colour: int, dash: str = "") -> Series:
        return Series(
            name,
            xs,
            [p["value"] for p in parts],
            [p.get("low") for p in parts],
            [p.get("high") for p in parts],
            colour,
            dash,
            dotted=True,
        )

    made = [series("nearest label basis", curve["reading"], 0)]
    if curve.get("probe"):
        made.append(series("linear probe", curve["probe"], 2, "6 4"))
    after = curve.get("after")
    if after:
        made.append(Series("after calibration", [xs[-1]], [after["value"]], colour=1, dotted=True))
    return figures.chart(
        made,
        label="Accuracy on the test texts of the nearest label basis and of a linear probe, layer "
        "by layer",
        x_title="layer (0 is the embedding)",
        y_title="accuracy",
        y_range=(0.0, 1.0),
        level=(float(comparison["chance"]), f"largest class {share(comparison['chance'])}"),
        shares=True,
    )


def layers_sentence(comparison: Numbers) -> str:
    """Where the label can be read best, in a sentence."""
    curve = comparison.get("layers")
    if not curve or not curve.get("probe"):
        return ""
    best = max(range(len(curve["probe"])), key=lambda i: curve["probe"][i]["value"])
    read = max(range(len(curve["reading"])), key=lambda i: curve["reading"][i]["value"])
    probe, bases = curve["layers"][best], curve["layers"][read]
    reached = share(curve["reading"][read]["value"])
    by_bases = (
        f"and by the nearest label basis ({reached})"
        if probe == bases
        else f"and at layer {bases} by the nearest label basis ({reached})"
    )
    return (
        f"The labels can be read best at layer {probe} by a linear probe"
        f" ({share(curve['probe'][best]['value'])}) {by_bases}; where the probe stands"
        " high and the bases low, the label is there but not in the direction of its word."
    )
