"""The linear lens of the open model, fitted by itself while nobody wants the device.

It is no job: it bars no change of model. A step is background work of the device thread, so every
request goes first; while a job waits or runs, or another model is being opened, it stands still.
Where another model is open it is given up, and begun anew when its model is open again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from app.jobs.lanes import Jobs
from app.model.explorer import Explorer
from app.model.open_model import Opened
from app.web.problems import ModelChanged, NotReady
from engine.errors import Cancelled, LexiscopeError, QueueFull
from engine.lenses.kind import Lens
from engine.progress import Progress, Steps

log = logging.getLogger(__name__)
T = TypeVar("T")
NAME: Final = "linear"
_LOOK_S: Final = 0.25
"""Seconds between two looks whether the way is free."""


@dataclass(frozen=True)
class _Fit:
    """A fit that was begun."""

    opened: Opened
    steps: Steps[Lens]


class BackgroundLens:
    """Fits the lens of whichever model is open.

    Args:
        explorer: whose model it is.
        jobs: that go first.
        patience_s: seconds that a step may take before the device thread counts as hanging.
        forget: called on any thread once the lens is known: answers of before do not know it.
    """

    def __init__(
        self, explorer: Explorer, jobs: Jobs, patience_s: float, forget: Callable[[], object]
    ) -> None:
        self.progress: Progress | None = None
        """Where a fit is; None while there is none."""
        self._explorer = explorer
        self._jobs = jobs
        self._patience_s = patience_s
        self._forget = forget
        self._awake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="lexiscope-lens", daemon=True)

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

    def _loop(self) -> None:
        while not self._closing.is_set():
            self._awake.wait()
            self._awake.clear()
            try:
                self._fit()
            except (
                Cancelled,
                QueueFull,
                NotReady,
                ModelChanged,
            ):  # another model, none, or the end
                pass
            except LexiscopeError as error:
                log.info("no lens is fitted by itself: %s", error)
            except Exception:
                log.exception("the lens could not be fitted by itself")
            finally:
                self.progress = None

    def _fit(self) -> None:
        opened = self._explorer.models.current
        if opened is None:
            return
        self._wait()
        fit = self._on_device(partial(self._begin, opened))
        if fit is None:
            return
        try:
            while True:
                self._wait()
                self.progress = self._on_device(partial(self._step, fit))
                if self.progress is None:
                    self._forget()
                    return
        finally:
            self._on_device(fit.steps.close)

    def _begin(self, opened: Opened) -> _Fit | None:
        """The steps, where the model has no lens yet and writes text to fit it on."""
        space = self._explorer.models.owned(opened)
        if space.known_lens(NAME) is not None or space.model.anatomy.kind != "causal":
            return None
        return _Fit(opened, space.fit_lens(NAME))

    def _step(self, fit: _Fit) -> Progress | None:
        """One step; None where the lens is known, by this fit or by a job meanwhile."""
        space = self._explorer.models.owned(fit.opened)
        if space.known_lens(NAME) is not None:
            return None
        try:
            return next(fit.steps)
        except StopIteration:
            return None

    def _wait(self) -> None:
        """Until no job waits or runs and no model is being opened.

        Raises:
            Cancelled: the server ends.
        """
        while any(self._jobs.under_way.values()) or self._explorer.models.opening is not None:
            if self._closing.wait(_LOOK_S):
                break
        if self._closing.is_set():
            raise Cancelled("The server is shutting down.")

    def _on_device(self, work: Callable[[], T]) -> T:
        asked = self._explorer.device.submit(
            lambda check: work(),
            deadline_s=None,
            label="fitting a lens",
            background=True,
            patience_s=self._patience_s,
        )
        return asked.future.result()
