"""The page of a text that goes on: it fills while one watches, and forks where one clicks.

A browser gets the page at once and asks for the rest as server-sent events, whose data are pieces
of the page. Without JavaScript, and for programs, the same address gives the finished text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from app.figures.theme import FRAMES, GEOMETRIES, LENSES, layer_label
from app.generate.events import CALL, Step, first_of, written
from app.generate.question import FORK, GenerateQuestion, forced
from app.method.terms import TERMS, Term
from app.model.explorer import Explorer, ExplorerDep
from app.model.stepping import Done, whole
from app.web.errors import told
from app.web.questions import PageQuestion, PromptText, ReadingQuestion, ask, undialled
from app.web.rendering import Page, link, render, render_text
from app.web.words import Choice, choices, number, probability
from engine import GenerateOptions, LatentSpace
from engine.errors import InputError, OptionError
from engine.frames.kinds import FrameName
from engine.generation.column import Column, Generation
from engine.model.vocabulary import Token
from engine.progress import Check
from engine.reading.geometries import GeometryName

router = APIRouter(include_in_schema=False)
PAGE = Page("Generate", "/generate", router, takes_prompt=True)
EXAMPLE = "The capital of France is"
MAX_FORKS = 8
_HEAT = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
"""Probabilities from which on a cell has the next stronger colour."""
_FOLDED = ("temperature", "top_p", "top_k", "seed", "geometry", "frame", "alpha", "ridge",
           "lens", "chat")  # fmt: skip


class GeneratePageQuery(GenerateQuestion, PageQuestion):
    """The whole state of the page; read as the model itself does where nothing else is asked."""

    empty_counts = ("prompt",)
    prompt: PromptText = EXAMPLE
    geometry: GeometryName = "matmul"
    frame: FrameName = "head"
    forks: str | None = Field(None, max_length=2100, pattern=rf"^{FORK}(,{FORK}){{0,7}}$")
    """Branches of the text, each as :data:`app.generate.question.ForkPath`."""
    branch: Annotated[int, Field(ge=0, le=MAX_FORKS)] = 0
    """Which is shown: 0 the text itself, else one of `forks`, from 1."""
    whole: bool = False
    """Whether the page waits for the finished text."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The branches."""
        return tuple(self.forks.split(",")) if self.forks else ()

    @property
    def path(self) -> str | None:
        """The branch that is shown."""
        return ("", *self.paths)[self.branch] or self.fork

    def options(self) -> GenerateOptions:
        """The engine's options of the branch; raises where there is no such branch."""
        if self.branch > len(self.paths):
            raise OptionError(
                f"branch must be at most {len(self.paths)}, as many as there are forks; got"
                f" {self.branch}."
            )
        asked = undialled(self.model_copy(update={"fork": self.path}))
        return super(GeneratePageQuery, asked).options()


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


@dataclass(frozen=True)
class GeneratePage:
    """What ``generate/page.html`` shows."""

    query: GeneratePageQuery
    switches: Mapping[str, tuple[Choice, ...]]
    changed: int
    """How many of the folded settings differ from their defaults."""
    run: RunPanel | None
    problem: str | None
    terms: Mapping[str, Term]


@router.get("/generate", response_class=HTMLResponse)
async def generate_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """The page, or its text alone where htmx asks for that."""
    query, mistake = ask(GeneratePageQuery, request)
    show = partial(_page, query)
    send = partial(
        render,
        request,
        "generate/page.html",
        headers={"Vary": "Sec-Fetch-Dest, HX-Request, HX-History-Restore-Request, HX-Boosted"},
    )
    if not request.query_params:  # nothing is asked yet
        return send(show())
    try:
        if mistake is not None:
            raise OptionError(mistake)
        asked = query.prompt, query.options()
        run = await _run(request, explorer, query)
        if run.stream is None:
            found = await whole(explorer, request, CALL, *asked)
            run = _finished(request, query, run, found)
    except InputError as error:
        return send(show(problem=str(error)), status=422)
    return send(show(run=run), fragment="generate/_run.html")


@router.get("/generate/stream")
async def generate_stream(
    request: Request, query: Annotated[GeneratePageQuery, Query()], explorer: ExplorerDep
) -> Response:
    """The columns as server-sent events, each a piece of the page, as they are written."""
    begun = await first_of(written(explorer, request, query.prompt, query.options()))
    return StreamingResponse(_events(request, query, begun), media_type="text/event-stream")


async def _events(
    request: Request, query: GeneratePageQuery, begun: AsyncGenerator[Step, None]
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(begun):
            async for step in begun:
                if isinstance(step, Column):
                    context: dict[str, Any] = {"column": _column(request, query, step)}
                    yield _event(request, "column", "generate/_column.html", context)
                elif isinstance(step, Done):
                    context = {"end": _end(request, query, step.value), "terms": TERMS}
                    yield _event(request, "end", "generate/_end.html", context)
    except Exception as error:  # the answer has begun: what went wrong is its last event
        context = {"sentence": told(request, error)[1]}
        yield _event(request, "problem", "generate/_lost.html", context)


def _event(request: Request, name: str, template: str, context: Mapping[str, Any]) -> bytes:
    """One server-sent event; a line end in its data begins a line ``data:``."""
    body = render_text(request, template, context, is_fragment=True)
    return (
        b"event: "
        + name.encode()
        + b"".join(b"\ndata: " + line for line in body.splitlines())
        + b"\n\n"
    )


# ---- from results to what is shown ---------------------------------------------------------------


def link_to(
    request: Request, query: GeneratePageQuery, /, path: str = "/generate", **changes: Any
) -> str:
    """A link that keeps the entire state but for the changes; defaults are left out."""
    fields = type(query).model_fields
    state = query.model_dump() | {"whole": False} | changes
    kept = {k: v for k, v in state.items() if k == "prompt" or v != fields[k].default}
    return link(request, path, **kept)


def _page(
    query: GeneratePageQuery, *, run: RunPanel | None = None, problem: str | None = None
) -> GeneratePage:
    fields = type(query).model_fields
    return GeneratePage(
        query=query,
        switches={
            "geometry": choices(GEOMETRIES, query.geometry),
            "frame": choices(FRAMES, query.frame),
            "lens": choices(LENSES, query.lens),
        },
        changed=sum(getattr(query, name) != fields[name].default for name in _FOLDED),
        run=run,
        problem=problem,
        terms=TERMS,
    )


def _names(space: LatentSpace, ids: tuple[int, ...], *, check: Check) -> tuple[Token, ...]:
    """Tokens by their ids, for the names of branches."""
    check()
    return tuple(space.vocabulary.token(id) for id in ids if id < space.model.vocabulary)


async def _run(request: Request, explorer: Explorer, query: GeneratePageQuery) -> RunPanel:
    """The text before its first column."""
    asked = query.prompt, query.options()
    ids = tuple(sorted({id for path in query.paths for _, id in forced(path)}))
    labels = {}
    if ids:
        named = await explorer.ask(request, _names, ids)
        labels = {token.id: token.label for token in named}
    branches = [Choice("0", "the text", query.branch == 0, href=link_to(request, query, branch=0))]
    for n, path in enumerate(query.paths, start=1):
        words = ", ".join(
            f"{number + 1}: {labels.get(id, f'#{id}')}" for number, id in forced(path)
        )
        href = link_to(request, query, branch=n)
        branches.append(Choice(str(n), words, query.branch == n, href=href))
    # A browser that shows a page can ask for the rest itself; it says so, and programs do not.
    browser = "document" in request.headers.get("sec-fetch-dest", "")
    parts = request.headers.get("hx-request") == "true"
    streams = (browser or parts) and not query.whole and explorer.kept(CALL, *asked) is None
    return RunPanel(
        query=query,
        branches=tuple(branches) if query.paths else (),
        layers=tuple(layer_label(n) for n in reversed(range(explorer.facts().layers))),
        columns=(),
        end=None,
        stream=link_to(request, query, "/generate/stream") if streams else None,
        whole_href=link_to(request, query, whole=True),
    )


def _finished(
    request: Request, query: GeneratePageQuery, run: RunPanel, found: Generation
) -> RunPanel:
    return RunPanel(
        query=query,
        branches=run.branches,
        layers=run.layers,
        columns=tuple(_column(request, query, one) for one in found.columns),
        end=_end(request, query, found),
        stream=None,
        whole_href=run.whole_href,
    )


def _column(request: Request, query: GeneratePageQuery, column: Column) -> ColumnPanel:
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
                heat=0 if token is None else bisect_right(_HEAT, p),
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


def _end(request: Request, query: GeneratePageQuery, found: Generation) -> EndPanel:
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
