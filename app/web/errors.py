"""From an exception to a status and one sentence; the only such mapping.

The answer is a page, a fragment where htmx asked, or JSON under ``/api/``:
``{"error": {"sentence", "status", "id"}}``. It never repeats what was sent, and a traceback goes to
the log only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from cachetools import LRUCache
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.head import client_of
from app.web.problems import ClientGone, Conflict, NotFound, NotReady, StorageError, less
from app.web.rendering import json_text, render_text, wants_fragment
from app.web.security import own_path
from app.web.words import begun
from engine.errors import (
    ArtifactError,
    BudgetExceeded,
    Cancelled,
    DeadlineExceeded,
    InputError,
    LexiscopeError,
    ModelError,
    ModelNotFound,
    NonFiniteError,
    QueueFull,
)
from engine.maps.options import MapNotReady

log = logging.getLogger("lexiscope")
HELD_S = 2.0
"""The longest that a refusal is held back, in seconds."""
_CLIENT_GONE = 499
_SENTENCE_LIMIT = 600

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (MapNotReady, 409),  # before its parent
    (InputError, 422),
    (ModelNotFound, 404),
    (ModelError, 422),
    (NonFiniteError, 422),
    (QueueFull, 503),
    (DeadlineExceeded, 504),
    (Cancelled, 503),
    (BudgetExceeded, 413),
    (ArtifactError, 409),
    (Conflict, 409),
    (NotReady, 503),
    (NotFound, 404),
    (StorageError, 507),
)
_SENTENCES = {
    400: "The request could not be understood.",
    401: "This server asks for a token: open its page login?token=… once, or send "
    "Authorization: Bearer.",
    403: "The request came from another site and was refused.",
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
    408: "The request took too long to arrive.",
    413: "The request is larger than this server takes.",
    415: "The body must be JSON, sent as application/json and not compressed.",
    422: "The request holds a value that cannot be used.",
    429: "Too many wrong tokens came from this address; wait a minute.",
    431: "The head of the request is longer than this server takes.",
    500: "Something went wrong on the server; the log under this id says what.",
    507: "The server's disk is full.",
}
_TITLES = {
    400: "This request could not be read",
    401: "A token is needed",
    403: "This request was refused",
    404: "Not found",
    405: "This cannot be done here",
    408: "The request came too slowly",
    409: "This does not fit how things stand",
    413: "This is too large",
    415: "This kind of body is not read",
    422: "This cannot be answered as it was asked",
    429: "Too many tries",
    431: "This request's head is too long",
    500: "Something went wrong on the server",
    503: "The server cannot answer now",
    504: "This took too long",
    507: "This could not be saved",
}
"""In plain words; the phrases of HTTP tell a reader nothing."""


@dataclass(frozen=True)
class ErrorContext:
    """What ``error.html`` and ``_error.html`` show."""

    status: int
    title: str
    sentence: str
    error_id: str | None
    retry_after: int | None
    """Seconds after which trying again makes sense, or None."""


class Refusals:
    """Who was told to come back later, and when.

    Refusing costs time that those who were let in wait for, so whoever asks again before the time
    that it was told is not refused at once, but then; at most `HELD_S` later.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: LRUCache[str, float] = LRUCache(1024)

    def hold_s(self, client: str, retry_after: float) -> float:
        """Seconds to wait before this client is told to come back after so many."""
        now = self._clock()
        until = self._until.get(client, now)
        self._until[client] = max(until, now + retry_after)
        return min(HELD_S, max(0.0, until - now))


def install(app: FastAPI) -> None:
    """Hang the handlers into the app; the boundary for everything else is `ErrorBoundary`."""
    app.state.refusals = Refusals()
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    for kind in (LexiscopeError, NotReady, NotFound, StorageError):
        app.add_exception_handler(kind, _on_known)
    app.add_exception_handler(ClientGone, _on_client_gone)


class ErrorBoundary:
    """Pure ASGI, inside the app's stack: what nobody foresaw becomes a 500 with an id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and answer what comes out of it as an exception."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            request = Request(scope, receive)
            response = unforeseen(request, error)
            if begun:
                raise  # half an answer is out; only closing the connection says so
            await response(scope, receive, send)


def refuse(
    request: Request, status: int, sentence: str = "", *, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that is not let in; an empty sentence takes the status's own."""
    return answer(request, status, sentence or _sentence(status), headers=headers)


def unforeseen(request: Request, error: Exception) -> Response:
    """The answer to what nobody foresaw: logged with its traceback, shown with an id."""
    if _out_of_memory(error):
        log.error("out of memory", exc_info=error, extra={"request_id": request_id(request)})
        sentence = f"There was not enough memory for this; {less(own_path(request.scope))}."
        return answer(request, 503, sentence, retry_after=5)
    log.error(
        "unforeseen error %s", request_id(request), exc_info=error,
        extra={"request_id": request_id(request)},
    )  # fmt: skip
    return answer(request, 500, _SENTENCES[500])


def answer(
    request: Request,
    status: int,
    sentence: str,
    *,
    retry_after: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """One sentence as JSON, fragment or page, as the request fits."""
    sent = dict(headers or {})
    if retry_after is not None:
        sent["Retry-After"] = str(retry_after)
    sentence = begun(sentence)[:_SENTENCE_LIMIT]
    error_id = request_id(request)
    if _wants_json(request):
        body = {"error": {"sentence": sentence, "status": status, "id": error_id}}
        return Response(f"{json_text(body)}\n", status, sent, media_type="application/json")
    context = ErrorContext(
        status=status,
        title=_title(status),
        sentence=sentence,
        error_id=error_id if status >= 500 else None,
        retry_after=retry_after,
    )
    part = wants_fragment(request)
    sent["Vary"] = "HX-Request, HX-History-Restore-Request, HX-Boosted"
    try:
        page = render_text(
            request, "_error.html" if part else "error.html", context, is_fragment=part
        )
    except Exception:  # an error page that fails must not hide the error it was to show
        log.exception("the error page failed")
        page = f"<!doctype html><title>{status}</title><p>{_SENTENCES[500]}</p>".encode()
    return HTMLResponse(page, status, sent)


def request_id(request: Request) -> str | None:
    """The id under which the log knows this request."""
    found = request.scope.get("state", {}).get("request_id")
    return str(found) if found else None


def told(request: Request, error: Exception) -> tuple[int, str]:
    """Status and sentence of what went wrong in the middle of an answer that is out already; what
    nobody foresaw goes to the log."""
    status = _status(error)
    if status is None:
        unforeseen(request, error)
        return 500, _SENTENCES[500]
    return status, begun(str(error))[:_SENTENCE_LIMIT]


def _status(error: Exception) -> int | None:
    return next((code for kind, code in _STATUS if isinstance(error, kind)), None)


async def _on_known(request: Request, error: Exception) -> Response:
    status = _status(error)
    if status is None:
        return unforeseen(request, error)
    wait = getattr(error, "retry_after", 5 if status in (503, 504) else None)
    if isinstance(error, QueueFull):
        refusals: Refusals = request.app.state.refusals
        await asyncio.sleep(refusals.hold_s(client_of(request), wait or 0))
    return answer(request, status, str(error) or _sentence(status), retry_after=wait)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    standard = {code.phrase for code in HTTPStatus}
    # Starlette's own details are bare phrases or repeat the path; ours are sentences.
    ours = isinstance(error.detail, str) and error.detail.endswith(".")
    sentence = (
        error.detail if ours and error.detail not in standard else _sentence(error.status_code)
    )
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer(request, error.status_code, sentence, headers=headers)


def _methods(request: Request) -> set[str]:
    """What this address can be asked with; Starlette names only its first route's methods."""
    path = own_path(request.scope)
    first: str | None = None
    found: set[str] = set()
    for context in iter_route_contexts(request.app.routes):
        template = context.path or ""
        # The first that fits is the one meant: /sets/new and not /sets/{id}.
        if template == first or (first is None and compile_path(template)[0].match(path)):
            first = template
            found |= set(context.methods or ())
    return found | {"HEAD"} if "GET" in found else found


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answer(request, 422, validation_sentence(error.errors()))


def validation_sentence(errors: Sequence[Mapping[str, Any]]) -> str:
    """The first three problems in words, without a piece of what was sent."""
    told: list[str] = []
    for error in errors:
        text = _problem(error)
        if text not in told:
            told.append(text)
    shown = "; ".join(told[:3])
    rest = len(told) - 3
    more = f"; and {rest} more" if rest > 0 else ""
    return f"{shown}{more}." if shown else _SENTENCES[422]


def _problem(error: Mapping[str, Any]) -> str:
    kind, limits = str(error.get("type", "")), dict(error.get("ctx") or {})
    name = _field(error)
    match kind:
        case "missing":
            return f"{name} is missing"
        case "extra_forbidden":
            # The name is what was sent, so it is not repeated.
            return "a field was given that this address does not know"
        case "json_invalid":
            return "the body is not valid JSON"
        case "string_too_long":
            given = len(error["input"]) if isinstance(error.get("input"), str) else "more"
            return f"{name} may have at most {limits.get('max_length')} characters; got {given}"
        case "string_too_short":
            return f"{name} needs at least {limits.get('min_length')} characters"
        case "greater_than_equal":
            return f"{name} must be at least {limits.get('ge')}"
        case "greater_than":
            return f"{name} must be more than {limits.get('gt')}"
        case "less_than_equal":
            return f"{name} must be at most {limits.get('le')}"
        case "literal_error" | "enum":
            return f"{name} must be one of {limits.get('expected')}"
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return f"{name} must be a whole number"
        case "float_parsing" | "float_type":
            return f"{name} must be a number"
        case "finite_number":
            return f"{name} must be a finite number"
        case "bool_parsing" | "bool_type":
            return f"{name} must be true or false"
        case "string_type" | "string_unicode":
            return f"{name} must be text"
        case "value_error":
            cause = str(limits.get("error", "it cannot be used"))[:300].rstrip(".")
            return f"{name}: {cause}"
        case "model_attributes_type" | "dict_type" | "model_type":
            return "the body must be a JSON object, sent as application/json"
    return f"{name} cannot be used"


def _field(error: Mapping[str, Any]) -> str:
    """The field's name: the part after ``query`` or ``body``, which our models define."""
    place = [str(part) for part in error.get("loc", ())]
    if place and place[0] in ("query", "body", "path", "header", "cookie"):
        place = place[1:]
    name = place[0] if place else ""
    return name if name.isidentifier() and name.isascii() and len(name) <= 40 else "the request"


def _sentence(status: int) -> str:
    return _SENTENCES.get(status) or _SENTENCES[500 if status >= 500 else 400]


def _title(status: int) -> str:
    return _TITLES.get(status) or _TITLES[500 if status >= 500 else 400]


def _wants_json(request: Request) -> bool:
    return own_path(request.scope).startswith("/api/")


def _out_of_memory(error: BaseException) -> bool:
    """Python's own, and torch's, which is known by name so that the web needs no torch."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return (
        isinstance(error, MemoryError)
        or "OutOfMemoryError" in names
        or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
    )
