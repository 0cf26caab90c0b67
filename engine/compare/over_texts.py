"""Two models over many texts: where they differ on the whole, on which texts most, and in what.

Of each text the last tokens that both have read are compared (:mod:`engine.compare.two_models`);
per layer the mean JS with its 95 % bootstrap interval over the texts.

**Activation difference**: the mean over the texts' first positions of h_l(B) − h_l(A), past the
final norm, is read as a state by the first model's frame: what the one has that the other has not.
Its control is the same difference between two halves of the texts by the first model alone, whose
length says what so few texts leave to chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from engine.compare.alignment import align
from engine.compare.cells import cells_of
from engine.compare.shared import FEWEST, SharedCount, shared_vocabulary
from engine.compare.side import Side, side_of
from engine.errors import LexiscopeError, OptionError
from engine.json_number import number
from engine.model.vocabulary import Token
from engine.progress import Check, Progress, Steps, no_check
from engine.reading.similarity import scores
from engine.space import LatentSpace
from engine.trace.options import STATES, TraceOptions
from engine.trace.result import Floats

FIRST: Final = 8
"""Positions of each text that the activation difference is a mean over, the first one left out."""
_LISTED: Final = 20
_WORDS: Final = 10


@dataclass(frozen=True)
class TextApart:
    """One text, and how far apart the two read it."""

    number: int
    """From 1."""
    text: str
    js: float
    """At the last layer, nats."""
    kl: float
    answers: tuple[Token, Token]
    agree: bool
    """Whether both go on with the same text."""


@dataclass(frozen=True)
class LayerApart:
    """One layer over all texts."""

    layers: tuple[int, int]
    js: float
    """Mean, nats."""
    interval: tuple[float, float]
    """95 %, by bootstrap over the texts."""
    agreement: float
    """Share of the texts with the same first token there."""
    difference: float | None
    """Length of the mean difference of the states; None where the widths differ."""
    by_chance: float | None
    """Length of the same between two halves of the texts by the first model."""
    words: tuple[Token, ...]
    """Nearest to the mean difference in the first model's frame; empty where it is no longer than
    by chance."""


@dataclass(frozen=True)
class TextsComparison:
    """Two models over many texts."""

    names: tuple[str, str]
    options: TraceOptions
    shared: SharedCount
    layers: tuple[LayerApart, ...]
    most: tuple[TextApart, ...]
    """The texts that are read most differently at the last layer."""
    texts: int
    """Texts that were compared."""
    skipped: tuple[tuple[int, str], ...]
    """(number from 1, why) of those that were not."""
    agree: int
    """Texts that both models go on with the same token after."""

    @property
    def sentence(self) -> str:
        """How often they agree and where they are furthest apart."""
        a, b = self.names
        most = max(self.layers, key=lambda one: one.js)
        low, high = most.interval
        told = (
            f"{a} and {b} go on with the same token after {self.agree:,} of {self.texts:,} texts;"
        )
        if most.js == 0:
            return f"{told} their readings are the same at every layer."
        return (
            f"{told} their readings are furthest apart at layer {most.layers[0]}, {most.js:.3f}"
            f" nats JS on average ({low:.3f} to {high:.3f})."
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sentence": self.sentence,
            "texts": self.texts,
            "agree": self.agree,
            "skipped": [{"number": n, "why": why} for n, why in self.skipped],
            "layers": [
                {
                    "layer": one.layers[0], "other_layer": one.layers[1],
                    "js": number(one.js), "interval": [number(x) for x in one.interval],
                    "agreement": number(one.agreement),
                    "difference": None if one.difference is None else number(one.difference),
                    "difference_by_chance":
                        None if one.by_chance is None else number(one.by_chance),
                    "words": [token.to_dict() for token in one.words],
                }
                for one in self.layers
            ],
            "most": [
                {
                    "number": one.number, "text": one.text, "js": number(one.js),
                    "kl": number(one.kl), "agree": one.agree,
                    "answers": [token.to_dict() for token in one.answers],
                }
                for one in self.most
            ],
            "vocabulary": self.shared.to_dict(),
            "options": self.options.to_dict(),
        }  # fmt: skip


def compare_over(
    first: LatentSpace,
    other: LatentSpace,
    texts: Sequence[str],
    options: TraceOptions | None = None,
    *,
    fewest: int = FEWEST,
    check: Check = no_check,
) -> Steps[TextsComparison]:
    """Compare two models over many texts; one step is a text.

    Args:
        first: a model; called on its thread.
        other: another, on the same thread.
        texts: as a person wrote them.
        options: how both read. `layers` counts in the first model.
        fewest: tokens that both vocabularies must have.
        check: called between blocks of cells; raises to stop.

    Returns:
        Of those texts that both could read; the others are listed with the reason.

    Raises:
        OptionError: centred or raw states; too few shared tokens; no text that both could read.
    """
    options = options or TraceOptions()
    if options.centred or not STATES[options.state].past_norm:
        raise OptionError(
            "a comparison over texts reads states past the final norm, not centred; leave both out."
        )
    shared = shared_vocabulary(first.vocabulary, other.vocabulary, fewest=fewest)
    rows: list[dict[str, Any]] = []
    found: list[TextApart] = []
    means: list[tuple[Tensor, Tensor]] = []
    skipped: list[tuple[int, str]] = []
    layers: list[tuple[int, int]] = []
    for n, text in enumerate(texts, 1):
        yield Progress(n - 1, len(texts), f"{n:,} of {len(texts):,} texts")
        try:
            sides = (
                side_of(first, text, options, check=check),
                side_of(other, text, replace(options, layers=None), check=check),
            )
        except LexiscopeError as error:
            skipped.append((n, str(error)))
            continue
        a, b = sides
        same = shared.whole and [t.id for t in a.tokens] == [t.id for t in b.tokens]
        pairs = align(a.tokens, b.tokens, "tokens" if same else "characters")
        if not pairs or a.answers[pairs[-1][0]] < 0 or b.answers[pairs[-1][1]] < 0:
            skipped.append((n, "no token ends alike in both, or a state is not finite."))
            continue
        layers = [(own, round(own * b.blocks / a.blocks)) for own in a.layers]
        at = [(i, b.layers.index(its)) for i, (_, its) in enumerate(layers)]
        cells = cells_of((a, b), at, pairs[-1:], shared, options.k, check)
        rows.append({name: cells[name][:, 0] for name in ("js", "kl", "agreement")})
        said = tuple(
            side.vocabulary.token(side.answers[p]) for side, p in zip(sides, pairs[-1], strict=True)
        )
        found.append(
            TextApart(n, text, float(rows[-1]["js"][-1]), float(rows[-1]["kl"][-1]),
                      (said[0], said[1]), said[0].text == said[1].text)
        )  # fmt: skip
        if a.states.shape[-1] == b.states.shape[-1]:
            means.append(_early(a, b, at, pairs))
    if not rows:
        why = f" ({skipped[0][1]})" if skipped else ""
        raise OptionError(f"none of the {len(texts):,} texts could be read by both models{why}.")
    yield Progress(len(texts), len(texts), "reading the difference")
    return TextsComparison(
        names=(first.model.name, other.model.name),
        options=options,
        shared=shared.count,
        layers=tuple(_layers(first, options, layers, rows, means, check)),
        most=tuple(sorted(found, key=lambda one: -one.js)[:_LISTED]),
        texts=len(rows),
        skipped=tuple(skipped),
        agree=sum(one.agree for one in found),
    )


def _early(
    first: Side, other: Side, at: Sequence[tuple[int, int]], pairs: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Means over the first positions of either model's states: layer × d, float64."""
    some = pairs[1 : FIRST + 1] or pairs
    a = first.states[[i for i, _ in at]][:, [p for p, _ in some]]
    b = other.states[[j for _, j in at]][:, [p for _, p in some]]
    return a.double().cpu().mean(1), b.double().cpu().mean(1)


def _layers(
    first: LatentSpace,
    options: TraceOptions,
    layers: Sequence[tuple[int, int]],
    rows: Sequence[dict[str, Any]],
    means: Sequence[tuple[Tensor, Tensor]],
    check: Check,
) -> list[LayerApart]:
    js: Floats = np.stack([row["js"] for row in rows])
    agreement = np.stack([row["agreement"] for row in rows])
    low, high = _bootstrap(js)
    lengths: list[tuple[float, float] | None] = [None] * len(layers)
    words: list[tuple[Token, ...]] = [()] * len(layers)
    if means:
        own, its = (torch.stack(side) for side in zip(*means, strict=True))
        apart = (its - own).mean(0)
        half = len(own) // 2
        chance = own[:half].mean(0) - own[half:].mean(0) if half else torch.full_like(apart, np.nan)
        frame = first.frame(options.frame_key)
        with torch.no_grad():
            near = scores(frame, apart.float().to(frame.device), "cosine", vectors=True)
        check()
        tops = near.topk(min(_WORDS, near.shape[1])).indices.tolist()
        for n in range(len(layers)):
            size, control = float(apart[n].norm()), float(chance[n].norm())
            lengths[n] = size, control
            if size > control:  # not where either is NaN
                words[n] = tuple(map(first.vocabulary.token, tops[n]))
    return [
        LayerApart(
            layers=pair,
            js=float(np.nanmean(js[:, n])) if np.isfinite(js[:, n]).any() else float("nan"),
            interval=(float(low[n]), float(high[n])),
            agreement=float(agreement[:, n].mean()),
            difference=None if length is None else length[0],
            by_chance=None if length is None else length[1],
            words=words[n],
        )
        for n, (pair, length) in enumerate(zip(layers, lengths, strict=True))
    ]


def _bootstrap(values: Floats, *, resamples: int = 1000, seed: int = 0) -> tuple[Any, Any]:
    """95 % percentile interval of each column's mean over the rows."""
    draws = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        means.append(values[draws.integers(0, len(values), len(values))].mean(0))
    low, high = np.nanquantile(np.stack(means), [0.025, 0.975], axis=0)
    return low, high
