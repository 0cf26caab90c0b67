"""Requests of every kind, good and bad, as visitors and strangers make them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from bench.soak.words import prompt

CLIENTS = 4
Make = Callable[[random.Random], tuple[str, str, dict[str, Any]]]


def _get(path: str, **query: object) -> tuple[str, str, dict[str, Any]]:
    return "GET", path, {"params": query}


KINDS: dict[str, Make] = {
    "trace": lambda r: _get("/api/v1/trace", prompt=prompt(r), k=r.randint(1, 10)),
    "trace page": lambda r: _get("/", prompt=prompt(r)),
    "trace as CSV": lambda r: _get("/api/v1/trace.csv", prompt=prompt(r), k=3),
    "cell": lambda r: _get("/api/v1/cell", prompt=prompt(r), layer=-1),
    "curves": lambda r: _get("/api/v1/curves", prompt=prompt(r)),
    "bases": lambda r: _get("/api/v1/bases", token=f"#{r.randrange(4000)}"),
    "bases page": lambda r: _get("/bases", token=f"#{r.randrange(4000)}"),
    "search": lambda r: _get("/api/v1/tokens", search=prompt(r)[:4]),
    "map": lambda r: _get("/api/v1/map/points", layer=r.randint(0, 3)),
    "map page": lambda r: _get("/map", prompt=prompt(r)),
    "model page": lambda _: _get("/model"),
    "method page": lambda _: _get("/method"),
    "calibrate page": lambda _: _get("/calibrate"),
    "jobs page": lambda _: _get("/jobs"),
    "sets": lambda _: _get("/api/v1/sets"),
    "health": lambda _: _get("/readyz"),
    "figures": lambda _: _get("/metrics"),
    "script": lambda _: _get("/static/js/start.js"),
    "not there": lambda r: _get(f"/nowhere/{r.randrange(10**9)}"),
    "no such layer": lambda r: _get("/api/v1/cell", prompt=prompt(r), layer=99),
    "no prompt": lambda _: _get("/api/v1/trace"),
    "broken body": lambda _: ("POST", "/api/v1/trace", {"content": b'{"prompt": NaN'}),
    "a set and gone": lambda r: ("POST", "/api/v1/sets", {"files": {"file": ("a.csv", _rows(r))}}),
    "from elsewhere": lambda _: (
        "POST", "/api/v1/trace", {"headers": {"Sec-Fetch-Site": "cross-site"}, "json": {}}
    ),
}  # fmt: skip
"""Kind to a request of it."""


def _rows(chance: random.Random) -> bytes:
    rows = [f"{prompt(chance)},{'ab'[number % 2]}" for number in range(20)]
    return "\n".join(["text,label", *rows]).encode()


@dataclass
class Tally:
    """What came back."""

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


async def ask(address: str, requests: int, seed: int) -> Tally:
    """So many requests of all kinds in turn, by a few clients at once."""
    tally, chance = Tally(), random.Random(seed)
    kinds = [name for _ in range(requests // len(KINDS) + 1) for name in KINDS][:requests]
    chance.shuffle(kinds)
    left = iter(kinds)

    async def one(http: httpx2.AsyncClient) -> None:
        for kind in left:
            method, path, more = KINDS[kind](chance)
            try:
                answer = await http.request(method, path, **more)
                if kind == "a set and gone" and answer.status_code == 201:
                    await http.delete(f"/api/v1/sets/{answer.json()['id']}")
            except httpx2.HTTPError as error:
                tally.problems.append(f"{kind}: no answer, {error!r}")
                continue
            tally.statuses[answer.status_code] += 1
            tally.kinds[kind] += 1
            if answer.status_code >= 500:
                tally.problems.append(f"{kind}: {answer.status_code} {answer.text[:200]}")

    async with httpx2.AsyncClient(base_url=address, timeout=300, follow_redirects=False) as http:
        await asyncio.gather(*(one(http) for _ in range(CLIENTS)))
    return tally
