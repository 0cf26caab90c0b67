"""The cosine: r·b_i / (‖r‖·‖b_i‖), the paper's similarity logits (§3.2, Alg. 1)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from engine.explanation import PAPER, Explanation
from engine.reading.geometries.geometry import Borders, Columns, Geometry, Rows


def _bare(dots: Tensor, columns: Columns, out: Tensor | None) -> Tensor:
    return torch.mul(dots, columns.inverse, out=out)


def _row_part(rows: Rows) -> tuple[Tensor | None, Tensor | None]:
    return 1 / rows.norm, None


COSINE: Final = Geometry(
    name="cosine",
    title="cosine",
    what="The angle to each token's vector; the paper's reading.",
    score="cosine (−1…1)",
    # Algorithm 1 has no temperature: at T = 1 a softmax of cosines over v tokens is all but
    # uniform, its largest value at most e²/v.
    temperature=0.05,
    formula="r·b_i / (‖r‖·‖b_i‖)",
    bare=_bare,
    row_part=_row_part,
    borders=Borders("radians", sign=" rad", directions=True),
    explanation=Explanation(
        "cosine",
        "Similarity logits",
        "The score of token i is the cosine between the state and its basis, so the state's length "
        "plays no part. The whole vocabulary needs one product with the head.",
        f"{PAPER}, §3.2, Algorithm 1",
        False,
        (("reading.similarity", "scores"), ("reading.read", "read")),
    ),
)
