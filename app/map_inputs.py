"""What a question about a map names: text sets and concept axes."""

from __future__ import annotations

import asyncio
import re
from functools import cache

from starlette.requests import Request

from app.sets import Sets
from app.store import NotFound
from engine.calibration.tables import Table
from engine.calibration.tasks import example_sets
from engine.errors import OptionError
from engine.maps import TextSet

_SET_NAME = re.compile(r"[a-z0-9-]{1,40}")
_MOST_GROUPS = 50
_MOST_AXES = 3


async def text_set(request: Request, name: str | None) -> TextSet | None:
    """A text set by its name or id; None where none is asked for.

    Raises:
        OptionError: no such set, or none with texts.
    """
    if not name:
        return None
    if not _SET_NAME.fullmatch(name):
        raise OptionError("texts must be the name or the id of a text set, such as topics.")
    sets: Sets = request.app.state.sets
    try:
        return await asyncio.to_thread(_text_set, sets, name)
    except NotFound:
        raise OptionError(_no_such_set()) from None


def _text_set(sets: Sets, name: str) -> TextSet:
    return _example(name) or text_set_of(name, sets.table(name))


@cache
def _example(name: str) -> TextSet | None:
    found = example_sets().get(name)
    return None if found is None else TextSet(name=name, texts=found.texts, labels=found.labels)


def example_text_set(name: str) -> TextSet:
    """A text set that ships.

    Raises:
        OptionError: there is none of that name.
    """
    found = _example(name)
    if found is None:
        raise OptionError(_no_such_set())
    return found


def _no_such_set() -> str:
    known = ", ".join(sorted(example_sets())) or "none"
    return f"there is no text set of that name; the ones that ship are: {known}."


def text_set_of(name: str, table: Table) -> TextSet:
    """Texts and labels of a table: its columns ``text`` and ``label``, or the nearest thing.

    Without a column of that name the texts are the column with the longest cells, and the labels
    the first other column with at most 50 different ones.
    """
    columns = {one: [row.values.get(one, "") for row in table.rows] for one in table.columns}
    if not columns or not table.rows:
        raise OptionError("that text set has no rows; upload one that has.")
    by_length = sorted(columns, key=lambda one: -sum(map(len, columns[one])))
    text = "text" if "text" in columns else by_length[0]
    others = [one for one in table.columns if one != text]
    few = [one for one in others if len(set(columns[one])) <= _MOST_GROUPS]
    label = "label" if "label" in others else few[0] if few else None
    rows = [i for i, one in enumerate(columns[text]) if one.strip()]
    return TextSet(
        name=name,
        texts=tuple(columns[text][i] for i in rows),
        labels=tuple(columns[label][i] for i in rows) if label else (),
    )


def concept_axes(text: str) -> tuple[tuple[str, str], ...]:
    """The pairs of ``king-queen,man-woman``; a backslash makes the next character plain.

    Raises:
        OptionError: a pair that is none, or too many.
    """
    if not text:
        return ()
    pairs = [_split(one, "-") for one in _split(text, ",")]
    if len(pairs) > _MOST_AXES or any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise OptionError(
            "axes must be a plus and a minus token for each dimension, such as "
            "king-queen,man-woman; write \\- and \\, for those characters themselves."
        )
    return tuple((_plain(pair[0]), _plain(pair[1])) for pair in pairs)


def _split(text: str, at: str) -> list[str]:
    """Cut where the character stands without a backslash before it."""
    parts = [""]
    for piece in re.findall(r"\\.|[^\\]|\\$", text, re.DOTALL):
        if piece == at:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
