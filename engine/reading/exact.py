"""Near ties, decided in float64.

One pass over the vocabulary is made in float32. Where two scores are nearer than that can tell
apart, their order is its rounding's: ranks would be off by one, and equal lists in another order on
another machine. So what stands within the *grain* of a score is noted while the vocabulary goes by
and computed again from the vectors themselves, in float64: a handful of pairs, no second pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from engine.frames.frame import Frame
from engine.reading.geometries.geometry import Columns, Geometry, Rows

MOST: Final = 512
"""Scores of one row within a grain in one chunk; more are one and the same score (vectors that are
equal, or zero) and stay as float32 counts them."""
_ULP: Final = 2.0**-24
_NUMBERS: Final = 2**16
"""Of rows that are looked at again at once: half a megabyte."""


@dataclass(frozen=True)
class Exact:
    """What scores are computed from, whatever is near: a frame and states (n × d)."""

    frame: Frame
    states: Tensor
    centred: bool
    vectors: bool

    @torch.no_grad()
    def bare(self, geometry: Geometry, row: Tensor, ids: Tensor) -> Tensor:
        """Bare scores of pairs of a state and a token, float64 on the CPU (m).

        Args:
            geometry: by which.
            row: of the states (m).
            ids: of the tokens (m).
        """
        step = max(16, _NUMBERS // self.frame.width)
        out = torch.empty(len(row), dtype=torch.float64)
        # Those of one token together: its row is fetched once, or drawn with its neighbours.
        for some in torch.split(ids.cpu().argsort(), step):
            out[some] = self._some(geometry, row.cpu()[some], ids.cpu()[some])
        return out

    @cached_property
    def _placed(self) -> Tensor:
        states = self.states.detach().cpu().double()
        return states if self.vectors or self.centred else self.frame.place(states)

    @cached_property
    def _queries(self) -> Tensor:
        """M·r of each state: r·b_i = (M·r)·x_i, so no vector of the frame is made."""
        matrix = self.frame.transform
        return self._placed if matrix is None else self._placed @ matrix.cpu()

    def _some(self, geometry: Geometry, row: Tensor, ids: Tensor) -> Tensor:
        frame = self.frame
        unique, place = torch.unique(ids, return_inverse=True)
        x = frame.gather(unique).cpu().double() * frame.factor
        norms = frame.lengths(unique)
        dots = torch.linalg.vecdot(self._queries[row], x[place])
        if self.centred:
            mean = frame.mean.cpu().double()
            query = mean if frame.transform is None else frame.transform.cpu() @ mean
            norms = (norms.square() - 2 * (x @ query) + mean @ mean).clamp_min(0).sqrt()
            dots = dots - self._placed[row] @ mean
        norms = norms[place]
        inverse = torch.where(norms > 0, 1 / norms.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        bias = None if frame.bias is None else frame.bias.detach().cpu().double()[ids]
        return geometry.bare(dots, Columns(norms, inverse, bias, frame.finish), None)


@torch.no_grad()
def grain(
    geometry: Geometry, rows: Rows, vectors: Tensor, place: Tensor, own: Tensor, part: Columns
) -> Tensor:
    """Within what of a target's bare score float32 cannot tell scores apart (n × m).

    The rounding of a product of d numbers is about √d units in the last place of ‖q‖·‖x‖.

    Args:
        geometry: by which.
        rows: of the states.
        vectors: rows x_i of the distinct targets (u × d).
        place: of the targets among them (n × m).
        own: the targets' scores (n × m).
        part: the columns of the distinct targets.
    """
    zero = torch.zeros(1, len(vectors), device=vectors.device)
    slope = (geometry.bare(zero + 1, part, None) - geometry.bare(zero, part, None)).abs()
    size = rows.queries.norm(dim=1, keepdim=True) * (vectors.norm(dim=1) * slope)
    wide = 2 * vectors.shape[1] ** 0.5 * size.gather(1, place)
    out: Tensor = _ULP * (wide + 16 * own.abs())
    return out
