"""More clients than places: each is answered or told when to come back, and nothing else breaks.

Only counts and statuses are looked at, never times, so that a busy machine cannot decide.
``LEXISCOPE_TEST_LOAD=n`` asks n questions from each of the clients.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from asgi import load_tiny, settings_with
from fastapi import FastAPI
from live import live
from waiting import PATIENCE, until

from app.main import create_app
from engine.progress import Check

pytestmark = pytest.mark.slow

CLIENTS = 32
EACH = int(os.environ.get("LEXISCOPE_TEST_LOAD", "10"))
PLACES = 4
WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "dog", "of", "her", "him", "it", "was")
FIGURE = re.compile(r'^lexiscope_model\{what="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass
class Seen:
    """What the clients and the watcher beside them saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    looks: int = 0
    most_waiting: float = 0.0
    unready: int = 0


def question(client: int, turn: int) -> str:
    """A prompt that nobody else asks, so that no answer comes from the cache."""
    number = client * 1_000 + turn
    return " ".join(WORDS[number // len(WORDS) ** i % len(WORDS)] for i in range(4)) + f" {number}"


async def ask(http: httpx2.AsyncClient, client: int, each: int, seen: Seen) -> None:
    for turn in range(each):
        prompt = question(client, turn)
        try:
            answer = await http.get("/api/v1/trace", params={"prompt": prompt, "k": 3})
        except httpx2.HTTPError as error:
            seen.problems.append(f"no answer: {error!r}")
            continue
        seen.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            text = "".join(token["text"] for token in answer.json()["tokens"])
            if not text.endswith(prompt):
                seen.problems.append(f"asked {prompt!r}, answered about {text!r}")
        elif answer.status_code == 503:
            error = answer.json()["error"]
            if not error["sentence"].endswith(".") or int(answer.headers["retry-after"]) < 1:
                seen.problems.append(f"a refusal that helps nobody: {answer.text}")
        else:
            seen.problems.append(f"{answer.status_code}: {answer.text[:200]}")


async def watch(http: httpx2.AsyncClient, over: asyncio.Event, seen: Seen) -> None:
    """Ask what asks nothing of the model, all the while."""
    while not over.is_set():
        alive, ready, metrics = [await http.get(f"/{n}") for n in ("livez", "readyz", "metrics")]
        seen.looks += 1
        if alive.status_code != 200:
            seen.problems.append(f"/livez says {alive.status_code}")
        full = ready.status_code == 503 and "place in the queue" in ready.json()["reason"]
        seen.unready += full
        if ready.status_code != 200 and not full:
            seen.problems.append(f"/readyz says {ready.status_code}: {ready.text}")
        figures = dict(FIGURE.findall(metrics.text))
        seen.most_waiting = max(seen.most_waiting, float(figures["waiting"]))
        if float(figures["waiting"]) > float(figures["places"]):
            seen.problems.append(f"{figures['waiting']} wait in {figures['places']} places")
        await asyncio.sleep(0.02)


async def rush(app: FastAPI, address: str, each: int, enough: Callable[[Seen], bool]) -> Seen:
    """All clients at once, and the watcher beside them.

    The device is held until what they have seen is enough, so that it is as slow as it must be for
    that on every machine.
    """
    seen, over = Seen(), asyncio.Event()

    def hold(check: Check) -> None:
        until(lambda: check() or enough(seen), lambda: seen)

    app.state.explorer.device.submit(hold, deadline_s=None, first=True)
    limits = httpx2.Limits(max_connections=CLIENTS + 4)
    async with (
        httpx2.AsyncClient(base_url=address, timeout=PATIENCE, limits=limits) as http,
        httpx2.AsyncClient(base_url=address, timeout=PATIENCE) as beside,
        asyncio.TaskGroup() as group,
    ):
        watcher = group.create_task(watch(beside, over, seen))
        await asyncio.gather(*(ask(http, client, each, seen) for client in range(CLIENTS)))
        over.set()
        await watcher
    return seen


@pytest.fixture
def app(model_folder: Path, cache: Path) -> FastAPI:
    settings = settings_with(queue_places=PLACES, result_cache_mib=0, deadline_s=PATIENCE)
    return create_app(settings, load_tiny(model_folder, cache))


def refused(seen: Seen) -> bool:
    """Whether as many were refused as there are clients, while some waited."""
    return seen.statuses[503] >= CLIENTS and seen.most_waiting > 0


def test_more_clients_than_places(
    app: FastAPI, record_property: Callable[[str, object], None]
) -> None:
    with live(app) as address:
        seen = asyncio.run(rush(app, address, EACH, refused))
        with httpx2.Client(base_url=address, timeout=PATIENCE) as http:
            after = http.get("/api/v1/trace", params={"prompt": "after all that"})
            ready = http.get("/readyz").json()
    record_property("requests", seen.statuses.total())
    record_property("statuses", dict(sorted(seen.statuses.items())))
    record_property("most_waiting", seen.most_waiting)
    assert not seen.problems, "\n".join(seen.problems[:10])
    assert seen.statuses.total() == CLIENTS * EACH
    # Both happened, so both were looked at.
    assert seen.statuses[200] >= EACH
    assert seen.statuses[503] >= CLIENTS
    assert seen.looks >= 1
    assert 0 < seen.most_waiting <= PLACES
    assert after.status_code == 200
    assert (ready["ready"], ready["waiting"], ready["running"]) == (True, 0, None)


def test_the_rush_tells_of_a_queue_without_an_end(app: FastAPI) -> None:
    """The same clients find what is wrong with a server that refuses nobody."""
    app.state.explorer.device.places = 10_000
    with live(app) as address:
        seen = asyncio.run(rush(app, address, 1, lambda seen: seen.most_waiting > PLACES))
    assert seen.statuses[503] == 0
    assert seen.most_waiting > PLACES
