"""1, 4, 16 and 64 clients that trace different prompts on the model that ships (locust)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.report import Goal, Section
from bench.soak.figures import Record, percentile
from bench.soak.server import ROOT, Server

CLIENTS = (1, 4, 16, 64)
SECONDS = 30.0


def load(minutes: float | None) -> Section:
    """The table, and whether the promises about load were kept.

    Args:
        minutes: how long all runs take together; None: `SECONDS` each.
    """
    seconds = SECONDS if minutes is None else minutes * 60 / (len(CLIENTS) + 1)
    section = Section(
        "load: clients that trace different prompts",
        f"{len(CLIENTS) + 1} runs of {seconds:.0f} s against one server, the clients on the same"
        " machine; a client asks again as soon as it is answered, after a refusal when Retry-After"
        " says so; rude ones 0.2 s after it. Milliseconds are those of answers, refusals not"
        " counted.",
        ("clients", "answers", "per s", "p50 ms", "p95 ms", "p99 ms", "refused (503)", "other",
         "no answer", "livez p99 ms", "most waiting"),
    )  # fmt: skip
    records = {}
    with Server() as server:
        section.notes.append(f"ready {server.ready_s:.1f} s after its start")
        run(server, 1, 5)  # warming
        for clients in CLIENTS:
            records[clients] = run(server, clients, seconds)
        rude = run(server, CLIENTS[-1], seconds, rude=True)
        places = records[CLIENTS[0]].most("places")
        alive = server.alive
    for clients, record in records.items():
        section.add(*row(str(clients), record))
    section.add(*row(f"{CLIENTS[-1]} rude", rude))
    judge(section, records, rude, places, alive)
    return section


def run(server: Server, clients: int, seconds: float, *, rude: bool = False) -> Record:
    """What so many clients saw."""
    with tempfile.TemporaryDirectory(prefix="lexiscope-soak-") as folder:
        path = Path(folder) / "record"
        environment = {
            **os.environ,
            "SOAK_RECORD": str(path),
            "SOAK_RUDE": "1" if rude else "",
        }
        command = [
            *(sys.executable, "-m", "locust", "--headless", "--only-summary"),
            *("-f", str(Path(__file__).with_name("locustfile.py")), "--host", server.address),
            *("-u", str(clients + 1), "-r", str(clients + 1), "-t", f"{seconds:.0f}s"),
            *("--stop-timeout", "60", "--loglevel", "ERROR"),
        ]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if not path.exists():
            raise RuntimeError(f"locust wrote nothing: {done.stderr[-2000:]}")
        return Record.read(path)


def row(clients: str, record: Record) -> tuple[str, ...]:
    """A line of the table."""
    good, statuses = record.ms("trace"), record.statuses("trace")
    other = statuses.total() - statuses[200] - statuses[503] - statuses[0]
    times = [f"{percentile(good, share):,.0f}" for share in (0.5, 0.95, 0.99)]
    return (
        clients,
        f"{len(good):,}",
        f"{len(good) / record.seconds:.1f}",
        *times,
        f"{statuses[503]:,}",
        str(other),
        str(statuses[0]),
        f"{percentile(record.ms('/livez'), 0.99):,.0f}",
        f"{record.most('waiting'):.0f}",
    )


def judge(
    section: Section, records: dict[int, Record], rude: Record, places: float, alive: bool
) -> None:
    """Add the promises to the section."""
    every = [*records.values(), rude]
    wrong = [text for record in every for text in record.problems()]
    section.goals.append(
        Goal("statuses but 200 and 503 with Retry-After and a sentence", len(wrong), 0)
    )
    section.notes += [f"wrong: {text}" for text in wrong[:5]]
    waiting = max(record.most("waiting") for record in every)
    section.goals.append(Goal("waiting at once, at most the places", waiting, places))
    alone = percentile(records[1].ms("trace"), 0.99)
    named = {f"{clients} clients": record for clients, record in records.items() if clients > 1}
    for name, record in {**named, f"{CLIENTS[-1]} rude clients": rude}.items():
        ratio = percentile(record.ms("trace"), 0.99) / alone
        section.goals.append(Goal(f"p99 of {name} over p99 of one", ratio, places + 1))
    worst = max(percentile(record.ms("/livez"), 0.99) for record in every)
    section.goals.append(Goal("p99 of /livez, ms", worst, 1000))
    dead = sum(n for r in every for s, n in r.statuses("/livez").items() if s != 200)
    section.goals.append(Goal("/livez that was not 200", dead, 0))
    section.goals.append(Goal("the server lived on", float(alive), 1, at_least=True))
