"""The health checks answer at once, and ready means ready."""

from __future__ import annotations

import inspect
import threading
from pathlib import Path
from typing import Any

import pytest
from asgi import BASE, PROMPT, Blocked, Call, running, settings_with, until
from fastapi import FastAPI
from starlette.testclient import TestClient
from waiting import PATIENCE, Clock

from app import health
from app.main import create_app
from app.model import explorer as service
from app.storage.disk import FreeDisk
from engine import LatentSpace
from engine.errors import ModelError


@pytest.mark.parametrize(("path", "alias"), [("/livez", "/health"), ("/readyz", "/ready")])
def test_the_aliases_say_the_same(shared_client: TestClient, path: str, alias: str) -> None:
    first, second = shared_client.get(path), shared_client.get(alias)
    assert first.status_code == second.status_code == 200
    assert first.content == second.content


def test_ready_shows_what_is_under_way(shared_client: TestClient) -> None:
    body = shared_client.get("/readyz").json()
    assert body.pop("free_disk_bytes") > 0
    assert body.pop("progress").endswith("is ready.")
    assert body == {
        "ready": True,
        "reason": None,
        "state": "ready",
        "switching": None,
        "running": None,
        "waiting": 0,
        "places": 16,
        "jobs": {"running": 0, "queued": 0},
    }


class Slow:
    """An engine's `load` that tells where it is, and waits or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.told = threading.Event()
        self.release = threading.Event()

    def __call__(self, settings: Any, *rest: Any, **more: Any) -> Any:
        self.told.set()
        assert self.release.wait(PATIENCE)
        raise self.error or ModelError("The model ends here.")


STATES = {
    "ready": (200, None),
    "loading": (503, "Loading"),
    "failed": (503, "The model ends here"),
    "queue full": (503, "place"),
    "no sign of life": (503, "sign of life"),
    "dead": (503, "restart"),
    "disk short": (503, "MiB free"),
    "disk unknown": (200, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
async def test_the_table_of_states(
    state: str, space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live in every state; ready in those in which a question would be answered."""
    load = Slow()
    monkeypatch.setattr(service, "load_space", load)
    blocked = Blocked(space, deaf=state == "no sign of life")
    loads = state in ("loading", "failed")
    clock = Clock()
    clock.stand_in(monkeypatch, "app.model.device")
    settings = settings_with(queue_places=1, heartbeat_limit_s=30)
    app = create_app(settings, None if loads else blocked)  # type: ignore[arg-type]
    calls = []
    async with running(app):
        match state:
            case "loading":
                await until(load.told.is_set)
            case "failed":
                load.release.set()
                await until(lambda: app.state.explorer.state == "failed")
            case "queue full" | "no sign of life":
                calls.append(Call(app, "/api/v1/trace", {"prompt": "one"}))
                await until(blocked.entered.is_set)
                if state == "queue full":
                    calls.append(Call(app, "/api/v1/trace", {"prompt": "two"}))
                    await until(lambda: app.state.explorer.device.waiting)
                else:
                    clock.now += 31
            case "dead":
                app.state.explorer.device.close()
            case "disk short":
                app.state.disk.free = 2**20
            case "disk unknown":
                app.state.disk.free = None
        ready, alive = Call(app, "/readyz"), Call(app, "/livez")
        await ready.answer()
        await alive.answer()
        for one in (load, blocked):
            one.release.set()
        for call in calls:
            await call.answer()
    status, reason = STATES[state]
    assert (ready.status, alive.status) == (status, 200)
    assert ready.json["ready"] is (status == 200)
    if reason is None:
        assert ready.json["reason"] is None
    else:
        assert reason in ready.json["reason"]
        assert int(ready.headers["retry-after"]) > 0


async def test_a_stranger_learns_only_whether_it_is_ready(space: LatentSpace) -> None:
    token = "t" * 30
    app = create_app(settings_with(token=token), space)
    bearer = {"authorization": f"Bearer {token}"}
    async with running(app):
        app.state.disk.free = 0
        stranger = await Call(app, "/readyz").answer()
        wrong = await Call(app, "/readyz", headers={"authorization": "Bearer x"}).answer()
        friend = await Call(app, "/readyz", headers=bearer).answer()
        alive = [
            await Call(app, "/livez", headers={"authorization": "Bearer x"}).answer()
            for _ in range(12)
        ]
    for answer in (stranger, wrong):
        assert answer.status == 503
        assert set(answer.json) == {"ready", "reason"}
        assert "disk" not in answer.json["reason"]
    assert "disk" in friend.json["reason"]
    # Liveness is not behind the door that wrong tokens close.
    assert {answer.status for answer in alive} == {200}


def test_a_disk_that_hangs_stops_nobody(
    space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is looked at in a thread of its own; health and metrics read the last figure."""
    hangs, release = threading.Event(), threading.Event()
    threads = set()

    def usage(at: Any) -> Any:
        threads.add(threading.current_thread().name)
        hangs.set()
        release.wait(PATIENCE)
        raise OSError(5, "Input/output error")

    app = create_app(settings_with(), space)
    monkeypatch.setattr("app.storage.disk.shutil.disk_usage", usage)
    with TestClient(app, base_url=BASE) as client:
        assert hangs.wait(PATIENCE)
        assert client.get("/readyz").json()["free_disk_bytes"] is None
        assert "lexiscope_disk_bytes" in client.get("/metrics").text
        assert threads == {"lexiscope-disk"}
        release.set()


def test_no_health_check_runs_in_a_thread_pool() -> None:
    assert inspect.iscoroutinefunction(health.livez)
    assert inspect.iscoroutinefunction(health.readyz)


async def test_a_worker_without_a_sign_of_life_is_not_ready(
    space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    clock.stand_in(monkeypatch, "app.model.device")
    blocked = Blocked(space, deaf=True)
    app = create_app(settings_with(heartbeat_limit_s=30), blocked)  # type: ignore[arg-type]
    async with running(app):
        call = Call(app, "/api/v1/trace", {"prompt": PROMPT})
        await until(blocked.entered.is_set)
        in_time = await Call(app, "/readyz").answer()
        clock.now += 31
        ready = await Call(app, "/readyz").answer()
        alive = await Call(app, "/livez").answer()
        blocked.release.set()
        await call.answer()
        again = await Call(app, "/readyz").answer()
    assert (in_time.status, ready.status, alive.status, again.status) == (200, 503, 200, 200)
    assert "sign of life" in ready.json["reason"]
    assert int(ready.headers["retry-after"]) > 0


async def test_a_stopped_worker_is_not_ready(app: FastAPI) -> None:
    async with running(app):
        app.state.explorer.device.close()
        ready: Any = await Call(app, "/readyz").answer()
        reading = await Call(app, "/api/v1/trace", {"prompt": PROMPT}).answer()
    assert ready.status == 503
    assert "restart" in ready.json["reason"]
    assert reading.status == 503


def test_a_shortage_of_disk_is_logged_once_and_so_is_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FreeDisk(tmp_path, 2**80)
    for _ in range(3):
        disk.look()
    assert [record.message for record in caplog.records] == [disk.shortage]
    disk.reserve = 0
    for _ in range(3):
        disk.look()
    assert len(caplog.records) == 2
    assert "room again" in caplog.records[1].message
