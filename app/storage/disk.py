"""How much of the disk is free, looked at in a thread of its own.

A disk that hangs (a network share, a dying drive) must not stop the event loop: who wants to know
reads the last figure.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("lexiscope")


class FreeDisk:
    """The free space of one folder's disk."""

    def __init__(self, folder: Path, reserve: int, *, every_s: float = 5.0) -> None:
        """Prepare without touching the disk.

        Args:
            folder: any folder of that disk; it need not be there yet.
            reserve: bytes that are to stay free.
            every_s: seconds between two looks.
        """
        self.reserve = reserve
        self.free: int | None = None
        """Bytes, as of the last look; None before the first, and where it could not be told."""
        self.unusable = ""
        """Why the folder cannot be used, in one sentence; empty where it can."""
        self.after: Callable[[], None] = lambda: None
        """Done after each look, on the same thread."""
        self._folder = folder
        self._told = False
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._loop, name="lexiscope-disk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more; does not wait for a disk that hangs."""
        self._stop.set()

    @property
    def shortage(self) -> str | None:
        """One sentence where nothing can be saved, or None: the folder cannot be used, or less is
        free than is to stay free."""
        if self.unusable:
            return self.unusable
        if self.free is None or self.free >= self.reserve:
            return None
        return (
            f"The server's disk has {self.free // 2**20} MiB free and {self.reserve // 2**20} MiB "
            "are to stay free; nothing is saved until there is room."
        )

    @property
    def figures(self) -> dict[str, float]:
        """The figures for watching."""
        found = {"reserve": float(self.reserve)}
        return found if self.free is None else {**found, "free": float(self.free)}

    def look(self) -> None:
        """Look now."""
        at = self._folder
        try:
            while not at.exists() and at != at.parent:
                at = at.parent
            self.free = shutil.disk_usage(at).free
            self._tell(self.shortage)
        except OSError as error:
            self.free = None
            log.warning("the free disk space cannot be told: %s", error.strerror)

    def _tell(self, shortage: str | None) -> None:
        """Write a change to the log, once."""
        short = shortage is not None
        if short == self._told:
            return
        self._told = short
        if shortage is not None:
            log.warning("%s", shortage)
        else:
            log.warning("The disk has room again; what is asked for is saved.")

    def _loop(self) -> None:
        while True:
            self.look()
            self.after()
            if self._stop.wait(self._every_s):
                return
