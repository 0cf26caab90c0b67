"""What is known of the open model without holding it, and how one request keeps to one model.

A request is pinned to the model that was open when it came. Everything that it asks for carries
that pin along, and work on the device thread is refused where another model is open by then: an
answer is of one model, or it is none. What a pin holds is the model's description only, so that a
slow request keeps no second model in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Protocol
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.security import PUBLIC, PUBLIC_PREFIX, Refuse, own_path
from engine import LatentSpace
from engine.bases.selfcheck import SelfCheck
from engine.model.origin import Origin

MODEL = b"x-lexiscope-model"
EXPECT = "x-lexiscope-expect"
OF_NO_MODEL = (
    *("/model/open", "/model/opening", "/api/v1/models"),
    *("/jobs", "/api/v1/jobs", "/api/v1/sets", "/api/v1/openapi.json"),
    *("/history", "/api/v1/history"),
    *("/compare/models/second", "/compare/models/close", "/api/v1/compare/beside"),
)
"""What is not about the open model, and works whatever model a page remembers; with what is under
these paths."""


@dataclass(frozen=True)
class ModelFacts:
    """What the pages say about the loaded model; read once, when it is opened."""

    name: str
    revision: str
    """The hub's commit, or ``local``."""
    fingerprint: str
    architecture: str
    kind: str
    device: str
    dtype: str
    blocks: int
    """Transformer blocks; the layers are numbered 0 (the embedding) to `blocks`."""
    width: int
    """d: what the head reads."""
    vocabulary: int
    """v: rows of the head."""
    parameters: int
    max_tokens: int
    tied: bool
    """Whether the head is the input embedding."""
    has_chat_template: bool
    has_bos: bool
    origin: Origin
    """The package and file it comes from, how its numbers were stored, and its licence."""
    anatomy: tuple[tuple[str, str], ...]
    """Where the parts were found, as (part, place)."""

    @property
    def layers(self) -> int:
        """How many layers can be read: the blocks and the embedding."""
        return self.blocks + 1

    def to_dict(self) -> dict[str, object]:
        """As it stands in the JSON of ``/api/v1/model``."""
        plain: dict[str, object] = asdict(self)
        del plain["origin"]
        return {**plain, **asdict(self.origin), "anatomy": dict(self.anatomy)}


def facts_of(space: LatentSpace) -> ModelFacts:
    """The facts of a space's model."""
    model = space.model
    return ModelFacts(
        name=model.name,
        revision=model.revision,
        fingerprint=model.fingerprint,
        architecture=model.architecture,
        kind=model.anatomy.kind,
        device=str(model.device),
        dtype=str(model.dtype),
        blocks=model.blocks,
        width=model.width,
        vocabulary=model.vocabulary,
        parameters=model.parameters,
        max_tokens=model.max_tokens,
        tied=model.tied,
        has_chat_template=model.has_chat_template,
        has_bos=model.has_bos,
        origin=model.origin,
        anatomy=tuple(model.anatomy.describe()),
    )


@dataclass(frozen=True, eq=False)
class Opened:
    """One opening of a model; opened twice, it is two of these, so none stands for another."""

    entry: str
    """Its name in the list of models."""
    facts: ModelFacts
    self_check: SelfCheck

    @cached_property
    def header(self) -> bytes:
        """``name revision fingerprint`` in printable ASCII, each without a space."""
        facts = self.facts
        parts = (facts.name, facts.revision, facts.fingerprint)
        return " ".join(quote(part, safe="/:@+") or "-" for part in parts).encode("ascii")


_PIN: ContextVar[tuple[object, Opened | None] | None] = ContextVar("pinned_model", default=None)


@contextmanager
def pinned(owner: object, opened: Opened | None) -> Iterator[None]:
    """Keep to this opening of the owner's model; None: no model was open."""
    token = _PIN.set((owner, opened))
    try:
        yield
    finally:
        _PIN.reset(token)


def is_pinned(owner: object) -> bool:
    """Whether this is done for a request that was pinned to the owner's model."""
    pin = _PIN.get()
    return pin is not None and pin[0] is owner


def pin_of(owner: object) -> Opened | None:
    """The opening to which this request is pinned; only where `is_pinned`."""
    pin = _PIN.get()
    assert pin is not None
    return pin[1]


class Current(Protocol):
    """What is open now; `app.model.switching` knows it."""

    @property
    def current(self) -> Opened | None:
        """The model that answers."""

    def changed(self, asked: str) -> Exception:
        """What is said where another model is open than the one of this fingerprint."""


class OneModel:
    """The ASGI wrapper that keeps each request to one model, and says in each answer which.

    Inside `SecureApp`, so nobody learns here what the token protects. An answer carries
    ``X-Lexiscope-Model: name revision fingerprint`` of the model that was open when the request
    came, and no such header where none was. A client that says in ``X-Lexiscope-Expect`` which
    fingerprint it goes by is answered 409 where another model is open: a page that was loaded
    before a switch shows a sentence then, and not the numbers of two models side by side.
    """

    def __init__(self, app: ASGIApp, models: Current, refuse: Refuse) -> None:
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
