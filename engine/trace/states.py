"""The states that a trace reads: layers and positions chosen, normed or raw, centred or not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import OptionError
from engine.frames.frame import Frame
from engine.model.language_model import LanguageModel, States
from engine.model.ranges import parse_range
from engine.progress import Check, no_check
from engine.reading.read import read
from engine.trace.options import STATES, TraceOptions


@dataclass(frozen=True)
class Prepared:
    """The states that were asked for, placed where frames read them."""

    layers: tuple[int, ...]
    positions: tuple[int, ...]
    states: Tensor
    """layer × position × d, normed or raw, centred or not."""
    reading: Tensor
    """layer × position × d: past the final norm, never centred; what the head would read."""
    last: Tensor
    """position × d: what the head does read."""
    finite: Tensor
    """layer × position."""
    answered: Tensor
    """position: whether the model's last layer is finite, so that it has an answer there."""
    before: Tensor
    """layer × position × d: `states` of the model's layer just below, for steps and gains."""


def prepare(
    model: LanguageModel, states: States, options: TraceOptions, *, check: Check = no_check
) -> Prepared:
    """Choose layers and positions, take the final norm or not, centre or not.

    Raises:
        LayerError: a layer or position that is not there.
        OptionError: raw states of another width than the head, or centring of one token.
    """
    layers = model.layer_numbers(options.layers)
    tokens = len(states.ids)
    positions = parse_range(
        options.positions, tokens, "position", f"this prompt of {tokens} tokens"
    )
    anatomy = model.anatomy
    past_norm = STATES[options.state].past_norm
    if not past_norm and anatomy.residual_width != model.width:
        raise OptionError(
            f"raw states of this model have {anatomy.residual_width} dimensions and its head reads"
            f" {model.width}; choose state normed."
        )
    if options.centred and tokens < 2:
        raise OptionError(
            "centring takes the mean over the prompt's tokens off each state, so it needs at least"
            " two tokens; lengthen the prompt or switch 'centred' off."
        )
    chosen = list(layers)
    # Layer −1 is not there; the step into layer 0 is never shown, so any stand-in serves.
    below = [max(layer - 1, 0) for layer in layers]
    wanted = sorted({*chosen, *below, model.blocks})
    check()
    raw = states.raw[wanted]
    read_out = model.read_out(raw)
    place = {layer: i for i, layer in enumerate(wanted)}
    at = [place[layer] for layer in chosen]
    under = [place[layer] for layer in below]
    used = read_out if past_norm else raw
    finite = torch.isfinite(used).all(-1) & torch.isfinite(read_out).all(-1)
    clean = torch.where(finite.unsqueeze(-1), used, 0.0)
    if options.centred:
        counts = finite.sum(1).clamp_min(1).unsqueeze(-1)
        mean = clean.sum(1) / counts
        clean = torch.where(finite.unsqueeze(-1), clean - mean.unsqueeze(1), 0.0)
    safe = torch.where(finite.unsqueeze(-1), read_out, 0.0)
    pick = list(positions)
    return Prepared(
        layers=layers,
        positions=positions,
        states=clean[at][:, pick],
        reading=safe[at][:, pick],
        last=safe[place[model.blocks]][pick],
        finite=finite[at][:, pick],
        answered=finite[place[model.blocks]][pick],
        before=clean[under][:, pick],
    )


def final_answers(
    head: Frame, last: Tensor, *, budget_bytes: int, check: Check = no_check
) -> tuple[Tensor, Tensor]:
    """The model's own next token at each position, and its probability."""
    top = read(head, last, geometries=("matmul",), k=1, budget_bytes=budget_bytes, check=check)[
        "matmul"
    ]
    return top.ids[:, 0], top.probabilities[:, 0]
