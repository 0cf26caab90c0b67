"""Traces, cells, curves and agreement as JSON and CSV, under ``/api/v1``; described by OpenAPI.

Each answer is written by `app.web.export`, as the command line's ``--json`` is, so the bytes agree.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.calibrate.sets import SetsDep
from app.jobs.api import JobDocument, job_answer
from app.jobs.lanes import JobsDep
from app.model.explorer import ExplorerDep
from app.trace.contexts import (
    BankQuestion,
    ContextsQuestion,
    nearest,
    plan,
    start,
    texts_of,
)
from app.trace.files import MEDIA, Format, TraceFile
from app.trace.over_sets import SetQuestion, known_agreement
from app.trace.over_sets import start as start_over_set
from app.trace.question import (
    CellQuestion,
    CurvesQuestion,
    FindingQuestion,
    TraceQuestion,
    WordsQuestion,
)
from app.trace.reading import predict_cost
from app.web import export
from app.web.answers import Document, TokenDocument, described, file_answer, json_answer
from app.web.problems import Conflict
from engine import LatentSpace
from engine.frames.kinds import FrameName
from engine.reading.geometries import GeometryName


class TopDocument(TokenDocument):
    """A token with how near it is."""

    score: float | None
    probability: float | None


class CellOfTrace(Document):
    """One layer at one position."""

    layer: int
    position: int
    top: list[TopDocument]
    entropy: float | None
    final_rank: int | None


class TraceDocument(Document):
    """A prompt through the layers."""

    model: Any
    geometry: GeometryName
    frame: FrameName
    tokens: list[TokenDocument]
    layers: list[int]
    cells: list[CellOfTrace]


router = APIRouter(prefix="/api/v1", tags=["api"])


@router.get("/trace", responses=described(TraceDocument))
async def trace(
    request: Request, query: Annotated[TraceQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """A prompt through all layers: the nearest tokens of each cell, and what is known of it."""
    return json_answer(
        await explorer.document(
            request,
            explorer.writer(query.prompt),
            LatentSpace.trace,
            query.prompt,
            query.options(),
        )
    )


@router.post("/trace", responses=described(TraceDocument))
async def trace_post(request: Request, query: TraceQuestion, explorer: ExplorerDep) -> Response:
    """The same, with the question as JSON in the body."""
    return await trace(request, query, explorer)


async def _file(
    request: Request, query: TraceQuestion, explorer: ExplorerDep, format: Format
) -> Response:
    options = query.options()
    write = TraceFile(explorer.source(query.prompt), format)
    body = await explorer.document(request, write, LatentSpace.trace, query.prompt, options)
    stem = export.file_stem("trace", query.prompt, options)
    return file_answer(body, f"{stem}.{format}", MEDIA[format])


@router.get("/trace.csv", responses=described(csv=True))
async def trace_csv(
    request: Request, query: Annotated[TraceQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """A trace as a table: one row per layer, position and rank."""
    return await _file(request, query, explorer, "csv")


@router.get("/trace.npz", responses=described(file=MEDIA["npz"]))
async def trace_npz(
    request: Request, query: Annotated[TraceQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """A trace as arrays for NumPy, read without pickle."""
    return await _file(request, query, explorer, "npz")


@router.get("/trace.html", responses=described(file=MEDIA["html"]))
async def trace_html(
    request: Request, query: Annotated[TraceQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """A trace as one page that needs nothing else: no script, no network."""
    return await _file(request, query, explorer, "html")


@router.get("/cell", responses=described())
async def cell(
    request: Request, query: Annotated[CellQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """One cell in detail: every geometry, the nearest bases, its history and its token shares."""
    place = (query.prompt, query.layer, query.position, query.options())
    write = explorer.writer(query.prompt)
    return json_answer(await explorer.document(request, write, LatentSpace.cell, *place))


@router.get("/words", responses=described())
async def words(
    request: Request, query: Annotated[WordsQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """One cell's state as a non-negative sum of a few words, beside what chance explains."""
    place = (query.prompt, query.layer, query.position, query.options())
    write = explorer.writer(query.prompt)
    body = await explorer.document(request, write, LatentSpace.in_words, *place, words=query.words)
    return json_answer(body)


@router.get("/contexts", responses=described())
async def contexts(
    request: Request,
    query: Annotated[ContextsQuestion, Query()],
    explorer: ExplorerDep,
    sets: SetsDep,
) -> Response:
    """The states of other texts that come nearest to one cell's, beside shuffled texts."""
    source = await texts_of(sets, query.bank)
    asked = (query.prompt, query.layer, query.position, source, query.count)
    write = explorer.writer(query.prompt)
    return json_answer(await explorer.document(request, write, nearest, *asked))


@router.get("/contexts/plan", responses=described())
async def contexts_plan(
    request: Request, query: Annotated[BankQuestion, Query()], explorer: ExplorerDep, sets: SetsDep
) -> Response:
    """What keeping the states of these texts would take, without running the model."""
    source = await texts_of(sets, query.bank)
    return json_answer(await explorer.document(request, export.dumps, plan, source))


@router.post("/contexts", status_code=202, responses=described(JobDocument, status=202))
async def contexts_build(
    request: Request, query: BankQuestion, explorer: ExplorerDep, jobs: JobsDep, sets: SetsDep
) -> Response:
    """Begin to keep the states of these texts; answers with the job."""
    job = await start(request, explorer, jobs, await texts_of(sets, query.bank))
    return job_answer(request, job, 202)


@router.get("/agreement", responses=described())
async def agreement(
    request: Request, query: Annotated[TraceQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """How far each geometry and frame agrees with the model's own prediction, layer by layer."""
    asked = (query.prompt, query.options())
    write = explorer.writer(query.prompt)
    return json_answer(await explorer.document(request, write, LatentSpace.agreement, *asked))


@router.get("/agreement/set", responses=described())
async def agreement_set(
    request: Request, query: Annotated[SetQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """Every geometry and frame against the model's own answers over a set, layer by layer."""
    found = await known_agreement(request, explorer, query)
    if found is None:
        raise Conflict(
            "This agreement is not measured yet, or was long ago; a POST to the same address"
            " begins."
        )
    return json_answer(explorer.writer()(found))


@router.post("/agreement/set", status_code=202, responses=described(JobDocument, status=202))
async def agreement_set_start(
    request: Request, query: Annotated[SetQuestion, Query()], explorer: ExplorerDep, jobs: JobsDep
) -> Response:
    """Begin to measure it; answers with the job."""
    return job_answer(request, await start_over_set(request, explorer, jobs, query), 202)


@router.get("/curves", responses=described())
async def curves(
    request: Request, query: Annotated[CurvesQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """Tokens over the layers: score, probability and rank."""
    asked = (query.prompt, query.pins(), query.options())
    write = explorer.writer(query.prompt)
    body = await explorer.document(
        request, write, LatentSpace.curves, *asked, position=query.position
    )
    return json_answer(body)


@router.get("/finding", responses=described())
async def finding(
    request: Request, query: Annotated[FindingQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """From which layer on the model's answer is the nearest token, and by random directions."""
    asked = (query.prompt, query.options())
    write = explorer.writer(query.prompt)
    body = await explorer.document(
        request, write, LatentSpace.finding, *asked, position=query.position
    )
    return json_answer(body)


@router.get("/cost", responses=described())
async def cost(
    request: Request, query: Annotated[TraceQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """What a trace would cost in seconds and bytes, without running it."""
    asked = (query.prompt, query.options())
    return json_answer(await explorer.document(request, export.dumps, predict_cost, *asked))
