"""The Map page: a latent space to look at, with the evidence for what the picture says.

One view answers the page and every part of it: the same query, the same context. The whole state is
the query string. The points themselves are fetched by the page's script from ``/api/v1/map``; where
there is no script, a still picture of the same map stands in their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse
from starlette.responses import RedirectResponse, Response

from app.jobs.lanes import JobsDep
from app.maps.answers import everyday, inside
from app.maps.api import selected_table
from app.maps.calibrated import before_and_after, saved_choices
from app.maps.form import (
    ATLAS,
    Bar,
    ExampleChip,
    MapForm,
    Waiting,
    examples_of,
    first_view,
    form_of,
    same_state,
)
from app.maps.panels import (
    Badge,
    FoundPanel,
    Panel,
    PointPanel,
    SelectedPanel,
    badge_of,
    selected_panel,
)
from app.maps.parts import (
    REFUSALS,
    MapExport,
    PageRefused,
    find_changes,
    find_cka,
    linker,
    outline,
    parts,
    read_page,
)
from app.maps.question import MapQuery, MapQuestion, drawn_at_once, link_path, options_of
from app.maps.tables import ChangesPanel, LayersPanel, between, changes_part, layers_part
from app.maps.turn import answer, start_umap
from app.method.terms import TERMS, Term
from app.model.explorer import Explorer, ExplorerDep
from app.web.questions import ask
from app.web.rendering import Page, link, render
from app.web.words import sentence
from engine import LatentSpace
from engine.errors import LexiscopeError, OptionError
from engine.maps import PROJECTIONS, MapMaker, MapNotReady
from engine.progress import Check

router = APIRouter(include_in_schema=False)
PAGE = Page("Map", "/map", router, takes_prompt=True)

SELECTED = 300
"""Rows of a selection that the page lists."""


@dataclass(frozen=True)
class MapPage:
    """What ``map/page.html`` shows."""

    form: MapForm
    examples: tuple[ExampleChip, ...]
    look: str
    terms: dict[str, Term]
    problem: str | None = None
    waiting: Waiting | None = None
    bar: Bar | None = None
    panels: tuple[Panel, ...] = ()
    point: PointPanel | None = None
    found: FoundPanel | None = None
    selected: SelectedPanel | None = None
    changes: ChangesPanel | None = None
    layers: LayersPanel | None = None
    export: MapExport | None = None


@router.get("/map", response_class=HTMLResponse)
async def map_page(request: Request, explorer: ExplorerDep) -> Response:
    """The map; a mistake is a sentence in the picture's place."""
    facts = explorer.facts()
    if not request.query_params:
        return RedirectResponse(link(request, "/map", **first_view(await _everyday(request))), 303)
    query, mistake = ask(MapQuery, request)
    shown: dict[str, Any] = {}
    words: Mapping[str, Sequence[str]] | None = None
    try:
        if mistake is not None:
            raise OptionError(mistake)
        beside = query.beside()
        options = await options_of(request, query.question())
        other = None if beside is None else await options_of(request, beside)
        found = await answer(request, read_page, options, other, query)
        words, shown = found.everyday, parts(request, explorer, query, found)
    except PageRefused as refused:
        words, shown = refused.everyday, _refusal(request, query, refused.error)
    except REFUSALS as error:
        shown = _refusal(request, query, error)
    if words is None:
        words = await _everyday(request)
    saved = await saved_choices(request)
    examples = examples_of(request, query, first_view(words), saved)
    context = MapPage(
        form=form_of(query, facts, saved),
        examples=examples,
        look=next((one.look for one in examples if one.current), ""),
        terms=dict(TERMS),
        **shown,
    )
    status = 200 if context.problem is None else 422
    return render(request, "maps/page.html", context, fragment="maps/_result.html", status=status)


async def _everyday(request: Request) -> Mapping[str, Sequence[str]]:
    explorer: Explorer = request.app.state.explorer
    return await explorer.ask(request, _everyday_words)


def _everyday_words(space: LatentSpace, *, check: Check) -> Mapping[str, list[str]]:
    return everyday(space)


def _refusal(request: Request, query: MapQuery, error: Exception) -> dict[str, Any]:
    """What stands in the place of a picture that is not there yet, or cannot be."""
    if not isinstance(error, MapNotReady):
        return {"problem": str(error)}
    instead = linker(request, query)(**drawn_at_once(query))
    action = linker(request, query, "/map/umap")(prompt=query.prompt or "")
    both = query.question(), query.beside()
    slow = next(one for one in both if one and PROJECTIONS[one.projection].is_job)
    fields = slow.link_fields()
    waiting = Waiting(
        sentence(str(error)),
        action,
        instead,
        start=link(request, "/api/v1/map/umap", **fields),
        draft=link(request, "/api/v1/map/draft", **fields),
        auto=same_state(query, ATLAS),
    )
    return {"waiting": waiting}


@router.get("/map/calibration/{id_}")
async def calibration(
    request: Request, id_: Annotated[str, Path(max_length=40)], explorer: ExplorerDep
) -> Response:
    """The map on which a saved calibration is best seen, before and after."""
    explorer.facts()
    return RedirectResponse(link(request, "/map", **await before_and_after(request, id_)), 303)


# ---- the parts that are asked for by themselves ----


class KeyedQuery(MapQuery):
    """A picture's map and which of the two it is."""

    key: Literal["a", "b"] = "a"


def _part(request: Request, name: str, **context: object) -> HTMLResponse:
    """A part by itself: a page around it where no script asks."""
    return render(request, "maps/part.html", {"part": name, **context}, fragment=name)


def _api(query: MapQuery, request: Request) -> MapQuery:
    """Parts are asked for by the map's own fields: no text there means none."""
    return query if "prompt" in request.query_params else query.model_copy(update={"prompt": None})


@router.get("/map/quality", response_class=HTMLResponse)
async def quality(
    request: Request, query: Annotated[KeyedQuery, Query()], explorer: ExplorerDep
) -> HTMLResponse:
    """The badge of a picture."""
    question = _api(query, request).question()
    fields = question.link_fields()
    empty = Badge(query.key, link(request, "/map/quality", **fields, key=query.key), "")
    try:
        options = await options_of(request, question)
        badge = badge_of(await answer(request, MapMaker.quality, options), empty)
    except LexiscopeError as error:
        badge = replace(empty, sentence=str(error), weak=True, caption="Nothing was measured.")
    # Not called badge: that is the mark of the self-check at the head of every page.
    return _part(request, "maps/_badge.html", trust=badge)


@router.get("/map/layers", response_class=HTMLResponse)
async def layers(request: Request, query: Annotated[MapQuery, Query()]) -> HTMLResponse:
    """How alike the layers are."""
    query = _api(query, request).model_copy(update={"panel": "layers"})
    options = await options_of(request, query.question())
    found = await answer(request, find_cka, options)
    panel = layers_part(request, query, found, linker(request, query))
    return _part(request, "maps/_layers.html", layers=panel)


@router.get("/map/changes", response_class=HTMLResponse)
async def changes(request: Request, query: Annotated[MapQuery, Query()]) -> HTMLResponse:
    """What moved between two layers."""
    query = _api(query, request).model_copy(update={"panel": "changes"})
    options = await options_of(request, query.question())
    found = None
    if between(query):
        found = await answer(request, find_changes, options, query.compared_layer)
    panel = changes_part(request, query, found, partial(linker(request, query), panel=None))
    return _part(request, "maps/_changes.html", changes=panel)


Polygon = Annotated[str, Form(max_length=20_000, pattern=r"^[-+0-9.eE, ]+$")]


def corners(text: str) -> tuple[tuple[float, float], ...]:
    """A polygon as the page sends it: ``x,y x,y x,y``.

    Raises:
        OptionError: it is none.
    """
    try:
        found = [tuple(float(v) for v in pair.split(",")) for pair in text.split()]
    except ValueError:
        found = []
    if not 3 <= len(found) <= 500 or any(len(pair) != 2 for pair in found):
        raise OptionError("an outline has 3 to 500 corners, each written x,y.")
    return tuple((pair[0], pair[1]) for pair in found)


@router.post("/map/selected", response_class=HTMLResponse)
async def selected(
    request: Request, query: Annotated[MapQuestion, Query()], polygon: Polygon
) -> HTMLResponse:
    """The points inside an outline."""
    page = MapQuery.model_validate(query.model_dump())
    options = await options_of(request, query)
    found = await answer(request, inside, options, corners(polygon))
    to, empty = linker(request, page), outline(request, page)
    panel = selected_panel(found, to, empty, polygon, SELECTED)
    return render(request, "maps/_selected.html", {"selected": panel})


@router.post("/map/selected.csv")
async def selected_csv(
    request: Request, query: Annotated[MapQuestion, Query()], polygon: Polygon
) -> Response:
    """All of them as a table."""
    return await selected_table(request, query, corners(polygon))


@router.post("/map/umap")
async def umap(
    request: Request, query: Annotated[MapQuery, Query()], explorer: ExplorerDep, jobs: JobsDep
) -> Response:
    """Start the job of the page's UMAP picture that is not there yet and go to where it can be
    watched; with both pictures there, go back to the page, as it was set."""
    query = _api(query, request)
    here = linker(request, query)()
    own, beside = query.question(), query.beside()
    slow = [one for one in (own, beside) if one and PROJECTIONS[one.projection].is_job]
    for one in slow or [own]:
        options = await options_of(request, one)
        job = await start_umap(request, explorer, jobs, options, link_path(one))
        if job is not None:
            # Others may wait for the same picture on pages that are set otherwise.
            back = urlsplit(here).query
            return RedirectResponse(link(request, f"/jobs/{job.id}", back=back), 303)
    return RedirectResponse(here, 303)
