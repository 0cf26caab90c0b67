"""The forms of the page Calibrate as a browser sends them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from parsed import Parsed
from starlette.testclient import TestClient
from waiting import until

from app.jobs.job import JobView
from app.jobs.lanes import Jobs

COLD = ["frost on the pane", "ice on the pond", "snow in the yard", "a cold wind", "hail at noon"]


WARM = ["sun on the wall", "a hot day", "the heat of july", "warm sand", "a mild evening"]


def table_of(extra: str = "") -> bytes:
    """Sixty labelled texts, and whatever is put behind them."""
    lines = ["nr,sentence,kind"]
    for i in range(6):
        lines += [f'{i},"{text} {i}",cold' for text in COLD]
        lines += [f'{i},"{text} {i}",warm' for text in WARM]
    return ("\n".join(lines) + "\n" + extra).encode()


def form_of(got: Parsed) -> list[tuple[str, str]]:
    """What a browser would send of the form as it stands."""
    inside = [
        e for e in got.elements
        if any(p.attrs.get("id") == "calibrate-form" for p in e.within)
        and "form" not in e.attrs
    ]  # fmt: skip
    fields = []
    for e in inside:
        if e.tag == "input":
            kind = e.attrs.get("type")
            if kind in ("radio", "checkbox") and "checked" not in e.attrs:
                continue
            fields.append((e.attrs["name"], e.attrs.get("value", "")))
        elif e.tag == "textarea":
            fields.append((e.attrs["name"], e.text.removeprefix("\n")))
        elif e.tag == "option" and "selected" in e.attrs:
            select = next(p for p in reversed(e.within) if p.tag == "select")
            fields.append((select.attrs["name"], e.attrs["value"]))
    return fields


def encoded(fields: list[tuple[str, str]]) -> dict[str, Any]:
    """As a test client sends a form with repeated names."""
    out: dict[str, Any] = {}
    for name, value in fields:
        out.setdefault(name, []).append(value)
    return out


def finished(client: TestClient, href: str) -> JobView:
    """Wait for a job of this client's app."""
    job = urlsplit(href).path.rsplit("/", 1)[-1]
    jobs: Jobs = client.app.state.jobs  # type: ignore[attr-defined]
    until(lambda: jobs.get(job).finished, lambda: jobs.get(job))
    return jobs.get(job)


def job(**changes: Any) -> JobView:
    """A job under way."""
    given = JobView(
        id="1" * 24, kind="calibration", title="Calibration: Topics", lane="device",
        state="running", stopping=False, note="training", done=3, total=12, share=0.25,
        values={}, history=(), seconds_left=30.0, seconds_run=10.0, ahead=None, problem=None,
        result=None, result_href=None, restartable=False, created="", started=None, ended=None,
    )  # fmt: skip
    return replace(given, **changes)
