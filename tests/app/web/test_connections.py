"""No client holds a connection open for nothing."""

from __future__ import annotations

import http.client
import inspect
import json
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from asgi import Blocked, Call, running, settings_with
from fastapi import FastAPI
from processes import raw_connection, serve, server_process
from starlette.responses import Response, StreamingResponse
from uvicorn.protocols.http.h11_impl import H11Protocol
from waiting import PATIENCE, Clock, until

from app.main import create_app
from app.web.connections import MARGIN, Connections, GuardedProtocol
from app.web.head import connections_of
from app.web.security import HEADERS, PIECE
from app.web.serving import Server
from engine import LatentSpace

pytestmark = pytest.mark.slow

SLOW = int(os.environ.get("LEXISCOPE_TEST_SLOW", "200"))
"""Slow connections; `make soak` sets more."""


@contextmanager
def served(app: FastAPI, book: Connections | None) -> Iterator[uvicorn.Server]:
    """The app in a thread of this process: guarded, or on uvicorn as it comes."""
    config = uvicorn.Config(
        app, port=0, log_config=None, http=book.protocol() if book else "h11", ws="none",
        timeout_keep_alive=int(PATIENCE), access_log=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = Server(config, book) if book else uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield server
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def address(server: uvicorn.Server) -> tuple[str, int]:
    """Where it listens."""
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return "127.0.0.1", port


class Book(Connections):
    """Connections whose clock is moved by hand, and that says how often they were looked at."""

    clock: Clock

    def __init__(self, **values: Any) -> None:
        given = {"limit": 100, "head_deadline_s": 0.5, "send_deadline_s": 0.5, **values}
        super().__init__(clock=Clock(), **given)
        self.swept = 0

    def sweep(self, connections: Iterable[object]) -> None:
        super().sweep(connections)
        self.swept += 1

    def let_pass(self, seconds: float) -> None:
        """Let so many seconds pass, and have every connection looked at after them."""
        before, self.clock.now = self.swept, self.clock.now + seconds
        until(lambda: self.swept >= before + 2)

    def let_pass_until(self, condition: Callable[[], object]) -> None:
        """Let time pass until something has come of it."""
        until(lambda: condition() or self.let_pass(0.2))


@pytest.fixture
def app(space: LatentSpace) -> FastAPI:
    return create_app(settings_with(body_deadline_s=1.0), space)


KINDS = ("nothing", "head", "body", "leftover", "unread", "chunks")
BEGINNINGS = {
    "nothing": b"",
    "head": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "body": b"POST /api/v1/trace HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 5000\r\n\r\n",
    # Answered before the body is there: nobody in the app waits for the rest.
    "leftover": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n",
    "unread": b"GET /static/plotly.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4,
    "chunks": b"POST /api/v1/trace HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    b"\r\nTransfer-Encoding: chunked\r\n\r\n",
}
DROPS = {"head": b"x", "body": b" ", "leftover": b" ", "chunks": b"1\r\n \r\n"}
"""What is sent once more every moment."""


class Slow:
    """Connections that take their time."""

    def __init__(self, where: tuple[str, int], count: int) -> None:
        self.kinds = [KINDS[i % len(KINDS)] for i in range(count)]
        self.sockets: list[socket.socket] = []
        for kind in self.kinds:
            one = raw_connection(where, small=kind == "unread")
            one.sendall(BEGINNINGS[kind])
            self.sockets.append(one)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drip, daemon=True)
        self._thread.start()

    def _drip(self) -> None:
        while not self._stop.wait(0.1):
            for kind, one in zip(self.kinds, self.sockets, strict=True):
                if kind in DROPS:
                    with suppress(OSError):
                        one.send(DROPS[kind], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        for one in self.sockets:
            one.close()


def open_now(get: Callable[[str], Any]) -> int:
    """How many connections the server says it has, but for the one that asks."""
    status, _, body = get("/metrics")
    assert status == 200
    line = next(x for x in body.decode().splitlines() if 'connections{what="open"}' in x)
    return int(float(line.split()[-1])) - 1


@pytest.mark.slow
def test_slow_connections_are_all_closed_and_others_are_served(
    model_folder: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    environment = {"head_deadline_s": 5, "body_deadline_s": 5, "send_deadline_s": 5}
    with server_process(tmp_path, serve(model_folder), environment) as server:
        server.ready()
        slow = Slow(server.address(), SLOW)
        begun = time.monotonic()
        try:
            asked: list[int] = []

            def all_closed() -> bool:
                status, _, _ = server.get(f"/api/v1/trace?prompt=the+cat+{len(asked) % 7}")
                assert status == 200
                asked.append(open_now(server.get))
                return not asked[-1]

            until(all_closed, lambda: f"{asked[-1]} connections are still open")
            record_property("slow connections", SLOW)
            record_property("seconds until all were closed", round(time.monotonic() - begun, 1))
            record_property("questions answered meanwhile", len(asked))
            # Each of the six kinds was seen and given up by the server.
            text = server.get("/metrics")[2].decode()
            why = {
                line.split('why="')[1].split('"')[0]: float(line.split()[-1])
                for line in text.splitlines()
                if line.startswith("lexiscope_connections_given_up_total{")
            }
            of = {kind: slow.kinds.count(kind) for kind in KINDS}
            assert why["not_taken"] == of["unread"]
            assert why["late_head"] == of["nothing"] + of["head"] + of["leftover"]
            assert f'"/api/v1/trace",status="408"}} {of["body"] + of["chunks"]}.0' in text
        finally:
            slow.close()


def test_uvicorn_as_it_comes_keeps_slow_connections(app: FastAPI, space: LatentSpace) -> None:
    """What the test above would show without the deadlines: only slow bodies are closed."""
    with served(create_app(settings_with(body_deadline_s=1.0), space), None) as plain:
        slow = Slow(address(plain), 24)
        try:
            # The app closes the slow bodies after their deadline. What came with them stays.
            # Answered are these and what is left over; an answer that nobody reads never ends.
            until(lambda: plain.server_state.total_requests >= 12)
            until(lambda: len(plain.server_state.connections) <= 16)
            assert len(plain.server_state.connections) == 16
        finally:
            slow.close()
    book = Book()
    with served(app, book) as guarded:
        slow = Slow(address(guarded), 24)
        try:
            # Four of each kind; slow bodies are closed by the app, whose 408 ends the connection.
            until(lambda: guarded.server_state.total_requests >= 12)
            book.let_pass_until(lambda: book.closed["late_head"] == 12)
            book.let_pass_until(lambda: book.closed["not_taken"] == 4)
            until(lambda: book.open == 0)
            assert (book.closed["late_head"], book.closed["not_taken"]) == (12, 4)
        finally:
            slow.close()


def alive(one: socket.socket) -> bool:
    """Whether the answer of /livez comes; the connection stays open."""
    raw = b""
    while b"alive" not in raw:
        more = one.recv(65536)
        if not more:
            return False
        raw += more
    return True


def answer_of(one: socket.socket) -> tuple[int, dict[str, str], str]:
    """A whole answer up to the end of the connection."""
    raw = b""
    with suppress(ConnectionResetError):
        while more := one.recv(65536):
            raw += more
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
    return int(first.split()[1]), headers, body.decode()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: local", 408),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/2\r\nHost: localhost\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
         b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200, 400),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 600_000 + b"\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_what_is_not_http_gets_a_sentence_and_the_headers(
    app: FastAPI, sent: bytes, status: int
) -> None:
    book = Book()
    with served(app, book) as server, closing(raw_connection(address(server))) as one:
        with suppress(ConnectionError):
            one.sendall(sent)
        if status == 408:
            until(lambda: book.open)
            book.let_pass_until(lambda: book.closed["late_head"])
        got, headers, body = answer_of(one)
    assert got == status
    assert body.endswith(".\n")
    assert headers["connection"] == "close"
    for name, value in HEADERS.items():
        assert headers[name.lower()] == value


def test_a_broken_body_ends_the_connection_and_not_the_server(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    with served(app, Book()) as server, closing(raw_connection(address(server))) as one:
        one.sendall(BEGINNINGS["chunks"] + b"1\r\n \r\nnot a chunk\r\n")
        status, _, _ = answer_of(one)
        assert status == 400
        until(lambda: not server.server_state.tasks)
        with closing(http.client.HTTPConnection(*address(server))) as next_one:
            next_one.request("GET", "/livez")
            assert next_one.getresponse().status == 200
    assert "Traceback" not in caplog.text


UPGRADES = ("websocket", "h2c", "TLS/1.0", "x" * 200)


@pytest.mark.parametrize("upgrade", [*UPGRADES, None])
def test_what_a_stranger_sends_does_not_fill_the_log(
    app: FastAPI, caplog: pytest.LogCaptureFixture, upgrade: str | None
) -> None:
    """Who asks for another protocol is answered in this one; None: not even HTTP is sent."""
    asked = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
    if upgrade is None:
        asked = b"not HTTP at all\r\n\r\n"
    else:
        asked += f"Connection: Upgrade, close\r\nUpgrade: {upgrade}\r\n\r\n".encode()
    caplog.set_level("WARNING")
    book = Book(head_deadline_s=PATIENCE)
    with served(app, book) as server:
        for _ in range(3):
            with closing(raw_connection(address(server))) as one:
                one.sendall(asked)
                assert answer_of(one)[0] == (400 if upgrade is None else 200)
    assert not caplog.records
    assert book.closed["malformed"] == (3 if upgrade is None else 0)


def test_an_error_of_the_app_is_still_logged(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """Half an answer was out: only the log and the closed connection say so."""

    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("what was to come")

    @app.get("/half")
    async def answer() -> StreamingResponse:
        return StreamingResponse(half())

    with served(app, Book()) as server, closing(raw_connection(address(server))) as one:
        one.sendall(b"GET /half HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while one.recv(65536):
            pass
    assert [r for r in caplog.records if r.name == "lexiscope.connections" and r.exc_info]


def test_a_quick_client_keeps_its_connection(app: FastAPI) -> None:
    """Deadlines count from the first byte of a head, not from the beginning of the connection."""
    book = Book(head_deadline_s=1.0)
    with (
        served(app, book) as server,
        closing(http.client.HTTPConnection(*address(server))) as one,
    ):
        one.connect()
        first = one.sock
        for _ in range(6):
            one.request("GET", "/livez")
            assert one.getresponse().read()
            book.let_pass(0.8)
        assert one.sock is first
        # Two requests at once, the second one's head in two pieces.
        first.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET /livez HTTP/1.1\r\nHo")
        first.settimeout(PATIENCE)
        assert alive(first)
        book.let_pass(0.8)
        first.sendall(b"st: localhost\r\nConnection: close\r\n\r\n")
        assert answer_of(first)[0] == 200


def test_one_connection_too_many_is_told_so_and_closed(space: LatentSpace) -> None:
    blocked = Blocked(space)
    app = create_app(settings_with(), blocked)  # type: ignore[arg-type]
    book = Book(limit=3, head_deadline_s=30)
    with served(app, book) as server:
        where = address(server)
        held = [raw_connection(where) for _ in range(3)]
        try:
            for n, one in enumerate(held):
                one.sendall(
                    f"GET /api/v1/trace?prompt=cat{n} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                )
            until(lambda: len(server.server_state.tasks) == 3)
            book.let_pass(25)  # these are not idle, however long they have been there
            for path in ("/api/v1/model", "/"):
                with closing(raw_connection(where)) as late:
                    late.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    status, headers, body = answer_of(late)
                assert status == 503
                assert int(headers["retry-after"]) > 0
                assert headers["connection"] == "close"
                assert headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
                assert "Too many connections" in body
            with closing(http.client.HTTPConnection(*where)) as health:
                health.request("GET", "/livez")
                assert health.getresponse().status == 200
            assert book.closed["full"] == 3
            blocked.release.set()
            for one in held:
                assert b"200 OK" in one.recv(65536)
        finally:
            blocked.release.set()
            for one in held:
                one.close()


def test_an_idle_connection_gives_way_to_a_new_one(space: LatentSpace) -> None:
    app = create_app(settings_with(), space)  # patient: no deadline may close one as well
    book = Book(limit=3, head_deadline_s=30)
    with served(app, book) as server:
        held = []
        for _ in range(3):
            one = raw_connection(address(server))
            one.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert alive(one)
            held.append(one)
            # The answer is with the client before the server has put it away.
            until(lambda: sum(c.quiet for c in server.server_state.connections) == len(held))  # type: ignore[attr-defined]
            book.let_pass(0.2)
        book.let_pass(1.2)
        with closing(http.client.HTTPConnection(*address(server))) as newcomer:
            newcomer.request("GET", "/api/v1/model")
            assert newcomer.getresponse().status == 200
            with suppress(ConnectionResetError):
                assert held[0].recv(10) == b""  # the one that was idle longest
            for one in held[1:]:
                one.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert alive(one), book.closed
        for one in held:
            one.close()
    assert (book.closed["idle"], book.closed["full"]) == (1, 0)


def test_a_flood_of_connections_is_not_even_answered(app: FastAPI) -> None:
    book = Book(limit=8, head_deadline_s=30)
    with served(app, book) as server:
        flood = [raw_connection(address(server)) for _ in range(8 + MARGIN + 40)]
        try:
            until(lambda: book.closed["full"] + book.closed["idle"] >= MARGIN + 40)
            until(lambda: book.open <= 8 + MARGIN)
            with closing(http.client.HTTPConnection(*address(server))) as health:
                book.let_pass(1.2)
                health.request("GET", "/livez")
                assert health.getresponse().status == 200
        finally:
            for one in flood:
                one.close()


def test_who_waits_when_the_server_ends_is_answered(space: LatentSpace) -> None:
    """Not with a closed connection and not with a traceback, but with 503 and the headers."""
    blocked = Blocked(space)
    app = create_app(settings_with(), blocked)  # type: ignore[arg-type]
    with served(app, Book(head_deadline_s=30)) as server:
        held = [raw_connection(address(server)) for _ in range(3)]
        for n, one in enumerate(held):
            path = f"/api/v1/trace?prompt={n}"
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        until(blocked.entered.is_set)
        until(lambda: len(server.server_state.tasks) == 3)
        server.should_exit = True
        for one in held:
            status, headers, body = answer_of(one)
            assert status == 503
            assert int(headers["retry-after"]) > 0
            assert headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
            assert json.loads(body)["error"]["sentence"].startswith("The server is shutting down")
            one.close()


def test_what_we_lean_on_in_uvicorn_is_still_there() -> None:
    """Names and signatures that `app.web.connections` overrides or reads; see its docstring."""
    arguments = {
        "connection_made": ["self", "transport"],
        "connection_lost": ["self", "exc"],
        "data_received": ["self", "data"],
        "on_response_complete": ["self"],
        "send_400_response": ["self", "msg"],
        "shutdown": ["self"],
    }
    for name, expected in arguments.items():
        theirs = inspect.signature(getattr(H11Protocol, name))
        assert list(theirs.parameters) == expected, name
        assert name in vars(GuardedProtocol), name
    source = inspect.getsource(H11Protocol)
    for name in ("app_state", "client", "conn", "connections", "cycle", "logger", "transport"):
        assert f"self.{name}" in source, name
    assert '"state": self.app_state.copy()' in source
    assert "on_response=self.on_response_complete" in source
    cycle = inspect.getsource(inspect.getmodule(H11Protocol))  # type: ignore[arg-type]
    for name in ("response_complete", "disconnected", "message_event"):
        assert f"self.{name} = " in cycle, name
    assert inspect.iscoroutinefunction(uvicorn.Server.on_tick)
    assert "await asyncio.sleep(0.1)" in inspect.getsource(uvicorn.Server.main_loop)


def test_a_malformed_body_of_a_head_request_is_refused_without_a_body(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    with served(app, Book()) as server, closing(raw_connection(address(server))) as one:
        one.sendall(
            b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n"
        )
        answer = b""
        while part := one.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"\r\n\r\n")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says what it holds")
def test_who_reads_slowly_is_not_who_does_not_read(app: FastAPI) -> None:
    """The kernel takes a whole lot at once, and then for a long time nothing."""
    book = Book(send_deadline_s=2.0, head_deadline_s=30.0)
    question = b"GET /static/plotly.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        served(app, book) as server,
        closing(raw_connection(address(server), small=True)) as one,
    ):
        one.sendall(question * 2)
        for _ in range(40):  # ten times the deadline
            assert one.recv(2000)
            book.let_pass(0.5)
        assert book.closed["not_taken"] == 0
        book.let_pass_until(lambda: book.closed["not_taken"] == 1)  # once it reads no more


def test_a_text_under_way_outlives_every_deadline_of_its_connection(
    app: FastAPI, space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is held before its second step for a hundred times what a head or a taken answer
    may last: nothing is owed by the client meanwhile."""
    book, go_on, advance = Book(), threading.Event(), space.model.advance
    steps: list[int] = []

    def held(*given: Any, check: Callable[[], None]) -> Any:
        steps.append(1)
        while len(steps) > 1 and not go_on.wait(0.002):
            check()
        return advance(*given, check=check)

    monkeypatch.setattr(space.model, "advance", held)
    path = b"/api/v1/generate?prompt=cat&tokens=2&stream=true"
    question = b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with served(app, book) as server, closing(raw_connection(address(server))) as one:
        one.sendall(question)
        answer = b""
        while b'"event":"token"' not in answer:
            answer += one.recv(100_000)
        for _ in range(5):
            book.let_pass(10)
        assert not any(book.closed.values())
        go_on.set()
        while b'"event":"end"' not in answer:
            part = one.recv(100_000)
            assert part
            answer += part
        assert answer.count(b'"event":"token"') == 2


def test_who_does_not_read_holds_a_piece_and_not_the_whole_answer(app: FastAPI) -> None:
    """Plotly.js is five megabytes; each reader waits for its own client."""
    whole = 3 * 2**20
    count = 6

    @app.get("/large")
    async def large() -> Response:
        return Response(b"x" * whole)

    book = Book(send_deadline_s=PATIENCE, head_deadline_s=PATIENCE)
    with served(app, book) as server:
        where = address(server)
        readers = [raw_connection(where, small=True) for _ in range(count)]
        try:
            paths = ["/large", "/static/plotly.min.js"] * (count // 2)
            for one, path in zip(readers, paths, strict=True):
                one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            connections = server.server_state.connections

            def written() -> list[int]:
                return [one.transport.get_write_buffer_size() for one in connections]

            until(lambda: len(written()) == count and all(written()))
            assert max(written()) <= 3 * PIECE
            # And who reads on gets all of it.
            got = b""
            while len(got) < whole:
                got += readers[0].recv(2**20)
            head, _, body = got.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            while len(body) < whole:
                body += readers[0].recv(2**20)
            assert body == b"x" * whole
        finally:
            for one in readers:
                one.close()


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 5])
async def test_an_answer_in_pieces_is_the_same_answer(app: FastAPI, size: int) -> None:
    whole = os.urandom(size)

    @app.get("/large")
    async def large() -> Response:
        return Response(whole)

    async with running(app):
        call = await Call(app, "/large").answer()
        bare = await Call(app, "/large", method="HEAD").answer()
    assert call.body == whole
    assert (bare.headers["content-length"], bare.body) == (str(size), b"")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="127.0.0.2 is an address on Linux")
def test_one_address_has_its_share_of_connections(space: LatentSpace) -> None:
    """Whatever it does with them, the others are served; beyond a margin it is not even told."""
    blocked = Blocked(space)
    app = create_app(settings_with(), blocked)  # type: ignore[arg-type]
    book = Book(limit=100, head_deadline_s=30, share={"127.0.0.2": 3}.get)
    with served(app, book) as server:
        where = address(server)

        def greedy() -> socket.socket:
            one = raw_connection(where, source="127.0.0.2")
            held.append(one)
            return one

        held: list[socket.socket] = []
        try:
            for n in range(3):
                asked = f"GET /api/v1/trace?prompt=cat{n} HTTP/1.1\r\nHost: localhost\r\n\r\n"
                greedy().sendall(asked.encode())
            until(lambda: len(server.server_state.tasks) == 3)
            book.let_pass(5)
            fourth = greedy()
            fourth.sendall(b"GET /api/v1/model HTTP/1.1\r\nHost: localhost\r\n\r\n")
            status, headers, body = answer_of(fourth)
            assert status == 503
            assert int(headers["retry-after"]) > 0
            assert "Too many connections" in body
            for _ in range(40):
                greedy()
            until(lambda: book.held["127.0.0.2"] <= 3 + 16)
            with closing(http.client.HTTPConnection(*where)) as other:
                other.request("GET", "/api/v1/model")
                assert other.getresponse().status == 200
        finally:
            blocked.release.set()
            for one in held:
                one.close()
        until(lambda: "127.0.0.2" not in book.held)


@pytest.mark.parametrize(
    ("settings", "client", "share"),
    [
        ({}, "127.0.0.1", None),
        ({}, "::1", None),
        ({}, "192.0.2.1", 256),
        ({"connections": 8}, "2001:db8::", 2),
        ({"proxies": "192.0.2.1"}, "192.0.2.1", None),
        ({"client_connections": 7}, "127.0.0.1", 7),
        ({"client_connections": 0}, "192.0.2.1", None),
    ],
)
def test_the_share_of_a_client(settings: dict[str, Any], client: str, share: int | None) -> None:
    assert connections_of(settings_with(**settings), client) == share
