"""Label sets: the examples that ship, and what people have uploaded.

An uploaded file is read once, under limits, and kept as plain rows; its name is shown and never
becomes part of a path.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cachetools import LRUCache, cachedmethod
from fastapi import Depends
from starlette.datastructures import UploadFile
from starlette.requests import Request

from app.calibrate.parsing import SHOWN_PROBLEMS, Orders, load_table, parse
from app.settings import PROMPT_CEILING, Settings
from app.storage.store import Record, Store, aside, digest, new_id, storage_error
from app.web.head import client_of, places_of
from app.web.problems import NotFound, StorageError
from app.web.uploads import check_type, uploaded
from app.web.words import iso
from engine.calibration.labelled.known import example_sets
from engine.calibration.labelled.tables import Table
from engine.errors import (
    BudgetExceeded,
    InputError,
    LexiscopeError,
    OptionError,
    QueueFull,
    shorten,
)

_TABLES = 2
_READERS = 2
_ARRIVING = 8
"""Uploads that may be on their way at once."""
_NAME = 80


@dataclass(frozen=True)
class SetView:
    """A label set as it stands in a list."""

    id: str
    """``topics``, ``sentiment`` or 24 hexadecimal digits."""
    name: str
    example: bool
    """Whether it ships with Lexiscope."""
    rows: int
    columns: tuple[str, ...]
    problems: tuple[Mapping[str, Any], ...] = ()
    """The first bad rows: ``line`` and ``reason``; they are left out of the set."""
    problem_count: int = 0
    notes: tuple[Mapping[str, Any], ...] = ()
    """The first lines that were read otherwise than they may be meant: ``line`` and ``text``."""
    separator: str = ""
    """What separates its columns: comma, semicolon, tab or bar; empty where nothing does."""
    bytes: int = 0
    """Of the file that was uploaded; 0 for an example."""
    sha256: str = ""
    """Of that file; empty for an example."""
    created: str | None = None


class Sets:
    """The label sets of this server. Its methods may be called from any thread, but beside the
    event loop: they read and write files.
    """

    def __init__(self, settings: Settings) -> None:
        """Know the limits; the store comes when the server starts."""
        self.settings = settings
        self.store: Store | None = None
        self.unavailable = ""
        """Why nothing can be saved, or empty."""
        self._tables: LRUCache[str, Table] = LRUCache(_TABLES)
        self._lock = threading.Lock()
        self._reading = 0
        self._arriving: Counter[str] = Counter()

    def kept(self) -> Store:
        """The store, or `StorageError` where there is none."""
        if self.store is None:
            raise StorageError(self.unavailable or "Nothing can be saved on this server.")
        return self.store

    def all(self) -> tuple[SetView, ...]:
        """The examples, then what was uploaded, the newest first."""
        examples = example_sets().values()
        shipped = tuple(
            SetView(one.name, one.title, True, len(one.table.rows), one.table.columns)
            for one in examples
        )
        if self.store is None:
            return shipped
        return (*shipped, *map(_view_or_damaged, self.store.records("sets")))

    def get(self, id_: str) -> SetView:
        """One set; `NotFound` where there is none."""
        found = next((one for one in self.all() if one.id == id_), None)
        if found is None:
            raise NotFound("There is no label set under this id; it may have been deleted.")
        return found

    def table(self, id_: str) -> Table:
        """The rows of a set; `NotFound`, or `ArtifactError` where its file is damaged."""
        example = example_sets().get(id_)
        return example.table if example is not None else self._uploaded(id_)

    @cachedmethod(lambda self: self._tables, lambda self, id_: id_, lambda self: self._lock)
    def _uploaded(self, id_: str) -> Table:
        self.get(id_)
        return load_table(self.kept().folder_of("sets", id_))

    def add(self, filename: str, file: bytes | Path, name: str = "") -> SetView:
        """Read a labelled file and keep its rows.

        Args:
            filename: what its sender calls it; its suffix says what it is.
            file: the content, or where it lies.
            name: what people shall see; empty: the file's name.

        Raises:
            InputError, BudgetExceeded: it cannot be read, or not within the limits.
            QueueFull: as many are being read already as may be.
            StorageError: it cannot be kept.
        """
        # Each may take its memory in a child: a crowd must not take it all.
        with self._lock:
            self._check_readers()
            self._reading += 1
        try:
            return self._add(filename, file, name)
        finally:
            with self._lock:
                self._reading -= 1

    def _check_readers(self) -> None:
        if self._reading >= _READERS:
            raise QueueFull(
                f"{_READERS} uploads are being read already; try again in a moment.", retry_after=5
            )

    @contextmanager
    def arrival(self, client: str) -> Iterator[None]:
        """Room for one upload on its way; a slow sender holds it until its deadline.

        Raises:
            QueueFull: as many are on their way, from this client or in all, as may be.
        """
        share = places_of(self.settings, client)
        with self._lock:
            own, every = self._arriving[client], self._arriving.total()
            if every >= _ARRIVING or (share is not None and own >= share):
                whose = f"{every} uploads" if every >= _ARRIVING else f"{own} uploads of yours"
                raise QueueFull(
                    f"{whose} are on their way already; try again in a moment.", retry_after=5
                )
            self._check_readers()
            self._arriving[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._arriving[client] -= 1
                self._arriving += Counter()  # drops who has none left

    def _add(self, filename: str, file: bytes | Path, name: str) -> SetView:
        store, settings = self.kept(), self.settings
        shown = text_of(name) or file_name(filename) or "unnamed"
        source = self._incoming() if isinstance(file, bytes) else file

        def write(folder: Path) -> Mapping[str, Any]:
            head = parse(
                Orders(
                    source=str(source),
                    target=str(folder),
                    name=file_name(filename),
                    max_bytes=settings.upload_limit,
                    max_rows=settings.upload_rows,
                    max_cell=PROMPT_CEILING,
                    seconds=settings.upload_deadline_s,
                    memory=settings.upload_memory_mib * 2**20,
                )
            )
            size = source.stat().st_size
            return {**head, "name": shown, "bytes": size, "sha256": digest(source)}

        try:
            if isinstance(file, bytes):
                source.write_bytes(file)
            store.check_space()
            return _view(store.publish("sets", write))
        except OSError as error:
            raise storage_error(error) from error
        except (InputError, BudgetExceeded) as error:
            raise _of_file(error, file_name(filename)) from error
        finally:
            if isinstance(file, bytes):  # half of it may lie there, too, and fill the disk
                source.unlink(missing_ok=True)

    def delete(self, id_: str) -> None:
        """Delete an uploaded set; `NotFound`, or `InputError` for an example."""
        if self.get(id_).example:
            raise OptionError("The example sets ship with Lexiscope and cannot be deleted.")
        self.kept().delete("sets", id_)
        with self._lock:
            self._tables.pop(id_, None)

    async def receive(self, request: Request) -> SetView:
        """Keep the file of a multipart form: fields ``file`` and, if wanted, ``name``.

        Raises:
            InputError: no such field, or nothing in it; and as `add`. What is refused because of
                others or of the disk is refused before it is sent.
            HTTPException: 400 for a broken form, 408 and 413 past the limits, 415 for another type.
        """
        check_type(request)
        store = self.kept()
        declared = int(request.headers.get("content-length", "0"))  # checked at the door
        # Refused before its body is read, not after.
        await aside(partial(store.check_space, 2 * declared))  # as it came, and its rows
        with self.arrival(client_of(request)):
            path, filename, given = await self._receive(request)
        try:
            return await aside(partial(self.add, filename, path, given))
        finally:
            await aside(partial(path.unlink, missing_ok=True))

    async def _receive(self, request: Request) -> tuple[Path, str, str]:
        """Where the file of a form lies now, what its sender calls it, and its name for people."""
        try:
            async with uploaded(request, "name", pasted=_pasted_as) as (file, fields):
                path = await aside(partial(self._spool, file))
                return path, file.filename or "", fields.get("name", "")
        except OSError as error:  # a long upload is spooled to a file before it is read
            raise storage_error(error) from error

    def _spool(self, file: UploadFile) -> Path:
        path = self._incoming()
        try:
            with path.open("wb") as out:
                shutil.copyfileobj(file.file, out, 2**20)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise storage_error(error) from error
        return path

    def _incoming(self) -> Path:
        try:
            return self.kept().scratch("incoming") / new_id()
        except OSError as error:
            raise storage_error(error) from error


async def _sets(request: Request) -> Sets:
    sets: Sets = request.app.state.sets
    return sets


SetsDep = Annotated[Sets, Depends(_sets)]
"""The label sets of this server."""


def text_of(text: str) -> str:
    """A name as people see it: one line, printable, short."""
    seen = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(seen.split())[:_NAME]


def file_name(text: str) -> str:
    """The last part of what a browser calls a file, as people see it; never part of a path."""
    return text_of(text.replace("\\", "/").rsplit("/", 1)[-1][-_NAME:])


def _pasted_as(text: str) -> str:
    """What a file of pasted rows is called, by which it is read."""
    begin = text.lstrip()
    kind = "jsonl" if begin[0] in "{[" else "tsv" if "\t" in begin.partition("\n")[0] else "csv"
    return f"pasted texts.{kind}"


def _of_file(error: LexiscopeError, name: str) -> LexiscopeError:
    """The same; a sentence that begins with the file's name says so, since a sentence gets a
    capital at its start and a file's name must not."""
    sentence = str(error)
    if name and sentence.startswith(shorten(name)):
        error.args = (f"The file {sentence}", *error.args[1:])
    return error


def _view_or_damaged(record: Record) -> SetView:
    """As it stands in a list; what cannot be read is listed all the same, so that it can go."""
    try:
        return _view(record)
    except (KeyError, TypeError, ValueError):
        return SetView(record.id, "(damaged)", False, 0, ())


def _view(record: Record) -> SetView:
    summary = record.summary
    return SetView(
        id=record.id,
        name=str(summary["name"]),
        example=False,
        rows=int(summary["rows"]),
        columns=tuple(summary["columns"]),
        problems=tuple(summary["problems"][:SHOWN_PROBLEMS]),
        problem_count=int(summary["problem_count"]),
        notes=tuple(summary.get("notes", ())),
        separator=str(summary.get("separator", "")),
        bytes=int(summary["bytes"]),
        sha256=str(summary["sha256"]),
        created=iso(record.created),
    )
