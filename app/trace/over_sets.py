"""How often each reading says what the model says, over a set of texts: a job, and its table.

Each text is read at its last position. A table is kept by the open model's space, for the latest
sets, until another model is opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import Field
from starlette.responses import RedirectResponse, Response

from app.calibrate.sets import Sets
from app.calibrate.text_sets import text_set
from app.figures.theme import LENSES
from app.jobs.job import JobView
from app.jobs.lanes import Jobs, JobsDep
from app.jobs.measuring import start_measuring
from app.method.terms import TERMS, Term
from app.model.explorer import Explorer, ExplorerDep
from app.trace.panels import agreement
from app.trace.question import TraceQuery
from app.web.questions import PageQuestion, Question, RangeText, ask
from app.web.rendering import link, render
from app.web.words import Choice, choices
from engine import LatentSpace, TraceOptions
from engine.errors import InputError
from engine.lenses import LensName
from engine.progress import Check, Steps
from engine.trace.agreement import Agreement

KIND = "agreement"
router = APIRouter(include_in_schema=False)


class SetQuestion(Question):
    """A set of texts, and how it is read."""

    texts: Annotated[str, Field(max_length=40)] = Field(
        "topics", description="A text set by its name or id."
    )
    limit: int = Field(100, ge=1, le=2000, description="Texts at most, evenly spaced.")
    k: int = Field(10, ge=1, le=50, description="Nearest tokens of the overlap.")
    layers: RangeText | None = Field(None, description="Which layers: 0:6, 0:12:2, 3; left out: "
        "all.")  # fmt: skip
    lens: LensName = Field("none", description="What brings a middle layer to where the head "
        "reads.")  # fmt: skip

    def options(self) -> TraceOptions:
        """The engine's options."""
        return TraceOptions(k=self.k, layers=self.layers or None, lens=self.lens)


class SetQuery(SetQuestion, PageQuestion):
    """The whole state of the page."""


@dataclass(frozen=True)
class SetPage:
    """What ``trace/over_sets.html`` shows."""

    query: SetQuery
    sets: tuple[Choice, ...]
    lenses: tuple[Choice, ...]
    agreement: Mapping[str, Any] | None
    """None where it was not measured."""
    problem: str | None
    start_action: str
    json: str
    terms: Mapping[str, Term]


async def texts_of(request: Request, query: SetQuestion) -> tuple[str, ...]:
    """The texts that are read, evenly spaced over the set."""
    found = await text_set(request, query.texts)
    return evenly(found.read if found is not None else (), query.limit)


def evenly(texts: Sequence[str], limit: int) -> tuple[str, ...]:
    """At most so many of them, evenly spaced: sets are often sorted by their labels."""
    step = max(1.0, len(texts) / limit)
    return tuple(texts[int(i * step)] for i in range(min(limit, len(texts))))


async def known_agreement(
    request: Request, explorer: Explorer, query: SetQuestion
) -> Agreement | None:
    """What was measured of this set; None where nothing was."""
    texts, options = await texts_of(request, query), query.options()

    def known(space: LatentSpace, *, check: Check) -> Agreement | None:
        check()
        return space.known_agreement(texts, options)

    return await explorer.look(request, known, KIND)


async def start(request: Request, explorer: Explorer, jobs: Jobs, query: SetQuestion) -> JobView:
    """Queue the job; one that is under way for the same question is given instead."""
    texts, options = await texts_of(request, query), query.options()
    asked = query.model_dump(exclude_defaults=True)

    def measure(space: LatentSpace) -> Steps[Agreement]:
        return space.agreement_over(texts, options)

    return await start_measuring(
        request,
        explorer,
        jobs,
        KIND,
        f"Agreement over {len(texts):,} texts of {query.texts}",
        measure,
        href="/agreement" + (f"?{urlencode(asked)}" if asked else ""),
        of=str(sorted(asked.items())),
    )


@router.get("/agreement", response_class=HTMLResponse)
async def set_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """The table of a set where it was measured, and a button where it was not."""
    explorer.facts()
    query, problem = ask(SetQuery, request)
    found = None
    try:
        if problem is None:
            found = await known_agreement(request, explorer, query)
    except InputError as error:
        problem = str(error)
    sets: Sets = request.app.state.sets
    names = [(one.id, one.name) for one in await asyncio.to_thread(sets.all)]
    asked = query.model_dump(exclude_defaults=True)
    shown = None
    if found is not None:
        shown = agreement(found, TraceQuery.model_validate({"prompt": "-"}))
    context = SetPage(
        query=query,
        sets=choices(names, query.texts),
        lenses=choices(LENSES, query.lens),
        agreement=shown,
        problem=problem,
        start_action=link(request, "/agreement", **asked),
        json=link(request, "/api/v1/agreement/set", **asked),
        terms=TERMS,
    )
    status = 200 if problem is None else 422
    return render(request, "trace/over_sets.html", context, status=status)


@router.post("/agreement")
async def measure(
    request: Request, query: Annotated[SetQuery, Query()], explorer: ExplorerDep, jobs: JobsDep
) -> Response:
    """Begin to measure; the job's page shows how far it is."""
    job = await start(request, explorer, jobs, query)
    return RedirectResponse(link(request, f"/jobs/{job.id}"), 303)
