"""What an upload may cost the server, whoever sends it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgi import Call, running, settings_with
from fastapi import FastAPI

from app.calibrate import parsing
from app.calibrate.parsing import Orders, load_table, parse
from app.cli import main as cli
from app.main import create_app
from app.settings import Settings
from engine import LatentSpace
from engine.calibration.labelled import tables
from engine.calibration.labelled.tables import MAX_CELLS, read_table
from engine.errors import OptionError

pytestmark = pytest.mark.slow

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
    padded: list[int] = []

    class Counted(tables.Row):
        def __init__(self, line: int, values: Any) -> None:
            padded.append(len(values))
            super().__init__(line, values)

    body = another_column_each(MAX_CELLS // COLUMNS + 1)
    assert len(body) < 1_000_000
    monkeypatch.setattr(tables, "Row", Counted)
    with pytest.raises(OptionError, match="20,001 rows of 200 columns and at most 4,000,000 cells"):
        read_table(body, "a.jsonl")
    assert padded == []
    assert len(read_table(another_column_each(COLUMNS), "a.jsonl").rows) == COLUMNS
    assert padded == [COLUMNS] * COLUMNS


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


# On the way


class Sent:
    """An upload whose body comes when it is told to, from an address of its own."""

    def __init__(self, app: FastAPI, client: str, length: int = 0) -> None:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        if length:
            headers["content-length"] = str(length)
        self.call = Call(
            app, "/api/v1/sets", method="POST", client=client, headers=headers, body=self._body
        )
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def _body(self) -> bytes:
        self.asked.set()
        await self.go.wait()
        head = 'Content-Disposition: form-data; name="file"; filename="a.csv"'
        return f"--x\r\n{head}\r\n\r\ntext,label\na,b\n\r\n--x--\r\n".encode()


async def test_an_address_has_its_share_of_uploads_and_all_have_an_end(space: LatentSpace) -> None:
    """What is refused is refused before a byte of its body is asked for."""
    app = create_app(settings_with(), space)
    async with running(app):
        held = [Sent(app, "192.0.2.1") for _ in range(4)]
        for one in held:
            await one.asked.wait()
        fifth = Sent(app, "192.0.2.1")
        await fifth.call.answer()
        assert fifth.call.status == 503
        assert fifth.call.headers["retry-after"] == "5"
        assert "4 uploads of yours" in fifth.call.json["error"]["sentence"]
        held += [Sent(app, f"192.0.2.{n}") for n in range(2, 6)]
        for one in held:
            await one.asked.wait()
        ninth = Sent(app, "192.0.2.9")
        await ninth.call.answer()
        assert (ninth.call.status, ninth.asked.is_set()) == (503, False)
        assert not fifth.asked.is_set()
        for one in held[1:]:
            one.call.task.cancel()
        held[0].go.set()
        assert (await held[0].call.answer()).status == 201
        again = Sent(app, "192.0.2.1")
        again.go.set()
        assert (await again.call.answer()).status == 201


async def test_who_leaves_gives_the_place_free(space: LatentSpace) -> None:
    app = create_app(settings_with(client_places=1), space)
    async with running(app):
        first = Sent(app, "192.0.2.1")
        await first.asked.wait()
        first.call.task.cancel()
        await asyncio.wait([first.call.task])
        second = Sent(app, "192.0.2.1")
        second.go.set()
        assert (await second.call.answer()).status == 201


async def test_what_the_disk_has_no_room_for_is_refused_before_it_is_sent(
    space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 300 * 2**20
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr("app.storage.store.shutil.disk_usage", lambda at: usage)
    app = create_app(settings_with(disk_reserve_mib=256), space)
    async with running(app):
        large = Sent(app, "192.0.2.1", 30 * 2**20)
        await large.call.answer()
        assert (large.call.status, large.asked.is_set()) == (507, False)
        assert "this needs 60 MiB" in large.call.json["error"]["sentence"]
        small = Sent(app, "192.0.2.1")
        small.go.set()
        assert (await small.call.answer()).status == 201


def test_what_a_server_writes_is_its_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that others may look into, made before."""
    before = os.umask(0o022)
    seen = []

    def serve(app: FastAPI, settings: Settings, listener: Any) -> int:
        (settings.data_folder / "sets" / "file").write_text("x")
        seen.extend(one for one in settings.data_folder.rglob("*") if one.is_file())
        listener.close()
        return 0

    folder = tmp_path / "data"
    (folder / "sets").mkdir(parents=True)
    monkeypatch.setenv("LEXISCOPE_DATA_DIR", str(folder))
    monkeypatch.setattr("app.cli.serve.serve", serve)
    monkeypatch.setattr("app.cli.serve.logs.begin", lambda **given: None)
    try:
        assert cli.main(["serve", "--port", "0", "--model", "no-model"]) == 0
    finally:
        os.umask(before)
    assert {one.name for one in seen} >= {"file", "lexiscope.sqlite"}
    assert [one for one in seen if one.stat().st_mode & 0o077] == []
