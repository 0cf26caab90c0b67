"""The k nearest tokens, entropy and exact ranks of states, in one pass over the vocabulary.

:func:`read` runs over the vocabulary in chunks of scores (:mod:`engine.reading.similarity`) and
keeps what was asked only. It is differentiable with respect to the states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from engine.frames.frame import Frame
from engine.progress import Check, no_check
from engine.reading.geometries import GEOMETRIES, geometry_of
from engine.reading.geometries.geometry import Columns, Geometry, Rows
from engine.reading.similarity import columns_of, prepare_rows, products, tiling


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


def read(
    frame: Frame,
    states: Tensor,
    *,
    geometries: Iterable[str] = GEOMETRIES,
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
        geometries: by which, by their names.
        k: how many nearest tokens; at most v.
        temperatures: T per geometry; what is missing is the geometry's own.
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
    chosen = [geometry_of(name) for name in geometries]
    n, v = len(states), frame.size
    k = min(k, v)
    temps = {g.name: (temperatures or {}).get(g.name, g.temperature) for g in chosen}
    chunk, tile = tiling(n, v, frame.width, budget_bytes, frame.device)
    parts: list[dict[str, Reading]] = []
    for first in range(0, max(n, 1), tile):
        some = slice(first, min(first + tile, n))
        wanted = None if targets is None else targets[some]
        parts.append(
            _read_tile(
                frame,
                prepare_rows(frame, states[some], centred=centred, vectors=vectors),
                chosen,
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
    return {g.name: _join([p[g.name] for p in parts]) for g in chosen}


def _join(parts: list[Reading]) -> Reading:
    whole = {
        one.name: torch.cat([getattr(part, one.name) for part in parts])
        for one in fields(Reading)
        if one.name != "temperature"
    }
    return Reading(**whole, temperature=parts[0].temperature)


def _read_tile(
    frame: Frame,
    rows: Rows,
    geometries: list[Geometry],
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
    columns = columns_of(frame, centred=centred)
    if targets is None:
        targets = torch.empty((n, 0), dtype=torch.long, device=device)
    wanted = _target_scores(frame, geometries, rows, targets, columns)
    graph = torch.is_grad_enabled() and rows.queries.requires_grad
    scratch = Scratch(n, chunk, device, reuse=not graph)
    running = []
    for geometry, own in zip(geometries, wanted, strict=True):
        gain, _ = geometry.row_part(rows)
        cold = 1.0 / temperatures[geometry.name]
        running.append(
            Running(n, k, targets, own.detach(), cold if gain is None else gain * cold, scratch)
        )
    for start in range(0, v, chunk):
        check()
        stop = min(start + chunk, v)
        dots = products(rows, frame.block(start, stop), scratch.block(2, n, stop - start))
        hidden = None if allowed is None else ~allowed[start:stop]
        part = columns.at(slice(start, stop))
        for geometry, state in zip(geometries, running, strict=True):
            room = scratch.block(3, n, stop - start)
            state.take(geometry.bare(dots, part, room), start, hidden)
    return {
        g.name: _finish(state, own, temperatures[g.name], g.row_part(rows), allowed is None)
        for g, state, own in zip(geometries, running, wanted, strict=True)
    }


def _target_scores(
    frame: Frame, geometries: list[Geometry], rows: Rows, targets: Tensor, columns: Columns
) -> list[Tensor]:
    """Bare scores of the targets (n × m), by one small product with the distinct ones."""
    if targets.numel() == 0:
        return [torch.zeros(targets.shape, device=targets.device)] * len(geometries)
    unique, place = torch.unique(targets, return_inverse=True)
    dots = products(rows, frame.gather(unique).float())
    part = columns.at(unique)
    return [g.bare(dots, part, None).gather(1, place) for g in geometries]


def _finish(
    running: Running,
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


# --- while the vocabulary goes by ---

_BLOCKS: Final = 4
"""How many of them: two for sums, one for products, one for scores."""


class Scratch:
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


class Running:
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
        scratch: Scratch,
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
