"""A state written exactly as a sum over the vocabulary (frame theory; docs/method.md §3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.frames.frame import Frame


@dataclass(frozen=True)
class Resolution:
    """A state written exactly as a sum over the vocabulary: r = Σ z_i s_i."""

    logits: Tensor
    """z_i = w_i·r: coordinates of least norm in the frame of semantic bases (v)."""
    signed: Tensor
    """z_i·(s_i·r)/‖r‖²: what token i accounts for; sums to 1, may be negative (v)."""
    parseval: Tensor
    """(t_i·r)²/‖r‖²: the same in the tight frame; sums to 1, never negative (v)."""
    error: float
    """‖r − Σ z_i s_i‖/‖r‖."""


def resolve(output: Frame, head: Frame, tight: Frame, state: Tensor) -> Resolution:
    """The exact resolution of one state into tokens (derived in docs/method.md §3).

    The head rows are a frame of R^d and the semantic bases its canonical dual, so
    r = Σ (w_i·r)·s_i for every r (in the head's row space). With a head bias r is the placed
    state r + c.

    Args:
        state: d.
    """
    here = output.place(state.unsqueeze(0)).float()
    placed = here.cpu().double()
    square = float(placed.square().sum()) or 1.0
    query = output.queries(here)[0].cpu().double()
    root = tight.queries(here)[0].cpu().double()
    z, dual, part = [], [], []
    total = torch.zeros(output.width, dtype=torch.float64)
    for start in range(0, output.size, 8192):
        # float64: an ill-conditioned head would turn the rounding of z into a wrong state.
        block = head.block(start, min(start + 8192, head.size)).cpu().double()
        logit = block @ placed[0]
        z.append(logit)
        dual.append(block @ query)
        part.append(block @ root)
        total += logit @ block
    assert output.transform is not None
    rebuilt = total @ output.transform
    error = float((rebuilt - placed[0]).norm()) / square**0.5
    logits = torch.cat(z)
    return Resolution(
        logits=logits.float(),
        signed=(logits * torch.cat(dual) / square).float(),
        parseval=(torch.cat(part).square() / square).float(),
        error=error,
    )
