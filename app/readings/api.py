"""What reads the open model best, as JSON."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.jobs.api import JobDocument, job_answer
from app.jobs.lanes import JobsDep
from app.model.explorer import ExplorerDep
from app.readings.work import measured, start
from app.web.answers import described, json_answer

router = APIRouter(prefix="/api/v1", tags=["api"])


@router.get("/readings", responses=described())
async def readings(request: Request, explorer: ExplorerDep) -> Response:
    """Temperatures, the dial's curve and the lenses, as far as they were measured."""
    found = await explorer.look(request, measured, "readings")
    return json_answer(explorer.writer()(found))


@router.post("/readings", status_code=202, responses=described(JobDocument, status=202))
async def measure(request: Request, explorer: ExplorerDep, jobs: JobsDep) -> Response:
    """Begin to measure what is not known yet; answers with the job."""
    return job_answer(request, await start(request, explorer, jobs), 202)
