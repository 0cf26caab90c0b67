"""What is worked out for the open model by itself, while nobody wants the device.

It is no job: it bars no change of model. What it does with the model is background work of the
device thread, so every request goes first; while a job waits or runs, or another model is being
opened, it stands still. Where another model is open it is given up, and begun anew when its model
is open again.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, TypeVar

from app.jobs.lanes import Jobs
from app.model.explorer import Explorer
from app.model.open_model import Opened
from app.web.problems import ModelChanged, NotReady
from engine.errors import Cancelled, LexiscopeError, QueueFull
from engine.progress import Progress

log = logging.getLogger(__name__)
T = TypeVar("T")
_LOOK_S: Final = 0.25
"""Seconds between two looks whether the way is free."""


class SpareTime(ABC):
    """Works on whichever model is open, on a thread of its own.

    Args:
        explorer: whose model it is.
        jobs: that go first.
        patience_s: seconds that a step may take before the device thread counts as hanging.
    """

    what: str
    """What is made, as its errors name it: ``lens``."""

    def __init__(self, explorer: Explorer, jobs: Jobs, patience_s: float) -> None:
        self.progress: Progress | None = None
        """Where the work is; None while there is none."""
        self._explorer = explorer
        self._jobs = jobs
        self._patience_s = patience_s
        self._awake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._loop, name=f"lexiscope-{self.what}", daemon=True
        )

    def start(self) -> None:
        """Begin with the open model, and with each that is opened from now on."""
        self._explorer.models.on_open.append(self._awake.set)
        self._awake.set()
        self._thread.start()

    def close(self) -> None:
        """Stop after the step that runs."""
        self._closing.set()
        self._awake.set()
        if self._thread.ident is not None:
            self._thread.join(2.0)

    @abstractmethod
    def _work(self, opened: Opened) -> None:
        """All there is to do for this model; waits for its turn by `_wait` and `_on_device`."""

    def _loop(self) -> None:
        while not self._closing.is_set():
            self._awake.wait()
            self._awake.clear()
            try:
                opened = self._explorer.models.current
                if opened is not None:
                    self._wait()
                    self._work(opened)
            except (
                Cancelled,
                QueueFull,
                NotReady,
                ModelChanged,
            ):  # another model, none, or the end
                pass
            except LexiscopeError as error:
                log.info("no %s is made by itself: %s", self.what, error)
            except Exception:
                log.exception("the %s could not be made by itself", self.what)
            finally:
                self.progress = None

    def _barred(self) -> bool:
        """Whether a job waits or runs, or another model is being opened."""
        return any(self._jobs.under_way.values()) or self._explorer.models.opening is not None

    def _wait(self) -> None:
        """Until the way is free.

        Raises:
            Cancelled: the server ends.
        """
        while self._barred():
            if self._closing.wait(_LOOK_S):
                break
        if self._closing.is_set():
            raise Cancelled("The server is shutting down.")

    def _on_device(self, work: Callable[[], T]) -> T:
        asked = self._explorer.device.submit(
            lambda check: work(),
            deadline_s=None,
            label=f"making a {self.what}",
            background=True,
            patience_s=self._patience_s,
        )
        return asked.future.result()
