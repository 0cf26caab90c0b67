"""The blocks above a layer, run from states of one's own: what lies below is not run again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.interventions.parts import with_state
from engine.interventions.space import Space
from engine.model.anatomy import first_tensor, hidden_argument

_Calls = list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]


class Above:
    """A prompt's blocks, for so many copies of it side by side.

    One forward pass of all the copies is run first: it tells what each block is called with besides
    the state.

    Args:
        space: called on its thread.
        ids: of the prompt.
        rows: copies.
    """

    def __init__(self, space: Space, ids: Sequence[int], rows: int) -> None:
        self._model = space.model
        self._calls: _Calls = []
        with torch.inference_mode(), _listening(space.model.anatomy.blocks, self._calls):
            space.model.last_states([ids] * rows, [space.model.blocks])

    def last(self, layer: int, states: Tensor) -> Tensor:
        """The last layer's state at the last position: row × residual width, float32.

        Args:
            layer: from 0, the embedding.
            states: of that layer: row × token × residual width.
        """
        with torch.inference_mode():
            for block, args, kwargs in self._calls[layer:]:
                old = hidden_argument(args, kwargs)
                assert old is not None
                given = with_state(args, kwargs, states.to(old.device, old.dtype))
                found = first_tensor(block(*given[0], **given[1]))
                assert found is not None
                states = found
            return states[:, -1].to(self._model.anatomy.weight.device, torch.float32)


@contextmanager
def _listening(blocks: Sequence[nn.Module], calls: _Calls) -> Iterator[None]:
    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((module, args, kwargs))

    handles = [one.register_forward_pre_hook(keep, with_kwargs=True) for one in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
