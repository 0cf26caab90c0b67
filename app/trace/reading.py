"""All that the Trace page shows, read in one turn of the device thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.calibrate.calibrations import Calibrations
from app.trace.contexts import near_or_plan
from app.trace.presets import Preset, faithful
from engine import LatentSpace, Trace, TraceOptions
from engine.progress import Check
from engine.trace.agreement import Agreement
from engine.trace.bank import BankTexts
from engine.trace.cell import Cell, Curves
from engine.trace.compute import default_pins, leaders
from engine.trace.contexts import Contexts, Plan
from engine.trace.finding import Finding
from engine.trace.words import InWords

if TYPE_CHECKING:
    from engine.calibration.training.readings import Readings

NEAREST = 5
"""Nearest tokens of the vocabulary before and after a calibration."""


@dataclass(frozen=True)
class Switched:
    """A saved calibration that is switched on."""

    calibrations: Calibrations
    id: str

    def read(
        self, space: LatentSpace, prompt: str, options: TraceOptions, check: Check
    ) -> Readings:
        """The prompt before and after it; raises as `Calibrations.read` does."""
        return self.calibrations.read(
            space, self.id, prompt, k=NEAREST, bos=options.bos, chat=options.chat, check=check
        )


@dataclass(frozen=True)
class Reading:
    """One prompt's trace, and what is opened of it."""

    trace: Trace
    cell: Cell
    curves: Curves
    """At the cell's position."""
    finding: Finding
    """At the last position that was read: what is said first."""
    agreement: Agreement | None
    words: InWords | None
    """The cell's state as a sum of a few words."""
    contexts: Contexts | Plan | None
    """The texts in which the model was in a state like the cell's."""
    best: Preset | None
    """The reading that agrees best with the model; None where that was not measured."""
    switched: Readings | None
    """Before and after the calibration that is switched on; None where none is."""


@dataclass(frozen=True)
class KeptTrace:
    """What of a reading is kept in the history: all but what is opened of it."""

    trace: Trace
    finding: Finding
    curves: Curves

    def to_dict(self) -> dict[str, Any]:
        """The trace's JSON, and beside it the finding and the curves."""
        more = {"finding": self.finding.to_dict(), "curves": self.curves.to_dict()}
        return self.trace.to_dict() | more


def read(
    space: LatentSpace,
    prompt: str,
    options: TraceOptions,
    *,
    cell: tuple[int, int] | None = None,
    pins: tuple[int, ...] | None = None,
    panel: str | None = None,
    bank: BankTexts | None = None,
    switched: Switched | None = None,
    check: Check,
) -> Reading:
    """Read a prompt, one cell of its trace, and the curves through that cell's position.

    Args:
        space: the model; called on its thread.
        prompt: the text.
        options: how it is read.
        cell: (layer, position) of the cell that is opened; None, or where the trace does not hold
            it: the last layer's last position.
        pins: the tokens whose curves are wanted; None: the answer, its two rivals, and what is
            nearest at any layer.
        panel: what is read besides: ``agreement``, ``words`` or ``contexts``.
        bank: the texts in which contexts are looked for.
        switched: a calibration to read the prompt by as well.
        check: raises to stop.
    """
    trace = space.trace(prompt, options, check=check)
    layer, position = cell or (trace.layers[-1], trace.positions[-1])
    if layer not in trace.layers or position not in trace.positions:
        layer, position = trace.layers[-1], trace.positions[-1]
    if pins is None:
        column = trace.positions.index(position)
        pins = default_pins(trace.top_ids[:, column, 0], leaders(trace, position))
    return Reading(
        trace,
        space.cell(prompt, layer, position, options, check=check),
        space.curves(prompt, pins, options, position=position, check=check),
        space.finding(prompt, options, position=trace.positions[-1], check=check),
        space.agreement(prompt, options, check=check) if panel == "agreement" else None,
        space.in_words(prompt, layer, position, options, check=check) if panel == "words" else None,
        near_or_plan(space, prompt, layer, position, bank, options.bos, options.chat, check=check)
        if bank is not None
        else None,
        faithful(space, check=check),
        switched.read(space, prompt, options, check) if switched is not None else None,
    )


def words_beside(
    space: LatentSpace,
    prompt: str,
    cell: tuple[int, int],
    options: TraceOptions,
    *,
    check: Check,
) -> tuple[InWords, tuple[int, ...]]:
    """A cell as a sum of a few words, and the tokens that lead the race at its position."""
    found = space.in_words(prompt, *cell, options, check=check)
    return found, leaders(space.trace(prompt, options, check=check), found.position)


@dataclass(frozen=True)
class CostEstimate:
    """What a trace would cost, with the tokens of its prompt."""

    tokens: int
    predicted_seconds: float
    predicted_bytes: int


def predict_cost(
    space: LatentSpace, prompt: str, options: TraceOptions, *, check: Check
) -> CostEstimate:
    """What a trace of this prompt would cost, without running it."""
    tokens = len(space.tokenize(prompt, bos=options.bos, chat=options.chat).ids)
    cost = space.predict_cost(tokens, options)
    return CostEstimate(tokens, cost.predicted_seconds, cost.predicted_bytes)
