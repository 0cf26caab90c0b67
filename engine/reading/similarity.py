"""Reading a state by its similarity to the vectors of a frame.

For a state r and the vectors b_1 … b_v of a frame, each geometry (:mod:`engine.reading.geometries`)
makes scores of the products r·b_i; a larger one is nearer. Probabilities are softmax(score / T)
over the whole vocabulary.

Centred: each state minus the mean state it is given, each basis minus the mean basis b̄; all
scores follow from r·b_i by corrections per row and per column, without another product.

:func:`scores` gives every score, differentiable with respect to the states;
:func:`engine.reading.read.read` runs over the vocabulary in chunks and keeps what was asked only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.frames.decomposition import CHUNK
from engine.frames.frame import Frame
from engine.reading.geometries import geometry_of
from engine.reading.geometries.geometry import Columns, Rows


def prepare_rows(frame: Frame, states: Tensor, *, centred: bool, vectors: bool = False) -> Rows:
    """States as the products need them: placed in the frame, centred, times its matrix."""
    # A head bias moves every basis alike, so centred bases and states do not know of it.
    placed = (states if vectors or centred else frame.place(states)).float()
    wide = placed if placed.device.type == "mps" else placed.double()
    square = wide.square().sum(1, keepdim=True)
    offset = None
    if centred:
        offset = (wide @ frame.mean.to(wide.device, wide.dtype).unsqueeze(1)).float()
    norm = square.sqrt().float().clamp_min(torch.finfo(torch.float32).tiny)
    return Rows(frame.queries(placed), norm, square.float(), offset)


def columns_of(frame: Frame, *, centred: bool) -> Columns:
    """What the scores of all tokens of a frame need besides the product."""
    norms = frame.centred_norms() if centred else frame.norms
    inverse = torch.where(norms > 0, 1 / norms.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
    bias = None if frame.bias is None else frame.bias.detach().float()
    return Columns(norms, inverse, bias, frame.finish)


def products(rows: Rows, block: Tensor, out: Tensor | None = None) -> Tensor:
    """r·b_i of prepared rows with a block of the frame (n × c), centred where the rows are."""
    product = torch.mm(rows.queries, block.T, out=out)
    if rows.offset is not None:
        # (r − μ)·(b_i − b̄) with μ taken off the states before: only b̄ is left to subtract.
        product = torch.sub(product, rows.offset, out=out)
    return product


def scores(
    frame: Frame,
    states: Tensor,
    geometry: str = "cosine",
    *,
    ids: Sequence[int] | Tensor | None = None,
    centred: bool = False,
    vectors: bool = False,
) -> Tensor:
    """Similarity of states to the vectors of a frame: every score, differentiable.

    Args:
        frame: b_1 … b_v.
        states: n × d, on the frame's device.
        geometry: by its name.
        ids: only these tokens (m); None is the whole vocabulary.
        centred: subtract the mean basis from each basis. The states are taken as they are.
        vectors: the states are vectors of the frame itself, so a head bias does not move them.

    Returns:
        n × v or n × m, float32; larger is nearer.
    """
    measure = geometry_of(geometry)
    rows = prepare_rows(frame, states, centred=centred, vectors=vectors)
    columns = columns_of(frame, centred=centred)
    if ids is not None:
        index = torch.as_tensor(ids, dtype=torch.long, device=frame.device).reshape(-1)
        dots = products(rows, frame.gather(index).float())
        columns = columns.at(index)
    else:
        # By blocks, so that a head in half precision is never held in float32 as a whole.
        starts = range(0, frame.size, CHUNK)
        blocks = (frame.block(s, min(s + CHUNK, frame.size)) for s in starts)
        dots = torch.cat([products(rows, block) for block in blocks], 1)
    return measure.scores(dots, rows, columns)
