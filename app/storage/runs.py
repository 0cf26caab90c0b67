"""What pages showed, kept whole: runs that are looked at again without the model.

A run is a folder of the store with one file (`app.storage.run`), which is also what is exported and
imported. They are bounded in bytes; the oldest go first.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from app.settings import Settings
from app.storage.run import Kept, KeptStates, Run, RunKind, RunView, Strip, pack, unpack
from app.storage.store import Record, Store
from app.web.export import LARGEST_FILE
from app.web.head import is_here
from app.web.problems import NotFound, StorageError
from app.web.words import iso, size
from engine.errors import ArtifactError, OptionError

FILE: Final = "run.safetensors"
MOST: Final = 500
"""Runs that are kept at most."""
_SHOWN: Final = 160
"""Characters of a prompt that a list shows."""
_SHARE: Final = 4
"""Of all bytes an address beyond this machine may hold one in so many."""
_STATES: Final = 16
"""And the states of one run one in so many."""


class Runs:
    """The kept runs. Every method may be called from any thread, but beside the event loop."""

    def __init__(self, settings: Settings, kinds: Mapping[str, RunKind]) -> None:
        """Know the limits; the store comes when the server starts."""
        self.limit = settings.history_mib * 2**20
        self.kinds = kinds
        self.store: Store | None = None
        self.unavailable = ""
        """Why nothing can be kept, or empty."""
        self.problem = ""
        """Why the latest run was not kept, in one sentence; empty where it was."""
        self._lock = threading.Lock()
        self._clients: dict[str, str] = {}
        """Of runs of this process: who asked."""
        self._seen: dict[str, tuple[int, int]] = {}
        """Files that were compared with their SHA-256: time of change and bytes."""

    @property
    def wanted(self) -> bool:
        """Whether runs are kept at all."""
        return self.limit > 0

    # Keeping

    def again(self, run: Run) -> bool:
        """Whether this run is kept already; then it is the newest from now on."""
        if self.store is None or not self.wanted:
            return False
        with self._lock:
            listed = self.store.records("runs")
            held = any(one.id == run.id for one in listed)
            if held and listed[0].id != run.id:
                with contextlib.suppress(StorageError):
                    self.store.touch("runs", run.id)
        return held

    def keep(
        self, run: Run, value: Any, states: KeptStates | None = None, *, client: str = ""
    ) -> None:
        """Keep a run that is not kept yet, and let the oldest go where it is too much.

        What goes wrong is said on the page History (`problem`) and raises nothing.
        """
        if not self.wanted or self.again(run):
            return
        try:
            self._keep(run, value, states, client)
        except (StorageError, OptionError) as error:
            self.problem = f"The latest run was not kept: {error}"
        else:
            self.problem = ""

    def _keep(self, run: Run, value: Any, states: KeptStates | None, client: str) -> None:
        store = self._store()
        if states is not None and states.raw.nbytes > self.limit // _STATES:
            states = None
        run = replace(run, created=time.time())
        body = pack([Kept(run, value, states)])
        if len(body) > self.limit:
            raise OptionError(
                f"it has {size(len(body))} and {size(self.limit)} are kept in all; set"
                " LEXISCOPE_HISTORY_MIB higher."
            )
        with self._lock:
            if any(one.id == run.id for one in store.records("runs")):
                return
            record = self._publish(store, run, value, states, body)
            if not is_here(client):
                self._clients[record.id] = client
            self._trim(store, client)

    def _publish(
        self, store: Store, run: Run, value: Any, states: KeptStates | None, body: bytes
    ) -> Record:
        strip = self.kinds[run.kind].strip(value)
        summary = {
            "kind": run.kind,
            "prompt": run.prompt[:_SHOWN],
            "other": run.other[:_SHOWN],
            "reading": run.reading[:_SHOWN],
            "model": run.model.name[:_SHOWN],
            "fingerprint": run.model.fingerprint[:64],
            "strip": [[one.label[:24], one.heat, one.agrees] for one in strip[:256]],
            "bytes": len(body),
            "states": states is not None,
        }

        def write(folder: Path) -> Mapping[str, Any]:
            (folder / FILE).write_bytes(body)
            return summary

        return store.publish("runs", write, id_=run.id, created=run.created or None)

    def _trim(self, store: Store, client: str) -> None:
        """Let the oldest go: those of an address that has more than its share, then of all."""
        records = store.records("runs")
        if client in self._clients.values():
            own = [one for one in records if self._clients.get(one.id) == client]
            self._drop(store, own, self.limit // _SHARE, MOST // _SHARE)
        self._drop(store, store.records("runs"), self.limit, MOST)

    def _drop(self, store: Store, records: Sequence[Record], limit: int, most: int) -> None:
        held, count = sum(map(_bytes, records)), len(records)
        for one in reversed(records[1:]):
            if held <= limit and count <= most:
                return
            self._delete(store, one.id)
            held, count = held - _bytes(one), count - 1

    # Looking

    def all(self) -> tuple[RunView, ...]:
        """The newest first; what is damaged is named as such."""
        return () if self.store is None else tuple(map(self._view, self.store.records("runs")))

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return 0 if self.store is None else sum(map(_bytes, self.store.records("runs")))

    def view(self, id_: str) -> RunView:
        """One run as it stands in a list; `NotFound` where there is none."""
        return self._view(self._record(id_))

    def open(self, id_: str) -> Kept:
        """A run with all that its page showed.

        Raises:
            NotFound: there is none.
            ArtifactError: it is damaged, or of another version.
        """
        (found,) = unpack(self.file(id_), self.kinds)
        return found

    def file(self, id_: str) -> bytes:
        """A run as the file that `add` reads; raises as `open` does."""
        self._record(id_)
        return (self._store().folder_of("runs", id_) / FILE).read_bytes()

    def find(self, run: Run) -> Any | None:
        """The value of the run that was asked like this; None where none can be read."""
        try:
            return self.open(run.id).value
        except (NotFound, ArtifactError, StorageError, OSError):
            return None

    def export(self) -> bytes:
        """All runs that can be read as one file, the newest that fit into it."""
        found: list[Kept] = []
        held = 0
        for one in self.all():
            if not one.problem and held + one.bytes <= LARGEST_FILE - 2**20:
                found.append(self.open(one.id))
                held += one.bytes
        return pack(found)

    # Changing

    def add(self, body: bytes) -> tuple[RunView, ...]:
        """Keep the runs of a file that was exported; those that are there stay as they are.

        Raises:
            OptionError: it is none, or damaged, or what it holds cannot be shown.
            StorageError: it cannot be kept.
        """
        store = self._store()
        if not self.wanted:
            raise StorageError("This server keeps no history (LEXISCOPE_HISTORY_MIB is 0).")
        try:
            found = unpack(body, self.kinds)
        except ArtifactError as error:
            raise OptionError(str(error)) from None
        with self._lock:
            for one in found:
                if all(record.id != one.run.id for record in store.records("runs")):
                    own = pack([one])
                    if len(own) > self.limit:
                        raise OptionError(
                            f"a run of this file has {size(len(own))}, and {size(self.limit)} are"
                            " kept in all; set LEXISCOPE_HISTORY_MIB higher."
                        )
                    self._publish(store, one.run, one.value, one.states, own)
            self._trim(store, "")
        held = {record.id for record in store.records("runs")}
        return tuple(self.view(one.run.id) for one in found if one.run.id in held)

    def delete(self, id_: str) -> None:
        """Delete a run; `NotFound` where there is none."""
        self._record(id_)
        with self._lock:
            self._delete(self._store(), id_)

    def clear(self) -> None:
        """Delete all runs."""
        with self._lock:
            store = self._store()
            for one in store.records("runs"):
                self._delete(store, one.id)

    # How it is done

    def _delete(self, store: Store, id_: str) -> None:
        store.delete("runs", id_)
        self._clients.pop(id_, None)
        self._seen.pop(id_, None)

    def _store(self) -> Store:
        if self.store is None:
            raise StorageError(self.unavailable or "Nothing can be kept on this server.")
        return self.store

    def _record(self, id_: str) -> Record:
        if self.store is not None:
            for one in self.store.records("runs"):
                if one.id == id_:
                    return one
        raise NotFound(
            "There is no run under this id in the history; it may have been deleted, or was the"
            " oldest and made room."
        )

    def _view(self, record: Record) -> RunView:
        said = record.summary
        problem = self._damage(record.id)
        try:
            strip = tuple(Strip(str(a), int(b), bool(c)) for a, b, c in said["strip"])
            kind = self.kinds[said["kind"]]
            texts = {
                name: str(said[name])
                for name in ("kind", "prompt", "other", "reading", "model", "fingerprint")
            }
            states = bool(said["states"])
        except (KeyError, TypeError, ValueError):
            names = ("kind", "prompt", "other", "reading", "model", "fingerprint")
            texts, strip, kind, states = dict.fromkeys(names, ""), (), None, False
            problem = problem or "What is said of this run cannot be read; delete it."
        return RunView(
            id=record.id,
            title=kind.title if kind is not None else "Damaged",
            created=iso(record.created),
            bytes=_bytes(record),
            has_states=states,
            strip=strip,
            problem=problem,
            **texts,
        )

    def _damage(self, id_: str) -> str:
        """Why a run's file cannot be opened; compared with its SHA-256 when it has changed."""
        store = self._store()
        try:
            facts = (store.folder / "runs" / id_ / FILE).stat()
            seen = facts.st_mtime_ns, facts.st_size
            if self._seen.get(id_) != seen:
                store.folder_of("runs", id_)
                self._seen[id_] = seen
        except ArtifactError as error:
            return str(error)
        except (OSError, NotFound):
            return "The file of this run is missing or cannot be read; delete it."
        return ""


def _bytes(record: Record) -> int:
    found = record.summary.get("bytes")
    return found if isinstance(found, int) else 0
