"""Memory, descriptors and threads over many requests of every kind."""

from __future__ import annotations

import asyncio
import time

from bench.report import MIB, Goal, Section, mib
from bench.soak.mixed import CLIENTS, KINDS, Tally, ask
from bench.soak.server import Body, Server

WARM, REQUESTS, PER_MINUTE = 200, 10_000, 1_000
LOOKS = 5
CACHE_MIB = 4
SETTLE_S = 20.0
"""Longer than the server keeps an idle connection, so that only what stays is counted."""


def memory(minutes: float | None) -> Section:
    """The table: what the process holds after the warming, on the way, and at the end.

    Args:
        minutes: about how long; None: `REQUESTS` requests.
    """
    requests = REQUESTS if minutes is None else round(minutes * PER_MINUTE)
    section = Section(
        f"memory: {requests:,} requests",
        f"{len(KINDS)} kinds of requests, good and bad, in random order by {CLIENTS} clients, after"
        f" {WARM} to warm up. The caches of results and of states are set to {CACHE_MIB} MiB: they"
        " fill while warming, so that what is kept on purpose does not hide what is lost.",
        ("after", "RSS MiB", "descriptors", "threads"),
    )
    tally = Tally()
    with Server(result_cache_mib=CACHE_MIB, state_cache_mib=CACHE_MIB) as server:
        asyncio.run(ask(server.address, WARM, 0))
        before = settled(server)
        section.add(f"{WARM} (warm)", *cells(before))
        for look in range(LOOKS):
            part = requests // LOOKS
            one = asyncio.run(ask(server.address, part, look + 1))
            tally.statuses += one.statuses
            tally.problems += one.problems
            now = settled(server) if look == LOOKS - 1 else server.body()
            section.add(f"{WARM + part * (look + 1):,}", *cells(now))
    grown = (now.resident - before.resident) / MIB
    section.goals += [
        Goal("RSS grown, MiB", grown, max(64.0, 0.05 * before.resident / MIB)),
        Goal("descriptors more", now.descriptors - before.descriptors, 2),
        Goal("threads more", now.threads - before.threads, 2),
        Goal("5xx or no answer", len(tally.problems), 0),
    ]
    section.notes.append(f"statuses: {dict(sorted(tally.statuses.items()))}")
    section.notes += [f"wrong: {text}" for text in tally.problems[:5]]
    return section


def settled(server: Server) -> Body:
    """What the process holds once idle connections and helpers are gone."""
    time.sleep(SETTLE_S)
    return server.body()


def cells(body: Body) -> tuple[str, str, str]:
    """As cells of the table."""
    return mib(body.resident), str(body.descriptors), str(body.threads)
