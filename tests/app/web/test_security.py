"""Who may ask, and what every answer carries."""

from __future__ import annotations

from typing import Any

import pytest
from asgi import BASE, PROMPT, Call, routes_of, running, settings_with
from fastapi import FastAPI
from starlette.requests import Request
from starlette.testclient import TestClient

from app.main import create_app
from app.web.head import same_origin
from app.web.security import HEADERS, PUBLIC, PUBLIC_PREFIX, Gate
from engine import LatentSpace

TOKEN = "a-token-of-more-than-22-characters"
STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def assert_guarded(headers: Any) -> None:
    assert headers["content-security-policy"] == STRICT
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-frame-options"] == "DENY"
    assert len(headers["x-request-id"]) == 16
    assert not [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", ["/", "/api/v1/model", "/livez", "/static/htmx.min.js"])
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    whole, bare = client.get(path), client.head(path)
    assert (bare.status_code, bare.content) == (200, b"")
    assert bare.headers["content-type"] == whole.headers["content-type"]
    assert_guarded(bare.headers)


def test_a_500_carries_the_headers_and_an_id_and_no_traceback(
    space: LatentSpace, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings_with(), space)

    @app.get("/api/v1/fault")
    @app.get("/fault")
    async def fault() -> None:
        raise RuntimeError("planted secret in " + __file__)

    with TestClient(app, base_url=BASE) as client:
        page = client.get("/fault")
        fragment = client.get("/fault", headers={"HX-Request": "true"})
        plain = client.get("/api/v1/fault")
    for answer in (page, fragment, plain):
        assert answer.status_code == 500
        assert_guarded(answer.headers)
        assert "planted" not in answer.text
        assert "Traceback" not in answer.text
        assert answer.headers["x-request-id"] in answer.text
        assert answer.headers["x-request-id"] in caplog.text
    assert set(plain.json()["error"]) == {"sentence", "status", "id"}
    assert "<html" in page.text
    assert "<html" not in fragment.text
    assert "planted secret" in caplog.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("named.example:8000", 200),
        ("evil.com", 400),
        ("127.0.0.1.nip.io", 400),
        ("localhost.evil.com", 400),
        ("localhost:1@evil.com", 400),
        ("evil.com:localhost", 400),
        ("localhost.", 400),
        ("0.0.0.0:8000", 400),
        ("192.168.0.5", 400),
        ("10.0.0.1:8000", 400),
        ("[::]:8000", 400),
        ("localhost:port", 400),
        ("localhost/", 400),
        ("", 400),
    ],
)
async def test_only_known_names_are_answered(app: FastAPI, host: str, status: int) -> None:
    app = create_app(settings_with(allowed_hosts="Named.example"), app.state.explorer._space)
    async with running(app):
        answer = await Call(app, "/livez", headers={"host": host}).answer()
    assert answer.status == status
    assert_guarded(answer.headers)


async def test_a_missing_or_doubled_host_is_refused(app: FastAPI) -> None:
    async with running(app):
        for hosts in ([], [b"localhost", b"localhost"]):
            sent: list[Any] = []
            scope = {
                "type": "http", "method": "GET", "path": "/livez", "raw_path": b"/livez",
                "query_string": b"", "headers": [(b"host", host) for host in hosts],
                "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 8000), "root_path": "", "asgi": {"version": "3.0"},
            }  # fmt: skip

            async def receive() -> Any:
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: Any, sent: list[Any] = sent) -> None:
                sent.append(message)

            await app(scope, receive, send)
            assert sent[0]["status"] == 400


SITES = [None, "same-origin", "none", "same-site", "cross-site", "nonsense"]
ORIGINS = [None, BASE, "http://localhost:9000", "https://localhost:8000", "http://evil.com", "null"]


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("cookie", [False, True])
def test_the_cross_origin_matrix(
    site: str | None, origin: str | None, cookie: bool, client: TestClient
) -> None:
    headers = {"Content-Type": "application/json"}
    if site is not None:
        headers["Sec-Fetch-Site"] = site
    if origin is not None:
        headers["Origin"] = origin
    if cookie:
        headers["Cookie"] = "lexiscope_8000=x"
    if site is not None:
        allowed = site in ("same-origin", "none")
    elif origin is not None:
        allowed = origin == BASE
    else:
        allowed = not cookie
    answer = client.post("/api/v1/trace", json={"prompt": PROMPT}, headers=headers)
    assert answer.status_code == (200 if allowed else 403)
    # A read is not a write.
    assert client.get("/livez", headers=headers).status_code == 200


def test_doubled_origin_headers_are_refused_not_crashed() -> None:
    def asked(*headers: tuple[bytes, bytes]) -> bool:
        scope = {
            "type": "http", "method": "POST", "path": "/", "query_string": b"", "scheme": "http",
            "server": ("localhost", 8000), "headers": [(b"host", b"localhost:8000"), *headers],
        }  # fmt: skip
        return same_origin(Request(scope))

    same = (b"sec-fetch-site", b"same-origin")
    assert asked(same)
    assert not asked(same, same)
    assert not asked((b"origin", BASE.encode()), (b"origin", BASE.encode()))
    assert not asked((b"origin", b"\xff\xfe"))
    bearer = (b"authorization", b"Bearer abc")
    assert asked(bearer, (b"sec-fetch-site", b"cross-site"))
    assert not asked(bearer, (b"cookie", b"a=b"), (b"sec-fetch-site", b"cross-site"))


def test_options_with_an_origin_gets_no_permission(client: TestClient) -> None:
    headers = {"Origin": "http://evil.com", "Access-Control-Request-Method": "POST"}
    answer = client.options("/api/v1/trace", headers=headers)
    assert answer.status_code == 405
    assert_guarded(answer.headers)


def test_a_large_body_is_413_declared_or_chunked(space: LatentSpace) -> None:
    app = create_app(settings_with(body_limit=2048), space)
    with TestClient(app, base_url=BASE) as client:
        large = b'{"prompt": "' + b"x" * 4096 + b'"}'
        kind = {"Content-Type": "application/json"}
        declared = client.post("/api/v1/trace", content=large, headers=kind)
        chunked = client.post("/api/v1/trace", content=iter([large[:1500], large[1500:]]),
            headers=kind)  # fmt: skip
        fits = client.post("/api/v1/trace", json={"prompt": PROMPT})
    assert "transfer-encoding" in chunked.request.headers
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert (
            "body of a request may have at most 2,048 bytes" in answer.json()["error"]["sentence"]
        )
        assert_guarded(answer.headers)
    assert fits.status_code == 200


async def test_a_body_that_trickles_is_408(space: LatentSpace) -> None:
    app = create_app(settings_with(body_deadline_s=0.05), space)
    async with running(app):
        call = Call(
            app, "/api/v1/trace", method="POST",
            headers={"content-type": "application/json", "content-length": "50"},
        )  # fmt: skip
        call.trickle()
        await call.answer()
    assert call.status == 408
    assert_guarded(call.headers)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
def test_a_compressed_body_is_refused(client: TestClient, coding: str) -> None:
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    assert client.post("/api/v1/trace", content=b"{}", headers=headers).status_code == 415


@pytest.fixture
def gated(space: LatentSpace) -> Any:
    app = create_app(settings_with(token=TOKEN), space)
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        yield client


@pytest.mark.slow
def test_with_a_token_every_route_but_the_public_ones_asks_for_it(gated: TestClient) -> None:
    app: Any = gated.app
    public = set()
    for method, path in routes_of(app):
        status = gated.request(method, path).status_code
        if path in PUBLIC or path.startswith(PUBLIC_PREFIX):
            public.add(path)
            assert status in (200, 503), (method, path)
        else:
            assert status == 401, (method, path)
    # No stale entry: each public path is one that the app answers.
    assert {p for p in PUBLIC if p != "/login"} <= public
    assert gated.get("/no/such/page").status_code == 401


def test_a_refusal_says_nothing_of_the_model_before_the_token_was_shown(
    gated: TestClient,
) -> None:
    app: Any = gated.app
    facts = app.state.explorer.info
    known = {"Authorization": f"Bearer {TOKEN}"}
    page = {"Accept": "text/html"}
    assert facts.name in gated.get("/no/such/page", headers=page | known).text
    for headers in ({}, {"Host": "evil.example"}, {"Authorization": "Bearer wrong"}):
        answer = gated.get("/", headers=page | headers)
        assert answer.status_code in (400, 401)
        assert facts.name not in answer.text
        assert facts.fingerprint not in answer.text
        assert "self-check" not in answer.text


def test_the_token_opens_as_header_and_as_cookie(gated: TestClient) -> None:
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert gated.get("/api/v1/model", headers=right).status_code == 200
    wrong = {"Authorization": f"Bearer {TOKEN}x"}
    assert gated.get("/api/v1/model", headers=wrong).status_code == 401
    answer = gated.get("/login", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("lexiscope_8000=")
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert "secure" not in cookie.lower()
    assert TOKEN not in cookie
    assert gated.get("/api/v1/model").status_code == 200  # by the cookie


def test_the_cookie_is_secure_under_https(space: LatentSpace) -> None:
    app = create_app(settings_with(token=TOKEN), space)
    with TestClient(app, base_url="https://localhost:8000", follow_redirects=False) as client:
        cookie = client.get("/login", params={"token": TOKEN}).headers["set-cookie"]
    assert "secure" in cookie.lower()


@pytest.mark.parametrize("given", ["", "x", TOKEN[:-1], TOKEN + " ", "ü" * 30, "\ud800"])
def test_a_wrong_token_does_not_open(gated: TestClient, given: str) -> None:
    query = {"token": given.encode("utf-8", "replace")}
    answer = gated.get("/login", params=query)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert_guarded(answer.headers)


def test_ten_wrong_tries_in_a_minute_close_the_door_for_that_address() -> None:
    now = 0.0
    gate = Gate(settings_with(token=TOKEN), clock=lambda: now)

    def login(token: str, address: str) -> Any:
        scope = {
            "type": "http", "method": "GET", "path": "/login", "root_path": "", "scheme": "http",
            "query_string": f"token={token}".encode(), "headers": [], "client": (address, 1),
            "server": ("localhost", 8000),
        }  # fmt: skip
        return gate.check(Request(scope))

    assert [login("wrong", "192.0.2.1") for _ in range(10)] == [401] * 10
    assert login("wrong", "192.0.2.1") == 429
    assert login(TOKEN, "192.0.2.1").status_code == 303  # who knows it is never locked out
    assert login("wrong", "192.0.2.1") == 429
    assert login(TOKEN, "192.0.2.2").status_code == 303
    now = 61.0
    assert login("wrong", "192.0.2.1") == 401


def test_the_token_is_in_no_answer_and_no_log(
    gated: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    gated.get("/login", params={"token": TOKEN})
    page = gated.get("/")
    gated.get("/api/v1/trace", params={"prompt": "planted words"})
    assert TOKEN not in page.text
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("lexiscope")]
    assert any('"route":"/api/v1/trace"' in line for line in ours)
    assert not any(TOKEN in line or "planted" in line for line in ours)


def test_no_redirect_leaves_the_site(client: TestClient) -> None:
    for path in ("//evil.com", "/\\evil.com", "//evil.com/%2e%2e", "/%09/evil.com", "/bases/"):
        answer = client.get(f"{BASE}{path}", follow_redirects=False)
        assert answer.status_code in (400, 404), path
        assert "location" not in answer.headers


def test_the_header_list_is_the_one_that_was_promised() -> None:
    assert HEADERS["Content-Security-Policy"] == STRICT


async def test_a_websocket_is_closed(app: FastAPI) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
