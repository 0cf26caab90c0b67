"""A data folder that cannot be written when the server starts: what lies in it is shown, the server
says that it is not ready, and it goes on by itself once the folder can be used."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgi import BASE, PROMPT, settings_with
from starlette.testclient import TestClient
from waiting import until

from app.calibrate.sets import Sets
from app.jobs.lanes import Jobs
from app.main import create_app
from app.model.device import DeviceThread
from app.storage import store as store_module
from app.storage.opening import ShownStore, open_store
from app.storage.store import KINDS, Store
from app.web.problems import StorageBusy, StorageError
from engine import LatentSpace
from engine.checkpoints import KEEP_FREE, write_aside
from engine.progress import Progress, Steps

FILE = {"file": ("a.csv", b"text,label\na,b\nc,d\n")}


class Disk:
    """A disk on which SQLite can write nothing, until it can."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
        self.writable = False
        connect = store_module._connect

        def guarded(*given: Any) -> Any:
            if not self.writable:
                raise sqlite3.OperationalError(problem)
            return connect(*given)

        monkeypatch.setattr(store_module, "_connect", guarded)


def filled(folder: Path) -> dict[str, str]:
    """A data folder with one thing of each kind, and a job that was under way."""
    store = Store(folder)
    sets = Sets(settings_with(data_dir=folder))
    sets.store = store
    kept = {"sets": sets.add("a.csv", FILE["file"][1]).id}
    for kind in KINDS[1:]:
        kept[kind] = store.publish(kind, lambda place: {"name": "x"}).id
    jobs = Jobs(DeviceThread())
    jobs.store = store
    view = jobs.submit("walk", "A walk", steps, lambda made: made)
    store.close()
    return {**kept, "job": view.id}


def steps() -> Steps[str]:
    yield Progress(1, 1)
    return "made"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("database or disk is full", "disk is full"),
        ("attempt to write a readonly database", "cannot be used"),
        ("unable to open database file", "cannot be used"),
    ],
)
def test_what_is_saved_is_shown_and_the_server_goes_on_once_it_can_write(
    space: LatentSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str, said: str
) -> None:
    kept = filled(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    disk = Disk(monkeypatch, problem)
    app = create_app(settings_with(data_dir=tmp_path), space)
    app.state.disk._every_s = 0.02
    with TestClient(app, base_url=BASE) as client:

        def ids(path: str) -> list[str]:
            return [one["id"] for one in client.get(f"/api/v1/{path}").json()[path]]

        assert kept["sets"] in ids("sets")
        assert client.get(f"/api/v1/sets/{kept['sets']}").json()["rows"] == 2
        assert kept["calibrations"] in client.get("/calibrate").text
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert said in ready.json()["reason"]
        assert client.get("/api/v1/trace", params={"prompt": PROMPT}).status_code == 200
        for answer in (
            client.post("/api/v1/sets", files=FILE),
            client.delete(f"/api/v1/sets/{kept['sets']}"),
            client.post("/api/v1/calibrations", json={"set": "topics", "template": "{text}"}),
        ):
            assert answer.status_code == 507, answer.text
            assert said in answer.json()["error"]["sentence"]
        assert sorted(tmp_path.rglob("*")) == before  # nothing was swept, and nothing came
        assert ids("jobs") == []
        disk.writable = True
        until(lambda: client.get("/readyz").status_code == 200)
        assert kept["sets"] in ids("sets")
        assert client.get(f"/api/v1/jobs/{kept['job']}").json()["state"] == "interrupted"
        new = client.post("/api/v1/sets", files=FILE)
        assert new.status_code == 201
        assert client.delete(f"/api/v1/sets/{kept['sets']}").status_code == 204
    store = Store(tmp_path)
    assert [one.id for one in store.records("sets")] == [new.json()["id"]]
    store.close()


def test_a_damaged_folder_is_not_listed_and_its_files_are_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = filled(tmp_path)
    (tmp_path / "sets" / kept["sets"] / "rows.jsonl").write_text("[1, 2]")
    (tmp_path / "reports" / kept["reports"] / "manifest.json").write_text("{")
    shutil.copytree(tmp_path / "calibrations" / kept["calibrations"], tmp_path / "sets" / ".tmp-x")
    Disk(monkeypatch, "attempt to write a readonly database")
    store, why = open_store(settings_with(data_dir=tmp_path))
    assert isinstance(store, ShownStore)
    assert store.problem == why
    assert [len(store.records(kind)) for kind in KINDS] == [1, 1, 0, 1]
    with pytest.raises(store_module.ArtifactError, match="damaged"):
        store.folder_of("sets", kept["sets"])
    for act in (
        lambda: store.publish("sets", lambda place: {}),
        lambda: store.put_job({}),
        lambda: store.forget_jobs([]),
        lambda: store.scratch("incoming"),
        store.check_space,
    ):
        with pytest.raises(StorageError, match="cannot be used"):
            act()


@pytest.mark.slow
def test_a_folder_that_another_server_uses_is_not_shown(tmp_path: Path) -> None:
    held = Store(tmp_path)
    with pytest.raises(StorageBusy):
        open_store(settings_with(data_dir=tmp_path))
    held.close()


# The reserve


def test_what_is_kept_aside_leaves_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [1000]
    monkeypatch.setattr(shutil, "disk_usage", lambda at: SimpleNamespace(free=free[0]))
    write_aside(tmp_path / "a", lambda path: path.write_bytes(b"a"))  # nobody set a reserve
    token = KEEP_FREE.set(1000)
    try:
        write_aside(tmp_path / "b", lambda path: path.write_bytes(b"b"))

        def fills(path: Path) -> None:
            path.write_bytes(b"c")
            free[0] = 999

        for _ in range(2):  # the first fills it, the second finds it full
            with pytest.raises(OSError, match="No space left"):
                write_aside(tmp_path / "c", fills)
    finally:
        KEEP_FREE.reset(token)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("lane", ["device", "process"])
def test_a_job_writes_under_the_reserve_of_its_store(tmp_path: Path, lane: Any) -> None:
    seen: list[int] = []

    def look() -> Steps[str]:
        seen.append(KEEP_FREE.get())
        yield Progress(1, 1)
        seen.append(KEEP_FREE.get())
        return "made"

    device = DeviceThread()
    device.start()
    jobs, store = Jobs(device), Store(tmp_path, reserve=1)
    jobs.begin(store)
    store.reserve = 77
    view = jobs.submit("walk", "A walk", look, lambda made: seen.append(KEEP_FREE.get()), lane=lane)
    until(lambda: jobs.get(view.id).finished)
    assert seen == [77, 77, 77]
    assert KEEP_FREE.get() == 0
    jobs.close()
    device.close()
    store.close()
