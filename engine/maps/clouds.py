"""The points of a map as their distances need them: written out, or bases by their rows.

Knows nothing about pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from engine.frames.frame import Frame
from engine.maps.arrays import Doubles, Floats, Longs
from engine.maps.axes import Axes
from engine.maps.frames import Landscape
from engine.maps.neighbours import block_rows, distance_blocks
from engine.maps.options import MapOptions
from engine.progress import Check, no_check

_ROWS = 4096


class Cloud(Protocol):
    """Points in the model, after preprocessing."""

    def __len__(self) -> int: ...
    @property
    def width(self) -> int:
        """d."""
        ...

    def blocks(
        self, queries: Longs, check: Check = no_check
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Squared distances of some points to all: see
        :func:`engine.maps.neighbours.distance_blocks`."""
        ...

    def along(self, directions: Doubles) -> Floats:
        """Places along some directions (d × dims): n × dims."""
        ...


@dataclass(frozen=True)
class Written:
    """Vectors at hand (n × d)."""

    vectors: Floats

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def width(self) -> int:
        """d."""
        return int(self.vectors.shape[1])

    def blocks(
        self, queries: Longs, check: Check = no_check
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """By their products, float32."""
        return distance_blocks(self.vectors, queries, check)

    def along(self, directions: Doubles) -> Floats:
        """One product."""
        out: Floats = self.vectors @ directions.astype(np.float32)
        return out


@dataclass(frozen=True)
class UnitBases:
    """Bases of length 1, then states of length 1: nothing is written out.

    a·b_i = (M·a)·x_i·f / ‖M·x_i·f‖ with M·a in float64, as states are read, and the squared
    distance is ‖a‖² + ‖b_i‖² − 2·a·b_i, where each length is 1, or 0 of a zero vector.
    """

    landscape: Landscape
    frame: Frame
    options: MapOptions
    ids: Longs
    """Of the bases."""
    states: Floats
    """After preprocessing (m × d)."""

    def __len__(self) -> int:
        return len(self.ids) + len(self.states)

    @property
    def width(self) -> int:
        """d."""
        return self.frame.width

    def blocks(
        self, queries: Longs, check: Check = no_check
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """One product of a block of queries with the rows."""
        frame, count = self.frame, len(self.ids)
        norms = frame.norms[torch.from_numpy(self.ids)].cpu()
        inverse = torch.where(norms > 0, frame.factor / norms, 0.0)
        states = torch.from_numpy(self.states)
        square = torch.cat([(norms > 0).float(), torch.linalg.vecdot(states, states)])
        whole = count == frame.size
        step = block_rows(len(self))
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            own = torch.from_numpy(self._exact(some))
            asked = own if frame.transform is None else own @ frame.transform
            block = torch.empty(len(some), len(self))
            for first in range(0, count, _ROWS):
                check()
                stop = min(first + _ROWS, count)
                rows = (
                    frame.block(first, stop)
                    if whole
                    else frame.gather(torch.from_numpy(self.ids[first:stop])).float()
                )
                torch.mul(
                    asked.float() @ rows.cpu().T, inverse[first:stop], out=block[:, first:stop]
                )
            block[:, count:] = own.float() @ states.T
            block.mul_(-2).add_(square).add_(square[some].unsqueeze(1)).clamp_min_(0)
            block[torch.arange(len(some)), some] = torch.inf
            yield slice(start, start + len(some)), block

    def _exact(self, some: Longs) -> Doubles:
        """Some of the points, written out (m × d)."""
        bases, count = some < len(self.ids), len(self.ids)
        out = np.empty((len(some), self.width))
        vectors = self.frame.vectors(torch.from_numpy(self.ids[some[bases]])).numpy()
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        out[bases] = vectors / np.where(norms > 0, norms, 1.0)
        out[~bases] = self.states[some[~bases] - count]
        return out

    def along(self, directions: Doubles) -> Floats:
        """As bases are placed on a map."""
        axes = Axes(np.zeros(self.width), directions, np.zeros(directions.shape[1]))
        bases = self.landscape.place_bases(self.options, self.ids, [axes], no_check)[0]
        return np.concatenate([bases, axes.place(self.states).astype(np.float32)])
