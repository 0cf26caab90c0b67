"""The measuring as one job, and what is known of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request

from app.jobs.job import JobView
from app.jobs.lanes import Jobs
from app.model.explorer import Explorer
from app.web.head import client_of
from engine import LatentSpace
from engine.progress import Check, Steps
from engine.uses.findings import Finding, findings
from engine.uses.measure import Uses, known_uses, measure_uses, predict_uses

KIND = "uses"


@dataclass(frozen=True)
class Known:
    """What was measured, and what it says."""

    uses: Uses
    findings: tuple[Finding, ...]
    seconds: float
    """What measuring the rest would take."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``/api/v1/uses``."""
        return {
            "findings": [one.to_dict() for one in self.findings],
            "missing": list(self.uses.missing),
            **self.uses.to_dict(),
        }


def known(space: LatentSpace, *, check: Check) -> Known:
    """What was measured so far; nothing is computed."""
    check()
    found = known_uses(space)
    return Known(found, findings(found), predict_uses(space))


async def start(request: Request, explorer: Explorer, jobs: Jobs) -> JobView:
    """Queue the job; one that is under way for the same model is given instead."""
    facts = explorer.facts()
    return await jobs.start(
        KIND,
        f"Measuring what the semantic bases of {facts.name} are for",
        partial(_begin, explorer),
        partial(_known_now, explorer, asyncio.get_running_loop()),
        client=client_of(request),
        href="/uses",
        key=f"{KIND} {facts.fingerprint}",
    )


def _begin(explorer: Explorer) -> Steps[Uses]:
    return measure_uses(explorer.owned())


def _known_now(explorer: Explorer, loop: asyncio.AbstractEventLoop, result: Uses) -> None:
    """The engine keeps what it measured; answers from before say that it is not known."""
    loop.call_soon_threadsafe(explorer.forget)
