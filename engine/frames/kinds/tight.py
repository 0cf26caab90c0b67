"""The tight frame t_i = G^(-1/2)w_i, between head rows and bases: Σ t_i t_iᵀ = I (Parseval)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from engine.explanation import Explanation
from engine.frames.frame import Frame
from engine.frames.kinds.kind import FrameKind, Source


def _build(source: Source) -> Frame:
    head = source.decomposition
    root = head.power(-0.5)
    norms = head.leverage.clamp_min(0).sqrt()
    return Frame(
        "tight",
        source.weight,
        root,
        norms.float().to(source.device),
        head.row_mean @ root,
        shift=source.shift(),
        exact_norms=norms,
    )


def _spectrum(values: Tensor, frame: Frame) -> Tensor:
    return torch.ones_like(values)


TIGHT: Final = FrameKind(
    name="tight",
    title="tight frame",
    phrase="the tight frame",
    what="Half-way between raw rows and bases: every direction of the space is weighed the "
    "same, so squared products are shares.",
    note="G^(-1/2)w_i, half way between head rows and semantic bases; a Parseval frame: squared"
    " inner products with it sum to ‖r‖².",
    formula="t_i = G^(-1/2)w_i",
    build=_build,
    spectrum=_spectrum,
    explanation=Explanation(
        "tight",
        "Tight frame, raw head rows, random control",
        "The tight frame lies half-way between head rows and bases. The raw rows are what a logit "
        "lens uses. The random frame has the same lengths and no meaning: whatever it scores is "
        "what chance scores.",
        "ours (frame theory)",
        True,
        (("frames.kinds", "build_frame"), ("frames.frame", "Frame")),
    ),
)
