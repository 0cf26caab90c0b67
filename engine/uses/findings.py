"""What the measurements say of semantic bases: a question, a verdict and a sentence each.

A control that does as well takes the verdict: random vectors stand for chance, head rows for what
the model has without any theory of frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from engine.interventions.doses import Dose, Doses, Interval
from engine.json_number import Plain
from engine.trace.dial import DialCurve, DialRow
from engine.uses.measure import Uses
from engine.uses.words import Words

QUESTIONS: Final = {
    "read": "Do they read next words?",
    "name": "Do they name neighbours?",
    "act": "Do they act?",
    "spare": "Do they leave the rest alone?",
    "swap": "Can a word be swapped along them?",
    "keep": "Do they keep their meaning through calibration?",
}
"""Key → question, in the order of the page."""


@dataclass(frozen=True)
class Finding(Plain):
    """One question, answered by numbers."""

    key: str
    question: str
    verdict: str
    """In a few words; empty where nothing was measured."""
    sentence: str
    """Empty where nothing was measured."""


def findings(uses: Uses) -> tuple[Finding, ...]:
    """All questions, those that were not measured yet without an answer."""
    found: dict[str, tuple[str, str]] = {}
    if uses.dial is not None:
        found["read"] = _read(uses.dial)
        if uses.dial.at(1.0).together is not None:
            found["name"] = _name(uses.dial)
    if uses.doses is not None:
        found |= {"act": _act(uses.doses), "spare": _spare(uses.doses)}
        if uses.doses.swaps:
            found["swap"] = _swap(uses.doses)
    if uses.words is not None:
        found["keep"] = _keep(uses.words)
    return tuple(
        Finding(key, question, *found.get(key, ("", ""))) for key, question in QUESTIONS.items()
    )


def _read(curve: DialCurve) -> tuple[str, str]:
    bases, head, random = (_agreement(curve.at(alpha)) for alpha in (1.0, 0.0, None))
    said = (
        f"At the last layer, by cosine, they name the model's own next token at {_share(bases)} of"
        f" {curve.positions} positions, head rows at {_share(head)}, random vectors at"
        f" {_share(random)}"
    )
    if bases.low <= random.high:
        return "no more than chance", f"{said}: no more than chance does."
    return _beside_head(bases, head), f"{said}; {_highest(curve, _agreement)}."


def _agreement(row: DialRow) -> Interval:
    return Interval(row.agreement[-1], *row.intervals[-1])


def _name(curve: DialCurve) -> tuple[str, str]:
    bases, head, random = (_together(curve.at(alpha)) for alpha in (1.0, 0.0, None))
    said = (
        f"Among {curve.words} words of ten fields (animals, colours, months …), {_share(bases)} of"
        f" a word's nearest are of its own field, by head rows {_share(head)}, by random vectors"
        f" {_share(random)}"
    )
    if bases.low <= random.high:
        return "no more than chance", f"{said}: no more than chance does."
    less = curve.at(1.0).less_head
    assert less is not None
    paired = Interval(*less)
    said += f"; bases less head rows, word by word: {_points(paired)}"
    return _paired(paired), f"{said}; {_highest(curve, _together)}."


def _highest(curve: DialCurve, of: Callable[[DialRow], Interval]) -> str:
    """The best place of the dial, and from which ends of it it can be told.

    It is picked by the figure that it is shown with, hence a little too high: only an interval
    that lies wholly above an end's is called more.
    """
    places = [row for row in curve.rows if row.alpha is not None]
    best = max(places, key=lambda row: of(row).value)
    if (best.alpha, best.ridge) == (1.0, None):
        return f"no other of {len(places)} places of the dial does better"
    ends = {"bases": 1.0, "head rows": 0.0}
    beaten = [name for name, alpha in ends.items() if of(best).low > of(curve.at(alpha)).high]
    more = "not told apart from either end" if not beaten else f"more than {' and '.join(beaten)}"
    where = f"α {best.alpha:g}" + (f" with ridge {best.ridge:g}" if best.ridge else "")
    return f"highest of {len(places)} places of the dial is {where} with {_share(of(best))}, {more}"


def _together(row: DialRow) -> Interval:
    assert row.together is not None
    assert row.together_interval is not None
    return Interval(row.together, *row.together_interval)


def _beside_head(bases: Interval, head: Interval) -> str:
    """A verdict of two intervals that are not paired."""
    if bases.low > head.high:
        return "better than head rows"
    return "worse than head rows" if bases.high < head.low else "not told apart from head rows"


def _act(found: Doses) -> tuple[str, str]:
    bases, head, random = (found.at(frame) for frame in ("output", "head", "random"))
    said = (
        f"Pushed by {found.dose:g} of its length at layer {found.layer}, the last state turns"
        f" {_share(bases.share)} of {found.used} answers into another fact's along bases,"
        f" {_share(head.share)} along head rows, {_share(random.share)} along random vectors"
    )
    if bases.share.low <= random.share.high:
        return "no more than chance", f"{said}: no more than a random push of this size."
    less = bases.share_less_head
    assert less is not None
    return _paired(less), f"{said}; bases less head rows: {_points(less)}."


def _spare(found: Doses) -> tuple[str, str]:
    bases, head, random = (found.at(frame) for frame in ("output", "head", "random"))
    less = bases.rest_less_head
    assert less is not None
    said = (
        "The same pushes move the rest of the vocabulary, the two words left out, by a KL of"
        f" {_nats(bases.rest)} nats along bases, {_nats(head.rest)} along head rows and"
        f" {_nats(random.rest)} along random vectors; bases less head rows: {_nats(less, '+')}"
    )
    ends = {1: "no, more than head rows", -1: "yes, less than head rows", 0: "as much as head rows"}
    side = (less.low > 0) - (less.high < 0)
    law = "" if side < 0 else " The law that they disturb it least holds at the last state alone."
    return ends[side], f"{said}.{law}"


def _swap(found: Doses) -> tuple[str, str]:
    rows = {(one.frame, one.layer): one for one in found.swaps}
    layers = sorted({one.layer for one in found.swaps})
    acts = [n for n in layers if _beyond(rows["output", n], rows["random", n])]
    first, last = rows["output", layers[0]], rows["output", layers[1]]
    said = (
        f"The mirror that exchanges two words turns {_share(first.share)} of {first.used} answers"
        f" at the embedding, {_share(last.share)} at layer {last.layer}; random mirrors"
        f" {_share(rows['random', layers[0]].share)}"
    )
    if not acts:
        return "no more than chance", f"{said}: no more than random mirrors do."
    if acts == [0]:
        return (
            "at the embedding only",
            f"{said}. At no layer above does a swap do more than a random mirror: a vocabulary"
            " direction is not where a middle layer keeps a word.",
        )
    return "yes", f"{said}. It acts at layer {', '.join(map(str, acts))}."


def _beyond(own: Dose, random: Dose) -> bool:
    return own.share.low > random.share.high


def _keep(found: Words) -> tuple[str, str]:
    bases, head, random = (found.at(frame) for frame in ("output", "head", "random"))
    said = (
        f"Calibrated on {found.train} texts of “{found.name}”, {found.test} others are told apart"
        f" by words that were never taught in {_share(bases.untaught)} with semantic bases, in"
        f" {_share(head.untaught)} with head rows, in {_share(random.untaught)} with random vectors"
        f" (always the larger class: {100 * found.chance:.1f} %)"
    )
    if bases.untaught.low <= found.chance:
        return "no more than chance", f"{said}: no more than chance."
    assert random.less is not None
    assert head.less is not None
    if random.less.low <= 0:
        return "no more than chance", f"{said}: random vectors do as well."
    return _paired(head.less), f"{said}; bases less head rows: {_points(head.less)}."


def _paired(less: Interval) -> str:
    """A verdict of a paired difference from head rows."""
    if less.low > 0:
        return "better than head rows"
    return "worse than head rows" if less.high < 0 else "yes, no better than head rows"


def _share(one: Interval) -> str:
    return f"{100 * one.value:.1f} % ({100 * one.low:.1f} to {100 * one.high:.1f})"


def _points(one: Interval) -> str:
    numbers = (f"{100 * x:+.1f}".replace("-", "−") for x in (one.value, one.low, one.high))
    value, low, high = numbers
    return f"{value} points ({low} to {high})"


def _nats(one: Interval, sign: str = "") -> str:
    value, low, high = (f"{x:{sign}.2f}".replace("-", "−") for x in (one.value, one.low, one.high))
    return f"{value} ({low} to {high})"
