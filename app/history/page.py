"""The page History: what pages showed, newest first, and each of it again without the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse
from pydantic import Field
from starlette.responses import RedirectResponse, Response

from app.calibrate.sets import SetsDep
from app.figures.theme import layer_label
from app.history.kinds import KINDS, asks_again
from app.history.receiving import receive
from app.method.terms import TERMS
from app.storage.run import RunView, Strip
from app.storage.runs import Runs
from app.storage.store import aside
from app.web.questions import PageQuestion, ask
from app.web.rendering import Page, link, render
from app.web.words import Choice, choices, size

router = APIRouter(include_in_schema=False)
PAGE = Page("History", "/history", router, reference=True)
SHOWN = 20
"""Runs on a page."""
RECENT = 6
"""And in the drawer of another page."""
RunId = Annotated[str, Path(max_length=64, description="The run.")]


async def _runs(request: Request) -> Runs:
    runs: Runs = request.app.state.runs
    return runs


RunsDep = Annotated[Runs, Depends(_runs)]
"""The kept runs of this server."""


class HistoryQuery(PageQuestion):
    """The whole state of the page."""

    kind: Literal["trace", "generate", "act", "compare", "causal", "many"] | None = None
    start: int = Field(0, ge=0, le=10_000)
    part: Literal["recent"] | None = None
    """The drawer of another page alone."""


@dataclass(frozen=True)
class Row:
    """A run in the list."""

    view: RunView
    href: str
    compare_href: str | None
    """Sets another prompt beside it; None where that cannot be."""
    file_href: str
    delete_action: str
    bytes: str
    when: str
    segments: tuple[tuple[str, int], ...]
    """Of the strip: what neighbouring layers name alike, and how many they are."""
    cells: tuple[tuple[Strip, str], ...]
    """(cell, in words), the embedding first."""


@dataclass(frozen=True)
class HistoryPage:
    """What ``history/list.html`` shows."""

    query: HistoryQuery
    kinds: tuple[Choice, ...]
    rows: tuple[Row, ...]
    count: int
    held: str
    limit: str
    wanted: bool
    newer: str | None
    older: str | None
    problem: str
    mistake: str | None
    href: str
    file_href: str
    clear_action: str
    import_action: str


@router.get("/history", response_class=HTMLResponse)
async def history_page(request: Request, runs: RunsDep) -> HTMLResponse:
    """The list, or the drawer that another page shows of it."""
    query, mistake = ask(HistoryQuery, request)
    every = await aside(runs.all)
    found = [one for one in every if query.kind in (None, one.kind)]
    shown = found[:RECENT] if query.part else found[query.start : query.start + SHOWN]
    here = partial(link, request, "/history", kind=query.kind)
    context = HistoryPage(
        query=query,
        kinds=choices((("", "all"), *((n, one.title) for n, one in KINDS.items())),
                      query.kind or ""),
        rows=tuple(_row(request, one) for one in shown),
        count=len(found),
        held=size(sum(one.bytes for one in every)),
        limit=size(runs.limit),
        wanted=runs.wanted,
        newer=here(start=max(0, query.start - SHOWN) or None) if query.start else None,
        older=here(start=query.start + SHOWN) if query.start + SHOWN < len(found) else None,
        problem=runs.problem or (runs.unavailable and f"Nothing is kept: {runs.unavailable}"),
        mistake=mistake,
        href=link(request, "/history"),
        file_href=link(request, "/api/v1/history/file"),
        clear_action=link(request, "/history/clear"),
        import_action=link(request, "/history/import"),
    )  # fmt: skip
    template = "history/_recent.html" if query.part else "history/list.html"
    return render(request, template, context, status=422 if mistake else 200)


@router.get("/history/{id}", response_class=HTMLResponse)
async def run_page(request: Request, id: RunId, runs: RunsDep) -> HTMLResponse:
    """A run as its page showed it; neither the model nor its weights are asked."""
    view = await aside(partial(runs.view, id))
    kept = await aside(partial(runs.open, id))
    shown = KINDS[kept.run.kind]
    explorer = request.app.state.explorer
    own = kept.run.model.fingerprint
    context: Mapping[str, Any] = {
        "row": _row(request, view),
        "run_kept": kept.run,
        "title": shown.title,
        "template": shown.template,
        "same_model": explorer.info is not None and explorer.info.fingerprint == own,
        "again": asks_again(request, kept.run),
        "json_href": link(request, f"/api/v1/history/{id}"),
        "history_href": link(request, "/history"),
        "terms": TERMS,
        **await aside(partial(shown.draw, request, kept.run, kept.value)),
    }
    return render(request, "history/run.html", context)


@router.post("/history/import")
async def import_form(request: Request, runs: RunsDep, sets: SetsDep) -> Response:
    """Keep the runs of a file, by a form."""
    await receive(request, runs, sets)
    return RedirectResponse(link(request, "/history"), 303)


@router.post("/history/clear")
async def clear_form(request: Request, runs: RunsDep) -> Response:
    """Delete all runs, by a form."""
    await aside(runs.clear)
    return RedirectResponse(link(request, "/history"), 303)


@router.post("/history/{id}/delete")
async def delete_form(request: Request, id: RunId, runs: RunsDep) -> Response:
    """Delete a run, by a form."""
    await aside(partial(runs.delete, id))
    return RedirectResponse(link(request, "/history"), 303)


def _row(request: Request, view: RunView) -> Row:
    place = f"/history/{view.id}"
    labels = groupby(view.strip, key=lambda cell: cell.label)
    return Row(
        view=view,
        href=link(request, place),
        compare_href=link(request, "/compare", run=view.id) if view.has_states else None,
        file_href=link(request, f"/api/v1{place}/file"),
        delete_action=link(request, f"{place}/delete"),
        bytes=size(view.bytes),
        when=view.created.replace("T", " ").removesuffix("+00:00"),
        segments=tuple((label, len(list(cells))) for label, cells in labels),
        cells=tuple(
            (cell, f"layer {layer_label(n)}: {cell.label}") for n, cell in enumerate(view.strip)
        ),
    )
