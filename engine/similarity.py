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

:func:`read` runs over the vocabulary in chunks and keeps what was asked only; :func:`scores` gives
every score. Both are differentiable with respect to the states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor

from engine.errors import OptionError
from engine.frames import CHUNK, Check, Frame, no_check

Geometry = Literal["cosine", "l2", "matmul"]
GEOMETRIES: Final[tuple[Geometry, ...]] = ("cosine", "l2", "matmul")
DEFAULT_TEMPERATURE: Final[Mapping[str, float]] = {"cosine": 0.05, "l2": 1.0, "matmul": 1.0}
"""What a probability is taken at where nobody says otherwise. In units of the score."""

_BLOCKS: Final = 4
"""Of them, those that every chunk of a reading uses again."""
_CPU_CHUNK: Final = 1024
_CPU_TILE: Final = 512
"""Columns and rows of a block on the CPU: 2 MiB, which the passes after the product find in cache
(measured: a third of the time of blocks of 4096 × 832). An accelerator takes all rows at once."""
_TEMPORARIES: Final = 6
"""Blocks of rows × chunk that are alive at once, for the memory budget."""


@dataclass(frozen=True)
class Reading:
    """What n states say in one geometry on one frame."""

    ids: Tensor
    """The k nearest tokens, nearest first (n × k)."""
    scores: Tensor
    """Their scores (n × k)."""
    log_partition: Tensor
    """log Σ_i exp(score_i / T) over the whole vocabulary (n)."""
    entropy: Tensor
    """Of softmax(score / T), in nats, in [0, log v] (n)."""
    target_scores: Tensor
    """Scores of the tokens that were asked for (n × m)."""
    ranks: Tensor
    """1 + the number of tokens with a larger score than the target's (n × m)."""
    probabilities: Tensor
    """Of the k nearest tokens, softmax(score / T) over the whole vocabulary (n × k)."""
    target_probabilities: Tensor
    """Of the tokens that were asked for (n × m)."""
    temperature: float

    def nearest(self, k: int) -> Reading:
        """The same with the first k of the list."""
        return replace(
            self,
            ids=self.ids[:, :k],
            scores=self.scores[:, :k],
            probabilities=self.probabilities[:, :k],
        )


@dataclass(frozen=True)
class _Rows:
    """What the scores of a set of states need besides the product: one number per row."""

    queries: Tensor  # (n, d) float32
    norm: Tensor  # ‖r‖ (n, 1)
    square: Tensor  # ‖r‖² (n, 1)
    offset: Tensor | None  # r·b̄ (n, 1), where the frame is centred


def prepare_rows(frame: Frame, states: Tensor, *, centred: bool, vectors: bool = False) -> _Rows:
    """States as the products need them: placed in the frame, centred, times its matrix."""
    # A head bias moves every basis alike, so centred bases and states do not know of it.
    placed = (states if vectors or centred else frame.place(states)).float()
    wide = placed if placed.device.type == "mps" else placed.double()
    square = wide.square().sum(1, keepdim=True)
    offset = None
    if centred:
        offset = (wide @ frame.mean.to(wide.device, wide.dtype).unsqueeze(1)).float()
    norm = square.sqrt().float().clamp_min(torch.finfo(torch.float32).tiny)
    return _Rows(frame.queries(placed), norm, square.float(), offset)


def columns(frame: Frame, *, centred: bool) -> tuple[Tensor, Tensor]:
    """‖b_i‖, and 1/‖b_i‖ with 0 where the basis is zero (such a token is similar to nothing)."""
    norms = frame.centred_norms() if centred else frame.norms
    inverse = torch.where(norms > 0, 1 / norms.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
    return norms, inverse


def _score(
    frame: Frame,
    geometry: str,
    dots: Tensor,
    rows: _Rows,
    norms: Tensor,
    inverse: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Scores from products r·b_i (n × c), already centred where that was asked."""
    bare = _bare(frame, geometry, dots, norms, inverse, bias)
    gain, lift = _row_part(geometry, rows)
    if gain is not None:
        return bare * gain
    return bare if lift is None else bare + lift


def _bare(
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


def _row_part(geometry: str, rows: _Rows) -> tuple[Tensor | None, Tensor | None]:
    """What makes a bare score whole: a factor or a summand per row (n × 1)."""
    if geometry == "cosine":
        return 1 / rows.norm, None
    if geometry == "l2":
        return None, -rows.square
    return None, None


def products(
    frame: Frame, rows: _Rows, block: Tensor, centre: Tensor | None, out: Tensor | None = None
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


class _Scratch:
    """Blocks that every chunk uses again, so that no pass waits for fresh pages.

    Where gradients are wanted there are none: each pass makes its own block.
    """

    def __init__(self, n: int, chunk: int, device: torch.device, *, reuse: bool) -> None:
        self._kept = (
            [torch.empty(n * chunk, device=device) for _ in range(_BLOCKS)] if reuse else []
        )

    def block(self, which: int, n: int, width: int) -> Tensor | None:
        """Room for n × width numbers, or None where each pass makes its own."""
        return self._kept[which][: n * width].view(n, width) if self._kept else None


class _Running:
    """One geometry's answer while the vocabulary goes by in chunks of bare scores.

    What gradients must pass is kept out of place; ids and counts need none.
    """

    def __init__(
        self,
        n: int,
        k: int,
        targets: Tensor,
        wanted: Tensor,
        cold: Tensor | float,
        scratch: _Scratch,
    ) -> None:
        device = targets.device
        self.k, self.targets, self.wanted = k, targets, wanted
        self.cold = cold
        """1/T, or a factor per row that turns bare scores into score/T (n × 1)."""
        self.best = torch.full((n, k), -torch.inf, device=device)
        self.ids = torch.full((n, k), -1, dtype=torch.long, device=device)
        self.peak = torch.full((n, 1), -torch.inf, device=device)
        self.mass = torch.zeros((n, 1), device=device)
        self.moment = torch.zeros((n, 1), device=device)
        """Σ exp(e)·e with e = score/T − peak ≤ 0."""
        self.above = torch.zeros(targets.shape, dtype=torch.long, device=device)
        self._scratch = scratch

    def take(self, block: Tensor, start: int, hidden: Tensor | None) -> None:
        """Carry everything on by one chunk."""
        with torch.no_grad():
            listed = block if hidden is None else block.masked_fill(hidden, -torch.inf)
            groups = _group_peaks(listed)
            peaks = groups.amax(1, keepdim=True)
            if hidden is not None:
                peaks = block.amax(1, keepdim=True)
        self._partition(block, peaks)
        with torch.no_grad():
            self._count(block, start)
        self._keep_top(
            block if hidden is None else block.masked_fill(hidden, -torch.inf), groups, start
        )

    def _partition(self, block: Tensor, peaks: Tensor) -> None:
        """log Σ exp and the mean energy below the running maximum, which no size can overflow.

        The energy is kept relative to the maximum: entropy is the difference of two numbers that
        would each be as large as the scores.
        """
        plain = isinstance(self.cold, float) and self.cold == 1.0
        # Detached: what is taken off and added again has no slope.
        cold = self.cold.detach() if isinstance(self.cold, Tensor) else self.cold
        peak = torch.maximum(self.peak, peaks * cold)
        room, more = (self._scratch.block(i, *block.shape) for i in (0, 1))
        if plain:
            energy = torch.sub(block, peak, out=room)
        elif room is None:
            energy = block * self.cold - peak
        else:
            energy = torch.mul(block, self.cold, out=room).sub_(peak)
        weights = torch.exp(energy, out=more)
        # Where the maximum rises by s, e falls by s: Σ exp(e − s)(e − s) from the sums at hand.
        step = torch.where(self.peak > -torch.inf, self.peak - peak, 0.0)
        fade = step.exp()
        mass = weights.sum(1, keepdim=True)
        product = torch.mul(weights, energy, out=room)
        self.moment = fade * (self.moment + step * self.mass) + product.sum(1, keepdim=True)
        self.mass = self.mass * fade + mass
        self.peak = peak

    def _keep_top(self, block: Tensor, groups: Tensor, start: int) -> None:
        """Merge the chunk's best into the best so far.

        A score can be among the k best only where its group's maximum beats the k-th best so far;
        after the first chunks few do, and only those are looked at.
        """
        n, width = block.shape
        with torch.no_grad():
            last = self.best[:, -1:]
            row, column = (groups > last).nonzero(as_tuple=True)
            if len(row) == 0:
                return
            dense = len(row) * 4 > groups.numel()
            if not dense:
                count = groups.shape[1]
                member = torch.arange(0, width, count, device=block.device)
                where = column[:, None] + member  # (m, members of a group)
                short = where >= width
                where = where.clamp_max(width - 1)
                found = (block[row[:, None], where] > last[row]) & ~short
                pair, inside = found.nonzero(as_tuple=True)
                if len(pair) == 0:
                    return
                row, where = row[pair], where[pair, inside]
                per_row = torch.bincount(row, minlength=n)
                begin = per_row.cumsum(0) - per_row
                slot = torch.arange(len(row), device=row.device) - begin[row]
                most = int(per_row.max())
                dense = most * 2 > width
        if dense:
            values, where = block.topk(min(self.k, width), dim=1)
        else:
            values = torch.full((n, most), -torch.inf, device=block.device)
            values = values.index_put((row, slot), block[row, where])
            token = torch.zeros((n, most), dtype=torch.long, device=block.device)
            where = token.index_put_((row, slot), where)
        merged = torch.cat([self.best, values], 1)
        # A hidden token has no place in the list, even where too few are left to fill it.
        found_ids = (where + start).masked_fill(values == -torch.inf, -1)
        merged_ids = torch.cat([self.ids, found_ids], 1)
        self.best, order = merged.topk(self.k, dim=1)
        self.ids = merged_ids.gather(1, order)

    def _count(self, block: Tensor, start: int) -> None:
        """Count the scores above the targets', never a target's own."""
        n, width = block.shape
        room = self._scratch.block(0, n, width)
        for j in range(self.targets.shape[1]):
            target, threshold = self.targets[:, j], self.wanted[:, j : j + 1]
            # Ones and zeros as float32: their sum is exact below 2²⁴ and far faster than of bools.
            if room is None:
                self.above[:, j] += (block > threshold).sum(1)
            else:
                self.above[:, j] += torch.gt(block, threshold, out=room).sum(1).long()
            rows = ((target >= start) & (target < start + width)).nonzero().squeeze(1)
            own = block[rows, target[rows] - start]
            self.above[rows, j] -= (own > threshold[rows, 0]).long()


_GROUPS: Final = 32
"""Groups that a chunk is parted into when the best are looked for."""


def _group_peaks(block: Tensor) -> Tensor:
    """The maximum of each group of columns {c, c + g, c + 2g …}, g = `_GROUPS` (n × g)."""
    n, width = block.shape
    g = min(_GROUPS, width)
    whole = width // g * g
    peaks: Tensor = block[:, :whole].reshape(n, whole // g, g).amax(1)
    if whole < width:
        rest = width - whole
        peaks[:, :rest] = torch.maximum(peaks[:, :rest], block[:, whole:])
    return peaks


def read(
    frame: Frame,
    states: Tensor,
    *,
    geometries: Sequence[str] = GEOMETRIES,
    k: int = 10,
    temperatures: Mapping[str, float] | None = None,
    targets: Tensor | None = None,
    centred: bool = False,
    allowed: Tensor | None = None,
    vectors: bool = False,
    budget_bytes: int = 256 * 2**20,
    check: Check = no_check,
) -> dict[str, Reading]:
    """The k nearest tokens, entropy and exact ranks of n states, in one pass over the vocabulary.

    One product with the frame's rows serves all geometries.

    Args:
        frame: b_1 … b_v.
        states: n × d on the frame's device.
        geometries: which of the three.
        k: how many nearest tokens; at most v.
        temperatures: T per geometry; what is missing is :data:`DEFAULT_TEMPERATURE`.
        targets: token ids whose ranks and scores are wanted (n × m).
        centred: subtract the mean basis from each basis.
        allowed: True for tokens that may stand among the k nearest (v); probabilities, entropy
            and ranks stay those of the whole vocabulary.
        vectors: the states are vectors of the frame itself, so a head bias does not move them.
        budget_bytes: an upper limit for the temporaries of this call, whatever v and n.
        check: called once per chunk; raises to stop.

    Returns:
        A reading per geometry. Equal scores come in no promised order.
    """
    for geometry in geometries:
        check_geometry(geometry)
    n, v = len(states), frame.size
    k = min(k, v)
    temps = {g: (temperatures or {}).get(g, DEFAULT_TEMPERATURE[g]) for g in geometries}
    chunk, tile = tiling(n, v, frame.width, budget_bytes, frame.device)
    parts: list[dict[str, Reading]] = []
    for first in range(0, max(n, 1), tile):
        some = slice(first, min(first + tile, n))
        wanted = None if targets is None else targets[some]
        parts.append(
            _read_tile(
                frame,
                prepare_rows(frame, states[some], centred=centred, vectors=vectors),
                tuple(geometries),
                k,
                temps,
                wanted,
                centred,
                allowed,
                chunk,
                check,
            )
        )
    if len(parts) == 1:
        return parts[0]
    return {g: _join([p[g] for p in parts]) for g in geometries}


def tiling(n: int, v: int, d: int, budget_bytes: int, device: torch.device) -> tuple[int, int]:
    """Columns and rows per block, so that the temporaries stay within the budget."""
    cpu = device.type == "cpu"
    chunk = min(v, _CPU_CHUNK if cpu else 4096)
    while chunk > 256 and chunk * d * 4 > budget_bytes // 2:
        chunk //= 2
    left = max(budget_bytes - chunk * d * 4, budget_bytes // 2)
    tile = max(1, left // (4 * (_TEMPORARIES * chunk + 8 * d)))
    if cpu and tile > _CPU_TILE:
        tile = -(-n // -(-n // _CPU_TILE)) if n else 1  # tiles of about the same size
    return chunk, min(n, tile) if n else 1


def _join(parts: list[Reading]) -> Reading:
    return Reading(
        ids=torch.cat([p.ids for p in parts]),
        scores=torch.cat([p.scores for p in parts]),
        log_partition=torch.cat([p.log_partition for p in parts]),
        entropy=torch.cat([p.entropy for p in parts]),
        target_scores=torch.cat([p.target_scores for p in parts]),
        ranks=torch.cat([p.ranks for p in parts]),
        probabilities=torch.cat([p.probabilities for p in parts]),
        target_probabilities=torch.cat([p.target_probabilities for p in parts]),
        temperature=parts[0].temperature,
    )


def _read_tile(
    frame: Frame,
    rows: _Rows,
    geometries: tuple[str, ...],
    k: int,
    temperatures: Mapping[str, float],
    targets: Tensor | None,
    centred: bool,
    allowed: Tensor | None,
    chunk: int,
    check: Check,
) -> dict[str, Reading]:
    n, v = len(rows.queries), frame.size
    device = frame.device
    norms, inverse = columns(frame, centred=centred)
    centre = frame.centre_scores() if centred else None
    bias = None if frame.bias is None else frame.bias.detach().float()
    if targets is None:
        targets = torch.empty((n, 0), dtype=torch.long, device=device)
    wanted = _target_scores(frame, geometries, rows, targets, norms, inverse, bias, centre)
    graph = torch.is_grad_enabled() and rows.queries.requires_grad
    scratch = _Scratch(n, chunk, device, reuse=not graph)
    running = {}
    for geometry in geometries:
        gain, _ = _row_part(geometry, rows)
        cold = 1.0 / temperatures[geometry]
        running[geometry] = _Running(
            n, k, targets, wanted[geometry].detach(), cold if gain is None else gain * cold, scratch
        )
    for start in range(0, v, chunk):
        check()
        stop = min(start + chunk, v)
        dots = products(
            frame, rows, frame.block(start, stop), centre, scratch.block(2, n, stop - start)
        )
        hidden = None if allowed is None else ~allowed[start:stop]
        part = None if bias is None else bias[start:stop]
        for geometry, state in running.items():
            room = scratch.block(3, n, stop - start)
            block = _bare(frame, geometry, dots, norms[start:stop], inverse[start:stop], part, room)
            state.take(block, start, hidden)
    return {
        g: _finish(running[g], wanted[g], temperatures[g], _row_part(g, rows), allowed is None)
        for g in geometries
    }


def _target_scores(
    frame: Frame,
    geometries: tuple[str, ...],
    rows: _Rows,
    targets: Tensor,
    norms: Tensor,
    inverse: Tensor,
    bias: Tensor | None,
    centre: Tensor | None,
) -> dict[str, Tensor]:
    """Bare scores of the targets (n × m), by one small product with the distinct ones."""
    if targets.numel() == 0:
        empty = torch.zeros(targets.shape, device=targets.device)
        return dict.fromkeys(geometries, empty)
    unique, place = torch.unique(targets, return_inverse=True)
    dots = products(frame, rows, gather_rows(frame, unique), centre)
    part = None if bias is None else bias[unique]
    return {
        g: _bare(frame, g, dots, norms[unique], inverse[unique], part).gather(1, place)
        for g in geometries
    }


def _finish(
    running: _Running,
    wanted: Tensor,
    temperature: float,
    row_part: tuple[Tensor | None, Tensor | None],
    listed: bool,
) -> Reading:
    log_partition = running.peak + running.mass.log()
    entropy = running.mass.log() - running.moment / running.mass
    ranks = 1 + running.above
    best, targets = running.best, running.targets
    ids = torch.where(best > -torch.inf, running.ids, -1)  # fewer allowed tokens than places
    if listed and targets.shape[1]:
        # A target that stands in the list has the list's own rank: the two small products may
        # round differently where scores are all but equal.
        with torch.no_grad():
            same = ids.unsqueeze(2) == targets.unsqueeze(1)  # (n, k, m)
            own = torch.where(same, best.unsqueeze(2), 0.0).sum(1)
            above = (best.unsqueeze(2) > own.unsqueeze(1)).sum(1)
            ranks = torch.where(same.any(1), 1 + above, ranks)
    # Probabilities from bare scores: ‖r‖² may be too large to be added and taken off again.
    log_mass = running.mass.log()
    probabilities = (best * running.cold - running.peak - log_mass).exp()
    target_probabilities = (wanted * running.cold - running.peak - log_mass).exp()
    gain, lift = row_part
    if gain is not None:
        best, wanted = best * gain, wanted * gain
    if lift is not None:
        best, wanted = best + lift, wanted + lift
        log_partition = log_partition + lift / temperature
    return Reading(
        ids=ids,
        scores=best,
        log_partition=log_partition.squeeze(1),
        entropy=entropy.squeeze(1).clamp_min(0),
        target_scores=wanted,
        ranks=ranks,
        probabilities=probabilities,
        target_probabilities=target_probabilities,
        temperature=temperature,
    )


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
        peak = torch.full((layers + 1, width), -torch.inf, device=rows.device)
        mass = torch.zeros_like(peak)
        cross = torch.zeros_like(peak)  # Σ exp(x_ref − peak_ref)·x_l, for every l
        for start in range(0, v, chunk):
            check()
            product = rows @ frame.block(start, min(start + chunk, v)).T
            if bias is not None:
                product = product + bias[start : start + chunk]
            if frame.finish is not None:
                product = frame.finish(product)
            logits = product.view(layers + 1, width, -1)
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
