"""The history as JSON and as files, under ``/api/v1/history``.

What is asked of the API itself is not kept here: only what pages showed, and what jobs computed.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from app.calibrate.sets import SetsDep
from app.history.page import RunId, RunsDep
from app.history.receiving import receive
from app.storage.store import aside
from app.web import export
from app.web.answers import Document, described, file_answer, json_answer
from app.web.questions import Question

router = APIRouter(prefix="/api/v1", tags=["api"])
MEDIA: Final = "application/octet-stream"
_UPLOAD: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


class ListQuestion(Question):
    """Which part of the list."""

    start: int = Field(0, ge=0, le=10_000, description="How many of the newest are left out.")
    limit: int = Field(50, ge=1, le=500, description="Runs at most.")


class RunDocument(Document):
    """A run in the list."""

    id: str
    kind: str
    prompt: str
    model: str
    created: str
    bytes: int
    problem: str


class RunsDocument(Document):
    """The list."""

    runs: list[RunDocument]
    count: int
    bytes: int
    limit: int


class KeptDocument(Document):
    """A run with all that its page showed."""

    run: dict[str, Any]
    result: dict[str, Any]


@router.get("/history", responses=described(RunsDocument))
async def history_list(query: Annotated[ListQuestion, Query()], runs: RunsDep) -> Response:
    """What pages showed and jobs computed, the newest first."""
    every = await aside(runs.all)
    shown = every[query.start : query.start + query.limit]
    body = {
        "runs": [one.to_dict() for one in shown],
        "count": len(every),
        "bytes": sum(one.bytes for one in every),
        "limit": runs.limit,
        "problem": runs.problem or runs.unavailable,
    }
    return json_answer(export.dumps(body))


@router.post(
    "/history", status_code=201, responses=described(RunsDocument, status=201),
    openapi_extra=_UPLOAD,
)  # fmt: skip
async def history_add(request: Request, runs: RunsDep, sets: SetsDep) -> Response:
    """Keep the runs of a file that was exported."""
    found = await receive(request, runs, sets)
    body = {
        "runs": [one.to_dict() for one in found],
        "count": len(found),
        "bytes": await aside(lambda: runs.size),
        "limit": runs.limit,
    }
    return json_answer(export.dumps(body), 201)


@router.delete("/history", status_code=204, responses=described(status=204))
async def history_clear(runs: RunsDep) -> Response:
    """Delete all runs."""
    await aside(runs.clear)
    return Response(status_code=204)


@router.get("/history/file", responses=described(file=MEDIA))
async def history_file(runs: RunsDep) -> Response:
    """All runs that can be read, as one file: the newest that fit into it."""
    body = await aside(runs.export)
    return file_answer(body, "lexiscope-history.safetensors", MEDIA)


@router.get("/history/{id}", responses=described(KeptDocument))
async def history_one(id: RunId, runs: RunsDep) -> Response:
    """A run with all that its page showed; the model is not asked."""
    return json_answer(await aside(partial(document, runs, id)))


@router.get("/history/{id}/file", responses=described(file=MEDIA))
async def history_one_file(id: RunId, runs: RunsDep) -> Response:
    """A run as a file that can be read in again."""
    body = await aside(partial(runs.file, id))
    return file_answer(body, f"{export.file_stem('run', id)}.safetensors", MEDIA)


@router.delete("/history/{id}", status_code=204, responses=described(status=204))
async def history_delete(id: RunId, runs: RunsDep) -> Response:
    """Delete a run."""
    await aside(partial(runs.delete, id))
    return Response(status_code=204)


def document(runs: Any, id: str) -> bytes:
    """A run as JSON."""
    kept = runs.open(id)
    run = {**vars(kept.run), "id": kept.run.id, "model": vars(kept.run.model)}
    return export.dumps(export.without_clock({"run": run, "result": kept.value.to_dict()}))
