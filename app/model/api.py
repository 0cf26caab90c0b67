"""The open model, its check and frames, and the models that may be opened, as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.model.choice import ModelState, OpenOrder, rows_of
from app.model.explorer import Explorer, ExplorerDep, limits_of
from app.web import export
from app.web.answers import Document, described, json_answer
from app.web.head import client_of
from engine import LatentSpace
from engine.frames.kinds import FrameName

router = APIRouter(prefix="/api/v1", tags=["api"])


class ModelDocument(BaseModel):
    """A model of the list."""

    name: str
    origin: str = Field(description="Where it is from, for people.")
    state: ModelState
    can_open: bool
    problem: str | None = Field(description="One sentence: why it could not be opened lately.")


class ModelsDocument(Document):
    """The models of this server."""

    models: list[ModelDocument]
    open: str | None = Field(description="The name of the open one.")
    opening: str | None = Field(description="The name of the one that is being opened.")
    progress: str = Field(description="One sentence: what is being done.")


class FrameDocument(Document):
    """The figures of a frame."""

    rank: int
    condition_number: float | None
    residual: float | None
    round_trip_rate: float | None
    vocabulary: int
    width: int


class CheckDocument(Document):
    """The self-check."""

    ok: bool


@router.get("/frames/{frame}", responses=described(FrameDocument))
async def frame(
    request: Request,
    frame: Annotated[FrameName, Path(description="Which frame.")],
    explorer: ExplorerDep,
) -> Response:
    """The figures of a frame: rank, condition, residuals, bounds, leverage, round trip."""
    write = explorer.writer()
    return json_answer(await explorer.document(request, write, LatentSpace.frame_report, frame))


@router.get("/check", responses=described(CheckDocument))
async def check(explorer: ExplorerDep) -> Response:
    """The self-check of the loaded model."""
    return json_answer(export.document(explorer.checked()))


@router.get("/model", responses=described())
async def model(explorer: ExplorerDep) -> Response:
    """The loaded model, this server's limits and the versions behind the numbers."""
    facts = explorer.facts()
    body = {
        **facts.to_dict(),
        "limits": asdict(limits_of(explorer.settings)),
        "versions": export.versions(),
    }
    return json_answer(export.dumps(body))


class QueueDocument(Document):
    """The queue before the model, as who asks stands in it."""

    ahead: int | None = Field(
        description="Pieces of work before your next one, the running one included; null: none of"
        " yours waits."
    )
    own: int = Field(description="Pieces of your work that wait or run.")
    waiting: int = Field(description="All that waits.")


@router.get("/queue", responses=described(QueueDocument))
async def queue(request: Request, explorer: ExplorerDep) -> Response:
    """Your place in the queue before the model; the model itself is not asked."""
    device, client = explorer.device, client_of(request)
    body = {
        "ahead": device.ahead_of(client),
        "own": device.held_by(client),
        "waiting": device.waiting,
    }
    return json_answer(export.dumps(body))


@router.get("/models", responses=described(ModelsDocument))
async def models(explorer: ExplorerDep) -> Response:
    """The models that may be opened, which one is open, and how far an opening is."""
    return json_answer(export.dumps(_document(explorer)))


@router.post("/models/open", status_code=202, responses=described(ModelsDocument, status=202))
async def models_open(order: OpenOrder, explorer: ExplorerDep) -> Response:
    """Begin to open a model of the list; the open one answers until the other is ready.

    Ask ``/api/v1/models`` how far it is. A model that is open already stays open.
    """
    await explorer.models.switch_to(order.name)
    return json_answer(export.dumps(_document(explorer)), 202)


def _document(explorer: Explorer) -> dict[str, Any]:
    models, opened = explorer.models, explorer.models.current
    return {
        "models": rows_of(explorer),
        "open": opened.entry if opened is not None else None,
        "opening": models.opening.name if models.opening is not None else None,
        "progress": models.progress,
    }
