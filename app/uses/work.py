"""The measuring as one job, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request

from app.jobs.job import JobView
from app.jobs.lanes import Jobs
from app.jobs.measuring import start_measuring
from app.model.explorer import Explorer
from engine import LatentSpace
from engine.progress import Check
from engine.uses.findings import Finding, findings
from engine.uses.measure import Uses, known_uses, measure_uses, predict_uses

KIND = "uses"


@dataclass(frozen=True)
class Known:
    """What was measured, and what it says."""

    uses: Uses
    findings: tuple[Finding, ...]
    seconds: float
    """What measuring the rest would take; all of it again where nothing is missing."""

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
    return Known(found, findings(found), predict_uses(space, again=not found.missing))


async def start(
    request: Request, explorer: Explorer, jobs: Jobs, *, again: bool = False
) -> JobView:
    """Queue the job; one that is under way for the same model is given instead.

    Args:
        request: whose client asks.
        explorer: of the open model.
        jobs: where it is queued.
        again: all is measured, also what is known.
    """
    title = f"Measuring what the semantic bases of {explorer.facts().name} are for"
    measure = partial(measure_uses, again=again)
    return await start_measuring(request, explorer, jobs, KIND, title, measure, href="/uses")
