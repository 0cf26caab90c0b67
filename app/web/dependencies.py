"""What the views take besides their query: the explorer and the settings, and text that is text."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from pydantic import AfterValidator, Field

from app.calibrate.calibrations import Calibrations
from app.calibrate.sets import Sets
from app.jobs.lanes import Jobs
from app.model.explorer import Explorer
from app.settings import PROMPT_CEILING, Settings


async def _explorer(request: Request) -> Explorer:
    explorer: Explorer = request.app.state.explorer
    return explorer


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


async def _sets(request: Request) -> Sets:
    sets: Sets = request.app.state.sets
    return sets


async def _calibrations(request: Request) -> Calibrations:
    calibrations: Calibrations = request.app.state.calibrations
    return calibrations


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("the text holds a NUL character; take it out")
    return value


ExplorerDep = Annotated[Explorer, Depends(_explorer)]
"""The loaded model as the handlers see it."""
SettingsDep = Annotated[Settings, Depends(_settings)]
"""The app's settings."""
JobsDep = Annotated[Jobs, Depends(_jobs)]
"""The long work of this server."""
SetsDep = Annotated[Sets, Depends(_sets)]
"""The label sets of this server."""
CalibrationsDep = Annotated[Calibrations, Depends(_calibrations)]
"""The saved calibrations of this server."""
PromptText = Annotated[str, Field(max_length=PROMPT_CEILING), AfterValidator(_no_nul)]
"""A prompt in a query model: bounded before anything looks at it, and without NUL."""
ShortText = Annotated[str, Field(max_length=400), AfterValidator(_no_nul)]
"""A token's text or a search in a query model."""
RangeText = Annotated[str, Field(max_length=40), AfterValidator(_no_nul)]
"""Layers or positions in a query model, ``0:6``, ``0:12:2``, ``-1``: kept short here, read by the
engine, which says what is wrong with it."""
