"""Semantic bases: s_i = G⁻¹w_i, the paper's e_i·W⁺."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from engine.explanation import PAPER, Explanation
from engine.frames.frame import Frame
from engine.frames.kinds.kind import FrameKind, Source


def _build(source: Source) -> Frame:
    head = source.decomposition
    inverse = head.power(-1.0)
    norms = head.basis_norms
    mean = head.row_mean @ inverse
    return Frame(
        "output",
        source.weight,
        inverse,
        norms.float().to(source.device),
        mean,
        shift=source.shift(),
        exact_norms=norms,
    )


def _spectrum(values: Tensor, frame: Frame) -> Tensor:
    return (1 / values).flip(0)


OUTPUT: Final = FrameKind(
    name="output",
    title="semantic bases",
    phrase="semantic bases",
    side="output",
    what="The paper's semantic bases: for each token, the state that comes closest to making "
    "the head say this token and no other.",
    note="Semantic bases s_i = e_i·W⁺ = G⁻¹w_i: the states whose logits come nearest to the"
    " one-hot of each token (paper §3.1); the canonical dual frame of the head rows.",
    formula="s_i = e_i·W⁺ = G⁻¹w_i",
    build=_build,
    spectrum=_spectrum,
    explanation=Explanation(
        "output",
        "Semantic bases, output side",
        "The one-hot vector of token i is read as logits and taken back through the head by its "
        "Moore–Penrose inverse. With the frame operator G this is one small solve per token, and "
        "no second copy of the vocabulary is ever held.",
        f"{PAPER}, §3.1 and App. B.1; the form with G is derived here",
        False,
        (("frames.decomposition", "decompose"), ("frames.kinds", "build_frame")),
    ),
)
