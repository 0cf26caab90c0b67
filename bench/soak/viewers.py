"""Eight viewers of what is saved, while nothing runs and while a training runs."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from bench.report import Goal, Section
from bench.soak.figures import percentile
from bench.soak.server import Server

VIEWERS, SECONDS, PATIENCE_S = 8, 30.0, 300.0
THINK_S = 0.5
"""Seconds that a viewer looks at a page before the next."""

SAVED = (
    "/calibrate/{}", "/api/v1/calibrations/{}", "/calibrate/{}/rows.csv", "/api/v1/calibrations",
    "/jobs", "/api/v1/jobs", "/api/v1/sets", "/method", "/model",
)  # fmt: skip
MODEL = ("/?prompt=The+king+and+the+queen", "/api/v1/map/points?layer=2")


@dataclass
class Seen:
    """Milliseconds by page, and what was wrong."""

    ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)

    def of(self, pages: Iterable[str]) -> list[float]:
        """Milliseconds of some of the pages."""
        return [ms for page in pages for ms in self.ms[page]]


def viewers(minutes: float | None) -> Section:
    """The table: the same viewers without and with a training beside them.

    Args:
        minutes: how long both take together; None: `SECONDS` each.
    """
    seconds = SECONDS if minutes is None else minutes * 30
    section = Section(
        f"viewers: {VIEWERS} people read while a training runs",
        f"Each opens a page, looks at it for {THINK_S} s and opens the next, {seconds:.0f} s"
        " without and with a calibration being trained; no results are kept, so that every page"
        " is made anew. Saved: pages, fragments and JSON of a saved calibration, of jobs and sets."
        " Model: a trace and a map, which need the device that trains.",
        ("page", "times idle", "p50 ms", "p95 ms", "times training", "p50 ms", "p95 ms", "× p95"),
    )
    with (
        Server(result_cache_mib=0) as server,
        httpx2.Client(base_url=server.address, timeout=PATIENCE_S) as http,
    ):
        saved = finished(http, started(http, epochs=3))["result"]
        calm = [path.format(saved) for path in SAVED]
        pages = [*calm, *MODEL]
        asyncio.run(look(server.address, pages, 3))  # warming
        idle = asyncio.run(look(server.address, pages, seconds))
        job = started(http, epochs=10_000, patience=0, target="layers:all")
        busy = asyncio.run(look(server.address, pages, seconds))
        state = http.get(f"/api/v1/jobs/{job}").json()
        http.post(f"/api/v1/jobs/{job}/cancel")
    for path in pages:
        section.add(path.replace(saved, "ID"), *cells(idle.ms[path], busy.ms[path]))
    section.add("saved, all", *cells(idle.of(calm), busy.of(calm)))
    section.add("model, all", *cells(idle.of(MODEL), busy.of(MODEL)))
    ratio = percentile(busy.of(calm), 0.95) / percentile(idle.of(calm), 0.95)
    section.goals += [
        Goal("p95 of saved pages over p95 while idle", ratio, 2.0),
        Goal("answers but 200", len(idle.problems) + len(busy.problems), 0),
        Goal("the training ran all the while", float(state["state"] == "running"), 1, True),
    ]
    section.notes.append(f"the training had taken {state['done']} of {state['total']} steps")
    section.notes += [f"wrong: {text}" for text in (idle.problems + busy.problems)[:5]]
    return section


def started(http: httpx2.Client, **options: object) -> str:
    """The id of a calibration that was just queued."""
    answer = http.post("/api/v1/calibrations", json={"set": "topics", "compare": True, **options})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def finished(http: httpx2.Client, job: str) -> dict[str, Any]:
    """The job once it has ended well."""
    until = time.monotonic() + PATIENCE_S
    while True:
        view: dict[str, Any] = http.get(f"/api/v1/jobs/{job}").json()
        if view["state"] == "done":
            return view
        assert view["state"] in ("queued", "running"), view
        assert time.monotonic() < until, view
        time.sleep(0.2)


def cells(idle: list[float], busy: list[float]) -> list[str]:
    """As cells of the table."""
    found = []
    for ms in (idle, busy):
        found += [str(len(ms)), *(f"{percentile(ms, share):,.0f}" for share in (0.5, 0.95))]
    return [*found, f"{percentile(busy, 0.95) / percentile(idle, 0.95):.2f}"]


async def look(address: str, pages: list[str], seconds: float) -> Seen:
    """What the viewers saw."""
    seen, until = Seen(), time.monotonic() + seconds

    async def one(number: int) -> None:
        async with httpx2.AsyncClient(base_url=address, timeout=PATIENCE_S) as http:
            turn = number
            while time.monotonic() < until:
                path = pages[turn % len(pages)]
                turn += 1
                began = time.perf_counter()
                answer = await http.get(path)
                seen.ms[path].append((time.perf_counter() - began) * 1000)
                if answer.status_code != 200:
                    seen.problems.append(f"{path}: {answer.status_code} {answer.text[:200]}")
                await asyncio.sleep(THINK_S)

    await asyncio.gather(*(one(number) for number in range(VIEWERS)))
    return seen
