"""The one thread that may touch torch, behind a bounded queue.

Knows nothing about models, the web or asyncio. Work is a function that takes a `Check` and calls
it between layers and vocabulary chunks; the check raises `Cancelled` when nobody waits any more and
`DeadlineExceeded` when the time is up, so that the computing stops and not only the answer.

One thread, not a pool: nothing else touches the model, so no lock is needed, memory is one
forward's peak, and the same work gives the same numbers.

Clients take turns: each has a line of its own, first in, first out, and every round serves one job
of each line, whoever was served longest ago first. So a client with one request waits for at most
one job of every other client, however many those hold. Where every place is taken, a client that
holds fewer gets one from the end of the longest line (as in stochastic fairness queueing, McKenney
1990).

Long work comes in steps of at most a fraction of a second, each submitted as background work: it
runs only when nobody waits for an answer, and takes no place in the queue.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, Literal, TypeVar

from cachetools import LRUCache

from engine.errors import Cancelled, DeadlineExceeded, QueueFull
from engine.progress import Check

T = TypeVar("T")
Kind = Literal["turn", "first", "background"]

_REMEMBERED = 1024
"""Clients whose last turn is known; one that was forgotten counts as new, which is no harm."""


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
        kind: Kind = "turn",
        patience_s: float | None = 0.0,
    ) -> None:
        self.future: Future[T] = Future()
        """Where the result or the exception arrives; it holds the only reference to either."""
        self.client = client
        self.label = label
        self.kind = kind
        self.patience_s = math.inf if patience_s is None else patience_s
        self.waited_s: float | None = None
        """Seconds from its submission until it ran; None while it has not run."""
        self._submitted = time.monotonic()
        self._owner = owner
        self._work: Callable[[Check], T] | None = work
        self._watch = _Watch(owner._beat, deadline_s)

    @property
    def queued_s(self) -> float:
        """Seconds that it has waited for its turn so far, or did."""
        return time.monotonic() - self._submitted if self.waited_s is None else self.waited_s

    def cancel(self) -> None:
        """Say that nobody waits: a queued job gives its place free, a running one stops soon."""
        self._watch.cancelled = True
        self._owner._drop(self)

    def extend(self, deadline_s: float | None) -> None:
        """Allow so many seconds from now, if that is later than what was allowed before."""
        until = math.inf if deadline_s is None else time.monotonic() + deadline_s
        self._watch.until = max(self._watch.until, until)


class _Line:
    """The jobs of one client that wait, and the round in which the first of them is served."""

    def __init__(self, round_: int) -> None:
        self.jobs: deque[Job[Any]] = deque()
        self.round = round_


class DeviceThread:
    """The thread that owns the device, its queue and its counters.

    Everything here may be called from any thread. The thread is a daemon: it never keeps a process
    alive that wants to end.
    """

    def __init__(
        self,
        *,
        places: int = 16,
        per_client: int | Callable[[str], int | None] | None = None,
        name: str = "lexiscope-device",
    ) -> None:
        """Make the thread without starting it.

        Args:
            places: how many jobs may wait, besides the one that runs.
            per_client: how many of them one client may hold, the running one included: a number
                for everybody, or a function of the client's name; None: all.
            name: the thread's name.
        """
        self.places = places
        self._per_client = per_client
        self.counters: dict[str, int] = dict.fromkeys(
            ("done", "refused", "dropped", "cancelled", "expired", "failed"), 0
        )
        """Jobs by how they ended. dropped: cancelled before they ran; cancelled: while they ran;
        expired: past their deadline, before or while they ran; failed: by any other exception.
        Background work and what the owner does first are not among them."""
        self.steps = 0
        """Pieces of background work that ran, however they ended."""
        self._turn = threading.Condition()
        self._lines: dict[str, _Line] = {}
        self._waiting = 0
        self._reserved: Counter[str] = Counter()
        """Places by client that work in background steps holds."""
        self._round = 0
        """Of the latest job that took its turn; it never falls."""
        self._served: LRUCache[str, int] = LRUCache(_REMEMBERED)
        self._turns = 0
        self._first: deque[Job[Any]] = deque()
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
            lines = [job for line in self._lines.values() for job in line.jobs]
            waiting = [*self._first, *lines, *self._background]
            self._lines.clear()
            self._waiting = 0
            self._first.clear()
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
        first: bool = False,
        patience_s: float | None = 0.0,
    ) -> Job[T]:
        """Queue the work, or refuse at once.

        Args:
            work: called on the device thread with its check.
            deadline_s: seconds from now, waiting included, after which it is stopped.
            client: who asks, for the turns and the limit per client.
            label: what it is, for `running`.
            background: let it run only when no other work waits; it takes no place and counts
                for no client. Whoever submits it keeps it short, since work that comes meanwhile
                waits for its end.
            first: let it run before all that waits; it takes no place and counts for no client.
                For what the owner of the thread does, such as changing the model.
            patience_s: seconds that it may go without calling its check before
                `heartbeat_age_s` begins to count; None: as long as it takes.

        Returns:
            The job, whose `future` brings the result or the exception.

        Raises:
            QueueFull: every place is taken, or the client holds its share of them already.
        """
        kind: Kind = "first" if first else "background" if background else "turn"
        job = Job(
            self, work, deadline_s=deadline_s, client=client, label=label, kind=kind,
            patience_s=patience_s,
        )  # fmt: skip
        given_up: Job[Any] | None = None
        with self._turn:
            refusal = self._refusal(client, kind)
            if refusal is None and kind == "turn" and self._full:
                given_up = self._give_up_for(client)
                if given_up is None:
                    refusal = self._busy
            self._refuse(refusal)
            if self._idle:
                self._beat()  # an idle thread has no heartbeat to go by
            self._put(job)
            again = self._retry_after()
            self._turn.notify()
        if given_up is not None:
            sentence = (
                "The model is busy, and this request gave its place up to a client that had none; "
                "try again in a moment."
            )
            self._finish_unrun(given_up, QueueFull(sentence, retry_after=again), "refused")
        return job

    def reserve(self, client: str = "") -> Callable[[], None]:
        """Take a place for work that will come as many background steps, one after the other.

        Args:
            client: who asks, for the limit per client.

        Returns:
            What gives the place back; to be called once.

        Raises:
            QueueFull: every place is taken, or the client holds its share of them already.
        """
        with self._turn:
            self._refuse(self._refusal(client, "turn") or (self._busy if self._full else None))
            self._reserved[client] += 1

        def release() -> None:
            with self._turn:
                self._reserved -= Counter((client,))

        return release

    @property
    def waiting(self) -> int:
        """How many jobs wait, the running one and background work not counted."""
        return self._waiting

    def ahead_of(self, client: str) -> int | None:
        """How many pieces of work come before the next one of a client, the running one included;
        None where nothing of it waits. Background work is none: it lets others go first."""
        with self._turn:
            if client not in self._lines:
                return None
            keys = {  # of equal ones the line that began first is served, as in `_take`
                name: (line.round, self._served.get(name, 0), i)
                for i, (name, line) in enumerate(self._lines.items())
            }
            mine = keys[client]
            before = sum(
                (keys[name][0] + place, *keys[name][1:]) < mine
                for name, line in self._lines.items()
                for place in range(len(line.jobs))
            )
            running = self._running is not None and self._running.kind != "background"
            return before + len(self._first) + running

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
        """Seconds since the running work last called its check, beyond the patience it was given;
        0 while nothing is to be done."""
        if self._idle:
            return 0.0
        running = self._running
        patience = 0.0 if running is None else running.patience_s
        return max(0.0, time.monotonic() - self._beaten - patience)

    def held_by(self, client: str) -> int:
        """How many jobs of a client wait or run, of background work that for which a place is
        reserved."""
        line, running = self._lines.get(client), self._running
        runs = running is not None and running.kind == "turn" and running.client == client
        return (len(line.jobs) if line is not None else 0) + runs + self._reserved[client]

    @property
    def _idle(self) -> bool:
        waits = self._waiting or self._first or self._background
        return self._running is None and not waits

    @property
    def _taken(self) -> int:
        return self._waiting + self._reserved.total()

    @property
    def _full(self) -> bool:
        return self._taken >= self.places

    @property
    def _busy(self) -> str:
        return (
            f"The model is busy: {self._taken} requests wait already and "
            f"{self.places} may; try again in a moment."
        )

    def _refuse(self, refusal: str | None) -> None:
        if refusal is not None:
            self.counters["refused"] += 1
            raise QueueFull(refusal, retry_after=self._retry_after())

    def _refusal(self, client: str, kind: Kind) -> str | None:
        if self._closed:
            return "The server is shutting down; try again in a moment."
        if kind != "turn":
            return None
        limit = self._per_client(client) if callable(self._per_client) else self._per_client
        if limit is not None:
            held = self.held_by(client)
            if held >= limit:
                return (
                    f"You have {held} requests under way already and may have "
                    f"{limit}; wait for one of them to finish."
                )
        return None

    def _give_up_for(self, client: str) -> Job[Any] | None:
        """The newest job of the longest line, taken out for a client whose line is shorter by two
        at least; None where there is none, or the exchange would only turn things round."""
        longest = max(self._lines.values(), key=lambda line: len(line.jobs), default=None)
        own = self._lines.get(client)
        held = len(own.jobs) if own is not None else 0
        if longest is None or len(longest.jobs) < held + 2:
            return None
        self._waiting -= 1
        return longest.jobs.pop()  # one is left at least

    def _put(self, job: Job[Any]) -> None:
        if job.kind != "turn":
            (self._first if job.kind == "first" else self._background).append(job)
            return
        line = self._lines.get(job.client)
        if line is None:
            # The next round and not this one, or a stream of new clients would never let it end.
            line = self._lines[job.client] = _Line(self._round + 1)
        line.jobs.append(job)
        self._waiting += 1

    def _take(self) -> Job[Any]:
        """The job whose turn it is."""
        if self._first:
            return self._first.popleft()
        if not self._lines:
            return self._background.popleft()
        client, line = min(
            self._lines.items(), key=lambda one: (one[1].round, self._served.get(one[0], 0))
        )
        job = line.jobs.popleft()
        self._waiting -= 1
        self._round = max(self._round, line.round)
        line.round = self._round + 1
        if not line.jobs:
            del self._lines[client]
        self._turns += 1
        self._served[client] = self._turns
        return job

    def _retry_after(self) -> int:
        return max(1, min(60, math.ceil(self._typical_s * (self._taken + 1) / 2)))

    def _beat(self) -> None:
        self._beaten = time.monotonic()

    def _drop(self, job: Job[Any]) -> None:
        with self._turn:
            line = self._lines.get(job.client) if job.kind == "turn" else None
            jobs = self._background if job.kind == "background" else self._first
            if job.kind == "turn":
                jobs = line.jobs if line is not None else deque()
            try:
                jobs.remove(job)
            except ValueError:
                return  # it runs, or ran: the flag is enough
            if line is not None:
                self._waiting -= 1
                if not line.jobs:
                    del self._lines[job.client]
        self._finish_unrun(job, Cancelled("The work was dropped: nobody waits for it."), "dropped")

    def _finish_unrun(self, job: Job[Any], error: Exception, counter: str) -> None:
        job._work = None
        self._count(counter, job.kind)
        if job.future.set_running_or_notify_cancel():
            job.future.set_exception(error)

    def _loop(self) -> None:
        while True:
            with self._turn:
                while not (self._waiting or self._first or self._background or self._closed):
                    self._turn.wait()
                if self._closed:
                    return
                self._running = self._take()
                self._beat()
            # In a function of its own, so that no local of this loop outlives the job.
            self._run_one()

    def _run_one(self) -> None:
        job = self._running
        assert job is not None
        assert job._work is not None
        work, job._work = job._work, None
        check, future, started = job._watch.check, job.future, time.monotonic()
        job.waited_s = started - job._submitted
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
        kind: Kind = "turn" if self._running is None else self._running.kind
        self._count(outcome, kind)
        if kind == "background":
            self.steps += 1
        elif kind == "turn" and outcome == "done":
            self._typical_s += 0.2 * (seconds - self._typical_s)
        self._running = None

    def _count(self, outcome: str, kind: Kind) -> None:
        if kind != "turn":
            return
        with self._turn:
            self.counters[outcome] += 1


def _outcome(error: BaseException) -> str:
    if isinstance(error, Cancelled):
        return "cancelled"
    if isinstance(error, DeadlineExceeded):
        return "expired"
    return "failed"
