"""The atlas that is laid out by itself: it gives way to jobs, to another model and to the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from asgi import BASE, load_tiny, settings_with
from starlette.testclient import TestClient
from waiting import until

from app.main import create_app
from app.maps.background import BackgroundAtlas
from app.model.device import DeviceThread
from app.web.problems import ModelChanged
from engine.maps import MapNotReady
from engine.maps.atlas import OPTIONS
from engine.maps.reduction import SEEDS, UmapResult
from engine.progress import Progress


class World:
    """A model whose atlas takes three steps, and all that may stand in the way."""

    def __init__(self) -> None:
        self.under_way = {"running": 0, "queued": 0}
        self.opening: object | None = None
        self.current: object = "first"
        self.steps = self.begun = self.closed = 0
        self.kept = self.ships = False
        self.go = threading.Semaphore(0)
        self.on_open: list[Any] = []
        self.device = DeviceThread()
        self.device.start()
        explorer = SimpleNamespace(models=self, device=self.device)
        self.maker = BackgroundAtlas(explorer, self, 60.0)  # type: ignore[arg-type]

    def owned(self, opened: object) -> Any:
        if opened is not self.current:
            raise ModelChanged("another model is open")
        return SimpleNamespace(maps=self)

    def map(self, options: object) -> Any:
        assert options == OPTIONS
        if not self.kept and not self.ships:
            raise MapNotReady("not yet")
        atlas = "digest" if self.ships else ""
        return SimpleNamespace(atlas=atlas, noise_floor=None if self.ships else 0.1)

    def umap_points(self, options: object) -> Any:
        self.begun += 1
        yield Progress(0, 0, "taking the points")
        return lambda: options

    def reduce(self, problem: object) -> Any:
        try:
            for i in range(3):
                self.steps += 1
                yield Progress(i, 3, "laying out")
                self.go.acquire()
            self.kept = True
        finally:
            self.closed += 1


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.under_way["running"] = 0
    for _ in range(99):
        made.go.release()
    made.maker.close()
    made.device.close()


def release(world: World, steps: int) -> None:
    for _ in range(steps):
        world.go.release()


def test_it_is_laid_out_once(world: World) -> None:
    release(world, 3)
    world.maker.start()
    until(lambda: world.kept and world.maker.progress is None)
    world.on_open[0]()
    until(lambda: not world.maker._awake.is_set())
    world.device.submit(lambda check: None, deadline_s=None, background=True).future.result()
    assert (world.begun, world.closed) == (1, 1)


def test_one_that_ships_is_not_laid_out(world: World) -> None:
    world.ships = True
    world.maker.start()
    until(lambda: not world.maker._awake.is_set())
    world.maker.close()
    assert world.begun == 0


def test_a_job_ends_the_work_and_it_is_begun_anew_after_it(world: World) -> None:
    world.maker.start()
    until(lambda: world.steps)  # the layout itself, past the steps that take its points
    world.under_way["queued"] = 1
    release(world, 1)
    until(lambda: world.closed == 1)
    assert (world.begun, world.kept) == (1, False)
    release(world, 3)
    world.under_way["queued"] = 0
    until(lambda: world.kept)
    until(lambda: world.closed == 2)
    assert world.begun == 2


@pytest.mark.parametrize("moment", ["opening", "current"])
def test_another_model_ends_it(world: World, moment: str) -> None:
    world.maker.start()
    until(lambda: world.steps)
    setattr(world, moment, "second")
    release(world, 1)
    until(lambda: world.closed == 1)
    assert not world.kept


def test_a_server_makes_the_picture_that_the_page_shows(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but UMAP itself, in whose place known coordinates are kept."""
    space = load_tiny(model_folder, tmp_path)
    address = "/map?projection=umap&prompt="
    places: list[Any] = []

    def planted(problem: Any, cache: Any, process: object, *, floor: bool) -> Any:
        yield Progress(0, 1, "laying out")
        places.append(np.random.default_rng(3).normal(size=(len(problem.points), 2)))
        kept = places[0].astype(np.float32)
        cache.put(UmapResult(problem.fingerprint, kept, 0.5, others=(kept + 1,) * SEEDS))

    monkeypatch.setattr("engine.maps.maker.reduce", planted)
    with TestClient(create_app(settings_with(make_atlas=True), space), base_url=BASE) as client:
        until(lambda: 'id="waiting"' not in client.get(address).text)
        points = client.get("/api/v1/map/points", params={"projection": "umap"}).content
        drawn = np.frombuffer(points, dtype="<f4")
        planted_places = places[0].astype(np.float32)
        inside = np.isin(planted_places, drawn).all(axis=1)  # what is far lies at the border
        assert len(places) == 1
        assert inside.mean() > 0.9
        assert client.get("/api/v1/jobs").json()["jobs"] == []
    space = load_tiny(model_folder, tmp_path / "other")
    with TestClient(create_app(settings_with(), space), base_url=BASE) as client:
        assert client.app.state.atlas is None  # type: ignore[attr-defined]
        assert 'id="waiting"' in client.get(address).text
