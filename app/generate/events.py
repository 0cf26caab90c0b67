"""What a text that goes on tells as it is written: the same events for a page and for programs.

``token`` is a finished column, ``end`` the finished text with its figures, ``error`` a sentence in
the place of either.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request

from app.model.explorer import Explorer
from app.model.stepping import Done, steps
from app.web import export
from app.web.errors import told
from engine import GenerateOptions, LatentSpace
from engine.generation.column import Column, Generation
from engine.progress import Progress

Step = Column | Progress | Done[Generation]
CALL = LatentSpace.generation_steps


async def written(
    explorer: Explorer, request: Request, prompt: str, options: GenerateOptions
) -> AsyncGenerator[Step, None]:
    """The text as it is written; one that was written before comes at once."""
    kept: Generation | None = explorer.kept(CALL, prompt, options)
    if kept is not None:
        for column in kept.columns:
            yield column
        yield Done(kept)
        return
    async with aclosing(steps(explorer, request, CALL, prompt, options)) as coming:
        async for step in coming:
            if isinstance(step, Done):
                explorer.keep(CALL, (prompt, options), step.value)
            yield step


async def first_of(steps: AsyncGenerator[Step, None]) -> AsyncGenerator[Step, None]:
    """The same steps, the first of them taken: a mistake in the question raises before an answer
    begins."""
    first = await anext(steps)

    async def again() -> AsyncGenerator[Step, None]:
        async with aclosing(steps):
            yield first
            async for step in steps:
                yield step

    return again()


async def lines(
    request: Request, source: export.Source, begun: AsyncGenerator[Step, None]
) -> AsyncGenerator[bytes, None]:
    """The events as lines of JSON.

    Args:
        request: the request that is answered.
        source: where the numbers come from.
        begun: the steps, of which the first is there.
    """
    try:
        async with aclosing(begun):
            async for step in begun:
                if not isinstance(step, Progress):
                    yield _line(step, source)
    except Exception as error:  # the answer has begun: what went wrong is its last line
        status, sentence = told(request, error)
        yield export.dumps({"event": "error", "sentence": sentence, "status": status})


def _line(step: Step, source: export.Source) -> bytes:
    if isinstance(step, Column):
        return export.dumps({"event": "token", **step.to_dict()})
    assert isinstance(step, Done)
    end = {"event": "end", **step.value.head(), "provenance": source.to_dict()}
    return export.dumps(export.without_clock(end))
