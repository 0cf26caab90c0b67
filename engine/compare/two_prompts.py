"""Two prompts through the layers of one model, cell beside cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.compare.alignment import Pairs, align
from engine.compare.divergence import divergence_of_readings
from engine.errors import OptionError
from engine.json_number import number
from engine.model.vocabulary import Token
from engine.progress import Check, no_check
from engine.reading.read import read
from engine.space import LatentSpace
from engine.trace.cell import Curves
from engine.trace.options import TraceOptions, prepare
from engine.trace.result import Floats, GeometryReading, Ints, Trace

SIDES = ("prompt", "other")
Within = Callable[[], AbstractContextManager[None]]
"""What holds while one side is read."""


@dataclass(frozen=True)
class PromptComparison:
    """Two prompts cell beside cell; arrays are layer × pair."""

    first: Trace
    """The prompt's, at its positions that have a partner, in their order."""
    other: Trace
    """The other's, at the partners."""
    tokens: tuple[tuple[Token, ...], tuple[Token, ...]]
    """All of either prompt's."""
    pairs: Pairs
    """(position in the prompt, position in the other)."""
    divergence: Floats
    """KL(the prompt's reading ‖ the other's), nats."""
    rank_in_other: Ints
    """Rank of the prompt's answer in the other's reading, from 1; 0 where it is not finite."""
    rank_in_first: Ints
    """Rank of the other's answer in the prompt's reading, the same."""
    race: tuple[Curves, Curves]
    """Both answers after the last pair, over the layers of either prompt."""
    parted_by_chance: int | None
    """As :attr:`parted`, with random vectors in the place of the frame's."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Those that were read."""
        return self.first.layers

    def at(self, pairs: slice) -> PromptComparison:
        """The same with some of the pairs."""
        return replace(
            self,
            first=_at(self.first, self.first.positions[pairs]),
            other=_at(self.other, self.other.positions[pairs]),
            pairs=self.pairs[pairs],
            divergence=self.divergence[:, pairs],
            rank_in_other=self.rank_in_other[:, pairs],
            rank_in_first=self.rank_in_first[:, pairs],
        )

    @property
    def alone(self) -> tuple[tuple[Token, ...], tuple[Token, ...]]:
        """The tokens of either prompt that have no partner."""
        held = [{pair[side] for pair in self.pairs} for side in (0, 1)]
        first, other = (
            tuple(token for n, token in enumerate(own) if n not in with_partner)
            for own, with_partner in zip(self.tokens, held, strict=True)
        )
        return first, other

    @property
    def answers(self) -> tuple[Token, Token]:
        """What the model says after the last pair."""
        first, other = (one.token_info[int(one.final_ids[-1])] for one in (self.first, self.other))
        return first, other

    @property
    def parted(self) -> int | None:
        """The layer from which on, to the last, either answer ranks higher after its own prompt
        than after the other's, in the last pair; None where it does not at the last, or where both
        answer alike."""
        if self.answers[0].id == self.answers[1].id:
            return None
        own, far = self.first.final_rank[:, -1], self.other.final_rank[:, -1]
        return _parted(self.layers, own, far, self.rank_in_other[:, -1], self.rank_in_first[:, -1])

    @property
    def control(self) -> str:
        """The same by random vectors; empty where both answer alike, or where the reading itself
        is by them."""
        if self.answers[0].id == self.answers[1].id or self.first.options.frame == "random":
            return ""
        own, chance = self.parted, self.parted_by_chance
        if own is None:
            return (
                "By this reading no layer parts them: at the last one an answer ranks no"
                " higher after its own prompt than after the other."
            )
        said = f"From layer {own} on either answer ranks higher after its own prompt"
        if chance is None:
            return f"{said} than after the other; with random vectors at no layer to the last."
        if chance <= own:
            return (
                f"{said}, but with random vectors from layer {chance} on: that says nothing of"
                " words."
            )
        return f"{said} than after the other; with random vectors from layer {chance} on."

    @property
    def sentence(self) -> str:
        """Where the two readings part."""
        first, other = self.answers
        where = f"After {_quoted(self.first.tokens[self.pairs[-1][0]])}"
        if self.pairs[-1][0] != len(self.tokens[0]) - 1 or (
            self.pairs[-1][1] != len(self.tokens[1]) - 1
        ):
            where += ", the last token that both have,"
        if not np.nan_to_num(self.divergence).any():
            return f"{where} both say {_quoted(first)}: the two readings are equal in every cell."
        said = (
            f"{where} the model says {_quoted(first)} to the one and {_quoted(other)} to the other."
            if first.id != other.id
            else f"{where} the model says {_quoted(first)} to both."
        )
        tops = [one.top_ids[:, -1, 0] for one in (self.first, self.other)]
        apart = np.nonzero(tops[0] != tops[1])[0]
        last = number(self.divergence[-1, -1])
        told = "–" if last is None else f"{last:.2f}"
        if not len(apart):
            return f"{said} In that column both read the same first token at every layer."
        return (
            f"{said} In that column their first tokens differ from layer"
            f" {self.layers[int(apart[0])]} on, and at layer {self.layers[-1]} they are {told} nats"
            " apart."
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        sides = (self.first, self.other)
        cells = []
        for i, layer in enumerate(self.layers):
            for n, (a, b) in enumerate(self.pairs):
                tops = [one.top_ids[i, n, 0] for one in sides]
                cells.append(
                    {
                        "layer": layer,
                        "positions": [a, b],
                        "top": [
                            {"id": int(t), "text": one.token_info[int(t)].text} if t >= 0 else None
                            for one, t in zip(sides, tops, strict=True)
                        ],
                        "divergence": number(self.divergence[i, n]),
                        "rank_in_other": int(self.rank_in_other[i, n]) or None,
                        "rank_in_first": int(self.rank_in_first[i, n]) or None,
                    }
                )
        return {
            "tokens": [[token.to_dict() for token in own] for own in self.tokens],
            "pairs": [list(pair) for pair in self.pairs],
            "alone": [[token.to_dict() for token in own] for own in self.alone],
            "layers": list(self.layers),
            "answers": [token.to_dict() for token in self.answers],
            "cells": cells,
            "race": [one.to_dict() for one in self.race],
            "options": self.first.options.to_dict(),
            "sentence": self.sentence,
            "parted": self.parted,
            "parted_by_chance": self.parted_by_chance,
            "control": self.control,
            "warnings": [*self.first.warnings, *self.other.warnings],
        }


def compare_prompts(
    space: LatentSpace,
    prompt: str,
    other: str,
    options: TraceOptions | None = None,
    *,
    by: str = "tokens",
    within: tuple[Within, Within] = (nullcontext, nullcontext),
    check: Check = no_check,
    **settings: Any,
) -> PromptComparison:
    """Read two prompts in the same way and set them beside each other.

    Args:
        space: the model; called on its thread.
        prompt: any text.
        other: another.
        options: how both are read; or its fields as keywords. `positions` counts in the prompt.
        by: how their tokens are paired, one of :data:`engine.compare.alignment.ALIGNMENTS`.
        within: for either side what holds while it is read, such as an action.
        check: raises to stop.

    Raises:
        OptionError: nothing of one stands where something of the other does; or as for a trace.
        PromptError, LayerError: as for a trace.
    """
    options = replace(options or TraceOptions(), **settings)
    whole = replace(options, positions=None)
    texts, asked = (prompt, other), (options, whole)
    traces, raws = [], []
    for text, how, held in zip(texts, asked, within, strict=True):
        with held():
            traces.append(space.trace(text, how, check=check))
            raws.append(space.states(text, bos=options.bos, chat=options.chat, check=check))
    read_there = set(traces[0].positions)
    pairs = tuple(
        pair for pair in align(traces[0].tokens, traces[1].tokens, by) if pair[0] in read_there
    )
    if not pairs:
        raise OptionError(
            "the two prompts have no token in common to be set beside each other; choose prompts"
            " that differ in a few words."
        )
    sides = [_at(trace, [pair[side] for pair in pairs]) for side, trace in enumerate(traces)]
    frame = space.frame(options.frame_key)
    temperature = sides[0].temperature
    states = []
    for side, raw in enumerate(raws):
        got = prepare(space.model, raw, whole, lens=space.lens(options.lens), check=check)
        states.append(got.states[:, [pair[side] for pair in pairs]].flatten(0, 1))
    shape = len(sides[0].layers), len(pairs)
    finite = sides[0].finite & sides[1].finite
    budget = space.model.limits.reading_bytes
    common: dict[str, Any] = {"centred": options.centred, "budget_bytes": budget, "check": check}
    apart = divergence_of_readings(
        frame, *states, geometry=options.geometry, temperature=temperature, **common
    )
    ranks = []
    for own, answers in ((states[1], sides[0]), (states[0], sides[1])):
        targets = torch.from_numpy(np.tile(answers.final_ids.clip(0), shape[0])).to(own.device)
        with torch.no_grad():
            found = read(
                frame,
                own,
                geometries=(options.geometry,),
                k=1,
                temperatures={options.geometry: temperature},
                targets=targets.unsqueeze(1),
                **common,
            )[options.geometry]
        rank = found.ranks.cpu().numpy().reshape(shape)
        ranks.append(np.where(finite & (answers.final_ids >= 0), rank, 0))
    ids = tuple(dict.fromkeys(int(one.final_ids[-1]) for one in sides if one.final_ids[-1] >= 0))
    race = []
    warm = replace(whole, temperature=temperature)
    for text, held, p in zip(texts, within, pairs[-1], strict=True):
        with held():
            race.append(space.curves(text, ids, warm, position=p, check=check))
    first, second = race
    return PromptComparison(
        first=sides[0],
        other=sides[1],
        tokens=(traces[0].tokens, traces[1].tokens),
        pairs=pairs,
        divergence=np.where(finite, apart.numpy().reshape(shape), np.nan).astype(np.float32),
        rank_in_other=ranks[0],
        rank_in_first=ranks[1],
        race=(first, second),
        parted_by_chance=_by_chance(
            space, [one.view(*shape, -1)[:, -1] for one in states], ids, sides[0], common
        ),
    )


def _by_chance(
    space: LatentSpace, states: list[Tensor], ids: tuple[int, ...], trace: Trace, common: Any
) -> int | None:
    """From which layer on random vectors part two answers."""
    if len(ids) < 2:
        return None
    both = torch.cat(states)
    targets = torch.tensor([ids], device=both.device).expand(len(both), -1)
    with torch.no_grad():
        found = read(space.frame("random"), both, geometries=(trace.options.geometry,), k=1,
                     targets=targets, **common)[trace.options.geometry]  # fmt: skip
    (a, b), (c, d) = (half.T for half in np.split(found.ranks.cpu().numpy(), 2))
    return _parted(trace.layers, a, d, c, b)


def _parted(layers: Sequence[int], first: Ints, other: Ints, there: Ints, back: Ints) -> int | None:
    """From which layer on, to the last, either answer's own rank is above its rank on the other
    side; ranks that are 0 are none."""
    ahead = (first < there) & (other < back) & (first > 0) & (other > 0)
    behind = np.nonzero(~ahead)[0]
    start = int(behind[-1]) + 1 if len(behind) else 0
    return layers[start] if start < len(layers) else None


def _at(trace: Trace, positions: Sequence[int]) -> Trace:
    """The same trace at some of its positions."""
    pick = [trace.positions.index(p) for p in positions]

    def chosen(value: Any, axis: int) -> Any:
        return np.take(value, pick, axis=axis) if isinstance(value, np.ndarray) else value

    def reading(one: GeometryReading) -> GeometryReading:
        return replace(one, **{f.name: chosen(getattr(one, f.name), 1) for f in fields(one)})

    by_position = ("final_ids", "final_probabilities")
    arrays = {
        f.name: chosen(getattr(trace, f.name), 0 if f.name in by_position else 1)
        for f in fields(trace)
        if isinstance(getattr(trace, f.name), np.ndarray)
    }
    readings = {name: reading(one) for name, one in trace.readings.items()}
    return replace(trace, positions=tuple(positions), readings=readings, **arrays)


def _quoted(token: Token) -> str:
    return f"“{token.label}”"
