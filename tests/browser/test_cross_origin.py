"""Pages of strangers in the reader's own browser: they change nothing, and our own forms work.

The browser holds the cookie of a login. A stranger's page stands on another port of this machine
(to which the browser sends the cookie along), on another site, or under a name that was made to
lead here after the page had been loaded.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener, urlopen

import pytest
from driving import PATIENCE_MS, Site
from playwright.sync_api import Browser, BrowserContext, expect
from pydantic import SecretStr
from served import serve
from starlette.responses import HTMLResponse
from tiny_models import Folders
from waiting import PATIENCE

from app.settings import Settings

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

TOKEN = "a-token-for-this-test-only-0123456789"
NAMES = ("127.0.0.1", "localhost", "lan.test")
ROWS = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20))


@pytest.fixture(scope="module")
def guarded(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with a token, which is asked for as 127.0.0.1, localhost and lan.test."""
    settings = Settings(
        model=str(folders["llama"]), device="cpu", threads=1, offline=True,
        token=SecretStr(TOKEN), allowed_hosts=("lan.test",),
        cache_dir=tmp_path_factory.mktemp("guarded-cache"),
    )  # fmt: skip
    yield from serve(settings, tmp_path_factory.mktemp("guarded-data"))


@pytest.fixture(scope="module")
def cookie(guarded: Site) -> tuple[str, str]:
    """What a login puts into the browser."""
    ask = Request(f"{guarded.url}/login?token={TOKEN}", method="HEAD")
    with pytest.raises(HTTPError) as moved:
        build_opener(Still).open(ask)
    moved.value.close()
    name, _, value = moved.value.headers["set-cookie"].partition("=")
    return name, value.split(";")[0]


class Still(HTTPRedirectHandler):
    """Follows nothing."""

    def redirect_request(self, *_: object) -> None:
        """Nowhere."""


def logged_in(context: BrowserContext, cookie: tuple[str, str]) -> BrowserContext:
    """Somebody who is logged in under all names of the server."""
    context.set_default_timeout(PATIENCE_MS)
    name, value = cookie
    for domain in NAMES:
        context.add_cookies([{"name": name, "value": value, "domain": domain, "path": "/",
            "httpOnly": True, "sameSite": "Strict"}])  # fmt: skip
    return context


class Elsewhere:
    """A stranger's server on another port, which always says the same."""

    def __init__(self) -> None:
        self.page = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = outer.page.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    """Where strangers have their pages."""
    one = Elsewhere()
    thread = threading.Thread(target=one.server.serve_forever, daemon=True)
    thread.start()
    yield one
    one.server.shutdown()
    one.server.server_close()
    thread.join(PATIENCE)


def port(site: Site) -> int:
    return int(urlsplit(site.url).port or 0)


def sets(site: Site) -> dict[str, str]:
    """Id and name of what was uploaded."""
    ask = Request(f"{site.url}/api/v1/sets", headers={"Authorization": f"Bearer {TOKEN}"})
    with urlopen(ask) as answer:
        return {s["id"]: s["name"] for s in json.load(answer)["sets"] if not s["example"]}


def attack(target: str, kept: str) -> str:
    """A stranger's page: a form that deletes, and scripts that delete and upload."""
    return f"""<!doctype html><title>stranger</title>
<form id="form" method="post" action="{target}/calibrate/sets/{kept}/delete"></form>
<script>
window.scripts = async () => {{
  const told = [];
  const data = () => {{
    const form = new FormData();
    form.append("file", new Blob({json.dumps([ROWS])}), "planted.csv");
    return form;
  }};
  for (const mode of ["no-cors", "cors", "same-origin"]) {{
    const send = (path, more = {{}}) => fetch("{target}" + path,
      {{ method: "POST", mode, credentials: "include", ...more }})
      .then((r) => told.push(r.type + r.status), (e) => told.push(e.name));
    await send("/calibrate/sets/{kept}/delete");
    await send("/calibrate/sets", {{ body: data() }});
    await send("/api/v1/sets", {{ body: data() }});
    await fetch("{target}/api/v1/sets/{kept}", {{ method: "DELETE", mode, credentials: "include" }})
      .catch((e) => told.push(e.name));
  }}
  return told;
}};
</script>"""


@pytest.mark.parametrize(
    ("stranger", "target"),
    [
        ("http://127.0.0.1:{other}", "http://127.0.0.1:{own}"),
        ("http://localhost:{other}", "http://localhost:{own}"),
        ("http://evil.test:{other}", "http://127.0.0.1:{own}"),
        ("http://evil.test:{other}", "http://lan.test:{own}"),
        ("http://rebound.test:{own}", "http://rebound.test:{own}"),
    ],
    ids=["another port", "another port of localhost", "another site", "from site to site",
        "a rebound name"],
)  # fmt: skip
def test_a_strangers_page_changes_nothing(
    browser: Browser, guarded: Site, elsewhere: Elsewhere, cookie: tuple[str, str],
    stranger: str, target: str,
) -> None:  # fmt: skip
    """Neither its form nor its scripts, though the browser sends the reader's cookie along."""
    kept = next(iter(sets(guarded)), "") or uploaded(guarded)
    before = sets(guarded)
    ports = {"own": port(guarded), "other": elsewhere.port}
    address = stranger.format(**ports) + "/stranger"
    elsewhere.page = attack(target.format(**ports), kept)
    # A name that led elsewhere when the page was loaded, and leads here now.
    guarded.faults.say("/stranger", lambda: HTMLResponse(elsewhere.page))
    context = logged_in(browser.new_context(), cookie)
    page = context.new_page()
    seen = guarded.faults.writes
    seen.clear()
    page.goto(address)
    page.evaluate("window.scripts()")
    with page.expect_navigation():
        page.evaluate("document.getElementById('form').submit()")
    wanted = urlsplit(target.format(**ports)).netloc
    assert len(seen) >= 4, "the attack did not arrive"
    assert {host for _, host, _ in seen} == {wanted}
    assert {status for _, _, status in seen} <= {400, 401, 403, 405}, seen
    # Between the ports of one host the browser sends the cookie along: only the origin tells.
    if urlsplit(address).hostname == urlsplit(f"//{wanted}").hostname:
        assert {400, 403} & {status for _, _, status in seen}
    assert sets(guarded) == before
    context.close()


def uploaded(site: Site) -> str:
    """A set that stands there to be deleted."""
    edge = "a-line-between-parts"
    body = (
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="mine.csv"\r\n'
        f"Content-Type: text/csv\r\n\r\n{ROWS}\r\n--{edge}--\r\n"
    ).encode()
    head = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": f"multipart/form-data; boundary={edge}",
    }
    with urlopen(Request(f"{site.url}/api/v1/sets", body, head)) as answer:
        return str(json.load(answer)["id"])


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without"])
@pytest.mark.parametrize("name", NAMES)
def test_our_own_forms_work_under_every_name(
    browser: Browser, guarded: Site, cookie: tuple[str, str], name: str, script: bool
) -> None:
    """Over plain http beyond this machine as well, where a browser tells less about a request."""
    context = logged_in(browser.new_context(java_script_enabled=script), cookie)
    page = context.new_page()
    page.goto(f"http://{name}:{port(guarded)}/calibrate")
    file = {"name": f"{name} {script}.csv", "mimeType": "text/csv", "buffer": ROWS.encode()}
    page.locator("#file").set_input_files(file)
    if not script:
        page.get_by_role("button", name="Add this file").click()
    chosen = page.locator(".set-card:has(input:checked)")
    expect(chosen).to_contain_text(f"{name} {script}")
    page.get_by_text("Delete this set").click()
    page.get_by_role("button", name="Delete it for good").click()
    expect(page.locator(".set-card").filter(has_text=f"{name} {script}")).to_have_count(0)
    assert f"{name} {script}.csv" not in sets(guarded).values()
    context.close()
