"""What a trace reads, and how: every setting of it, checked, in one frozen value."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from engine.errors import OptionError, shorten
from engine.frames.kinds import FRAMES
from engine.model.prompts import BOS
from engine.reading.geometries import GEOMETRIES


@dataclass(frozen=True)
class StateKind:
    """Where a state is taken: past the final norm or before it."""

    name: str
    """In addresses, files and options."""
    title: str
    """On the pages."""
    what: str
    past_norm: bool
    """Whether it is what the head would read."""


STATES: Final[Mapping[str, StateKind]] = MappingProxyType(
    {
        one.name: one
        for one in (
            StateKind("normed", "final-normed", "past the final norm, as the head reads", True),
            StateKind("raw", "raw", "as it leaves the block", False),
        )
    }
)
"""By name."""

if TYPE_CHECKING:
    StateName = str
else:
    StateName = Literal[tuple(STATES)]
    """For models of questions: the names, and no other."""


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """What to read, and how.

    Raises:
        OptionError: a value outside its range; the message names it and what is allowed.
    """

    geometry: str = "cosine"
    """One of :data:`engine.reading.geometries.GEOMETRIES`."""
    frame: str = "output"
    """One of :data:`engine.frames.kinds.FRAMES`."""
    state: str = "normed"
    """One of :data:`STATES`."""
    centred: bool = False
    """Each state minus the layer's mean over the prompt, each basis minus the mean basis."""
    temperature: float | None = None
    """Of the chosen geometry's probabilities; None is the default of that geometry."""
    k: int = 10
    """Tokens listed per cell, 1 to 50."""
    layers: str | None = None
    """``0:6``, ``0:12:2``, ``3``, ``-1``; None is all."""
    positions: str | None = None
    """The same for tokens of the prompt."""
    bos: str = "auto"
    """Begin-of-text token: ``auto`` as the tokenizer does, ``yes``, ``no``."""
    chat: bool = False
    """Write the prompt as a user's turn by the model's chat template."""
    words_only: bool = False
    """List words only; probabilities stay those of the whole vocabulary."""

    def __post_init__(self) -> None:
        _one_of("geometry", self.geometry, GEOMETRIES)
        _one_of("frame", self.frame, FRAMES)
        _one_of("state", self.state, STATES)
        _one_of("bos", self.bos, BOS)
        for name in ("layers", "positions"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise OptionError(f"{name} must be text such as '0:6' or '3'; got {value!r:.40}.")
        if not isinstance(self.k, int) or not 1 <= self.k <= 50:
            raise OptionError(f"k must be a whole number from 1 to 50; got {self.k!r:.20}.")
        t = self.temperature
        if t is not None and not (math.isfinite(t) and 1e-3 <= t <= 1e4):
            raise OptionError(f"temperature must be from 0.001 to 10000; got {t}.")

    @property
    def temperatures(self) -> dict[str, float]:
        """T per geometry: the chosen one's may be set, the others keep their default."""
        out = {one.name: one.temperature for one in GEOMETRIES.values()}
        if self.temperature is not None:
            out[self.geometry] = self.temperature
        return out

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON contract."""
        return asdict(self)


def _one_of(what: str, value: object, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise OptionError(
            f"{what} must be one of {', '.join(allowed)}; got {shorten(str(value))!r}."
        )
