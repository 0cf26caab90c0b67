"""Causal maps, computed at once or as a job; what a job computed is kept in the history."""

from __future__ import annotations

import asyncio

from fastapi import Request

from app.jobs.job import JobView
from app.jobs.lanes import Jobs
from app.model.explorer import Explorer
from app.model.open_model import ModelFacts, facts_of
from app.model.recording import run_of
from app.storage.run import Run
from app.storage.runs import Runs
from app.web.head import client_of
from app.web.rendering import link
from engine import LatentSpace
from engine.interventions.causal import CausalMap
from engine.progress import Check, Steps

KIND = "causal"


def causal(space: LatentSpace, prompt: str, twin: str, runs: Runs, *, check: Check) -> CausalMap:
    """The map of two prompts, kept or computed now."""
    recall(space, runs, prompt, twin)
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


def recall(space: LatentSpace, runs: Runs, prompt: str, twin: str) -> CausalMap | None:
    """The map of two prompts if it is known, from before the server's start as well."""
    found = space.known_causal_map(prompt, twin)
    if found is None:
        found = runs.find(_run(facts_of(space), prompt, twin))
        if found is not None:
            space.keep_causal_map(found)
    return found


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
    facts, runs = explorer.facts(), request.app.state.runs
    await explorer.ask(request, predict_causal, prompt, twin)
    loop, client = asyncio.get_running_loop(), client_of(request)

    def begin() -> Steps[CausalMap]:
        space = explorer.owned()
        recall(space, runs, prompt, twin)
        return space.causal_map(prompt, twin)

    def save(found: CausalMap) -> None:
        runs.keep(_run(facts, prompt, twin), found, client=client)
        # Pages from before say that it is not known.
        loop.call_soon_threadsafe(explorer.forget)

    return await jobs.start(
        KIND,
        "Causal map of a prompt and its twin",
        begin,
        save,
        client=client,
        href=link(request, "/act", prompt=prompt, twin=twin) + "#causal",
        key=f"{KIND} {facts.fingerprint} {prompt!r} {twin!r}",
    )


def _run(facts: ModelFacts, prompt: str, twin: str) -> Run:
    question = {"prompt": (prompt,), "twin": (twin,)}
    words = "where the answer comes from"
    return run_of(facts, KIND, question, prompt=prompt, other=twin, reading=words)
