"""The health checks answer at once, and ready means ready."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from asgi import PROMPT, Blocked, Call, running, settings_with, until
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.main import create_app
from app.routes import health
from engine import LatentSpace


@pytest.mark.parametrize(("path", "alias"), [("/livez", "/health"), ("/readyz", "/ready")])
def test_the_aliases_say_the_same(shared_client: TestClient, path: str, alias: str) -> None:
    first, second = shared_client.get(path), shared_client.get(alias)
    assert first.status_code == second.status_code == 200
    assert first.content == second.content


def test_ready_shows_the_queue(shared_client: TestClient) -> None:
    assert shared_client.get("/readyz").json() == {
        "ready": True,
        "reason": None,
        "state": "ready",
        "waiting": 0,
        "places": 16,
        "running": None,
    }


def test_no_health_check_runs_in_a_thread_pool() -> None:
    assert inspect.iscoroutinefunction(health.livez)
    assert inspect.iscoroutinefunction(health.readyz)


async def test_a_worker_without_a_sign_of_life_is_not_ready(space: LatentSpace) -> None:
    blocked = Blocked(space, deaf=True)
    app = create_app(settings_with(heartbeat_limit_s=0.05), blocked)  # type: ignore[arg-type]
    async with running(app):
        call = Call(app, "/api/v1/trace", {"prompt": PROMPT})
        await until(blocked.entered.is_set)
        await asyncio.sleep(0.1)
        ready = await Call(app, "/readyz").answer()
        alive = await Call(app, "/livez").answer()
        blocked.release.set()
        await call.answer()
        again = await Call(app, "/readyz").answer()
    assert (ready.status, alive.status, again.status) == (503, 200, 200)
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
