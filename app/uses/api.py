"""What semantic bases are for, as JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.jobs.api import JobDocument, job_answer
from app.jobs.lanes import JobsDep
from app.model.explorer import ExplorerDep
from app.uses.work import KIND, known, start
from app.web.answers import Document, described, json_answer

Again = Annotated[bool, Query(description="Measure all of it, also what is known.")]
router = APIRouter(prefix="/api/v1", tags=["api"])


class FindingDocument(Document):
    """One question."""

    key: str
    question: str
    verdict: str
    sentence: str


class UsesDocument(Document):
    """What was measured so far."""

    findings: list[FindingDocument]
    missing: list[str]
    shipped: list[str]
    """Parts that came with the program and were not measured here."""


@router.get("/uses", responses=described(UsesDocument))
async def uses(request: Request, explorer: ExplorerDep) -> Response:
    """Questions with verdicts, each beside its controls, and every figure behind them."""
    found = await explorer.look(request, known, KIND)
    return json_answer(explorer.writer()(found))


@router.post("/uses", status_code=202, responses=described(JobDocument, status=202))
async def measure(
    request: Request, explorer: ExplorerDep, jobs: JobsDep, again: Again = False
) -> Response:
    """Begin to measure what is not known yet; answers with the job."""
    return job_answer(request, await start(request, explorer, jobs, again=again), 202)
