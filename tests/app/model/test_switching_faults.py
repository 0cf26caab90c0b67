"""Opening a model where something stands in its way: it ends, and says why."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from asgi import PROMPT, Call, running, settings_with, until
from fastapi import FastAPI
from switch_models import app_of, folders_of, switched, traced

import app.model.explorer
from app.main import create_app
from app.model import loading as model_loading
from app.web.logs import JsonLines
from engine import LatentSpace
from engine.progress import Check

pytestmark = pytest.mark.slow

OPEN = "/api/v1/models/open"
MODEL = "x-lexiscope-model"


@pytest.fixture(scope="module")
def folders(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return folders_of(model_folder, tmp_path_factory.mktemp("faults"), "ab")


@pytest.fixture
def choice(folders: dict[str, Path], cache: Path) -> FastAPI:
    return app_of(folders, cache)


@contextmanager
def no_thread_for(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """The system gives no thread of this name."""
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        real(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        yield


async def test_a_switch_that_does_not_come_to_its_turn_ends_with_a_sentence(
    choice: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was open stays open, the place is given free, and the next try succeeds."""
    entered, go = threading.Event(), threading.Event()

    def deaf(check: Check) -> None:
        entered.set()
        go.wait()

    async with running(choice):
        explorer = choice.state.explorer
        await explorer.loaded()
        before = await traced(choice, PROMPT)
        job = explorer.device.submit(deaf, deadline_s=None)
        await until(entered.is_set)
        with monkeypatch.context() as patch:
            patch.setattr(model_loading, "CHANGE_S", 0.1 - choice.state.settings.deadline_s)
            await switched(choice, "b")
        listed = (await Call(choice, "/api/v1/models").answer()).json
        go.set()
        await asyncio.wrap_future(job.future)
        after = await traced(choice, PROMPT)
        await switched(choice, "b")
        assert (await traced(choice, PROMPT)).headers["x-lexiscope-model"].startswith("b ")
    assert (listed["open"], listed["opening"]) == ("a", None)
    assert listed["models"][1]["problem"].startswith("the work before it did not end within 0.1 s")
    assert after.body == before.body


async def test_a_change_of_models_that_hangs_is_seen_as_hanging(
    choice: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its patience, and no more: `/readyz` turns red, and so does the watchdog's look."""
    entered, go = threading.Event(), threading.Event()

    def stuck() -> None:
        entered.set()
        go.wait()

    async with running(choice):
        explorer = choice.state.explorer
        await explorer.loaded()
        monkeypatch.setattr(model_loading, "CHANGE_S", 0.0)
        explorer.models.on_letting_go.append(stuck)
        await explorer.models.switch_to("b")
        await until(entered.is_set)
        await until(lambda: explorer.device.heartbeat_age_s > 0.05)
        go.set()
        await explorer.models.settled()
        assert explorer.models.current.entry == "b"


async def test_where_no_thread_is_left_a_switch_is_refused_and_the_next_one_goes(
    choice: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: dict[str, Any] = {"method": "POST", "json": {"name": "b"}}
    async with running(choice):
        await choice.state.explorer.loaded()
        with no_thread_for(monkeypatch, "lexiscope-loader"):
            refused = await Call(choice, OPEN, **order).answer()
        listed = (await Call(choice, "/api/v1/models").answer()).json
        assert (await traced(choice, PROMPT)).status == 200
        assert (await Call(choice, OPEN, **order).answer()).status == 202
        await choice.state.explorer.models.settled()
        assert (await Call(choice, "/api/v1/models").answer()).json["open"] == "b"
    assert refused.status == 503
    assert refused.headers["retry-after"] == "30"
    assert "no further thread" in refused.json["error"]["sentence"]
    assert (listed["open"], listed["opening"]) == ("a", None)
    assert "no further thread" in listed["models"][1]["problem"]


async def test_where_no_thread_is_left_at_the_start_every_answer_says_so(
    choice: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    with no_thread_for(monkeypatch, "lexiscope-loader"):
        async with running(choice):
            await choice.state.explorer.loaded()
            reading = await traced(choice, PROMPT)
            ready = await Call(choice, "/readyz").answer()
    assert (reading.status, ready.status) == (503, 503)
    assert "no further thread" in reading.json["error"]["sentence"]
    assert ready.json["state"] == "failed"


@pytest.mark.parametrize("kind", ["a folder that is gone", "a folder without a model", "another"])
async def test_the_log_of_a_failed_opening_says_which_model_and_where_it_lies(
    folders: dict[str, Path], cache: Path, tmp_path: Path, kind: str, monkeypatch: Any
) -> None:
    """Also the cause, which holds nothing that a person typed."""
    place = tmp_path / "of the operator"
    if kind == "a folder without a model":
        place.mkdir()
    if kind == "another":
        place = folders["b"]
    choice = app_of({**folders, "b": place}, cache)
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("lexiscope")
    log.addHandler(handler)
    try:
        async with running(choice):
            await choice.state.explorer.loaded()
            if kind == "another":

                def load(*_: Any) -> LatentSpace:
                    raise ValueError("the cause")

                monkeypatch.setattr("app.model.explorer.load_space", load)
            await switched(choice, "b")
    finally:
        log.removeHandler(handler)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    told = [line for line in lines if line["level"] == "error"]
    assert len(told) == 1
    assert "the model b " in told[0]["message"]
    assert str(place) in told[0]["message"]
    if kind == "another":
        assert "ValueError: the cause" in told[0]["traceback"]


def test_an_app_with_a_ready_model_starts_where_no_loader_can(
    space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says why it has no model, and its other pages answer."""

    async def ask() -> tuple[int, int]:
        site = create_app(settings_with(), space)
        async with running(site):
            page, reading = Call(site, "/jobs"), Call(site, "/", {"prompt": PROMPT})
            return (await page.answer()).status, (await reading.answer()).status

    with no_thread_for(monkeypatch, "lexiscope-loader"):
        assert asyncio.run(ask()) == (200, 503)


async def test_an_answer_names_the_model_that_was_open_and_none_where_none_was(
    choice: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its status: there is no honest value while the first model is being loaded."""
    go = threading.Event()
    real = app.model.explorer.load_space

    def load(*rest: Any) -> LatentSpace:
        go.wait()
        return real(*rest)

    async def ask() -> dict[str, Call]:
        order: dict[str, Any] = {"method": "POST", "json": {"name": "no such"}}
        kinds = {
            "conflict": Call(choice, OPEN, method="POST", json={"name": "b"}),
            "not found": Call(choice, OPEN, **order),
            "list": Call(choice, "/api/v1/models"),
            "reading": Call(choice, "/api/v1/trace", {"prompt": PROMPT}),
            "expecting": Call(
                choice, "/api/v1/trace", {"prompt": PROMPT}, headers={"x-lexiscope-expect": "f"}
            ),
            "page": Call(choice, "/model"),
        }
        return {kind: await call.answer() for kind, call in kinds.items()}

    monkeypatch.setattr("app.model.explorer.load_space", load)
    async with running(choice):
        before = await ask()
        go.set()
        await choice.state.explorer.loaded()
        go.clear()
        await choice.state.explorer.models.switch_to("b")
        after = await ask()
        go.set()
        await choice.state.explorer.models.settled()
    always = {"conflict": 409, "not found": 404, "list": 200, "page": 200}
    statuses = [{kind: call.status for kind, call in one.items()} for one in (before, after)]
    assert statuses[0] == {**always, "reading": 503, "expecting": 503}
    assert statuses[1] == {**always, "reading": 200, "expecting": 409}
    assert not [kind for kind, call in before.items() if MODEL in call.headers]
    assert {call.headers[MODEL].split()[0] for call in after.values()} == {"a"}
