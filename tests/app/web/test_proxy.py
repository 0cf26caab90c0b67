"""Below a path of a proxy every page, link, form, redirect, cookie and download stays below it.

The proxy is a client that passes the path on unchanged, or takes the prefix off first; the app
works with either.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest
from asgi import BASE, load_tiny, settings_with
from calibration_forms import encoded, finished, form_of, table_of
from parsed import Parsed
from processes import ServerProcess, serve, server_process
from starlette.testclient import TestClient
from waiting import PATIENCE

from app import main
from app.main import create_app

ROOT = "/lexiscope"
PAGES = (*(one.path for one in main.PAGES), "/jobs", "/no/such/page")
VISITS = 2
"""Times that one path is asked for with another query."""
FOLLOWED = ("href", "src", "hx-get")
IN_DATA = re.compile(r'"(/(?:api|bases|calibrat|jobs|login|map|method|model|static)[^"]*)"')
"""An address of ours in a figure's or a panel's data."""


class Proxied:
    """A browser behind the proxy: asks for what stands in the page, checks what it gets."""

    def __init__(self, client: TestClient, *, strips: bool) -> None:
        self.client, self._strips = client, strips
        self.seen: Counter[str] = Counter()
        self.outside: list[str] = []
        """Addresses that lead past the prefix, with the page where they stand."""

    def ask(self, method: str, url: str, **given: Any) -> httpx2.Response:
        """One request; a redirect is looked at and followed."""
        parts = urlsplit(url)
        assert self._below(parts.path), url
        inner = parts.path.removeprefix(ROOT) or "/" if self._strips else parts.path
        target = inner + (f"?{parts.query}" if parts.query else "")
        answer = self.client.request(method, target, follow_redirects=False, **given)
        location = answer.headers.get("location")
        if location is None:
            return answer
        found = urlsplit(urljoin(BASE + url, location))
        assert found.netloc == urlsplit(BASE).netloc, location
        if not self._below(found.path):
            self.outside.append(f"{method} {url} leads to {location}")
            return answer
        again = found.path + (f"?{found.query}" if found.query else "")
        return self.ask("GET", again) if answer.status_code != 307 else answer

    def crawl(self, *starts: str) -> None:
        """Everything that can be reached by links from some pages."""
        waiting = [ROOT + path for path in starts]
        while waiting:
            url = waiting.pop()
            path = urlsplit(url).path
            if self.seen[path] >= VISITS:
                continue
            self.seen[path] += 1
            answer = self.ask("GET", url)
            # What a step of a story shows is not made by itself.
            missing = path.endswith(("/no/such/page", "/present/paris/9"))
            # A story is told of a model of its own; of another, a step may say that it cannot be.
            of_story = any(one in url for one in ("present=", "/api/v1/act?", "/api/v1/causal?"))
            told = of_story and answer.status_code == 422
            # Nor is the map that a step shows laid out by itself.
            told = told or ("projection=umap" in url and answer.status_code == 409)
            assert (answer.status_code == 404) if missing else told or answer.status_code < 400, (
                url,
                answer.status_code,
                answer.text[:300],
            )
            kind = answer.headers.get("content-type", "")
            if kind.startswith("text/html"):
                waiting += self._links(url, answer.text)
            elif kind.startswith("application/json") and not path.endswith("openapi.json"):
                self._json(url, answer.json())

    def _below(self, path: str) -> bool:
        return path == ROOT or path.startswith(f"{ROOT}/")

    def _links(self, url: str, text: str) -> Iterator[str]:
        for element in Parsed(text).elements:
            for name, value in element.attrs.items():
                if not value or value.startswith("#"):
                    continue
                if name.startswith("data-"):
                    self._note(url, name, IN_DATA.findall(value))
                address = name in (*FOLLOWED, "action", "formaction", "hx-post", "hx-delete")
                address |= name.startswith("data-") and bool(re.match(r"/[a-z]", value))
                if not address or value.startswith(("data:", "mailto:", "http://", "https://")):
                    continue
                found = urlsplit(urljoin(url, value))
                if not self._below(found.path):
                    self.outside.append(f"{url}: <{element.tag} {name}={value!r}>")
                elif name in FOLLOWED and "hx-post" not in element.attrs:
                    yield found.path + (f"?{found.query}" if found.query else "")

    def _note(self, url: str, name: str, addresses: list[str]) -> None:
        self.outside += [f"{url}: {name} holds {a}" for a in addresses if not self._below(a)]

    def _json(self, url: str, value: Any) -> None:
        self._note(url, "JSON", IN_DATA.findall(json.dumps(value)))


@pytest.fixture(scope="module")
def server(model_folder: Path, cache: Path) -> Iterator[TestClient]:
    app = create_app(settings_with(root_path=ROOT), load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE) as client:
        yield client


@pytest.fixture(params=["passes the path on", "takes the prefix off"])
def proxied(server: TestClient, request: pytest.FixtureRequest) -> Proxied:
    return Proxied(server, strips="off" in request.param)


def test_the_walk_notices_what_leads_past_the_prefix(server: TestClient) -> None:
    walk = Proxied(server, strips=False)
    page = (
        '<p><a href="/map">x</a><a href="?k=3">y</a><i data-plot=\'{"a":"/static/x.js"}\'></i></p>'
    )
    assert list(walk._links(f"{ROOT}/", page)) == [f"{ROOT}/?k=3"]
    assert len(walk.outside) == 2
    walk._json(f"{ROOT}/api", {"links": {"page": "/jobs/0"}})
    assert len(walk.outside) == 3


@pytest.mark.slow
def test_every_page_and_download_lies_below_the_prefix(proxied: Proxied) -> None:
    """Links of all pages, of a finished job, a calibration, a map; then what they link to."""
    sent = {"file": ("weather.csv", table_of(), "text/csv")}
    answer = proxied.client.post(f"{ROOT}/calibrate/sets", files=sent, follow_redirects=False)
    assert answer.headers["location"].startswith(f"{ROOT}/calibrate?")
    name = parse_qs(urlsplit(answer.headers["location"]).query)["set"][0]

    form = Parsed(proxied.ask("GET", f"{ROOT}/calibrate?set={name}").text)
    fields = [(n, v) for n, v in form_of(form) if n != "epochs"] + [("epochs", "2")]
    answer = proxied.client.post(
        f"{ROOT}/calibrate/run", data=encoded(fields), follow_redirects=False
    )
    job = answer.headers["location"]
    assert job.startswith(f"{ROOT}/jobs/")
    view = finished(proxied.client, job)
    assert view.state == "done", view.problem

    starts = [*PAGES, "/?prompt=The+cat+sat&cell=1,2", "/bases?token=%2340&search=cat"]
    starts += [f"/calibrate?set={name}", job.removeprefix(ROOT), "/map?prompt=The+cat"]
    starts += ["/api/v1/jobs", "/api/v1/calibrations", "/api/v1/openapi.json"]
    proxied.crawl(*starts)
    assert not proxied.outside, "\n".join(sorted(set(proxied.outside))[:20])
    for part in ("/static/", "/jobs/", "/calibrate/", "/api/v1/trace", "/map"):
        assert any(path.startswith(ROOT + part) for path in proxied.seen), f"{part} was not seen"


@pytest.mark.slow
def test_the_document_of_the_api_names_the_prefix(proxied: Proxied) -> None:
    assert proxied.ask("GET", f"{ROOT}/api/v1/openapi.json").json()["servers"] == [{"url": ROOT}]


def test_the_login_leads_below_the_prefix_and_so_does_its_cookie(
    model_folder: Path, cache: Path
) -> None:
    token = "0123456789012345678901234567"
    settings = settings_with(root_path=ROOT, token=token)
    app = create_app(settings, load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE) as client:
        for prefix in (ROOT, ""):
            answer = client.get(f"{prefix}/login?token={token}", follow_redirects=False)
            assert answer.status_code == 303
            assert answer.headers["location"] == f"{ROOT}/"
            cookie = answer.headers["set-cookie"]
            assert f"path={ROOT};" in f"{cookie.lower()};"
            client.cookies.clear()
            assert client.get(f"{prefix}/", headers={"accept": "text/html"}).status_code == 401
            name = cookie.split(";")[0]
            assert client.get(f"{prefix}/", headers={"cookie": name}).status_code == 200


def test_a_prefix_opens_no_way_round_the_token(model_folder: Path, cache: Path) -> None:
    """The prefix in front of a public address, twice, or half of it, makes nothing public."""
    settings = settings_with(root_path=ROOT, token="0123456789012345678901234567")
    app = create_app(settings, load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE) as client:
        for path in (
            f"{ROOT}/",
            f"{ROOT}/api/v1/trace?prompt=x",
            f"{ROOT}{ROOT}/livez/../api/v1/trace?prompt=x",
            f"/static{ROOT}/api/v1/trace?prompt=x",
            f"{ROOT}/livez/api/v1/trace?prompt=x",
            "/lexi/api/v1/trace?prompt=x",
        ):
            assert client.get(path).status_code in (401, 404), path
            assert "top_ids" not in client.get(path).text
        assert client.get(f"{ROOT}/livez").status_code == 200


def _ask(
    server: ServerProcess, path: str, source: str, **headers: str
) -> tuple[int, dict[str, str]]:
    """A request from one of this machine's own addresses."""
    host, port = server.address()
    connection = http.client.HTTPConnection(
        host, port, timeout=PATIENCE, source_address=(source, 0)
    )
    with closing(connection):
        connection.request(
            "GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer = connection.getresponse()
        answer.read()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="127.0.0.2 is an address on Linux")
@pytest.mark.slow
def test_what_a_proxy_says_of_its_client_is_believed_of_a_known_proxy_only(
    model_folder: Path, tmp_path: Path
) -> None:
    """The counter of wrong tokens goes by the address, and the cookie's Secure by the scheme."""
    token, wrong = "0123456789012345678901234567", "x" * 28
    known = {"token": token, "proxies": "127.0.0.1"}
    with server_process(tmp_path, serve(model_folder), known) as server:

        def tries(source: str, client: str, count: int) -> list[int]:
            return [
                _ask(server, f"/login?token={wrong}", source, X_Forwarded_For=client)[0]
                for _ in range(count)
            ]

        def secure(source: str) -> bool:
            status, headers = _ask(
                server, f"/login?token={token}", source, X_Forwarded_Proto="https"
            )
            assert status == 303
            return "secure" in headers["set-cookie"].lower()

        assert secure("127.0.0.1")
        assert not secure("127.0.0.2")
        assert tries("127.0.0.1", "203.0.113.1", 11)[-1] == 429
        assert tries("127.0.0.1", "203.0.113.2", 1) == [401], "another client of the proxy's"
        many = [tries("127.0.0.2", f"203.0.113.{n}", 1)[0] for n in range(10, 21)]
        assert many[-1] == 429, "a client that names itself anew each time was not counted as one"


@pytest.mark.slow
def test_where_no_proxy_is_named_nobody_is_believed(model_folder: Path, tmp_path: Path) -> None:
    token, wrong = "0123456789012345678901234567", "x" * 28
    with server_process(tmp_path, serve(model_folder), {"token": token}) as server:
        many = [
            _ask(server, f"/login?token={wrong}", "127.0.0.1", X_Forwarded_For=f"203.0.113.{n}")[0]
            for n in range(11)
        ]
        said = {"X_Forwarded_Proto": "https"}
        status, headers = _ask(server, f"/login?token={token}", "127.0.0.1", **said)
    assert many == [401] * 10 + [429]
    assert status == 303
    assert "secure" not in headers["set-cookie"].lower()
