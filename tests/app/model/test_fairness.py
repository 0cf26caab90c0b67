"""Nobody's requests keep another one's from their turn, and who leaves takes nothing along."""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import uvicorn
from asgi import Blocked, Call, load_tiny, running, settings_with, share, until
from fastapi import FastAPI
from waiting import PATIENCE
from waiting import until as wait_until

from app.main import create_app
from app.web.head import client_of, places_of
from engine import LatentSpace

pytestmark = pytest.mark.slow

TRACE = "/api/v1/trace"
POLITE = int(os.environ.get("LEXISCOPE_TEST_POLITE", "12"))
"""Requests of the client that sends one after the other."""
GREEDY = 32
STEP_S = 0.002
"""How long a step and a pause after a refusal are: nothing is counted by it."""


class Paced(LatentSpace):
    """A space whose readings go in small steps, each of which may be stopped."""

    def __init__(self, space: LatentSpace) -> None:
        share(self, space)
        self.steps = 10
        self.taken: list[str] = []
        self.begun: Callable[[str], None] = lambda prompt: None
        self.walked = 0
        self.stopped = 0

    def _read(self, tokens: Any, options: Any, check: Any) -> Any:
        self.taken.append(tokens.prompt)
        self.begun(tokens.prompt)
        for _ in range(self.steps):
            try:
                check()
            except Exception:
                self.stopped += 1
                raise
            self.walked += 1
            time.sleep(STEP_S)
        return super()._read(tokens, options, check)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.168.1.7", "192.168.1.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::1"),
        ("a:b", "a:b"),
    ],
)
def test_a_client_is_an_address_or_a_network_of_ipv6(address: str, client: str) -> None:
    class Asked:
        pass

    asked: Any = Asked()
    asked.client = type("Client", (), {"host": address})()
    assert client_of(asked) == client
    asked.client = None
    assert client_of(asked) == ""


@pytest.mark.parametrize(
    ("setting", "client", "places"),
    [
        (None, "10.0.0.1", 4),
        (None, "2001:db8:1:2::", 4),
        (None, "127.0.0.1", None),
        (None, "127.3.2.1", None),
        (None, "::1", None),
        (None, "", None),
        (None, "testclient", 4),
        (2, "127.0.0.1", 2),
        (2, "10.0.0.1", 2),
        (0, "10.0.0.1", None),
    ],
)
def test_places_of_a_client(setting: int | None, client: str, places: int | None) -> None:
    assert places_of(settings_with(client_places=setting), client) == places


async def test_a_client_from_elsewhere_holds_four_places_and_this_machine_more(
    space: LatentSpace,
) -> None:
    blocked = Blocked(space)
    app = create_app(settings_with(), blocked)  # type: ignore[arg-type]
    async with running(app):
        device = app.state.explorer.device
        far = [Call(app, TRACE, {"prompt": f"far {n}"}, client="10.0.0.9") for n in range(4)]
        await until(blocked.entered.is_set)
        await until(lambda: device.waiting == 3)
        fifth = await Call(app, TRACE, {"prompt": "far 5"}, client="10.0.0.9").answer()
        here = [Call(app, TRACE, {"prompt": f"here {n}"}) for n in range(6)]
        await until(lambda: device.waiting == 9)
        blocked.release.set()
        statuses = [(await call.answer()).status for call in (*far, *here)]
    assert fifth.status == 503
    assert "retry-after" in fifth.headers
    assert "4 requests under way" in fifth.json["error"]["sentence"]
    assert statuses == [200] * 10
    # In turns, although the four came first.
    assert [prompt.split()[0] for prompt in blocked.calls[:4]] == ["far", "here", "far", "here"]


@contextmanager
def served(app: FastAPI) -> Iterator[int]:
    """The app on a real server in a thread of its own; the port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


class Client:
    """One connection from an address of this machine."""

    def __init__(self, port: int, address: str) -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=PATIENCE, source_address=(address, 0)
        )

    def ask(self, prompt: str) -> int:
        query = urlencode({"prompt": prompt, "k": 1})
        self._connection.request("GET", f"{TRACE}?{query}", headers={"Host": "localhost"})
        answer = self._connection.getresponse()
        answer.read()
        if answer.status == 503:
            assert answer.headers["Retry-After"]
        return answer.status

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def paced(model_folder: Path, cache: Path) -> Paced:
    return Paced(load_tiny(model_folder, cache))


@pytest.mark.parametrize("client_places", [None, 4])
def test_a_polite_client_beside_a_greedy_one_gets_a_third_of_its_own_pace(
    paced: Paced, client_places: int | None
) -> None:
    """On a real server: one connection from one address, 32 from another.

    Counted in turns of the device, which a busy machine does not change: how many of the greedy
    client's requests begin between the moment a polite one stands in line and its own turn.
    """
    settings = settings_with(client_places=client_places, result_cache_mib=0)
    app = create_app(settings, paced)  # type: ignore[arg-type]
    device = app.state.explorer.device
    stood: list[int] = []
    own: list[int] = []
    submit = device.submit

    def counted(*arguments: Any, **named: Any) -> Any:
        job = submit(*arguments, **named)
        if named.get("client") == "127.0.0.3":
            stood.append(device._turns)
        return job

    device.submit = counted
    paced.begun = lambda prompt: own.append(device._turns) if "polite" in prompt else None
    stop = threading.Event()
    greedy: list[int] = []
    with served(app) as port:

        def grab(number: int) -> None:
            client = Client(port, "127.0.0.2")
            while not stop.is_set():
                status = client.ask(f"greedy {number} {len(greedy)}")
                greedy.append(status)
                if status != 200:
                    time.sleep(STEP_S)
            client.close()

        crowd = [threading.Thread(target=grab, args=(n,), daemon=True) for n in range(GREEDY)]
        for one in crowd:
            one.start()
        wait_until(lambda: len(paced.taken) >= 5)
        polite = Client(port, "127.0.0.3")
        statuses = [polite.ask(f"polite {number}") for number in range(POLITE)]
        polite.close()
        stop.set()
        for one in crowd:
            one.join(PATIENCE)
    assert statuses == [200] * POLITE
    assert len(own) == len(stood) == POLITE
    # Besides the one that runs already one turn of the other at most: a third of its own pace, or
    # more. Its own turn is counted as well.
    assert all(turn - before <= 2 for turn, before in zip(own, stood, strict=True))
    assert set(greedy) <= {200, 503}
    assert greedy.count(200) > 0


async def test_twelve_clients_that_leave_the_queue_are_never_computed(space: LatentSpace) -> None:
    blocked = Blocked(space)
    app = create_app(settings_with(), blocked)  # type: ignore[arg-type]
    async with running(app):
        device = app.state.explorer.device
        first = Call(app, TRACE, {"prompt": "the one that runs"})
        await until(blocked.entered.is_set)
        leavers = [Call(app, TRACE, {"prompt": f"leaver {n}"}) for n in range(12)]
        await until(lambda: device.waiting == 12)
        for one in leavers:
            one.leave()
        await asyncio.gather(*[one.answer() for one in leavers])
        assert device.waiting == 0
        stayer = Call(app, TRACE, {"prompt": "the next"})
        await until(lambda: device.waiting == 1)
        blocked.release.set()
        assert [(await one.answer()).status for one in (first, stayer)] == [200, 200]
    assert blocked.calls == ["the one that runs", "the next"]
    assert device.counters["dropped"] == 12


def test_ten_clients_that_leave_in_the_middle_of_a_pass_free_the_device_at_once(
    paced: Paced,
) -> None:
    """On real connections, after a random number of steps: the work, which has no end of its own,
    is stopped, ten of ten."""
    paced.steps = 10**9
    app = create_app(settings_with(result_cache_mib=0), paced)  # type: ignore[arg-type]
    chance = random.Random(0)
    with served(app) as port:
        for number in range(10):
            before, walked = len(paced.taken), paced.walked
            leaver = socket.create_connection(("127.0.0.1", port))
            query = urlencode({"prompt": f"leaver {number}"})
            leaver.sendall(f"GET {TRACE}?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            wait_until(lambda before=before: len(paced.taken) > before)
            far = walked + chance.randint(0, 40)
            wait_until(lambda far=far: paced.walked >= far)
            leaver.close()
            wait_until(lambda number=number: paced.stopped == number + 1)
        paced.steps = 0
        next_one = Client(port, "127.0.0.1")
        assert next_one.ask("the next") == 200
        next_one.close()
    assert app.state.explorer.device.counters["cancelled"] == 10
