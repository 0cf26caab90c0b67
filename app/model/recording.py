"""Keeping what a page showed for the page History, after the answer has been sent.

Only pages keep runs: what programs ask of the API is theirs to keep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.requests import Request

from app.model.explorer import Explorer
from app.model.open_model import ModelFacts
from app.storage.run import KeptStates, Run
from app.storage.runs import Runs
from app.storage.store import aside
from app.web.export import versions
from app.web.head import client_of
from app.web.rendering import as_text
from engine import LatentSpace
from engine.errors import LexiscopeError
from engine.progress import Check
from engine.trace.result import ModelInfo


def run_of(
    facts: ModelFacts,
    kind: str,
    question: Mapping[str, tuple[str, ...]],
    *,
    prompt: str,
    reading: str,
    other: str = "",
) -> Run:
    """A run of a model, as it is found again."""
    named = facts.name, facts.revision, facts.fingerprint, facts.device, facts.dtype
    return Run(kind, prompt, other, reading, dict(question), ModelInfo(*named), dict(versions()))


def asked(query: BaseModel, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Of a page's question these fields, as they stand in an address; defaults are left out, but
    never the prompt."""
    given = query.model_dump(include=set(names))
    fields = type(query).model_fields
    return {
        name: tuple(map(as_text, value if isinstance(value, list | tuple) else (value,)))
        for name, value in given.items()
        if value is not None and (name == "prompt" or value != fields[name].default)
    }


def recording(
    request: Request,
    explorer: Explorer,
    run: Run,
    value: Any,
    *,
    tokens: Mapping[str, Any] | None = None,
) -> BackgroundTask | None:
    """What keeps a run once the answer has been sent; None where none are kept.

    Args:
        request: the page's.
        explorer: of the model that answered.
        run: what was asked.
        value: what the page showed.
        tokens: how the prompt was tokenized; its states are kept as well, if the model still has
            them, so that another prompt can be compared with it. None: they are not.
    """
    runs: Runs = request.app.state.runs
    if not runs.wanted or _ahead(request):
        return None
    opened, client = explorer.models.required(), client_of(request)

    def states(check: Check) -> KeptStates | None:
        space: LatentSpace = explorer.models.owned(opened)
        found = space.known_states(run.prompt, **(tokens or {}))
        return None if found is None else KeptStates(found.ids, found.raw.float().cpu().numpy())

    async def keep() -> None:
        held = None
        if await aside(partial(runs.again, run)):
            return
        if tokens is not None:
            # Beside the requests that wait; the model does not run for it.
            job = explorer.device.submit(
                states, deadline_s=explorer.settings.deadline_s, label="history", background=True
            )
            try:
                held = await asyncio.wrap_future(job.future)
            except (LexiscopeError, asyncio.CancelledError):
                held = None  # another model is open by now, or the server ends
        await aside(partial(runs.keep, run, value, held, client=client))

    return BackgroundTask(keep)


def _ahead(request: Request) -> bool:
    """Whether a script fetched the page ahead, as a stage does, and nobody looks at it yet."""
    headers = request.headers
    looked = "hx-request" in headers or "text/event-stream" in headers.get("accept", "")
    return headers.get("sec-fetch-dest") == "empty" and not looked
