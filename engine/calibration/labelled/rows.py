"""One row of a labelled file, what is said of it, and cells that are no text yet."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from engine.errors import shorten


@dataclass(frozen=True)
class Row:
    """One example as it stands in the file."""

    line: int
    """Where it begins: line of a text file, row of a Parquet file, from 1."""
    values: Mapping[str, str]
    """Column → cell."""


@dataclass(frozen=True)
class Problem:
    """A row that was left out."""

    line: int
    reason: str
    """Half a sentence: ``3 cells where the header has 2``."""


@dataclass(frozen=True)
class Note:
    """What was read otherwise than its writer may have meant it."""

    line: int
    text: str
    """A sentence."""


class Repeated(dict[str, Any]):
    """A JSON object that has a name more than once; `name` is the first such."""

    name: str

    @classmethod
    def object_of(cls, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """For `json`'s ``object_pairs_hook``: a dict, or this where a name is repeated."""
        plain = dict(pairs)
        if len(plain) == len(pairs):
            return plain
        found, seen = cls(plain), set()
        for name, _ in pairs:
            if name in seen:
                found.name = name
                break
            seen.add(name)
        return found


class Records:
    """Objects as rows; remembers which columns hold what is no text."""

    def __init__(self) -> None:
        self._unread: dict[tuple[str, str], list[int]] = {}

    def row(self, record: Mapping[Any, Any], line: int) -> Row | Problem:
        """The cells of one object that can be read as text; see :func:`cell`."""
        if isinstance(record, Repeated):
            return Problem(line, f"two cells named {shorten(record.name)!r}")
        values: dict[str, str] = {}
        for key, value in record.items():
            text = cell(value)
            if text is None:
                self._unread.setdefault((str(key), _kind(value)), []).append(line)
            else:
                values[str(key)] = text
        if not all(_is_text(one) for pair in values.items() for one in pair):
            return Problem(line, "half a character (a lone surrogate), which is no text")
        return Row(line, values) if values else Problem(line, "no cell that is text or a number")

    def notes(self) -> Iterator[Note]:
        """A sentence for each column that holds what was not read."""
        for (column, kind), lines in self._unread.items():
            many = f"in {len(lines):,} rows" if len(lines) > 1 else "in one row"
            yield Note(
                lines[0],
                f"Column {shorten(column)!r} holds {kind} {many} (the first at line"
                f" {lines[0]:,}), which cannot be read as text; those cells are left out.",
            )


def cell(value: Any) -> str | None:
    """A value as the text of a cell; empty where it is missing, None where it is no text.

    What is not a number (NaN) is missing: so tables say that nothing is there.
    """
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, str | int | float | Decimal | datetime.timedelta | uuid.UUID):
        return str(value)
    return None


def _kind(value: Any) -> str:
    if isinstance(value, bytes):
        return "bytes that are no UTF-8"
    if isinstance(value, list | tuple):
        return "lists"
    return "objects" if isinstance(value, Mapping) else f"values of the type {type(value).__name__}"


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8; JSON may name halves of a character by themselves."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
