"""What the tests of the app share: requests at the ASGI boundary, and a model that waits."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from json import dumps, loads
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cachetools import LRUCache
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from waiting import PATIENCE

import engine
from app.settings import Settings
from engine import LatentSpace

HOSTILE = [
    "<script>alert(1)</script>",
    "=1+1",
    "@SUM(A1)",
    "\u202eevil",
    "\"quoted'",
    "{{7*7}}",
    "tab\tand\nline",
    "-5",
]
"""Tokens that the tiny model's vocabulary really has."""
BASE = "http://localhost:8000"
PROMPT = "The cat sat on the mat"
TWIN = "The dog sat on the dog"
"""As many tokens, and another answer of the tiny model."""
_DATA = tempfile.TemporaryDirectory(prefix="lexiscope-tests-", ignore_cleanup_errors=True)


PATIENT = dict.fromkeys(
    ("deadline_s", "body_deadline_s", "upload_deadline_s", "heartbeat_limit_s"), PATIENCE
)
"""Settings by which a busy machine would decide what is answered."""


def settings_with(**values: Any) -> Settings:
    """Settings with some values of our own, patient where nothing else is given, and a data folder
    that nobody else uses."""
    values = PATIENT | {"fit_lens": False, "make_atlas": False, "history_mib": 0} | values
    values.setdefault("data_dir", Path(tempfile.mkdtemp(prefix="lexiscope-test-", dir=_DATA.name)))
    return Settings(**values)


def load_tiny(folder: Path, cache: Path) -> LatentSpace:
    """The tiny model; a space belongs to one thread at a time, so some tests need their own.

    So is what it keeps, in a folder of its own under `cache`: what one test measures on a model
    that it spoilt, or fits, no other test reads by.
    """
    cache.mkdir(parents=True, exist_ok=True)
    own = tempfile.mkdtemp(dir=cache)
    return engine.load(
        folder, device="cpu", dtype="float32", threads=1, offline=True, cache_dir=own
    )


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """Every (method, path) that the app answers, with a real name for each part in braces."""
    filled = {
        "{id}": "0" * 24,
        "{id_}": "0" * 24,
        "{frame}": "output",
        "{name:path}": "htmx.min.js",
        "{module}": "frames",
        "{story}": "paris",
        "{number}": "9",
    }
    found = []
    for context in iter_route_contexts(app.routes):
        path = context.path or ""
        for part, value in filled.items():
            path = path.replace(part, value)
        assert "{" not in path, f"say in `routes_of` what stands for the braces of {path}"
        found += [(method, path) for method in sorted(context.methods or ())]
    assert len(found) > 20
    return found


class Blocked(LatentSpace):
    """A space whose readings wait until they are let go; everything else is the real one's."""

    def __init__(self, space: LatentSpace, *, deaf: bool = False) -> None:
        share(self, space)
        self._deaf = deaf
        self.entered = threading.Event()
        self.release = threading.Event()
        self.calls: list[str] = []
        self.stopped: list[str] = []

    def _read(self, tokens: Any, options: Any, check: Any) -> Any:
        self.calls.append(tokens.prompt)
        self.entered.set()
        while not self.release.wait(0.002):
            try:
                if not self._deaf:
                    check()
            except Exception as error:
                self.stopped.append(type(error).__name__)
                raise
        return super()._read(tokens, options, check)


def share(other: LatentSpace, space: LatentSpace) -> None:
    """Give another space everything of this one but the traces that it keeps."""
    vars(other).update(vars(space))
    other._traces = LRUCache(24)


class Call:
    """One request to the app at the ASGI boundary, whose client can leave."""

    def __init__(
        self,
        app: FastAPI,
        path: str,
        query: Mapping[str, object] | None = None,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        client: str = "127.0.0.1",
        json: object = None,
        form: Mapping[str, str] | None = None,
        body: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._gone = asyncio.Event()
        self._asked = False
        self._slow = False
        self._sent = b""
        self._body = body
        sent = {"host": "localhost:8000", **(headers or {})}
        if json is not None:
            self._sent = dumps(json).encode()
            sent["content-type"] = "application/json"
        elif form is not None:
            self._sent = urlencode(form).encode()
            sent["content-type"] = "application/x-www-form-urlencoded"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": urlencode(dict(query or {})).encode(),
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in sent.items()],
            "client": (client, 5000),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            if self._slow:
                return {"type": "http.request", "body": b"{", "more_body": True}
            if self._body is not None:
                self._sent = await self._body()
            return {"type": "http.request", "body": self._sent, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode().lower(): v.decode() for k, v in message["headers"]}
        else:
            self.body += message.get("body", b"")

    def leave(self) -> None:
        """Close the connection from the client's side."""
        self._gone.set()

    def trickle(self) -> None:
        """Send one byte of the body and then nothing."""
        self._slow = True

    async def answer(self) -> Call:
        """Wait for the end of the request."""
        await asyncio.wait_for(self.task, PATIENCE)
        return self

    @property
    def json(self) -> Any:
        return loads(self.body)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[FastAPI]:
    """The app with its lifespan, for calls at the ASGI boundary."""
    async with app.router.lifespan_context(app):
        yield app


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that will come true; fail if it does not."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)
