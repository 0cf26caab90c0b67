"""Presenter mode: the list of stories, what is behind the stage, and the bar over each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse

from app.model.explorer import ExplorerDep
from app.present.stories import Step, Story, stories
from app.web.problems import NotFound
from app.web.rendering import link, render

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Bar:
    """What stands over a page that is a step of a story."""

    story: Story
    number: int
    step: Step
    back: str | None
    on: str | None
    dots: tuple[str, ...]
    stage: str
    """Where the story is prepared, and where it ends."""


@dataclass(frozen=True)
class StoryRow:
    """A story of the list."""

    story: Story
    href: str
    fits: bool
    """Whether it is told of the open model."""


@dataclass(frozen=True)
class StoriesPage:
    """What ``present/list.html`` shows."""

    rows: tuple[StoryRow, ...]


@dataclass(frozen=True)
class StagePage:
    """What ``present/stage.html`` shows."""

    story: Story
    fits: bool
    steps: tuple[tuple[Step, str], ...]
    """Each with its address."""


def bar(request: Request) -> Bar | None:
    """The bar over a page, where its address says ``present=STORY:STEP``; else nothing."""
    name, _, number = (request.query_params.get("present") or "").partition(":")
    story = stories().get(name)
    if story is None or not number.isascii() or not number.isdigit() or len(number) > 2:
        return None
    at = int(number)
    if not 1 <= at <= len(story.steps):
        return None
    hrefs = tuple(_href(request, story, i) for i in range(1, len(story.steps) + 1))
    return Bar(
        story,
        at,
        story.steps[at - 1],
        hrefs[at - 2] if at > 1 else None,
        hrefs[at] if at < len(hrefs) else None,
        hrefs,
        link(request, f"/present/{story.name}"),
    )


def _href(request: Request, story: Story, number: int) -> str:
    path, _, query = story.href(number).partition("?")
    return f"{link(request, path)}?{query}"


@router.get("/present", response_class=HTMLResponse)
async def stories_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """The stories that can be told."""
    own = explorer.facts().fingerprint
    rows = tuple(
        StoryRow(one, link(request, f"/present/{one.name}"), one.fingerprint == own)
        for one in stories().values()
    )
    return render(request, "present/list.html", StoriesPage(rows))


@router.get("/present/{story}", response_class=HTMLResponse)
async def stage(
    request: Request,
    explorer: ExplorerDep,
    story: Annotated[str, Path(max_length=40, pattern=r"^[a-z0-9-]+$")],
) -> HTMLResponse:
    """Behind the stage: every step is computed beforehand, and the notes follow the show."""
    told = stories().get(story)
    if told is None:
        known = ", ".join(stories())
        raise NotFound(f"There is no story of that name; there are: {known}.")
    steps = tuple((one, _href(request, told, i)) for i, one in enumerate(told.steps, 1))
    fits = told.fingerprint == explorer.facts().fingerprint
    return render(request, "present/stage.html", StagePage(told, fits, steps))
