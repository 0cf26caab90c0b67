"""Two models as JSON, under ``/api/v1/compare``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.compare.models_question import ModelsQuestion
from app.compare.models_reading import compared, frames_compared, on_one_map, opened_beside
from app.model.choice import ModelName, OpenOrder
from app.model.explorer import Explorer, ExplorerDep
from app.web import export
from app.web.answers import Document, described, json_answer
from engine.frames.kinds import FrameName

router = APIRouter(prefix="/api/v1/compare", tags=["api"])


class BesideDocument(Document):
    """The second model of the server."""

    beside: str | None
    opening: str | None
    progress: str


@router.get("/models", responses=described())
async def models(
    request: Request, query: Annotated[ModelsQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """One text by the open model and by the second one, cell beside cell."""
    return await _of_a_text(request, query, explorer, compared)


@router.get("/frames", responses=described())
async def frames(
    request: Request,
    explorer: ExplorerDep,
    beside: Annotated[ModelName, Query()],
    frame: Annotated[FrameName, Query()] = "output",
) -> Response:
    """The frame of the open model turned onto the second one's: how far apart they stay."""
    body = await explorer.document(
        request,
        explorer.writer(),
        frames_compared,
        explorer.models,
        opened_beside(explorer, beside),
        frame,
    )
    return json_answer(body)


@router.get("/map", responses=described())
async def on_map(
    request: Request, query: Annotated[ModelsQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """Both models' words, and the text's way through the layers of either, on one map."""
    return await _of_a_text(request, query, explorer, on_one_map)


async def _of_a_text(
    request: Request, query: ModelsQuestion, explorer: Explorer, call: Callable[..., Any]
) -> Response:
    """What a call says of a text, the open model and the second one."""
    beside = opened_beside(explorer, query.beside)
    write = explorer.writer(query.prompt)
    given = (explorer.models, beside, query.prompt, query.options())
    return json_answer(await explorer.document(request, write, call, *given))


@router.get("/beside", responses=described(BesideDocument))
async def beside(explorer: ExplorerDep) -> Response:
    """Which model stands open beside the one that answers, and how far an opening is."""
    return json_answer(export.dumps(_document(explorer)))


@router.post("/beside", status_code=202, responses=described(BesideDocument, status=202))
async def open_beside(order: OpenOrder, explorer: ExplorerDep) -> Response:
    """Begin to open a model of the list beside the one that answers, for comparisons alone."""
    await explorer.models.open_beside(order.name)
    return json_answer(export.dumps(_document(explorer)), 202)


@router.delete("/beside", responses=described(BesideDocument))
async def close_beside(explorer: ExplorerDep) -> Response:
    """Let the second model go."""
    await explorer.models.close_beside()
    return json_answer(export.dumps(_document(explorer)))


def _document(explorer: Explorer) -> dict[str, str | None]:
    models = explorer.models
    return {
        "beside": models.second.opened.entry if models.second.opened is not None else None,
        "opening": models.opening.name if models.opening is not None else None,
        "progress": models.progress,
    }
