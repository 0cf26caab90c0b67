"""Where the passes over a block are compiled ones, and how threads share them.

Used by :func:`engine.reading.read.read` and :func:`engine.reading.similarity.divergence` on the
CPU, where no gradient is wanted and the reading is large enough to be worth it. Accelerators, small
readings and gradients take torch's own passes, which give the same but for the last digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.reading.exact import Exact
from engine.reading.geometries.geometry import Geometry
from engine.reading.running import Running, Scratch

LEAST: Final = 2**20
"""Scores below which Numba is not even imported."""
_ROOM: Final = 32
"""Near ties of a target that are noted in passing; what is more is looked for block by block."""
_NOBODY: Final[NDArray[np.bool_]] = np.zeros(0, np.bool_)


def worth_it(scores: int, *given: Tensor) -> bool:
    """Whether so many scores, made from these tensors, go through the compiled passes."""
    if scores < LEAST or any(one.device.type != "cpu" for one in given):
        return False
    return not (torch.is_grad_enabled() and any(one.requires_grad for one in given))


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="reading")


def _spread(work: Callable[..., Any], rows: int, *given: Any) -> list[Any]:
    """A kernel over all rows, by as many threads as torch has; what each part gives."""
    threads = min(torch.get_num_threads(), rows)
    if threads < 2:
        return [work(*given, 0, rows)]
    ends = [rows * i // threads for i in range(threads + 1)]
    others = [
        _helpers(threads - 1).submit(work, *given, *part) for part in itertools.pairwise(ends[1:])
    ]
    return [work(*given, ends[0], ends[1]), *(one.result() for one in others)]


class Fused(Running):
    """`Running` whose passes over a block are one."""

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
        super().__init__(n, k, targets, wanted, fine, cold, scratch)
        warmth = torch.as_tensor(cold, dtype=torch.float32).expand(n, 1)
        self._counts = torch.zeros((2, *targets.shape), dtype=torch.int32)
        surely, perhaps = self._counts.numpy()
        self._noted = torch.zeros(targets.shape, dtype=torch.int32)
        self._close = torch.empty((*targets.shape, _ROOM), dtype=torch.int32)
        sums = (self.crest, self.mass, self.moment)
        self._state = (
            warmth.contiguous().view(-1).numpy(),
            *(one.view(-1).numpy() for one in sums),
            *(one.contiguous().numpy() for one in (self.low, self.high, targets)),
            self.above.numpy(),
            surely,
            perhaps,
            self._close.numpy(),
            self._noted.numpy(),
            self.best.numpy(),
            self.ids.numpy(),
        )

    def take(self, block: Tensor, start: int, hidden: Tensor | None) -> None:
        """Carry everything on by one chunk."""
        from engine.reading.kernels import take

        allowed = _NOBODY if hidden is None else (~hidden).numpy()
        if not any(_spread(take, len(block), block.numpy(), start, *self._state, allowed)):
            return
        surely, perhaps = self._counts.long()
        for j in range(self.targets.shape[1]):
            self._counted(block, start, j, surely[:, j], perhaps[:, j])

    def settle(self, geometry: Geometry, exact: Exact) -> None:
        """Decide what was too near, in float64: ranks, and the order of the list."""
        there = torch.arange(_ROOM) < self._noted.unsqueeze(2)
        row, j, _ = there.nonzero(as_tuple=True)
        if len(row):
            self.near.append((row, self._close[there].long(), j))
        super().settle(geometry, exact)


def diverge(logits: Tensor, peak: Tensor, mass: Tensor, cross: Tensor) -> None:
    """The sums of a KL carried on by one block, in place; see :func:`engine.reading.kernels`.

    Args:
        logits: layer × position × c, the reference last.
        peak, mass, cross: layer × position, contiguous.
    """
    from engine.reading import kernels

    held = [one.numpy() for one in (logits, peak, mass, cross)]
    _spread(kernels.diverge, logits.shape[1], *held)
