"""What locust runs: clients that trace prompts nobody asked before, and one that only watches.

A client that is refused tries again when the answer says so; with ``SOAK_RUDE`` after `AGAIN_S`,
whatever it says. Every request becomes a line of JSON in the file that ``SOAK_RECORD`` names.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from typing import Any

from locust import FastHttpUser, constant, events, task

from bench.soak.words import prompt

AGAIN_S = 0.2
RUDE = bool(os.environ.get("SOAK_RUDE"))
WAITING = re.compile(r'^lexiscope_model\{what="(waiting|places)"\} (\S+)$', re.MULTILINE)
_record = open(os.environ["SOAK_RECORD"], "a", encoding="utf-8")  # noqa: SIM115, PTH123


def note(what: str, status: int, seconds: float, **more: Any) -> None:
    line = {"what": what, "status": status, "ms": seconds * 1000, "at": time.time(), **more}
    _record.write(json.dumps(line) + "\n")


@events.quitting.add_listener
def _close(**_: Any) -> None:
    _record.close()


class Reader(FastHttpUser):
    """Traces one prompt after the other."""

    wait_time = constant(0)
    network_timeout = 300.0
    connection_timeout = 60.0

    def on_start(self) -> None:
        # From the system's chance: another run with the same seed would be answered from the cache.
        self.chance = random.Random()

    @task
    def trace(self) -> None:
        question = {"prompt": prompt(self.chance), "k": 5}
        started = time.perf_counter()
        with self.client.post(
            "/api/v1/trace", json=question, name="trace", catch_response=True
        ) as answer:
            seconds = time.perf_counter() - started
            status = int(answer.status_code or 0)
            note("trace", status, seconds, problem=problem(answer, status))
            answer.success()
            told = str(answer.headers.get("Retry-After", "")) if status == 503 else ""
        if status != 200:
            time.sleep(AGAIN_S if RUDE or not told.isdigit() else int(told))


class Watcher(FastHttpUser):
    """Asks how the server is, five times a second."""

    fixed_count = 1
    wait_time = constant(0.2)
    network_timeout = 300.0

    @task
    def look(self) -> None:
        for path in ("/livez", "/readyz", "/metrics"):
            started = time.perf_counter()
            with self.client.get(path, catch_response=True) as answer:
                seconds = time.perf_counter() - started
                status = int(answer.status_code or 0)
                answer.success()
                figures = dict(WAITING.findall(answer.text or "")) if path == "/metrics" else {}
                note(path, status, seconds, **{k: float(v) for k, v in figures.items()})


def problem(answer: Any, status: int) -> str | None:
    """What is wrong about an answer, beyond its status, or None."""
    if status == 0:
        return f"no answer: {answer.error!r}"
    if status != 503:
        return None if status == 200 else f"{status}: {(answer.text or '')[:200]}"
    try:
        sentence = json.loads(answer.text)["error"]["sentence"]
        told = sentence.endswith(".") and int(answer.headers["Retry-After"]) >= 1
    except (ValueError, KeyError, TypeError):
        told = False
    return None if told else f"503 that helps nobody: {(answer.text or '')[:200]}"
