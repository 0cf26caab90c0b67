"""What the parts of a soak run found, kept part by part, and the report that is made of it."""

from __future__ import annotations

import datetime
import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.report import Goal, Section, hardware
from bench.soak.server import MODEL, ROOT

RESULTS = ROOT / "bench" / "results"
KEPT = ROOT / "build" / "soak"
"""Where finished parts are kept, so that a run can be continued later the same day."""


def keep(part: str, section: Section, load: float) -> None:
    """Keep what a part found."""
    section.notes.append(
        f"this part took {section.seconds:.0f} s and ended at"
        f" {datetime.datetime.now(datetime.UTC):%H:%M} UTC; 1-minute load before it {load:.1f}"
    )
    folder = KEPT / datetime.date.today().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part}.json").write_text(json.dumps(asdict(section)), encoding="utf-8")


def kept(part: str) -> Section | None:
    """What a part found earlier today, or None."""
    path = KEPT / datetime.date.today().isoformat() / f"{part}.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    found["goals"] = [Goal(**goal) for goal in found["goals"]]
    found["columns"] = tuple(found["columns"])
    found["rows"] = [tuple(row) for row in found["rows"]]
    return Section(**found)


def write(parts: tuple[str, ...]) -> Path:
    """The report of all parts that ran today, in their order."""
    words, slug = hardware()
    today = datetime.date.today().isoformat()
    found = {part: section for part in parts if (section := kept(part)) is not None}
    goals = [(part, goal) for part, section in found.items() for goal in section.goals]
    names = ("torch", "transformers", "fastapi", "uvicorn", "locust", "schemathesis")
    lines = [
        f"# Soak: long runs against real servers, {today}",
        "",
        f"- machine: {words}; Python {platform.python_version()}, "
        + ", ".join(f"{name} {at}" for name in names if (at := _version(name))),
        f"- model: {MODEL.relative_to(ROOT)}, default settings but where a part says otherwise;"
        " clients and server on the same machine",
        f"- parts: {', '.join(found)}; not run: "
        + (", ".join(part for part in parts if part not in found) or "none"),
        f"- promises kept: {sum(goal.met for _, goal in goals)} of {len(goals)}",
        *(
            f"  - BROKEN {part}: {goal.text}: {goal.verdict}"
            for part, goal in goals
            if not goal.met
        ),
        "",
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"soak_{slug}_{today}.md"
    body = "\n".join(lines) + "\n" + "\n".join(section.text() for section in found.values())
    path.write_text(body, encoding="utf-8")
    return path


def _version(name: str) -> str | None:
    """Of an installed package, or None: a part that needs it says so itself."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def load_now() -> float:
    """The 1-minute load of the machine."""
    return os.getloadavg()[0]
