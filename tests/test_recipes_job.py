"""A throw-away kind of job, added as CONTRIBUTING's recipe says, does all that jobs do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asgi import BASE, load_tiny, settings_with
from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.testclient import TestClient
from tiny_models import Folders

from app.jobs.api import job_answer
from app.jobs.job import JobView
from app.jobs.lanes import CHECKPOINTS, Jobs
from app.main import create_app
from engine.checkpoints import Checkpoints
from engine.progress import Progress, Steps

pytestmark = pytest.mark.slow

LONG = 120.0
ADDRESS = "/api/v1/count"


def counting(upto: int, free: threading.Event, kept: Checkpoints) -> Steps[int]:
    """The work: it counts to half of `upto`, and further once it may."""
    place = kept.of("count")
    held = place.load()
    at: int = 0 if held is None else held.values["at"]
    with place.on_close(lambda: place.save({}, {"at": at}, place=f"step {at} of {upto}")):
        while at < upto:
            if at < upto // 2 or free.wait(0.01):
                at += 1
            yield Progress(at, upto, "counting", {"counted": float(at)})
    return at


def add_kind(app: FastAPI, free: threading.Event, counted: list[int]) -> None:
    """The recipe: a function that asks for it, its name among the kinds, and an address."""
    jobs: Jobs = app.state.jobs

    async def start(request: Request, spec: Mapping[str, Any]) -> JobView:
        assert jobs.store is not None
        kept = Checkpoints(jobs.store.scratch(CHECKPOINTS) / "count", every_s=0.0)

        def save(result: int) -> None:
            counted.append(result)

        return await jobs.start(
            "count",
            f"Counting to {spec['upto']}",
            partial(counting, spec["upto"], free, kept),
            save,
            href="/jobs",
            spec=spec,
            kept=kept,
        )

    async def ask(request: Request) -> Response:
        return job_answer(request, await start(request, {"upto": 8}), 202)

    jobs.kinds["count"] = start
    app.add_api_route(ADDRESS, ask, methods=["POST"])


def until(client: httpx2.Client, job: str, holds: Callable[[dict[str, Any]], bool]) -> Any:
    """The job once something holds of it."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        found = client.get(f"/api/v1/jobs/{job}").json()
        if holds(found):
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def test_a_kind_of_job_is_queued_followed_cancelled_and_resumed(
    folders: Folders, tmp_path: Path
) -> None:
    space = load_tiny(folders["llama"], tmp_path / "cache")
    settings = settings_with(data_dir=tmp_path / "data")
    free, counted = threading.Event(), list[int]()

    app = create_app(settings, space)
    with TestClient(app, base_url=BASE) as client:
        add_kind(app, free, counted)
        asked = client.post(ADDRESS)
        assert asked.status_code == 202
        job = asked.json()["id"]
        assert asked.headers["location"] == f"/api/v1/jobs/{job}"
        found = until(client, job, lambda one: one["done"] == 4)
        assert (found["kind"], found["state"], found["total"]) == ("count", "running", 8)
        assert found["values"] == {"counted": 4.0}
        for page in ("/jobs", f"/jobs/{job}"):
            assert "Counting to 8" in client.get(page).text
        assert "4 of 8" in client.get(f"/jobs/{job}").text

        assert client.post(f"/api/v1/jobs/{job}/cancel").status_code == 200
        found = until(client, job, lambda one: one["finished"])
        assert (found["state"], found["resumes"], found["restartable"]) == ("cancelled", None, True)

        job = client.post(ADDRESS).json()["id"]
        until(client, job, lambda one: one["done"] == 4)

    app = create_app(settings, space)
    with TestClient(app, base_url=BASE) as client:
        found = client.get(f"/api/v1/jobs/{job}").json()
        assert (found["state"], found["resumes"]) == ("interrupted", "step 4 of 8")
        refused = client.post(f"/api/v1/jobs/{job}/restart")
        assert refused.status_code == 422
        assert "started again where it was asked for" in refused.json()["error"]["sentence"]

        add_kind(app, free, counted)
        again = client.post(f"/api/v1/jobs/{job}/restart")
        assert again.status_code == 202
        assert again.json()["resumes"] == "step 4 of 8"
        assert counted == []
        free.set()
        found = until(client, again.json()["id"], lambda one: one["finished"])
        assert (found["state"], found["result_href"]) == ("done", "/jobs")
        assert counted == [8]
        assert client.post(f"/api/v1/jobs/{job}/restart").status_code == 422
