"""How a text goes on, and how it is read meanwhile."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from engine.errors import OptionError, TokenError
from engine.trace.options import TraceOptions

TOKENS: Final = 40
"""New tokens where nobody says otherwise."""
SETTLED: Final = 0.1
"""Nats of Jensen–Shannon divergence below which two readings count as the same."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """How many tokens, chosen how, and read how.

    Raises:
        OptionError: a value outside its range; the message names it and what is allowed.
    """

    tokens: int = TOKENS
    """New tokens at most; the text ends before where the model ends it."""
    temperature: float | None = None
    """The model's logits are divided by it before a token is drawn. 0 is greedy: always the
    likeliest. None is greedy, or 1 where `top_k` or `top_p` is given."""
    top_k: int | None = None
    """Draw among the k likeliest; None: among all."""
    top_p: float | None = None
    """Draw among the fewest tokens whose probabilities sum to at least p; None: among all."""
    seed: int = 0
    """Of the draws. Each token takes one number of the sequence, also one that is forced."""
    forced: tuple[tuple[int, int], ...] = ()
    """A fork: (number of the new token from 0, its id) where the text is made to go on so."""
    settled: float = SETTLED
    """Nats, in (0, ln 2): see :func:`engine.generation.settling.settling_layer`."""
    reading: TraceOptions = field(default_factory=TraceOptions)
    """By what the states are read. Layers and positions are left out: all layers of each new
    position are read; and a text under way has no mean to be centred on."""

    def __post_init__(self) -> None:
        _whole("tokens", self.tokens, 1, 100_000)
        if self.temperature is not None:
            _within("temperature", self.temperature, 0, 100)
        if self.top_k is not None:
            _whole("top_k", self.top_k, 1, 10_000_000)
        if self.top_p is not None:
            _within("top_p", self.top_p, 1e-6, 1)
        _whole("seed", self.seed, 0, 2**63 - 1)
        _within("settled", self.settled, 1e-6, math.log(2))
        for number, token in self.forced:
            _whole("forced: the number of a new token", number, 0, self.tokens - 1)
            if not isinstance(token, int) or token < 0:
                raise TokenError(f"a token id must be a whole number from 0; got {token!r:.20}.")
        for name in ("layers", "positions"):
            if getattr(self.reading, name) is not None:
                raise OptionError(
                    f"a text that goes on is read at all layers of each new position; leave {name}"
                    " out."
                )
        if self.reading.centred:
            raise OptionError(
                "centring takes the mean over a whole prompt off each state, and a text that goes"
                " on is not whole yet; switch 'centred' off."
            )

    @property
    def drawn_at(self) -> float | None:
        """The temperature of the draws; None where the likeliest token is taken."""
        given = self.temperature
        if given is None and (self.top_k is not None or self.top_p is not None):
            return 1.0
        return float(given) if given else None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON contract."""
        return asdict(self)


def _whole(what: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise OptionError(
            f"{what} must be a whole number from {low:,} to {high:,}; got {value!r:.20}."
        )


def _within(what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN neither
        raise OptionError(f"{what} must be from {low:g} to {high:.3g}; got {value!r:.20}.")
