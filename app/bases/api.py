"""Bases as JSON and CSV, and the search for tokens, under ``/api/v1``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from app.model.explorer import ExplorerDep, token_reference
from app.settings import K_CEILING
from app.web import export
from app.web.answers import TokenDocument, csv_answer, described, json_answer
from app.web.questions import Alpha, Question, Ridge, ShortText
from engine import LatentSpace
from engine.frames.kinds import FrameName, key_of
from engine.reading.geometries import GeometryName

router = APIRouter(prefix="/api/v1", tags=["api"])


class BasesQuestion(Question):
    """A token and where to look for its neighbours."""

    token: ShortText = Field(description="The token's text, or #262 for an id.")
    frame: FrameName = Field("output", description="The vectors that stand for the tokens.")
    alpha: Alpha = None
    ridge: Ridge = None
    geometry: GeometryName = Field("cosine", description="How nearness is measured.")
    k: int = Field(10, ge=1, le=K_CEILING, description="How many neighbours.")

    def reference(self) -> int | str:
        """The token as the engine takes it."""
        return token_reference(self.token)

    def reading(self) -> dict[str, Any]:
        """The rest, as the engine's keywords."""
        frame = key_of(self.frame, self.alpha, self.ridge)
        return {"frame": frame, "geometry": self.geometry, "k": self.k}


class SearchQuestion(Question):
    """Part of a token's text."""

    search: ShortText = Field(description="Characters that the token holds.")
    limit: int = Field(20, ge=1, le=200, description="How many tokens at most.")


class NeighbourDocument(TokenDocument):
    """A neighbour of a token."""

    score: float | None


class BasesDocument(TokenDocument):
    """A token's basis."""

    norm: float | None
    leverage: float | None
    neighbours: list[NeighbourDocument]


@router.get("/bases", responses=described(BasesDocument))
async def bases(
    request: Request, query: Annotated[BasesQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """A token's basis and its nearest tokens."""
    body = await explorer.document(
        request, explorer.writer(), LatentSpace.bases, query.reference(), **query.reading()
    )
    return json_answer(body)


@router.get("/bases.csv", responses=described(csv=True))
async def bases_csv(
    request: Request, query: Annotated[BasesQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """A token's nearest tokens as a table."""
    token, reading = query.reference(), query.reading()
    write = export.BasesTable(explorer.source())
    body = await explorer.document(request, write, LatentSpace.bases, token, **reading)
    return csv_answer(body, export.file_stem("bases", token, *reading.values()))


@router.get("/tokens", responses=described())
async def tokens(
    request: Request, query: Annotated[SearchQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """Tokens whose text holds these characters."""
    body = await explorer.document(
        request, export.hits, LatentSpace.search, query.search, limit=query.limit
    )
    return json_answer(body)
