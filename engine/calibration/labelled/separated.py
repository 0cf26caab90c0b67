"""Separated values as people save them: which mark separates, and quotes that are never closed.

RFC 4180, read leniently. The standard library's reader lets a quote that is never closed swallow
the rest of the file in silence; here it is text, is named, and the next line is read as usual.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

MARKS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""What may separate columns, by its name."""
LOOKED_AT: Final = 20
"""Rows behind the header that say which mark separates."""
_END: Final = re.compile(r"[\r\n]")
_LINE: Final = re.compile(r"\r\n|\r|\n")
_REST: Final = {mark: re.compile(rf"[^{re.escape(mark)}\r\n]*") for mark in MARKS}


@dataclass(frozen=True)
class Record:
    """One row of cells."""

    line: int
    """Where it begins, from 1."""
    last: int
    """Where it ends: a quoted cell may span lines."""
    cells: tuple[str, ...]
    """Empty for an empty line."""
    open_quotes: tuple[int, ...] = ()
    """Lines of quotes that are never closed; they were read as text."""
    alone: tuple[int, ...] = ()
    """Of a row over several lines: how many cells each line would have without its quotes."""


def records(text: str, mark: str, *, first: int = 1) -> Iterator[Record]:
    """The rows of a text.

    A quote opens a cell where it is the cell's first character, and two quotes inside it stand for
    one. It is never closed where no quote follows, or where the one that follows stands on a later
    line and is no end of a cell: it opened another. Such a quote is text, and its cell ends with
    its line. Each character is looked at twice at most.

    Args:
        text: the whole file.
        mark: between cells, one of `MARKS`.
        first: the number of its first line.
    """
    rest = _REST[mark]
    at, line, size = 0, first, len(text)
    while at < size:
        begin, first = at, line
        found = _END.search(text, at)
        stop = found.start() if found else size
        cells: list[str] = []
        stray: list[int] = []
        if text.find('"', at, stop) < 0:
            cells = text[at:stop].split(mark) if stop > at else []
            at = stop
        else:
            while True:
                cell, after, closed = _cell(text, at, mark, rest)
                line += _line_ends(text, at, after)
                if not closed:
                    stray.append(line)
                cells.append(cell)
                at = after
                if text[at : at + 1] != mark:
                    break
                at += 1
        lines = _LINE.split(text[begin:at]) if line > first else []
        alone = tuple(one.count(mark) + 1 for one in lines)
        yield Record(first, line, tuple(cells), tuple(stray), alone)
        at += 2 if text.startswith("\r\n", at) else 1
        line += 1


def separator(text: str, usual: str) -> str:
    """Which mark separates the columns, by the header and the rows behind it.

    It must part the header into names, each once and none empty. Of such marks the one with which
    most rows have as many cells as the header; where several do as well, the usual one first.
    """
    best, most = usual, -1
    for mark in sorted(MARKS, key=lambda one: one != usual):
        seen = list(islice((one for one in records(text, mark) if one.cells), LOOKED_AT + 1))
        names = [cell.strip() for cell in seen[0].cells] if seen else []
        if len(names) < 2 or not all(names) or len(set(names)) < len(names):
            continue
        fitting = sum(len(row.cells) == len(names) for row in seen[1:])
        if fitting > most:
            best, most = mark, fitting
    return best


def _cell(text: str, at: int, mark: str, rest: re.Pattern[str]) -> tuple[str, int, bool]:
    """The cell that begins here, where it ends, and whether its quote, if any, is closed."""
    plain = rest.match(text, at)
    assert plain is not None
    if not text.startswith('"', at):
        return plain[0], plain.end(), True
    end = at + 1
    while True:
        end = text.find('"', end)
        if end < 0:
            return plain[0], plain.end(), False
        if not text.startswith('""', end):
            break
        end += 2
    after = text[end + 1 : end + 2]
    if after not in ("", mark, "\r", "\n") and _line_ends(text, at, end):
        return plain[0], plain.end(), False
    behind = rest.match(text, end + 1)
    assert behind is not None
    return text[at + 1 : end].replace('""', '"') + behind[0], behind.end(), True


def _line_ends(text: str, begin: int, end: int) -> int:
    """``\\n``, ``\\r\\n`` and ``\\r`` in a part of the text, each once."""
    newlines = text.count("\n", begin, end)
    returns = text.count("\r", begin, end)
    return newlines + returns - (text.count("\r\n", begin, end) if newlines and returns else 0)
