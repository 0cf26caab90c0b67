"""The rows of the embedding table: the paper's "general semantic basis" (App. B.1)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from engine.errors import OptionError
from engine.explanation import PAPER, Explanation
from engine.frames.decomposition import CHUNK
from engine.frames.frame import Frame
from engine.frames.kinds.kind import FrameKind, Source


def _build(source: Source) -> Frame:
    embedding, scale = source.embedding, source.embedding_scale
    if tuple(embedding.shape) != tuple(source.weight.shape):
        raise OptionError(
            f"the frame 'input' needs embedding rows of the head's size"
            f" {tuple(source.weight.shape)}, this model's table is {tuple(embedding.shape)};"
            " choose output, head, tight or random."
        )
    square = torch.empty(len(embedding), dtype=torch.float64)
    total = torch.zeros(embedding.shape[1], dtype=torch.float64)
    for start in range(0, len(embedding), CHUNK):
        block = embedding[start : start + CHUNK].detach().cpu().double()
        square[start : start + len(block)] = block.square().sum(1)
        total += block.sum(0)
    norms = (square.sqrt() * abs(scale)).float().to(source.device)
    # No copy on one device; where a model is spread, the table moves to the head once.
    rows = embedding.detach().to(source.device)
    return Frame("input", rows, None, norms, total / len(embedding) * scale, factor=scale)


def _spectrum(values: Tensor, frame: Frame) -> Tensor:
    return values * frame.factor**2


INPUT: Final = FrameKind(
    name="input",
    title="input embeddings",
    phrase="input embeddings",
    what="The rows of the embedding table: where each token enters the model, before the first "
    "block.",
    note="Rows of the embedding table: where each token enters the model (paper App. B.1).",
    formula="the embedding row",
    build=_build,
    spectrum=_spectrum,
    of_embedding=True,
    explanation=Explanation(
        "input",
        "Semantic bases, input side",
        "The row of the embedding table, as the first block receives it.",
        f"{PAPER}, App. B.1 (“general semantic basis”)",
        False,
        (("frames.kinds", "build_frame"),),
    ),
)
