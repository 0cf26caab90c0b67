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
from urllib.parse import quote

from engine import LatentSpace
from engine.bases.selfcheck import SelfCheck
from engine.model.origin import Origin


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
