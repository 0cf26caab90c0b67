"""What an intervention does to states: n rows of a layer's states in, n changed rows out.

Each change is a frozen value that is called with the rows (n × d, float64) and with what the block
was given at the same places, and knows nothing of models, layers or positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


class Change(Protocol):
    """Rows of states → rows of states."""

    def __call__(self, rows: Tensor, given: Tensor | None) -> Tensor:
        """The changed rows.

        Args:
            rows: n × d.
            given: what the block was given there (n × d), where it was.
        """
        ...


@dataclass(frozen=True)
class Push:
    """Steer: h + a·‖h‖·û, or h + a·û where absolute."""

    direction: Tensor = field(repr=False)
    """û, of length 1 (d)."""
    dose: float
    absolute: bool = False

    def __call__(self, rows: Tensor, given: Tensor | None) -> Tensor:
        """The rows, moved."""
        by = self.dose if self.absolute else self.dose * rows.norm(dim=-1, keepdim=True)
        return rows + by * self.direction.to(rows.device, rows.dtype)


@dataclass(frozen=True)
class Reflect:
    """Swap: h − 2(h·n)n, which sends â to b̂ and back where n = (â − b̂)/‖â − b̂‖.

    Keeps ‖h‖ and is its own inverse. DERIVED; ours.
    """

    normal: Tensor = field(repr=False)
    """n, of length 1 (d)."""

    def __call__(self, rows: Tensor, given: Tensor | None) -> Tensor:
        """The rows, mirrored."""
        normal = self.normal.to(rows.device, rows.dtype)
        return rows - 2 * (rows @ normal).unsqueeze(-1) * normal


@dataclass(frozen=True)
class Remove:
    """Ablate: h − (h·û)û; afterwards h·û = 0."""

    direction: Tensor = field(repr=False)

    def __call__(self, rows: Tensor, given: Tensor | None) -> Tensor:
        """The rows without that component."""
        unit = self.direction.to(rows.device, rows.dtype)
        return rows - (rows @ unit).unsqueeze(-1) * unit


@dataclass(frozen=True)
class Scale:
    """What a block adds to the state, or what a part of it gives, times a factor."""

    factor: float
    adds: bool
    """Whether the rows are given + what was added, of which only the latter is scaled."""

    def __call__(self, rows: Tensor, given: Tensor | None) -> Tensor:
        """The rows, scaled; without rounding where the factor is 0 or 1."""
        if self.factor == 1:
            return rows
        if not self.adds:
            return rows * self.factor
        assert given is not None
        return given if self.factor == 0 else given + self.factor * (rows - given)


@dataclass(frozen=True)
class Replace:
    """Patch: other states in the place of these."""

    states: Tensor = field(repr=False)
    """n × d, in the order of the positions."""

    def __call__(self, rows: Tensor, given: Tensor | None) -> Tensor:
        """The other states."""
        return self.states.to(rows.device, rows.dtype)
