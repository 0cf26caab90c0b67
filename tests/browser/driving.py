"""What the browser tests share: a running app, a tab in front of it, and a guard on the tab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect

PATIENCE_MS = 20_000
HARMLESS = ("GPU stall", "GL Driver Message")

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


@dataclass
class Site:
    """A running app."""

    url: str
    app: Any
    server: uvicorn.Server

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


def settle(page: Page) -> None:
    """Scroll to the end so that all lazy parts arrive, then wait until everything is drawn."""
    page.wait_for_load_state("networkidle")
    height = page.evaluate("document.documentElement.scrollHeight")
    for y in range(0, height + 800, 500):
        page.evaluate("y => scrollTo(0, y)", y)
        page.wait_for_timeout(60)
    page.wait_for_load_state("networkidle")
    expect(page.locator("[data-plot]:not([data-ready])")).to_have_count(0)
    page.evaluate("scrollTo(0, 0)")
