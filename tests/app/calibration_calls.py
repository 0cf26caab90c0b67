"""Label sets and calibrations over the API, as several tests ask for them."""

from __future__ import annotations

import random
from typing import Any

from starlette.testclient import TestClient
from waiting import until


def sentences(n: int = 120, seed: int = 3) -> str:
    """Rows of two kinds that their words tell apart."""
    chance = random.Random(seed)
    kinds = {"cat": ["cat sat on the mat", "cat and the dog"], "dog": ["dog sat", "mat of the dog"]}
    rows = ["text,label"]
    for i in range(n):
        label = chance.choice(sorted(kinds))
        rows.append(f"The {chance.choice(kinds[label])} {i} {chance.choice('abcdef')},{label}")
    return "\n".join(rows) + "\n"


def upload(client: TestClient, body: bytes | str, name: str = "rows.csv", **fields: str) -> Any:
    data = body.encode() if isinstance(body, str) else body
    return client.post("/api/v1/sets", files={"file": (name, data)}, data=fields)


def follow(client: Any, job: str) -> Any:
    """The job when it has ended."""

    def ended() -> Any:
        view = client.get(f"/api/v1/jobs/{job}").json()
        return view if view["finished"] else None

    return until(ended)


def question(set_id: str, **more: Any) -> dict[str, Any]:
    return {
        "set": set_id,
        "template": "{text} is a",
        "epochs": 4,
        "seed": 5,
        "compare": False,
        **more,
    }


def csv_of(rows: int, seed: int = 0) -> bytes:
    chance = random.Random(seed)
    lines = ["text,label"]
    lines += [f"{chance.choice(['cat', 'dog'])} {n} {seed},{n % 2}" for n in range(rows)]
    return ("\n".join(lines) + "\n").encode()
