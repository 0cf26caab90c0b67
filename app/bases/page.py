"""The Bases page: a token's reference point and its nearest tokens, in every frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import Field

from app.bases.reading import Reading, read
from app.figures.bases import neighbours
from app.figures.theme import GEOMETRIES, payload, score_name
from app.method.terms import TERMS, Term
from app.model.explorer import ExplorerDep
from app.settings import K_CEILING
from app.web.questions import Alpha, PageQuestion, Ridge, ShortText, ask
from app.web.rendering import Page, link, render
from app.web.words import Choice, choices
from engine.errors import InputError, OptionError
from engine.frames.kinds import FRAMES, FrameName, dial_words, key_of, kind_of
from engine.frames.kinds.kind import FrameKind
from engine.reading.geometries import GeometryName

router = APIRouter(include_in_schema=False)
PAGE = Page("Bases", "/bases", router, reference=True)


class BasesQuery(PageQuestion):
    """The whole state of the page."""

    empty_counts = ("shown",)
    token: ShortText | None = None
    search: ShortText | None = None
    frame: FrameName | None = None
    """This one alone; None: all of them."""
    alpha: Alpha = None
    ridge: Ridge = None
    geometry: GeometryName = "cosine"
    k: int = Field(10, ge=1, le=K_CEILING)
    shown: ShortText | None = None
    """The search whose hits stood on the page that the form was sent from; None for a link. A new
    search shows its first hit instead of the token that stood there."""


@dataclass(frozen=True)
class BasesPage:
    """What ``bases/page.html`` shows."""

    query: BasesQuery
    found: Reading
    kinds: Mapping[str, FrameKind]
    """By key of the frame."""
    places: Mapping[str, str]
    """Where the dial of each stands; empty for those without one."""
    all_href: str | None
    """The same token in all frames, where one is shown alone."""
    href: Callable[[int], str]
    """The link to another token that keeps the state."""
    geometries: tuple[Choice, ...]
    unit: str
    """What a score is."""
    figure: dict[str, object] | None
    terms: Mapping[str, Term]


@router.get("/bases", response_class=HTMLResponse)
async def bases_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """A token in every frame, and a search; a mistake is a sentence in the answer's place."""
    explorer.facts()
    query, mistake = ask(BasesQuery, request)
    names = FRAMES if query.frame is None else (query.frame,)
    dial = query.alpha, query.ridge
    keys = tuple([key_of(one, *(dial if FRAMES[one].dialled else ())) for one in names])
    try:
        if mistake is not None:
            raise OptionError(mistake)
        found = await explorer.ask(
            request,
            read,
            query.token,
            query.search,
            anew=query.shown is not None and query.shown != (query.search or ""),
            frames=keys,
            geometry=query.geometry,
            k=query.k,
        )
    except InputError as error:
        found = Reading(problem=str(error))
    state = query.model_dump(exclude_defaults=True) | {"shown": None}
    context = BasesPage(
        query=query,
        found=found,
        kinds={key: kind_of(key) for key in keys},
        places={key: dial_words(key) for key in keys},
        all_href=query.frame and link(request, "/bases", **state | {"frame": None}),
        href=lambda id: link(request, "/bases", **state | {"token": f"#{id}"}),
        geometries=choices(GEOMETRIES, query.geometry),
        unit=score_name(query.geometry),
        figure=payload(neighbours(found.found)) if found.found else None,
        terms=TERMS,
    )
    status = 200 if found.problem is None else 422
    return render(request, "bases/page.html", context, status=status)
