"""The one thread that may touch torch, behind a bounded queue.

Knows nothing about models, the web or asyncio. Work is a function that takes a `Check` and calls
it between layers and vocabulary chunks; the check raises `Cancelled` when nobody waits any more and
`DeadlineExceeded` when the time is up, so that the computing stops and not only the answer.

One thread, not a pool: nothing else touches the model, so no lock is needed, memory is one
forward's peak, and the same work gives the same numbers.

Long work comes in steps of at most a fraction of a second, each submitted as background work: it
runs only when nobody waits for an answer, and takes no place in the queue.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from engine.errors import Cancelled, DeadlineExceeded, QueueFull

T = TypeVar("T")
Check = Callable[[], None]
"""Called by the work in its small steps; raises `Cancelled` or `DeadlineExceeded` to stop it."""


class _Watch:
    """What running work asks whether to go on. It does not know the job's future: an error's
    traceback holds it, and must not hold what holds the error."""

    def __init__(self, beat: Callable[[], None], deadline_s: float | None) -> None:
        self._beat = beat
        self.cancelled = False
        self.until = math.inf
        if deadline_s is not None:
            self.until = time.monotonic() + deadline_s

    def check(self) -> None:
        self._beat()
        if self.cancelled:
            raise Cancelled("The work was stopped because nobody waits for it.")
        if time.monotonic() > self.until:
            raise DeadlineExceeded(
                "The work took longer than allowed and was stopped; "
                "ask for fewer layers or a shorter prompt."
            )


class Job(Generic[T]):
    """One piece of work on its way: queued, running or done."""

    def __init__(
        self,
        owner: DeviceThread,
        work: Callable[[Check], T],
        *,
        deadline_s: float | None,
        client: str,
        label: str,
        background: bool = False,
    ) -> None:
        self.future: Future[T] = Future()
        """Where the result or the exception arrives; it holds the only reference to either."""
        self.client = client
        self.label = label
        self.background = background
        self._owner = owner
        self._work: Callable[[Check], T] | None = work
        self._watch = _Watch(owner._beat, deadline_s)

    def cancel(self) -> None:
        """Say that nobody waits: a queued job gives its place free, a running one stops soon."""
        self._watch.cancelled = True
        self._owner._drop(self)

    def extend(self, deadline_s: float | None) -> None:
        """Allow so many seconds from now, if that is later than what was allowed before."""
        until = math.inf if deadline_s is None else time.monotonic() + deadline_s
        self._watch.until = max(self._watch.until, until)


class DeviceThread:
    """The thread that owns the device, its queue and its counters.

    Everything here may be called from any thread. The thread is a daemon: it never keeps a process
    alive that wants to end.
    """

    def __init__(
        self, *, places: int = 16, per_client: int | None = None, name: str = "lexiscope-device"
    ) -> None:
        """Make the thread without starting it.

        Args:
            places: how many jobs may wait, besides the one that runs.
            per_client: how many of them one client may hold, the running one included; None: all.
            name: the thread's name.
        """
        self.places = places
        self.per_client = per_client
        self.counters: dict[str, int] = dict.fromkeys(
            ("done", "refused", "dropped", "cancelled", "expired", "failed"), 0
        )
        """Jobs by how they ended. dropped: cancelled before they ran; cancelled: while they ran;
        expired: past their deadline, before or while they ran; failed: by any other exception.
        Background work is not among them."""
        self.steps = 0
        """Pieces of background work that ran, however they ended."""
        self._turn = threading.Condition()
        self._queue: deque[Job[Any]] = deque()
        self._background: deque[Job[Any]] = deque()
        self._running: Job[Any] | None = None
        self._closed = False
        self._beaten = time.monotonic()
        self._typical_s = 1.0
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    def close(self, timeout_s: float = 3.0) -> None:
        """Refuse new work, cancel what waits and what runs, and wait a while for the thread."""
        with self._turn:
            self._closed = True
            waiting = [*self._queue, *self._background]
            self._queue.clear()
            self._background.clear()
            running = self._running
            self._turn.notify_all()
        for job in waiting:
            self._finish_unrun(job, Cancelled("The server is shutting down."), "dropped")
        if running is not None:
            running.cancel()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def submit(
        self,
        work: Callable[[Check], T],
        *,
        deadline_s: float | None,
        client: str = "",
        label: str = "",
        background: bool = False,
    ) -> Job[T]:
        """Queue the work, or refuse at once.

        Args:
            work: called on the device thread with its check.
            deadline_s: seconds from now, waiting included, after which it is stopped.
            client: who asks, for the limit per client.
            label: what it is, for `running`.
            background: let it run only when no other work waits; it takes no place and counts
                for no client. Whoever submits it keeps it short, since work that comes meanwhile
                waits for its end.

        Returns:
            The job, whose `future` brings the result or the exception.

        Raises:
            QueueFull: every place is taken, or the client holds its share of them already.
        """
        job = Job(
            self, work, deadline_s=deadline_s, client=client, label=label, background=background
        )
        with self._turn:
            refusal = self._refusal(client, background)
            if refusal is not None:
                self.counters["refused"] += 1
                raise QueueFull(refusal, retry_after=self._retry_after())
            if self._idle:
                self._beat()  # an idle thread has no heartbeat to go by
            (self._background if background else self._queue).append(job)
            self._turn.notify()
        return job

    @property
    def waiting(self) -> int:
        """How many jobs wait, the running one and background work not counted."""
        return len(self._queue)

    @property
    def running(self) -> str | None:
        """The label of the job that runs now, or None."""
        job = self._running
        return None if job is None else job.label

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes work."""
        return self._thread.is_alive() and not self._closed

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the running work last called its check; 0 while nothing is to be done."""
        return 0.0 if self._idle else time.monotonic() - self._beaten

    @property
    def _idle(self) -> bool:
        return self._running is None and not self._queue and not self._background

    def _refusal(self, client: str, background: bool) -> str | None:
        if self._closed:
            return "The server is shutting down; try again in a moment."
        if background:
            return None
        if len(self._queue) >= self.places:
            return (
                f"The model is busy: {len(self._queue)} requests wait already and "
                f"{self.places} may; try again in a moment."
            )
        if self.per_client is not None:
            jobs = [*self._queue, *([self._running] if self._running else [])]
            held = sum(job.client == client and not job.background for job in jobs)
            if held >= self.per_client:
                return (
                    f"You have {held} requests under way already and may have "
                    f"{self.per_client}; wait for one of them to finish."
                )
        return None

    def _retry_after(self) -> int:
        return max(1, min(60, math.ceil(self._typical_s * (len(self._queue) + 1) / 2)))

    def _beat(self) -> None:
        self._beaten = time.monotonic()

    def _drop(self, job: Job[Any]) -> None:
        with self._turn:
            try:
                (self._background if job.background else self._queue).remove(job)
            except ValueError:
                return  # it runs, or ran: the flag is enough
        self._finish_unrun(job, Cancelled("The work was dropped: nobody waits for it."), "dropped")

    def _finish_unrun(self, job: Job[Any], error: Exception, counter: str) -> None:
        job._work = None
        self._count(counter, job.background)
        if job.future.set_running_or_notify_cancel():
            job.future.set_exception(error)

    def _loop(self) -> None:
        while True:
            with self._turn:
                while not (self._queue or self._background or self._closed):
                    self._turn.wait()
                if self._closed:
                    return
                self._running = (self._queue or self._background).popleft()
                self._beat()
            # In a function of its own, so that no local of this loop outlives the job.
            self._run_one()

    def _run_one(self) -> None:
        job = self._running
        assert job is not None
        assert job._work is not None
        work, job._work = job._work, None
        check, future, started = job._watch.check, job.future, time.monotonic()
        if not future.set_running_or_notify_cancel():
            self._ended("dropped", 0.0)
            return
        try:
            check()
            result = work(check)
        except BaseException as error:
            self._ended(_outcome(error), time.monotonic() - started)
            future.set_exception(error)
            # The error's traceback holds this frame: nothing here may hold the error's future, or
            # what failed (a copy of a model, say) would live until the next full collection.
            del future, job, work
        else:
            self._ended("done", time.monotonic() - started)
            future.set_result(result)

    def _ended(self, outcome: str, seconds: float) -> None:
        """Free the thread before the news is out: who reads the result must see it idle."""
        background = self._running is not None and self._running.background
        self._count(outcome, background)
        if background:
            self.steps += 1
        elif outcome == "done":
            self._typical_s += 0.2 * (seconds - self._typical_s)
        self._running = None

    def _count(self, outcome: str, background: bool) -> None:
        if background:
            return
        with self._turn:
            self.counters[outcome] += 1


def _outcome(error: BaseException) -> str:
    if isinstance(error, Cancelled):
        return "cancelled"
    if isinstance(error, DeadlineExceeded):
        return "expired"
    return "failed"
