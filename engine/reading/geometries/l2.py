"""Minus the squared distance: −‖r − b_i‖² = −‖r‖² + 2·r·b_i − ‖b_i‖²."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from engine.explanation import PAPER, Explanation
from engine.reading.geometries.geometry import Borders, Columns, Geometry, Rows


def _bare(dots: Tensor, columns: Columns, out: Tensor | None) -> Tensor:
    return torch.add(-columns.norms.square(), dots, alpha=2, out=out)


def _row_part(rows: Rows) -> tuple[Tensor | None, Tensor | None]:
    return None, -rows.square


def _lift(squares: Tensor, bias: Tensor | None) -> Tensor:
    return -squares / 2


L2: Final = Geometry(
    name="l2",
    title="squared L2",
    what="The distance to each token's vector.",
    score="minus squared distance",
    temperature=1.0,
    formula="−‖r − b_i‖²",
    bare=_bare,
    row_part=_row_part,
    borders=Borders("length in the state's space", lift=_lift, slope=2.0),
    explanation=Explanation(
        "l2",
        "Squared distance",
        "Minus the squared Euclidean distance, so that larger is nearer here as well.",
        f"{PAPER}, early version (“distance-based similarities”)",
        False,
        (("reading.similarity", "scores"),),
    ),
)
