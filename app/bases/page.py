"""The Bases page: a token's reference point and its nearest tokens, in every frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import Field, model_validator

from app.figures.bases import neighbours
from app.figures.names import score_name
from app.figures.theme import payload
from app.method.page import TERMS, Term
from app.model.explorer import Explorer, token_reference
from app.model.page import FRAME_NAMES
from app.settings import K_CEILING
from app.trace.api import Geometry, Question
from app.trace.words import GEOMETRIES, Choice, signed
from app.web.dependencies import ExplorerDep, ShortText
from app.web.questions import ask
from app.web.rendering import link, number, render
from engine import LatentSpace
from engine.bases.lookup import TokenHit
from engine.bases.token_basis import TokenBasis
from engine.errors import InputError, OptionError
from engine.frames.frame import FRAMES
from engine.model.vocabulary import Token

router = APIRouter(include_in_schema=False)

HITS = 60
"""Tokens that a search lists at most."""
FIRST = (" time", " day", " the", "the")
"""Tokens to begin with: the first that the vocabulary has as one token."""


class BasesQuery(Question):
    """The whole state of the page."""

    token: ShortText | None = None
    search: ShortText | None = None
    geometry: Geometry = "cosine"
    k: int = Field(10, ge=1, le=K_CEILING)
    shown: ShortText | None = None
    """The search whose hits stood on the page that the form was sent from; None for a link. A new
    search shows its first hit instead of the token that stood there."""

    @model_validator(mode="before")
    @classmethod
    def _empty_fields(cls, values: Any) -> Any:
        """An empty field of a form is a setting left at its default."""
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if k == "shown" or v not in ("", [""])}


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


WHAT = {
    "output": "The paper's semantic bases: for each token, the state that comes closest to making "
    "the head say this token and no other.",
    "input": "The rows of the embedding table: where each token enters the model, before the first "
    "block.",
    "head": "The raw rows of the head. Their inner product with a state is the model's own logit; "
    "long rows win often.",
    "tight": "Half-way between raw rows and bases: every direction of the space is weighed the "
    "same, so squared products are shares.",
    "random": "The control: directions without meaning, as long as the bases. What it shows is "
    "chance.",
}


@router.get("/bases", response_class=HTMLResponse)
async def bases_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """A token in every frame, and a search; a mistake is a sentence in the answer's place."""
    explorer.facts()
    query, mistake = ask(BasesQuery, request)
    search = _Search((), False, None)
    try:
        if mistake is not None:
            raise OptionError(mistake)
        search = await _search(request, explorer, query)
        context = await _context(request, explorer, query, search)
    except InputError as error:
        context = _page(request, explorer, query, search, problem=str(error))
    status = 200 if context.problem is None else 422
    return render(request, "bases/page.html", context, status=status)


@dataclass(frozen=True)
class _Search:
    hits: tuple[TokenHit, ...]
    more: bool
    first: int | None


async def _search(request: Request, explorer: Explorer, query: BasesQuery) -> _Search:
    if query.search is None:
        return _Search((), False, None)
    hits = await explorer.ask(request, LatentSpace.search, query.search, limit=HITS)
    return _Search(hits, len(hits) == HITS, hits[0].token.id if hits else None)


async def _token(
    request: Request, explorer: Explorer, query: BasesQuery, search: _Search
) -> int | str:
    """The search's first hit or the chosen token, else one to begin with."""
    anew = query.shown is not None and query.shown != (query.search or "")
    if query.token is not None and not (anew and search.first is not None):
        return token_reference(query.token)
    if search.first is not None:
        return search.first
    for text in FIRST:
        hits = await explorer.ask(request, LatentSpace.search, text, limit=1)
        if hits and hits[0].token.text == text:
            return hits[0].token.id
    return explorer.facts().vocabulary // 2


async def _context(
    request: Request, explorer: Explorer, query: BasesQuery, search: _Search
) -> BasesPage:
    token = await _token(request, explorer, query, search)
    found: list[TokenBasis] = []
    cards: list[FrameCard] = []
    for frame in FRAMES:
        name, what, control = FRAME_NAMES[frame], WHAT[frame], frame == "random"
        try:
            basis = await explorer.ask(
                request, LatentSpace.bases, token, frame=frame, geometry=query.geometry, k=query.k
            )
        except OptionError as error:
            cards.append(FrameCard(name, what, control, str(error)))
            continue
        found.append(basis)
        cards.append(
            FrameCard(
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
        )
    return _page(request, explorer, query, search, found=found, cards=cards)


def _page(
    request: Request,
    explorer: Explorer,
    query: BasesQuery,
    search: _Search,
    *,
    found: Sequence[TokenBasis] = (),
    cards: Sequence[FrameCard] = (),
    problem: str | None = None,
) -> BasesPage:
    facts = explorer.facts()
    token = found[0].token if found else None
    api = {"token": f"#{token.id}" if token else None, "geometry": query.geometry, "k": query.k}
    return BasesPage(
        token=token,
        leverage=number(found[0].leverage) if found else "–",
        leverage_mean=number(facts.width / facts.vocabulary),
        search=query.search or "",
        hits=tuple(
            Hit(
                h.token,
                _link(request, query, h.token.id),
                number(h.leverage),
                token is not None and h.token.id == token.id,
            )
            for h in search.hits
        ),
        more_hits=search.more,
        geometries=tuple(
            Choice(key, label, key == query.geometry, help) for key, label, help in GEOMETRIES
        ),
        k=query.k,
        max_k=explorer.settings.max_k,
        unit=score_name(query.geometry),
        cards=tuple(cards),
        figure=payload(neighbours(found)) if found else None,
        json=link(request, "/api/v1/bases", **api),
        csv=link(request, "/api/v1/bases.csv", **api),
        frames_href=link(request, "/model", figures=True) + "#frames",
        frames_load=link(request, "/model/frames"),
        problem=problem,
        terms=TERMS,
    )


def _link(request: Request, query: BasesQuery, token: int) -> str:
    """A link to another token that keeps the state."""
    state = query.model_dump(exclude_defaults=True) | {"token": f"#{token}", "shown": None}
    return link(request, "/bases", **state)
