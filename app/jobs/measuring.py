"""Work on the open model whose result the engine keeps, as one job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import Request

from app.jobs.job import JobView
from app.jobs.lanes import Jobs
from app.model.explorer import Explorer
from app.web.head import client_of
from engine import LatentSpace
from engine.progress import Steps


async def start_measuring(
    request: Request,
    explorer: Explorer,
    jobs: Jobs,
    kind: str,
    title: str,
    measure: Callable[[LatentSpace], Steps[Any]],
    *,
    href: str,
    of: str = "",
) -> JobView:
    """Queue the job; one that is under way for the same work is given instead.

    Args:
        measure: the work, on the space of the model that was open when it was asked for.
        href: the page that shows what was measured.
        of: what tells this work from others of its kind on the same model.
    """
    loop = asyncio.get_running_loop()

    def begin() -> Steps[Any]:
        return measure(explorer.owned())

    def known_now(_: Any) -> None:
        # Answers from before say that it is not known.
        loop.call_soon_threadsafe(explorer.forget)

    return await jobs.start(
        kind,
        title,
        begin,
        known_now,
        client=client_of(request),
        href=href,
        key=f"{kind} {explorer.facts().fingerprint} {of}",
    )
