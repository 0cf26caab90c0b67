"""A text that goes on as JSON, whole or line by line as it is written, under ``/api/v1``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from app.generate.events import CALL, first_of, lines, written
from app.generate.question import GenerateQuestion
from app.model.explorer import ExplorerDep
from app.model.stepping import whole
from app.web.answers import Document, TokenDocument, described, json_answer

NDJSON = "application/x-ndjson"


class NewTokenDocument(TokenDocument):
    """A new token with its column."""

    probability: float
    settling_layer: int


class GenerateDocument(Document):
    """A prompt, and how it went on."""

    prompt: str
    tokens: list[NewTokenDocument]
    text: str
    deep_thinking_ratio: float
    controls: list[Any]


class GenerateQuery(GenerateQuestion):
    """The same, and in what form it is answered."""

    stream: bool = Field(False, description="Answer line by line as the text is written "
        "(NDJSON): an event token for each, and end; also with Accept: application/x-ndjson."
        )  # fmt: skip


router = APIRouter(prefix="/api/v1", tags=["api"])


@router.get("/generate", responses=described(GenerateDocument))
async def generate(
    request: Request, query: Annotated[GenerateQuery, Query()], explorer: ExplorerDep
) -> Response:
    """A prompt goes on; each new token is read at every layer as it is written."""
    asked = query.prompt, query.options()
    if query.stream or NDJSON in request.headers.get("accept", ""):
        source = explorer.source(query.prompt)
        begun = await first_of(written(explorer, request, *asked))
        return StreamingResponse(lines(request, source, begun), media_type=NDJSON)
    found = await whole(explorer, request, CALL, *asked)
    return json_answer(explorer.writer(query.prompt)(found))


@router.post("/generate", responses=described(GenerateDocument))
async def generate_post(request: Request, query: GenerateQuery, explorer: ExplorerDep) -> Response:
    """The same, with the question as JSON in the body."""
    return await generate(request, query, explorer)
