"""Sets of texts by their names: what ships, and what was uploaded, as the texts of one column."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from functools import lru_cache

from starlette.requests import Request

from app.calibrate.sets import Sets
from app.web.problems import NotFound
from engine.calibration.labelled.known import example_sets
from engine.calibration.labelled.spec import render
from engine.calibration.labelled.tables import Table
from engine.errors import OptionError
from engine.maps import TextSet

_SET_NAME = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True)
class Reading:
    """How a task reads a row of its table: what the model is given, and where the label stands."""

    template: str
    text_columns: tuple[str, ...]
    label_column: str


async def text_set(
    request: Request, name: str | None, reading: Reading | None = None
) -> TextSet | None:
    """A text set by its name or id; None where none is asked for.

    Args:
        reading: of the calibration that is switched on; None: an example is read through its own
            template, anything else as it is.

    Raises:
        OptionError: no such set, or none with texts.
    """
    if not name:
        return None
    if not _SET_NAME.fullmatch(name):
        raise OptionError("texts must be the name or the id of a text set, such as topics.")
    sets: Sets = request.app.state.sets
    try:
        return await asyncio.to_thread(_text_set, sets, name, reading)
    except NotFound:
        raise OptionError(_no_such_set()) from None


def _text_set(sets: Sets, name: str, reading: Reading | None) -> TextSet:
    return _example(name, reading) or text_set_of(name, sets.table(name), reading)


@lru_cache(maxsize=8)
def _example(name: str, reading: Reading | None = None) -> TextSet | None:
    found = example_sets().get(name)
    if found is None:
        return None
    # Read as a calibration reads it: the last position is where the label would be said.
    if reading is None or not set(reading.text_columns) <= set(found.table.columns):
        spec = found.spec
        reading = Reading(spec.template, tuple(spec.text_columns), spec.label_column)
    return text_set_of(name, found.table, reading)


def example_text_set(name: str, reading: Reading | None = None) -> TextSet:
    """A text set that ships, read through its own template or that of a calibration.

    Raises:
        OptionError: there is none of that name.
    """
    found = _example(name, reading)
    if found is None:
        raise OptionError(_no_such_set())
    return found


def _no_such_set() -> str:
    known = ", ".join(sorted(example_sets())) or "none"
    return f"there is no text set of that name; the ones that ship are: {known}."


def text_set_of(name: str, table: Table, reading: Reading | None = None) -> TextSet:
    """Texts and labels of a table: its columns ``text`` and ``label``, or the nearest thing.

    With the reading of a calibration that has columns of these names: those columns, and the
    prompts that it makes of them. Else as :meth:`Table.text_and_label` finds them.
    """
    if reading is not None and table.rows and set(reading.text_columns) <= set(table.columns):
        return _read_by(name, table, reading)
    text, label = table.text_and_label()
    rows = [row.values for row in table.rows if row.values.get(text, "").strip()]
    return TextSet(
        name=name,
        texts=tuple(row[text] for row in rows),
        labels=tuple(row.get(label, "") for row in rows) if label else (),
    )


def _read_by(name: str, table: Table, reading: Reading) -> TextSet:
    labelled = reading.label_column in table.columns
    texts = [" ".join(row.values.get(c, "") for c in reading.text_columns) for row in table.rows]
    rows = [(i, row.values) for i, row in enumerate(table.rows) if texts[i].strip()]
    return TextSet(
        name=name,
        texts=tuple(texts[i] for i, _ in rows),
        labels=tuple(v.get(reading.label_column, "") for _, v in rows) if labelled else (),
        prompts=tuple(render(reading.template, reading.text_columns, v) for _, v in rows),
        template=reading.template,
    )
