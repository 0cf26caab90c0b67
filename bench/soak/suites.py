"""The long variants of the tests: the same files as in `make test`, with their knobs turned up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET  # nosec B405: it reads what our own pytest wrote
from dataclasses import dataclass
from pathlib import Path

from bench.report import Goal, Section
from bench.soak.server import ROOT


@dataclass(frozen=True)
class Suite:
    """Some tests, and how far they are turned up."""

    title: str
    paths: tuple[str, ...]
    knobs: dict[str, int]
    """Environment variable to its value in the default length of a part."""
    select: str = ""
    """As pytest's ``-k``."""


SUITES = {
    "slow": Suite(
        "slow: connections that idle, trickle or do not read",
        ("tests/app/web/test_connections.py",),
        {"LEXISCOPE_TEST_SLOW": 600},
    ),
    "sharing": Suite(
        "sharing: a greedy client, a rush of clients, and another model while everybody asks",
        (
            "tests/app/model/test_fairness.py",
            "tests/app/model/test_load.py",
            "tests/app/model/test_switching.py",
        ),
        {
            "LEXISCOPE_TEST_POLITE": 200,
            "LEXISCOPE_TEST_LOAD": 60,
            "LEXISCOPE_TEST_SWITCHES": 100,
        },
    ),
    "kills": Suite(
        "kills: kill -9 and SIGTERM at random moments, of the store and of the whole server",
        (
            "tests/app/storage/test_store.py",
            "tests/app/storage/test_faults.py",
            "tests/app/web/test_serving.py",
        ),
        {
            "LEXISCOPE_TEST_KILLS": 200,
            "LEXISCOPE_TEST_SERVER_KILLS": 10,
            "LEXISCOPE_TEST_DAMAGES": 600,
            "LEXISCOPE_TEST_DISK_SIZES": 60,
            "LEXISCOPE_TEST_SIGNALS": 20,
        },
    ),
    "resumes": Suite(
        "resumes: a server killed while it trains goes on to the same numbers",
        ("tests/app/jobs/test_resume.py",),
        {"LEXISCOPE_TEST_RESUMES": 20},
    ),
    "fuzz": Suite(
        "fuzz: requests made from the API's description, and links that were damaged",
        ("tests/app/web/test_fuzz.py", "tests/app/web/test_permalinks.py"),
        {"LEXISCOPE_TEST_FUZZ": 13_000, "LEXISCOPE_TEST_LINKS": 10_000},
    ),
    "mutated": Suite(
        "mutated: damaged files, uploads and artifacts",
        ("tests/app/calibrate/test_mutated.py",),
        {"LEXISCOPE_TEST_MUTATED_FILES": 100_000, "LEXISCOPE_TEST_MUTATED_ARTIFACTS": 5_000},
    ),
}
"""Part to its tests."""
DEFAULT_MINUTES = 10.0


def suite(name: str, minutes: float | None) -> Section:
    """The table of one suite: a line per test, with the figures that the test wrote down.

    Args:
        name: of `SUITES`.
        minutes: turns the knobs in proportion; None: as they stand in `SUITES`.
    """
    one = SUITES[name]
    share = 1.0 if minutes is None else minutes / DEFAULT_MINUTES
    knobs = {knob: max(least(one, knob), round(n * share)) for knob, n in one.knobs.items()}
    section = Section(
        one.title,
        f"`{' '.join(f'{k}={v}' for k, v in knobs.items())} pytest {' '.join(one.paths)}`",
        ("test", "outcome", "seconds", "figures"),
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lexiscope-soak-") as folder:
        report = Path(folder) / "report.xml"
        command = [
            *(sys.executable, "-m", "pytest", *one.paths, "-p", "no:cacheprovider"),
            *(["-k", one.select] if one.select else []),
            *("-o", "junit_family=xunit1", f"--junitxml={report}"),
        ]
        environment = {**os.environ, **{knob: str(value) for knob, value in knobs.items()}}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        failed = lines(section, report) if report.exists() else 1
    if done.returncode not in (0, 1):
        section.notes.append(f"pytest ended with {done.returncode}: {done.stdout[-500:]}")
        failed = max(failed, 1)
    section.goals.append(Goal("tests that failed", failed, 0))
    section.goals.append(Goal("tests that ran", len(section.rows), 1, at_least=True))
    section.notes.append(f"{time.perf_counter() - began:.0f} s in all")
    return section


def least(one: Suite, knob: str) -> int:
    """What `make test` takes: below it a test may have too little to look at."""
    found = None
    for path in one.paths:
        text = (ROOT / path).read_text(encoding="utf-8")
        found = found or re.search(rf'"{knob}",\s*"(\d+)"', text)
    assert found is not None, f"no file of {one.title!r} reads {knob}"
    return int(found[1])


def lines(section: Section, report: Path) -> int:
    """Add a line per test that ran; how many of them failed."""
    failed = 0
    short: dict[str, int] = {}
    for case in ET.parse(report).iter("testcase"):  # nosec B314: as above
        if case.find("skipped") is not None:
            section.notes.append(f"skipped: {case.get('name')}")
            continue
        wrong = case.find("failure") if case.find("failure") is not None else case.find("error")
        failed += wrong is not None
        figures = ", ".join(
            f"{one.get('name')}: {one.get('value')}" for one in case.iter("property")
        )
        seconds = float(case.get("time", 0))
        name = str(case.get("name"))
        if wrong is None and not figures and seconds < 1:
            short[str(case.get("classname"))] = short.get(str(case.get("classname")), 0) + 1
            continue
        section.add(name, "FAILED" if wrong is not None else "passed", f"{seconds:.0f}", figures)
        if wrong is not None:
            section.notes.append(f"{name}: {str(wrong.get('message'))[:300]}")
    for where, count in short.items():
        section.add(f"{where}: {count} more", "passed", "0", "")
    return failed
