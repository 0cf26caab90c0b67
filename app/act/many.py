"""An action over many prompts: asked for as a job, shown on a page of its own, JSON and CSV."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import HTMLResponse
from pydantic import Field
from starlette.responses import RedirectResponse, Response

from app import version
from app.act.question import ActingQuestion, PartName
from app.calibrate.text_sets import text_set
from app.jobs.api import JobDocument, job_answer
from app.jobs.job import JobView
from app.jobs.lanes import Jobs, JobsDep
from app.method.terms import TERMS, Term
from app.model.explorer import Explorer, ExplorerDep
from app.model.open_model import ModelFacts, facts_of
from app.model.recording import run_of
from app.storage.run import Run
from app.storage.runs import Runs
from app.web import export
from app.web.answers import Document, csv_answer, described, json_answer
from app.web.head import client_of
from app.web.problems import NotFound
from app.web.questions import PageQuestion, PromptText
from app.web.rendering import link, render
from engine import LatentSpace
from engine.interventions.action import Action
from engine.interventions.many import (
    MOST,
    Case,
    Done,
    Many,
    facts,
    labelled_cases,
    name_of,
    parse_cases,
)
from engine.interventions.sentences import many_sentence, spans
from engine.json_number import plain
from engine.progress import Check, Steps

router = APIRouter()
KIND = "many"
Id = Annotated[str, Path(max_length=64, description="The id.")]


class ManyQuestion(ActingQuestion):
    """An action, and the prompts that it goes over."""

    do: Literal["steer", "swap", "ablate", "zero", "scale", "patch"] = Field(
        "steer", description="What is done."
    )
    part: PartName = Field("block", description="Of zero and scale.")
    cases: PromptText = Field("", description="Lines 'prompt | target | own answer | other "
        "prompt', of which the last two may be left out; empty: the facts that ship.")  # fmt: skip

    label_set: Annotated[str, Field(max_length=40)] = Field("", description="Instead of cases a "
        "label set by its name or id: each text, with the next label as wanted answer."
        )  # fmt: skip
    limit: int = Field(100, ge=1, le=MOST, description="Texts of it at most, evenly spaced.")

    def action(self) -> Action:
        """The engine's action; each case brings its own tokens."""
        blank: dict[str, Any] = {"token": "a", "foil": "b", "source": "a"}
        return Action(kind=self.do, part=self.part, **blank, **self.where() | {"target": None})

    async def listed(self, request: Request) -> tuple[Case, ...]:
        """The cases; raises OptionError."""
        found = await text_set(request, self.label_set)
        if found is not None:
            return labelled_cases(found.read, found.labels or [""] * len(found.read), self.limit)
        return parse_cases(self.cases) if self.cases.strip() else facts()


class ManyForm(ManyQuestion, PageQuestion):
    """The same from a form."""


class ManyDocument(Document):
    """An action over many prompts."""

    cases: int
    used: int
    skipped: int
    share: float | None
    control_share: float | None


@dataclass(frozen=True)
class ManyTable:
    """Writes the cases as CSV: those that were run, then those that were skipped, with why."""

    source: export.Source

    def __call__(self, found: Many) -> bytes:
        """The table."""
        note = (
            f"Lexiscope {version()}, {self.source.words}. {many_sentence(found)}"
            f" {export.version_words()}"
        )
        done = [plain(row) | {"skipped": ""} for row in found.rows]
        empty = dict.fromkeys(Done.__dataclass_fields__)
        left = [
            empty | {"prompt": row.prompt, "target": row.target, "skipped": row.why}
            for row in found.skips
        ]
        return export.table(note, [*done, *left])


@dataclass(frozen=True)
class ManyPage:
    """What ``act/many.html`` shows."""

    found: Many
    sentence: str
    id: str
    terms: dict[str, Term]


def known(space: LatentSpace, name: str, runs: Runs, *, check: Check) -> Many:
    """A result that was computed; raises NotFound."""
    check()
    found = recall(space, runs, name)
    if found is None:
        raise NotFound(
            "There is no result of this name for the open model; it may have made room in the"
            " history, so run it again on the page Act."
        )
    return found


def recall(space: LatentSpace, runs: Runs, name: str) -> Many | None:
    """A result if it is known, from before the server's start as well."""
    found = space.known_many(name)
    if found is None:
        found = runs.find(_run(facts_of(space), name))
        if found is not None:
            space.keep_many(name, found)
    return found


def _run(facts: ModelFacts, name: str, title: str = "", where: str = "") -> Run:
    return run_of(facts, KIND, {"id": (name,)}, prompt=title, reading=where)


async def start(
    request: Request, explorer: Explorer, jobs: Jobs, cases: Sequence[Case], action: Action
) -> JobView:
    """Queue it as a job; one that is under way for the same question is given instead."""
    facts, name = explorer.facts(), name_of(cases, action)
    loop, runs, client = asyncio.get_running_loop(), request.app.state.runs, client_of(request)
    title = f"{action.kind} over {len(cases)} prompts"

    def begin() -> Steps[Many]:
        space = explorer.owned()
        recall(space, runs, name)
        return space.many(cases, action)

    def save(found: Many) -> str:
        run = _run(facts, name, title, f"layer {spans(found.layers)}")
        runs.keep(run, found, client=client)
        loop.call_soon_threadsafe(explorer.forget)
        return name

    return await jobs.start(
        KIND,
        title,
        begin,
        save,
        client=client,
        href=link(request, f"/act/many/{name}"),
        key=f"{KIND} {facts.fingerprint} {name}",
    )


@router.post("/api/v1/many", status_code=202, tags=["api"],
             responses=described(JobDocument, status=202))  # fmt: skip
async def many_post(
    request: Request, query: ManyQuestion, explorer: ExplorerDep, jobs: JobsDep
) -> Response:
    """Run an action over many prompts in the background; answers with the job."""
    cases = await query.listed(request)
    return job_answer(request, await start(request, explorer, jobs, cases, query.action()), 202)


@router.get("/api/v1/many/{id}", tags=["api"], responses=described(ManyDocument))
async def many_get(request: Request, id: Id, explorer: ExplorerDep) -> Response:
    """How often it succeeded, beside the controls, and every case."""
    return json_answer(
        await explorer.document(request, explorer.writer(), known, id, request.app.state.runs)
    )


@router.get("/api/v1/many/{id}/rows.csv", tags=["api"], responses=described(csv=True))
async def many_csv(request: Request, id: Id, explorer: ExplorerDep) -> Response:
    """Every case as a table, the skipped ones with their reasons."""
    body = await explorer.document(
        request, ManyTable(explorer.source()), known, id, request.app.state.runs
    )
    return csv_answer(body, export.file_stem("many", id))


@router.post("/act/many", include_in_schema=False)
async def many_form(
    request: Request, form: Annotated[ManyForm, Form()], explorer: ExplorerDep, jobs: JobsDep
) -> Response:
    """Begin; the job's page shows how far it is."""
    job = await start(request, explorer, jobs, await form.listed(request), form.action())
    return RedirectResponse(link(request, f"/jobs/{job.id}"), 303)


@router.get("/act/many/{id}", response_class=HTMLResponse, include_in_schema=False)
async def many_page(request: Request, id: Id, explorer: ExplorerDep) -> HTMLResponse:
    """The shares with their intervals, and every case."""
    found = await explorer.ask(request, known, id, request.app.state.runs)
    context = ManyPage(found, many_sentence(found), id, dict(TERMS))
    return render(request, "act/many.html", context)
