"""The page of a text that goes on: it fills while one watches, and forks where one clicks.

A browser gets the page at once and asks for the rest as server-sent events, whose data are pieces
of the page. Without JavaScript, and for programs, the same address gives the finished text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from app.figures.theme import FRAMES, GEOMETRIES, LABELS, LENSES
from app.generate.events import CALL, Step, first_of, written
from app.generate.panels import RunPanel, column, ending, finished, layer_names, link_to
from app.generate.question import GeneratePageQuery, GenerateQuestion, forced
from app.method.terms import TERMS, Term
from app.model.explorer import Explorer, ExplorerDep
from app.model.recording import asked, recording, run_of
from app.model.stepping import Done, whole
from app.web.errors import told
from app.web.questions import ask, undialled
from app.web.rendering import Page, render, render_text
from app.web.words import Choice, choices
from engine import LatentSpace
from engine.errors import InputError, OptionError
from engine.generation.column import Column, Generation
from engine.model.vocabulary import Token
from engine.progress import Check

router = APIRouter(include_in_schema=False)
PAGE = Page("Generate", "/generate", router, takes_prompt=True)
_FOLDED = ("temperature", "top_p", "top_k", "seed", "geometry", "frame", "alpha", "ridge",
           "lens", "chat")  # fmt: skip


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
    found: Generation | None = None
    try:
        if mistake is not None:
            raise OptionError(mistake)
        question = query.prompt, query.options()
        run = await _run(request, explorer, query)
        if run.stream is None:
            found = await whole(explorer, request, CALL, *question)
            run = finished(request, query, found, run.branches)
    except InputError as error:
        return send(show(problem=str(error)), status=422)
    answer = send(show(run=run), fragment="generate/_run.html")
    if found is not None:
        answer.background = _recording(request, explorer, query, found)
    return answer


@router.get("/generate/stream")
async def generate_stream(
    request: Request, query: Annotated[GeneratePageQuery, Query()], explorer: ExplorerDep
) -> Response:
    """The columns as server-sent events, each a piece of the page, as they are written."""
    begun = await first_of(written(explorer, request, query.prompt, query.options()))
    ended: list[Generation] = []

    async def keep() -> None:
        for found in ended:
            task = _recording(request, explorer, query, found)
            if task is not None:
                await task()

    return StreamingResponse(
        _events(request, query, begun, ended),
        media_type="text/event-stream",
        background=BackgroundTask(keep),
    )


async def _events(
    request: Request,
    query: GeneratePageQuery,
    begun: AsyncGenerator[Step, None],
    ended: list[Generation],
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(begun):
            async for step in begun:
                if isinstance(step, Column):
                    context: dict[str, Any] = {"column": column(request, query, step)}
                    yield _event(request, "column", "generate/_column.html", context)
                elif isinstance(step, Done):
                    ended.append(step.value)
                    context = {"end": ending(request, query, step.value), "terms": TERMS}
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


def _recording(
    request: Request, explorer: Explorer, query: GeneratePageQuery, found: Generation
) -> BackgroundTask | None:
    """What keeps the run: the branch that is shown."""
    own = undialled(query.model_copy(update={"fork": query.path}))
    question = asked(own, GenerateQuestion.model_fields)
    reading = f"{LABELS[own.geometry]}, {LABELS[own.frame]}; {len(found.columns)} tokens"
    run = run_of(
        explorer.facts(), "generate", question,
        prompt=query.prompt, other=found.continuation, reading=reading,
    )  # fmt: skip
    return recording(request, explorer, run, found)


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
    question = query.prompt, query.options()
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
    streams = (browser or parts) and not query.whole and explorer.kept(CALL, *question) is None
    return RunPanel(
        query=query,
        branches=tuple(branches) if query.paths else (),
        layers=layer_names(explorer.facts().layers),
        columns=(),
        end=None,
        stream=link_to(request, query, "/generate/stream") if streams else None,
        whole_href=link_to(request, query, whole=True),
    )
