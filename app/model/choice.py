"""The models that may be opened, on the page Model: the list, and the form that opens one.

The web gives a name, which is looked up in the operator's list; nothing else of it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse
from pydantic import Field
from starlette.responses import RedirectResponse, Response

from app.model.catalogue import Entry
from app.model.explorer import Explorer, ExplorerDep
from app.web.questions import Question
from app.web.rendering import link, render_text

ModelName = Annotated[str, Field(max_length=400, description="A name of the list.")]
ModelState = Literal["open", "opening", "listed"]
REFRESH_S = 1


class OpenOrder(Question):
    """Which model is to be opened."""

    name: ModelName


@dataclass(frozen=True)
class ModelRow:
    """A model of the list, for people and programs."""

    name: str
    origin: str
    state: ModelState
    can_open: bool
    problem: str | None


@dataclass(frozen=True)
class ModelList:
    """What ``model/_list.html`` shows."""

    rows: tuple[ModelRow, ...]
    progress: str
    """What is being done; empty where no model is being opened."""
    problem: str
    """Why the latest opening failed; empty where it did not."""
    watch_href: str
    open_action: str
    refresh_s: int
    """Seconds between two looks while a model is being opened, else 0."""


router = APIRouter(include_in_schema=False)


@router.get("/model/opening", response_class=HTMLResponse)
async def opening_panel(request: Request, explorer: ExplorerDep) -> Response:
    """The list of models alone: what the page Model shows while one is being opened.

    When that is done, htmx is told to load the page anew: all of it is about another model then.
    """
    context = {"choice": model_list(request, explorer)}
    body = render_text(request, "model/_list.html", context, is_fragment=True)
    headers = {"HX-Refresh": "true"} if explorer.models.opening is None else {}
    return HTMLResponse(body, headers=headers)


@router.post("/model/open")
async def open_model(
    request: Request, form: Annotated[OpenOrder, Form()], explorer: ExplorerDep
) -> Response:
    """Begin to open a model of the list; the page Model shows how far it is."""
    await explorer.models.switch_to(form.name)
    return RedirectResponse(link(request, "/model") + "#models", 303)


def model_list(request: Request, explorer: Explorer) -> ModelList:
    """The list as the page Model shows it."""
    opening, failed = explorer.models.opening, explorer.models.failed
    return ModelList(
        rows=rows_of(explorer),
        progress=explorer.models.progress if opening is not None else "",
        problem=_told(failed.name, failed.sentence) if failed else "",
        watch_href=link(request, "/model/opening"),
        open_action=link(request, "/model/open"),
        refresh_s=REFRESH_S if opening is not None else 0,
    )


def _told(name: str, sentence: str) -> str:
    """Why a model was not opened; its name once."""
    cause = sentence.removeprefix(f"{name} cannot be opened: ")
    return f"{name} could not be opened: {cause}"


def rows_of(explorer: Explorer) -> tuple[ModelRow, ...]:
    """Every model of the list as it stands now."""
    return tuple(_row(explorer, entry) for entry in explorer.models.catalogue.entries.values())


def _row(explorer: Explorer, entry: Entry) -> ModelRow:
    opened, opening = explorer.models.current, explorer.models.opening
    failed = explorer.models.failed
    is_open = opened is not None and opened.entry == entry.name
    state: ModelState = "listed"
    if opening is not None and opening.name == entry.name:
        state = "opening"
    elif is_open:
        state = "open"
    return ModelRow(
        name=entry.name,
        origin=entry.origin,
        state=state,
        can_open=not (is_open or opening is not None or entry.ready),
        problem=failed.sentence if failed is not None and failed.name == entry.name else None,
    )
