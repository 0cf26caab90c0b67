"""The soak run judges as it should: what is broken is told, and no long variant is left out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.report import Goal, Section
from bench.soak import audit, report, suites
from bench.soak.figures import Record, percentile
from bench.soak.load import judge, row
from bench.soak.memory import KINDS
from bench.soak.words import prompt

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"LEXISCOPE_TEST_SEED", "LEXISCOPE_TEST_HOSTILE_TOKENS"}
"""Which requests are made, and a number that `make test` has in full already."""


def knobs_of_tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        found |= set(re.findall(r'environ\.get\(\s*"(LEXISCOPE_TEST_\w+)"', path.read_text()))
    return found


def test_every_test_that_can_be_longer_is_longer_in_a_soak_run() -> None:
    turned = {knob for suite in suites.SUITES.values() for knob in suite.knobs}
    assert turned == knobs_of_tests() - ELSEWHERE


@pytest.mark.parametrize("name", suites.SUITES)
def test_a_suite_turns_knobs_that_its_own_files_read(name: str) -> None:
    suite = suites.SUITES[name]
    for knob, rounds in suite.knobs.items():
        assert suites.least(suite, knob) < rounds


def test_every_part_is_described() -> None:
    told = (ROOT / "CONTRIBUTING.md").read_text()
    for part in ("start", "load", "viewers", "memory", *suites.SUITES, "audit"):
        assert f"| `{part}` |" in told


def record(*lines: tuple[str, int, float, str | None]) -> Record:
    seen = [{"what": a, "status": b, "ms": c, "problem": d} for a, b, c, d in lines]
    figures = {"what": "/metrics", "status": 200, "ms": 1.0, "waiting": 3.0, "places": 16.0}
    return Record((*seen, figures), 10.0)


GOOD = (("trace", 200, 10.0, None), ("/livez", 200, 2.0, None))


def broken(records: dict[int, Record], alive: bool = True, rude: Record | None = None) -> list[str]:
    section = Section("load", "", ("a",))
    judge(section, records, rude or record(*GOOD), 16, alive)
    return [goal.text for goal in section.goals if not goal.met]


def test_a_quiet_run_keeps_every_promise() -> None:
    refused = ("trace", 503, 1.0, None)
    assert broken({1: record(*GOOD), 4: record(*GOOD, refused)}) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (("trace", 500, 1.0, "500: oh"), "statuses but"),
        (("trace", 0, 1.0, "no answer: reset"), "statuses but"),
        (("trace", 503, 1.0, "503 that helps nobody"), "statuses but"),
        (("trace", 200, 10.0 * 18, None), "p99 of 4 clients"),
        (("/livez", 200, 1001.0, None), "p99 of /livez"),
        (("/livez", 503, 1.0, None), "/livez that was not 200"),
    ],
)
def test_what_breaks_a_promise_of_load_is_told(
    line: tuple[str, int, float, str | None], told: str
) -> None:
    for found in (
        broken({1: record(*GOOD), 4: record(*GOOD, line)}),
        broken({1: record(*GOOD)}, rude=record(*GOOD, line)),
    ):
        assert len(found) == 1
        assert found[0].replace("64 rude", "4").startswith(told)


def test_a_server_that_died_or_queued_too_much_is_told() -> None:
    assert broken({1: record(*GOOD)}, alive=False) == ["the server lived on"]
    many = Record(({"what": "/metrics", "status": 200, "ms": 1.0, "waiting": 17.0},), 1.0)
    assert "waiting at once" in broken({1: record(*GOOD), 4: many})[0]


def test_a_run_without_answers_is_no_success() -> None:
    assert broken({1: record(*GOOD), 4: record(GOOD[1])}) == ["p99 of 4 clients over p99 of one"]


def test_the_line_of_a_run() -> None:
    found = row("4", record(*GOOD, ("trace", 503, 1.0, None), ("trace", 0, 1.0, "gone")))
    assert found == ("4", "1", "0.1", "10", "10", "10", "1", "0", "1", "2", "3")


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([7.0], 0.95) == 7.0
    assert str(percentile([], 0.5)) == "nan"


def test_the_record_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "record"
    lines = [{"what": "trace", "status": 200, "ms": 5.0, "at": t, "problem": None} for t in (1, 4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = Record.read(path)
    assert (found.seconds, found.ms("trace"), found.problems()) == (3, [5.0, 5.0], [])


def test_a_test_that_failed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(
        '<testsuites><testsuite><testcase classname="a" name="kills" time="12.3"><properties>'
        '<property name="kills" value="200"/></properties></testcase>'
        '<testcase classname="a" name="quick" time="0.1"/>'
        '<testcase classname="a" name="skipped" time="0.1"><skipped/></testcase>'
        '<testcase classname="a" name="bad" time="2"><failure message="lost one"/></testcase>'
        "</testsuite></testsuites>"
    )
    section = Section("kills", "", ("test", "outcome", "seconds", "figures"))
    assert suites.lines(section, path) == 1
    assert section.rows == [
        ("kills", "passed", "12", "kills: 200"),
        ("bad", "FAILED", "2", ""),
        ("a: 1 more", "passed", "0", ""),
    ]
    assert section.notes == ["skipped: skipped", "bad: lost one"]


def answers(monkeypatch: pytest.MonkeyPatch, text: str) -> Section:
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=text, stderr="no route to host")
    )
    section = Section("audit", "", ("what", "looked at", "found"))
    audit.packages(section)
    return section


def test_an_audit_that_saw_nothing_does_not_say_that_there_is_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skipped = {"dependencies": [{"name": "a", "skip_reason": "not found"}]}
    for text in ("", json.dumps(skipped)):
        section = answers(monkeypatch, text)
        assert section.rows == [("pip-audit", "0" + " packages" * bool(text), "not tried")]
        assert section.goals == []
        assert "nothing is known" in section.notes[0]


def test_an_audit_names_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    hole = {"id": "CVE-1", "fix_versions": ["2"]}
    found = {"dependencies": [{"name": "a", "version": "1", "vulns": [hole]}]}
    section = answers(monkeypatch, json.dumps(found))
    assert [goal.met for goal in section.goals] == [False]
    assert section.notes == ["a 1: CVE-1, mended in 2"]


def test_the_report_holds_every_part_of_the_day(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    for part, value in (("load", 0.0), ("memory", 3.0)):
        section = Section(f"{part}: what", "compared", ("a", "b"), [("1", "2")])
        section.goals.append(Goal("lost", value, 0))
        report.keep(part, section, 0.5)
    text = report.write(("start", "load", "memory")).read_text()
    assert "promises kept: 1 of 2" in text
    assert "BROKEN memory: lost: MISSED: 3, goal ≤ 0" in text
    assert "parts: load, memory; not run: start" in text
    assert report.kept("start") is None
    assert report.kept("load") == report.kept("load")


def test_a_part_that_is_none_is_refused_before_anything_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", "lode"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "a part is one of start, load" in done.stderr


def test_every_kind_of_request_can_be_made() -> None:
    import random

    chance = random.Random(1)
    for make in KINDS.values():
        method, path, _ = make(chance)
        assert method in ("GET", "POST")
        assert path.startswith("/")
    assert prompt(chance) != prompt(chance)
