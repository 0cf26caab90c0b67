"""Rows of files that say what a cell is: JSON in the ways that it is written, and Parquet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from engine.calibration.labelled.rows import Note, Problem, Records, Repeated, Row
from engine.errors import OptionError, shorten

_DECODER: Final = json.JSONDecoder(object_pairs_hook=Repeated.object_of)
_SPACE: Final = " \t\r\n"


def json_rows(text: str) -> Iterator[Row | Problem | Note]:
    """Rows of a JSON file: an object per line, one array of objects, or one object of columns.

    A row's line is where its object begins; of an object of columns, the row's number.
    """
    records = Records()
    begin = _next(text, 0)
    if text.startswith("[", begin) and text.startswith("{", _next(text, begin + 1)):
        yield from _array(text, begin, records)
    elif (columns := _columns(text, begin)) is not None:
        for number, record in enumerate(columns, start=1):
            yield records.row(record, number)
    else:
        yield from _lines(text, records)
    yield from records.notes()


def _lines(text: str, records: Records) -> Iterator[Row | Problem]:
    for line, source in enumerate(text.split("\n"), start=1):
        if not source.strip():
            continue
        try:
            record = _DECODER.decode(source.strip())
        except (ValueError, RecursionError):
            yield Problem(line, "not a JSON object")
            continue
        yield _object(record, line, records)


def _object(record: Any, line: int, records: Records) -> Row | Problem:
    if isinstance(record, Mapping):
        return records.row(record, line)
    return Problem(line, f"a JSON {_json_name(record)}, not an object")


def _json_name(value: Any) -> str:
    return {list: "list", str: "string", bool: "truth value", type(None): "null"}.get(
        type(value), "number"
    )


def _array(text: str, begin: int, records: Records) -> Iterator[Row | Problem]:
    at, line, counted = _next(text, begin + 1), 1, 0
    while not text.startswith("]", at):
        line += text.count("\n", counted, at)
        counted = at
        try:
            record, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            yield Problem(line, "not JSON; this row and all after it were not read")
            return
        yield _object(record, line, records)
        at = _next(text, end)
        if text.startswith(",", at):
            at = _next(text, at + 1)
        elif not text.startswith("]", at):
            line += text.count("\n", counted, at)
            yield Problem(line, "no comma behind a row; what follows was not read")
            return
    if _next(text, at + 1) < len(text):
        line += text.count("\n", counted, at)
        yield Problem(line, "the array of rows ends here; what follows was not read")


def _next(text: str, at: int) -> int:
    """Where the next character stands that is no space."""
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _columns(text: str, begin: int) -> list[dict[str, Any]] | None:
    """The rows of one object that is the whole file and holds columns, or one list of rows.

    As pandas and `datasets` write it: column → list of cells, column → row → cell, ``columns``
    and ``data``, or a single name for a list of objects. None where it is none of these.
    """
    if not text.startswith("{", begin):
        return None
    try:
        found, end = _DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError):
        return None
    if _next(text, end) != len(text) or not found or isinstance(found, Repeated):
        return None
    names, table = found.get("columns"), found.get("data")
    if isinstance(names, list) and isinstance(table, list):
        whole = all(isinstance(row, list) and len(row) == len(names) for row in table)
        return [dict(zip(map(str, names), row, strict=True)) for row in table] if whole else None
    parts = list(found.values())
    if len(parts) == 1 and isinstance(parts[0], list):
        rows = parts[0]
        return rows if rows and all(isinstance(row, Mapping) for row in rows) else None
    if all(isinstance(part, list) for part in parts) and len({len(part) for part in parts}) == 1:
        return [dict(zip(found, cells, strict=True)) for cells in zip(*parts, strict=True)]
    if all(isinstance(part, Mapping) for part in parts):
        keys = [tuple(part) for part in parts]
        if len(set(keys)) == 1:
            return [{name: part[key] for name, part in found.items()} for key in keys[0]]
    return None


def parquet_rows(data: bytes, shown: str, max_rows: int) -> Iterator[Row | Problem | Note]:
    """Rows of a Parquet file.

    Args:
        data: the content.
        shown: what people call the file.
        max_rows: that are wanted; a few more are read.

    Raises:
        OptionError: it cannot be read, or a name stands for two columns.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise OptionError(
            f"{shown} is a Parquet file and the package `pyarrow` is not installed; convert it to"
            " CSV or JSONL."
        ) from None
    records = Records()
    try:
        file = parquet.ParquetFile(arrow.BufferReader(data))
        names = Counter(file.schema_arrow.names)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise OptionError(
                f"{shown} has {names[twice[0]]} columns named {shorten(twice[0])!r}; give each a"
                " name of its own."
            )
        line = 0
        for batch in file.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                line += 1
                yield records.row(record, line)
            if line > max_rows:
                break
    except (arrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OptionError):
            raise
        reason = shorten((str(error).strip().splitlines() or ["damaged"])[0], 120).rstrip(".")
        raise OptionError(f"{shown} cannot be read as Parquet ({reason}).") from None
    yield from records.notes()
