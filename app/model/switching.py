"""Which model is open, and how another one is opened while people read.

Another model is loaded on a thread of its own; the open one answers meanwhile. Then one piece of
work on the device thread puts the new one in its place, between two answers, and lets the old one
go. Where the memory holds one model only (`one_model_at_a_time`), the old one goes first, and is
loaded again if the new one fails. One switch at a time, and none while jobs wait or run, since a
job holds its model.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Literal, TypeVar

from anyio import to_thread

from app.model.catalogue import Catalogue, Entry, catalogue_of
from app.model.device import DeviceThread
from app.model.loading import (
    WAIT_S,
    FailedOpening,
    Load,
    Opening,
    await_turn,
    for_people,
    log_failed,
    no_thread,
    on_device,
)
from app.model.open_model import Opened, facts_of, is_pinned, pin_of
from app.model.second import Second
from app.settings import Settings
from app.web.problems import Conflict, ModelChanged, NotFound, NotReady
from engine import LatentSpace
from engine.cost import give_memory_back
from engine.errors import Cancelled, QueueFull
from engine.progress import Check

T = TypeVar("T")
State = Literal["loading", "ready", "failed"]
log = logging.getLogger("lexiscope")


class Models:
    """The open model, the list of those that may be opened, and the way from one to another.

    What it says may be asked for on any thread. The space itself is for the device thread.
    """

    def __init__(
        self,
        settings: Settings,
        device: DeviceThread,
        load: Load,
        space: LatentSpace | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        """Know what may be opened; nothing is loaded yet.

        Args:
            settings: the app's settings.
            device: the thread that will own the model.
            load: loads one; called on a thread of its own.
            space: a ready space for the start; None: the settings' model is loaded.
            threads: of the device thread's computing; None: as they are. A ready space leaves
                them as they are.

        Raises:
            CatalogueError: the settings' list of models cannot be used.
        """
        self.catalogue: Catalogue = catalogue_of(settings, space.model.name if space else None)
        self.opening: Opening | None = None
        self.failed: FailedOpening | None = None
        self.failure: str | None = None
        """One sentence: why no model is open."""
        self.error: Exception | None = None
        """The same as what an answer that needs a model raises."""
        self.switches = 0
        """How often a model took another one's place."""
        self.jobs_idle: Callable[[Callable[[], None]], bool] = _at_once
        """Calls a function while no job can come in, if none waits or runs; whether it did."""
        self.on_letting_go: list[Callable[[], None]] = []
        """Called on the device thread before a model is let go, by who keeps things of it."""
        self.on_open: list[Callable[[], None]] = []
        """Called on the device thread after a model was put in its place."""
        self.on_change: Callable[[], None] = _nothing
        """Called on the event loop after another model was opened."""
        self._settings = settings
        self._device = device
        self._load = load
        self._threads = None if space is not None else threads
        self._space = space
        self._opened: Opened | None = None
        self.second = Second()
        self._known: dict[str, str] = {}
        self._closing = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._settled: asyncio.Event = asyncio.Event()

    # What is open

    @property
    def space(self) -> LatentSpace | None:
        """The space that is open; for the device thread, and for figures."""
        return self._space if self._opened is not None else None

    @property
    def current(self) -> Opened | None:
        """What is open now."""
        return self._opened

    @property
    def seen(self) -> Opened | None:
        """What is open for the request that is answered here; outside of one, what is open now."""
        return pin_of(self) if is_pinned(self) else self._opened

    @property
    def state(self) -> State:
        """``ready`` while a model is open, also while another one is loaded."""
        if self._opened is not None:
            return "ready"
        return "failed" if self.failure is not None else "loading"

    @property
    def progress(self) -> str:
        """One sentence about what is being done."""
        opening = self.opening
        if opening is not None:
            return opening.progress
        opened = self._opened
        if opened is not None:
            return f"{opened.facts.name} is ready."
        return "The model has not been asked for yet."

    def required(self) -> Opened:
        """What is open for this request.

        Raises:
            NotReady: a model is being loaded.
            ModelError: it could not be.
        """
        seen = self.seen
        if seen is not None:
            return seen
        if self.error is not None and self._opened is None:
            # Without the old traceback, which would grow with each request.
            raise self.error.with_traceback(None)
        raise NotReady(f"{self.progress} Try again in a moment.")

    def owned(self, opened: Opened | None = None) -> LatentSpace:
        """The space, on the device thread, for work about this opening.

        Args:
            opened: what the work was asked of; None: the request's, or what is open now.

        Raises:
            ModelChanged: another model is open by now.
            NotReady: none is.
        """
        wanted = opened if opened is not None else self.seen
        now = self._opened
        if wanted is not None and wanted is not now:
            raise self.changed(wanted)
        if now is None or self._space is None:
            raise NotReady(f"{self.progress} Try again in a moment.")
        return self._space

    def owned_beside(self, opened: Opened) -> LatentSpace:
        """The space that the open one is compared with, on the device thread: the second model's,
        or the open one's own.

        Raises:
            ModelChanged: it is not open any more.
        """
        if opened is self._opened and self._space is not None:
            return self._space
        return self.second.owned(opened)

    def changed(self, asked: Opened | str | None) -> ModelChanged:
        """What is said where another model is open than the one that was asked.

        Args:
            asked: that one, or its fingerprint as a page remembers it.
        """
        if isinstance(asked, str):
            old = self._known.get(asked, "another one")
        else:
            old = asked.facts.name if asked is not None else "another one"
        now = self._opened
        if now is None:
            return ModelChanged(f"{old} is no longer open: load the page again in a moment.")
        name = now.facts.name
        if name == old:  # opened anew meanwhile, or two models under one name
            return ModelChanged(f"{name} was opened anew meanwhile: load the page again.")
        return ModelChanged(
            f"The open model is now {name}; this was asked of {old}: load the page again."
        )

    # Opening

    async def start(self) -> None:
        """Load the model of the start; returns at once. A ready space is taken before it does."""
        self._loop = asyncio.get_running_loop()
        ready, self._space = self._space, None
        with suppress(NotReady):  # said in each answer, as after a loading that failed
            self._begin(self.catalogue.start, ready)
        if ready is not None:
            await self.settled()

    async def settled(self) -> None:
        """Wait until no model is being opened."""
        while self.opening is not None:
            await self._settled.wait()

    async def switch_to(self, name: str) -> Opening | None:
        """Begin to open a model of the list; what is open answers meanwhile.

        Args:
            name: of the list.

        Returns:
            The opening that began; None where this model is open already.

        Raises:
            NotFound: no model of that name is on the list.
            Conflict: another one is being opened, or jobs wait or run.
        """
        opened = self._opened
        if opened is not None and opened.entry == name and self.opening is None:
            return None
        entry = self._loadable(name)
        if not await to_thread.run_sync(self.jobs_idle, partial(self._begin, entry, None)):
            raise Conflict(
                f"Jobs are under way or waiting, and they hold their model; open {name} when they "
                "have ended, or cancel them."
            )
        return self.opening

    async def open_beside(self, name: str) -> Opening | None:
        """Begin to open a second model for comparisons; the open one answers meanwhile and stays.

        Args:
            name: of the list.

        Returns:
            The opening that began; None where it stands beside already.

        Raises:
            NotFound: no model of that name is on the list.
            Conflict: another one is being opened, or this server holds one model at a time.
        """
        opened, beside = self.required(), self.second.opened
        if self.opening is None and name in (opened.entry, beside.entry if beside else None):
            return None
        if self._settings.one_model_at_a_time:
            raise Conflict(
                "This server holds one model at a time, so none can stand beside it; compare them"
                " on the command line: lexiscope compare MODEL_A MODEL_B --one-at-a-time."
            )
        self._begin(self._loadable(name), None, beside=True)
        return self.opening

    async def close_beside(self) -> None:
        """Let the second model go; nothing where there is none."""
        if self.second.opened is not None:
            await to_thread.run_sync(self._let_second_go)
            self.on_change()

    def _loadable(self, name: str) -> Entry:
        """A model of the list.

        Raises:
            NotFound: it is not on it.
            Conflict: it cannot be loaded again.
        """
        entry = self.catalogue.get(name)
        if entry is None:
            raise NotFound(
                "There is no model of this name on the server's list; choose one of those that "
                "the page Model shows."
            )
        if entry.ready:
            raise Conflict(
                f"{name} was handed over when the server started and cannot be loaded again; "
                "restart the server."
            )
        return entry

    def admit(self) -> None:
        """Let a job in that was asked for here; called while no switch can begin.

        Raises:
            NotReady: another model is being opened.
            ModelChanged: the job was asked of another model than the one that is open.
        """
        opening = self.opening
        if opening is not None:
            raise NotReady(
                f"{opening.name} is being opened, and a job would hold the model before it; try "
                "again when it is open.",
                retry_after=5,
            )
        if is_pinned(self) and pin_of(self) is not self._opened:
            raise self.changed(pin_of(self))

    def stop(self) -> None:
        """Have a loading stop at its next step, and begin none."""
        self._closing = True

    def close(self) -> None:
        """Wait a moment for a loading, and end what the open model keeps running."""
        self.stop()
        if self._thread is not None:
            self._thread.join(1.0)
        _end_processes(self._space)

    def _begin(self, entry: Entry, ready: LatentSpace | None, *, beside: bool = False) -> None:
        if self._closing:
            raise NotReady("The server is shutting down; try again in a moment.")
        if self.opening is not None:
            raise Conflict(
                f"{self.opening.name} is being opened; wait until it is, then open another one."
            )
        self._settled = asyncio.Event()
        self._say(entry.name, "")
        self.failed = None
        if not beside:
            self.failure = self.error = None
        thread = threading.Thread(
            target=self._run, args=(entry, ready, beside), name="lexiscope-loader", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the system gives this process no more threads
            raise self._not_begun(entry, error) from None
        self._thread = thread

    def _not_begun(self, entry: Entry, error: RuntimeError) -> NotReady:
        """What is said where not even the loading could begin; as after one that failed."""
        failure = no_thread(entry)
        log_failed(entry, error)
        self.failed = FailedOpening(entry.name, str(failure))
        if self._opened is None:
            self.error, self.failure = failure, str(failure)
        self.opening = None
        self._tell_loop()
        return failure

    def _say(self, name: str, words: str) -> None:
        self.opening = Opening(name, f"Loading {name}{f': {words}' if words else ''}.")

    # On the loading thread

    def _run(self, entry: Entry, ready: LatentSpace | None, beside: bool) -> None:
        before = self._entry_now()
        box = [ready] if ready is not None else []
        del ready
        try:
            self._open(entry, box, beside=beside)
        except Exception as error:
            box.clear()
            failure = self._logged(entry, error)
            del error
            self._failed(entry, failure)
            if self._opened is None and before is not None and before is not entry:
                self._back(before)
        finally:
            self.opening = None
            self._tell_loop()

    def _entry_now(self) -> Entry | None:
        opened = self._opened
        return self.catalogue.get(opened.entry) if opened is not None else None

    def _open(self, entry: Entry, box: list[LatentSpace], *, beside: bool = False) -> None:
        if self.second.opened is not None:  # the memory is for one more
            self._let_second_go()
        if not box:
            if self._settings.one_model_at_a_time and self._opened is not None:
                self._on_device(lambda check: self._let_go(), "letting a model go")
            box.append(self._loaded(entry))
        space = box[0]
        opened = Opened(entry.name, facts_of(space), space.self_check)
        del space
        if beside:
            put = partial(self.second.put, opened, box, self._threads)
            self._on_device(lambda check: put(), "a second model")
        else:
            self._on_device(lambda check: self._put(opened, box), "changing the model")
        log.info("%s is ready on %s", opened.facts.name, opened.facts.device)

    def _loaded(self, entry: Entry) -> LatentSpace:
        space = self._load(
            entry.settings(self._settings),
            self._check,
            partial(self._say, entry.name),
            self._exclusive,
        )
        if entry.listed:
            space.model.name = entry.name
        return space

    def _logged(self, entry: Entry, error: Exception) -> Exception:
        """The error without what its traceback holds: half a model, as a rule."""
        if not self._is_end(error):
            log_failed(entry, error)
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)

    def _is_end(self, error: Exception) -> bool:
        """Whether it says no more than that the server ends."""
        return self._closing and isinstance(error, Cancelled | QueueFull)

    def _failed(self, entry: Entry, error: Exception) -> None:
        if self._is_end(error):
            return
        error = for_people(entry, error)
        self.failed = FailedOpening(entry.name, str(error))
        if self._opened is None:
            self.error, self.failure = error, str(error)

    def _back(self, before: Entry) -> None:
        """Load the model again that was let go for one that failed."""
        failed = self.failed
        self.error = self.failure = None
        self._say(before.name, "")
        try:
            self._open(before, [])
        except Exception as error:
            self._failed(before, self._logged(before, error))
        else:
            self.failed = failed

    def _check(self) -> None:
        if self._closing:
            raise Cancelled("The server is shutting down.")

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep the device thread waiting: nobody computes meanwhile."""
        if self._opened is None:
            yield
            return
        leave = threading.Event()

        def hold(check: Check) -> None:
            while not leave.wait(WAIT_S):
                check()

        job = self._device.submit(
            hold, deadline_s=None, label="waiting for a model's weights", first=True
        )
        try:
            await_turn(job, self._settings.deadline_s, self._check)
            yield
        finally:
            leave.set()
            job.cancel()

    def _on_device(self, work: Callable[[Check], T], label: str) -> T:
        """Do this on the device thread before all that waits."""
        return on_device(self._device, work, label, self._settings.deadline_s, self._check)

    def _let_second_go(self) -> None:
        self._on_device(lambda check: self.second.let_go(), "letting a model go")

    def _tell_loop(self) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._after)
        except RuntimeError:  # the loop has ended before the loading did
            log.debug("the loading ended after the server")

    # On the event loop

    def _after(self) -> None:
        self.on_change()
        if self.opening is None:
            self._settled.set()

    # On the device thread

    def _put(self, opened: Opened, box: list[LatentSpace]) -> None:
        space = box.pop()
        space.model.adopt(self._threads)
        self._known[opened.facts.fingerprint] = opened.facts.name
        # The new one first: whoever comes meanwhile is answered by it, not refused.
        old, self._space, self._opened = [self._space], space, opened
        self.switches += old != [None]
        self._clear_up(old)
        for tell in self.on_open:
            tell()

    def _let_go(self) -> None:
        old, self._space, self._opened = [self._space], None, None
        self._clear_up(old)

    def _clear_up(self, old: list[LatentSpace | None]) -> None:
        """Forget the space in the list, which is the last to hold it, and free its memory."""
        if old == [None]:
            return
        for tell in self.on_letting_go:
            tell()
        _end_processes(old.pop())
        gc.collect()
        give_memory_back()


def _end_processes(space: LatentSpace | None) -> None:
    maps = vars(space).get("maps") if space is not None else None
    if maps is not None:  # made when a map was first asked for
        maps.close()


def _at_once(act: Callable[[], None]) -> bool:
    act()
    return True


def _nothing() -> None:
    """What is done where nobody waits for news."""
