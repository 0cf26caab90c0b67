"""A block's attention and MLP, found by what they do to tensors, not by their names.

A block is run twice on five tokens, the second time with another state at the first position. The
attention is the innermost module that gives something else at the last position although it was
given the same there. The MLP is the last module with a matrix of its own beside it that gives
vectors as wide as the states; or what holds that module and gives the same tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UnsupportedModel
from engine.model.anatomy import first_tensor, hidden_argument
from engine.model.language_model import LanguageModel
from engine.model.probing import probe_ids

_TOKENS = 5


@dataclass(frozen=True)
class _Seen:
    path: str
    module: nn.Module
    given: Tensor | None
    gave: Tensor | None


def part_of(model: LanguageModel, layer: int, part: str) -> nn.Module:
    """The module whose output is a part of a block.

    Args:
        model: called on its thread.
        layer: from 1: the block that gives this layer.
        part: ``attention`` or ``mlp``.

    Raises:
        UnsupportedModel: it was not found.
    """
    block = model.anatomy.blocks[layer - 1]
    with torch.inference_mode():
        args, kwargs = _given(model, block)
        first = _watch(block, args, kwargs)
        second = _watch(block, *_moved(args, kwargs))
    attention = _attention(first, second)
    found = attention if part == "attention" else _mlp(first, attention, model)
    if found is None:
        name = "MLP" if part == "mlp" else part
        raise UnsupportedModel(
            f"the {name} of block {layer} was not found in this model; act on the whole block."
        )
    return found.module


def _given(model: LanguageModel, block: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the block is called with in a short forward pass."""
    kept: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append((args, kwargs))

    handle = block.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model.states(probe_ids(model.anatomy.embedding, min(_TOKENS, model.max_tokens)))
    finally:
        handle.remove()
    return kept[0]


def _moved(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    state = hidden_argument(args, kwargs)
    assert state is not None
    other = state.clone()
    other[:, 0] = other[:, 0].flip(-1) + 1
    return with_state(args, kwargs, other)


def with_state(
    args: tuple[Any, ...], kwargs: dict[str, Any], state: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A block's arguments with another hidden state in the place of theirs."""
    old = hidden_argument(args, kwargs)
    for n, one in enumerate(args):
        if one is old:
            return (*args[:n], state, *args[n + 1 :]), kwargs
    return args, kwargs | {"hidden_states": state}


def _watch(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[_Seen]:
    """What every module inside the block was given and gave, in the order in which they ended."""
    with _recording(block) as seen:
        block(*args, **kwargs)
    return seen


@contextmanager
def _recording(block: nn.Module) -> Iterator[list[_Seen]]:
    seen: list[_Seen] = []
    handles = []
    for path, module in block.named_modules():
        if path:

            def after(
                module: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path
            ) -> None:
                given, gave = hidden_argument(args, kwargs), first_tensor(output)
                seen.append(_Seen(path, module, given, gave))

            handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _attention(first: list[_Seen], second: list[_Seen]) -> _Seen | None:
    mixing = [a for a, b in zip(first, second, strict=True) if _mixes(a, b)]
    inner = [one for one in mixing if not any(o.path.startswith(f"{one.path}.") for o in mixing)]
    return inner[0] if inner else None


def _mixes(a: _Seen, b: _Seen) -> bool:
    """Whether positions meet in a module: the last one's output hangs on the first one's state."""
    tensors = (a.given, a.gave, b.given, b.gave)
    if any(t is None or t.dim() != 3 for t in tensors):
        return False
    given, gave, other, gives = (t[:, -1] for t in tensors if t is not None)
    return torch.equal(given, other) and not torch.equal(gave, gives)


def _mlp(seen: list[_Seen], attention: _Seen | None, model: LanguageModel) -> _Seen | None:
    if attention is None:
        return None
    width = model.anatomy.residual_width
    count = attention.gave.shape[1] if attention.gave is not None else 0

    def apart(one: _Seen) -> bool:
        inside = one.path.startswith(f"{attention.path}.") or one.path == attention.path
        return not inside and not attention.path.startswith(f"{one.path}.")

    def fits(one: _Seen) -> bool:
        own = any(p.dim() >= 2 for p in one.module.parameters(recurse=False))
        gave = one.gave
        return (
            own and gave is not None and gave.shape[-1] == width and (gave.numel() == width * count)
        )

    last = next((one for one in reversed(seen) if apart(one) and fits(one)), None)
    if last is None:
        return None
    assert last.gave is not None
    same = [
        one for one in seen
        if apart(one) and last.path.startswith(f"{one.path}.")
        and one.gave is not None and one.gave.data_ptr() == last.gave.data_ptr()
    ]  # fmt: skip
    return min(same, key=lambda one: len(one.path), default=last)
