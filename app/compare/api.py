"""Two prompts as JSON, under ``/api/v1/compare``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.compare.question import CompareQuestion
from app.model.explorer import ExplorerDep
from app.web.answers import described, json_answer
from engine.compare import compare_prompts

router = APIRouter(prefix="/api/v1", tags=["api"])


@router.get("/compare", responses=described())
async def compare(
    request: Request, query: Annotated[CompareQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """Two prompts cell beside cell: how far apart they are read, and the ranks of the answers."""
    body = await explorer.document(
        request,
        explorer.writer(query.prompt),
        compare_prompts,
        query.prompt,
        query.other,
        query.options(),
        by=query.align,
    )
    return json_answer(body)
