"""The pages of jobs: the list, and one job that shows itself anew until it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse
from starlette.responses import RedirectResponse, Response

from app.jobs.api import result_href
from app.jobs.lanes import JobsDep
from app.jobs.panel import JobPanel, job_panel
from app.storage.store import aside
from app.web.rendering import link, render, wants_fragment

router = APIRouter(include_in_schema=False)
Id = Annotated[str, Path(max_length=64)]
Back = Annotated[str, Query(max_length=8_000)]
"""The query string of the Map page from which somebody came; each who waits has their own."""
REFRESH_S = 2
"""Seconds after which a page without scripts asks again."""


@dataclass(frozen=True)
class JobsPage:
    """What ``jobs/list.html`` shows."""

    rows: tuple[tuple[JobPanel, str, str | None, str | None], ...]
    """The newest first: the job, its page, where a form starts it again and where one takes it off
    the list; None where that cannot be."""


@dataclass(frozen=True)
class JobPage:
    """What ``jobs/page.html`` and ``jobs/_job.html`` show."""

    panel: JobPanel
    """In words, with its curves."""
    refresh_s: int | None
    """Seconds after which to ask again without scripts; None once it has ended."""
    self_href: str
    result_href: str | None
    """Where its result is, root path included, once it is done."""
    cancel_action: str | None
    """Where a form asks it to stop; None once it has ended or was asked already."""
    restart_action: str | None
    """Where a form starts it again; None where that cannot be."""


@router.get("/jobs", response_class=HTMLResponse)
async def jobs_page(request: Request, jobs: JobsDep) -> HTMLResponse:
    """All jobs that are remembered."""
    rows = []
    for job in jobs.list():
        place = link(request, f"/jobs/{job.id}")
        restart = f"{place}/restart" if job.restartable else None
        forget = f"{place}/forget" if job.finished else None
        rows.append((job_panel(job), place, restart, forget))
    return render(request, "jobs/list.html", JobsPage(tuple(rows)))


@router.get("/jobs/{id}", response_class=HTMLResponse)
async def job_page(request: Request, id: Id, jobs: JobsDep, back: Back = "") -> HTMLResponse:
    """One job; where htmx asks for its part again and it is done, htmx is sent to the result."""
    view = jobs.get(id)
    place = f"/jobs/{view.id}"
    result = result_href(request, view)
    own = {}
    if view.kind == "umap" and back:
        own = {"back": back}
        if result is not None:
            result = link(request, "/map") + "?" + urlencode(parse_qsl(back, True))
    active = not view.finished
    context = JobPage(
        panel=job_panel(view),
        refresh_s=REFRESH_S if active else None,
        self_href=link(request, place, **own),
        result_href=result,
        cancel_action=link(request, f"{place}/cancel") if active and not view.stopping else None,
        restart_action=link(request, f"{place}/restart") if view.restartable else None,
    )
    moved = {"HX-Redirect": result} if result is not None and wants_fragment(request) else {}
    return render(request, "jobs/page.html", context, fragment="jobs/_job.html", headers=moved)


@router.post("/jobs/{id}/cancel")
async def job_cancel(request: Request, id: Id, jobs: JobsDep) -> Response:
    """Ask it to stop, by a form."""
    view = await aside(partial(jobs.cancel, id))
    return RedirectResponse(link(request, f"/jobs/{view.id}"), 303)


@router.post("/jobs/{id}/restart")
async def job_restart(request: Request, id: Id, jobs: JobsDep) -> Response:
    """Start it again as a new job, by a form."""
    view = await jobs.restart(request, id)
    return RedirectResponse(link(request, f"/jobs/{view.id}"), 303)


@router.post("/jobs/{id}/forget")
async def job_forget(request: Request, id: Id, jobs: JobsDep) -> Response:
    """Take it off the list once it has ended, by a form; what it saved stays."""
    await aside(partial(jobs.forget, id))
    return RedirectResponse(link(request, "/jobs"), 303)
