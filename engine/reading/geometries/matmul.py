"""The inner product r·b_i; on the frame `head`, with bias, scale and cap: the model's logits."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from engine.explanation import Explanation
from engine.reading.geometries.geometry import Borders, Columns, Geometry


def _bare(dots: Tensor, columns: Columns, out: Tensor | None) -> Tensor:
    if columns.bias is not None:
        dots = torch.add(dots, columns.bias, out=out)
    return dots if columns.finish is None else columns.finish(dots)


def _lift(squares: Tensor, bias: Tensor | None) -> Tensor | None:
    return bias  # f before the soft cap, which keeps the order


MATMUL: Final = Geometry(
    name="matmul",
    title="matrix product",
    what="The inner product, as the model's own head computes it.",
    score="inner product (logit)",
    temperature=1.0,
    formula="r·b_i",
    bare=_bare,
    borders=Borders("length in the state's space", lift=_lift),
    explanation=Explanation(
        "matmul",
        "Matrix product",
        "The inner product with the reference vector. With the raw head rows these are the model's "
        "own logits, bias, scale and soft cap included: the logit lens.",
        "nostalgebraist 2020 (logit lens)",
        False,
        (("reading.similarity", "scores"),),
    ),
)
