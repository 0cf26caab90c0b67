"""What an upload may cost the server, whoever sends it."""

from __future__ import annotations

import json
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from app.calibrate import parsing
from app.calibrate.parsing import Orders, load_table, parse
from engine.calibration.labelled import tables
from engine.calibration.labelled.tables import MAX_CELLS, read_table
from engine.errors import OptionError

COLUMNS = 200


def another_column_each(rows: int) -> bytes:
    """JSON lines that name a single column each, and two hundred together."""
    return b"".join(json.dumps({f"k{i % COLUMNS}": "a"}).encode() + b"\n" for i in range(rows))


def orders(source: Path, target: Path) -> Orders:
    target.mkdir()
    return Orders(
        source=str(source), target=str(target), name=source.name, max_bytes=10**7, max_rows=200_000,
        max_cell=32_000, seconds=60.0, memory=2**30,
    )  # fmt: skip


def test_rows_times_columns_are_bounded_before_a_row_is_padded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    class Counted(tables.Row):
        def __init__(self, line: int, values: Any) -> None:
            made.append(len(values))
            super().__init__(line, values)

    rows = MAX_CELLS // COLUMNS + 1
    body = another_column_each(rows)
    assert len(body) < 1_000_000
    monkeypatch.setattr(tables, "Row", Counted)
    with pytest.raises(OptionError, match="20,001 rows of 200 columns and at most 4,000,000 cells"):
        read_table(body, "a.jsonl")
    assert made == [1] * rows  # each as it came, none with its two hundred cells
    made.clear()
    assert len(read_table(another_column_each(COLUMNS), "a.jsonl").rows) == COLUMNS
    assert made == [1] * COLUMNS + [COLUMNS] * COLUMNS


def test_the_smallest_file_is_read_by_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    run = subprocess.run

    def counted(command: Any, **given: Any) -> Any:
        started.append(command)
        return run(command, **given)

    def here(*given: Any, **named: Any) -> Any:
        raise AssertionError("it was read by the server itself")

    monkeypatch.setattr(subprocess, "run", counted)
    monkeypatch.setattr(parsing, "read_table", here)
    source = tmp_path / "a.csv"
    source.write_text("text,label\na,b\n")
    assert parse(orders(source, tmp_path / "out"))["rows"] == 1
    assert len(started) == 1


def test_a_kept_table_costs_little_more_than_its_cells(tmp_path: Path) -> None:
    """A pointer for each cell; with a dictionary for each row it was five times as much."""
    source = tmp_path / "a.jsonl"
    source.write_bytes(another_column_each(2000))
    head = parse(orders(source, tmp_path / "out"))
    tracemalloc.start()
    table = load_table(tmp_path / "out")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    cells = head["rows"] * COLUMNS
    assert kept < 12 * cells
    assert table == read_table(source)
    assert dict(table.rows[7].values) == {f"k{i}": "a" if i == 7 else "" for i in range(COLUMNS)}
