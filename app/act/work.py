"""Causal maps, computed at once or as a job, and kept by the space."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import Request

from app.jobs.job import JobView
from app.jobs.lanes import Jobs
from app.model.explorer import Explorer
from app.web.head import client_of
from app.web.rendering import link
from engine import LatentSpace
from engine.interventions.causal import CausalMap
from engine.progress import Check, Steps

KIND = "causal"


def causal(space: LatentSpace, prompt: str, twin: str, *, check: Check) -> CausalMap:
    """The map of two prompts, kept or computed now."""
    steps = space.causal_map(prompt, twin)
    try:
        while True:
            check()
            next(steps)
    except StopIteration as end:
        found: CausalMap = end.value
        return found
    finally:
        steps.close()


def is_known(space: LatentSpace, prompt: str, twin: str, *, check: Check) -> bool:
    """Whether the map is kept, so that pages show it."""
    check()
    return space.known_causal_map(prompt, twin) is not None


def predict_causal(space: LatentSpace, prompt: str, twin: str, *, check: Check) -> float:
    """What a map would take in seconds; what cannot be mapped is refused. Nothing is run."""
    check()
    return space.predict_causal_map(prompt, twin)


async def start_causal(
    request: Request, explorer: Explorer, jobs: Jobs, prompt: str, twin: str
) -> JobView:
    """Queue the map as a job; one that is under way for the same prompts is given instead."""
    facts = explorer.facts()
    await explorer.ask(request, predict_causal, prompt, twin)
    return await jobs.start(
        KIND,
        "Causal map of a prompt and its twin",
        partial(_begin, explorer, prompt, twin),
        partial(_kept, explorer, asyncio.get_running_loop()),
        client=client_of(request),
        href=link(request, "/act", prompt=prompt, twin=twin) + "#causal",
        key=f"{KIND} {facts.fingerprint} {prompt!r} {twin!r}",
    )


def _begin(explorer: Explorer, prompt: str, twin: str) -> Steps[CausalMap]:
    return explorer.owned().causal_map(prompt, twin)


def _kept(explorer: Explorer, loop: asyncio.AbstractEventLoop, result: CausalMap) -> None:
    """The space keeps it; pages from before say that it is not known."""
    loop.call_soon_threadsafe(explorer.forget)
