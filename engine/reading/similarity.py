"""Reading a state by its similarity to the vectors of a frame.

For a state r and the vectors b_1 … b_v of a frame, each geometry (:mod:`engine.reading.geometries`)
makes scores of the products r·b_i; a larger one is nearer. Probabilities are softmax(score / T)
over the whole vocabulary.

Centred: each state minus the mean state it is given, each basis minus the mean basis b̄; all
scores follow from r·b_i by corrections per row and per column, without another product.

:func:`scores` gives every score, differentiable with respect to the states;
:func:`engine.reading.read.read` runs over the vocabulary in chunks and keeps what was asked only.
:func:`divergence` says how far a layer's reading is from the model's end, :func:`resolve` writes a
state exactly as a sum over the vocabulary (frame theory; docs/method.md §3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from engine.frames.decomposition import CHUNK
from engine.frames.frame import Frame
from engine.progress import Check, no_check
from engine.reading.fused import diverge, worth_it
from engine.reading.geometries import geometry_of
from engine.reading.geometries.geometry import Columns, Rows

_CPU_CHUNK: Final = 512
CPU_TILE: Final = 1024
"""Columns and rows of a block on the CPU: 2 MiB, which the passes after the product find in cache
(measured: a third of the time of blocks of 4096 × 832). An accelerator takes all rows at once."""
_CPU_WIDEST: Final = 8192
"""Columns of a block of few rows, which has the same size and needs fewer passes."""
_TEMPORARIES: Final = 6
"""Blocks of rows × chunk that are alive at once, for the memory budget."""


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


def tiling(n: int, v: int, d: int, budget_bytes: int, device: torch.device) -> tuple[int, int]:
    """Columns and rows per block, so that the temporaries stay within the budget."""
    cpu = device.type == "cpu"
    chunk = min(v, 4096)
    if cpu:
        wide = _CPU_CHUNK * (CPU_TILE // max(n, 1))
        chunk = min(v, max(_CPU_CHUNK, min(wide, _CPU_WIDEST)))
    while chunk > 256 and chunk * d * 4 > budget_bytes // 2:
        chunk //= 2
    left = max(budget_bytes - chunk * d * 4, budget_bytes // 2)
    tile = max(1, left // (4 * (_TEMPORARIES * chunk + 8 * d)))
    if cpu and tile > CPU_TILE:
        tile = -(-n // -(-n // CPU_TILE)) if n else 1  # tiles of about the same size
    return chunk, min(n, tile) if n else 1


def divergence(
    frame: Frame,
    states: Tensor,
    reference: Tensor,
    *,
    budget_bytes: int = 256 * 2**20,
    check: Check = no_check,
) -> Tensor:
    """KL(p ‖ q_l) in nats between the model's final distribution and each layer's own.

    p is softmax of the frame's matrix product for the reference state (the last layer), q_l the
    same for the states of layer l; use the frame `head`, whose product is the model's logits.
    At least 0; 0 for the reference itself.

    Args:
        frame: the frame `head`.
        states: layers × tokens × d.
        reference: tokens × d, the states that the head reads.

    Returns:
        layers × tokens.
    """
    layers, tokens, d = states.shape
    v = frame.size
    chunk, tile = tiling(tokens * (layers + 1), v, d, budget_bytes, frame.device)
    step = max(1, tile // (layers + 1))
    bias = None if frame.bias is None else frame.bias.detach().float()
    out: list[Tensor] = []
    for first in range(0, tokens, step):
        part = torch.cat([states[:, first : first + step], reference[None, first : first + step]])
        width = part.shape[1]
        rows = frame.queries(part.reshape(-1, d))  # (layer token, d), the reference last
        fused = worth_it(len(rows) * v, rows)
        room = torch.empty((len(rows) * chunk) if fused else 0)  # no block waits for fresh pages
        peak = torch.full((layers + 1, width), -torch.inf, device=rows.device)
        mass = torch.zeros_like(peak)
        cross = torch.zeros_like(peak)  # Σ exp(x_ref − peak_ref)·x_l, for every l
        for start in range(0, v, chunk):
            check()
            stop = min(start + chunk, v)
            there = room[: len(rows) * (stop - start)].view(len(rows), -1) if fused else None
            product = torch.mm(rows, frame.block(start, stop).T, out=there)
            if bias is not None:
                product = product + bias[start : start + chunk]
            if frame.finish is not None:
                product = frame.finish(product)
            logits = product.view(layers + 1, width, -1)
            if fused:
                diverge(logits, peak, mass, cross)
                continue
            top = torch.maximum(peak, logits.amax(2))
            fade = (peak - top).exp()
            weights = (logits[-1] - top[-1].unsqueeze(1)).exp()
            # Per token a small product layers × chunk · chunk: no block of products.
            energy = torch.bmm(logits.transpose(0, 1), weights.unsqueeze(2)).squeeze(2).T
            cross = cross * fade[-1] + energy
            mass = mass * fade + logits.sub_(top.unsqueeze(2)).exp_().sum(2)
            peak = top
        log_partition = peak + mass.log()
        mean = cross / mass[-1]  # E_p[x_l]
        out.append((mean[-1] - log_partition[-1]) - (mean[:-1] - log_partition[:-1]))
    return torch.cat(out, 1).clamp_min(0)


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
