"""Work that takes longer than a request: queued, followed, cancelled, remembered.

Work is a generator of `engine.progress.Steps`. Each lane runs one job at a time and lets the others
queue; clients take turns, and each may hold its share only. On the lane ``device`` every step is
one piece of background work of the device thread, so that whoever clicks meanwhile goes first; the
lane ``process`` is for work that other processes do.

A job is a row of the store from the moment it is taken. After a restart those that were under way
are ``interrupted`` and say how far they had come. What keeps checkpoints goes on from the newest
when it is started again; these are deleted when the job ends well, is cancelled or is forgotten.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar, cast

from anyio import to_thread
from fastapi import Depends, Request

from app.jobs.job import LANES, Job, JobsMark, JobView, LaneName, State, interrupted
from app.jobs.lane import Lane
from app.model.device import DeviceThread
from app.storage.store import JOB, Store, new_id, storage_error
from app.web.problems import NotFound, StorageError
from engine.checkpoints import KEEP_FREE, NOTHING, Checkpoints, sweep
from engine.errors import Cancelled, LexiscopeError, OptionError, QueueFull
from engine.progress import Progress, Steps

T = TypeVar("T")
Restart = Callable[[Request, Mapping[str, Any]], Awaitable[JobView]]
CHECKPOINTS = "checkpoints"
"""The folder of all jobs' checkpoints, in the store's scratch."""
FORGOTTEN_S = 30 * 86_400
"""Seconds after which the checkpoints of a job that nobody resumed are deleted."""
STEP_S = 600.0
"""Seconds that one step may take before the computing thread counts as hanging, where nothing else
is set: a step has nothing to call on the way, and a large model on a slow machine takes minutes for
some."""

_KEPT_EVERY_S = 5.0
_LOOK_S = 0.1
log = logging.getLogger("lexiscope")


@dataclass(frozen=True)
class _End:
    """A generator's result, since a `StopIteration` does not travel through a future."""

    value: Any


class Jobs:
    """All jobs of this server. Everything here may be called from any thread."""

    def __init__(
        self,
        device: DeviceThread,
        *,
        places: int = 8,
        per_client: Callable[[str], int | None] = lambda client: None,
        kept: int = 200,
        step_s: float = STEP_S,
    ) -> None:
        """Make it empty; `begin` brings the store.

        Args:
            device: the thread that owns the model.
            places: how many jobs may wait in a lane, besides the one that runs.
            per_client: how many jobs a client of this name may have waiting or running, in all
                lanes; None: as many as there are places.
            kept: how many finished jobs are remembered.
            step_s: seconds that one step may take before the device thread counts as hanging.
        """
        self._step_s = step_s
        self.places = places
        self._per_client = per_client
        self.kept = kept
        self.store: Store | None = None
        self.admit: Callable[[], None] = lambda: None
        """Asked under the lock before a job is taken; raises to refuse it."""
        self.kinds: dict[str, Restart] = {}
        """Kind → what starts such a job again from its `spec`, on the event loop."""
        self._device = device
        # Views are read on the event loop, so nobody writes to the disk under this lock.
        self._turn = threading.Condition(threading.RLock())
        self._writing = threading.Lock()  # of rows, so that the last written is the latest
        self._jobs: dict[str, Job] = {}
        self._lanes = {name: Lane(name) for name in LANES}
        self._here = threading.local()
        self._closing = False

    def begin(self, store: Store | None) -> None:
        """Read the rows of earlier jobs, mark what was under way as interrupted, start the lanes.

        Args:
            store: None: jobs are remembered until the server ends.
        """
        if store is not None:
            self.adopt(store)
        for lane in self._lanes.values():
            lane.thread = threading.Thread(
                target=self._loop, args=(lane,), name=f"lexiscope-jobs-{lane.name}", daemon=True
            )
            lane.thread.start()

    def adopt(self, store: Store) -> None:
        """Read the rows of earlier jobs, and keep those of all from now on in this store."""
        self.store = store
        with contextlib.suppress(OSError, StorageError):
            sweep(store.scratch(CHECKPOINTS), FORGOTTEN_S)
        earlier = {}
        for row in reversed(store.jobs()):
            job = earlier[row["id"]] = Job.of_row(row)
            if job.state in ("queued", "running"):
                self._interrupted(job)
        with self._turn:
            self._jobs = earlier | self._jobs
        self._prune()

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
            self._end(job, "interrupted", _unrun("The server was stopped", job))
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
        kept: Checkpoints = NOTHING,
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
            kept: the checkpoints that its steps keep, from which it goes on where there are some.

        Raises:
            QueueFull: the lane has no place left, the client has its share of them already, or the
                server is shutting down.
            StorageError: the disk is full or cannot be written.
        """
        held = self._lanes[lane]
        job = Job(
            id=new_id(), kind=kind, title=title, lane=lane, created=time.time(), href=href,
            key=key, client=client, spec=spec, make_steps=make_steps,
            save=cast("Callable[[Any], str | None]", save), kept=kept, resumes=kept.place,
            folder="" if kept.folder is None else kept.folder.name, accepted=False,
        )  # fmt: skip
        with self._turn:
            same = [held.running] if held.running is not None else []
            for other in [*same, *held.queue]:
                under_way = other.ended is None and not other.stop.is_set()
                if key and other.key == key and under_way:
                    return self._view(other)
            if self._closing:
                raise QueueFull("The server is shutting down; try again in a moment.")
            self.admit()
            if len(held.queue) >= self.places:
                raise QueueFull(
                    f"{len(held.queue)} jobs wait already and {self.places} may; wait for one of "
                    "them to end, or cancel one.",
                    retry_after=30,
                )
            share, own = self._per_client(client), self._held_by(client)
            if share is not None and own >= share:
                raise QueueFull(
                    f"You have {own} jobs under way already and may have {share}; wait for one of "
                    "them to end, or cancel one.",
                    retry_after=30,
                )
            # From here on it is seen, and runs once its row is written.
            self._jobs[job.id] = job
            held.queue.append(job)
        try:
            if self.store is not None:
                self.store.check_space()
                with self._writing:
                    self.store.put_job(job.row())
        except BaseException:
            with self._turn:
                self._jobs.pop(job.id, None)
                if job in held.queue:
                    held.queue.remove(job)
                self._turn.notify_all()
            raise
        with self._turn:
            job.accepted = True
            self._turn.notify_all()
            return self._view(job)

    def _held_by(self, client: str) -> int:
        """How many jobs of a client wait or run."""
        lanes = self._lanes.values()
        every = [job for lane in lanes for job in (lane.running, *lane.queue) if job is not None]
        return sum(job.client == client and job.ended is None for job in every)

    def when_idle(self, act: Callable[[], None]) -> bool:
        """Do this if no job waits or runs, so that none comes in meanwhile; whether it was done."""
        with self._turn:
            if any(job.state in ("queued", "running") for job in self._jobs.values()):
                return False
            if any(lane.running is not None for lane in self._lanes.values()):
                return False
            act()
            return True

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

        Every page asks, from the event loop: neither a lock nor the disk is touched.
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

    async def restart(self, request: Request, id_: str) -> JobView:
        """Start a job again that ended without a result; it goes on from its checkpoints.

        Raises:
            NotFound: no such job.
            OptionError: it did not end so, or is of a kind that is not started again from here.
        """
        with self._turn:
            job = self._known(id_)
            spec = job.spec
            if spec is None or not self._view(job).restartable:
                raise OptionError(
                    "Only a job that ended without a result can be started again, and only once."
                )
        if job.kind not in self.kinds:
            raise OptionError("This job is started again where it was asked for.")
        again = await self.kinds[job.kind](request, spec)
        await to_thread.run_sync(self.settle, id_)
        return again

    def settle(self, id_: str) -> None:
        """Say that a job that ended without a result was started again, as another; `NotFound`."""
        with self._turn:
            job = self._known(id_)
            job.spec = None
        self._keep(job)

    def list(self) -> tuple[JobView, ...]:
        """All that are remembered, the newest first."""
        with self._turn:
            return tuple(self._view(job) for job in reversed(self._jobs.values()))

    def cancel(self, id_: str) -> JobView:
        """Ask a job to stop: at once where it waits, after its step where it runs; `NotFound`."""
        waited = False
        with self._turn:
            job = self._known(id_)
            lane = self._lanes[cast(LaneName, job.lane)]
            if job.state == "running":
                job.unwanted = True
                job.stop.set()
            elif job.state == "queued" and job in lane.queue:
                lane.queue.remove(job)
                waited = True
            view = self._view(job)
        if waited:
            self._drop(job)
            self._end(job, "cancelled")
            return self.get(id_)
        if job.unwanted:
            job.kept.drop()  # before its steps are closed, which would keep where they are
        return view

    def forget(self, id_: str) -> None:
        """Forget a finished job, never what it saved; `NotFound`; one under way stays."""
        with self._turn:
            job = self._known(id_)
            if job.state in ("queued", "running"):
                return
            del self._jobs[id_]
        self._drop(job)
        if self.store is not None:
            self.store.forget_jobs([id_])

    @property
    def under_way(self) -> dict[str, int]:
        """How many jobs run and how many wait; never waits itself."""
        lanes = self._lanes.values()
        running = sum(lane.running is not None for lane in lanes)
        return {"running": running, "queued": sum(len(lane.queue) for lane in lanes)}

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
                lambda check: self._as_job(job, work),
                deadline_s=None,
                label="a job",
                background=True,
                patience_s=self._step_s,
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

    def _as_job(self, job: str | None, work: Callable[[], T]) -> T:
        """Do the work under the job's name, and leave the disk its reserve, on any thread."""
        name = JOB.set(job)
        free = KEEP_FREE.set(0 if self.store is None else self.store.reserve)
        try:
            return work()
        finally:
            JOB.reset(name)
            KEEP_FREE.reset(free)

    def _loop(self, lane: Lane) -> None:
        while True:
            with self._turn:
                while not (lane.queue and lane.turns[0].accepted) and not self._closing:
                    self._turn.wait()
                if self._closing:
                    return
                job = lane.running = lane.take()
                job.state = "running"
                job.started = time.time()
                job.phase = (time.monotonic(), 0)
            self._here.stop = job.stop
            try:
                self._as_job(job.id, partial(self._run, job))
            finally:
                with self._turn:
                    lane.running = None

    def _run(self, job: Job) -> None:
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
                job.resumes = job.kept.place
                self._end(job, "failed", problem)
        else:
            job.kept.drop()
            job.resumes = None
            self._end(job, "done")

    def _follow(self, job: Job, steps: Steps[T]) -> T:
        kept = time.monotonic()
        while True:
            if job.stop.is_set():
                raise Cancelled("The job was stopped.")
            step = _next(steps)
            if isinstance(step, _End):
                return cast(T, step.value)
            with self._turn:
                job.report(step)
            if time.monotonic() - kept > _KEPT_EVERY_S:
                self._keep(job)
                kept = time.monotonic()

    def _stopped(self, job: Job) -> None:
        if self._closing and not job.unwanted:
            job.resumes = job.kept.place
            self._end(job, "interrupted", interrupted("The server was stopped", job))
        else:
            job.kept.drop()
            job.resumes = None
            self._end(job, "cancelled")

    def _interrupted(self, job: Job) -> None:
        """Say at the start what became of a job that was under way when the server ended."""
        assert self.store is not None
        job.result = self.store.result_of(job.id)
        if job.result is not None:  # killed between saving and saying so
            job.state = "done"
        else:
            waited = job.state == "queued"
            if job.folder:
                job.resumes = Checkpoints(self.store.scratch(CHECKPOINTS) / job.folder).place
            job.problem = (
                _unrun("The server ended", job) if waited else interrupted("The server ended", job)
            )
            job.state = "interrupted"
            _log_interrupted(job)
        job.ended = job.ended or time.time()
        self._keep(job)

    def _end(self, job: Job, state: State, problem: str | None = None) -> None:
        with self._turn:
            job.problem = problem
            job.ran_s = job.run_s
            job.ended = time.time()
            job.make_steps = job.save = None
            job.state = state
        if state == "interrupted":
            _log_interrupted(job)
        self._keep(job)
        self._prune()

    def _keep(self, job: Job) -> None:
        """Write the row; a disk that is full must not end the job."""
        if self.store is None:
            return
        try:
            with self._writing:
                with self._turn:
                    row = job.row()
                self.store.put_job(row)
        except StorageError as error:
            log.error("the row of job %s could not be written: %s", job.id, error)
        except Exception:  # a row must never end the lane, which others wait for
            log.exception("the row of job %s could not be written", job.id)

    def _drop(self, job: Job) -> None:
        """Delete the checkpoints of a job that is over, unless another one goes on with them."""
        if not job.folder or self.store is None:
            return
        with self._turn:
            others = [one for one in self._jobs.values() if one is not job]
            if any(one.folder == job.folder and one.may_go_on for one in others):
                return
        Checkpoints(self.store.scratch(CHECKPOINTS) / job.folder).drop()

    def _prune(self) -> None:
        with self._turn:
            finished = [job.id for job in self._jobs.values() if job.ended is not None]
            old = finished[: max(0, len(finished) - self.kept)]
            for one in old:
                del self._jobs[one]
        if old and self.store is not None:
            with contextlib.suppress(StorageError):
                self.store.forget_jobs(old)

    def _known(self, id_: str) -> Job:
        job = self._jobs.get(id_)
        if job is None:
            raise NotFound("There is no job under this id; only the latest are remembered.")
        return job

    def _view(self, job: Job) -> JobView:
        ahead: int | None = None
        if job.state == "queued":
            lane = self._lanes[cast(LaneName, job.lane)]
            turns = lane.turns
            ahead = turns.index(job) + (lane.running is not None) if job in turns else 0
        return job.view(ahead)

    def _problem(self, job: Job, error: BaseException) -> str:
        if isinstance(error, LexiscopeError | StorageError):
            return str(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return str(storage_error(error))
        log.error("job %s failed", job.id, exc_info=error)
        if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
            return "There was not enough memory for this; ask for fewer rows or a smaller batch."
        return f"Something went wrong on the server; its log says what, under job {job.id}."


async def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


JobsDep = Annotated[Jobs, Depends(_jobs)]
"""The long work of this server."""


def _next(steps: Steps[T]) -> Progress | _End:
    try:
        return next(steps)
    except StopIteration as end:
        return _End(end.value)


def _unrun(what: str, job: Job) -> str:
    if job.resumes is not None:
        return f"{what} before this ran; resumed, it goes on from {job.resumes}."
    return f"{what} before this ran; start it again."


def _log_interrupted(job: Job) -> None:
    # Titles and notes hold the names of what people uploaded, which are not for the log.
    where = f"at {job.progress.done} of {job.progress.total}"
    log.warning("%s %s was interrupted %s", job.kind, job.id, where)
