"""The pages in a real browser behind a real proxy that serves them below a path."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from driving import PATIENCE_MS, Open, Site, settle
from playwright.sync_api import expect
from served import serve
from tiny_models import Folders
from waiting import PATIENCE

from app.settings import Settings

expect.set_options(timeout=PATIENCE_MS)

ROOT = "/lexiscope"
_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}


class Proxy(ThreadingHTTPServer):
    """A reverse proxy: what lies below `ROOT` goes to the app, all else is not there."""

    daemon_threads = True

    def __init__(self, upstream: str, *, strips: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.strips = urlsplit(upstream).netloc, strips
        self.answers: list[tuple[str, str, int]] = []
        """Method, path and status of every request."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def _pass_on(self) -> None:
        if self.path != ROOT and not self.path.startswith(f"{ROOT}/"):
            self.server.answers.append((self.command, self.path, 404))
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = (self.path.removeprefix(ROOT) or "/") if self.server.strips else self.path
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        headers["Host"] = self.headers["host"]
        headers["X-Forwarded-For"] = self.client_address[0]
        headers["X-Forwarded-Proto"] = "http"
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=PATIENCE)
        try:
            upstream.request(self.command, path, body or None, headers)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        self.server.answers.append((self.command, self.path, answer.status))
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in _HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def proxy_before(url: str, *, strips: bool) -> Iterator[Proxy]:
    server = Proxy(url, strips=strips)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


@pytest.fixture(scope="module")
def below(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    cache = tmp_path_factory.mktemp("proxy-cache")
    settings = Settings(
        model=str(folders["llama"]),
        device="cpu",
        threads=1,
        offline=True,
        cache_dir=cache,
        root_path=ROOT,
    )
    yield from serve(settings, tmp_path_factory.mktemp("proxy-data"))


@pytest.fixture(params=[False, True], ids=["passes the path on", "takes the prefix off"])
def proxy(below: Site, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with proxy_before(below.url, strips=request.param) as server:
        yield server


def _upload(tmp_path: Path) -> Path:
    lines = ["text,label"]
    for n in range(12):
        lines += [f"The sunny day was warm {n},warm", f"The old house was cold {n},cold"]
    file = tmp_path / "weather.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_trace_map_and_upload_work_below_a_path(
    below: Site, proxy: Proxy, visit_to: Open, tmp_path: Path
) -> None:
    """Every request of a tour stays below the path and is answered; the CSP guard watches."""
    home = f"http://127.0.0.1:{proxy.server_address[1]}"
    visit = visit_to(
        Site(home, below.app, below.server, below.faults), viewport={"width": 1280, "height": 900}
    )
    tab = visit.page
    tab.goto(f"{home}{ROOT}/?prompt=The+king+and+the")
    expect(tab.locator("#grid[data-ready=yes]")).to_be_visible()
    # A click by htmx: another cell's own lists.
    tab.locator('.cells a[data-cell="1,2"]').first.evaluate("link => link.click()")
    expect(tab.locator("#cell-title")).to_have_text(re.compile("layer 1, position 2"))
    settle(tab)
    assert urlsplit(tab.url).path == f"{ROOT}/"

    tab.goto(f"{home}{ROOT}/map?prompt=The+king+and+the")
    expect(tab.locator(".map-plot").first).to_be_attached()
    expect(tab.locator(".map-plot:not([data-ready])")).to_have_count(0)
    expect(tab.locator(".map-legend").first).not_to_be_empty()
    settle(tab)
    assert any(path.startswith(f"{ROOT}/api/v1/map") for _, path, _ in proxy.answers)

    tab.goto(f"{home}{ROOT}/calibrate")
    tab.locator("#upload summary").click()
    tab.locator("#file").set_input_files(str(_upload(tmp_path)))
    expect(tab).to_have_url(re.compile(rf"{ROOT}/calibrate\?.*set="))
    settle(tab)

    wrong = [seen for seen in proxy.answers if seen[2] >= 400 or not seen[1].startswith(ROOT)]
    assert not wrong
    assert {method for method, _, _ in proxy.answers} == {"GET", "POST"}
