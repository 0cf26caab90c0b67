"""The Trace page with a saved calibration switched on: the last layer before and after.

A panel of its own above the trace, for the trace itself stays the model's: a calibration moves
states behind the last layer and changes nothing in the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.calibrate.calibrations import Calibrations
from app.figures.calibrate import label_colour
from app.web.words import Choice
from engine.model.vocabulary import Token

if TYPE_CHECKING:
    from engine.calibration.training.readings import Readings, Side

SHOWN = 40
"""Positions that the strip shows: the last ones of the prompt."""


@dataclass(frozen=True)
class LabelBar:
    """A label's probability."""

    label: str
    colour: int
    percent: str
    text: str
    first: bool


@dataclass(frozen=True)
class Reading:
    """What the last position says."""

    name: str
    label: str
    bars: tuple[LabelBar, ...]
    nearest: tuple[Token, ...]


@dataclass(frozen=True)
class StripCell:
    """One position."""

    token: Token
    before: tuple[str, int]
    """(label, colour)."""
    after: tuple[str, int]
    changed: bool


@dataclass(frozen=True)
class CalibrationPanel:
    """A calibration switched on for the prompt."""

    name: str
    href: str
    off_href: str
    problem: str | None
    """Why it cannot be read here, in one sentence."""
    end: Token | None = None
    readings: tuple[Reading, ...] = ()
    strip: tuple[StripCell, ...] = ()
    strip_note: str = ""
    caution: str = ""


async def choices(calibrations: Calibrations, chosen: str | None) -> tuple[Choice, ...]:
    """The calibrations that can be switched on, with "none" first; empty where there are none."""
    saved = [one for one in await calibrations.list() if one.usable or one.id == chosen]
    if not saved:
        return ()
    return (
        Choice("", "none", chosen is None),
        *(Choice(one.id, one.name, one.id == chosen) for one in saved),
    )


def panel(found: Readings, name: str, href: str, off_href: str) -> CalibrationPanel:
    """The panel of a calibration that could be read.

    Args:
        found: the prompt before and after it.
        name: what it is called.
        href: its own page.
        off_href: where it is switched off.
    """
    colours = {label: label_colour(i) for i, label in enumerate(found.labels)}
    last = found.positions[-1]

    def spoken(side: Side) -> tuple[str, int]:
        label = side.labels[side.predicted].label
        return label, colours[label]

    strip = tuple(
        StripCell(one.token, spoken(one.before), spoken(one.after),
                  one.before.predicted != one.after.predicted)
        for one in found.positions[-SHOWN:]
    )  # fmt: skip
    left = len(found.positions) - len(strip)
    return CalibrationPanel(
        name=name,
        href=href,
        off_href=off_href,
        problem=None,
        end=last.token,
        readings=(
            _reading("Before", last.before, colours),
            _reading("After", last.after, colours),
        ),
        strip=strip,
        strip_note=f"The last {len(strip)} of {len(found.positions)} positions." if left else "",
        caution=found.caution,
    )


def _reading(name: str, side: Side, colours: Mapping[str, int]) -> Reading:
    return Reading(
        name,
        side.labels[side.predicted].label,
        tuple(
            LabelBar(
                one.label,
                colours[one.label],
                f"{100 * one.probability:.1f}",
                f"{100 * one.probability:.0f}\u202f%",
                i == side.predicted,
            )
            for i, one in enumerate(side.labels)
        ),
        tuple(near.token for near in side.top),
    )
