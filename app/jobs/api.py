"""Jobs as JSON: what runs, how far it is, stop it, start it again."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from app.jobs.job import JobView
from app.jobs.lanes import JobsDep
from app.storage.store import aside
from app.web import export
from app.web.answers import Document, described
from app.web.rendering import link

router = APIRouter(prefix="/api/v1", tags=["jobs"])
Id = Annotated[str, Path(max_length=64, description="The id.")]


class JobDocument(Document):
    """A job at one moment; see docs/api.md for every field."""

    id: str
    kind: str
    title: str
    state: str
    note: str
    done: int
    total: int
    share: float | None
    seconds_left: float | None
    problem: str | None
    result: str | None


class JobsDocument(Document):
    """All jobs that are remembered, the newest first, without their curves."""

    jobs: list[JobDocument]


_ONE: dict[int | str, Any] = described(JobDocument)


def job_answer(request: Request, view: JobView, status: int = 200) -> Response:
    """A job as JSON; where it was just taken, with the address at which it is followed."""
    headers = {}
    if status == 202:
        headers["Location"] = link(request, f"/api/v1/jobs/{view.id}")
    body = _document(request, view)
    return Response(export.dumps(body), status, headers, "application/json")


def result_href(request: Request, view: JobView) -> str | None:
    """The address of what a job has saved, below the path of a proxy."""
    if view.result_href is None:
        return None
    return f"{request.scope.get('root_path', '')}{view.result_href}"


def _document(request: Request, view: JobView, *, curve: bool = True) -> dict[str, Any]:
    return view.to_dict(curve=curve) | {"result_href": result_href(request, view)}


@router.get("/jobs", responses=described(JobsDocument))
async def jobs_list(request: Request, jobs: JobsDep) -> Response:
    """All jobs that are remembered, the newest first, without their curves."""
    body = {"jobs": [_document(request, view, curve=False) for view in jobs.list()]}
    return Response(export.dumps(body), media_type="application/json")


@router.get("/jobs/{id}", responses=_ONE)
async def job(request: Request, id: Id, jobs: JobsDep) -> Response:
    """One job with its curve."""
    return job_answer(request, jobs.get(id))


@router.delete("/jobs/{id}", responses=_ONE)
async def job_delete(request: Request, id: Id, jobs: JobsDep) -> Response:
    """Stop a job under way; forget one that has ended, but not what it saved."""
    view = await aside(partial(jobs.cancel, id))
    if view.finished:
        await aside(partial(jobs.forget, id))
    return job_answer(request, view)


@router.post("/jobs/{id}/cancel", responses=_ONE)
async def job_cancel(request: Request, id: Id, jobs: JobsDep) -> Response:
    """Stop a job: at once where it waits, after its step where it runs."""
    return job_answer(request, await aside(partial(jobs.cancel, id)))


@router.post("/jobs/{id}/restart", status_code=202, responses=described(JobDocument, status=202))
async def job_restart(request: Request, id: Id, jobs: JobsDep) -> Response:
    """Start a job again that was interrupted, cancelled or failed, as a new one."""
    return job_answer(request, await jobs.restart(request, id), 202)
