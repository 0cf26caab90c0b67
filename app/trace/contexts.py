"""Nearest contexts: what is asked, which texts a bank is built of, and its building as a job."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Request
from pydantic import Field

from app.calibrate.sets import Sets
from app.jobs.job import JobView
from app.jobs.lanes import Jobs
from app.jobs.measuring import start_measuring
from app.model.explorer import Explorer
from app.settings import TOKEN_CEILING
from app.trace.question import BankName
from app.web.questions import FormQuestion, LayerNumber, PromptText, Question
from engine import LatentSpace
from engine.calibration.labelled.tables import Table
from engine.progress import Check, Steps
from engine.trace.bank import BUILT_IN, Bank, BankTexts, built_in
from engine.trace.contexts import MOST, Contexts, Plan

KIND = "contexts"


class BankQuestion(Question):
    """Which texts."""

    bank: BankName = Field(BUILT_IN, description="The texts: 'examples', or the id of a label set.")


class BankOrder(FormQuestion, BankQuestion):
    """Which texts a bank is to be built of."""


class ContextsQuestion(BankQuestion):
    """A prompt, one cell of the grid, and the texts to look in."""

    prompt: PromptText = Field(description="The text to trace.")
    layer: LayerNumber = Field(-1, description="The layer: 0 is the embedding, -1 the last.")
    position: Annotated[int, Field(ge=-1, le=TOKEN_CEILING)] = Field(
        -1, description="The token's place in the prompt, from 0; -1: the last."
    )
    count: Annotated[int, Field(ge=1, le=MOST)] = Field(3, description="Contexts listed.")


async def texts_of(sets: Sets, name: str) -> BankTexts:
    """The texts that a bank is built of, by the name of a set.

    Raises:
        NotFound: there is no such set.
        OptionError: it has no rows.
    """
    if name == BUILT_IN:
        return built_in()
    return await asyncio.to_thread(_of_set, sets, name)


async def banks(sets: Sets) -> tuple[tuple[str, str], ...]:
    """What may be looked in, as (name, title)."""
    every = await asyncio.to_thread(sets.all)
    return ((BUILT_IN, "texts that ship"), *((one.id, one.name) for one in every))


def _of_set(sets: Sets, name: str) -> BankTexts:
    return of_table(name, sets.get(name).name, sets.table(name))


def of_table(name: str, title: str, table: Table) -> BankTexts:
    """The texts of a labelled table; raises as `Table.text_and_label`."""
    column, _ = table.text_and_label()
    return BankTexts(name, title, table.column(column))


def near_or_plan(
    space: LatentSpace,
    prompt: str,
    layer: int,
    position: int,
    source: BankTexts,
    bos: str,
    chat: bool,
    *,
    check: Check,
) -> Contexts | Plan:
    """The nearest contexts, or what building the bank would take where it is not built yet."""
    space.tokenize(prompt, bos=bos, chat=chat)  # what is wrong with it is said at once
    if space.contexts.known(source) is None:
        return space.contexts.plan(source, check=check)
    return space.contexts.nearest(prompt, layer, position, source, bos=bos, chat=chat, check=check)


def nearest(
    space: LatentSpace,
    prompt: str,
    layer: int,
    position: int,
    source: BankTexts,
    count: int,
    *,
    check: Check,
) -> Contexts:
    """The nearest contexts; raises where the bank is not built yet."""
    return space.contexts.nearest(prompt, layer, position, source, count=count, check=check)


def plan(space: LatentSpace, source: BankTexts, *, check: Check) -> Plan:
    """What building a bank would take."""
    return space.contexts.plan(source, check=check)


async def start(request: Request, explorer: Explorer, jobs: Jobs, source: BankTexts) -> JobView:
    """Queue the building of a bank; one that is under way for the same texts is given instead."""
    title = f"Keeping the states of {source.title}"[:120]

    def build(space: LatentSpace) -> Steps[Bank]:
        return space.contexts.build(source)

    return await start_measuring(
        request, explorer, jobs, KIND, title, build, href="/", of=source.digest
    )
