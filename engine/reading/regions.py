"""Semantic regions: where one token is nearest, and how far a state is from the border of its own.

Keeping only the nearest basis cuts latent space into discrete regions (the paper's semantic
fields, seen as cells). Knows nothing about layers or prompts.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from engine.errors import OptionError
from engine.frames.frame import Frame
from engine.progress import Check, no_check
from engine.reading.geometries import geometry_of
from engine.reading.geometries.geometry import Borders
from engine.reading.read import Reading
from engine.reading.similarity import columns_of, prepare_rows, products, tiling


def borders(
    frame: Frame,
    states: Tensor,
    regions: Tensor,
    geometry: str,
    *,
    near: Reading | None = None,
    centred: bool = False,
    budget_bytes: int = 256 * 2**20,
    check: Check = no_check,
) -> tuple[Tensor, Tensor]:
    """Distance of each state to the border of its semantic region, and the token beyond it.

    The region of token i is where no other token scores higher: a Voronoi cell (l2), its
    counterpart on the sphere (cosine), a polyhedral cone (matmul). All are intersections of
    half-spaces {r : f_i(r) ≥ f_j(r)} with f linear after what both sides share is dropped, so the
    distance to the border is the smallest distance to any of their walls:

    * cosine: asin(r̂·(b̂_i − b̂_j) / ‖b̂_i − b̂_j‖), an angle in radians in [0, π/2];
    * l2: (‖r − b_j‖² − ‖r − b_i‖²) / (2·‖b_i − b_j‖), a length;
    * matmul: (f_i − f_j) / ‖b_i − b_j‖, a length, f before the soft cap (which keeps the order).

    Exact over the whole vocabulary. The walls to the nearest tokens, and to those of the longest
    vectors, are tried first: any other wall is at least (gap to the last of the nearest) / (largest
    ‖b_i − b_j‖ that is left) away, and where that is further than the best of them, no other needs
    to be looked at. The rest goes through another product, of the distinct b_i with every b_j.
    Tokens whose vectors are b_i's own but for a thousandth (a copied row) make no wall.

    Args:
        regions: the nearest token of each state (n).
        geometry: the name of one that has a formula for its borders.
        near: the nearest tokens of the same states by the same geometry, whole vocabulary.

    Returns:
        distances (n), float32, at least 0; tokens beyond the nearest wall (n).

    Raises:
        OptionError: no formula for the borders of this geometry is known.
    """
    measure = geometry_of(geometry)
    bounds = measure.borders
    if bounds is None:
        raise OptionError(measure.no_border)
    n = len(states)
    if n == 0:
        return states.new_zeros(0), regions
    beyond = regions.clone()
    open_rows = torch.arange(n, device=states.device)
    if near is not None and near.ids.shape[1] > 2 and near.ids.shape[1] < frame.size:
        beyond, certain = _near_walls(frame, states, near, bounds, centred, budget_bytes // 2)
        open_rows = (~certain).nonzero().squeeze(1)
    if len(open_rows):
        beyond[open_rows] = _all_walls(
            frame, states[open_rows], regions[open_rows], bounds, centred, budget_bytes, check
        )
    return _distance(frame, states, regions, beyond, bounds, centred), beyond


_LONG: Final = 256
"""Longest vectors of a frame, to which every wall is looked at."""
_ROWS: Final = 64
"""States whose listed vectors are laid beside each other at once."""
_COPY: Final = 1e-3
"""Vectors closer than this share of their length are one and the same for a border."""


def _lengths(bounds: Borders, norms: Tensor) -> Tensor:
    """‖p_i‖ from ‖b_i‖: that of a direction is 1, or 0 where b_i is zero."""
    return (norms > 0).float() if bounds.directions else norms


def _near_walls(
    frame: Frame, states: Tensor, near: Reading, bounds: Borders, centred: bool, budget_bytes: int
) -> tuple[Tensor, Tensor]:
    """The nearest wall among listed tokens and those of the longest vectors, and whether no other
    can be nearer (n, n)."""
    columns = columns_of(frame, centred=centred)
    lengths = _lengths(bounds, columns.norms)
    long, longest = lengths.new_empty(0, dtype=torch.long), float(lengths.max())
    if not bounds.directions and frame.size > _LONG:
        # Some outliers would make the bound of all others a weak one.
        values, order = lengths.topk(_LONG + 1)
        long, longest = order[:-1], float(values[-1])
    k = near.ids.shape[1]
    # Of a row's k vectors: the float64 rows and products of the distinct ones, and three float32.
    step = max(1, budget_bytes // (28 * k * frame.width))
    tokens, certain = [], []
    for first in range(0, len(states), step):
        ids = near.ids[first : first + step]
        score = near.scores[first : first + step]
        unique, place = torch.unique(ids, return_inverse=True)  # neighbours share many of them
        flat = frame.vectors(unique)
        if centred:
            flat -= frame.mean
        points = flat.float().to(states.device)
        if bounds.directions:
            points *= columns.inverse[unique].unsqueeze(1)
        # By a few rows, whose k vectors find room in a cache.
        span = torch.cat([(points[p[:, :1]] - points[p]).norm(dim=2) for p in place.split(_ROWS)])
        own = lengths[ids[:, 0]]
        gap = (score[:, :1] - score) / bounds.slope
        wall = torch.where(span > (_COPY * own)[:, None], gap / span, torch.inf)
        if len(long):
            walls = _Walls(frame, states[first : first + step], ids[:, 0], bounds, centred)
            wall = torch.cat([wall, walls.to(long)], 1)
            ids = torch.cat([ids, long.expand(len(ids), -1)], 1)
        best, where = wall.min(1)
        certain.append(best <= gap[:, -1] / (own + longest))
        tokens.append(ids.gather(1, where[:, None]).squeeze(1))
    found = torch.cat(certain)
    # A soft cap bends the gaps, so they bound nothing.
    return torch.cat(tokens), found if frame.finish is None else torch.zeros_like(found)


class _Walls:
    """Some states' walls to whatever tokens (distances before `Borders.measure`)."""

    def __init__(
        self, frame: Frame, states: Tensor, own: Tensor, bounds: Borders, centred: bool
    ) -> None:
        columns = columns_of(frame, centred=centred)
        self.frame, self.own = frame, own
        self.rows = prepare_rows(frame, states, centred=centred)
        self.scale = columns.inverse if bounds.directions else None
        self.lengths = _lengths(bounds, columns.norms)
        self.lift = bounds.lift(columns.norms.square(), columns.bias)
        self.centre = frame.centre_scores() if centred else None
        self.square = float(frame.mean @ frame.mean)
        self.unique, self.place = torch.unique(own, return_inverse=True)
        vectors = frame.vectors(self.unique).to(states.device, torch.float32)
        self.queries = frame.queries(vectors)
        dots = products(self.rows, frame.gather(self.unique).float())
        self.dot = dots.gather(1, self.place[:, None])

    def to(self, part: slice | Tensor) -> Tensor:
        """To those tokens (n × c); infinite to the own one and its copies."""
        if isinstance(part, slice):
            block = self.frame.block(part.start, part.stop)
        else:
            block = self.frame.gather(part).float()
        # One product for both: few rows, and the block comes from memory once.
        both = torch.cat([self.rows.queries, self.queries]) @ block.T
        dots, between = both[: len(self.own)], both[len(self.own) :]  # r·b_j; b_i·b_j (distinct i)
        if self.rows.offset is not None:
            dots = dots - self.rows.offset
        if self.centre is not None:
            centre = self.centre
            between = between - centre[self.unique][:, None] - centre[part] + self.square
        between = 2 * between[self.place]
        own_length = self.lengths[self.own][:, None]
        if self.scale is None:
            gap = self.dot - dots
        else:
            own_scale = self.scale[self.own][:, None]
            gap = self.dot * own_scale - dots * self.scale[part]
            between = between * own_scale * self.scale[part]
        if self.lift is not None:
            gap = gap + self.lift[self.own][:, None] - self.lift[part]
        span = (own_length**2 + self.lengths[part] ** 2 - between).clamp_min(0).sqrt()
        wall = torch.where(span > _COPY * own_length, gap.clamp_min(0) / span, torch.inf)
        if isinstance(part, slice):
            inside = ((self.own >= part.start) & (self.own < part.stop)).nonzero().squeeze(1)
            wall[inside, self.own[inside] - part.start] = torch.inf
        else:
            wall = wall.masked_fill(self.own[:, None] == part, torch.inf)
        return wall


def _all_walls(
    frame: Frame,
    states: Tensor,
    regions: Tensor,
    bounds: Borders,
    centred: bool,
    budget_bytes: int,
    check: Check,
) -> Tensor:
    """The token beyond the nearest of all walls (n)."""
    n, v = len(states), frame.size
    # Half as many blocks again are alive here as in a reading.
    chunk, tile = tiling(n, v, frame.width, budget_bytes * 3 // 5, frame.device)
    found = []
    for first in range(0, n, tile):
        own = regions[first : first + tile]
        walls = _Walls(frame, states[first : first + tile], own, bounds, centred)
        best = torch.full((len(own),), torch.inf, device=states.device)
        token = own.clone()
        for start in range(0, v, chunk):
            check()
            nearest, where = walls.to(slice(start, min(start + chunk, v))).min(1)
            token = torch.where(nearest < best, where + start, token)
            best = torch.minimum(nearest, best)
        found.append(token)
    return torch.cat(found)


def _distance(
    frame: Frame, states: Tensor, own: Tensor, other: Tensor, bounds: Borders, centred: bool
) -> Tensor:
    """The distance to one wall each, in float64 from the vectors themselves (n).

    Near-equal bases make 2 − 2·cos a difference of near-equal numbers, too coarse in float32.
    """
    r = (states if centred else frame.place(states)).cpu().double()
    unique, place = torch.unique(torch.stack([own, other]), return_inverse=True)
    a, b = frame.vectors(unique)[place.cpu()]
    if centred:
        a, b = a - frame.mean, b - frame.mean
    if bounds.directions:
        r = bounds.points(r)
    bias = None if frame.bias is None else frame.bias.detach().cpu().double()
    of_a = bounds.lift(a.square().sum(1), None if bias is None else bias[own.cpu()])
    of_b = bounds.lift(b.square().sum(1), None if bias is None else bias[other.cpu()])
    a, b = bounds.points(a), bounds.points(b)
    gap = (r * (a - b)).sum(1)
    if of_a is not None and of_b is not None:
        gap = gap + (of_a - of_b)
    span = (a - b).norm(dim=1)
    wall = torch.where(span > 0, gap.clamp_min(0) / span, torch.inf)
    return bounds.measure(wall).float().to(states.device)
