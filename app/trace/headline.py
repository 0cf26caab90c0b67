"""What a trace shows, in one sentence made of its numbers, and beside what it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.model.vocabulary import Token
from engine.trace.finding import Finding
from engine.trace.result import Trace


@dataclass(frozen=True)
class Headline:
    """One finding, and the control that could have made it as well."""

    kind: Literal["found", "apart", "chance", "control", "none"]
    """`found`: the reading settles on the answer; `apart`: it ends at another token; `chance`:
    withheld, for random directions do as well; `control`: random directions are what is read;
    `none`: the model has no answer here."""
    answer: Token
    probability: float
    """Of the answer, by the model."""
    says: str
    """Behind the token, or the whole sentence where no token stands in it."""
    control: str
    """What random directions do there."""
    ends: Token | None = None
    """The token that stands nearest in the end, where that is another."""
    rank: int = 0
    """The answer's rank there."""


def headline(trace: Trace, found: Finding) -> Headline:
    """The finding at the last position that was read.

    The sentence is withheld where the random control settles as early.
    """
    column = trace.positions.index(found.position)
    answer = trace.token_info[int(trace.final_ids[column])]
    chance = float(trace.final_probabilities[column])
    last = trace.layers[-1]
    control = _control(found, trace.layers)
    if answer.id < 0:
        return Headline("none", answer, chance, "The model's last state is not finite.", "")
    if trace.options.frame == "random":
        says = "Random directions are read here: whatever this shows is chance."
        return Headline("control", answer, chance, says, "")
    if found.settled is None:
        top = int(trace.top_ids[-1, column, 0])
        ends = trace.token_info[top] if top >= 0 else None
        return Headline("apart", answer, chance, "", control, ends, found.ranks[-1])
    if not found.beyond_chance:
        says = (
            "Nothing is said of this reading here: by random directions the answer is nearest from"
            f" {_layer(found.control_settled or 0)} on as well."
        )
        return Headline("chance", answer, chance, says, control)
    if found.settled == trace.layers[0]:
        says = f"is the nearest word at every layer, {_layer(found.settled)} included."
    elif found.settled == last:
        says = f"becomes the nearest word only at the last layer, {last}."
    else:
        says = f"becomes the nearest word at layer {found.settled} of {last}, and stays."
    return Headline("found", answer, chance, says, control)


def _layer(layer: int) -> str:
    return f"layer {layer}" if layer else "the embedding"


def _control(found: Finding, layers: tuple[int, ...]) -> str:
    if not any(found.control_ranks):
        return ""
    named = [layer for layer, rank in zip(layers, found.control_ranks, strict=True) if rank == 1]
    if not named:
        best = min(filter(None, found.control_ranks))
        return f"never (rank {best:,} at best)"
    return "at layer " + ", ".join(map(str, named))
