"""Work that comes in steps and is handed on as it comes: a text that goes on, token by token.

Each step is one piece of background work of the device thread, so requests that come meanwhile are
answered between two steps; the whole takes one place in the queue as long as it lasts. When nobody
takes what comes any more, the step under way stops before the next block, and the place is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from app.model.device import Job
from app.model.explorer import Explorer, too_late, while_connected
from app.web.head import client_of
from engine.errors import DeadlineExceeded
from engine.progress import Check, no_check

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Done(Generic[R]):
    """The last that comes: what the work returned."""

    value: R


class _Walk(Generic[S, R]):
    """A generator of the engine, driven step by step on the device thread."""

    def __init__(self, begin: Callable[[Check], Generator[S, None, R]]) -> None:
        self._begin = begin
        self._steps: Generator[S, None, R] | None = None
        self._check: Check = no_check

    def next(self, check: Check) -> S | Done[R]:
        """One step, which this check may stop."""
        self._check = check  # each step has a deadline of its own
        if self._steps is None:
            self._steps = self._begin(lambda: self._check())
        try:
            return next(self._steps)
        except StopIteration as end:
            return Done(end.value)


async def steps(
    explorer: Explorer,
    request: Request,
    call: Callable[..., Generator[S, None, R]],
    *arguments: Any,
) -> AsyncGenerator[S | Done[R], None]:
    """What ``call(space, *arguments, check=check)`` yields, as it comes; `Done` is the last.

    Args:
        explorer: of the open model.
        request: the request that is answered; its client holds the place.
        call: a method of the space (``LatentSpace.generation_steps``) or a function like it.
        arguments: its further arguments.

    Raises:
        QueueFull: no place is free.
        DeadlineExceeded: one step took longer than a request may.
        ModelChanged: another model was opened meanwhile.
    """
    opened = explorer.models.required()
    deadline_s, client = explorer.settings.deadline_s, client_of(request)
    release = explorer.device.reserve(client)
    context = copy_context()

    def begin(check: Check) -> Generator[S, None, R]:
        return call(explorer.models.owned(opened), *arguments, check=check)

    walk: _Walk[S, R] = _Walk(begin)

    def step(check: Check) -> S | Done[R]:
        explorer.models.owned(opened)  # refuses where another model is open by now
        return context.run(walk.next, check)

    job: Job[S | Done[R]] | None = None
    try:
        while True:
            job = explorer.device.submit(
                step, deadline_s=deadline_s, client=client, label=call.__name__, background=True
            )
            found = await asyncio.wrap_future(job.future)
            yield found
            if isinstance(found, Done):
                return
    except DeadlineExceeded:
        raise too_late("One step", request, job, deadline_s) from None
    finally:
        if job is not None:
            job.cancel()
        release()


async def whole(
    explorer: Explorer,
    request: Request,
    call: Callable[..., Generator[S, None, R]],
    *arguments: Any,
) -> R:
    """What the same work returns in the end, kept as other answers are.

    Raises:
        ClientGone: the client closed the connection.
        DeadlineExceeded: all of it took longer than a request may; and as :func:`steps` does.
    """
    kept: R | None = explorer.kept(call, *arguments)
    if kept is not None:
        return kept

    async def gather() -> R:
        async with aclosing(steps(explorer, request, call, *arguments)) as coming:
            async for step in coming:
                if isinstance(step, Done):
                    explorer.keep(call, arguments, step.value)
                    return step.value
        raise AssertionError("the work ended without a result")

    deadline_s = explorer.settings.deadline_s
    task = asyncio.ensure_future(gather())
    try:
        return await while_connected(request, task, deadline_s)
    except DeadlineExceeded:
        raise too_late("The answer", request, None, deadline_s) from None
    finally:
        task.cancel()
