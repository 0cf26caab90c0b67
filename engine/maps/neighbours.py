"""Exact neighbours in the model's own space, and how alike two layers are (linear CKA).

Knows nothing about pictures: everything here is computed on vectors of full width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from engine.errors import OptionError, shorten
from engine.json_number import Plain
from engine.maps.arrays import Doubles, Floats, Ints, Longs
from engine.maps.points import KINDS, MapPoints
from engine.progress import Check, no_check

METRICS: Final = ("cosine", "l2")
_ROWS = 512
_SPARE = 8
"""Candidates beyond k that are looked at again in float64."""
_FEW = 4
"""Dimensions up to which differences are squared one by one."""
_MIDDLE = 512
"""Rows whose median is taken for the middle."""
_SCAN = 4096
_GRAMS = 64 * 2**20
"""Bytes of the Gram matrices that are held at once."""
_BYTES = 16 * 2**20
"""Of a block: memory of larger ones is given back to the system and fetched anew every time."""


def check_metric(metric: str) -> None:
    """Refuse a metric that does not exist."""
    if metric not in METRICS:
        raise OptionError(f"metric must be one of {', '.join(METRICS)}; got {shorten(metric)!r}.")


def distance_blocks(
    vectors: Floats, queries: Longs, check: Check = no_check
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Squared distances of some points to all points, a block of queries at a time.

    ‖a‖² + ‖b‖² − 2a·b of vectors minus their middle (which keeps the difference of large numbers
    small), float32, clamped at 0. The distance of a point to itself is infinite.

    Args:
        vectors: n × d.
        queries: indices of rows (m).

    Yields:
        Which queries, and their squared distances (block × n).
    """
    # The median of some rows, not the mean: one far point would pull the mean away from the bulk.
    middle = np.median(vectors[:: max(1, len(vectors) // _MIDDLE)], axis=0).astype(np.float32)
    x = torch.from_numpy(vectors - middle)
    square = torch.linalg.vecdot(x, x)
    step = block_rows(len(x))
    for start in range(0, len(queries), step):
        check()
        some = torch.from_numpy(queries[start : start + step])
        if x.shape[1] <= _FEW:
            # On a map a far point makes the products huge and near distances small: no shortcut.
            block = torch.zeros(len(some), len(x))
            for column in x.T:
                block += (column[some].unsqueeze(1) - column).square_()
        else:
            block = torch.addmm(square.unsqueeze(0), x[some], x.T, alpha=-2)
            block += square[some].unsqueeze(1)
            block.clamp_min_(0)
        block[torch.arange(len(some)), some] = torch.inf
        yield slice(start, start + len(some)), block


def block_rows(n: int) -> int:
    """Queries whose distances to n points are held at once."""
    return max(16, min(_ROWS, _BYTES // (4 * max(n, 1))))


def nearest(
    vectors: Floats, queries: Longs, k: int, check: Check = no_check
) -> tuple[Ints, Floats]:
    """The k nearest other points of each query by Euclidean distance, nearest first: exact.

    The k + 8 best by float32 are measured again in float64.

    Returns:
        Indices and distances (m × k).
    """
    n = len(vectors)
    k = min(k, n - 1)
    wide = min(k + _SPARE, n - 1)
    ids = np.empty((len(queries), k), dtype=np.int32)
    distances = np.empty((len(queries), k), dtype=np.float32)
    if k < 1:
        return ids, distances
    for rows, block in distance_blocks(vectors, queries, check):
        found = block.topk(wide, dim=1, largest=False).indices.numpy()
        a = vectors[queries[rows]].astype(np.float64)
        exact = np.linalg.norm(vectors[found].astype(np.float64) - a[:, None], axis=2)
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        ids[rows] = np.take_along_axis(found, order, axis=1)
        distances[rows] = np.take_along_axis(exact, order, axis=1)
    return ids, distances


def overlap(a: Ints | Longs, b: Ints | Longs) -> Ints:
    """How many of each row's neighbours two lists share (m)."""
    out = np.zeros(len(a), dtype=np.int32)
    for column in b.T:
        out += (a == column[:, None]).any(axis=1)
    return out


def jaccard(a: Ints, b: Ints) -> Floats:
    """|A ∩ B| / |A ∪ B| of each row's neighbours, in [0, 1] (m)."""
    shared = overlap(a, b)
    out: Floats = (shared / np.maximum(a.shape[1] + b.shape[1] - shared, 1)).astype(np.float32)
    return out


@dataclass(frozen=True)
class Near(Plain):
    """A neighbour of a point among the points of the map, in the model's own space."""

    index: int
    kind: str
    id: int | None
    label: str
    distance: float
    """1 − cosine in [0, 2], or a Euclidean distance."""


@dataclass(frozen=True)
class NearBasis:
    """A basis near a point, of the whole vocabulary."""

    id: int
    label: str
    score: float
    """Cosine, or minus the squared distance."""


@dataclass(frozen=True)
class Neighbours(Plain):
    """The neighbourhood of one point in the model's own space, before any preprocessing."""

    index: int
    label: str
    layer: int
    metric: str
    k: int
    neighbours: tuple[Near, ...]
    """Among the points of the map, nearest first."""
    bases: tuple[NearBasis, ...]
    """Among all bases of the frame, nearest first."""
    layer_b: int | None = None
    gained: tuple[Near, ...] = ()
    """Near at `layer_b` and not at `layer`; distances are those at `layer_b`."""
    lost: tuple[Near, ...] = ()
    """Near at `layer` and not at `layer_b`."""
    jaccard: float | None = None
    """Shared neighbours over all neighbours of the two layers, in [0, 1]."""


def near_point(
    parts: Sequence[Floats], points: MapPoints, index: int, k: int, metric: str, check: Check
) -> tuple[Near, ...]:
    """The k nearest other points of one point.

    All points are measured in float32, the k + 8 best again in float64.

    Args:
        parts: their vectors as they are in the model, in the order of the points (Σ n × d).
        metric: ``cosine`` or ``l2``.

    Returns:
        Nearest first; none where the point itself is not finite.
    """
    check_metric(metric)
    starts = np.cumsum([0, *(len(part) for part in parts)])
    own = _row(parts, starts, index)
    if not np.isfinite(own).all():
        return ()
    rough = np.concatenate([_scan(part, own, metric, check) for part in parts])
    rough[np.isnan(rough)] = np.inf  # a state that is not finite is nobody's neighbour
    rough[index] = np.inf
    others = int(np.isfinite(rough).sum())
    k = min(k, others)
    wide = min(k + _SPARE, others)
    if k < 1:
        return ()
    best = np.argpartition(rough, wide - 1)[:wide]
    exact = np.array([_distance(own, _row(parts, starts, int(i)), metric) for i in best])
    out = []
    for place in np.argsort(exact, kind="stable")[:k]:
        i = int(best[place])
        kind = KINDS[points.kind[i]]
        out.append(Near(i, kind, points.id(i), points.label(i), float(exact[place])))
    return tuple(out)


def _row(parts: Sequence[Floats], starts: Longs, i: int) -> Doubles:
    which = int(np.searchsorted(starts, i, side="right")) - 1
    row: Doubles = parts[which][i - starts[which]].astype(np.float64)
    return row


def _scan(x: Floats, own: Doubles, metric: str, check: Check) -> Floats:
    """What orders points by distance from `own`, a block at a time: no copy of all is made."""
    out = np.empty(len(x), dtype=np.float32)
    q = own.astype(np.float32)
    for start in range(0, len(x), _SCAN):
        check()
        block = x[start : start + _SCAN]
        if metric == "cosine":
            norms = np.sqrt(np.einsum("ij,ij->i", block, block))
            out[start : start + len(block)] = -(block @ q) / np.where(norms > 0, norms, np.inf)
        else:
            gap = block - q
            out[start : start + len(block)] = np.einsum("ij,ij->i", gap, gap)
    return out


def _distance(a: Doubles, b: Doubles, metric: str) -> float:
    """1 − cosine, 1 where one is zero; or a length."""
    if metric == "l2":
        return float(np.linalg.norm(a - b))
    bottom = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 1 - float(a @ b) / bottom if bottom > 0 else 1.0


# --- layers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cka(Plain):
    """How alike the layers are: linear CKA of the same states at each of them."""

    layers: tuple[int, ...]
    values: Doubles
    """layer × layer, in [0, 1]; 1 is the same up to rotation and one scale."""
    without: Doubles
    """The same without each layer's `dropped` dimensions of largest variance."""
    dropped: int
    n: int
    """States compared."""
    of_what: str
    note: str

    @property
    def sentence(self) -> str:
        """What was compared."""
        return f"Linear CKA of {self.of_what}, of every two layers."


def linear_cka(a: Floats | Doubles, b: Floats | Doubles) -> float:
    """‖AᵀB‖² / (‖AᵀA‖·‖BᵀB‖) of centred columns (Kornblith et al. 2019, eq. for linear CKA).

    In [0, 1]; unchanged by rotations and by one scale of either side. NaN where one side does not
    vary. Feature-space form where there are fewer dimensions than states, else the equal form with
    Gram matrices of the states.

    Args:
        a: states at one layer (n × d).
        b: the same states at another (n × e).
    """
    x, y = _centred(a), _centred(b)
    return _cka(x, y, _self_norm(x), _self_norm(y))


def cka_matrices(
    stacks: Sequence[Floats], dropped: int, check: Check = no_check
) -> tuple[Doubles, Doubles]:
    """:func:`linear_cka` of every pair of layers, and the same without each layer's `dropped`
    dimensions of largest variance; float64.

    ‖X_iᵀX_j‖² is tr(K_i·K_j) with the Gram matrices K = XXᵀ of the states: one of them for each
    layer, where products of dimensions are one for each pair. Fewer operations decide which.

    Args:
        stacks: the same states at each layer (each n × d).
        dropped: at least one dimension stays.
    """
    centred = [_centred(x) for x in stacks]
    left_out = [_largest(x, dropped) for x in stacks]
    n, d, layers = len(centred[0]), centred[0].shape[1], len(centred)
    sums = _by_states if 2 * n <= layers * d else _by_dimensions
    whole, without = (_scaled(one) for one in sums(centred, left_out, check))
    return whole, without


def _by_states(centred: list[Doubles], left_out: list[Longs], check: Check) -> list[Doubles]:
    """‖X_iᵀX_j‖² of all pairs, with all dimensions and without some, from Gram matrices of the
    states: a band of rows of all layers at a time, of which the square on the diagonal counts once
    and what is right of it twice."""
    n, layers = len(centred[0]), len(centred)
    step = min(n, max(1, _GRAMS // (16 * n * layers)))
    room = torch.empty(2, layers * step * n, dtype=torch.float64)
    out = [torch.zeros(layers, layers, dtype=torch.float64) for _ in room]
    for start in range(0, n, step):
        check()
        stop = min(start + step, n)
        shape = layers, stop - start, n - start
        whole, without = (one[: math.prod(shape)].view(shape) for one in room)
        for i, (given, dims) in enumerate(zip(centred, left_out, strict=True)):
            x = torch.from_numpy(given[start:])
            few = x[:, dims]
            torch.mm(x[: shape[1]], x.T, out=whole[i])
            torch.addmm(whole[i], few[: shape[1]], few.T, alpha=-1, out=without[i])
        for total, band in zip(out, (whole, without), strict=True):
            flat, square = band.reshape(layers, -1), band[:, :, : shape[1]].reshape(layers, -1)
            total += 2 * (flat @ flat.T) - square @ square.T
    return [total.numpy() for total in out]


def _by_dimensions(centred: list[Doubles], left_out: list[Longs], check: Check) -> list[Doubles]:
    """The same from products of dimensions, a pair at a time."""
    layers = len(centred)
    out = [np.zeros((layers, layers)), np.zeros((layers, layers))]
    for i, x in enumerate(centred):
        for j in range(i + 1):
            check()
            square = (x.T @ centred[j]) ** 2
            out[0][i, j] = out[0][j, i] = square.sum()
            square[left_out[i]] = 0
            square[:, left_out[j]] = 0
            out[1][i, j] = out[1][j, i] = square.sum()
    return out


def _scaled(sums: Doubles) -> Doubles:
    """‖X_iᵀX_j‖² over the layers' own; NaN where a layer does not vary."""
    own = np.sqrt(np.diag(sums))
    bottom = np.outer(own, own)
    out: Doubles = np.full(sums.shape, np.nan)
    np.divide(sums, bottom, out=out, where=bottom > 0)
    np.fill_diagonal(out, np.where(own > 0, 1.0, np.nan))
    return out


def _largest(vectors: Floats, count: int) -> Longs:
    """The `count` dimensions of largest variance; one at least is none of them."""
    order: Longs = np.argsort(vectors.var(axis=0, dtype=np.float64))
    return order[max(1, vectors.shape[1] - count) :]


def _centred(x: Floats | Doubles) -> Doubles:
    y: Doubles = x.astype(np.float64)
    y -= y.mean(axis=0)
    return y


def _self_norm(x: Doubles) -> float:
    small = x.T @ x if x.shape[1] <= len(x) else x @ x.T
    return float(np.linalg.norm(small))


def _cka(x: Doubles, y: Doubles, own_x: float, own_y: float) -> float:
    if own_x == 0 or own_y == 0:
        return float("nan")
    if max(x.shape[1], y.shape[1]) <= len(x):
        top = float(np.linalg.norm(x.T @ y)) ** 2
    else:
        top = float(np.sum((x @ x.T) * (y @ y.T)))
    return top / (own_x * own_y)
