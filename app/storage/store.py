"""What is kept on disk: saved folders, published whole or not at all, and the rows of jobs.

A saved thing is a folder ``KIND/ID`` with a ``manifest.json`` that names every file with its
SHA-256. It is written aside, synced, renamed into its place, and only then entered into SQLite
(write-ahead log, ``synchronous=FULL``), so that a kill at any moment leaves a whole folder or none.
The folders are the truth: rows that are lost are read back from the manifests.

No path is ever built from what a person typed: an id is 24 characters that this module made up.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from anyio import to_thread

from app.web.problems import NotFound, StorageBusy, StorageError
from engine.errors import ArtifactError

T = TypeVar("T")
Kind = Literal["sets", "calibrations", "reports", "runs"]
KINDS: tuple[Kind, ...] = ("sets", "calibrations", "reports", "runs")
MANIFEST = "manifest.json"
FORMAT = 1
"""The version of a saved folder and of the database."""
ID = re.compile(r"[0-9a-f]{24}")
JOB: ContextVar[str | None] = ContextVar("job", default=None)
"""The job on whose behalf something is published, so that a restart knows that it was done."""

_ASIDE = ".tmp-"
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, created REAL NOT NULL, state TEXT NOT NULL, row TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS saved (
    kind TEXT NOT NULL, id TEXT NOT NULL, created REAL NOT NULL, job TEXT, summary TEXT NOT NULL,
    PRIMARY KEY (kind, id)
);
"""
log = logging.getLogger("lexiscope")


@dataclass(frozen=True)
class Record:
    """A saved thing as it stands in a list."""

    kind: str
    id: str
    created: float
    """Seconds since 1970."""
    summary: Mapping[str, Any]
    """What its writer said of it: plain values."""
    job: str | None = None
    """The job that made it."""


def new_id() -> str:
    """A fresh id: 24 hexadecimal digits, of which nobody can guess one."""
    return secrets.token_hex(12)


class Store:
    """The data folder. Every method may be called from any thread; one process at a time."""

    problem = ""
    """Why nothing can be saved in it, in one sentence; empty where something can."""

    def __init__(self, folder: Path, *, reserve: int = 0, wait_s: float = 2.0) -> None:
        """Open the folder, making it where it is not there, and put right what a kill left.

        Args:
            folder: the data folder.
            reserve: bytes of the disk that stay free; nothing is saved below.
            wait_s: seconds to wait for another process to let the folder go.

        Raises:
            StorageBusy: another process uses the folder.
            StorageError: it cannot be written, or was written by a newer version.
        """
        self.folder = folder
        self.reserve = reserve
        self._lock = threading.RLock()
        self._gone: set[tuple[str, str]] = set()
        """Deleted, but with a row that a full disk did not let go."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for kind in KINDS:
                (folder / kind).mkdir(exist_ok=True, mode=0o700)
            self._rows = self._open(wait_s)
            self.notes: tuple[str, ...] = tuple(self._recover())
            """What was put right when the folder was opened, one sentence each."""
        except BaseException as error:
            # What failed half way must not hold the folder against the next try.
            if hasattr(self, "_rows"):
                self._rows.close()
            if isinstance(error, OSError | sqlite3.Error):
                raise storage_error(error) from error
            raise
        for note in self.notes:
            log.warning("%s", note)

    def close(self) -> None:
        """Let the folder go."""
        with self._lock:
            self._rows.close()

    # Saved folders

    def publish(
        self,
        kind: Kind,
        write: Callable[[Path], Mapping[str, Any]],
        *,
        id_: str | None = None,
        created: float | None = None,
    ) -> Record:
        """Save a folder: whole, or not at all.

        Args:
            kind: what it is.
            write: writes the files into the empty folder that it is given, folders inside it
                included, and returns the summary for lists.
            id_: its id; None: a fresh one.
            created: when, in seconds since 1970; None: now.

        Raises:
            StorageError: the disk is full or cannot be written; nothing is left of it.
        """
        name = id_ or new_id()
        aside, place = self._aside(kind, name), self._place(kind, name)
        try:
            self.check_space()
            aside.mkdir(mode=0o700)
            summary = dict(write(aside))
            when = time.time() if created is None else created
            record = Record(kind, name, when, summary, JOB.get())
            _seal(aside, record)
            with self._lock:
                os.rename(aside, place)  # noqa: PTH104  # never onto another folder's files
                try:
                    sync(place.parent)
                    self._enter(record)
                except BaseException:
                    os.rename(place, aside)  # noqa: PTH104
                    raise
        except (OSError, sqlite3.Error) as error:
            raise storage_error(error) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return record

    def touch(self, kind: Kind, id_: str) -> None:
        """Make a saved thing the newest of its kind in lists; its manifest keeps its own time."""
        with self._using() as rows, rows:
            rows.execute(
                "UPDATE saved SET created = ? WHERE kind = ? AND id = ?", (time.time(), kind, id_)
            )

    def records(self, kind: Kind) -> tuple[Record, ...]:
        """What is saved of a kind, the newest first."""
        with self._using() as rows:
            found = rows.execute(
                "SELECT kind, id, created, summary, job FROM saved WHERE kind = ? "
                "ORDER BY created DESC, id", (kind,)
            ).fetchall()  # fmt: skip
        every = (_listed(*row) for row in found if row[:2] not in self._gone)
        return tuple(record for record in every if record is not None)

    def record(self, kind: Kind, id_: str) -> Record:
        """One saved thing; `NotFound` where there is none."""
        found = next((one for one in self.records(kind) if one.id == id_), None)
        if found is None:
            raise NotFound("There is nothing saved under this id; it may have been deleted.")
        return found

    def folder_of(self, kind: Kind, id_: str) -> Path:
        """The folder of a saved thing, after every file was compared with its SHA-256.

        Raises:
            NotFound: there is none.
            ArtifactError: a file is damaged, missing or of an unknown version.
        """
        self.record(kind, id_)
        place = self._place(kind, id_)
        verify(place)
        return place

    def delete(self, kind: Kind, id_: str) -> None:
        """Delete a saved thing, on a full disk as well.

        Raises:
            NotFound: there is none.
            StorageError: it could not be moved out of sight; it is as it was.
        """
        self.record(kind, id_)
        place, aside = self._place(kind, id_), self._aside(kind, new_id())
        try:
            with self._lock:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(place, aside)  # noqa: PTH104
                try:
                    sync(aside.parent)
                except BaseException:
                    os.rename(aside, place)  # noqa: PTH104
                    raise
                self._gone.add((kind, id_))
        except OSError as error:
            raise storage_error(error) from error
        # The files before the row: on a full disk only that makes the room which a row needs.
        # A kill between the two leaves a row that the next start drops.
        shutil.rmtree(aside, ignore_errors=True)
        try:
            with self._lock, self._rows:
                self._rows.execute("DELETE FROM saved WHERE kind = ? AND id = ?", (kind, id_))
        except sqlite3.Error as error:
            log.warning("the row of a deleted folder stays until the next start: %s", error)
        else:
            self._gone.discard((kind, id_))

    def check_space(self, needed: int = 0) -> None:
        """Raise `StorageError` where, with these bytes written, less of the disk would be free than
        is to stay free."""
        free = shutil.disk_usage(self.folder).free
        if free < self.reserve + needed:
            more = f", and this needs {-(-needed // 2**20)} MiB" if needed else ""
            raise StorageError(
                f"The server's disk has {free // 2**20} MiB free and {self.reserve // 2**20} MiB "
                f"are to stay free{more}; delete something saved, or ask whoever runs the server."
            )

    def scratch(self, name: str) -> Path:
        """A folder beside the saved ones, for what can be computed again.

        Raises:
            StorageError: it is not there and cannot be made.
        """
        assert name.isidentifier()
        place = self.folder / name
        try:
            place.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise storage_error(error) from error
        return place

    # Rows of jobs

    def put_job(self, row: Mapping[str, Any]) -> None:
        """Keep a job's row; it has ``id``, ``created`` and ``state``.

        Raises:
            StorageError: it could not be written.
        """
        text = json.dumps(row)
        with self._using() as rows, rows:
            rows.execute(
                "INSERT OR REPLACE INTO jobs (id, created, state, row) VALUES (?, ?, ?, ?)",
                (row["id"], row["created"], row["state"], text),
            )

    def jobs(self) -> tuple[dict[str, Any], ...]:
        """The rows of all jobs that are kept, the newest first."""
        with self._using() as rows:
            found = rows.execute("SELECT row FROM jobs ORDER BY created DESC").fetchall()
        every = (_plain(text) for (text,) in found)
        return tuple(row for row in every if row is not None)

    def forget_jobs(self, ids: Iterator[str] | list[str]) -> None:
        """Drop the rows of these jobs."""
        with self._using() as rows, rows:
            rows.executemany("DELETE FROM jobs WHERE id = ?", [(one,) for one in ids])

    def result_of(self, job: str) -> str | None:
        """The id of what a job has saved, or None."""
        with self._using() as rows:
            found = rows.execute("SELECT id FROM saved WHERE job = ?", (job,)).fetchone()
        return None if found is None else str(found[0])

    # How it is done

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The database, for one thread at a time; what goes wrong there is a `StorageError`."""
        try:
            with self._lock:
                yield self._rows
        except sqlite3.Error as error:
            raise storage_error(error) from error

    def _place(self, kind: str, id_: str) -> Path:
        assert kind in KINDS
        if not ID.fullmatch(id_):
            raise NotFound("There is nothing saved under this id.")
        return self.folder / kind / id_

    def _aside(self, kind: str, id_: str) -> Path:
        place = self._place(kind, id_)
        return place.with_name(_ASIDE + place.name)

    def _open(self, wait_s: float) -> sqlite3.Connection:
        file = self.folder / "lexiscope.sqlite"
        try:
            return _connect(file, wait_s)
        except sqlite3.OperationalError:
            raise  # busy or not writable: not damaged
        except sqlite3.DatabaseError:
            for end in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    old = file.with_name(file.name + end)
                    old.replace(old.with_name(f"{old.name}.damaged-{int(time.time())}"))
            log.error("the database was damaged; it was put aside and made anew from the folders")
            return _connect(file, wait_s)

    def _recover(self) -> Iterator[str]:
        """Sweep what a kill left half done, and bring rows and folders together."""
        # Nobody else writes here: the lock is ours, and no upload has begun.
        shutil.rmtree(self.folder / "incoming", ignore_errors=True)
        for kind in KINDS:
            listed = {one.id for one in self.records(kind)}
            there = set()
            for place in sorted((self.folder / kind).iterdir()):
                if place.name.startswith(_ASIDE):
                    shutil.rmtree(place, ignore_errors=True)
                elif ID.fullmatch(place.name):
                    there.add(place.name)
            for name in sorted(there - listed):
                try:
                    record = record_of(verify(self._place(kind, name)))
                except ArtifactError as error:
                    yield f"A folder of {kind} is not listed: {error}"
                    continue
                self._enter(record)
                yield f"One of the saved {kind} was not listed and is now: {name}."
            gone = sorted(listed - there)
            if gone:
                with self._rows:
                    self._rows.executemany(
                        "DELETE FROM saved WHERE kind = ? AND id = ?", [(kind, one) for one in gone]
                    )
                yield f"{len(gone)} of the listed {kind} had no folder any more: {', '.join(gone)}."

    def _enter(self, record: Record) -> None:
        with self._rows:
            self._rows.execute(
                "INSERT OR REPLACE INTO saved (kind, id, created, job, summary) "
                "VALUES (?, ?, ?, ?, ?)",
                (record.kind, record.id, record.created, record.job, json.dumps(record.summary)),
            )


async def aside(work: Callable[[], T]) -> T:
    """Do what reads or writes files beside the event loop."""
    return await to_thread.run_sync(work)


def _connect(file: Path, wait_s: float) -> sqlite3.Connection:
    rows = sqlite3.connect(file, timeout=wait_s, check_same_thread=False)
    # A text that a disk has changed must not end every query that meets it.
    rows.text_factory = lambda text: text.decode("utf-8", "replace")
    try:
        # Exclusive and set before the first access: the lock is held until this process ends,
        # however it ends, and keeps a second server out.
        rows.execute("PRAGMA locking_mode = EXCLUSIVE")
        rows.execute("PRAGMA journal_mode = WAL")
        rows.execute("PRAGMA synchronous = FULL")
        rows.execute("BEGIN EXCLUSIVE")
        rows.execute("COMMIT")
        sound = rows.execute("PRAGMA quick_check").fetchone()[0]
        if sound != "ok":
            raise sqlite3.DatabaseError(sound)
        version = int(rows.execute("PRAGMA user_version").fetchone()[0])
        if version > FORMAT:
            raise StorageError(
                "The data folder was written by a newer Lexiscope; update this one, or set "
                "LEXISCOPE_DATA_DIR to another folder."
            )
        rows.executescript(SCHEMA)
        rows.execute(f"PRAGMA user_version = {FORMAT}")
    except BaseException:
        rows.close()
        raise
    return rows


def _seal(folder: Path, record: Record) -> None:
    """Sync every file of the folder and write the manifest, last."""
    files: dict[str, dict[str, object]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = {
                "sha256": digest(path),
                "bytes": path.stat().st_size,
            }
        sync(path)
    document = {
        "format": FORMAT,
        "kind": record.kind,
        "id": record.id,
        "created": record.created,
        "job": record.job,
        "summary": record.summary,
        "files": files,
    }
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(document, indent=1), encoding="utf-8")
    sync(manifest)
    sync(folder)


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a saved folder, after each of its files was compared with its SHA-256.

    Raises:
        ArtifactError: damaged, incomplete, or of a version that this one does not know.
    """
    name = folder.name
    try:
        document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, files = document["format"], dict(document["files"])
        record_of(document)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(
            f"What was saved under {name} has no manifest that can be read; delete it."
        ) from None
    if version != FORMAT:
        raise ArtifactError(
            f"What was saved under {name} is of another version; open it with the Lexiscope that "
            "wrote it."
        )
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / MANIFEST
    }
    if found != set(files):
        raise ArtifactError(
            f"What was saved under {name} has files missing or added; delete it and save it again."
        )
    for file, facts in files.items():
        try:
            same = digest(folder / file) == facts["sha256"]
        except (OSError, KeyError, TypeError):
            same = False
        if not same:
            raise ArtifactError(
                f"What was saved under {name} is damaged (a file differs from its SHA-256); "
                "delete it and save it again."
            )
    return dict(document)


def _listed(kind: str, id_: str, created: Any, summary: Any, job: str | None) -> Record | None:
    """A row as it stands in a list; None where its text is damaged: the folder has it again."""
    plain = _plain(summary)
    if plain is None or not isinstance(created, int | float):
        return None
    return Record(kind, id_, float(created), plain, job)


def _plain(text: Any) -> dict[str, Any] | None:
    """A JSON object out of a row, or None where a disk has changed its text."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    log.error("a row of the database is damaged and was left out")
    return None


def record_of(document: Mapping[str, Any]) -> Record:
    """What a manifest says; one that is damaged is a `ValueError`, `KeyError` or `TypeError`."""
    summary, job = document["summary"], document.get("job")
    if not isinstance(summary, dict) or document["kind"] not in KINDS:
        raise ValueError
    return Record(
        document["kind"], str(document["id"]), float(document["created"]), summary, job
    )  # fmt: skip


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make sure that a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def storage_error(error: Exception) -> StorageError:
    """One sentence for what went wrong with the disk, without the name of a folder."""
    if isinstance(error, StorageError):
        return error
    text = str(error).lower()
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "disk is full" in text:
        return StorageError(
            "The server's disk is full, so nothing was saved; delete something saved, or ask "
            "whoever runs the server."
        )
    if "locked" in text:
        return StorageBusy(
            "The data folder is in use by another Lexiscope; stop that one, or set "
            "LEXISCOPE_DATA_DIR to another folder."
        )
    reason = error.strerror if isinstance(error, OSError) else "the database cannot be used"
    return StorageError(
        f"The data folder cannot be used ({reason}), so nothing can be saved; set "
        "LEXISCOPE_DATA_DIR to a folder that can be written."
    )
