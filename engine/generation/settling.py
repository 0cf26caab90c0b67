"""At which layer the reading of a new token settles, and whether that says anything.

The reading of layer l is p_l = softmax(score/T) over the whole vocabulary. Its Jensen–Shannon
divergence from the last layer's, JS(p_l, p_L) = ½ KL(p_l ‖ m) + ½ KL(p_L ‖ m) with
m = ½(p_l + p_L), lies in [0, ln 2] nats and is 0 at the last layer.

* Settling layer: the first layer from which on JS stays below a threshold.
* Deep-thinking ratio (arXiv 2602.13517): the share of new tokens that settle only in the last 15 %
  of the layers, at ⌈0.85·L⌉ or above. There a minimum over the layers so far takes the place of
  "stays"; this one is **our reconstruction**.
* Controls: the same states on the random frame, as sharp as the reading is (its temperature gives
  the last layer the same mean entropy); and the same divergences with the layers below the last in
  a shuffled order. Where a control settles as late as the reading, the ratio says nothing of words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import binomtest
from torch import Tensor

from engine.frames.frame import Frame
from engine.progress import Check, Progress, Steps, no_check
from engine.reading.read import Reading, joined, read
from engine.reading.similarity import scores
from engine.reading.temperature import COLDEST, HOTTEST
from engine.trace.result import Floats

DEEP: Final = 0.85
"""From this share of the layers on a token that settles only there counts as deep."""
CONTROLLED: Final = 64
"""New tokens at most on which the random frame is tried, evenly spread."""
_SHARPNESS: Final = 16
"""States at most on which its temperature is found."""
_CONTROLS: Final = {"random": "random bases", "shuffled": "the layers in a shuffled order"}
_COLUMNS: Final = 2048
"""Of a block of probabilities, so that the passes over it find it in cache."""
_LEAST: Final = torch.finfo(torch.float32).tiny
"""In place of 0, whose logarithm has no product with it."""


def jensen_shannon(p: Tensor, q: Tensor, entropies: Tensor) -> Tensor:
    """JS(p, q) = H(½(p + q)) − ½(H(p) + H(q)) in nats, in [0, ln 2].

    With s = p + q, H(½s) = ln 2 − ½ Σ s ln s.

    Args:
        p: … × v.
        q: the same, or of a shape that goes with it.
        entropies: H(p) + H(q), nats (…).
    """
    total: Tensor | float = 0.0
    for start in range(0, p.shape[-1], _COLUMNS):
        both = p[..., start : start + _COLUMNS] + q[..., start : start + _COLUMNS]
        total = total + torch.linalg.vecdot(both, both.clamp_min(_LEAST).log_())
    return (math.log(2) - (total + entropies) / 2).clamp(0, math.log(2))


def read_layers(
    frame: Frame,
    states: Tensor,
    *,
    geometry: str,
    temperature: float,
    k: int = 1,
    targets: Tensor | None = None,
    allowed: Tensor | None = None,
    budget_bytes: int = 256 * 2**20,
    check: Check = no_check,
) -> tuple[Reading, Tensor]:
    """Read states at every layer, and how far each reading is from the last layer's.

    One product with the vocabulary serves both, and what is held of it stays within a quarter of
    the budget.

    Args:
        frame: b_1 … b_v.
        states: layer × token × d, the last layer last.
        geometry: by its name.
        temperature: T.
        k: how many nearest tokens.
        targets: token ids whose ranks are wanted (token × m).
        allowed: as in :func:`engine.reading.read.read`.
        budget_bytes: for the temporaries.
        check: called once per chunk of the vocabulary; raises to stop.

    Returns:
        The reading of layer · token, layer by layer; JS from the last layer, layer × token.
    """
    layers, tokens, d = states.shape
    step = max(1, budget_bytes // (16 * frame.size * tokens))
    last: tuple[Tensor, Tensor] | None = None
    parts: list[Reading] = []
    apart: list[Tensor] = []
    for stop in range(layers, 0, -step):  # from the last layer down, as all are compared with it
        block = states[max(0, stop - step) : stop]
        room = torch.empty(len(block) * tokens, frame.size, device=states.device)
        wanted = None if targets is None else targets.repeat(len(block), 1)
        found = read(
            frame,
            block.reshape(-1, d),
            geometries=(geometry,),
            k=k,
            temperatures={geometry: temperature},
            targets=wanted,
            allowed=allowed,
            distribution=room,
            budget_bytes=budget_bytes // 2,
            check=check,
        )
        whole = room.view(len(block), tokens, -1)
        entropy = found[geometry].entropy.view(len(block), tokens)
        if last is None:
            last = whole[-1].clone(), entropy[-1]
        parts.append(found[geometry])
        apart.append(jensen_shannon(whole, last[0], entropy + last[1]))
    return joined(parts[::-1]), torch.cat(apart[::-1])


def settling_layer(divergence: Sequence[float] | Floats, below: float) -> int:
    """The first layer from which on the divergence stays below a threshold, to the last.

    Args:
        divergence: of layers 0 to L, the last 0; NaN (a state that is not finite) is not below.
        below: nats.
    """
    apart = [layer for layer, value in enumerate(divergence) if not value < below]
    return min(apart[-1] + 1, len(divergence) - 1) if apart else 0


def deep_from(blocks: int) -> int:
    """The first of the last 15 % of the layers: ⌈0.85·L⌉."""
    return math.ceil(DEEP * blocks)


@dataclass(frozen=True)
class Depth:
    """How late some tokens settle."""

    tokens: int
    deep: int
    """Of them, those that settle only in the last 15 % of the layers."""
    mean_layer: float
    """Mean settling layer."""

    @property
    def ratio(self) -> float:
        """The deep-thinking ratio, in [0, 1]."""
        return self.deep / self.tokens

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95 %."""
        found = binomtest(self.deep, self.tokens).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON contract."""
        return {
            "deep_thinking_ratio": self.ratio,
            "interval": list(self.interval),
            "mean_settling_layer": self.mean_layer,
            "counted": self.tokens,
        }


@dataclass(frozen=True)
class DeepThinking:
    """How late the tokens of a text settle, beside what a control does."""

    found: Depth
    controls: dict[str, Depth]
    """``random`` and ``shuffled``."""
    deep_from: int
    blocks: int
    below: float

    @property
    def equalled_by(self) -> tuple[str, ...]:
        """The controls whose interval meets that of the reading."""
        low, high = self.found.interval
        return tuple(
            name
            for name, one in self.controls.items()
            if one.interval[0] <= high and low <= one.interval[1]
        )

    @property
    def sentence(self) -> str:
        """The finding; withheld where a control does as well."""
        found, where = self.found, f"at layer {self.deep_from} of {self.blocks} or above"
        beside = [
            f"{one.deep} of {one.tokens} with {_CONTROLS[name]}"
            for name, one in self.controls.items()
        ]
        said = f"{found.deep} of {found.tokens} tokens settle only {where}"
        if self.equalled_by:
            return (
                f"{said}. A control does as well ({', '.join(beside)}), so this says nothing of how"
                " long the model takes over them."
            )
        low, high = self.found.interval
        return (
            f"{said}: {100 * found.ratio:.0f} % ({100 * low:.0f} to {100 * high:.0f}). Beside it"
            f" {', '.join(beside)}."
        )

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON contract."""
        return {
            **self.found.to_dict(),
            "deep_from": self.deep_from,
            "settled_below": self.below,
            "controls": [{"kind": name, **one.to_dict()} for name, one in self.controls.items()],
            "sentence": self.sentence,
            "withheld": bool(self.equalled_by),
        }


def deep_thinking(
    states: Tensor,
    divergence: Floats,
    random: Frame,
    entropy: float,
    *,
    geometry: str,
    below: float,
    seed: int,
    budget_bytes: int,
    check: Check = no_check,
) -> Steps[DeepThinking]:
    """The deep-thinking ratio beside its controls; a step is a batch of tokens.

    Args:
        states: layer × token × d, as they were read.
        divergence: layer × token: JS of each layer's reading from the last one's, nats.
        random: the random frame.
        entropy: mean over the tokens of that of the last layer's reading, nats.
        geometry: of the reading.
        below: nats under which a reading has settled.
        seed: of the shuffled order.
        budget_bytes: for the temporaries.
        check: called between chunks of the vocabulary; raises to stop.
    """
    layers, count, _ = states.shape
    deep = deep_from(layers - 1)

    def depth(apart: Floats) -> Depth:
        settled = [settling_layer(column, below) for column in apart.T]
        return Depth(len(settled), sum(s >= deep for s in settled), float(np.mean(settled)))

    picked = np.unique(np.linspace(0, count - 1, min(count, CONTROLLED)).astype(int))
    batch = max(1, min(8, budget_bytes // (16 * random.size * layers)))
    total = 1 + -(-len(picked) // batch)
    yield Progress(0, total, "the same states on random bases")
    few = picked[np.linspace(0, len(picked) - 1, min(len(picked), _SHARPNESS)).astype(int)]
    room = max(1, budget_bytes // (24 * random.size))
    temperature = as_sharp(scores(random, states[-1, few[:room]], geometry), entropy)
    parts = []
    for done, start in enumerate(range(0, len(picked), batch), start=1):
        yield Progress(done, total, "the same states on random bases")
        some = states[:, picked[start : start + batch]]
        _, apart = read_layers(
            random,
            some,
            geometry=geometry,
            temperature=temperature,
            budget_bytes=budget_bytes,
            check=check,
        )
        # What is not finite is not settled, on whatever frame.
        lost = np.isnan(divergence[:, picked[start : start + batch]])
        parts.append(np.where(lost, np.nan, apart.cpu().numpy()))
    order = np.random.default_rng(seed)
    mixed = divergence.copy()
    for column in mixed.T:
        column[:-1] = order.permutation(column[:-1])
    return DeepThinking(
        depth(divergence),
        {"random": depth(np.concatenate(parts, 1)), "shuffled": depth(mixed)},
        deep,
        layers - 1,
        below,
    )


def as_sharp(values: Tensor, entropy: float) -> float:
    """T at which softmax(values / T) has this mean entropy, which grows with T.

    Args:
        values: scores, n × v.
        entropy: nats.
    """

    def excess(log_t: float) -> float:
        log_p = torch.log_softmax(values.double() / math.exp(log_t), 1)
        return float(-(log_p.exp() * log_p).sum(1).mean()) - entropy

    cold, hot = math.log(COLDEST), math.log(HOTTEST)
    if excess(cold) >= 0:
        return COLDEST
    if excess(hot) <= 0:
        return HOTTEST
    return math.exp(float(brentq(excess, cold, hot, xtol=1e-4)))
