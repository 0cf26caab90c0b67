"""What the browser tests share: a running app, a tab in front of it, and a guard on the tab."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.web import errors

PATIENCE_MS = 120_000
"""Milliseconds after which a wait gives up; only what hangs takes so long."""
expect.set_options(timeout=PATIENCE_MS)
HARMLESS = ("GPU stall", "GL Driver Message", "htmx:sendAbort", "htmx:afterRequest")
"""Of the console: notes of the driver, and a request given up for a newer one. One that failed is
told as `htmx:sendError`, `htmx:timeout` or `htmx:responseError`."""

HOSTILE = [
    "<b>",
    "</b>",
    "<br>",
    "<sub>x</sub>",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    '<a href="https://example.org/">out</a>',
    '<span style="background:url(https://example.org/x.png)">y</span>',
    '<div hx-get="/livez" hx-trigger="load">z</div>',
    "<button hx-post=/api/v1/trace hx-trigger=load>w</button>",
    "%{x}",
    "<extra>",
    "&lt;",
    "&amp;amp;",
    "{{7*7}}",
    "{%raw%}",
    "'quoted\"",
    "\u202eevil",
    "\x07bell",
    "tab\there",
    "</template><script>alert(2)</script>",
    "$x^2$",
]
"""Tokens that try to be something else. Each is one token of the hostile model's vocabulary."""


class Faults:
    """In front of the app: answers chosen requests with the app's own refusals, or with others."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._answer: Callable[[Request], Response | None] | None = None
        self.answered = 0
        """How many requests got an answer from here."""
        self.writes: list[tuple[str, str, int]] = []
        """Method, Host and status of what was not merely asked for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._answer is not None:
            answer = self._answer(Request({**scope, "app": self._app, "root_path": ""}, receive))
            if answer is not None:
                self.answered += 1
                await answer(scope, receive, send)
                return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["method"] != "GET":
                host = dict(scope["headers"]).get(b"host", b"").decode()
                self.writes.append((scope["method"], host, message["status"]))
            await send(message)

        await self._app(scope, receive, watched)

    def refuse(self, path: str, status: int, sentence: str, *, method: str = "GET",
        headers: dict[str, str] | None = None) -> None:  # fmt: skip
        """From now on refuse what begins with `path`, as the app would."""

        def answer(request: Request) -> Response | None:
            if request.method != method or not request.url.path.startswith(path):
                return None
            wait = 2 if status == 503 else None
            return errors.answer(request, status, sentence, retry_after=wait, headers=headers)

        self._answer = answer

    def say(self, path: str, response: Callable[[], Response]) -> None:
        """From now on answer what begins with `path` with something that is not the app's."""
        self._answer = lambda request: response() if request.url.path.startswith(path) else None

    def stop(self) -> None:
        """Everything goes to the app again."""
        self._answer = None


@dataclass
class Site:
    """A running app."""

    url: str
    app: Any
    server: uvicorn.Server
    faults: Faults

    @property
    def forward_passes(self) -> int:
        """How often the model itself has run."""
        return int(self.app.state.explorer._space.forward_passes)


@dataclass
class Guard:
    """What went wrong in the browser while a test ran."""

    host: str
    allow: tuple[str, ...] = ()
    """Pieces of console lines that the test expects."""
    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(
            piece in message.text for piece in (*HARMLESS, *self.allow)
        ):
            self.troubles.append(f"console {message.type}: {message.text}")

    def request(self, url: str) -> None:
        self.requests.append(url)
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != self.host:
            self.troubles.append(f"request to another host: {url}")

    def watch(self, context: BrowserContext) -> None:
        context.set_default_timeout(PATIENCE_MS)
        context.expose_binding(
            "lexiscopeTestViolation", lambda _, text: self.troubles.append(f"CSP: {text}")
        )
        context.add_init_script(
            "document.addEventListener('securitypolicyviolation', (e) =>"
            " window.lexiscopeTestViolation("
            "`${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber}`))"
        )
        context.on("request", lambda request: self.request(request.url))
        context.on("console", self.console)
        context.on("weberror", lambda e: self.troubles.append(f"script error: {e.error}"))
        context.on("dialog", self._dialog)

    def _dialog(self, dialog: Any) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@dataclass
class Visit:
    """A tab with its guard."""

    page: Page
    guard: Guard
    site: Site

    def go(self, path: str = "/") -> Page:
        """Open a page of the site."""
        self.page.goto(self.site.url + path)
        return self.page


Open = Callable[..., Visit]


def until(page: Page, condition: Callable[[], object]) -> None:
    """Let a page go on until a condition comes true; it may ask the page."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        page.wait_for_timeout(50)


def quiet(page: Page) -> None:
    """Wait until no answer is being awaited or put into the page."""
    page.wait_for_function(
        "() => !document.querySelector('.htmx-request, .htmx-swapping, .htmx-settling')"
    )


def settle(page: Page) -> None:
    """Scroll to the end so that all lazy parts arrive, then wait until everything is drawn."""
    undrawn = page.locator("[data-plot]:not([data-ready])")
    for _ in range(5):  # what arrives makes the page longer
        page.wait_for_load_state("networkidle")
        height = page.evaluate("document.documentElement.scrollHeight")
        for y in range(0, height + 800, 500):
            page.evaluate("y => scrollTo(0, y)", y)
            page.wait_for_timeout(60)
        page.wait_for_load_state("networkidle")
        if undrawn.count() == 0:
            break
    expect(undrawn).to_have_count(0)
    page.evaluate("scrollTo(0, 0)")
