"""What a trace shows first: from where on a reading names the answer, and whether chance does too.

At one position, the ranks ρ_l of the model's own next token over the layers read. The reading has
*settled* at layer l where ρ = 1 there and at every layer read above it. The same of as many random
directions of the same lengths (the frame `random`) is the control: a token among v of them is
nearest by chance once in v layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.frames.frame import Frame
from engine.progress import Check, no_check
from engine.reading.read import read


@dataclass(frozen=True)
class Finding:
    """Where one position's answer becomes the nearest token, beside the random control."""

    position: int
    ranks: tuple[int, ...]
    """Of the answer, by layer read; 0 where the state is not finite."""
    settled: int | None
    """The layer from which on the answer is nearest at all layers read; None where the last one
    has another."""
    control_ranks: tuple[int, ...]
    """The same by random directions."""
    control_settled: int | None

    @property
    def beyond_chance(self) -> bool:
        """Whether it settles, and earlier than the control does."""
        if self.settled is None:
            return False
        return self.control_settled is None or self.settled < self.control_settled

    @property
    def control_named(self) -> bool:
        """Whether the control has the answer nearest at any layer."""
        return 1 in self.control_ranks

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON contract."""
        return {
            "position": self.position,
            "settled": self.settled,
            "control_settled": self.control_settled,
            "best_rank": min(filter(None, self.ranks), default=None),
            "control_best_rank": min(filter(None, self.control_ranks), default=None),
            "beyond_chance": self.beyond_chance,
        }


def settled_from(ranks: Sequence[int], layers: Sequence[int]) -> int | None:
    """The first layer from which on every rank is 1, up to the last; None where there is none."""
    found = None
    for rank, layer in zip(reversed(ranks), reversed(layers), strict=True):
        if rank != 1:
            break
        found = layer
    return found


def find(
    position: int,
    layers: Sequence[int],
    ranks: Sequence[int],
    states: Tensor,
    answer: int,
    control: Frame,
    geometry: str,
    *,
    centred: bool,
    budget_bytes: int,
    check: Check = no_check,
) -> Finding:
    """The finding of one position.

    Args:
        position: which.
        layers: those that were read.
        ranks: of the answer at each of them, by the reading.
        states: layer × d, as they were read.
        answer: the model's own next token there; −1 where it has none.
        control: the random frame.
        geometry: by which was read.
        centred: whether the states had their mean taken off.
        budget_bytes: for the temporaries.
        check: called between chunks of the vocabulary; raises to stop.
    """
    chance = [0] * len(layers)
    if answer >= 0:
        targets = states.new_full((len(layers), 1), answer).long()
        found = read(
            control,
            states,
            geometries=(geometry,),
            k=1,
            targets=targets,
            centred=centred,
            budget_bytes=budget_bytes,
            check=check,
        )[geometry]
        counted = found.ranks[:, 0].tolist()
        chance = [own if rank else 0 for own, rank in zip(counted, ranks, strict=True)]
    return Finding(
        position,
        tuple(ranks),
        settled_from(ranks, layers),
        tuple(chance),
        settled_from(chance, layers),
    )
