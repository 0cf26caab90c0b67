"""The lens that is fitted by itself: it gives way to jobs, to another model and to the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgi import BASE, load_tiny, settings_with
from starlette.testclient import TestClient
from waiting import until

from app.main import create_app
from app.model.device import DeviceThread
from app.readings.background import BackgroundLens
from app.web.problems import ModelChanged
from engine.progress import Progress


class World:
    """A model that is fitted in steps that the test counts, and all that may stand in the way."""

    def __init__(self) -> None:
        self.busy = {"running": 0, "queued": 0}
        self.opening: object | None = None
        self.current: object = "first"
        self.lens: str | None = None
        self.steps = 0
        self.closed = 0
        self.forgotten = 0
        self.go = threading.Semaphore(0)
        self.on_open: list[Any] = []
        self.device = DeviceThread()
        self.device.start()
        model = SimpleNamespace(anatomy=SimpleNamespace(kind="causal"))
        self.space = SimpleNamespace(
            model=model, known_lens=lambda name: self.lens, fit_lens=lambda name: self.fit()
        )
        explorer = SimpleNamespace(models=self, device=self.device)
        jobs = SimpleNamespace(under_way=self.busy)
        self.fitter = BackgroundLens(explorer, jobs, 60.0, self.forget)  # type: ignore[arg-type]

    def owned(self, opened: object) -> Any:
        if opened is not self.current:
            raise ModelChanged("another model is open")
        return self.space

    def forget(self) -> None:
        self.forgotten += 1

    def fit(self) -> Any:
        try:
            while self.steps < 9:
                self.steps += 1
                yield Progress(self.steps, 9, "fitting")
                self.go.acquire()
            self.lens = "fitted"
        finally:
            self.closed += 1


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.busy["running"] = 0
    for _ in range(99):
        made.go.release()
    made.fitter.close()
    made.device.close()


def test_it_goes_on_to_the_end_and_tells(world: World) -> None:
    world.fitter.start()
    until(lambda: world.fitter.progress == Progress(1, 9, "fitting"))
    for _ in range(9):
        world.go.release()
    until(lambda: world.forgotten == 1)
    until(lambda: world.fitter.progress is None)
    assert (world.lens, world.closed) == ("fitted", 1)
    world.on_open[0]()  # the same model once more: there is nothing to do
    until(lambda: not world.fitter._awake.is_set())
    assert world.steps == 9


def test_a_job_goes_first_and_its_lens_is_enough(world: World) -> None:
    world.busy["running"] = 1
    world.fitter.start()
    world.fitter._awake.set()
    assert world.steps == 0
    world.busy["running"] = 0
    until(lambda: world.steps == 1)
    world.busy["queued"] = 1
    world.go.release()
    world.lens = "of a job"  # that fitted it meanwhile
    world.busy["queued"] = 0
    until(lambda: world.forgotten == 1)
    assert world.steps <= 2
    until(lambda: world.closed == 1)


def test_another_model_ends_it_and_its_own_begins_it_anew(world: World) -> None:
    world.fitter.start()
    until(lambda: world.steps == 1)
    world.current = "second"
    world.on_open[0]()
    world.go.release()
    until(lambda: world.closed == 1)
    until(lambda: world.steps >= 2)  # of the second
    world.current = "first"
    world.on_open[0]()
    for _ in range(20):
        world.go.release()
    until(lambda: world.lens == "fitted")


@pytest.mark.slow
def test_a_server_fits_it_and_a_setting_keeps_it_from_that(
    model_folder: Path, tmp_path: Path
) -> None:
    space = load_tiny(model_folder, tmp_path)
    with TestClient(create_app(settings_with(), space), base_url=BASE) as client:
        assert client.app.state.lens is None  # type: ignore[attr-defined]
        assert client.get("/api/v1/readings").json()["lenses"] == {}
    space = load_tiny(model_folder, tmp_path)
    with TestClient(create_app(settings_with(fit_lens=True), space), base_url=BASE) as client:
        until(lambda: "linear" in client.get("/api/v1/readings").json()["lenses"])
        page = client.get("/readings").text
        assert "The linear lens" in page
        assert client.get("/api/v1/jobs").json()["jobs"] == []
