"""The data folder of a server: opened when it starts, shown where it cannot be written, and opened
again as soon as it can be."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from app.settings import Settings
from app.storage.store import FORMAT, ID, KINDS, MANIFEST, SCHEMA, Kind, Record, Store, record_of
from app.web.problems import StorageBusy, StorageError

log = logging.getLogger("lexiscope")


class ShownStore(Store):
    """What lies in a folder that cannot be written now: listed and read, never changed.

    It holds no lock, since it needs none: what it lists are whole folders, and each file is
    compared with its SHA-256 before it is read.
    """

    def __init__(self, folder: Path, problem: str) -> None:
        """Read the folder's manifests.

        Args:
            folder: the data folder.
            problem: one sentence: why nothing can be saved.
        """
        self.folder, self.reserve, self.problem = folder, 0, problem
        self.notes = ()
        self._lock = threading.RLock()
        self._gone = set()
        self._rows = sqlite3.connect(":memory:", check_same_thread=False)
        self._rows.executescript(SCHEMA)
        for kind in KINDS:
            with contextlib.suppress(OSError):
                for place in sorted((folder / kind).iterdir()):
                    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                        self._list(place)

    def _list(self, place: Path) -> None:
        document = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        if ID.fullmatch(place.name) and document["format"] == FORMAT:
            self._enter(record_of(document))

    def _refuse(self) -> NoReturn:
        raise StorageError(self.problem)

    def check_space(self, needed: int = 0) -> None:
        """Refuse: nothing can be saved."""
        self._refuse()

    def publish(
        self,
        kind: Kind,
        write: Callable[[Path], Mapping[str, Any]],
        *,
        id_: str | None = None,
        created: float | None = None,
    ) -> Record:
        """Refuse: nothing can be saved."""
        self._refuse()

    def touch(self, kind: Kind, id_: str) -> None:
        """Refuse: nothing can be changed."""
        self._refuse()

    def delete(self, kind: Kind, id_: str) -> None:
        """Refuse: nothing can be deleted."""
        self._refuse()

    def scratch(self, name: str) -> Path:
        """Refuse: nothing can be kept."""
        self._refuse()

    def put_job(self, row: Mapping[str, Any]) -> None:
        """Refuse: no row can be written."""
        self._refuse()

    def forget_jobs(self, ids: Iterator[str] | list[str]) -> None:
        """Refuse: no row can be dropped."""
        self._refuse()


def writable_store(settings: Settings) -> Store:
    """The settings' data folder; `StorageError` where it cannot be used."""
    return Store(settings.data_folder, reserve=settings.disk_reserve_mib * 2**20)


def open_store(settings: Settings) -> tuple[Store | None, str]:
    """The settings' data folder; where it cannot be written what lies in it, or None where there is
    no folder, and why nothing can be saved: readings need no folder.

    Raises:
        StorageBusy: another process uses it; two of them would overwrite each other's jobs.
    """
    try:
        return writable_store(settings), ""
    except StorageBusy:
        raise
    except StorageError as error:
        folder = settings.data_folder
        log.error("nothing can be saved in %s: %s", folder, error)
        return ShownStore(folder, str(error)) if folder.is_dir() else None, str(error)
