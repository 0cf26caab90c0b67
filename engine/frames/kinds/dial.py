"""The dial between head rows and semantic bases, and its ridge sister: (G + λ·λ̄·I)^(−α)·w_i.

λ̄ is the mean eigenvalue of G, so λ means the same on every model. Without ridge (λ = 0) the dial is
G^(−α)·w_i; with it and α = 1 the semantic bases of ridge regression.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor

from engine.explanation import Explanation
from engine.frames.decomposition import square_norms
from engine.frames.frame import Frame
from engine.frames.kinds.head import HEAD
from engine.frames.kinds.kind import FrameKind, Source
from engine.frames.kinds.output import OUTPUT
from engine.frames.kinds.tight import TIGHT

_STOPS: Final = {0.0: HEAD, 0.5: TIGHT, 1.0: OUTPUT}
"""Where the dial stands at another frame: that one is taken, with all that belongs to it."""


def _build(source: Source) -> Frame:
    alpha, ridge = source.alpha, source.ridge
    if alpha == 0 or (alpha in _STOPS and not ridge):
        return _STOPS[alpha].build(source)
    head = source.decomposition
    matrix = head.power(-alpha, ridge)
    norms = square_norms(source.weight, head, (-2 * alpha,), ridge=ridge)[:, 0].sqrt()
    return Frame(
        "dial",
        source.weight,
        matrix,
        norms.float().to(source.device),
        head.row_mean @ matrix,
        shift=source.shift(),
        alpha=alpha,
        ridge=ridge,
        exact_norms=norms,
    )


def _spectrum(values: Tensor, frame: Frame) -> Tensor:
    added = frame.ridge * values.sum() / frame.width
    powers: Tensor = values * (values + added) ** (-2 * frame.alpha)
    return powers.sort(descending=True).values


DIAL: Final = FrameKind(
    name="dial",
    title="dial",
    phrase="the dial between head rows and semantic bases",
    what="Any place between the raw head rows (α = 0), the tight frame (α = ½) and the semantic "
    "bases (α = 1): how much the directions are weighed that all tokens share. A ridge λ holds the "
    "weakest directions back.",
    note="G^(−α)w_i: α = 0 the raw head rows, ½ the tight frame, 1 the semantic bases. Near 0.1"
    " many models' states are read best.",
    formula="(G + λ·λ̄·I)^(−α)w_i",
    build=_build,
    spectrum=_spectrum,
    dialled=True,
    explanation=Explanation(
        "dial",
        "The dial between head rows and semantic bases",
        "Head rows, tight frame and semantic bases are one family: powers of the inverse frame "
        "operator on the head's rows. The power α says how far the directions that all tokens "
        "share are turned down. Which α reads a model best is measured, layer by layer. A ridge "
        "λ, in units of the mean eigenvalue, is added to G before: at α = 1 the bases of ridge "
        "regression, which no weak direction can blow up.",
        "ours (frame theory)",
        True,
        (("frames.kinds", "build_frame"), ("frames.decomposition", "square_norms")),
    ),
)
