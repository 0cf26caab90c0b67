"""What the head of a request can cost, and whose reads are answered."""

from __future__ import annotations

import http.cookies
from collections.abc import Iterator
from typing import Any

import pytest
from asgi import BASE, PROMPT, Call, running, settings_with
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from app.main import create_app
from app.web.head import LONGEST_COOKIE, LONGEST_HEAD, cookies, may_read
from app.web.security import HEADERS
from engine import LatentSpace

TOKEN = "a-token-of-more-than-22-characters"
SLOW = 'x="' + "\\a" * 3000 + '"'
"""A cookie that Python unquotes in the square of its length."""


@pytest.fixture
def gated(space: LatentSpace) -> Iterator[TestClient]:
    app = create_app(settings_with(token=TOKEN), space)
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        yield client


# The length of the head


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("known", [False, True])
def test_no_cookie_is_ever_unquoted(
    gated: TestClient, monkeypatch: pytest.MonkeyPatch, method: str, known: bool
) -> None:
    """Neither by the gate nor by the framework behind it, which reads them for every route."""
    asked: list[str] = []
    monkeypatch.setattr(http.cookies, "_unquote", lambda text: asked.append(text) or text)
    headers = {"Cookie": SLOW, "Sec-Fetch-Site": "same-origin"}
    if known:
        headers["Authorization"] = f"Bearer {TOKEN}"
    status = gated.request(
        method, "/api/v1/trace", params={"prompt": PROMPT}, json={"prompt": PROMPT}, headers=headers
    ).status_code
    assert status == (200 if known else 401)
    assert asked == []


def test_the_own_cookie_is_found_among_others(gated: TestClient) -> None:
    given = gated.get("/login", params={"token": TOKEN}).headers["set-cookie"].partition(";")[0]
    gated.cookies.clear()
    for line in (given, f"a=b; {SLOW};{given} ; =; c", f"lexiscope_8000=x; {given}"):
        assert gated.get("/api/v1/model", headers={"Cookie": line}).status_code == 200
    for line in (f"y{given}", f'"{given}"', given[:-1], given.upper()):
        assert gated.get("/api/v1/model", headers={"Cookie": line}).status_code == 401


def test_cookies_are_split_and_not_interpreted() -> None:
    lines = [(b"cookie", b'a=1; b="2;a=\\"3"'), (b"cookie", b"a; a=; c=a=4")]
    assert list(cookies(Headers(raw=lines), "a")) == ["1", '\\"3"', "", ""]


@pytest.mark.parametrize(
    ("line", "size", "status"),
    [
        ("cookie", LONGEST_COOKIE - 100, 200),
        ("cookie", LONGEST_COOKIE + 1, 431),
        ("x-more", LONGEST_HEAD - 1000, 200),
        ("x-more", LONGEST_HEAD, 431),
    ],
)
async def test_a_head_that_is_too_long_is_refused(
    app: FastAPI, line: str, size: int, status: int
) -> None:
    async with running(app):
        call = await Call(app, "/api/v1/model", headers={line: "x" * size}).answer()
    assert call.status == status
    assert call.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    if status == 431:
        assert "may have at most" in call.json["error"]["sentence"]
        assert len(call.body) < 400


# Reads for a page of another site


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({}, True),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, True),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, True),
        *(
            ({"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": kind}, followed)
            for site in ("cross-site", "same-site", "nonsense")
            for mode, kind, followed in (
                ("navigate", "document", True),  # a link, which people send each other
                ("navigate", "iframe", False),
                ("navigate", "object", False),
                ("no-cors", "image", False),
                ("no-cors", "script", False),
                ("no-cors", "empty", False),
                ("cors", "empty", False),
            )
        ),
        ({"sec-fetch-site": "cross-site"}, False),
        (
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
             "sec-fetch-dest": "document", "sec-purpose": "prefetch;prerender"},
            False,
        ),
        # Where a browser leaves all that out, over plain http, it still names another site's fetch.
        ({"origin": "http://localhost:8000"}, True),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://localhost:9000"}, False),
        ({"origin": "null"}, False),
    ],
)  # fmt: skip
def test_what_another_site_embeds_is_not_read(given: dict[str, str], allowed: bool) -> None:
    assert may_read(Headers({"host": "localhost:8000", **given})) is allowed


def test_doubled_lines_are_refused() -> None:
    same = (b"sec-fetch-site", b"same-origin")
    assert may_read(Headers(raw=[same]))
    assert not may_read(Headers(raw=[same, same]))


EMBEDDED = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_page_of_another_site_cannot_ask_the_model(client: TestClient, method: str) -> None:
    app: Any = client.app
    device = app.state.explorer.device
    done = device.counters["done"]
    for path in ("/", "/api/v1/trace", "/static/plotly.min.js", "/no/such/page"):
        answer = client.request(method, path, params={"prompt": "never asked"}, headers=EMBEDDED)
        assert answer.status_code == 403, path
    assert device.counters["done"] == done
    assert client.get("/livez", headers=EMBEDDED).status_code == 200


def test_a_page_of_another_site_locks_nobody_out(gated: TestClient) -> None:
    for _ in range(20):
        assert gated.get("/login", params={"token": "x"}, headers=EMBEDDED).status_code == 403
    assert gated.get("/login", params={"token": "x"}).status_code == 401  # and not 429
