"""Readings of the label on one scale of accuracy: by the label words, and by words never taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.calibrate.texts import dot_of
from app.calibrate.words import Numbers, between, plain, share
from app.figures import calibrate as figures
from app.figures.calibrate import Dot


@dataclass(frozen=True)
class Standing:
    """A way of reading the label, on the common scale of accuracy."""

    name: str
    what: str
    """One line about it."""
    kind: Literal["before", "after", "rival", "control"]
    dot: Dot
    value: str
    interval: str


@dataclass(frozen=True)
class ByWords:
    """The test texts read by words that were never taught."""

    sentence: str
    note: str
    standings: tuple[Standing, ...]
    chance: str
    sets: tuple[tuple[str, str, str, str], ...]
    """Each set of words: the words, how near their bases are, accuracy before and after."""
    given: str
    """The same words as they can be edited."""


@dataclass(frozen=True)
class LeftOutTable:
    """Each class left out of the training in turn."""

    sentence: str
    rows: tuple[tuple[str, ...], ...]
    """Each label, and the means: AUROC before, after, and with random bases."""


@dataclass(frozen=True)
class Nearest:
    """Which of some words is nearest to the texts of each label."""

    words: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str, int], ...]], ...]
    """Each label: per word the share before and after, and how deep the latter's colour is."""
    texts: str


def standings(comparison: Numbers) -> tuple[Standing, ...]:
    """Every reading by the label words, those without training first, controls last."""
    lines: list[tuple[str, str, Literal["before", "after", "rival", "control"], Numbers | None]]
    lines = [
        ("Model's own logits", "zero-shot, among the label words", "before",
         comparison.get("logits")),
        ("Before", "nearest label basis by cosine", "before", comparison["before"]),
        ("After calibration", "the same reading of the moved states", "after",
         comparison["after"]),
        ("Thresholds alone", "one per class on untrained head cosines", "rival",
         comparison.get("thresholds")),
        ("Linear probe", "logistic regression on the same states", "rival",
         comparison.get("probe")),
    ]  # fmt: skip
    lines += [(str(c["title"]), _trained(c), "control", c) for c in comparison.get("controls", ())]
    measured = [(*line[:3], line[3]["accuracy"]) for line in lines if line[3]]
    chance, warned = float(comparison["chance"]), comparison.get("warning")
    return tuple(
        Standing(
            name,
            what
            + (", below chance" if part.get("high", part["value"]) < chance else "")
            + ("; best epoch 0: the start" if warned and kind == "after" else ""),
            kind,
            dot_of(part),
            share(part["value"]),
            between(part),
        )
        for name, what, kind, part in measured
    )


def _trained(control: Numbers) -> str:
    kept, runs = int(control.get("kept_start", 0)), int(control.get("runs", 1))
    if not kept:
        return "control"
    return "control; best epoch 0: the start" + (f" in {kept} of {runs}" if runs > 1 else "")


def by_words(measured: Numbers, names: Sequence[str]) -> ByWords:
    """Readings by words that were never taught, as `Untaught.to_dict` wrote them."""
    lines: list[tuple[str, str, Literal["before", "after", "rival", "control"], str]] = [
        ("Before", "by the untaught words", "before", "before"),
        ("After calibration", "by the untaught words", "after", "after"),
        ("Trained to random bases", "by the words' random directions", "control", "random"),
        ("Trained on shuffled labels", "by the untaught words", "control", "shuffled"),
    ]
    found = [(*line[:3], measured[line[3]]) for line in lines if measured.get(line[3])]
    rows = [
        Standing(name, what, kind, dot_of(part), share(part["value"]), between(part))
        for name, what, kind, part in found
    ]
    taught = float(measured["taught"])
    rows.insert(2, Standing("The taught words", "after calibration", "rival",
                            dot_of({"value": taught}), share(taught), ""))  # fmt: skip
    sets = measured["sets"]
    return ByWords(
        sentence=str(measured["sentence"]),
        note=str(measured["note"]),
        standings=tuple(rows),
        chance=figures.percent(float(measured["chance"])),
        sets=tuple(
            (", ".join(one["words"]), plain(one["cosine"]), share(one["before"]),
             share(one["after"]))
            for one in sets
        ),
        given="\n".join(
            f"{name} = {', '.join(str(one['words'][place]) for one in sets)}"
            for place, name in enumerate(names)
        ),
    )  # fmt: skip


def left_out(measured: Numbers) -> LeftOutTable:
    """Classes that were left out, as `LeftOut.to_dict` wrote them."""
    keys = ("before", "after", "random")
    rows = [(str(one["label"]), *(plain(one[key]) for key in keys)) for one in measured["classes"]]
    spans = [f"{plain(measured[key]['value'])}, {between(measured[key], plain)}" for key in keys]
    return LeftOutTable(str(measured["sentence"]), (*rows, ("mean", *spans)))


def nearest_words(asked: Numbers) -> Nearest:
    """Shares by words, as `Asked.to_dict` wrote them."""
    pairs = zip(asked["labels"], asked["before"], asked["after"], strict=True)
    return Nearest(
        words=tuple(map(str, asked["words"])),
        rows=tuple(
            (
                str(label),
                tuple(
                    (share(old), share(new), round(6 * new))
                    for old, new in zip(before, after, strict=True)
                ),
            )
            for label, before, after in pairs
        ),
        texts=f"{asked['rows']:,}",
    )
