"""The Bases page: a token's reference point and its nearest tokens, in every frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import Field

from app.bases.reading import HITS, Reading, read
from app.figures.bases import neighbours
from app.figures.theme import GEOMETRIES, payload, score_name
from app.method.terms import TERMS, Term
from app.model.explorer import Explorer, ExplorerDep
from app.settings import K_CEILING
from app.web.questions import PageQuestion, ShortText, ask
from app.web.rendering import Page, link, render
from app.web.words import Choice, choices, number, signed
from engine.bases.token_basis import TokenBasis
from engine.errors import InputError, OptionError
from engine.frames.kinds import FRAMES
from engine.model.vocabulary import Token
from engine.reading.geometries import GeometryName

router = APIRouter(include_in_schema=False)
PAGE = Page("Bases", "/bases", router)


class BasesQuery(PageQuestion):
    """The whole state of the page."""

    empty_counts = ("shown",)
    token: ShortText | None = None
    search: ShortText | None = None
    geometry: GeometryName = "cosine"
    k: int = Field(10, ge=1, le=K_CEILING)
    shown: ShortText | None = None
    """The search whose hits stood on the page that the form was sent from; None for a link. A new
    search shows its first hit instead of the token that stood there."""


@dataclass(frozen=True)
class Hit:
    """A token that was found."""

    token: Token
    href: str
    leverage: str
    current: bool


@dataclass(frozen=True)
class Near:
    """A neighbour."""

    token: Token
    href: str
    score: str


@dataclass(frozen=True)
class FrameCard:
    """A token in one frame."""

    name: str
    what: str
    control: bool
    missing: str | None
    """Why this model has no such frame."""
    norm: str = ""
    self_logit: str = ""
    isotropy: str = ""
    rows: tuple[Near, ...] = ()


@dataclass(frozen=True)
class BasesPage:
    """What ``bases/page.html`` shows."""

    token: Token | None
    leverage: str
    leverage_mean: str
    search: str
    hits: tuple[Hit, ...]
    more_hits: bool
    geometries: tuple[Choice, ...]
    k: int
    max_k: int
    unit: str
    cards: tuple[FrameCard, ...]
    figure: dict[str, object] | None
    json: str
    csv: str
    frames_href: str
    frames_load: str
    problem: str | None
    terms: Mapping[str, Term]


@router.get("/bases", response_class=HTMLResponse)
async def bases_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """A token in every frame, and a search; a mistake is a sentence in the answer's place."""
    explorer.facts()
    query, mistake = ask(BasesQuery, request)
    try:
        if mistake is not None:
            raise OptionError(mistake)
        found = await explorer.ask(
            request,
            read,
            query.token,
            query.search,
            anew=query.shown is not None and query.shown != (query.search or ""),
            geometry=query.geometry,
            k=query.k,
        )
    except InputError as error:
        found = Reading(problem=str(error))
    context = _page(request, explorer, query, found)
    return render(
        request, "bases/page.html", context, status=200 if context.problem is None else 422
    )


def _card(request: Request, query: BasesQuery, frame: str, basis: TokenBasis | str) -> FrameCard:
    kind = FRAMES[frame]
    name, what, control = kind.heading, kind.what, kind.control
    if isinstance(basis, str):
        return FrameCard(name, what, control, basis)
    return FrameCard(
        name,
        what,
        control,
        None,
        number(basis.norm),
        signed(basis.self_logit),
        f"{number(basis.isotropy_raw, 2)} / {number(basis.isotropy_centred, 2)}",
        tuple(
            Near(n.token, _link(request, query, n.token.id), signed(n.score))
            for n in basis.neighbours
        ),
    )


def _page(request: Request, explorer: Explorer, query: BasesQuery, found: Reading) -> BasesPage:
    facts = explorer.facts()
    basis = next(iter(found.found), None)
    token = basis.token if basis is not None else None
    api = {"token": f"#{token.id}" if token else None, "geometry": query.geometry, "k": query.k}
    return BasesPage(
        token=token,
        leverage=number(basis.leverage) if basis is not None else "–",
        leverage_mean=number(facts.width / facts.vocabulary),
        search=query.search or "",
        hits=tuple(
            Hit(
                h.token,
                _link(request, query, h.token.id),
                number(h.leverage),
                token is not None and h.token.id == token.id,
            )
            for h in found.hits
        ),
        more_hits=len(found.hits) == HITS,
        geometries=choices(GEOMETRIES, query.geometry),
        k=query.k,
        max_k=explorer.settings.max_k,
        unit=score_name(query.geometry),
        cards=tuple(_card(request, query, frame, basis) for frame, basis in found.bases),
        figure=payload(neighbours(found.found)) if found.found else None,
        json=link(request, "/api/v1/bases", **api),
        csv=link(request, "/api/v1/bases.csv", **api),
        frames_href=link(request, "/model", figures=True) + "#frames",
        frames_load=link(request, "/model/frames"),
        problem=found.problem,
        terms=TERMS,
    )


def _link(request: Request, query: BasesQuery, token: int) -> str:
    """A link to another token that keeps the state."""
    state = query.model_dump(exclude_defaults=True) | {"token": f"#{token}", "shown": None}
    return link(request, "/bases", **state)
