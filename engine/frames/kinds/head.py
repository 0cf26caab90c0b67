"""The raw rows w_i of the head; their matrix product is the logit lens."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from engine.frames.frame import Frame
from engine.frames.kinds.kind import FrameKind, Source

NEVER: Final = -1e30
"""Stands for a logit of −∞: of probability 0 all the same, but 0 times it is 0 and not NaN."""


def _build(source: Source) -> Frame:
    head = source.decomposition
    norms = head.row_norms.float().to(source.device)
    low = None if source.bias is None else source.bias.clamp_min(NEVER)
    return Frame("head", source.weight, None, norms, head.row_mean, bias=low, finish=source.finish)


def _spectrum(values: Tensor, frame: Frame) -> Tensor:
    return values


HEAD: Final = FrameKind(
    name="head",
    title="raw head rows",
    phrase="raw head rows",
    what="The raw rows of the head. Their inner product with a state is the model's own logit; "
    "long rows win often.",
    note="Rows w_i of the head as they are; inner products with them are the model's logits.",
    formula="w_i",
    build=_build,
    spectrum=_spectrum,
)
