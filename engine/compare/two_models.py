"""One text through two models, cell beside cell.

Over the m tokens that both vocabularies have, p and q are the softmax of either model's scores,
scaled to sum to 1 there. Of every cell (layer l, pair of positions):

* KL(p ‖ q) = Σ p_i ln(p_i / q_i), nats;
* JS = ½ KL(p ‖ ½(p + q)) + ½ KL(q ‖ ½(p + q)), nats, in [0, ln 2], the same in both directions;
* overlap: share of the k most likely tokens that both have; agreement: the same first token;
* the cosine of the two states, where the widths are the same.

A model beside itself is 0 (and 1) in every cell. Beside the JS of each layer stands its control:
the same with the other model's positions exchanged for their neighbours'. Layer l of the one stands
beside layer round(l·L'/L) of the other.

Scores are float32: where two are nearly equal, a rank here can differ by one from a trace's, which
is counted again in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.compare.alignment import Pairs, align
from engine.compare.alike import debiased_cka
from engine.compare.cells import cells_of, mean_of, shared_logs
from engine.compare.shared import FEWEST, Shared, SharedCount, shared_vocabulary
from engine.compare.side import Side, SideFacts, side_of
from engine.errors import OptionError
from engine.json_number import number, plain
from engine.model.vocabulary import Token
from engine.progress import Check, no_check
from engine.space import LatentSpace
from engine.trace.options import TraceOptions, with_settings
from engine.trace.result import Bools, Floats, Ints

Doubles = NDArray[np.float64]
APART: Final = 0.1
"""Nats of JS above which two readings are said to part."""
_MOVERS: Final = 10


@dataclass(frozen=True)
class Mover:
    """A token that the two models say with different probability."""

    token: Token
    """As a row of the first model's vocabulary."""
    first: float
    other: float


@dataclass(frozen=True)
class ModelComparison:
    """Two models on one text; arrays are layer × pair unless said otherwise."""

    sides: tuple[SideFacts, SideFacts]
    options: TraceOptions
    shared: SharedCount
    pairs: Pairs
    """(position by the first tokenizer, position by the other)."""
    layers: tuple[tuple[int, int], ...]
    """(layer of the first model, layer of the other)."""
    kl: Floats
    js: Floats
    overlap: Floats
    """In [0, 1]."""
    agreement: Bools
    cosine: Floats | None
    """Of the two states; None where the widths differ."""
    left_out: Floats
    """2 × layer × pair: probability of either model on tokens that the other does not have."""
    by_chance: Floats
    """layer: mean JS of the first model's cells with neighbouring positions of the other; NaN
    where there is one pair only."""
    top_ids: tuple[Ints, Ints]
    """layer × pair × k, rows of either vocabulary."""
    top_probabilities: tuple[Floats, Floats]
    """layer × pair × k, over either whole vocabulary."""
    ranks: Ints
    """2 × 2 × layer × pair: of the first and of the other model's answer (second axis) in the first
    and in the other reading (first axis), from 1; 0 where it has none."""
    cka: Doubles
    """Layer of the first × layer of the other: debiased linear CKA of the paired states; NaN below
    four pairs."""
    cka_by_chance: float
    """Mean of the same with the pairs shuffled; about 0."""
    movers: tuple[Mover, ...]
    """After the last pair, at the last layer: the largest changes of probability first."""

    @property
    def k(self) -> int:
        """Tokens that `overlap` is over."""
        return int(self.top_ids[0].shape[-1])

    @property
    def answers(self) -> tuple[Token | None, Token | None]:
        """What either model says after the last pair."""
        first, other = (
            side.token_info.get(side.answers[at])
            for side, at in zip(self.sides, self.pairs[-1], strict=True)
        )
        return first, other

    @property
    def alone(self) -> tuple[tuple[Token, ...], tuple[Token, ...]]:
        """The tokens of either text that have no partner."""
        held = [{pair[n] for pair in self.pairs} for n in (0, 1)]
        first, other = (
            tuple(token for at, token in enumerate(side.tokens) if at not in with_partner)
            for side, with_partner in zip(self.sides, held, strict=True)
        )
        return first, other

    def at(self, pairs: slice) -> ModelComparison:
        """The same with some of the pairs."""
        cut = {name: getattr(self, name)[:, pairs] for name in ("kl", "js", "overlap", "agreement")}
        return replace(
            self,
            pairs=self.pairs[pairs],
            cosine=None if self.cosine is None else self.cosine[:, pairs],
            left_out=self.left_out[:, :, pairs],
            top_ids=(self.top_ids[0][:, pairs], self.top_ids[1][:, pairs]),
            top_probabilities=(
                self.top_probabilities[0][:, pairs],
                self.top_probabilities[1][:, pairs],
            ),
            ranks=self.ranks[..., pairs],
            **cut,
        )

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called."""
        first, other = (side.about.name for side in self.sides)
        return first, other

    @property
    def sentence(self) -> str:
        """Where the two part, beside chance."""
        a, b = self.names
        if not np.nan_to_num(self.kl).any():
            return f"{a} and {b} read this text the same way in every cell."
        first, other = self.answers
        said = [f"“{one.label}”" if one is not None else "nothing finite" for one in (first, other)]
        same = first is not None and other is not None and first.text == other.text
        told = f"{a} goes on with {said[0]}, {b} " + (
            "with the same." if same else f"with {said[1]}."
        )
        column = self.js[:, -1]
        apart = np.flatnonzero(column > APART)
        if not np.isfinite(column).any():
            return told
        if len(apart):
            at = [self.layers[int(n)][0] for n in (apart[0], np.nanargmax(column))]
            without_gap = len(apart) == len(column) - int(apart[0])
            told += (
                f" After the last token their readings part {'from' if without_gap else 'at'} layer"
                f" {at[0]}{' on' if without_gap else ''} (JS above {APART:g} nats), furthest at"
                f" layer {at[1]} ({np.nanmax(column):.2f}, of 0.69 at most)."
            )
        else:
            told += f" After the last token they are nowhere more than {APART:g} nats apart (JS)."
        final, chance = mean_of(self.js[-1]), float(self.by_chance[-1])
        if not math.isfinite(chance):
            return told
        told += " At the last layer, over all positions, they are"
        if final >= chance:
            return f"{told} no nearer ({final:.2f} nats) than unlike positions ({chance:.2f})."
        return f"{told} {final:.2f} nats apart, unlike positions {chance:.2f}."

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the command's contract, and what else was found."""

        def grid(values: Floats | Doubles | None) -> Any:
            return None if values is None else [[number(x) for x in row] for row in values]

        first, other = self.answers
        sides = []
        for n, side in enumerate(self.sides):
            sides.append(
                {
                    "model": plain(side.about),
                    "tokens": [token.to_dict() for token in side.tokens],
                    "temperature": side.temperature,
                    "top": [
                        [
                            [
                                {"id": int(id), "text": side.token_info[int(id)].text,
                                 "probability": number(p)}
                                for id, p in zip(ids, ps, strict=True)
                                if id >= 0
                            ]
                            for ids, ps in zip(row, chances, strict=True)
                        ]
                        for row, chances in zip(
                            self.top_ids[n], self.top_probabilities[n], strict=True
                        )
                    ],
                    "left_out": grid(self.left_out[n]),
                }
            )  # fmt: skip
        return {
            "sentence": self.sentence,
            "layers": [a for a, _ in self.layers],
            "other_layers": [b for _, b in self.layers],
            "positions": [a for a, _ in self.pairs],
            "other_positions": [b for _, b in self.pairs],
            "kl": grid(self.kl),
            "js": grid(self.js),
            "js_by_chance": [number(x) for x in self.by_chance],
            "overlap": grid(self.overlap),
            "agreement": [[bool(x) for x in row] for row in self.agreement],
            "cosine": grid(self.cosine),
            "cka": grid(self.cka),
            "cka_by_chance": number(self.cka_by_chance),
            "ranks": self.ranks.tolist(),
            "aligned": len(self.pairs),
            "left_out": [len(one) for one in self.alone],
            "alone": [[token.to_dict() for token in one] for one in self.alone],
            "vocabulary": self.shared.to_dict(),
            "answers": [None if one is None else one.to_dict() for one in (first, other)],
            "movers": [
                {"token": one.token.to_dict(), "first": one.first, "other": one.other}
                for one in self.movers
            ],
            "sides": sides,
            "options": self.options.to_dict(),
        }  # fmt: skip


def compare_models(
    first: LatentSpace,
    other: LatentSpace,
    prompt: str,
    options: TraceOptions | None = None,
    *,
    check: Check = no_check,
    **settings: Any,
) -> ModelComparison:
    """Read one text by two models that are both open, and set them beside each other.

    Args:
        first: a model; called on its thread.
        other: another, on the same thread.
        prompt: any text within the limits of both.
        options: how both read; or its fields as keywords. `layers` counts in the first model.
        check: called between layers; raises to stop.

    Raises:
        PromptError, LayerError, OptionError: as for a trace; too few shared tokens; no position at
            which both have read the same text.
    """
    options = with_settings(options, settings, TraceOptions)
    own = side_of(first, prompt, options, check=check)
    # `layers` counts in the first model: the other's stand beside those.
    its = side_of(other, prompt, replace(options, layers=None), check=check)
    return beside(own, its, options, check=check)


def beside(
    first: Side,
    other: Side,
    options: TraceOptions,
    *,
    fewest: int = FEWEST,
    check: Check = no_check,
) -> ModelComparison:
    """Set two sides beside each other; see the module.

    Args:
        first: read at all layers, or at some.
        other: read at the layers that stand beside those, or at all.
        options: how both were read.
        fewest: tokens that both vocabularies must have.
        check: called between layers; raises to stop.

    Raises:
        OptionError: as for :func:`compare_models`.
    """
    sides = (first, other)
    shared = shared_vocabulary(first.vocabulary, other.vocabulary, fewest=fewest)
    same = shared.whole and [t.id for t in first.tokens] == [t.id for t in other.tokens]
    pairs = align(first.tokens, other.tokens, "tokens" if same else "characters")
    if not pairs:
        raise OptionError(
            "the two tokenizers cut this text so that no two tokens end at the same character;"
            " lengthen the prompt."
        )
    layers = tuple((own, round(own * other.blocks / first.blocks)) for own in first.layers)
    missing = {b for _, b in layers} - set(other.layers)
    if missing:
        raise OptionError(f"layer {min(missing)} of {other.about.name} was not read.")
    under = [other.layers.index(b) for _, b in layers]
    joined = cells_of(sides, list(enumerate(under)), pairs, shared, options.k, check)
    columns = [[pair[n] for pair in pairs] for n in (0, 1)]
    states = [
        first.states[:, columns[0]].double().cpu(),
        other.states[under][:, columns[1]].double().cpu(),
    ]
    cka, chance = debiased_cka(states[0].numpy(), states[1].numpy(), check=check)
    return ModelComparison(
        sides=(
            first.facts(joined["first_ids"].ravel()),
            other.facts(joined["other_ids"].ravel()),
        ),
        options=options,
        shared=shared.count,
        pairs=pairs,
        layers=layers,
        kl=joined["kl"],
        js=joined["js"],
        overlap=joined["overlap"],
        agreement=joined["agreement"],
        cosine=_cosines(states[0], states[1], joined["finite"]),
        left_out=joined["left_out"].transpose(2, 0, 1),
        by_chance=joined["by_chance"],
        top_ids=(joined["first_ids"], joined["other_ids"]),
        top_probabilities=(joined["first_tops"], joined["other_tops"]),
        ranks=joined["ranks"].transpose(2, 3, 0, 1),
        cka=cka,
        cka_by_chance=chance,
        movers=_movers(sides, (len(layers) - 1, under[-1]), pairs[-1], shared),
    )


def _cosines(first: Tensor, other: Tensor, finite: Bools) -> Floats | None:
    if first.shape[-1] != other.shape[-1]:
        return None
    cosines = torch.nn.functional.cosine_similarity(first, other, dim=-1).numpy()
    return np.where(finite, cosines, np.nan).astype(np.float32)


def _movers(
    sides: tuple[Side, Side], at: tuple[int, int], pair: tuple[int, int], shared: Shared
) -> tuple[Mover, ...]:
    own = [side.logits([(i, n)]) for side, i, n in zip(sides, at, pair, strict=True)]
    p, q = (
        shared_logs(z, ids, shared.whole).exp()[0].cpu()
        for z, ids in zip(own, shared.rows, strict=True)
    )
    most = (p - q).abs().topk(min(_MOVERS, len(shared)))
    return tuple(
        Mover(sides[0].vocabulary.token(int(shared.first[n])), float(p[n]), float(q[n]))
        for n, moved in zip(most.indices.tolist(), most.values.tolist(), strict=True)
        if moved > 0
    )
