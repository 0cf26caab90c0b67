"""Labelled files: CSV, TSV, JSON lines, Parquet, or a data set of the hub.

A bad row is listed with its line number and its reason; the rest is kept. Knows nothing about
prompts or labels: a cell is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.calibration.labelled.rows import Note, Problem, Records, Row
from engine.calibration.labelled.separated import MARKS, records, separator
from engine.calibration.labelled.structured import json_rows, parquet_rows
from engine.errors import OptionError, shorten

FORMATS: Final = ("csv", "tsv", "jsonl", "parquet")
MAX_BYTES: Final = 64 * 2**20
MAX_ROWS: Final = 200_000
MAX_CELL: Final = 20_000
"""Characters."""
MAX_COLUMNS: Final = 200
MAX_CELLS: Final = 4_000_000
MAX_NAME: Final = 200
"""Characters of a column's name."""
MOST_GROUPS: Final = 50
"""Different cells of a column of labels at most, where none is named."""
_PARQUET_MAGIC: Final = b"PAR1"
_NAMES_MARK: Final = re.compile(r'"?sep=(.)"?(\r\n|\r|\n)', re.IGNORECASE)
"""A first line that names the separator, as spreadsheets write and read it."""


@dataclass(frozen=True)
class Table:
    """A labelled file, read."""

    name: str
    columns: tuple[str, ...]
    """In the order of the file."""
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    """Rows left out, by line."""
    notes: tuple[Note, ...] = ()
    """By line."""
    separator: str = ""
    """What separates the columns: comma, semicolon, tab or bar; empty where nothing does."""

    def column(self, name: str) -> tuple[str, ...]:
        """All cells of a column.

        Raises:
            OptionError: no such column.
        """
        self.check_column(name)
        return tuple(row.values[name] for row in self.rows)

    def text_and_label(self) -> tuple[str, str | None]:
        """The columns ``text`` and ``label``, or the nearest thing.

        Without a column of that name the texts are the column with the most different cells, of
        equals the one with the longest, and the labels the first other column with at most
        :data:`MOST_GROUPS` different ones; None where there is none.

        Raises:
            OptionError: no rows.
        """
        if not self.columns or not self.rows:
            raise OptionError("that text set has no rows; upload one that has.")
        cells = {one: [row.values.get(one, "") for row in self.rows] for one in self.columns}
        ranked = sorted(cells, key=lambda c: (-len(set(cells[c])), -sum(map(len, cells[c]))))
        text = "text" if "text" in cells else ranked[0]
        others = [one for one in self.columns if one != text]
        few = [one for one in others if len(set(cells[one])) <= MOST_GROUPS]
        return text, "label" if "label" in others else few[0] if few else None

    def check_column(self, name: str) -> None:
        """Refuse a column that the table does not have."""
        if name not in self.columns:
            raise OptionError(
                f"there is no column {shorten(name)!r} in {shorten(self.name) or 'this table'};"
                f" its columns are {', '.join(shorten(c) for c in self.columns[:20])}."
            )


def read_table(
    data: bytes | Path,
    name: str = "",
    *,
    max_bytes: int = MAX_BYTES,
    max_rows: int = MAX_ROWS,
    max_cell: int = MAX_CELL,
) -> Table:
    """Read a labelled file.

    The format is that of the name's suffix, else what the content looks like. Text is UTF-8, with
    or without a byte-order mark; UTF-16 with one. CSV and TSV need a header, and it and the first
    rows say whether a comma, semicolon, tab or bar separates the columns, whatever the suffix; a
    first line ``sep=;`` says it too. JSON is one object per line, one array of objects, or one
    object of columns; its cells and those of Parquet are text, numbers, truth values, dates, and
    bytes that are UTF-8 (the columns are the keys of all rows). NaN is an empty cell. A quote that
    is never closed is text; a note names its line, lines that a quote has joined, and columns that
    hold what is no text.

    Args:
        data: the content, or where it is.
        name: of the file, for its suffix and for people; a path's own where it is empty.
        max_bytes: of the file.
        max_rows: kept; what follows is counted as one problem.
        max_cell: characters of one cell; a longer one makes its row a problem.

    Raises:
        OptionError: no such file, too large, not of a known form, not text, no columns or no row.
    """
    if isinstance(data, Path):
        name = name or data.name
        data = _content(data, max_bytes)
    shown = shorten(name) or "this file"
    if len(data) > max_bytes:
        raise OptionError(
            f"{shown} has {len(data):,} bytes and at most {max_bytes:,} are read; upload a part of"
            " it."
        )
    if not data.strip():
        raise OptionError(f"{shown} is empty; give rows with a text and a label.")
    kind = _kind(name, data)
    mark = ""
    if kind == "parquet":
        found: Iterator[Row | Problem | Note] = parquet_rows(data, shown, max_rows)
    else:
        text = _decode(data, shown)
        if kind == "jsonl":
            found = json_rows(text)
        else:
            told = _NAMES_MARK.match(text)
            body = text[told.end() :] if told else text
            if told and told[1] not in MARKS:
                raise OptionError(
                    f"the first line of {shown} says that {shorten(told[1])!r} separates its"
                    f" columns, and it may be {', '.join(MARKS.values())}; save it with one of"
                    " them."
                )
            mark = told[1] if told else separator(body, "\t" if kind == "tsv" else ",")
            found = _separated(body, mark, shown, first=2 if told else 1)
    rows: list[Row] = []
    problems: list[Problem] = []
    notes: list[Note] = []
    columns: dict[str, None] = {}
    for item in found:
        if isinstance(item, Note):
            notes.append(item)
        elif isinstance(item, Problem):
            problems.append(item)
        elif reason := _cell_problem(item, max_cell):
            problems.append(Problem(item.line, reason))
        elif len(rows) >= max_rows:
            reason = f"this row and all after it: at most {max_rows:,} are read"
            problems.append(Problem(item.line, reason))
            break
        else:
            columns.update(dict.fromkeys(item.values))
            rows.append(item)
    if not rows:
        first = f" (line {problems[0].line}: {problems[0].reason})" if problems else ""
        raise OptionError(f"{shown} has no row that can be read{first}; give texts with labels.")
    if len(columns) > MAX_COLUMNS:
        raise OptionError(
            f"{shown} has {len(columns):,} columns and at most {MAX_COLUMNS} are read; keep the"
            " text and label columns."
        )
    if len(rows) * len(columns) > MAX_CELLS:  # JSON lines may name another few in each row
        raise OptionError(
            f"{shown} has {len(rows):,} rows of {len(columns)} columns and at most {MAX_CELLS:,}"
            " cells are read; keep the text and label columns."
        )
    long = max(columns, key=len)
    if len(long) > MAX_NAME:
        raise OptionError(
            f"{shown} has a column whose name has {len(long):,} characters and at most {MAX_NAME}"
            f" are read: {shorten(long)!r}; give it a short one."
        )
    names = tuple(columns)
    if kind in (
        "jsonl",
        "parquet",
    ):  # a key that only some objects have is an empty cell of the others
        rows = [Row(r.line, {c: r.values.get(c, "") for c in names}) for r in rows]
    said = tuple(sorted(notes, key=lambda note: note.line))
    separated = MARKS[mark] if mark and len(names) > 1 else ""
    return Table(name or "table", names, tuple(rows), tuple(problems), said, separated)


def read_hub(name: str, split: str = "train", *, max_rows: int = MAX_ROWS) -> Table:
    """A data set of the Hugging Face hub, by its id, where `datasets` is installed.

    Class-label columns are given by name. Streams, so only the rows that are kept are fetched.

    Raises:
        OptionError: `datasets` is not installed, or the data set cannot be opened.
    """
    try:
        import datasets
    except ImportError:
        raise OptionError(
            f"{shorten(name)!r} is no file, and reading a data set of the hub needs the package"
            " `datasets`, which is not installed; give a CSV, TSV, JSONL or Parquet file."
        ) from None
    try:
        # What is read are rows, never code: its newest version is as good as a pinned one.
        stream = datasets.load_dataset(name, split=split, streaming=True)  # nosec B615
        labels = {
            column: feature.names
            for column, feature in (stream.features or {}).items()
            if hasattr(feature, "names") and hasattr(feature, "int2str")
        }
        made: list[Row | Problem] = []
        cells = Records()
        for line, record in enumerate(stream, start=1):
            if len(made) >= max_rows:
                break
            for column, names in labels.items():
                value = record.get(column)
                if isinstance(value, int) and 0 <= value < len(names):
                    record[column] = names[value]
            made.append(cells.row(record, line))
    except Exception as error:  # the library raises anything from network errors to KeyError
        reason = shorten((str(error).strip().splitlines() or [type(error).__name__])[0], 120)
        raise OptionError(
            f"the data set {shorten(name)!r} (split {shorten(split)!r}) cannot be opened"
            f" ({reason.rstrip('.')}); check the id and the network, or give a file."
        ) from error
    kept = [r for r in made if isinstance(r, Row)]
    if not kept:
        raise OptionError(f"the data set {shorten(name)!r} has no row with text cells.")
    columns = tuple(dict.fromkeys(c for r in kept for c in r.values))
    full = tuple(Row(r.line, {c: r.values.get(c, "") for c in columns}) for r in kept)
    problems = tuple(p for p in made if isinstance(p, Problem))
    return Table(name, columns, full, problems, tuple(cells.notes()))


def _content(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise OptionError(
                f"{shorten(path.name)} has {size:,} bytes and at most {max_bytes:,} are read; give"
                " a part of it."
            )
        return path.read_bytes()
    except OSError as error:
        raise OptionError(
            f"the file {shorten(path.name)!r} cannot be read ({error.strerror or error}); give a"
            " CSV, TSV, JSONL or Parquet file."
        ) from None


def _kind(name: str, data: bytes) -> str:
    suffix = Path(name).suffix.lower().lstrip(".")
    if data[:4] == _PARQUET_MAGIC:
        return "parquet"
    if suffix in ("jsonl", "ndjson", "json"):
        return "jsonl"
    if suffix in ("csv", "tsv"):
        return suffix
    if suffix in ("parquet", "pq"):
        raise OptionError(f"{shorten(name)} is not a Parquet file, whatever its name says.")
    if suffix and suffix not in ("txt", "tab"):
        raise OptionError(
            f"a file must be one of {', '.join(FORMATS)}; got {shorten(name)!r}; convert it."
        )
    head = data[:4096].lstrip(b"\xef\xbb\xbf \r\n")
    if re.match(rb"\{|\[\s*\{", head):
        return "jsonl"
    line = head.splitlines()[0] if head else b""
    return "tsv" if line.count(b"\t") > line.count(b",") else "csv"


def _decode(data: bytes, shown: str) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise OptionError(
            f"{shown} is not UTF-8 text (line {line}); save it as UTF-8 and upload it again."
        ) from None
    if "\x00" in text:
        raise OptionError(f"{shown} holds NUL characters, so it is not a text file.")
    return text


def _separated(text: str, mark: str, shown: str, *, first: int) -> Iterator[Row | Problem | Note]:
    """Rows of CSV or TSV; a quoted cell may span lines, and a row's line is where it begins."""
    header: list[str] | None = None
    for record in records(text, mark, first=first):
        cells = record.cells
        if not cells or (len(cells) == 1 and not cells[0].strip()):
            continue  # an empty line is nobody's mistake
        for line in record.open_quotes:
            if header is None:
                raise OptionError(
                    f"the first line of {shown} must name its columns and a quote opened on it is"
                    " never closed; close it or take it out."
                )
            yield Note(line, f"A quote opened on line {line} is never closed; it was read as text.")
        if header is None:
            header = [cell.strip() for cell in cells]
            if len(set(header)) < len(header) or not all(header):
                raise OptionError(
                    f"the first line of {shown} must name its columns, each once and none empty;"
                    f" got {shorten(', '.join(header), 80)!r}."
                )
        elif len(cells) != len(header):
            many = f"{len(cells):,} cell{'s' if len(cells) != 1 else ''}"
            upto = f", in quotes up to line {record.last}" if record.last > record.line else ""
            yield Problem(record.line, f"{many} where the header has {len(header)}{upto}")
        else:
            if record.last > record.line and _like_rows(record.alone, len(header)):
                yield Note(
                    record.line,
                    f"A quote opened on line {record.line} is closed on line {record.last} only;"
                    " all that stands between was read as one cell, though its lines look like"
                    " rows. If they are, take the quotes out.",
                )
            yield Row(record.line, dict(zip(header, cells, strict=True)))


def _like_rows(alone: tuple[int, ...], cells: int) -> bool:
    """Whether lines that a quote has joined would be rows by themselves: the first of them, and
    three of four."""
    return alone[:1] == (cells,) and 4 * sum(one == cells for one in alone) >= 3 * len(alone)


def _cell_problem(row: Row, max_cell: int) -> str:
    for column, value in row.values.items():
        if len(value) > max_cell:
            return f"{len(value):,} characters in column {shorten(column)!r}, at most {max_cell:,}"
    return ""
