"""Reading an uploaded file in a process of its own, under limits of memory and time.

A small file can ask its reader for gigabytes: a Parquet footer that lies, a dictionary that
unfolds. Such a file must cost its sender a sentence and the server nothing, so it is read by a
child that may be killed. What is left of it is plain: one JSON array of cells per line.

``python -m app.calibrate.parsing`` is the child; its one argument is `Orders` as JSON.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from app.web.words import span
from engine.calibration.labelled.rows import Note, Problem, Row
from engine.calibration.labelled.tables import Table, read_table
from engine.errors import BudgetExceeded, InputError, LexiscopeError, OptionError

ROWS, HEAD = "rows.jsonl", "table.json"
SHOWN_PROBLEMS = 100
"""Bad rows that are kept by line and reason; all are counted."""

_UNFOLDED = 2
"""Bytes of rows per byte that a file may have: compressed ones can unfold to gigabytes."""
_LINE = orjson.OPT_APPEND_NEWLINE
_REFUSED, _DISK = 3, 4


@dataclass(frozen=True)
class Orders:
    """What is to be read, and how far."""

    source: str
    target: str
    """An empty folder for what is read."""
    name: str
    """The file's name for people and for its suffix."""
    max_bytes: int
    max_rows: int
    max_cell: int
    seconds: float
    memory: int
    """Bytes besides those of the interpreter with its libraries."""


def parse(orders: Orders) -> dict[str, Any]:
    """Read the file into the folder; gives what ``table.json`` says.

    By a child, however small it is: a megabyte of JSON lines can name two hundred columns.

    Raises:
        InputError: it is no labelled file, in one sentence.
        BudgetExceeded: it takes more memory or time than allowed.
        OSError: what was read cannot be written.
        MemoryError: there is not even the memory to begin.
    """
    try:
        child = subprocess.run(  # nosec B603  # our own module, a list, no shell
            # -P: a folder named app where the server was started must not be taken for ours.
            [sys.executable, "-P", "-m", "app.calibrate.parsing", json.dumps(asdict(orders))],
            env={**os.environ, "PYTHONPATH": _search_path()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=orders.seconds + 30,  # the processor's time is limited in the child
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _too_much(orders) from None
    except OSError as error:  # no memory or no place for one more process
        raise MemoryError from error
    if child.returncode == _DISK:
        number = int(child.stdout or errno.EIO)
        raise OSError(number, os.strerror(number))
    if child.returncode == _REFUSED:
        raise OptionError(child.stdout.decode("utf-8", "replace")[:600])
    if child.returncode != 0:
        raise _too_much(orders)
    found: dict[str, Any] = orjson.loads((Path(orders.target) / HEAD).read_bytes())
    return found


def _search_path() -> str:
    """Our own code first, for a checkout that is run without being installed."""
    ours = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))


class Cells(Mapping[str, str]):
    """The cells of one row, by their column. All rows of a table share the names: a dictionary for
    each would take ten times the memory of the text."""

    __slots__ = ("_cells", "_place")

    def __init__(self, place: Mapping[str, int], cells: tuple[str, ...]) -> None:
        self._place, self._cells = place, cells

    def __getitem__(self, column: str) -> str:
        return self._cells[self._place[column]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._cells)


def load_table(folder: Path) -> Table:
    """The table that `parse` has left in a folder."""
    head = orjson.loads((folder / HEAD).read_bytes())
    place = {column: i for i, column in enumerate(head["columns"])}
    rows = []
    with (folder / ROWS).open("rb") as file:
        for line in file:
            number, *cells = orjson.loads(line)
            if len(cells) != len(place):
                raise ValueError("a row of another length")
            rows.append(Row(number, Cells(place, tuple(cells))))
    problems = tuple(Problem(**one) for one in head["problems"])
    notes = tuple(Note(**one) for one in head.get("notes", ()))
    return Table(
        head["name"], tuple(place), tuple(rows), problems, notes, head.get("separator", "")
    )


def head_of(table: Table) -> dict[str, Any]:
    """What is said of a table without its rows."""
    return {
        "name": table.name,
        "columns": list(table.columns),
        "rows": len(table.rows),
        "problems": [asdict(one) for one in table.problems[:SHOWN_PROBLEMS]],
        "problem_count": len(table.problems),
        "notes": [asdict(one) for one in table.notes[:SHOWN_PROBLEMS]],
        "separator": table.separator,
    }


def _read(orders: Orders) -> dict[str, Any]:
    try:
        table = read_table(
            Path(orders.source),
            orders.name,
            max_bytes=orders.max_bytes,
            max_rows=orders.max_rows,
            max_cell=orders.max_cell,
        )
    except LexiscopeError:
        raise
    except MemoryError:
        raise _too_much(orders) from None
    except Exception as error:  # whatever a library makes of a hostile file
        raise InputError(
            "This file cannot be read as CSV, TSV, JSON lines or Parquet "
            f"({type(error).__name__}); save it anew as CSV with a header, in UTF-8."
        ) from None
    target = Path(orders.target)
    written = 0
    with (target / ROWS).open("wb") as file:
        for row in table.rows:
            cells = (row.values[column] for column in table.columns)
            written += file.write(orjson.dumps([row.line, *cells], option=_LINE))
            if written > _UNFOLDED * orders.max_bytes:
                raise OptionError(
                    f"This file unfolds to more than {_UNFOLDED * orders.max_bytes:,} bytes of "
                    f"text (at row {row.line:,}); upload a part of it."
                )
    head = head_of(table)
    (target / HEAD).write_bytes(orjson.dumps(head))
    return head


def _too_much(orders: Orders) -> BudgetExceeded:
    return BudgetExceeded(
        f"Reading this file took more than {orders.memory // 2**20} MiB or "
        f"{span(orders.seconds)} and was stopped; upload a part of it, or save it as CSV."
    )


def _limit(orders: Orders) -> None:
    """Take the rest of the machine away from this process."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        import psutil

        now = int(psutil.Process().memory_info().vms) + orders.memory
        resource.setrlimit(resource.RLIMIT_AS, (now, now))
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime + orders.seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _child(argument: str) -> int:
    orders = Orders(**json.loads(argument))
    _limit(orders)
    try:
        _read(orders)
    except BudgetExceeded:
        return 1
    except OSError as error:
        sys.stdout.buffer.write(str(error.errno or errno.EIO).encode())
        return _DISK
    except LexiscopeError as error:
        sys.stdout.buffer.write(str(error).encode("utf-8", "replace"))
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_child(sys.argv[1]))
