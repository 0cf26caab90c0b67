"""Actions, causal maps and smallest nudges as JSON, under ``/api/v1``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.act.question import ActQuestion, CausalQuestion, NudgeQuestion
from app.act.work import causal, is_known, start_causal
from app.jobs.api import JobDocument, job_answer
from app.jobs.lanes import JobsDep
from app.model.explorer import ExplorerDep
from app.web.answers import Document, TokenDocument, described, json_answer
from engine.interventions.effect import effect
from engine.interventions.nudge import nudge

router = APIRouter(prefix="/api/v1", tags=["api"])


class AnswerDocument(TokenDocument):
    """What the model says next."""

    probability: float


class SaidDocument(Document):
    """One side of an action."""

    answer: AnswerDocument


class WatchedDocument(TokenDocument):
    """A token before and after."""

    rank_before: int
    rank_after: int
    probability_before: float
    probability_after: float


class ControlDocument(Document):
    """One control."""

    kind: str
    probability_after: float


class WrittenDocument(Document):
    """What follows the prompt."""

    tokens: int
    before: str
    once: str
    after: str
    control: str | None


class ActDocument(Document):
    """What an action does."""

    before: SaidDocument
    after: SaidDocument
    target: WatchedDocument
    kl: float
    controls: list[ControlDocument]
    beyond_controls: bool
    written: WrittenDocument | None


class CausalDocument(Document):
    """A causal map."""

    layers: list[int]
    positions: list[int]
    recovered: list[list[float | None]]
    answers: dict[str, AnswerDocument]


@router.get("/act", responses=described(ActDocument))
async def act(
    request: Request, query: Annotated[ActQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """What one action inside the model does to its answer, beside the controls."""
    write = explorer.writer(query.prompt)
    body = await explorer.document(
        request, write, effect, query.prompt, query.action(), query.writing()
    )
    return json_answer(body)


@router.post("/act", responses=described(ActDocument))
async def act_post(request: Request, query: ActQuestion, explorer: ExplorerDep) -> Response:
    """The same, with the question as JSON in the body."""
    return await act(request, query, explorer)


@router.get("/causal", responses=described(CausalDocument))
async def causal_get(
    request: Request, query: Annotated[CausalQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """Where the answer comes from: a twin's states, put in one layer and position at a time."""
    write = explorer.writer(query.prompt)
    runs = request.app.state.runs
    known = await explorer.look(
        request, partial(is_known, prompt=query.prompt, twin=query.twin), "act"
    )
    body = await explorer.document(request, write, causal, query.prompt, query.twin, runs)
    if not known:
        explorer.forget()  # pages from before say that it is not known
    return json_answer(body)


@router.post("/causal", status_code=202, responses=described(JobDocument, status=202))
async def causal_post(
    request: Request, query: CausalQuestion, explorer: ExplorerDep, jobs: JobsDep
) -> Response:
    """The same in the background; answers with the job, after which the map is kept."""
    job = await start_causal(request, explorer, jobs, query.prompt, query.twin)
    return job_answer(request, job, 202)


@router.get("/nudge", responses=described())
async def nudge_get(
    request: Request, query: Annotated[NudgeQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """The smallest change of the last state that turns the answer into a token."""
    write = explorer.writer(query.prompt)
    body = await explorer.document(
        request, write, nudge, query.prompt, query.token, bos=query.bos, chat=query.chat
    )
    return json_answer(body)
