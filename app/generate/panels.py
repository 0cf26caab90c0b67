"""A text that goes on, as its page shows it: columns, what could have stood there, its end."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from app.figures.theme import layer_label
from app.generate.question import MAX_FORKS, GeneratePageQuery, GenerateQuestion, forced
from app.web.questions import ReadingQuestion
from app.web.rendering import link
from app.web.words import Choice, number, probability
from engine.generation.column import Column, Generation
from engine.model.vocabulary import Token

_HEAT = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
"""Probabilities from which on a cell has the next stronger colour."""


def heat(p: float) -> int:
    """How strong the colour of a cell is, 0 to 6, by the probability of its token."""
    return bisect_right(_HEAT, p)


@dataclass(frozen=True)
class CellPanel:
    """One layer of a column."""

    layer: str
    token: Token | None
    """The nearest; None where the state is not finite."""
    heat: int
    """0 to 6, by its probability."""
    agrees: bool
    """Whether it is the new token."""
    settles: bool
    """Whether the token settles here."""
    title: str


@dataclass(frozen=True)
class ColumnPanel:
    """A finished column, top layer first, and what could have stood there."""

    index: int
    position: int
    before: Token
    token: Token
    probability: str
    rank: int
    forced: bool
    settles: int
    cells: tuple[CellPanel, ...]
    others: tuple[tuple[Token, str, str | None], ...]
    """(token, probability, the link that forks there; None for the token itself)."""


@dataclass(frozen=True)
class EndPanel:
    """What stands below a finished text."""

    count: int
    ended: bool
    sentence: str
    withheld: bool
    depths: tuple[tuple[str, str, str, str], ...]
    """(what, share that settles late, its interval, mean settling layer)."""
    deep_from: int
    trace_href: str
    json_href: str


@dataclass(frozen=True)
class RunPanel:
    """A text under way or finished."""

    query: GeneratePageQuery
    branches: tuple[Choice, ...]
    layers: tuple[str, ...]
    columns: tuple[ColumnPanel, ...]
    end: EndPanel | None
    """None where the columns are still to come."""
    stream: str | None
    """Where they come from."""
    whole_href: str

    @property
    def refresh(self) -> str:
        """Takes a browser without script to the finished text."""
        return f"0; url={self.whole_href}"


def link_to(
    request: Request, query: GeneratePageQuery, /, path: str = "/generate", **changes: Any
) -> str:
    """A link that keeps the entire state but for the changes; defaults are left out."""
    fields = type(query).model_fields
    state = query.model_dump() | {"whole": False} | changes
    kept = {k: v for k, v in state.items() if k == "prompt" or v != fields[k].default}
    return link(request, path, **kept)


def finished(
    request: Request,
    query: GeneratePageQuery,
    found: Generation,
    branches: tuple[Choice, ...] = (),
) -> RunPanel:
    """A text that has ended, with the branches beside it."""
    return RunPanel(
        query=query,
        branches=branches,
        layers=layer_names(len(found.columns[0].entropy)),
        columns=tuple(column(request, query, one) for one in found.columns),
        end=ending(request, query, found),
        stream=None,
        whole_href=link_to(request, query, whole=True),
    )


def layer_names(count: int) -> tuple[str, ...]:
    """The layers beside the columns, the top one first."""
    return tuple(layer_label(n) for n in reversed(range(count)))


def column(request: Request, query: GeneratePageQuery, column: Column) -> ColumnPanel:
    """A new token with its column and what could have stood there."""
    cells = []
    for layer in reversed(range(len(column.entropy))):
        id = int(column.top_ids[layer, 0])
        token = column.token_info[id] if id >= 0 else None
        p = float(column.top_probabilities[layer, 0])
        said = "not finite, nothing is ranked"
        if token is not None:
            said = (
                f"{token.label}, probability {probability(p)}, entropy"
                f" {number(float(column.entropy[layer]))} nats, the model's answer has rank"
                f" {int(column.final_ranks[layer]):,}, {number(float(column.divergence[layer]))}"
                " nats from the last layer"
            )
        cells.append(
            CellPanel(
                layer=layer_label(layer),
                token=token,
                heat=0 if token is None else heat(p),
                agrees=id == column.token.id,
                settles=layer == column.settling_layer,
                title=f"layer {layer_label(layer)}: {said}",
            )
        )
    return ColumnPanel(
        index=column.index,
        position=column.position,
        before=column.before,
        token=column.token,
        probability=probability(column.probability),
        rank=column.rank,
        forced=column.forced,
        settles=column.settling_layer,
        cells=tuple(cells),
        others=tuple(
            (
                one.token,
                probability(one.probability),
                None
                if one.token.id == column.token.id
                else _fork(request, query, column.index, one.token.id),
            )
            for one in column.alternatives
        ),
    )


def _fork(request: Request, query: GeneratePageQuery, index: int, id: int) -> str:
    """The link that forks the branch that is shown; the oldest goes where there are too many."""
    before = [f"{number}:{token}" for number, token in forced(query.path) if number < index]
    path = ".".join([*before, f"{index}:{id}"])
    paths = query.paths if path in query.paths else (*query.paths, path)[-MAX_FORKS:]
    return link_to(request, query, forks=",".join(paths), branch=paths.index(path) + 1, fork=None)


def ending(request: Request, query: GeneratePageQuery, found: Generation) -> EndPanel:
    """What stands below a finished text."""
    thinking = found.thinking
    named = {"reading": thinking.found, **thinking.controls}
    words = {
        "reading": "this reading",
        "random": "random bases, as sharp (control)",
        "shuffled": "layers in a shuffled order (control)",
    }
    state = query.model_copy(update={"fork": query.path}).model_dump()
    asked = {
        name: state[name]
        for name, field in GenerateQuestion.model_fields.items()
        if state[name] != field.default
    }
    shared = ReadingQuestion.model_fields.keys() - {"k", "chat"}  # a chat is not written twice
    reading = {name: state[name] for name in shared if name in asked}
    return EndPanel(
        count=len(found.columns),
        ended=found.ended,
        sentence=thinking.sentence,
        withheld=bool(thinking.equalled_by),
        depths=tuple(
            (
                words[name],
                f"{one.deep} of {one.tokens}",
                f"{100 * one.interval[0]:.0f} to {100 * one.interval[1]:.0f} %",
                f"{one.mean_layer:.1f}",
            )
            for name, one in named.items()
        ),
        deep_from=thinking.deep_from,
        trace_href=link(request, "/", prompt=found.text, **reading),
        json_href=link(request, "/api/v1/generate", **asked),
    )
