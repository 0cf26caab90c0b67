"""What opening a model is made of: how one is loaded, put in place on the device thread, and told.

`app.model.switching` says when; nothing here knows which model is open.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from app.model.catalogue import Entry
from app.model.device import DeviceThread, Job
from app.settings import Settings
from app.web.logs import OWN_WORDS
from app.web.problems import NotReady
from engine import LatentSpace
from engine.errors import DeadlineExceeded, LexiscopeError
from engine.model.opening import Tell
from engine.progress import Check

T = TypeVar("T")
CHANGE_S = 60.0
"""Seconds that putting a model in its place may take before the computing thread counts as hanging:
memory is freed there, by the gigabyte. So long, beyond the deadline of a request, the turn for it
is waited for."""
WAIT_S = 0.05
log = logging.getLogger("lexiscope")


Load = Callable[[Settings, Check, Tell, Callable[[], AbstractContextManager[None]]], LatentSpace]
"""How a model is loaded; `app.model.explorer.load_space`."""


@dataclass(frozen=True)
class Opening:
    """A model that is being opened."""

    name: str
    progress: str
    """One sentence for people: what is being done."""


@dataclass(frozen=True)
class FailedOpening:
    """The latest opening that failed; forgotten with the next one."""

    name: str
    sentence: str


def on_device(
    device: DeviceThread,
    work: Callable[[Check], T],
    label: str,
    deadline_s: float,
    check: Callable[[], None],
) -> T:
    """Do this on the device thread before all that waits.

    Args:
        device: the thread.
        work: what is done; it may take `CHANGE_S` without calling its check.
        label: what it is, for people.
        deadline_s: of what may run before it.
        check: raises to wait no longer.

    Raises:
        DeadlineExceeded: it did not come to its turn.
    """
    job = device.submit(work, deadline_s=None, label=label, first=True, patience_s=CHANGE_S)
    try:
        await_turn(job, deadline_s, check)
    except BaseException:
        job.cancel()  # what it would put in place is let go by whoever asked
        raise
    return job.future.result()


def await_turn(job: Job[Any], deadline_s: float, check: Callable[[], None]) -> None:
    """Wait until the work runs or is refused; what runs before it has a deadline of its own.

    Raises:
        DeadlineExceeded: it did not come to its turn, and does not any more.
    """
    limit_s = deadline_s + CHANGE_S
    until = time.monotonic() + limit_s
    while job.waited_s is None and not job.future.done():
        check()
        wait([job.future], timeout=WAIT_S)
        if time.monotonic() > until:
            job.cancel()
            if job.waited_s is None:  # else it began at this very moment
                raise DeadlineExceeded(
                    f"the work before it did not end within {limit_s:g} seconds, so that nothing "
                    "was changed; try again, and restart the server where that fails as well."
                )


def no_thread(entry: Entry) -> NotReady:
    """What is said where the system gives no thread to load a model on."""
    return NotReady(
        f"{entry.name} cannot be opened: the system gives the server no further thread; try "
        "again when less is under way, or raise the limit of its processes.",
        retry_after=30,
    )


def log_failed(entry: Entry, error: Exception) -> None:
    """Tell the operator which model it was, and where it lies."""
    place = entry.source or "the one that ships"
    if isinstance(error, LexiscopeError):
        log.error("the model %s (%s) could not be loaded: %s", entry.name, place, error)
    else:
        log.error(
            "the model %s (%s) could not be loaded", entry.name, place, exc_info=error,
            extra=OWN_WORDS,
        )  # fmt: skip


def for_people(entry: Entry, error: Exception) -> Exception:
    """The error as answers raise it: one sentence, without where the operator keeps things."""
    if isinstance(error, LexiscopeError):
        error.args = (entry.without_place(str(error)), *error.args[1:])
        return error
    sentence = "The model could not be loaded; the server's log says why."
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        sentence = f"There is not enough memory to load {entry.name}; choose a smaller one."
    return NotReady(sentence, retry_after=None)
