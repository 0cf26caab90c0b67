"""Faults of the machine: the server killed, the disk full or damaged, the memory used up."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from asgi import BASE, PROMPT, settings_with
from calibration_calls import csv_of
from processes import ServerProcess, serve, server_process
from starlette.testclient import TestClient
from waiting import PATIENCE

import app as app_package
import engine.checkpoints
import engine.frames.decomposition_cache
from app.calibrate.sets import Sets
from app.main import create_app
from app.storage.opening import open_store
from app.storage.store import Store, verify
from app.web.problems import StorageError
from engine import LatentSpace
from engine.frames.decomposition import HeadDecomposition, decompose
from engine.frames.decomposition_cache import cached_decomposition

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("LEXISCOPE_TEST_SERVER_KILLS", "2"))
"""Of a whole server; `make soak` takes more."""
DAMAGES = int(os.environ.get("LEXISCOPE_TEST_DAMAGES", "60"))
"""Of the database's files."""
SIZES = int(os.environ.get("LEXISCOPE_TEST_DISK_SIZES", "20"))
"""Disks that become full, each somewhere else in the work."""
ROOT = Path(app_package.__file__).parents[1]


def a_folder(folder: Path) -> Mapping[str, Any]:
    (folder / "a.json").write_text('{"a": 1}')
    (folder / "b.bin").write_bytes(bytes(range(256)) * 40)
    return {"name": "two files"}


# The whole server killed


@pytest.mark.slow
def test_a_server_killed_while_it_saves_keeps_all_that_it_acknowledged(
    tmp_path: Path, model_folder: Path, cache: Path
) -> None:
    """Uploads from three clients at once, and kill -9 at a random moment, again and again."""
    chance = random.Random(2)
    told: dict[str, int] = {}
    for kill in range(KILLS):
        enough = threading.Event()
        with server_process(tmp_path, serve(model_folder), {"cache_dir": cache}) as server:
            server.ready()

            def send(
                number: int, server: ServerProcess = server, enough: threading.Event = enough
            ) -> None:
                seed = number
                with server.client() as client:
                    while True:
                        seed += 10
                        rows = 20 + seed % 300
                        file = {"file": ("rows.csv", csv_of(rows, seed))}
                        try:
                            answer = client.post("/api/v1/sets", files=file)
                        except httpx2.HTTPError:
                            return  # killed
                        if answer.status_code == 201:
                            told[answer.json()["id"]] = rows
                            enough.set()
                        else:
                            assert answer.status_code == 503, answer.text

            clients = [threading.Thread(target=send, args=(1000 * kill + n,)) for n in range(3)]
            for one in clients:
                one.start()
            assert enough.wait(PATIENCE)
            time.sleep(chance.uniform(0, 0.4))
            assert server.stop(signal.SIGKILL) == -signal.SIGKILL
            for one in clients:
                one.join(PATIENCE)
        data = tmp_path / "data"
        rows = sqlite3.connect(data / "lexiscope.sqlite")
        assert rows.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows.close()
        store = Store(data)  # what the next start makes of it
        listed = {record.id for record in store.records("sets")}
        assert set(told) <= listed
        for id_ in listed:
            verify(data / "sets" / id_)
        assert not list((data / "sets").glob(".tmp-*"))
        store.close()
    assert len(told) >= KILLS
    sets = Sets(settings_with(data_dir=tmp_path / "data"))
    sets.store = Store(tmp_path / "data")
    for id_, count in told.items():
        assert len(sets.table(id_).rows) == count
    sets.store.close()
    assert "Traceback" not in (tmp_path / "log").read_text()


# A full disk

ON_A_SMALL_DISK = textwrap.dedent(
    """
    import json, subprocess, sys
    from pathlib import Path
    import torch
    from app.calibrate.sets import Sets
    from app.settings import Settings
    from app.web.problems import StorageError
    from app.storage.store import Store, verify
    from engine.frames.decomposition_cache import cached_decomposition

    place, sizes = Path(sys.argv[1]), int(sys.argv[2])
    outcome = {"saved": 0, "refused": 0}
    for turn in range(sizes):
        kib = 96 + 28 * turn
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place], check=True)
        sets = Sets(Settings(data_dir=place / "data"))
        kept = {}
        try:
            store = sets.store = Store(place / "data")
        except StorageError as error:
            assert "disk is full" in str(error), error
            outcome["refused"] += 1
            subprocess.run(["umount", "-l", place], check=True)
            continue
        # The cache of bases shares the disk: it may stay empty, but never fails.
        weight = torch.randn(200, 8, generator=torch.Generator().manual_seed(turn))
        for n in range(26):
            rows = 50 + (n * 337 + turn * 111) % 2400
            body = ("text,label\\n" + "".join(f"row {i} of {n},a\\n" for i in range(rows))).encode()
            try:
                kept[sets.add(f"{n}.csv", body).id] = rows
            except StorageError as error:
                assert "disk is full" in str(error), error
                outcome["refused"] += 1
            if n % 5 == 0:
                found = cached_decomposition(weight, place / "cache")
                assert torch.isfinite(found.basis_norms).all()
        outcome["saved"] += len(kept)
        # Reads are served while it is full, and nothing half is left.
        assert {one.id for one in sets.all() if not one.example} == set(kept)
        for id_, rows in kept.items():
            assert len(sets.table(id_).rows) == rows
        assert not list((place / "data" / "sets").glob(".tmp-*"))
        assert not list((place / "data" / "incoming").glob("*"))
        # Deleting is what makes room, so it works while there is none.
        for id_ in list(kept)[: len(kept) // 2]:
            sets.delete(id_)
            del kept[id_]
        assert {one.id for one in sets.all() if not one.example} == set(kept)
        for old in (place / "cache").glob("*"):
            old.unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", place], check=True)
        kept[sets.add("again.csv", b"text,label\\na,b\\n").id] = 1
        store.close()
        store = Store(place / "data")
        assert {one.id for one in store.records("sets")} == set(kept), store.notes
        assert not list((place / "data" / "sets").glob(".tmp-*"))
        for id_ in kept:
            verify(place / "data" / "sets" / id_)
        store.close()
        subprocess.run(["umount", "-l", place], check=True)
    print(json.dumps(outcome))
    """
)


def may_mount(place: Path) -> bool:
    """Whether a file system of a chosen size can be had here, in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    tried = [*command, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_disk_that_becomes_full_anywhere_loses_nothing(tmp_path: Path) -> None:
    if not may_mount(tmp_path):
        pytest.skip("this machine lets nobody mount a small disk")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", ON_A_SMALL_DISK,
         str(tmp_path), str(SIZES)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["refused"] >= SIZES
    assert outcome["saved"] >= SIZES


class Fault:
    """The n-th call of any of some functions of the system fails."""

    CALLS = ("fsync", "rename", "replace", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left = -1
        self.for_ever = False
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._failing(getattr(os, name), number))
        monkeypatch.setattr(Path, "write_text", self._failing(Path.write_text, number))
        monkeypatch.setattr(Path, "write_bytes", self._failing(Path.write_bytes, number))

    def _failing(self, real: Callable[..., Any], number: int) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if self.left >= 0:
                if self.left == 0:
                    self.left = 0 if self.for_ever else -1
                    raise OSError(number, os.strerror(number))
                self.left -= 1
            return real(*arguments, **more)

        return call


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_every_single_call_that_can_fail_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fault = Fault(monkeypatch, number)
    sets = Sets(settings_with(data_dir=tmp_path))
    store = sets.store = Store(tmp_path)
    kept = {sets.add("first.csv", csv_of(9)).id}
    failed, sentences = 0, set()
    for nth in range(6):
        doomed = sets.add("doomed.csv", csv_of(3)).id
        fault.left = nth
        try:
            sets.delete(doomed)
        except StorageError as error:
            failed += 1
            sentences.add(str(error))
            kept.add(doomed)
        fault.left = -1
        assert {record.id for record in store.records("sets")} == kept
        assert {path.name for path in (tmp_path / "sets").iterdir()} == kept
    assert failed >= 2
    for nth in range(200):
        fault.left = nth
        try:
            made = sets.add("more.csv", csv_of(9 + nth)).id
        except StorageError as error:
            failed += 1
            sentences.add(str(error))
        else:
            kept.add(made)
            if fault.left >= 0:
                break  # there are no more calls than that
        fault.left = -1
        assert {record.id for record in store.records("sets")} == kept
        assert {path.name for path in (tmp_path / "sets").iterdir()} == kept
    else:
        pytest.fail("the calls have no end")
    assert failed >= 10
    assert all(one.endswith(".") and str(tmp_path) not in one for one in sentences)
    store.close()
    again = Store(tmp_path)
    assert again.notes == ()
    assert {record.id for record in again.records("sets")} == kept
    for id_ in kept:
        verify(tmp_path / "sets" / id_)
    again.close()


def test_a_file_that_is_read_by_a_child_meets_the_full_disk_as_well(tmp_path: Path) -> None:
    """The child says what it met, so that the sender hears of the disk and not of memory."""
    sets = Sets(settings_with(data_dir=tmp_path))
    store = sets.store = Store(tmp_path)
    source = tmp_path / "large.csv"
    source.write_bytes(b"text,label\n" + b"some words in a row,a\n" * 60_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(StorageError, match="The server's disk is full"):
            sets.add("large.csv", source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.records("sets") == ()
    assert list((tmp_path / "sets").iterdir()) == []
    store.close()


def test_a_folder_that_turns_read_only_is_507_and_readings_go_on(
    space: LatentSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(settings_with(data_dir=tmp_path / "data", cache_dir=tmp_path), space)
    file = {"file": ("a.csv", csv_of(9))}
    with TestClient(app, base_url=BASE) as client:
        kept = client.post("/api/v1/sets", files=file).json()["id"]
        with monkeypatch.context() as patch:
            fault = Fault(patch, errno.EROFS)
            fault.left, fault.for_ever = 0, True
            answer = client.post("/api/v1/sets", files=file)
            assert answer.status_code == 507, answer.text
            assert "cannot be used" in answer.json()["error"]["sentence"]
            assert client.get("/api/v1/trace", params={"prompt": PROMPT}).status_code == 200
            assert client.get("/calibrate").status_code == 200
            assert client.get(f"/api/v1/sets/{kept}").status_code == 200
        assert client.post("/api/v1/sets", files=file).status_code == 201


# A damaged disk


def damage(body: bytes, chance: random.Random) -> bytes:
    """The same bytes after something that disks and people do to files."""
    out = bytearray(body)
    match chance.randrange(6):
        case 0:
            del out[chance.randrange(len(out) + 1) :]
        case 1:
            out = bytearray(chance.randbytes(chance.randrange(1, 9000)))
        case 2:
            for _ in range(chance.randrange(1, 40)):
                out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
        case 3:
            start = chance.randrange(len(out))
            out[start : start + 512] = bytes(len(out[start : start + 512]))
        case 4:
            start = chance.randrange(len(out))
            out[start : start + 256] = chance.randbytes(len(out[start : start + 256]))
        case 5:
            out += chance.randbytes(700)
    return bytes(out)


def test_no_damage_of_the_database_costs_a_saved_folder(tmp_path: Path) -> None:
    """Whatever happened to the rows, the next start lists every folder that is whole."""
    clean = tmp_path / "clean"
    store = Store(clean)
    kept = {store.publish("sets", a_folder).id for _ in range(4)}
    store.put_job({"id": "j", "created": 1.0, "state": "done", "title": "words " * 40})
    rows = (clean / "lexiscope.sqlite").read_bytes()
    log = (clean / "lexiscope.sqlite-wal").read_bytes()
    assert len(log) > 1000
    store.close()
    chance = random.Random(6)
    for turn in range(DAMAGES):
        folder = tmp_path / str(turn)
        shutil.copytree(clean, folder)
        which = turn % 3
        (folder / "lexiscope.sqlite").write_bytes(damage(rows, chance) if which != 1 else rows)
        (folder / "lexiscope.sqlite-wal").write_bytes(damage(log, chance) if which else log)
        again, why = open_store(settings_with(data_dir=folder))
        assert again is not None, (turn, why)
        assert {record.id for record in again.records("sets")} == kept, (turn, again.notes)
        for job in again.jobs():
            assert job["id"]
        again.publish("sets", a_folder)
        again.close()
        shutil.rmtree(folder)


def test_a_damaged_row_is_read_back_from_its_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = store.publish("sets", a_folder)
    store.put_job({"id": "j", "created": 1.0, "state": "done"})
    for text in ("{broken", "[1]", "\udcff".encode("utf-8", "surrogatepass"), None, 7):
        with store._rows:
            store._rows.execute("UPDATE saved SET summary = CAST(? AS TEXT)", (text or "",))
            store._rows.execute("UPDATE jobs SET row = CAST(? AS TEXT)", (text or "",))
        assert store.records("sets") == ()
        assert store.jobs() == ()
        store.close()
        store = Store(tmp_path)
        assert store.records("sets") == (record,)
    store.close()


def test_a_list_with_a_damaged_row_is_still_a_list(space: LatentSpace) -> None:
    app = create_app(settings_with(), space)
    with TestClient(app, base_url=BASE) as client:
        file = {"file": ("a.csv", csv_of(9))}
        good, bad = (client.post("/api/v1/sets", files=file).json()["id"] for _ in range(2))
        store = app.state.sets.store
        with store._rows:
            store._rows.execute("UPDATE saved SET summary = '{}' WHERE id = ?", (bad,))
        listed = {one["id"]: one for one in client.get("/api/v1/sets").json()["sets"]}
        assert listed[good]["name"] == "a.csv"
        assert listed[bad]["name"] == "(damaged)"
        assert client.get("/calibrate").status_code == 200
        assert client.delete(f"/api/v1/sets/{bad}").status_code in (200, 204)


DAMAGED = ("{}", '{"name": 1, "set_id": []}', '{"name": "x", "bytes": "many"}')


@pytest.mark.parametrize("summary", DAMAGED)
def test_a_calibration_with_a_damaged_row_is_listed_and_can_be_deleted(
    space: LatentSpace, summary: str
) -> None:
    app = create_app(settings_with(), space)
    with TestClient(app, base_url=BASE) as client:
        store = app.state.sets.store
        bad, other = (store.publish("calibrations", a_folder).id for _ in range(2))
        with store._rows:
            store._rows.execute("UPDATE saved SET summary = ? WHERE id = ?", (summary, bad))
        listed = {o["id"]: o for o in client.get("/api/v1/calibrations").json()["calibrations"]}
        assert set(listed) == {bad, other}
        assert listed[bad]["damaged"]
        assert listed[bad]["name"] == "(damaged)"
        page = client.get("/calibrate")
        assert page.status_code == 200
        assert f'action="/calibrate/{bad}/delete"' in page.text
        assert client.get("/", params={"prompt": PROMPT, "calibration": bad}).status_code == 200
        for path in (f"/calibrate/{bad}", f"/api/v1/calibrations/{bad}"):
            answer = client.get(path)
            assert answer.status_code == 409, answer.text
            assert "damaged" in answer.text
        assert client.post(f"/calibrate/{bad}/delete").status_code in (200, 303)
        assert client.delete(f"/api/v1/calibrations/{other}").status_code in (200, 204)
        assert client.get("/api/v1/calibrations").json()["calibrations"] == []


def head(seed: int = 1) -> torch.Tensor:
    return torch.randn(300, 12, generator=torch.Generator().manual_seed(seed))


def same(a: HeadDecomposition, b: HeadDecomposition) -> bool:
    names = ("eigenvalues", "eigenvectors", "leverage", "basis_norms", "row_norms", "row_mean")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def test_damaged_bases_of_the_cache_are_computed_anew(tmp_path: Path) -> None:
    weight = head()
    right = decompose(weight)
    cached_decomposition(weight, tmp_path)
    (file,) = tmp_path.iterdir()
    clean = file.read_bytes()
    assert cached_decomposition(weight, tmp_path).from_cache
    chance = random.Random(3)
    for _ in range(DAMAGES):
        body = damage(clean, chance)
        file.write_bytes(body)
        found = cached_decomposition(weight, tmp_path)
        assert found.from_cache == (body == clean) or same(found, right)
        assert same(found, right)
        assert cached_decomposition(weight, tmp_path).from_cache  # and kept again


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    weight = head(2)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(engine.checkpoints.tempfile, "mkstemp", refuse)
    assert same(cached_decomposition(weight, tmp_path / "cache"), decompose(weight))
    monkeypatch.undo()
    monkeypatch.setattr(engine.frames.decomposition_cache, "save_file", refuse)
    assert same(cached_decomposition(weight, tmp_path / "cache"), decompose(weight))
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    assert same(cached_decomposition(weight, tmp_path / "file" / "cache"), decompose(weight))


# No memory


@pytest.fixture
def little_memory() -> Iterator[Callable[[int], None]]:
    """Lets this process have so many bytes more than it has; what was so before is put back."""
    before = resource.getrlimit(resource.RLIMIT_AS)

    def limit(more: int) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_no_memory_for_one_request_is_503_and_the_next_succeeds(
    space: LatentSpace, monkeypatch: pytest.MonkeyPatch, little_memory: Callable[[int], None]
) -> None:
    """The allocator itself refuses, in the middle of a forward pass."""
    if not Path("/proc/self/statm").is_file():
        pytest.skip("this system does not say how much memory a process has")
    app = create_app(settings_with(), space)
    module: Any = space.model.module
    hungry = [True]

    def eat(*_: object) -> None:
        if hungry:
            torch.empty(2**31, dtype=torch.float64).fill_(1.0)

    handle = space.model.anatomy.blocks[1].register_forward_pre_hook(eat)
    try:
        with TestClient(app, base_url=BASE) as client:
            little_memory(2**30)
            for path in ("/api/v1/trace", "/"):
                answer = client.get(path, params={"prompt": "out of memory"})
                assert answer.status_code == 503, answer.text
                assert answer.headers["retry-after"]
                assert "not enough memory" in answer.text
                assert "Traceback" not in answer.text
            hungry.clear()
            answer = client.get("/api/v1/trace", params={"prompt": "out of memory"})
            assert answer.status_code == 200
            assert client.get("/livez").status_code == 200
    finally:
        handle.remove()
    assert module is space.model.module
