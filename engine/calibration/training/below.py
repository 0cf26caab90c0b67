"""Frozen blocks below the lowest trained one, run once instead of once per epoch.

What enters the lowest trained block never changes while only blocks above are trained, so it is
read once for each text and kept; the model's own forward pass then goes through the blocks below
with nothing done in them. Embedding, masks and positions stay the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from engine.model.anatomy import hidden_argument
from engine.model.language_model import LanguageModel
from engine.model.texts import batches, padded
from engine.progress import Progress, Steps

Ids = Sequence[int]


class _Reached(Exception):
    """The lowest trained block was reached; what follows is not needed."""


@dataclass
class Below:
    """What enters a block, for some texts."""

    blocks: Sequence[nn.Module]
    first: int
    """Number of the lowest trained block."""
    width: int
    """How many values a block gives; 0 where it gives its state alone, not in a tuple."""
    held: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    """Token ids → tokens × residual width, on the CPU."""

    @contextmanager
    def entering(self, batch: Sequence[Ids]) -> Iterator[None]:
        """A pass over these texts, padded on the right, begins at the lowest trained block."""
        block = self.blocks[self.first]
        kept = pad_sequence([self.held[tuple(ids)] for ids in batch], batch_first=True)

        def put(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
            given = hidden_argument(args, kwargs)
            assert given is not None
            own = kept.to(given.device, given.dtype)
            if args:
                return (own, *args[1:]), kwargs
            name = next(key for key, value in kwargs.items() if value is given)
            return args, {**kwargs, name: own}

        def passed(*args: Any, **kwargs: Any) -> Any:
            hidden = hidden_argument(args, kwargs)
            return hidden if not self.width else (hidden, *[None] * (self.width - 1))

        handle = block.register_forward_pre_hook(put, with_kwargs=True)
        lower = self.blocks[: self.first]
        try:
            for one in lower:
                one.forward = passed
            yield
        finally:
            handle.remove()
            for one in lower:
                one.__dict__.pop("forward", None)


@torch.no_grad()
def read_below(
    twin: LanguageModel, first: int, texts: Sequence[Ids], *, part_tokens: int
) -> Steps[Below | None]:
    """What enters block `first` for every text; one step is one batch.

    None where nothing is gained or it cannot be kept: the first block is trained, the states do not
    fit the model's memory budget, or blocks hand each other more than their state.

    Args:
        twin: the model; nothing below `first` may change afterwards.
        first: the lowest trained block, from 0.
        texts: token ids.
        part_tokens: tokens of a batch, padding included.
    """
    blocks, anatomy = twin.anatomy.blocks, twin.anatomy
    unique = sorted({tuple(ids) for ids in texts}, key=lambda ids: (len(ids), ids))
    need = 4 * sum(map(len, unique)) * anatomy.residual_width
    if first == 0 or not unique or need > twin.limits.memory_budget_mib * 2**20:
        return None
    shapes: list[int | None] = []
    found: list[Tensor] = []

    def look(module: nn.Module, args: Any, output: Any) -> None:
        alone = isinstance(output, Tensor)
        plain = isinstance(output, tuple) and all(one is None for one in output[1:])
        shapes.append(0 if alone else len(output) if plain else None)

    def stop(module: nn.Module, args: Any, kwargs: Any) -> None:
        hidden = hidden_argument(args, kwargs)
        assert hidden is not None
        found.append(hidden)
        raise _Reached

    held: dict[tuple[int, ...], Tensor] = {}
    handles = [
        blocks[first - 1].register_forward_hook(look),
        blocks[first].register_forward_pre_hook(stop, with_kwargs=True),
    ]
    try:
        for part in batches(range(len(unique)), unique, part_tokens, mixed=twin.pads):
            given, mask, lengths = padded([unique[i] for i in part])
            where = anatomy.weight.device
            with suppress(_Reached):
                twin.module(input_ids=given.to(where), attention_mask=mask.to(where))
            states = found.pop().cpu()
            if states.dim() != 3 or shapes[-1] is None:
                return None
            for row, i in enumerate(part):
                held[unique[i]] = states[row, : int(lengths[row])].clone()
            yield Progress(len(held), len(unique), "reading below the trained blocks")
    finally:
        for handle in handles:
            handle.remove()
    assert shapes[-1] is not None
    return Below(blocks, first, shapes[-1], held)
