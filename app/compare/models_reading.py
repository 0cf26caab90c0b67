"""The open model beside a second one."""

from __future__ import annotations

from app.model.explorer import Explorer
from app.model.open_model import Opened
from app.model.switching import Models
from app.trace.presets import Preset, faithful
from app.web.problems import Conflict, NotFound
from engine import LatentSpace, TraceOptions
from engine.compare import ModelComparison, compare_models
from engine.compare.frames import FramesApart, compare_frames
from engine.compare.one_map import OneMap, one_map
from engine.progress import Check


def compared(
    space: LatentSpace,
    models: Models,
    beside: Opened,
    prompt: str,
    options: TraceOptions,
    *,
    check: Check,
) -> ModelComparison:
    """As `engine.compare.compare_models`, with the second model of the server."""
    return compare_models(space, models.owned_beside(beside), prompt, options, check=check)


def compared_with_best(
    space: LatentSpace,
    models: Models,
    beside: Opened,
    prompt: str,
    options: TraceOptions,
    *,
    check: Check,
) -> tuple[ModelComparison, Preset | None]:
    """The same, and the reading most faithful to the open model, where that was measured."""
    found = compared(space, models, beside, prompt, options, check=check)
    return found, faithful(space, check=check)


def frames_compared(
    space: LatentSpace, models: Models, beside: Opened, frame: str, *, check: Check
) -> FramesApart:
    """As `engine.compare.frames.compare_frames`, with the second model of the server."""
    return compare_frames(space, models.owned_beside(beside), frame, check=check)


def on_one_map(
    space: LatentSpace,
    models: Models,
    beside: Opened,
    prompt: str,
    options: TraceOptions,
    *,
    check: Check,
) -> OneMap:
    """As `engine.compare.one_map.one_map`, with the second model of the server."""
    other = models.owned_beside(beside)
    return one_map(space, other, prompt or None, options, check=check)


def opened_beside(explorer: Explorer, name: str) -> Opened:
    """The model of that name, as it stands open beside.

    Raises:
        NotFound: no model of that name is on the list.
        Conflict: it is not open beside.
    """
    models = explorer.models
    for opened in (models.second.opened, models.required()):
        if opened is not None and opened.entry == name:
            return opened
    if models.catalogue.get(name) is None:
        raise NotFound(
            "There is no model of this name on the server's list; choose one of those that the"
            " page Model shows."
        )
    raise Conflict(
        f"The model {name} is not open beside {models.required().facts.name}; open it there first."
    )
