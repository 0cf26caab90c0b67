"""The ASGI wrapper that keeps each request to one model, and says in each answer which.

Inside `SecureApp`, so nobody learns here what the token protects. An answer carries
``X-Lexiscope-Model: name revision fingerprint`` of the model that was open when the request came,
and no such header where none was. A client that says in ``X-Lexiscope-Expect`` which
fingerprint it goes by is answered 409 where another model is open: a page that was loaded before a
switch shows a sentence then, and not the numbers of two models side by side.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.model.open_model import pinned
from app.model.switching import Models
from app.web.paths import own_path
from app.web.security import PUBLIC, PUBLIC_PREFIX, Refuse

MODEL = b"x-lexiscope-model"
EXPECT = "x-lexiscope-expect"
OF_NO_MODEL = (
    *("/model/open", "/model/opening", "/api/v1/models"),
    *("/jobs", "/api/v1/jobs", "/api/v1/sets", "/api/v1/openapi.json"),
)
"""What is not about the open model, and works whatever model a page remembers; with what is under
these paths."""


class OneModel:
    """The wrapper."""

    def __init__(self, app: ASGIApp, models: Models, refuse: Refuse) -> None:
        self._app = app
        self._models = models
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the model that is open now, or say that it is not the one that is meant."""
        path = own_path(scope)
        if scope["type"] != "http" or path in PUBLIC or path.startswith(PUBLIC_PREFIX):
            await self._app(scope, receive, send)
            return
        opened = self._models.current

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start" and opened is not None:
                message = {**message, "headers": [*message["headers"], (MODEL, opened.header)]}
            await send(message)

        with pinned(self._models, opened):
            headers = Headers(scope=scope)
            expected = set(headers.getlist(EXPECT)) if _asks_the_model(path, headers) else set()
            other = expected - {opened.facts.fingerprint} if opened is not None else set()
            if other:
                sentence = str(self._models.changed(min(other)))
                await self._refuse(Request(scope, receive), 409, sentence)(scope, receive, named)
                return
            await self._app(scope, receive, named)


def _asks_the_model(path: str, headers: Headers) -> bool:
    """Whether the answer depends on the open model. A link that is followed shows a whole page of
    its own, so it may be about any."""
    if headers.get("hx-boosted") == "true" and "hx-target" not in headers:
        return False
    return not any(path == one or path.startswith(f"{one}/") for one in OF_NO_MODEL)
