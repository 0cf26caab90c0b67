"""The models that may be opened, as JSON under ``/api/v1/models``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.model.choice import ModelName, ModelState, rows_of
from app.model.explorer import Explorer
from app.trace.api import Document, Question, described, json_answer
from app.web import export
from app.web.dependencies import ExplorerDep

router = APIRouter(prefix="/api/v1", tags=["api"])


class OpenOrder(Question):
    """Which model is to be opened."""

    name: ModelName


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
    return Response(export.dumps(_document(explorer)), 202, media_type="application/json")


def _document(explorer: Explorer) -> dict[str, Any]:
    models, opened = explorer.models, explorer.models.current
    return {
        "models": rows_of(explorer),
        "open": opened.entry if opened is not None else None,
        "opening": models.opening.name if models.opening is not None else None,
        "progress": models.progress,
    }
