"""Reading a state by its similarity to the vectors of a frame.

For a state r and the vectors b_1 … b_v of a frame, three geometries (a larger score is nearer):

=======  ==================================  =============================================
cosine   r·b_i / (‖r‖·‖b_i‖)                 the paper's similarity logits (§3.2, Alg. 1)
l2       −‖r − b_i‖²                         minus the squared distance
matmul   r·b_i                               inner product; with the frame `head`, its bias,
                                             scale and soft cap: exactly the model's logits
=======  ==================================  =============================================

Probabilities are softmax(score / T) over the whole vocabulary. Algorithm 1 has no temperature; at
T = 1 a softmax of cosines over v tokens is all but uniform (its largest value is at most e²/v), so
the default T for cosines is 0.05 and is always shown.

Centred: each state minus the mean state it is given, each basis minus the mean basis b̄; all three
scores follow from r·b_i by corrections per row and per column, without another product.

:func:`scores` gives every score, differentiable with respect to the states;
:func:`engine.reading.read.read` runs over the vocabulary in chunks and keeps what was asked only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from engine.errors import OptionError
from engine.frames.decomposition import CHUNK
from engine.frames.frame import Frame

Geometry = Literal["cosine", "l2", "matmul"]
GEOMETRIES: Final[tuple[Geometry, ...]] = ("cosine", "l2", "matmul")
DEFAULT_TEMPERATURE: Final[Mapping[str, float]] = {"cosine": 0.05, "l2": 1.0, "matmul": 1.0}
"""What a probability is taken at where nobody says otherwise. In units of the score."""


@dataclass(frozen=True)
class Rows:
    """What the scores of a set of states need besides the product: one number per row."""

    queries: Tensor  # (n, d) float32
    norm: Tensor  # ‖r‖ (n, 1)
    square: Tensor  # ‖r‖² (n, 1)
    offset: Tensor | None  # r·b̄ (n, 1), where the frame is centred


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


def columns(frame: Frame, *, centred: bool) -> tuple[Tensor, Tensor]:
    """‖b_i‖, and 1/‖b_i‖ with 0 where the basis is zero (such a token is similar to nothing)."""
    norms = frame.centred_norms() if centred else frame.norms
    inverse = torch.where(norms > 0, 1 / norms.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
    return norms, inverse


def _score(
    frame: Frame,
    geometry: str,
    dots: Tensor,
    rows: Rows,
    norms: Tensor,
    inverse: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Scores from products r·b_i (n × c), already centred where that was asked."""
    bare = bare_scores(frame, geometry, dots, norms, inverse, bias)
    gain, lift = row_part(geometry, rows)
    if gain is not None:
        return bare * gain
    return bare if lift is None else bare + lift


def bare_scores(
    frame: Frame,
    geometry: str,
    dots: Tensor,
    norms: Tensor,
    inverse: Tensor,
    bias: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """Scores but for what is the same for a whole row: it decides neither order nor softmax.

    cosine = bare / ‖r‖, l2 = bare − ‖r‖², matmul = bare: large blocks are spared those passes.
    """
    if geometry == "cosine":
        return torch.mul(dots, inverse, out=out)
    if geometry == "l2":
        return torch.add(-norms.square(), dots, alpha=2, out=out)
    if bias is not None:
        dots = torch.add(dots, bias, out=out)
    return dots if frame.finish is None else frame.finish(dots)


def row_part(geometry: str, rows: Rows) -> tuple[Tensor | None, Tensor | None]:
    """What makes a bare score whole: a factor or a summand per row (n × 1)."""
    if geometry == "cosine":
        return 1 / rows.norm, None
    if geometry == "l2":
        return None, -rows.square
    return None, None


def products(
    frame: Frame, rows: Rows, block: Tensor, centre: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """r·b_i of prepared rows with a block of the frame (n × c), centred where `centre` is given."""
    product = torch.mm(rows.queries, block.T, out=out)
    if rows.offset is not None and centre is not None:
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
        geometry: ``cosine``, ``l2`` or ``matmul``.
        ids: only these tokens (m); None is the whole vocabulary.
        centred: subtract the mean basis from each basis. The states are taken as they are.
        vectors: the states are vectors of the frame itself, so a head bias does not move them.

    Returns:
        n × v or n × m, float32; larger is nearer.
    """
    check_geometry(geometry)
    rows = prepare_rows(frame, states, centred=centred, vectors=vectors)
    norms, inverse = columns(frame, centred=centred)
    centre = frame.centre_scores() if centred else None
    bias = None if frame.bias is None else frame.bias.detach().float()
    if ids is not None:
        index = torch.as_tensor(ids, dtype=torch.long, device=norms.device).reshape(-1)
        dots = products(frame, rows, gather_rows(frame, index), centre)
        norms, inverse = norms[index], inverse[index]
        bias = None if bias is None else bias[index]
    else:
        # By blocks, so that a head in half precision is never held in float32 as a whole.
        starts = range(0, frame.size, CHUNK)
        blocks = (frame.block(s, min(s + CHUNK, frame.size)) for s in starts)
        dots = torch.cat([products(frame, rows, block, centre) for block in blocks], 1)
    return _score(frame, geometry, dots, rows, norms, inverse, bias)


def gather_rows(frame: Frame, index: Tensor) -> Tensor:
    """Rows x_i of some tokens, float32 on the frame's device (m × d)."""
    return frame.gather(index).float()


def check_geometry(geometry: str) -> None:
    """Refuse a geometry that does not exist."""
    if geometry not in GEOMETRIES:
        raise OptionError(
            f"geometry must be one of {', '.join(GEOMETRIES)}; got {geometry[:40]!r}."
        )
