"""From the start of the process to the first answer and to ready."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from bench.report import Goal, Section
from bench.soak.server import Server

ROUNDS = 5


def start(minutes: float | None) -> Section:
    """The table: a first start that computes the bases, and then starts that find them kept."""
    section = Section(
        "start: from the process to ready",
        f"`lexiscope serve` on the model that ships: once with an empty cache, then {ROUNDS} times"
        " with the bases that the first start kept.",
        ("start", "/livez s", "/readyz s", "exit status"),
    )
    ready = []
    statuses = []
    with tempfile.TemporaryDirectory(prefix="lexiscope-soak-") as folder:
        for number in range(ROUNDS + 1):
            with Server(Path(folder)) as server:
                status = server.stop()
            statuses.append(status)
            name = f"kept bases, {number}" if number else "empty cache"
            section.add(name, f"{server.listening_s:.2f}", f"{server.ready_s:.2f}", str(status))
            if number:
                ready.append(server.ready_s)
    section.notes.append(f"median with kept bases: {statistics.median(ready):.2f} s to ready")
    section.goals.append(Goal("ends that were not good", sum(map(bool, statuses)), 0))
    return section
