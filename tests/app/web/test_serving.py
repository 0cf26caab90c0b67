"""A server that is watched, and that ends when it is told to."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import ServerProcess, raw_connection, serve, server_process
from waiting import until

from app.web.serving import HANGING, INTERRUPTED, LAST_S, Watchdog

SIGNALS = int(os.environ.get("LEXISCOPE_TEST_SIGNALS", "5"))
"""How often the server is told to end at some moment of its life; `make soak` sets more."""
SEED = int(os.environ.get("LEXISCOPE_TEST_SEED", "3"))


class World:
    """What the watchdog looks at, and a clock that is moved by hand."""

    def __init__(self, limit_s: float = 120.0) -> None:
        self.now = 1000.0
        self.device = SimpleNamespace(alive=True, heartbeat_age_s=0.0)
        self.server = SimpleNamespace(started=True, should_exit=False, turned=self.now)
        self.ended: list[int] = []
        self.dog = Watchdog(
            self.device, self.server, limit_s, end=self.ended.append, clock=lambda: self.now  # type: ignore[arg-type]
        )  # fmt: skip

    def pass_(self, seconds: float, *, loop: bool = True) -> None:
        """Let time pass, with a look each second; `loop`: whether the event loop turns."""
        for _ in range(round(seconds / self.dog.every_s)):
            self.now += self.dog.every_s
            if loop:
                self.server.turned = self.now
            self.dog.look()
            if self.ended:
                return


def test_a_device_that_hangs_ends_the_process_after_its_time() -> None:
    world = World()
    world.device.heartbeat_age_s = 119.0
    world.pass_(60)
    assert world.ended == []
    world.device.heartbeat_age_s = 121.0
    world.pass_(60)
    assert world.ended == [HANGING]


def test_a_device_that_is_dead_ends_the_process_soon() -> None:
    world = World()
    world.device.alive = False
    world.pass_(10)
    assert world.ended == [HANGING]


def test_an_event_loop_that_stands_still_ends_the_process() -> None:
    world = World()
    world.pass_(110, loop=False)
    assert world.ended == []
    world.pass_(20, loop=False)
    assert world.ended == [HANGING]


def test_a_process_that_was_frozen_gets_time_to_show_its_life() -> None:
    """A laptop that slept, a debugger: the watchdog itself did not look either."""
    world = World()
    world.now += 10_000
    world.device.heartbeat_age_s = 10_000.0
    world.dog.look()
    world.dog.look()
    assert world.ended == []
    world.device.heartbeat_age_s, world.server.turned = 0.0, world.now
    world.pass_(300)
    assert world.ended == []


def test_long_work_that_was_frozen_is_given_its_time_again() -> None:
    """It was in the middle of a step, which knows nothing of the pause; what hangs still ends."""
    world = World()
    world.now += 10_000
    world.device.heartbeat_age_s = 10_000.0
    world.pass_(60)
    assert world.ended == []
    world.pass_(90)
    assert world.ended == [HANGING]


def test_nothing_ends_what_has_not_begun_or_is_not_to_be_ended() -> None:
    world = World()
    world.server.started, world.device.alive = False, False
    world.pass_(1000, loop=False)
    assert world.ended == []
    world = World(limit_s=0)
    world.device.heartbeat_age_s, world.device.alive = 1e6, False
    world.pass_(1000, loop=False)
    assert world.ended == []


def test_a_server_that_does_not_come_to_its_end_is_ended_well() -> None:
    world = World()
    world.server.should_exit = True
    world.device.alive = False  # as it is while the server ends
    world.pass_(LAST_S - 1)
    assert world.ended == []
    world.pass_(3)
    assert world.ended == [0]


HANGS = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    import engine
    from app.web import logs
    from app.cli.serve import listen
    from app.main import create_app
    from app.web.serving import serve
    from app.settings import Settings

    space = engine.load(Path(sys.argv[1]), device="cpu", threads=1, offline=True)

    class Deaf(engine.LatentSpace):
        def __init__(self):
            vars(self).update(vars(space))

        def _read(self, tokens, options, check):
            time.sleep(3600)  # it never asks whether anybody waits

    settings = Settings(port=0)
    listener = listen(settings)
    logs.begin()
    app = create_app(settings, Deaf())
    print(f"is on http://localhost:{listener.getsockname()[1]}/", flush=True)
    sys.exit(serve(app, settings, listener))
    """
)


@pytest.mark.slow
def test_a_real_server_whose_work_hangs_ends_with_status_70(
    model_folder: Path, tmp_path: Path
) -> None:
    """`/readyz` says so first; the log says why, and where."""
    environment = {"heartbeat_limit_s": 0.5, "hang_exit_s": 6, "cache_dir": tmp_path / "cache"}
    with server_process(tmp_path, ["-c", HANGS, str(model_folder)], environment) as server:
        server.ready()
        seen: set[tuple[int, str]] = set()
        with closing(raw_connection(server.address())) as client:
            path = "/api/v1/trace?prompt=planted+words"
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            while server.process.poll() is None:
                with suppress(OSError, http.client.HTTPException):
                    status, _, body = server.get("/readyz")
                    seen.add((status, json.loads(body).get("reason") or ""))
                time.sleep(0.05)
        assert server.end() == HANGING, server.log
    last = [json.loads(x) for x in server.log.splitlines() if x.startswith("{")][-1]
    assert last["level"] == "critical"
    assert "status 70" in last["message"]
    assert "in trace" in server.log.rpartition("}")[2]  # the stack of every thread
    assert "planted" not in server.log
    assert any(status == 503 and "sign of life" in reason for status, reason in seen), seen


@contextmanager
def asked(server: ServerProcess) -> Iterator[None]:
    """Three questions under way, whose answers nobody waits for."""
    with ExitStack() as held:
        for n in range(3):
            one = held.enter_context(closing(raw_connection(server.address())))
            path = f"/api/v1/trace?prompt=the+cat+{n}"
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield


def hears(process_id: int) -> bool:
    """Whether the process has a handler for SIGTERM by now."""
    with suppress(OSError):
        for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says who hears a signal")
def test_sigterm_at_any_moment_is_a_good_end(
    model_folder: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """While it imports, loads, serves and computes; the data folder opens again afterwards."""
    chance = random.Random(SEED)
    longest = 0.0
    for turn in range(SIGNALS):
        folder = tmp_path / str(turn)
        with server_process(folder, serve(model_folder)) as server:
            until(
                lambda: hears(server.process.pid) or server.process.poll() is not None,
                lambda: server.log,
            )
            assert server.process.poll() is None, server.log
            # Every other time before it is ready, somewhere on the way there.
            with ExitStack() as held:
                if turn % 2:
                    server.ready()
                    held.enter_context(asked(server))
                    time.sleep(chance.uniform(0, 0.5))
                else:
                    time.sleep(chance.uniform(0, 8))
                told = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                status = server.end()
            longest = max(longest, time.monotonic() - told)
            assert status == 0, server.log
            assert "Traceback" not in server.log
            base = folder / "data" / "lexiscope.sqlite"
            if base.exists():
                rows = sqlite3.connect(base)
                assert rows.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                rows.close()
    record_property("signals", SIGNALS)
    record_property("longest end, seconds", round(longest, 1))


@pytest.mark.slow
def test_ctrl_c_while_it_computes_is_a_quiet_end(model_folder: Path, tmp_path: Path) -> None:
    """No thread of ours still runs while Python takes itself apart."""
    script = HANGS.replace("time.sleep(3600)", "time.sleep(60)").replace(
        "sys.exit(serve(app, settings, listener))",
        "status = serve(app, settings, listener)\nprint('came back', status, flush=True)",
    )
    with server_process(tmp_path, ["-c", script, str(model_folder)]) as server:
        server.ready()
        with asked(server):
            until(lambda: json.loads(server.get("/readyz")[2])["running"])
            server.process.send_signal(signal.SIGINT)
            assert server.end() == INTERRUPTED, server.log
        assert server.process.stdout is not None
        assert "came back" not in server.process.stdout.read()
        assert "Traceback" not in server.log


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_with_one_sentence(
    model_folder: Path, tmp_path: Path
) -> None:
    """While the answers under way are still waited for."""
    with server_process(tmp_path, ["-c", HANGS, str(model_folder)]) as server:
        server.ready()
        with asked(server):
            until(lambda: json.loads(server.get("/readyz")[2])["running"])
            server.process.send_signal(signal.SIGINT)
            while True:  # until the first one was heard: it takes no more connections
                try:
                    socket.create_connection(server.address()).close()
                except OSError:
                    break
            server.process.send_signal(signal.SIGINT)
            assert server.end() == INTERRUPTED, server.log
        last = server.log.splitlines()[-1]
        assert last.startswith("The server was told twice to end"), server.log
        assert "Traceback" not in server.log
        assert "Cancel" not in server.log  # what uvicorn says when it gives up waiting


@pytest.mark.slow
def test_a_job_that_a_signal_stops_is_listed_as_interrupted(
    model_folder: Path, tmp_path: Path
) -> None:
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "by"]
    lines = [f"{words[n % 9]} {words[n * 7 % 9]} {n},{'ab'[n % 2]}" for n in range(80)]
    with server_process(tmp_path, serve(model_folder)) as server:
        server.ready()
        with server.client() as client:
            table = "\n".join(["text,label", *lines])
            made = client.post("/api/v1/sets", files={"file": ("planted.csv", table.encode())})
            assert made.status_code == 201, made.text
            question = {
                "set": made.json()["id"], "template": "{text} is a", "epochs": 200, "compare": True,
            }  # fmt: skip
            begun = client.post("/api/v1/calibrations", json=question)
            assert begun.status_code == 202, server.log
            job = begun.json()["id"]
            until(lambda: client.get(f"/api/v1/jobs/{job}").json()["state"] == "running")
            assert json.loads(server.get("/readyz")[2])["jobs"]["running"] == 1
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0, server.log
        assert "Traceback" not in server.log
        # The log speaks of the job by its id, not by the name of somebody's file.
        assert job in server.log
        assert "planted" not in server.log
    with server_process(tmp_path, serve(model_folder)) as server:
        server.ready()
        status, _, body = server.get(f"/api/v1/jobs/{job}")
        assert (status, json.loads(body)["state"]) == (200, "interrupted")
