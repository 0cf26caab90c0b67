"""Work that takes longer than a request: queued, followed, cancelled, remembered.

Work is a generator of `engine.progress.Steps`. Each lane runs one job at a time and lets the others
queue. On the lane ``device`` every step is one piece of background work of the device thread, so
that whoever clicks meanwhile goes first; the lane ``process`` is for work that other processes do.

A job is a row of the store from the moment it is taken. After a restart those that were under way
are ``interrupted`` and say how far they had come; what they had not saved is gone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeVar, cast

from anyio import to_thread

from app.store import JOB, NotFound, StorageError, Store, new_id, storage_error
from engine.errors import Cancelled, LexiscopeError, QueueFull
from engine.progress import Progress, Steps
from engine.worker import DeviceThread

T = TypeVar("T")
State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
LaneName = Literal["device", "process"]
LANES: tuple[LaneName, ...] = ("device", "process")
POINTS = 1000
"""Of the curve that a job keeps; a longer one is thinned evenly."""

_KEPT_EVERY_S = 5.0
_LOOK_S = 0.1
log = logging.getLogger("lexiscope")


@dataclass(frozen=True)
class JobView:
    """A job as it stands at one moment."""

    id: str
    kind: str
    title: str
    lane: str
    state: State
    stopping: bool
    """Whether it was asked to stop and has not stopped yet."""
    note: str
    """What it is doing, for people."""
    done: int
    total: int
    share: float | None
    """The part that is done, in [0, 1], of what the note names; None where it is not known."""
    values: Mapping[str, float]
    """The latest figures."""
    history: tuple[Mapping[str, float], ...]
    """Every report that had figures, with ``done``; thinned evenly to `POINTS`."""
    seconds_left: float | None
    """Of what the note names, at the pace so far."""
    seconds_run: float | None
    ahead: int | None
    """Jobs that come before it, the running one included; None once it runs."""
    problem: str | None
    """One sentence: why it failed or was interrupted."""
    result: str | None
    """The id of what it saved."""
    result_href: str | None
    """The path of its result, without the root path."""
    restartable: bool
    """Whether it ended without a result and can be started again as it was."""
    created: str
    started: str | None
    ended: str | None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in ("queued", "running")

    def to_dict(self, *, curve: bool = True) -> dict[str, object]:
        """As it stands in the JSON; in lists without the curve."""
        plain: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self)}
        if not curve:
            del plain["history"]
        return {**plain, "finished": self.finished}


@dataclass(frozen=True)
class JobsMark:
    """What stands of the jobs in the head of every page."""

    text: str
    """``1 running``."""
    level: Literal["wait", "note"]


@dataclass
class _Job:
    """A job as its lane changes it; read and written under the jobs' lock."""

    id: str
    kind: str
    title: str
    lane: str
    created: float
    href: str = ""
    key: str = ""
    client: str = ""
    spec: Mapping[str, Any] | None = None
    make_steps: Callable[[], Steps[Any]] | None = None
    save: Callable[[Any], str | None] | None = None
    state: State = "queued"
    progress: Progress = field(default_factory=lambda: Progress(0, 0))
    history: list[dict[str, float]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    reports: int = 0
    every: int = 1
    phase: tuple[float, int] = (0.0, 0)
    """When what is under way began, on the monotonic clock, and at which step."""
    started: float | None = None
    ended: float | None = None
    problem: str | None = None
    result: str | None = None

    def row(self) -> dict[str, Any]:
        """What the store keeps."""
        return {
            "id": self.id,
            "kind": self.kind,
            "title": self.title,
            "lane": self.lane,
            "created": self.created,
            "href": self.href,
            "spec": self.spec,
            "state": self.state,
            "done": self.progress.done,
            "total": self.progress.total,
            "note": self.progress.note,
            "values": {name: float(x) for name, x in self.progress.values.items()},
            "history": list(self.history),
            "started": self.started,
            "ended": self.ended,
            "problem": self.problem,
            "result": self.result,
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> _Job:
        """From what the store kept."""
        names = ("id", "kind", "title", "lane", "created", "href", "spec", "state")
        job = cls(**{name: row[name] for name in names})
        job.progress = Progress(row["done"], row["total"], row["note"], row["values"])
        job.history = [dict(one) for one in row["history"]]
        for name in ("started", "ended", "problem", "result"):
            setattr(job, name, row[name])
        return job


class _Lane:
    """One job that runs, and those that wait."""

    def __init__(self, name: LaneName) -> None:
        self.name = name
        self.queue: deque[_Job] = deque()
        self.running: _Job | None = None
        self.thread: threading.Thread | None = None


@dataclass(frozen=True)
class _End:
    """A generator's result, since a `StopIteration` does not travel through a future."""

    value: Any


class Jobs:
    """All jobs of this server. Everything here may be called from any thread."""

    def __init__(self, device: DeviceThread, *, places: int = 8, kept: int = 200) -> None:
        """Make it empty; `begin` brings the store.

        Args:
            device: the thread that owns the model.
            places: how many jobs may wait in a lane, besides the one that runs.
            kept: how many finished jobs are remembered.
        """
        self.places = places
        self.kept = kept
        self.store: Store | None = None
        self._device = device
        self._turn = threading.Condition(threading.RLock())
        self._jobs: dict[str, _Job] = {}
        self._lanes = {name: _Lane(name) for name in LANES}
        self._here = threading.local()
        self._closing = False

    def begin(self, store: Store | None) -> None:
        """Read the rows of earlier jobs, mark what was under way as interrupted, start the lanes.

        Args:
            store: None: jobs are remembered until the server ends.
        """
        self.store = store
        for row in reversed(store.jobs() if store is not None else ()):
            job = _Job.of_row(row)
            if job.state in ("queued", "running"):
                self._interrupted(job)
            self._jobs[job.id] = job
        self._prune()
        for lane in self._lanes.values():
            lane.thread = threading.Thread(
                target=self._loop, args=(lane,), name=f"lexiscope-jobs-{lane.name}", daemon=True
            )
            lane.thread.start()

    def close(self, timeout_s: float = 4.0) -> None:
        """Stop what runs after its step, and say in the rows that it was interrupted."""
        with self._turn:
            self._closing = True
            waiting = [job for lane in self._lanes.values() for job in lane.queue]
            for lane in self._lanes.values():
                lane.queue.clear()
                if lane.running is not None:
                    lane.running.stop.set()
            self._turn.notify_all()
        for job in waiting:
            self._end(job, "interrupted", "The server was stopped before this ran; start it again.")
        until = time.monotonic() + timeout_s
        for lane in self._lanes.values():
            if lane.thread is not None:
                lane.thread.join(max(0.0, until - time.monotonic()))

    def submit(
        self,
        kind: str,
        title: str,
        make_steps: Callable[[], Steps[T]],
        save: Callable[[T], str | None],
        *,
        lane: LaneName = "device",
        client: str = "",
        href: str = "",
        spec: Mapping[str, Any] | None = None,
        key: str = "",
    ) -> JobView:
        """Queue a job; it writes a row, so call it beside the event loop (or use `start`).

        Args:
            kind: a word for what it is, such as ``calibration``.
            title: one line for people.
            make_steps: makes the generator, on the lane's thread; on the lane ``device`` this and
                every step run on the device thread.
            save: keeps the result and returns its id, or None; called once, after the last step.
                It writes whole or raises.
            lane: who runs it.
            client: who asked.
            href: the path of the result; ``{result}`` in it becomes the result's id.
            spec: plain values from which it can be started again after an interruption.
            key: a job under way with this key is returned instead of a second one; empty: none.

        Raises:
            QueueFull: the lane has no place left, or the server is shutting down.
            StorageError: the disk is full or cannot be written.
        """
        held = self._lanes[lane]
        job = _Job(
            id=new_id(), kind=kind, title=title, lane=lane, created=time.time(), href=href,
            key=key, client=client, spec=spec, make_steps=make_steps,
            save=cast("Callable[[Any], str | None]", save),
        )  # fmt: skip
        with self._turn:
            same = [held.running] if held.running is not None else []
            for other in [*same, *held.queue]:
                under_way = other.ended is None and not other.stop.is_set()
                if key and other.key == key and under_way:
                    return self._view(other)
            if self._closing:
                raise QueueFull("The server is shutting down; try again in a moment.")
            if len(held.queue) >= self.places:
                raise QueueFull(
                    f"{len(held.queue)} jobs wait already and {self.places} may; wait for one of "
                    "them to end, or cancel one.",
                    retry_after=30,
                )
            if self.store is not None:
                self.store.check_space()
                self.store.put_job(job.row())
            self._jobs[job.id] = job
            held.queue.append(job)
            self._turn.notify_all()
            return self._view(job)

    async def start(
        self,
        kind: str,
        title: str,
        make_steps: Callable[[], Steps[T]],
        save: Callable[[T], str | None],
        **options: Any,
    ) -> JobView:
        """`submit` from the event loop."""
        return await to_thread.run_sync(
            partial(self.submit, kind, title, make_steps, save, **options)
        )

    def get(self, id_: str) -> JobView:
        """One job; `NotFound` where there is none."""
        with self._turn:
            return self._view(self._known(id_))

    @property
    def mark(self) -> JobsMark | None:
        """What is under way, or was interrupted and can be run again; None where nothing is.

        Every page asks, from the event loop: neither the lock, which is held while a row is
        written, nor the disk is touched.
        """
        jobs = list(self._jobs.values())
        states = [job.state for job in jobs]
        running, waiting = states.count("running"), states.count("queued")
        if running:
            return JobsMark(f"{running} running", "wait")
        if waiting:
            return JobsMark(f"{waiting} waiting", "wait")
        broken = sum(job.state == "interrupted" and job.spec is not None for job in jobs)
        return JobsMark(f"{broken} interrupted", "note") if broken else None

    def settle(self, id_: str) -> None:
        """Say that a job that ended without a result was started again, as another; `NotFound`."""
        with self._turn:
            job = self._known(id_)
            job.spec = None
        self._keep(job)

    def spec(self, id_: str) -> tuple[str, Mapping[str, Any] | None]:
        """The kind of a job and from what it can be started again; `NotFound`."""
        with self._turn:
            job = self._known(id_)
            return job.kind, job.spec

    def list(self) -> tuple[JobView, ...]:
        """All that are remembered, the newest first."""
        with self._turn:
            return tuple(self._view(job) for job in reversed(self._jobs.values()))

    def cancel(self, id_: str) -> JobView:
        """Ask a job to stop: at once where it waits, after its step where it runs; `NotFound`."""
        with self._turn:
            job = self._known(id_)
            lane = self._lanes[cast(LaneName, job.lane)]
            if job.state == "running":
                job.stop.set()
                return self._view(job)
            if job.state != "queued":
                return self._view(job)
            lane.queue.remove(job)
        self._end(job, "cancelled")
        return self.get(id_)

    def forget(self, id_: str) -> None:
        """Forget a finished job, never what it saved; `NotFound`; one under way stays."""
        with self._turn:
            job = self._known(id_)
            if job.state in ("queued", "running"):
                return
            del self._jobs[id_]
        if self.store is not None:
            self.store.forget_jobs([id_])

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs there are in each state."""
        with self._turn:
            states = [job.state for job in self._jobs.values()]
        return {state: states.count(state) for state in State.__args__}  # type: ignore[attr-defined]

    def on_device(self, make_steps: Callable[[], Steps[T]]) -> Steps[T]:
        """The same steps, each done on the device thread as background work.

        For generators on other lanes: ``points = yield from jobs.on_device(make)``. It waits where
        others want the device, and stops waiting when its job is asked to stop.
        """
        stop: threading.Event | None = getattr(self._here, "stop", None)
        steps = self._on_device(make_steps, stop)
        try:
            while True:
                step = self._on_device(partial(_next, steps), stop)
                if isinstance(step, _End):
                    return cast(T, step.value)
                yield step
        finally:
            # Also where the job was cancelled: the generator's own clean-up belongs there as well.
            self._on_device(steps.close, None)

    # How it is done

    def _on_device(self, work: Callable[[], T], stop: threading.Event | None) -> T:
        job = JOB.get()
        try:
            asked = self._device.submit(
                lambda check: _as_job(job, work), deadline_s=None, label="a job", background=True
            )
        except QueueFull:  # the server is shutting down
            if stop is None:
                return work()
            raise Cancelled("The server is shutting down.") from None
        while True:
            wait([asked.future], timeout=_LOOK_S)
            if asked.future.done():
                try:
                    return asked.future.result()
                finally:
                    # An error's traceback holds this frame, which must not hold the error.
                    del asked
            if stop is not None and stop.is_set():
                asked.cancel()  # gives the place free where the step has not begun

    def _loop(self, lane: _Lane) -> None:
        while True:
            with self._turn:
                while not lane.queue and not self._closing:
                    self._turn.wait()
                if self._closing:
                    return
                job = lane.running = lane.queue.popleft()
                job.state = "running"
                job.started = time.time()
                job.phase = (time.monotonic(), 0)
            self._here.stop = job.stop
            token = JOB.set(job.id)
            try:
                self._run(job)
            finally:
                JOB.reset(token)
                with self._turn:
                    lane.running = None

    def _run(self, job: _Job) -> None:
        assert job.make_steps is not None
        assert job.save is not None
        make, save = job.make_steps, job.save
        job.make_steps = job.save = None  # what they hold is let go with this call
        self._keep(job)
        steps: Steps[Any] | None = None
        try:
            steps = self.on_device(make) if job.lane == "device" else make()
            result = self._follow(job, steps)
            if job.stop.is_set():
                raise Cancelled("The job was stopped.")
            saving = partial(save, result)
            job.result = self._on_device(saving, None) if job.lane == "device" else saving()
        except BaseException as error:
            with contextlib.suppress(Exception):
                if steps is not None:
                    steps.close()
            if job.stop.is_set() and isinstance(error, Cancelled):
                self._stopped(job)
            else:
                problem = self._problem(job, error)
                self._end(job, "failed", problem)
        else:
            self._end(job, "done")

    def _follow(self, job: _Job, steps: Steps[T]) -> T:
        kept = time.monotonic()
        while True:
            if job.stop.is_set():
                raise Cancelled("The job was stopped.")
            step = _next(steps)
            if isinstance(step, _End):
                return cast(T, step.value)
            with self._turn:
                self._report(job, step)
            if time.monotonic() - kept > _KEPT_EVERY_S:
                self._keep(job)
                kept = time.monotonic()

    def _report(self, job: _Job, step: Progress) -> None:
        if step.total != job.progress.total or step.done < job.progress.done:
            job.phase = (time.monotonic(), step.done)
        job.progress = step
        if not step.values:
            return
        if job.reports % job.every == 0:
            job.history.append(
                {"done": step.done, **{name: float(x) for name, x in step.values.items()}}
            )
            if len(job.history) > POINTS:
                job.history = job.history[::2]
                job.every *= 2
        job.reports += 1

    def _stopped(self, job: _Job) -> None:
        if self._closing:
            self._end(job, "interrupted", _where("The server was stopped", job))
        else:
            self._end(job, "cancelled")

    def _interrupted(self, job: _Job) -> None:
        """Say at the start what became of a job that was under way when the server ended."""
        assert self.store is not None
        job.result = self.store.result_of(job.id)
        if job.result is not None:  # killed between saving and saying so
            job.state = "done"
        else:
            waited = job.state == "queued"
            job.problem = (
                "The server ended before this ran; start it again."
                if waited
                else _where("The server ended", job)
            )
            job.state = "interrupted"
            _log_interrupted(job)
        job.ended = job.ended or time.time()
        self._keep(job)

    def _end(self, job: _Job, state: State, problem: str | None = None) -> None:
        with self._turn:
            job.problem = problem
            job.ended = time.time()
            job.make_steps = job.save = None
            job.state = state
            row = job.row()
        if state == "interrupted":
            _log_interrupted(job)
        self._keep(job, row)
        self._prune()

    def _keep(self, job: _Job, row: dict[str, Any] | None = None) -> None:
        """Write the row; a disk that is full must not end the job."""
        if self.store is None:
            return
        if row is None:
            with self._turn:
                row = job.row()
        try:
            self.store.put_job(row)
        except StorageError as error:
            log.error("the row of job %s could not be written: %s", job.id, error)
        except Exception:  # a row must never end the lane, which others wait for
            log.exception("the row of job %s could not be written", job.id)

    def _prune(self) -> None:
        with self._turn:
            finished = [job.id for job in self._jobs.values() if job.ended is not None]
            old = finished[: max(0, len(finished) - self.kept)]
            for one in old:
                del self._jobs[one]
        if old and self.store is not None:
            with contextlib.suppress(StorageError):
                self.store.forget_jobs(old)

    def _known(self, id_: str) -> _Job:
        job = self._jobs.get(id_)
        if job is None:
            raise NotFound("There is no job under this id; only the latest are remembered.")
        return job

    def _problem(self, job: _Job, error: BaseException) -> str:
        if isinstance(error, LexiscopeError | StorageError):
            return str(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return str(storage_error(error))
        log.error("job %s failed", job.id, exc_info=error)
        if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
            return "There was not enough memory for this; ask for fewer rows or a smaller batch."
        return f"Something went wrong on the server; its log says what, under job {job.id}."

    def _view(self, job: _Job) -> JobView:
        step, state = job.progress, job.state
        ahead: int | None = None
        if state == "queued":
            lane = self._lanes[cast(LaneName, job.lane)]
            ahead = lane.queue.index(job) + (lane.running is not None) if job in lane.queue else 0
        left = run = None
        if job.started is not None:
            run = (job.ended or time.time()) - job.started
        since, first = job.phase
        if state == "running" and step.total > 0 and step.done > first:
            pace = (time.monotonic() - since) / (step.done - first)
            left = pace * max(0, step.total - step.done)
        href = None
        if state == "done" and job.href:
            href = job.href.replace("{result}", job.result or "")
        ended_without = state in ("failed", "cancelled", "interrupted")
        return JobView(
            id=job.id,
            kind=job.kind,
            title=job.title,
            lane=job.lane,
            state=state,
            stopping=state == "running" and job.stop.is_set(),
            note=step.note,
            done=step.done,
            total=step.total,
            share=1.0 if state == "done" else step.share,
            values=dict(step.values),
            history=tuple(job.history),
            seconds_left=left,
            seconds_run=run,
            ahead=ahead,
            problem=job.problem,
            result=job.result,
            result_href=href,
            restartable=ended_without and job.spec is not None,
            created=iso(job.created),
            started=None if job.started is None else iso(job.started),
            ended=None if job.ended is None else iso(job.ended),
        )


def _next(steps: Steps[T]) -> Progress | _End:
    try:
        return next(steps)
    except StopIteration as end:
        return _End(end.value)


def _as_job(job: str | None, work: Callable[[], T]) -> T:
    """Do the work under the job's name, on whatever thread this is."""
    token = JOB.set(job)
    try:
        return work()
    finally:
        JOB.reset(token)


def _log_interrupted(job: _Job) -> None:
    log.warning("%r (job %s) was interrupted: %s", job.title, job.id, job.problem)


def _where(what: str, job: _Job) -> str:
    step = job.progress
    note = f" ({step.note})" if step.note else ""
    place = f" at {step.done} of {step.total}{note}" if step.total else note
    place = place or " at its beginning"
    return f"{what} while this ran,{place}; nothing of it was saved, so start it again."


def iso(seconds: float) -> str:
    """A time since 1970 as people and JSON read it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
