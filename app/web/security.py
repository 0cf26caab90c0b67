"""The pure ASGI wrapper around the whole app: who may ask, and what every answer carries.

Outermost, so that a 500 carries the headers as well. In this order: request id and headers, size of
the head, Host allow-list, the address is text, no reads for a page of another site, token,
cross-origin check of writes, size and time of the body. No answer ever carries a CORS header. How a
refusal looks is not decided here but by the function that is handed in.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from asyncio import CancelledError, timeout
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote_to_bytes

import orjson
from cachetools import LRUCache
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import Settings
from app.web.head import client_of, cookies, host_allowed, may_read, same_origin, too_long
from app.web.metrics import METHODS, OTHER, Metrics

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
"""What every answer carries, whatever its status."""
HEALTH = frozenset({"/livez", "/health", "/readyz", "/ready"})
"""What is answered however many connections there are."""
PUBLIC = HEALTH | {"/login"}
"""What answers without a token, besides everything under `PUBLIC_PREFIX`."""
PUBLIC_PREFIX = "/static/"
FULL = "full"
"""The mark in the state of a connection that is one too many."""
KNOWN = "known"
"""The mark in a request's state: who asks has shown the token, or none is needed."""
QUEUED_S = "queued_s"
"""Where a request's state holds how long it waited for the model, seconds."""
UPLOADS = frozenset({"/api/v1/sets", "/calibrate/sets", "/api/v1/history", "/history/import"})
"""Where a file may be sent by POST; its limits are those of uploads."""

PIECE = 64 * 1024
"""Bytes of an answer that are written at once; the next when the client has taken most of them."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_TRIES, _TRIES_PER_S, _ADDRESSES = 10, 60.0, 1024
_FULL = "Too many connections are open; close some pages or try again in a moment."
_STOPPING = "The server is shutting down; ask again in a moment."
access_log = logging.getLogger("lexiscope.access")


class Refuse(Protocol):
    """How a refusal looks; an empty sentence takes the status's own."""

    def __call__(
        self,
        request: Request,
        status: int,
        sentence: str = "",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer to a request that is not let in."""


class SecureApp:
    """The wrapper."""

    def __init__(
        self, app: ASGIApp, settings: Settings, refuse: Refuse, metrics: Metrics | None = None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._settings = settings
        self._refuse = refuse
        self._gate = Gate(settings) if settings.token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # there are no websockets here
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        name = secrets.token_hex(8)
        # Copied, and the app's state with it: nothing of one request reaches another.
        own = {"request_id": name, KNOWN: self._gate is None}
        scope = {**scope, "state": {**scope.get("state", {}), **own}}
        scope["root_path"] = self._settings.root_path or scope.get("root_path", "")
        # What can be got can be asked for without its body; no route need say so.
        bare = scope["method"] == "HEAD"
        if bare:
            scope["method"] = "GET"
        status = 0

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for header, value in HEADERS.items():
                    headers[header] = value
                headers["X-Request-ID"] = name
                headers.setdefault("Cache-Control", "no-store")
            elif bare:
                message = {**message, "body": b""}
            for part in _pieces(message):
                await send(part)

        request = Request(scope, receive)
        try:
            refusal = self._refusal(request)
            if refusal is not None:
                await refusal(scope, receive, finish)
            else:
                # Nothing in the app wants a cookie, but its framework would read them all, and
                # Python's reader takes a square of their length where they hold backslashes.
                lines = scope["headers"]
                scope["headers"] = [line for line in lines if line[0].lower() != b"cookie"]
                body = Body(receive, *self._allowance(request), is_upload=_is_upload(request))
                await self._app(scope, body.receive, finish)
        except CancelledError:
            if status:
                raise  # half an answer is out; only closing the connection says so
            refusal = self._refuse(request, 503, _STOPPING, headers={"Retry-After": "10"})
            await refusal(scope, receive, finish)
        finally:
            self._log(scope, name, status, time.perf_counter() - started)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that goes no further, or None."""
        headers, settings = request.headers, self._settings
        if request.scope["state"].get(FULL) and own_path(request.scope) not in HEALTH:
            wait = {"Retry-After": "2", "Connection": "close"}
            return self._refuse(request, 503, _FULL, headers=wait)
        long = too_long(headers)
        if long:
            return self._refuse(request, 431, long, headers={"Connection": "close"})
        if not host_allowed(headers, settings.hosts):
            return self._refuse(
                request, 400, "This server is not asked for under that name; use the address it "
                "printed, or add the name to LEXISCOPE_ALLOWED_HOSTS."
            )  # fmt: skip
        if not _is_text(request.scope.get("query_string", b"")):
            return self._refuse(request, 400, "The address is not text in UTF-8 without NUL.")
        is_read = request.method == "GET" and own_path(request.scope) not in HEALTH
        if is_read and not may_read(headers):  # before the token: nobody is locked out from afar
            return self._refuse(request, 403)
        if self._gate is not None:
            gate = self._gate.check(request)
            if isinstance(gate, Response):
                return gate
            if gate is not None:
                wait = {"Retry-After": "60"} if gate == 429 else {"WWW-Authenticate": "Bearer"}
                return self._refuse(request, gate, headers=wait)
        if request.method not in _SAFE_METHODS and not same_origin(request):
            return self._refuse(request, 403)
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            return self._refuse(request, 415)
        declared = headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", declared):
            return self._refuse(request, 400)
        limit, _ = self._allowance(request)
        if int(declared) > limit:
            return self._refuse(request, 413, _too_large(limit, _is_upload(request)))
        return None

    def _allowance(self, request: Request) -> tuple[int, float]:
        """How many bytes the body may have and in how many seconds it must be here."""
        settings = self._settings
        if _is_upload(request):
            return settings.upload_limit, settings.upload_deadline_s
        return settings.body_limit, settings.body_deadline_s

    def _log(self, scope: Scope, name: str, status: int, seconds: float) -> None:
        """One JSON line: never the query, the body or a name that the client made up."""
        route = getattr(scope.get("route"), "path", None)
        if self._metrics is not None:
            self._metrics.request(route, scope["method"], status, seconds)
        if not access_log.isEnabledFor(logging.INFO):
            return
        line = {
            "id": name,
            "method": scope["method"] if scope["method"] in METHODS else OTHER,
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
        }
        queued = scope["state"].get(QUEUED_S)
        if queued is not None:
            line["queue_ms"] = round(queued * 1000, 1)
        access_log.info("%s", orjson.dumps(line).decode())


class Body:
    """A request's body under one limit of size and one of time, declared or chunked."""

    def __init__(self, receive: Receive, limit: int, deadline_s: float, *, is_upload: bool) -> None:
        self._receive = receive
        self._is_upload = is_upload
        self._limit = limit
        self._deadline_s = deadline_s
        self._until: float | None = None
        self._size = 0
        self._complete = False

    async def receive(self) -> Message:
        """The next message; once the body is complete, without a limit of time.

        Raises:
            HTTPException: 408 or 413.
        """
        if self._complete:
            return await self._receive()
        if self._until is None:
            self._until = time.monotonic() + self._deadline_s
        try:
            async with timeout(self._until - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, headers={"Connection": "close"}) from None
        if message["type"] != "http.request":
            return message
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            sentence = _too_large(self._limit, self._is_upload)
            raise HTTPException(413, sentence, headers={"Connection": "close"})
        self._complete = not message.get("more_body", False)
        return message


class Gate:
    """The token: as ``Authorization: Bearer``, or as the cookie that ``/login?token=`` sets."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        assert settings.token is not None
        self._token = settings.token.get_secret_value().encode()
        # Derived from the token, so that no browser stores the secret itself.
        self._cookie = hmac.new(self._token, b"lexiscope cookie", hashlib.sha256).hexdigest()
        # Cookies know no ports; two servers on one machine must not overwrite each other's.
        self.cookie_name = f"lexiscope_{settings.port}"
        self._clock = clock
        self._wrong: LRUCache[str, deque[float]] = LRUCache(_ADDRESSES)

    def check(self, request: Request) -> Response | int | None:
        """None: come in. A status: refused. A response: the answer to a login."""
        path = own_path(request.scope)
        if path == "/login":
            return self._login(request)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            refused = self._try(request, given.strip())
        else:
            known = any(
                hmac.compare_digest(one.encode(), self._cookie.encode())
                for one in cookies(request.headers, self.cookie_name)
            )
            refused = None if known else 401
        request.scope["state"][KNOWN] = refused is None
        public = path in PUBLIC or path.startswith(PUBLIC_PREFIX)
        return None if public else refused

    def _login(self, request: Request) -> Response | int:
        given = parse_qs(request.scope["query_string"].decode("latin-1")).get("token")
        if request.method not in ("GET", "HEAD") or not given:
            return 401
        refused = self._try(request, given[-1])
        if refused is not None:
            return refused
        answer = RedirectResponse(f"{request.scope['root_path']}/", 303)
        answer.set_cookie(
            self.cookie_name,
            self._cookie,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            path=request.scope["root_path"] or "/",
        )
        return answer

    def _try(self, request: Request, given: str) -> int | None:
        """None for the right token, else 401, or 429 where too many wrong ones came before it."""
        # The right one first: wrong ones of other people behind the same address lock nobody out.
        if hmac.compare_digest(given.encode("utf-8", "replace"), self._token):
            return None
        address = client_of(request)
        now = self._clock()
        wrong = self._wrong.get(address, deque())
        while wrong and now - wrong[0] > _TRIES_PER_S:
            wrong.popleft()
        if len(wrong) >= _TRIES:
            return 429
        wrong.append(now)
        self._wrong[address] = wrong
        return 401


def own_path(scope: Mapping[str, Any]) -> str:
    """The path of a request without the path under which a proxy serves the app."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _pieces(message: Message) -> Iterator[Message]:
    """The same body in pieces: who does not read holds one of them, and not the whole answer."""
    body = message.get("body", b"")
    if len(body) <= PIECE:
        yield message
        return
    last = (len(body) - 1) // PIECE * PIECE
    for start in range(0, last, PIECE):
        yield {**message, "body": body[start : start + PIECE], "more_body": True}
    yield {**message, "body": body[last:]}


def _is_text(query: bytes) -> bool:
    raw = unquote_to_bytes(query)
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in raw


def _is_upload(request: Request) -> bool:
    return request.method == "POST" and own_path(request.scope) in UPLOADS


def _too_large(limit: int, is_upload: bool) -> str:
    if is_upload:
        return f"A file may have at most {limit:,} bytes here; upload a part of its rows."
    return f"The body of a request may have at most {limit:,} bytes; send less."
