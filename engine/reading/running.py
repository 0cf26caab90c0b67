"""One geometry's answer while the vocabulary goes by: the best, the sums, the counts.

Used by :func:`engine.reading.read.read`.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.reading.exact import MOST, Exact
from engine.reading.geometries.geometry import Geometry

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
        fine: Tensor,
        cold: Tensor | float,
        scratch: Scratch,
    ) -> None:
        device = targets.device
        self.k, self.targets, self.wanted = k, targets, wanted
        self.low, self.high = wanted - fine, wanted + fine
        """Between these float32 does not say which is larger (n × m)."""
        self.near: list[tuple[Tensor, Tensor, Tensor]] = []
        """What stands there: (row, token, which target)."""
        self.cold = cold
        """1/T, or a factor per row that turns bare scores into score/T (n × 1)."""
        self.best = torch.full((n, k), -torch.inf, device=device)
        self.ids = torch.full((n, k), -1, dtype=torch.long, device=device)
        self.crest = torch.full((n, 1), -torch.inf, device=device)
        """The largest bare score."""
        self.mass = torch.zeros((n, 1), device=device)
        self.moment = torch.zeros((n, 1), device=device)
        """Σ exp(e)·e with e = (bare score − crest)·cold ≤ 0."""
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
        # Detached: what is taken off and added again has no slope.
        crest = torch.maximum(self.crest, peaks.detach())
        room, more = (self._scratch.block(i, *block.shape) for i in (0, 1))
        energy = torch.sub(block, crest, out=room)
        if not (isinstance(self.cold, float) and self.cold == 1.0):
            energy = torch.mul(energy, self.cold, out=room)
        weights = torch.exp(energy, out=more)
        # Where the maximum rises by s, e falls by s: Σ exp(e − s)(e − s) from the sums at hand.
        step = torch.where(self.crest > -torch.inf, self.crest - crest, 0.0) * self.cold
        fade = step.exp()
        mass = weights.sum(1, keepdim=True)
        product = torch.mul(weights, energy, out=room)
        self.moment = fade * (self.moment + step * self.mass) + product.sum(1, keepdim=True)
        self.mass = self.mass * fade + mass
        self.crest = crest

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
        """Count the scores above the targets', never a target's own, and note those too near."""
        n, width = block.shape
        room = self._scratch.block(0, n, width)

        def above(threshold: Tensor) -> Tensor:
            # Ones and zeros as float32: their sum is exact below 2²⁴, far faster than of bools.
            if room is None:
                return (block > threshold).sum(1)
            return torch.gt(block, threshold, out=room).sum(1).long()

        for j in range(self.targets.shape[1]):
            target, low, high = self.targets[:, j], self.low[:, j : j + 1], self.high[:, j : j + 1]
            surely, perhaps = above(high), above(low)
            rows = ((target >= start) & (target < start + width)).nonzero().squeeze(1)
            own = block[rows, target[rows] - start]
            surely[rows] -= (own > high[rows, 0]).long()
            perhaps[rows] -= (own > low[rows, 0]).long()
            self._counted(block, start, j, surely, perhaps)

    def _counted(self, block: Tensor, start: int, j: int, surely: Tensor, perhaps: Tensor) -> None:
        """Of target j so many are above `high` and `low` (n each), the target itself left out."""
        target, low, high = self.targets[:, j], self.low[:, j : j + 1], self.high[:, j : j + 1]
        between = perhaps - surely
        self.above[:, j] += surely
        some = ((between > 0) & (between <= MOST)).nonzero().squeeze(1)
        if len(some):
            picked = block[some]
            found = (picked > low[some]) & (picked <= high[some])
            row, column = found.nonzero(as_tuple=True)
            token, row = column + start, some[row]
            other = token != target[row]
            self.near.append((row[other], token[other], torch.full_like(row[other], j)))
        many = (between > MOST).nonzero().squeeze(1)
        if len(many):
            thick = (block[many] > self.wanted[many, j : j + 1]).sum(1)
            self.above[many, j] += thick - surely[many]

    @torch.no_grad()
    def settle(self, geometry: Geometry, exact: Exact) -> None:
        """Decide what was too near, in float64: ranks, and the order of the list."""
        if self.near:
            row, token, j = (torch.cat(parts) for parts in zip(*self.near, strict=True))
            both = torch.cat([token, self.targets[row, j]])
            theirs, own = exact.bare(geometry, row.repeat(2), both).chunk(2)
            larger = (theirs > own).to(self.above.device).long()
            self.above.view(-1).index_add_(0, row * self.targets.shape[1] + j, larger)
        if self.targets.shape[1] == 0 or self.k < 2 or self.best.requires_grad:
            return
        fine = (self.high - self.low).amax(1, keepdim=True)
        gaps = self.best[:, :-1] - self.best[:, 1:]
        near = (gaps <= fine) & (self.ids[:, 1:] >= 0)
        rows = near.any(1).nonzero().squeeze(1)
        if not len(rows):
            return
        ids, near = self.ids[rows], near[rows]
        again = self.best[rows].double().cpu()
        # Of neighbours that are too near either is computed again; the others stand apart as it is.
        row, place = (pad(near, (0, 1)) | pad(near, (1, 0))).nonzero(as_tuple=True)
        exactly = exact.bare(geometry, rows[row], ids[row, place])
        again[row.cpu(), place.cpu()] = exactly
        order = again.argsort(dim=1, descending=True, stable=True).to(ids.device)
        self.ids[rows] = ids.gather(1, order)
        self.best[rows] = self.best[rows].gather(1, order)


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
