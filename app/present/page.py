"""Presenter mode: the list of stories, what is behind the stage, and the bar over each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse
from starlette.responses import RedirectResponse, Response

from app.calibrate.calibrations import Calibrations, CalibrationsDep
from app.calibrate.question import CalibrationQuestion
from app.calibrate.work import Order
from app.model.explorer import ExplorerDep
from app.present.stories import OWN, Step, Story
from app.web.problems import NotFound
from app.web.rendering import link, render

router = APIRouter(include_in_schema=False)
StoryName = Annotated[str, Path(max_length=40, pattern=r"^[a-z0-9-]+$")]
StepNumber = Annotated[int, Path(ge=1, le=99)]


@dataclass(frozen=True)
class Bar:
    """What stands over a page that is a step of a story."""

    story: Story
    number: int
    step: Step
    back: str | None
    on: str | None
    dots: tuple[str, ...]
    """Addresses; none where the browser itself keeps the story and fills them in."""
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
class StageStep:
    """A step behind the stage."""

    step: Step
    href: str
    make_action: str | None
    """Where what it shows is made, as long as that was not done."""


@dataclass(frozen=True)
class StagePage:
    """What ``present/stage.html`` shows."""

    story: Story
    fits: bool
    steps: tuple[StageStep, ...]


def bar(request: Request) -> Bar | None:
    """The bar over a page, where its address says ``present=STORY:STEP``; else nothing."""
    name, _, text = (request.query_params.get("present") or "").partition(":")
    if not text.isascii() or not text.isdigit() or len(text) > 2:
        return None
    number = int(text)
    if name == OWN and number:
        own = Story(OWN, "", "", "", ())
        return Bar(own, number, Step(""), None, None, (), link(request, f"/present/{OWN}"))
    story = request.app.state.stories.get(name)
    if story is None or not 1 <= number <= len(story.steps):
        return None
    hrefs = tuple(_href(request, story, i) for i in range(1, len(story.steps) + 1))
    return Bar(
        story,
        number,
        story.steps[number - 1],
        hrefs[number - 2] if number > 1 else None,
        hrefs[number] if number < len(hrefs) else None,
        hrefs,
        link(request, f"/present/{story.name}"),
    )


def _href(request: Request, story: Story, number: int) -> str:
    path, mark, query = story.href(number).partition("?")
    return f"{link(request, path)}{mark}{query}"


def _known(request: Request, name: str) -> Story:
    stories: dict[str, Story] = request.app.state.stories
    if name not in stories:
        raise NotFound(f"There is no story of that name; there are: {', '.join(stories)}.")
    return stories[name]


@router.get("/present", response_class=HTMLResponse)
async def stories_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """The stories that can be told."""
    own = explorer.facts().fingerprint
    rows = tuple(
        StoryRow(one, link(request, f"/present/{one.name}"), one.fingerprint == own)
        for one in request.app.state.stories.values()
    )
    return render(request, "present/list.html", StoriesPage(rows))


@router.get(f"/present/{OWN}", response_class=HTMLResponse)
async def own_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """The story that this browser keeps: its steps are changed, saved and opened here."""
    explorer.facts()
    return render(request, "present/own.html", {})


@router.get("/present/{story}", response_class=HTMLResponse)
async def stage(
    request: Request, explorer: ExplorerDep, calibrations: CalibrationsDep, story: StoryName
) -> HTMLResponse:
    """Behind the stage: every step is computed beforehand, and the notes follow the show."""
    told = _known(request, story)
    steps = []
    for number, one in enumerate(told.steps, 1):
        missing = bool(one.make) and await _made(calibrations, one) is None
        action = link(request, f"/present/{story}/{number}/make") if missing else None
        steps.append(StageStep(one, _href(request, told, number), action))
    fits = told.fingerprint == explorer.facts().fingerprint
    return render(request, "present/stage.html", StagePage(told, fits, tuple(steps)))


@router.get("/present/{story}/{number}")
async def made_step(
    request: Request, calibrations: CalibrationsDep, story: StoryName, number: StepNumber
) -> Response:
    """The page of what a step made, as a step of its story."""
    told, step = _making(request, story, number)
    id_ = await _made(calibrations, step)
    if id_ is None:
        raise NotFound(
            f"What step {number} shows was not made on this server yet; the page"
            f" {link(request, f'/present/{told.name}')} begins it."
        )
    return RedirectResponse(
        link(request, f"/calibrate/{id_}", present=f"{told.name}:{number}"), 303
    )


@router.post("/present/{story}/{number}/make")
async def make_step(
    request: Request, calibrations: CalibrationsDep, story: StoryName, number: StepNumber
) -> Response:
    """Begin to make what a step shows; the job's page says how far it is."""
    _, step = _making(request, story, number)
    asked = CalibrationQuestion.model_validate(dict(step.make))
    order = Order(
        asked.set, asked.name, asked.spec(), asked.options(), asked.compare, asked.untaught
    )
    job = await calibrations.start(request, order, asked.label_words)
    return RedirectResponse(link(request, f"/jobs/{job.id}"), 303)


def _making(request: Request, name: str, number: int) -> tuple[Story, Step]:
    told = _known(request, name)
    step = told.steps[number - 1] if number <= len(told.steps) else None
    if step is None or not step.make:
        raise NotFound(f"The story {told.name} makes nothing at a step {number}.")
    return told, step


async def _made(calibrations: Calibrations, step: Step) -> str | None:
    """The id of the newest calibration of the open model that is called as the step's."""
    name: Any = step.make.get("name")
    return next((c.id for c in await calibrations.list() if c.usable and c.name == name), None)
