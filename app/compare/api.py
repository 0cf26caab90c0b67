"""Two prompts as JSON, under ``/api/v1/compare``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.compare.question import CompareRuns
from app.compare.reading import compare_runs, of_runs
from app.model.explorer import ExplorerDep
from app.storage.runs import Runs
from app.storage.store import aside
from app.web.answers import described, json_answer

router = APIRouter(prefix="/api/v1", tags=["api"])


@router.get("/compare", responses=described())
async def compare(
    request: Request, query: Annotated[CompareRuns, Query()], explorer: ExplorerDep
) -> Response:
    """Two prompts cell beside cell: how far apart they are read, and the ranks of the answers."""
    runs: Runs = request.app.state.runs
    query = await aside(partial(of_runs, runs, query))
    body = await explorer.document(
        request,
        explorer.writer(query.prompt),
        compare_runs,
        query.prompt,
        query.other,
        query.options(),
        query.align,
        runs,
        (query.run, query.other_run),
    )
    return json_answer(body)
