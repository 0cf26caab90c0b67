"""The explorer: the loaded model as the async handlers see it.

Every method takes the request first, does its work on the one device thread and answers with the
engine's own value. In between stand a cache of results (limited in bytes), one computation for
identical requests that are under way together, admission through the bounded queue, a deadline,
and the watch on the client: when nobody waits for a computation any more, it stops between two
layers. Computes nothing itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, cast

from starlette.requests import Request

from app.metrics import Metrics
from app.settings import Settings
from engine import LatentSpace, Limits, Trace, TraceOptions, load
from engine.agreement import Agreement
from engine.cell import Cell
from engine.curves import Curves
from engine.errors import DeadlineExceeded, LexiscopeError, TokenError
from engine.frames import no_check
from engine.models import Tokens
from engine.selfcheck import SelfCheck
from engine.space import FrameReport, TokenBasis, TokenHit
from engine.trace import Cost
from engine.worker import Check, DeviceThread, Job

T = TypeVar("T")
P = ParamSpec("P")
State = Literal["loading", "ready", "failed"]
log = logging.getLogger("lexiscope")


class NotReady(Exception):
    """The model is not loaded yet, or could not be; the message is a sentence.

    Attributes:
        retry_after: seconds after which trying again makes sense; None: it makes none.
    """

    def __init__(self, sentence: str, *, retry_after: int | None = 2) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class ClientGone(Exception):
    """The client closed the connection; nobody reads an answer."""


@dataclass(frozen=True)
class ModelFacts:
    """What the pages say about the loaded model; read once, on the device thread."""

    name: str
    revision: str
    """The hub's commit, or ``local``."""
    fingerprint: str
    architecture: str
    kind: str
    device: str
    dtype: str
    blocks: int
    """Transformer blocks; the layers are numbered 0 (the embedding) to `blocks`."""
    width: int
    """d: what the head reads."""
    vocabulary: int
    """v: rows of the head."""
    parameters: int
    max_tokens: int
    tied: bool
    """Whether the head is the input embedding."""
    has_chat_template: bool
    has_bos: bool
    anatomy: tuple[tuple[str, str], ...]
    """Where the parts were found, as (part, place)."""

    @property
    def layers(self) -> int:
        """How many layers can be read: the blocks and the embedding."""
        return self.blocks + 1

    def to_dict(self) -> dict[str, object]:
        """As it stands in the JSON of ``/api/v1/model``."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "anatomy"}
        plain["anatomy"] = dict(self.anatomy)
        return plain


@dataclass(frozen=True)
class Badge:
    """The self-check as one mark for the head of each page."""

    level: Literal["ok", "fail", "wait"]
    text: str
    """A word or two."""
    reason: str
    """One sentence."""


@dataclass(frozen=True)
class CostEstimate:
    """What a run would cost, with the tokens it was asked for."""

    tokens: int
    cost: Cost

    def to_dict(self) -> dict[str, object]:
        """As it stands in the JSON of ``/api/v1/cost``."""
        return {
            "tokens": self.tokens,
            "predicted_seconds": self.cost.predicted_seconds,
            "predicted_bytes": self.cost.predicted_bytes,
        }


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
        max_k=settings.max_k,
        memory_budget_mib=settings.memory_budget_mib,
    )


def load_space(settings: Settings, check: Check = no_check) -> LatentSpace:
    """Load the model that the settings name; slow, and only for the thread that will own it."""
    return load(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        cache_dir=settings.cache_dir,
        threads=settings.threads or max(1, _cores() - 1),
        limits=limits_of(settings),
        offline=settings.offline,
        check=check,
    )


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Explorer:
    """The app's one model, its device thread and its results."""

    def __init__(self, settings: Settings, space: LatentSpace | None = None) -> None:
        """Hold a loaded space, or none until `start` has loaded one.

        Args:
            settings: the app's settings.
            space: a ready space (tests, notebooks); None: `start` loads the settings' model.
        """
        self.settings = settings
        self.device = DeviceThread(
            places=settings.queue_places, per_client=settings.client_places or None
        )
        self.state: State = "loading"
        self.progress = "The model has not been asked for yet."
        """One sentence for people while `state` is ``loading``."""
        self.failure: str | None = None
        """One sentence: why `state` is ``failed``."""
        self.info: ModelFacts | None = None
        """The facts of the model; None until it is ready."""
        self.self_check: SelfCheck | None = None
        """What the self-check found; None until the model is ready."""
        self._space = space
        self._error: Exception | None = None
        self._loaded = asyncio.Event()
        self._results = ResultCache(settings.result_cache_mib * 2**20)
        self._flights: dict[Hashable, _Flight] = {}

    async def start(self) -> None:
        """Start the device thread and load the model on it; returns at once.

        A space that was handed over ready is looked at before this returns.
        """
        self.device.start()
        name = self.settings.model or "the model that ships with Lexiscope"
        if name.startswith(("/", ".", "~")):
            name = PurePath(name).name  # people see this; where the folder lies is not theirs
        self.progress = f"Loading {name}."
        job = self.device.submit(self._open, deadline_s=None, label="loading the model")
        future = asyncio.wrap_future(job.future)
        future.add_done_callback(self._opened)
        if self._space is not None:
            await self.loaded()

    async def loaded(self) -> None:
        """Wait until the model is ready or has failed."""
        await self._loaded.wait()

    def metrics(self) -> Metrics:
        """The figures of this process, of the queue and of the kept results."""
        metrics = Metrics()
        metrics.watch_process(self.settings.cache_dir or Path.home())
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
                "forward_passes": float(self._space.forward_passes if self._space else 0),
            },
            label="what",
        )
        return metrics

    def close(self) -> None:
        """Stop the work and the thread."""
        self.device.close()
        maps = vars(self._space).get("maps") if self._space is not None else None
        if maps is not None:  # made when a map was first asked for
            maps.close()

    @property
    def notice(self) -> str | None:
        """A sentence that stands on each page, or None."""
        return self.settings.notice

    @property
    def badge(self) -> Badge:
        """The mark at the head of each page."""
        if self.state == "loading":
            return Badge("wait", "loading", self.progress)
        if self.state == "failed" or self.self_check is None:
            return Badge("fail", "no model", self.failure or "The model could not be loaded.")
        level: Literal["ok", "fail"] = "ok" if self.self_check.ok else "fail"
        text = "self-check passed" if self.self_check.ok else "self-check failed"
        return Badge(level, text, self.self_check.summary)

    def facts(self) -> ModelFacts:
        """The facts of the model, for an answer that cannot do without.

        Raises:
            NotReady: the model is being loaded.
            ModelError: it could not be.
        """
        if self.info is not None:
            return self.info
        if self._error is not None:
            # Without the old traceback, which would grow with each request.
            raise self._error.with_traceback(None)
        raise NotReady(f"{self.progress} Try again in a moment.")

    def checked(self) -> SelfCheck:
        """The self-check, for an answer that cannot do without; raises as `facts` does."""
        self.facts()
        assert self.self_check is not None
        return self.self_check

    # What the pages and the API ask for.

    async def trace(self, request: Request, prompt: str, options: TraceOptions) -> Trace:
        """A prompt through all layers."""
        return await self._answer(request, _trace, prompt, options)

    async def cell(
        self, request: Request, prompt: str, layer: int, position: int, options: TraceOptions
    ) -> Cell:
        """One layer at one position, in detail."""
        return await self._answer(request, _cell, prompt, layer, position, options)

    async def agreement(self, request: Request, prompt: str, options: TraceOptions) -> Agreement:
        """How far each geometry and frame agrees with the model's own prediction, per layer."""
        return await self._answer(request, _agreement, prompt, options)

    async def curves(
        self,
        request: Request,
        prompt: str,
        ids: tuple[int, ...] | None,
        options: TraceOptions,
        *,
        position: int = -1,
    ) -> Curves:
        """Pinned tokens over the layers at one position; without ids, the default pins there."""
        return await self._answer(request, _curves, prompt, ids, options, position)

    async def bases(
        self,
        request: Request,
        token: int | str,
        *,
        frame: str = "output",
        geometry: str = "cosine",
        k: int = 10,
    ) -> TokenBasis:
        """The nearest tokens of a token's basis; `token_reference` reads what a person typed."""
        return await self._answer(request, _bases, token, frame, geometry, k)

    async def frame_report(self, request: Request, name: str) -> FrameReport:
        """What a frame is, in figures."""
        return await self._answer(request, _frame_report, name)

    async def search(self, request: Request, text: str, limit: int = 20) -> tuple[TokenHit, ...]:
        """Tokens whose text holds these characters."""
        return await self._answer(request, _search, text, limit)

    async def tokenize(
        self, request: Request, prompt: str, *, bos: str = "auto", chat: bool = False
    ) -> Tokens:
        """The prompt's tokens."""
        return await self._answer(request, _tokenize, prompt, bos, chat)

    async def predict_cost(
        self, request: Request, prompt: str | int, options: TraceOptions
    ) -> CostEstimate:
        """What a trace would cost; `prompt` is the text, or a number of tokens."""
        return await self._answer(request, _predict_cost, prompt, options)

    async def document(
        self, request: Request, writer: Callable[[Any], bytes], method: str, *arguments: Hashable
    ) -> bytes:
        """A result written out (JSON, CSV), on the device thread so that the loop stays free.

        Args:
            request: the request that is answered.
            writer: a plain module-level function, result to bytes.
            method: the name of one of the methods above.
            arguments: what that method takes after the request, in its order.
        """
        facts = self.facts()
        call = _CALLS[method]
        held = self._results.get((facts.fingerprint, call, *arguments))

        def work(check: Check) -> bytes:
            value = call(self._owned(), check, *arguments) if held is None else held
            check()
            return writer(value)

        return await self._compute(
            request, (facts.fingerprint, call, writer, *arguments), method, work
        )

    async def ask(
        self,
        request: Request,
        call: Callable[Concatenate[LatentSpace, Check, P], T],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        """An engine call that has no method here.

        Args:
            request: the request that is answered.
            call: a plain module-level function; takes the space and a check first.
            arguments: its further arguments, each of them hashable: they are the result's name.
            keywords: the same.
        """
        return await self._answer(request, call, *arguments, **keywords)

    async def look(
        self, request: Request, call: Callable[[LatentSpace, Check], T], label: str
    ) -> T:
        """How something stands at this moment: asked anew each time, and not kept."""
        self.facts()

        def work(check: Check) -> T:
            return call(self._owned(), check)

        return await self._compute(request, object(), label, work, keep=False)

    def owned(self) -> LatentSpace:
        """The space itself, for work that runs on the device thread."""
        return self._owned()

    # How it is done.

    async def _answer(
        self,
        request: Request,
        call: Callable[Concatenate[LatentSpace, Check, P], T],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        facts = self.facts()

        def work(check: Check) -> T:
            return call(self._owned(), check, *arguments, **keywords)

        key = (facts.fingerprint, call, *arguments, *sorted(keywords.items()))
        return await self._compute(request, key, call.__name__.strip("_"), work)

    async def _compute(
        self,
        request: Request,
        key: Hashable,
        label: str,
        work: Callable[[Check], T],
        *,
        keep: bool = True,
    ) -> T:
        """The result under this key: kept, under way already, or computed now."""
        kept = self._results.get(key)
        if kept is not None:
            return cast(T, kept)
        deadline_s = self.settings.deadline_s
        flight = self._flights.get(key)
        if flight is None:
            job = self.device.submit(
                partial(_measured, work, key),
                deadline_s=deadline_s,
                client=client_of(request),
                label=label,
            )
            flight = _Flight(job)
            self._flights[key] = flight
            flight.future.add_done_callback(partial(self._landed, key, flight, keep))
        else:
            flight.job.extend(deadline_s)
        flight.waiters += 1
        try:
            value, _ = await _while_connected(request, flight.future, deadline_s)
            return cast(T, value)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.future.done():
                # Out of the table first: who asks now starts afresh instead of joining a dead job.
                self._forget(key, flight)
                flight.job.cancel()

    def _landed(
        self, key: Hashable, flight: _Flight, keep: bool, future: asyncio.Future[Any]
    ) -> None:
        self._forget(key, flight)
        # Asking for the exception marks it as seen when no client is left to see it.
        if not future.cancelled() and future.exception() is None:
            value, size = future.result()
            if keep:
                self._results.put(key, value, size)

    def _forget(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _owned(self) -> LatentSpace:
        assert self._space is not None
        return self._space

    def _open(self, check: Check) -> tuple[LatentSpace, ModelFacts, SelfCheck]:
        space = self._space or load_space(self.settings, check)
        _take_over(space)
        return space, _facts(space), space.self_check

    def _opened(self, future: asyncio.Future[tuple[LatentSpace, ModelFacts, SelfCheck]]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._space, self.info, self.self_check = future.result()
            self.state = "ready"
            self.progress = f"{self.info.name} is ready."
            log.info("%s is ready on %s", self.info.name, self.info.device)
        else:
            self.state = "failed"
            if isinstance(error, LexiscopeError):
                self._error = error
                self.failure = str(error)
                log.error("the model could not be loaded: %s", error)
            else:
                self.failure = "The model could not be loaded; the server's log says why."
                self._error = NotReady(self.failure, retry_after=None)
                log.error("the model could not be loaded", exc_info=error)
        self._loaded.set()


def client_of(request: Request) -> str:
    """Who asks, for the limit per client: the address."""
    return request.client.host if request.client else ""


class _Flight:
    """One computation and how many requests wait for it. Lives on the event loop only."""

    def __init__(self, job: Job[tuple[Any, int]]) -> None:
        self.job = job
        self.future: asyncio.Future[tuple[Any, int]] = asyncio.wrap_future(job.future)
        self.waiters = 0


async def _while_connected(request: Request, future: asyncio.Future[T], deadline_s: float) -> T:
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
        raise DeadlineExceeded(
            f"The answer took longer than {deadline_s:g} seconds and was stopped; "
            "ask for fewer layers or a shorter prompt."
        )
    finally:
        if not left.done():
            left.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client has closed the connection; what is left of the body is let go."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class ResultCache:
    """Results by key, limited in bytes; the least recently used go first. For one thread."""

    def __init__(self, limit: int) -> None:
        """Make it empty; `limit` in bytes, 0 keeps nothing."""
        self.limit = limit
        self.size = 0
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable) -> Any | None:
        """The result under the key, or None."""
        found = self._held.get(key)
        if found is None:
            return None
        self._held.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a result of so many bytes; one that is larger than a quarter of all is not kept."""
        if size > self.limit // 4:
            return
        old = self._held.pop(key, None)
        self.size += size - (old[1] if old else 0)
        self._held[key] = (value, size)
        while self.size > self.limit:
            _, (_, freed) = self._held.popitem(last=False)
            self.size -= freed


def _measured(work: Callable[[Check], T], key: Hashable, check: Check) -> tuple[T, int]:
    """The result with its size in bytes and its key's, measured where the event loop does not wait.

    A key holds what was asked: a prompt, or all texts of a set.
    """
    value = work(check)
    return value, footprint((key, value))


def footprint(value: object) -> int:
    """Roughly how many bytes a result holds: arrays exactly, objects by their own size."""
    seen: set[int] = set()
    stack: list[object] = [value]
    total = 0
    while stack:
        one = stack.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if hasattr(one, "nbytes"):
            total += int(one.nbytes) + 128
            continue
        total += sys.getsizeof(one)
        if isinstance(one, str | bytes | int | float | bool) or one is None:
            continue
        if is_dataclass(one) and not isinstance(one, type):
            stack.extend(getattr(one, f.name) for f in fields(one))
        elif isinstance(one, Mapping):
            stack.extend(one.keys())
            stack.extend(one.values())
        elif isinstance(one, list | tuple | set | frozenset):
            stack.extend(one)
    return total


def _take_over(space: LatentSpace) -> None:
    """Make the calling thread the model's owner, for a space that was loaded elsewhere."""
    space.model.adopt()


def _facts(space: LatentSpace) -> ModelFacts:
    model = space.model
    return ModelFacts(
        name=model.name,
        revision=model.revision,
        fingerprint=model.fingerprint,
        architecture=model.architecture,
        kind=model.anatomy.kind,
        device=str(model.device),
        dtype=str(model.dtype),
        blocks=model.blocks,
        width=model.width,
        vocabulary=model.vocabulary,
        parameters=model.parameters,
        max_tokens=model.max_tokens,
        tied=model.tied,
        has_chat_template=model.has_chat_template,
        has_bos=model.has_bos,
        anatomy=tuple(model.anatomy.describe()),
    )


# The engine's calls, each with the arguments in the order of the explorer's method.


def _trace(space: LatentSpace, check: Check, prompt: str, options: TraceOptions) -> Trace:
    return space.trace(prompt, options, check=check)


def _cell(
    space: LatentSpace, check: Check, prompt: str, layer: int, position: int, options: TraceOptions
) -> Cell:
    return space.cell(prompt, layer, position, options, check=check)


def _agreement(space: LatentSpace, check: Check, prompt: str, options: TraceOptions) -> Agreement:
    return space.agreement(prompt, options, check=check)


def _curves(
    space: LatentSpace,
    check: Check,
    prompt: str,
    ids: tuple[int, ...] | None,
    options: TraceOptions,
    position: int,
) -> Curves:
    return space.curves(prompt, ids, options, position=position, check=check)


def _bases(
    space: LatentSpace, check: Check, token: int | str, frame: str, geometry: str, k: int
) -> TokenBasis:
    return space.bases(token, frame=frame, geometry=geometry, k=k, check=check)


def _frame_report(space: LatentSpace, check: Check, name: str) -> FrameReport:
    return space.frame_report(name, check=check)


def _search(space: LatentSpace, check: Check, text: str, limit: int) -> tuple[TokenHit, ...]:
    return tuple(space.search(text, limit=limit))


def _tokenize(space: LatentSpace, check: Check, prompt: str, bos: str, chat: bool) -> Tokens:
    return space.tokenize(prompt, bos=bos, chat=chat)


def _predict_cost(
    space: LatentSpace, check: Check, prompt: str | int, options: TraceOptions
) -> CostEstimate:
    tokens = (
        prompt
        if isinstance(prompt, int)
        else len(space.tokenize(prompt, bos=options.bos, chat=options.chat).ids)
    )
    return CostEstimate(tokens, space.predict_cost(tokens, options))


_CALLS: dict[str, Callable[..., Any]] = {
    "trace": _trace,
    "cell": _cell,
    "agreement": _agreement,
    "curves": _curves,
    "bases": _bases,
    "frame_report": _frame_report,
    "search": _search,
    "tokenize": _tokenize,
    "predict_cost": _predict_cost,
}
