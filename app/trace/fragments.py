"""Parts of the Trace page that are fetched once it stands, and the form that builds a bank."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse
from starlette.responses import RedirectResponse, Response

from app.calibrate.sets import SetsDep
from app.jobs.lanes import JobsDep
from app.method.terms import TERMS
from app.model.explorer import ExplorerDep
from app.trace.contexts import BankOrder, banks, near_or_plan, start, texts_of
from app.trace.panels import agreement
from app.trace.question import TraceQuery, link_to
from app.trace.reading import words_beside
from app.trace.word_panels import contexts, in_words
from app.web.rendering import link, render_text
from engine import LatentSpace

router = APIRouter(include_in_schema=False)
Asked = Annotated[TraceQuery, Query()]


@router.get("/trace/agreement", response_class=HTMLResponse)
async def agreement_panel(request: Request, query: Asked, explorer: ExplorerDep) -> HTMLResponse:
    """The agreement panel alone, fetched once the page stands."""
    found = await explorer.ask(request, LatentSpace.agreement, query.prompt, query.options())
    context = {"agreement": agreement(found, query), "terms": TERMS}
    return HTMLResponse(render_text(request, "trace/_agreement.html", context, is_fragment=True))


@router.get("/trace/words", response_class=HTMLResponse)
async def words_panel(request: Request, query: Asked, explorer: ExplorerDep) -> HTMLResponse:
    """A cell in words alone, fetched once the cell stands."""
    place = query.place or (-1, -1)
    found, leading = await explorer.ask(request, words_beside, query.prompt, place, query.options())
    shown = in_words(found, query, partial(link_to, request, query), leading)
    context = {"words": shown, "terms": TERMS}
    return HTMLResponse(render_text(request, "trace/_words.html", context, is_fragment=True))


@router.get("/trace/contexts", response_class=HTMLResponse)
async def contexts_panel(
    request: Request, query: Asked, explorer: ExplorerDep, sets: SetsDep
) -> HTMLResponse:
    """A cell's nearest contexts alone, fetched once the cell stands."""
    source = await texts_of(sets, query.bank)
    place = query.place or (-1, -1)
    found = await explorer.ask(
        request, near_or_plan, query.prompt, *place, source, query.bos, query.chat
    )
    shown = contexts(request, found, query, await banks(sets))
    context = {"contexts": shown, "terms": TERMS}
    return HTMLResponse(render_text(request, "trace/_contexts.html", context, is_fragment=True))


@router.post("/trace/contexts/build")
async def build(
    request: Request,
    form: Annotated[BankOrder, Form()],
    explorer: ExplorerDep,
    jobs: JobsDep,
    sets: SetsDep,
) -> Response:
    """Begin to build a bank; the job's page shows how far it is."""
    job = await start(request, explorer, jobs, await texts_of(sets, form.bank))
    return RedirectResponse(link(request, f"/jobs/{job.id}"), 303)
