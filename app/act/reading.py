"""All that the Act page shows, read in one turn of the device thread."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from app.act.work import recall
from app.storage.runs import Runs
from engine import LatentSpace, Trace, TraceOptions
from engine.compare.acted import ActedCells, acted_cells
from engine.errors import InputError, OptionError
from engine.interventions.action import Action
from engine.interventions.causal import CausalMap
from engine.interventions.effect import Effect, answers, effect
from engine.interventions.nudge import Nudge, nudge
from engine.interventions.sentences import causal_sentence, effect_sentence, nudge_sentence
from engine.interventions.written import NOTHING, Writing
from engine.progress import Check

Colour = Literal["moved", "kl", "rank"]


@dataclass(frozen=True)
class ActReading:
    """One action and what stands beside it."""

    effect: Effect
    sentence: str
    before: Trace
    after: Trace
    nudge: Nudge | None
    nudge_sentence: str
    """Of the nudge; or why there is none."""
    causal: CausalMap | None
    causal_sentence: str
    """Of the map; or why there can be none; empty where no twin was named."""
    seconds: float | None
    """What a map that is not computed yet would take."""
    colour: Colour = "moved"
    """What the grid with the action is coloured by."""
    cells: ActedCells | None = None
    """What it is coloured by needs; None where the states' movement is enough."""

    def to_dict(self) -> dict[str, Any]:
        """The effect's JSON with its sentence, and the traces on either side."""
        more = {"traces": {"before": self.before.to_dict(), "after": self.after.to_dict()}}
        return self.effect.to_dict() | {"sentence": self.sentence} | more


def read(
    space: LatentSpace,
    prompt: str,
    action: Action,
    twin: str | None,
    runs: Runs,
    writing: Writing = NOTHING,
    colour: Colour = "moved",
    *,
    check: Check,
) -> ActReading:
    """An action's effect, the traces before and after, what is written under it, the nudge and the
    causal map if known; and where a colour needs them, every cell's reading before and after.

    A push without a token goes from the model's own answer to the next one.
    """
    if action.kind == "steer" and not action.texts and action.random == _RUNNER_UP:
        raw = space.states(prompt, **action.settings, check=check).raw
        first, second = answers(space, raw[-1:, -1])[0].topk(2).indices.tolist()
        action = replace(action, random=None, token=second, foil=first)
    found = effect(space, prompt, action, writing, check=check)
    options = TraceOptions(bos=action.bos, chat=action.chat)
    before = space.trace(prompt, options, check=check)
    with space.act(found.action, check=check):
        after = space.trace(prompt, options, check=check)
    apart = None
    if colour != "moved":
        target = found.target.id
        apart = acted_cells(space, prompt, found.action, target, options, check=check)
    small, said = None, ""
    try:
        small = nudge(space, prompt, found.target.id, **action.settings, check=check)
        said = nudge_sentence(small)
    except OptionError as error:
        said = str(error)
    causal, where, seconds = None, "", None
    if twin is not None:
        try:
            seconds = space.predict_causal_map(prompt, twin)
            causal = recall(space, runs, prompt, twin)
        except InputError as error:
            where = str(error)
    if causal is not None:
        where = causal_sentence(causal, named_from(before))
    return ActReading(
        found,
        effect_sentence(found, space.vocabulary),
        before,
        after,
        small,
        said,
        causal,
        where,
        seconds,
        colour,
        apart,
    )


_RUNNER_UP = -1
RUNNER_UP = Action(kind="steer", random=_RUNNER_UP)
"""A push from the model's own answer to the token that stands second."""


def named_from(trace: Trace) -> int | None:
    """The layer from which on the reading names the model's answer at the last position."""
    hits = trace.agrees[:, -1]
    below = [n for n in range(len(hits)) if not hits[n]]
    first = below[-1] + 1 if below else 0
    return trace.layers[first] if first < len(hits) else None
