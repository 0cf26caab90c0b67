"""Strangers reach nothing, learn nothing, and leave nothing in the log."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from asgi import BASE, PROMPT, Call, routes_of, running, settings_with
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from processes import serve, server_process
from starlette.testclient import TestClient
from waiting import PATIENCE

import app as app_package
from app.cli import main as cli
from app.cli.serve import listen
from app.main import create_app
from app.settings import Settings
from app.web.logs import JsonLines, without_messages
from app.web.security import HEADERS, HEALTH, PUBLIC, PUBLIC_PREFIX
from engine import LatentSpace

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-more-than-22-characters"
TOUR = [
    "/?prompt=the+cat", "/trace/agreement?prompt=the+cat", "/trace/words?prompt=the+cat",
    "/trace/contexts?prompt=the+cat", "/cost?prompt=the+cat",
    "/compare?prompt=the+cat&other=the+dog", "/compare/models", "/history",
    "/bases?token=cat&search=a", "/calibrate", "/model", "/model/frames", "/model/opening",
    "/method", "/method/source/frames", "/jobs", "/map", "/map/quality", "/map/layers",
    "/metrics", "/readyz", "/static/plotly.min.js", "/api/v1/openapi.json",
    "/api/v1/trace?prompt=the+cat", "/api/v1/trace.csv?prompt=the+cat",
    "/api/v1/cell?prompt=the+cat&layer=1", "/api/v1/words?prompt=the+cat&layer=1",
    "/api/v1/contexts/plan", "/api/v1/compare?prompt=the+cat&other=the+dog",
    "/api/v1/agreement?prompt=the+cat", "/api/v1/finding?prompt=the+cat",
    "/api/v1/curves?prompt=the+cat&ids=5,6", "/api/v1/cost?prompt=the+cat",
    "/present", "/present/paris",
    "/api/v1/bases?token=cat", "/api/v1/bases.csv?token=cat", "/api/v1/frames/output",
    "/api/v1/check", "/api/v1/models/cost",
    "/api/v1/model", "/api/v1/models", "/api/v1/jobs", "/api/v1/sets",
    "/api/v1/calibrations", "/api/v1/map", "/api/v1/map/points", "/api/v1/map/meta",
    "/api/v1/map/quality",
]  # fmt: skip
"""Addresses that are answered."""

SPELLINGS = [
    "..", "../", "../..", "../../../../etc/passwd", "..\\..\\windows\\win.ini", "/etc/passwd",
    "//etc/passwd", "/", "//", ".", "./", "~", "~root", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%252e%252e%252fetc%252fpasswd", "..%2f..%2fetc%2fpasswd", "..%5c..%5cwin.ini", "....//....//",
    "..;/..;/etc/passwd", ".%00.", "\u2025/etc/passwd", "\uff0e\uff0e/etc/passwd",
    "..%c0%af..%c0%afetc", "file:///etc/passwd", "http://127.0.0.1/", "\\\\host\\share", "C:\\",
    "C:/Windows", "CON", "NUL.txt", "a:b", "lexiscope.sqlite", "../lexiscope.sqlite", "sets",
    "../sets", "manifest.json", ".tmp-", "*", "?", "a" * 5000, "0" * 23, "0" * 25, "0" * 32,
    "g" * 24, "0" * 23 + "/", "0" * 24 + "/..", "0" * 24 + "\x00", "0" * 24 + "\n", "\n", " ", "\t",
    "-", "-rf", "$(id)", "`id`", ";id", "|id", "' OR 1=1 --", "\ud83d\ude00".encode(
        "utf-16", "surrogatepass").decode("utf-16"), "%s%n", "{{7*7}}", "..%00/", "....",
]  # fmt: skip
"""What is tried in the place of an id or a name."""


def guarded(headers: Any) -> bool:
    """Whether an answer carries every header, and none that lets another site in."""
    held = all(headers.get(name.lower()) == value for name, value in HEADERS.items())
    return held and not [name for name in headers if name.lower().startswith("access-control-")]


@pytest.fixture
def gated(space: LatentSpace) -> Iterator[TestClient]:
    app = create_app(settings_with(token=TOKEN), space)
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        yield client


# Who is let in


def test_only_this_machine_unless_told_otherwise(capfd: Any) -> None:
    """The address is this machine's own; any other needs a token, or a refusal in writing."""
    own = listen(Settings(port=0))
    assert own.getsockname()[0] == "127.0.0.1"
    own.close()
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        assert cli.main(["serve", "--host", host, "--port", "0"]) == 2
        err = capfd.readouterr().err
        assert "LEXISCOPE_TOKEN" in err
        assert "--no-auth" in err
    assert Settings(host="0.0.0.0", token=TOKEN).notice is None
    assert "everyone" in str(Settings(host="0.0.0.0", no_auth=True).notice)


def test_without_authentication_each_page_says_so(space: LatentSpace) -> None:
    app = create_app(settings_with(host="0.0.0.0", no_auth=True), space)
    with TestClient(app, base_url=BASE) as client:
        for path in ("/", "/bases", "/calibrate", "/map", "/model", "/method", "/jobs", "/no/page"):
            assert "everyone who can reach it" in client.get(path).text, path


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"bearer x{TOKEN}"},
        {"Cookie": f"lexiscope_8000={TOKEN}"},
        {"Cookie": "lexiscope_8000=; lexiscope_9000=x"},
        {"X-Token": TOKEN},
        {"HX-Request": "true"},
        {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
        {"X-Original-URL": "/livez", "X-Rewrite-URL": "/livez"},
        {"Sec-Fetch-Site": "same-origin", "Origin": BASE},
    ],
)
def test_no_route_answers_without_the_token(gated: TestClient, shown: dict[str, str]) -> None:
    app: Any = gated.app
    for method, path in [*routes_of(app), ("GET", f"/?token={TOKEN}"), ("TRACE", "/"), ("X", "/")]:
        if path in PUBLIC or path.startswith(PUBLIC_PREFIX):
            continue
        answer = gated.request(method, path, headers=shown)
        # After ten wrong tries the door is closed.
        assert answer.status_code in (401, 429), (method, path)
        assert guarded(answer.headers)
        assert "set-cookie" not in answer.headers


def test_the_public_list_has_nothing_that_is_not_there(gated: TestClient) -> None:
    app: Any = gated.app
    there = {context.path for context in iter_route_contexts(app.routes)}
    assert PUBLIC - {"/login"} <= there
    assert any(str(path).startswith(PUBLIC_PREFIX) for path in there)
    for spelling in ("/LIVEZ", "/livez/", "/livez/../api/v1/model", "/static/../api/v1/model",
        "//static/x", "/static", "/login/", "/readyz;x", "/%6civez/x"):  # fmt: skip
        status = gated.get(f"{BASE}{spelling}").status_code
        assert status in (400, 401, 404), spelling
    assert gated.get("/static/../api/v1/model").json()["error"]["status"] in (401, 404)


# No text becomes part of a path


@pytest.mark.slow
async def test_no_spelling_of_a_name_reaches_a_file(space: LatentSpace) -> None:
    app = create_app(settings_with(), space)
    places = [
        (method, context.path)
        for context in iter_route_contexts(app.routes)
        for method in sorted(context.methods or ())
        if context.path and "{" in context.path
    ]
    assert len(places) > 20
    assert len(SPELLINGS) >= 60
    log = logging.getLogger("lexiscope.access")
    log.disabled = True
    try:
        async with running(app):
            for method, path in places:
                for spelling in SPELLINGS:
                    asked = re.sub(r"\{[^}]*\}", lambda _, text=spelling: text, path)
                    call = Call(app, asked, method=method)
                    await call.answer()
                    assert call.status in (400, 404, 405, 409, 413, 415, 422), (method, path, asked)
                    assert b"root:" not in call.body
                    assert b"SQLite format" not in call.body
                    assert len(call.body) < 8192 or b"<html" in call.body
    finally:
        log.disabled = False


@pytest.mark.parametrize("path", ["/map", "/api/v1/map", "/"])
@pytest.mark.parametrize("name", ["calibration", "texts", "axes"])
def test_no_name_in_a_query_reaches_a_file(shared_client: TestClient, path: str, name: str) -> None:
    for spelling in SPELLINGS:
        query = {"prompt": "cat", name: spelling.encode("utf-8", "replace")}
        answer = shared_client.get(path, params=query)
        assert answer.status_code < 500, spelling
        assert "root:x" not in answer.text
        assert "SQLite format" not in answer.text


OPENS_FILES = {
    # What makes and keeps folders of its own, by ids that it made up.
    "storage/store.py", "storage/opening.py", "storage/runs.py",
    "calibrate/sets.py", "calibrate/calibrations.py",
    "calibrate/work.py", "calibrate/parsing.py",
    # What ships with the program.
    "web/assets.py", "present/stories.py",
    # What the operator names: settings, the list of models, files on the command line.
    "settings.py", "model/catalogue.py", "cli/map.py", "cli/verify.py", "cli/calibrate.py",
    "cli/labelled.py", "cli/terminal.py", "cli/models.py", "cli/options.py", "cli/lens.py",
    "cli/act.py", "cli/present.py", "cli/history.py", "cli/compare_models.py",
}  # fmt: skip
FILE_METHODS = {"read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "unlink", "rmtree"}


def opens_files(source: str) -> bool:
    """Whether a module makes a path, or opens, reads or writes one."""
    tree = ast.parse(source)
    of_pathlib = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "pathlib"
        for name in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in {"open", *(of_pathlib - {"PurePath"})}:
            return True
        if isinstance(called, ast.Attribute) and called.attr in FILE_METHODS:
            return True
    return False


def test_only_those_who_must_open_files() -> None:
    """No text of a user becomes part of a path: nothing else in the app makes one."""
    root = Path(app_package.__file__).parent
    found = {
        file.relative_to(root).as_posix()
        for file in root.rglob("*.py")
        if opens_files(file.read_text(encoding="utf-8"))
    }
    assert found <= OPENS_FILES, "say in OPENS_FILES whose names these open"
    assert opens_files("from pathlib import Path as P\nP(text)")
    assert opens_files("place.read_text()")
    assert not opens_files("from fastapi import Path\nPath(max_length=3)")


# Headers, redirects, downloads


@pytest.fixture
def roomy(space: LatentSpace) -> Iterator[TestClient]:
    """A client that may have as many jobs under way as there are to begin."""
    with TestClient(create_app(settings_with(client_places=0), space), base_url=BASE) as client:
        yield client


@pytest.mark.slow
def test_every_answer_is_guarded_and_no_redirect_leaves(roomy: TestClient) -> None:
    """Every route, with and without a question, as GET, HEAD and OPTIONS of another site."""
    client = roomy
    app: Any = client.app
    evil = {"Origin": "http://evil.example", "Access-Control-Request-Method": "GET"}
    seen = set()
    for method, path in routes_of(app):
        answers = [client.request(method, path, follow_redirects=False)]
        answers.append(client.options(path, headers=evil))
        if method == "GET":
            answers.append(client.head(path, follow_redirects=False))
            assert answers[-1].content == b""
        for answer in answers:
            assert guarded(answer.headers), (method, path)
            assert answer.status_code < 500, (method, path, answer.text)
            seen.add(answer.status_code)
            to = answer.headers.get("location", "/")
            assert to.startswith("/"), path
            assert not to.startswith(("//", "/\\")), path
    for path in TOUR:
        for headers, status in (({}, 200), (evil, 200 if path in HEALTH else 403)):
            answer = client.get(path, headers=headers)
            assert answer.status_code == status, (path, answer.text[:300])
            assert guarded(answer.headers), path
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert guarded(head.headers), path
    assert {200, 404, 405, 422} <= seen


@pytest.mark.parametrize(
    "spelling",
    ["//evil.com", "///evil.com", "/\\evil.com", "\\\\evil.com", "/%09/evil.com", "/%5cevil.com",
     "//evil.com/%2e%2e", "/http://evil.com", "/https:evil.com", "/evil.com//", "//evil.com/bases/",
     "/login?next=//evil.com", "/?next=http://evil.com", "/bases/?to=//evil.com", "/static/",
     "/.evil.com", "/@evil.com", "//[::1]@evil.com", "/map/?return=//evil.com"],
)  # fmt: skip
async def test_no_address_redirects_to_another_site(app: FastAPI, spelling: str) -> None:
    path, _, query = spelling.partition("?")
    asked = dict(part.partition("=")[::2] for part in query.split("&") if part)
    async with running(app):
        for method in ("GET", "POST", "HEAD"):
            call = await Call(app, path, asked, method=method).answer()
            to = urlsplit(call.headers.get("location", "/"))
            assert (to.scheme, to.netloc) == ("", ""), method
            assert "evil" not in call.headers.get("location", "")


@pytest.mark.parametrize("given", ["//evil.com", "http://evil.com", "/\\evil.com"])
def test_a_login_goes_nowhere_but_home(gated: TestClient, given: str) -> None:
    for name in ("next", "to", "return", "url", "redirect"):
        answer = gated.get("/login", params={"token": TOKEN, name: given})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


ACTIVE = ("text/html", "image/svg", "application/xhtml", "text/xml", "application/xml",
    "javascript", "application/pdf")  # fmt: skip
DOWNLOADS = ["/api/v1/bases.csv?token=cat", *(
    f"/api/v1/trace.{kind}?prompt=cat" for kind in ("csv", "npz", "html")
), *(
    f"/api/v1/map?format={kind}" for kind in ("csv", "npz", "html", "svg", "png", "json")
)]  # fmt: skip


def test_downloads_are_downloads_and_nothing_in_the_api_is_active(
    shared_client: TestClient,
) -> None:
    for path in DOWNLOADS:
        answer = shared_client.get(path)
        assert answer.status_code == 200, (path, answer.text[:300])
        assert guarded(answer.headers)
        kind = answer.headers["content-type"]
        named = answer.headers.get("content-disposition", "")
        if named:
            assert re.fullmatch(r'attachment; filename="[\w.-]{1,120}"', named, re.ASCII), named
        else:
            assert kind.startswith("application/json"), path
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in (one for one in TOUR if one.startswith("/api/")):
        kind = shared_client.get(path).headers["content-type"]
        assert not any(word in kind for word in ACTIVE), (path, kind)


# No connection to the outside

_calls: list[tuple[str, object]] = []
_watching = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        to = arguments[1]
        if isinstance(to, tuple) and str(to[0]) not in ("127.0.0.1", "::1", "localhost"):
            _calls.append((event, to))
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        if arguments[0] not in (None, "127.0.0.1", "::1", "localhost"):
            _calls.append((event, arguments[0]))
    elif event == "urllib.Request":
        _calls.append((event, arguments[0]))


sys.addaudithook(_hook)


@contextmanager
def watched() -> Iterator[list[tuple[str, object]]]:
    """Every connection and look-up of a name that this process tries, but those to itself."""
    global _watching
    _calls.clear()
    _watching = True
    try:
        yield _calls
    finally:
        _watching = False


def test_a_tour_of_all_pages_connects_to_nobody(space: LatentSpace) -> None:
    app = create_app(settings_with(), space)
    with watched() as calls, TestClient(app, base_url=BASE) as client:
        for method, path in routes_of(app):
            client.request(method, path, follow_redirects=False)
        for path in TOUR:
            assert client.get(path).status_code == 200, path
        assert client.post("/api/v1/trace", json={"prompt": PROMPT}).status_code == 200
        made = client.post("/api/v1/sets", files={"file": ("a.csv", b"text,label\na,b\nc,d\n")})
        assert made.status_code < 500
    assert calls == []


def test_the_watch_on_connections_sees_one() -> None:
    import socket

    with watched() as calls, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("192.0.2.1", 9))  # sends nothing
    assert [event for event, _ in calls] == ["socket.connect"]


# The log


def test_a_log_line_is_one_line_of_ascii_json() -> None:
    evil = "a\nb\r\x1b[31m\x00\u202e\u2028\ud800</script>"
    try:
        raise ValueError(evil)
    except ValueError:
        found = sys.exc_info()
    record = logging.LogRecord("lexiscope", logging.ERROR, "x", 1, "said %s", (evil,), found)
    record.request_id = "abc"
    line = JsonLines().format(record)
    assert line.isascii()
    assert line.isprintable()
    read = json.loads(line)
    assert read["message"] == f"said {evil}".strip()
    assert read["level"] == "error"
    assert read["id"] == "abc"
    assert "ValueError" in read["traceback"]
    assert "</script>" not in read["traceback"]


@pytest.mark.parametrize("messages", [False, True])
def test_the_traceback_of_an_unforeseen_error_holds_no_prompt_unless_that_is_asked_for(
    space: LatentSpace, messages: bool
) -> None:
    """Neither of the error itself nor of what led to it; where it happened stands there."""
    app = create_app(settings_with(), space)

    @app.get("/fault")
    async def fault(prompt: str) -> None:
        try:
            raise KeyError(f"led to it: {prompt}")
        except KeyError as error:
            parts = [OSError(5, f"part: {prompt}"), ValueError(f"other part: {prompt}")]
            raise ExceptionGroup(f"said: {prompt}", parts) from error

    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines(messages=messages))
    log = logging.getLogger("lexiscope")
    log.addHandler(handler)
    try:
        with TestClient(app, base_url=BASE) as client:
            assert client.get("/fault?prompt=plantedprompt").status_code == 500
    finally:
        log.removeHandler(handler)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    told = next(line["traceback"] for line in lines if "traceback" in line)
    assert ("plantedprompt" in written.getvalue()) == messages
    for word in (__file__, "in fault", "KeyError", "ExceptionGroup", "OSError", "ValueError"):
        assert word in told
    assert ("OSError [Errno 5]" in told) != messages


def test_what_is_logged_of_an_error_that_leads_to_itself_ends() -> None:
    first, second = ValueError("planted"), TypeError("planted")
    first.__context__, second.__context__ = second, first
    begin = "Traceback (most recent call last):\n"
    assert without_messages(first) == f"{begin}TypeError\n{begin}ValueError"


KINDS = (
    "prompt body path header agent referer cookie bearer login upload cell label field value "
    "search host fragment form name page"
)
SECRETS = [f"planted{kind}" for kind in KINDS.split()]


@pytest.mark.slow
def test_a_server_s_log_holds_no_secret_and_one_line_for_each_request(
    model_folder: Path, tmp_path: Path
) -> None:
    """A server for other machines: it says how to log in, and nobody's words reach its log."""
    environment = {"token": TOKEN, "host": "0.0.0.0"}
    said = dict(zip((s.removeprefix("planted") for s in SECRETS), SECRETS, strict=True))
    ids = []
    with server_process(tmp_path, serve(model_folder), environment) as server:
        server.address()
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        base = f"http://localhost:{server.address()[1]}"
        with httpx2.Client(base_url=base, timeout=PATIENCE) as client:

            def ask(method: str, path: str, **more: Any) -> Any:
                more["headers"] = {**bearer, **more.get("headers", {})}
                answer = client.request(method, path, **more)
                ids.append(answer.headers["x-request-id"])
                return answer

            while ask("GET", "/readyz").status_code != 200:
                assert server.process.poll() is None, server.log
            assert ask("GET", "/api/v1/trace", params={"prompt": said["prompt"]}).is_success
            assert ask("POST", "/api/v1/trace", json={"prompt": said["body"]}).is_success
            ask("POST", "/api/v1/trace", json={said["field"]: said["value"]})
            ask("POST", "/api/v1/trace", content=said["form"].encode() + b"\x00\x1b[31m{")
            ask("GET", f"/{said['path']}/%0a%0d%1b[31m")
            ask("GET", f"/calibrate/{said['page']}")
            ask("GET", f"/static/{said['name']}")
            ask("GET", "/bases", params={"token": said["cell"], "search": said["search"]})
            ask("GET", "/", headers={
                "X-Custom": said["header"], "User-Agent": said["agent"],
                "Referer": f"http://x/{said['referer']}", "Cookie": f"a={said['cookie']}",
            })  # fmt: skip
            ask("GET", "/", headers={"Authorization": f"Bearer {said['bearer']}"})
            ask("GET", "/", headers={"Host": said["host"]})
            ask("GET", "/login", params={"token": said["login"]}, headers={"Authorization": ""})
            ask("GET", "/login", params={"token": TOKEN})
            rows = f"text,label\n{said['upload']},{said['label']}\nb,c\n".encode()
            ask("POST", "/api/v1/sets", files={"file": (f"{said['fragment']}.csv", rows)})
            ask("BREW", "/api/v1/trace")
        assert server.process.stdout is not None
        told = "".join([*server.told, server.process.stdout.readline()])
        server.process.terminate()
        assert server.end() == 0
        log = server.log
    assert "/login?token=TOKEN" in told
    assert TOKEN not in told + log
    assert [word for word in SECRETS if word in log] == []
    lines = [json.loads(line) for line in log.splitlines()]
    asked = [line for line in lines if "route" in line]
    assert [line["id"] for line in asked] == ids
    assert all({"time", "method", "status", "ms"} <= set(line) for line in asked)
    # How long a question waited for the model stands beside how long it took.
    waited = [one for one in asked if one["route"] == "/api/v1/trace" and one["status"] == 200]
    assert len(waited) == 2
    assert all(0 <= one["queue_ms"] <= one["ms"] for one in waited)
    assert {line["route"] for line in asked} >= {None, "/", "/api/v1/trace", "/readyz"}
    assert not re.search(r"[^\x20-\x7e\n]", log)
