"""A job that the server's end interrupted goes on, and ends with the numbers of one that was not.

With real server processes: killed at random moments, and stopped in an orderly way.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asgi import BASE, load_tiny, settings_with
from processes import ServerProcess, serve, server_process
from safetensors.torch import load_file
from same_numbers import assert_same
from starlette.testclient import TestClient
from waiting import PATIENCE, until

from app.jobs.lanes import CHECKPOINTS, Jobs
from app.jobs.panel import job_panel
from app.main import create_app
from app.model.device import DeviceThread
from app.storage.store import Store
from engine.checkpoints import Checkpoints
from engine.progress import Progress, Steps

KILLS = int(os.environ.get("LEXISCOPE_TEST_RESUMES", "1"))
"""How often a real server is killed in a calibration; more take longer."""
SEED = int(os.environ.get("LEXISCOPE_TEST_SEED", "0"))
TIMES = {"seconds", "seconds_train", "seconds_infer", "peak_bytes"}


def rows(n: int) -> bytes:
    """Two kinds of texts that their words tell apart, not quite."""
    chance = random.Random(3)
    lines = ["text,label"]
    for i in range(n):
        label = chance.choice(("cat", "dog"))
        word = label if chance.random() < 0.8 else "mat"
        lines.append(f"The {word} sat {i} {chance.choice('abcdef')},{label}")
    return "\n".join(lines).encode()


ASKED = {
    "template": "{text} is a", "epochs": 24, "patience": 0, "batch": 16, "dropout": 0.1,
    "name": "Kept", "seed": 5,
}  # fmt: skip


@contextmanager
def server(folder: Path, model: Path) -> Iterator[tuple[ServerProcess, httpx2.Client]]:
    """A server of the tiny model that is ready, and somebody who asks it."""
    settings = {"checkpoint_s": 0.2, "cache_dir": folder.parent / "cache"}
    with server_process(folder, serve(model), settings) as process:
        process.ready()
        with process.client() as client:
            yield process, client


def order(client: Any, **more: Any) -> str:
    """Upload the rows and start the calibration; its job's id."""
    sent = client.post("/api/v1/sets", files={"file": ("rows.csv", rows(160))})
    assert sent.status_code == 201, sent.text
    asked = client.post("/api/v1/calibrations", json={"set": sent.json()["id"], **ASKED, **more})
    assert asked.status_code == 202, asked.text
    return str(asked.json()["id"])


def ended(client: Any, job: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        view: dict[str, Any] = client.get(f"/api/v1/jobs/{job}").json()
        return view if view["finished"] else None

    found: dict[str, Any] = until(look)
    return found


def plain(value: Any) -> Any:
    """A document without what a clock has to do with."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in TIMES}
    return [plain(v) for v in value] if isinstance(value, list) else value


def numbers(data: Path, id_: str) -> dict[str, Any]:
    """Every file of a saved calibration, without what differs between any two runs."""
    folder, found = data / "calibrations" / id_, {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name == "manifest.json":
            continue
        if path.suffix == ".safetensors":
            found[name] = load_file(path)
            continue
        if path.suffix != ".json":
            found[name] = path.read_bytes()
            continue
        document = json.loads(path.read_text())
        if name == "run.json":
            del document["order"]["set"]  # an id that is drawn
        found[name] = plain(document)
    return found


def scratch(data: Path) -> list[Path]:
    return [path for path in (data / CHECKPOINTS).rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def undisturbed(model_folder: Path, cache: Path) -> tuple[Mapping[str, Any], float]:
    """The calibration as it ends where nothing interrupts it, and the seconds that took."""
    settings = settings_with()
    app = create_app(settings, load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE) as client:
        begin = time.monotonic()
        view = ended(client, order(client))
        assert view["state"] == "done", view["problem"]
        taken = time.monotonic() - begin
        assert scratch(settings.data_folder) == []
        found = numbers(settings.data_folder, view["result"])
        assert {"run.json", "comparison.json", "calibration/weights.safetensors"} <= set(found)
        return found, taken


@pytest.mark.slow
def test_a_calibration_that_was_killed_and_stopped_goes_on_to_the_same_numbers(
    undisturbed: tuple[Mapping[str, Any], float],
    tmp_path: Path,
    model_folder: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Killed with SIGKILL at random moments, then stopped with SIGTERM, then left alone."""
    whole, taken = undisturbed
    chance = random.Random(SEED)
    folder = tmp_path / "server"
    data, job, went_on, compared = folder / "data", "", 0, 0
    for number in range(KILLS + 2):
        with server(folder, model_folder) as (process, client):
            view = client.get(f"/api/v1/jobs/{job}").json() if job else {}
            if view.get("state") == "done":  # it was faster than the signal: another one begins
                assert_same(numbers(data, view["result"]), whole)
                compared += 1
                client.delete(f"/api/v1/calibrations/{view['result']}")
                job = order(client)
            elif job:
                assert view["state"] == "interrupted"
                assert view["restartable"]
                if view["resumes"] is not None:
                    went_on += 1
                    assert f"goes on from {view['resumes']}" in view["problem"]
                    assert "while this ran" in view["problem"]
                    assert "Resume" in client.get(f"/jobs/{job}").text
                again = client.post(f"/api/v1/jobs/{job}/restart")
                assert again.status_code == 202
                assert again.json()["resumes"] == view["resumes"]
                job = again.json()["id"]
            else:
                job = order(client)
            if number <= KILLS:
                if number == 0:  # so that one resume is certain
                    until(lambda: scratch(data))
                time.sleep(chance.uniform(0.0, 0.5 * taken))
                view = client.get(f"/api/v1/jobs/{job}").json()
                if view["finished"]:  # it was faster: that counts, and another one begins
                    assert_same(numbers(data, view["result"]), whole)
                    compared += 1
                    client.delete(f"/api/v1/calibrations/{view['result']}")
                    job = order(client)
                    until(lambda: scratch(data))
                end = signal.SIGKILL if number < KILLS else signal.SIGTERM
                process.process.send_signal(end)
                status = process.end()
                assert status == (0 if end == signal.SIGTERM else -signal.SIGKILL), process.log
                continue
            view = ended(client, job)
            assert view["state"] == "done", view["problem"]
            assert_same(numbers(data, view["result"]), whole)
            assert scratch(data) == []
            assert len(client.get("/api/v1/calibrations").json()["calibrations"]) == 1
    record_property("kills", KILLS)
    record_property("resumed from a checkpoint", went_on)
    record_property("calibrations compared", compared + 1)
    assert went_on >= 1


# The same without a server


@pytest.fixture
def device() -> Iterator[DeviceThread]:
    thread = DeviceThread()
    thread.start()
    yield thread
    thread.close()


class Walk:
    """Steps that keep how far they are, each of which waits for its turn."""

    def __init__(self, folder: Path) -> None:
        self.kept = Checkpoints(folder, every_s=0)
        self.place = self.kept.of("walk")
        self.turn = threading.Semaphore(0)
        self.began_at = -1
        self.fail = False

    def __call__(self) -> Steps[str]:
        found = self.place.load()
        self.began_at = begin = 0 if found is None else found.values["n"]
        n = begin

        def save() -> None:
            self.place.save({}, {"n": n}, place=f"step {n} of 100")

        with self.place.on_close(save):
            for n in range(begin, 100):
                assert self.turn.acquire(timeout=PATIENCE)
                if self.fail:
                    raise MemoryError
                if n % 10 == 0:
                    save()
                yield Progress(n, 100, "walking")
        return "there"

    def begin(self, jobs: Jobs, **more: Any) -> str:
        view = jobs.submit(
            "walk", "A walk", self, lambda _: "result", kept=self.kept, spec={"n": 1}, **more
        )
        return view.id


def at(jobs: Jobs, job: str, done: int) -> None:
    until(lambda: jobs.get(job).done >= done)


def close(jobs: Jobs, walk: Walk) -> None:
    """End the jobs while the walk waits for its turn, which it then gets."""
    thread = threading.Thread(target=jobs.close, kwargs={"timeout_s": PATIENCE})
    thread.start()
    until(lambda: jobs._closing)
    walk.turn.release()
    thread.join(PATIENCE)


def test_what_becomes_of_the_checkpoints_of_a_job(device: DeviceThread, tmp_path: Path) -> None:
    """Kept where the server ends or it fails; deleted at its end, on cancel, when forgotten."""
    store = Store(tmp_path / "data")
    folder = store.scratch(CHECKPOINTS) / "walk"
    jobs = Jobs(device)
    jobs.begin(store)
    one = Walk(folder)
    job = one.begin(jobs)
    one.turn.release(15)
    at(jobs, job, 14)
    close(jobs, one)
    assert folder.is_dir()

    jobs = Jobs(device)
    jobs.begin(store)
    view = jobs.get(job)
    assert (view.state, view.resumes) == ("interrupted", "step 15 of 100")
    assert "resumed, it goes on from step 15 of 100" in str(view.problem)
    # From where it would go on is said once.
    panel = job_panel(view)
    assert "step 15 of 100" not in panel.resumes
    assert "ends with the same numbers" in panel.resumes
    assert "from step 15 of 100 and ends with" in job_panel(replace(view, problem="Full.")).resumes
    two = Walk(folder)
    second = two.begin(jobs)
    jobs.settle(job)
    two.turn.release(5)
    at(jobs, second, 18)
    assert two.began_at == 15
    assert jobs.get(second).resumes == "step 15 of 100"
    assert "gone on with here" in job_panel(jobs.get(second)).resumes
    two.fail = True
    two.turn.release()
    until(lambda: jobs.get(second).finished)
    assert (jobs.get(second).state, folder.is_dir()) == ("failed", True)

    # The same work waits: forgetting or cancelling another job of it leaves its checkpoints.
    held = Walk(tmp_path / "elsewhere")
    holding = held.begin(jobs)
    three = Walk(folder)
    third, fourth = three.begin(jobs), Walk(folder).begin(jobs)
    jobs.cancel(fourth)
    jobs.forget(second)
    assert folder.is_dir()
    jobs.cancel(holding)
    held.turn.release()
    three.turn.release(3)
    at(jobs, third, 17)
    assert three.began_at == 15  # the second failed before its first timed one
    jobs.cancel(third)
    three.turn.release()
    until(lambda: jobs.get(third).finished)
    view = jobs.get(third)
    assert (view.state, view.resumes, folder.exists()) == ("cancelled", None, False)

    last = Walk(folder)
    fifth = last.begin(jobs)
    last.turn.release(200)
    until(lambda: jobs.get(fifth).finished)
    view = jobs.get(fifth)
    assert (view.state, view.resumes, folder.exists()) == ("done", None, False)
    assert last.began_at == 0
    jobs.close()

    old = store.scratch(CHECKPOINTS) / "old"
    Checkpoints(old).of("walk").save({}, {})
    for path in old.iterdir():
        os.utime(path, (1e9, 1e9))
    again = Jobs(device)
    again.begin(store)
    assert not old.exists()
    again.close()
    store.close()


def test_views_are_read_while_a_row_is_written(
    device: DeviceThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop reads them, and a disk may take its time; what is written last is the end."""
    store = Store(tmp_path / "data")
    jobs = Jobs(device)
    jobs.begin(store)
    first = Walk(tmp_path / "first")
    running = first.begin(jobs)
    first.turn.release(2)
    at(jobs, running, 1)
    write, free, entered = store.put_job, threading.Event(), threading.Event()

    def slow(row: Any) -> None:
        entered.set()
        assert free.wait(PATIENCE)
        write(row)

    monkeypatch.setattr(store, "put_job", slow)
    submitted: list[str] = []
    second = Walk(tmp_path / "second")
    thread = threading.Thread(target=lambda: submitted.append(second.begin(jobs)))
    thread.start()
    assert entered.wait(PATIENCE)
    # All that the pages ask; each would wait for the disk if the lock were held.
    asked: list[Any] = []
    reader = threading.Thread(
        target=lambda: asked.extend([jobs.list(), jobs.get(running), jobs.counts, jobs.mark])
    )
    reader.start()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert [view.state for view in asked[0]] == ["queued", "running"]
    assert not jobs.when_idle(lambda: None)
    assert not submitted
    jobs.cancel(running)
    first.turn.release()
    until(lambda: device.running is None and not device._background)
    assert asked[0][0].id not in {view.id for view in jobs.list() if view.state == "running"}
    free.set()
    thread.join(PATIENCE)
    assert len(submitted) == 1
    until(lambda: jobs.get(submitted[0]).state == "running")
    close(jobs, second)
    kept = {row["id"]: row["state"] for row in store.jobs()}
    assert kept == {running: "cancelled", submitted[0]: "interrupted"}
    store.close()


def test_a_job_whose_row_cannot_be_written_is_not_taken(
    device: DeviceThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "data")
    jobs = Jobs(device)
    jobs.begin(store)

    def full(row: Any) -> None:
        raise OSError(28, "No space left on device")

    walk = Walk(tmp_path / "walk")
    with monkeypatch.context() as patch:
        patch.setattr(store, "put_job", full)
        with pytest.raises(OSError, match="No space"):
            walk.begin(jobs)
    assert jobs.list() == ()
    assert jobs.when_idle(lambda: None)
    job = walk.begin(jobs)
    walk.turn.release(100)
    until(lambda: jobs.get(job).state == "done")
    jobs.close()
    store.close()


def test_a_cancelled_calibration_leaves_no_checkpoint(model_folder: Path, cache: Path) -> None:
    settings = settings_with(checkpoint_s=0)
    app = create_app(settings, load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE) as client:
        job = order(client, epochs=10_000)
        until(lambda: scratch(settings.data_folder))
        client.post(f"/api/v1/jobs/{job}/cancel")
        assert ended(client, job)["state"] == "cancelled"
        assert not list((settings.data_folder / CHECKPOINTS).iterdir())
        assert not list((settings.data_folder / "calibrations").iterdir())
        assert client.get(f"/api/v1/jobs/{job}").json()["resumes"] is None
        again = client.post(f"/api/v1/jobs/{job}/restart").json()
        assert again["resumes"] is None
        client.post(f"/api/v1/jobs/{again['id']}/cancel")
        ended(client, again["id"])


def test_a_job_is_not_resumed_under_another_model(model_folder: Path, cache: Path) -> None:
    app = create_app(settings_with(), load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE) as client:
        sent = client.post("/api/v1/sets", files={"file": ("rows.csv", rows(40))}).json()["id"]
        asked = {"set": sent, "template": "{text} is a", "epochs": 10_000, "patience": 0}
        job = client.post("/api/v1/calibrations", json=asked).json()["id"]
        client.post(f"/api/v1/jobs/{job}/cancel")
        until(lambda: client.get(f"/api/v1/jobs/{job}").json()["finished"])
        held = app.state.jobs._jobs[job]
        mine = held.spec["model"]
        held.spec = {**held.spec, "model": "0" * 32}
        answer = client.post(f"/api/v1/jobs/{job}/restart")
        assert answer.status_code == 409
        assert "asked of another model" in answer.json()["error"]["sentence"]
        held.spec = {**held.spec, "model": mine}
        again = client.post(f"/api/v1/jobs/{job}/restart")
        assert again.status_code == 202
        client.post(f"/api/v1/jobs/{again.json()['id']}/cancel")
