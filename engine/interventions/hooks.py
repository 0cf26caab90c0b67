"""Changes applied while a model runs: forward hooks that are there for as long as a `with` lasts.

Whatever calls the model meets them: a trace, a generation, a plain call of the module. A call that
goes on from keys and values of earlier tokens brings generated positions; any other brings a
prompt. Padding is never touched, and rows that nothing is done to are the same tensor as ever.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import InputError, NonFiniteError
from engine.interventions.changes import Change
from engine.interventions.parts import with_state
from engine.model.anatomy import first_tensor, hidden_argument
from engine.model.language_model import LanguageModel
from engine.model.ranges import parse_range


@dataclass(frozen=True)
class Edit:
    """One change at one layer."""

    layer: int
    """0 to L: the states that the trace shows there."""
    change: Change
    positions: str | None
    """Of each row's prompt, as a trace writes them."""
    when: str = "prompt"
    module: nn.Module | None = field(default=None, repr=False)
    """A part of the block whose output is changed instead of the state."""


@dataclass
class Switch:
    """Where the tokens of the call under way stand in their texts, and whether they are changed."""

    on: bool = True
    mask: Tensor | None = None
    """row × token, without padding 1; None: no padding."""
    past: int = 0
    """Tokens that went before."""
    prompt: int | None = None
    """How many tokens of a text are its prompt; None: all that come without a past."""
    rows: int = 1
    tokens: int = 0

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within it nothing is changed."""
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before

    def places(self, row: int, edit: Edit) -> Tensor:
        """Where in this call's tokens an edit acts on a row."""
        real = torch.arange(self.tokens)
        if self.mask is not None:
            real = self.mask[row, -self.tokens :].nonzero().squeeze(1).cpu()
        if self.past:
            return real if edit.when != "prompt" else real[:0]
        count = len(real) if self.prompt is None else min(self.prompt, len(real))
        made = real[count:]
        if edit.when == "generated":
            return made
        at = parse_range(edit.positions, count, "position", f"this prompt of {count} tokens")
        chosen = real[:count][list(at)]
        return torch.cat([chosen, made]) if edit.when == "both" else chosen


@contextmanager
def acting(
    model: LanguageModel, rows: Sequence[Sequence[Edit]], *, prompt_tokens: int | None = None
) -> Iterator[Switch]:
    """Within it, the model's states are changed; after it, however it ends, they are not.

    Args:
        model: called on its thread.
        rows: for each row of a batch what is done to it; one entry serves every row of any batch.
        prompt_tokens: how many tokens of a text are its prompt, for a model that is given the
            whole text again for every token that it generates; None: all that come at once.

    Raises:
        LayerError: from the call, where a position is not in its prompt.
        NonFiniteError: from the call, where a change is too large for finite states.
    """
    call = Switch(prompt=prompt_tokens)
    signature = inspect.signature(model.module.forward)
    handles = []

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = signature.bind_partial(*args, **kwargs).arguments
        given |= given.get("kwargs") or {}
        ids = given.get("input_ids")
        ids = given.get("inputs_embeds") if ids is None else ids
        assert ids is not None
        mask = given.get("attention_mask")
        call.mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
        call.past = _length(given.get("past_key_values"))
        call.rows, call.tokens = int(ids.shape[0]), int(ids.shape[1])
        if call.on and len(rows) not in (1, call.rows):
            raise InputError(f"{len(rows)} rows are acted on, and {call.rows} were given.")

    def change(state: Tensor, given: Tensor | None, edits: Sequence[Sequence[Edit]]) -> Tensor:
        if not call.on:
            return state
        flat = state.dim() == 2  # some MLPs see all rows' tokens in one line
        shape = (call.rows, call.tokens, state.shape[-1])
        old = state.view(shape) if flat else state
        out: Tensor | None = None
        for row in range(call.rows):
            for edit in edits[row % len(edits)]:
                at = call.places(row, edit).to(old.device)
                if len(at):
                    out = old.clone() if out is None else out
                    before = _wide(given[row, at]) if given is not None else None
                    out[row, at] = _changed(edit, out[row, at], before)
        return state if out is None else out.view(state.shape)

    def entry(edits: Sequence[Sequence[Edit]]) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            state = hidden_argument(args, kwargs)
            assert state is not None
            changed = change(state, None, edits)
            return None if changed is state else with_state(args, kwargs, changed)

        return hook

    def exit_(edits: Sequence[Sequence[Edit]], of_block: bool) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            state = first_tensor(output)
            assert state is not None
            changed = change(state, hidden_argument(args, kwargs) if of_block else None, edits)
            return None if changed is state else _with_first(output, changed)

        return hook

    blocks = model.anatomy.blocks
    try:
        handles.append(model.module.register_forward_pre_hook(begin, with_kwargs=True))
        every = [edit for row in rows for edit in row]
        for module in {id(e.module): e.module for e in every if e.module is not None}.values():
            own = [[e for e in row if e.module is module] for row in rows]
            handles.append(module.register_forward_hook(exit_(own, False), with_kwargs=True))
        for layer in sorted({e.layer for e in every if e.module is None}):
            own = [[e for e in row if e.module is None and e.layer == layer] for row in rows]
            if layer == 0:
                hook = entry(own)
                handles.append(blocks[0].register_forward_pre_hook(hook, with_kwargs=True))
            else:
                hook = exit_(own, True)
                handles.append(blocks[layer - 1].register_forward_hook(hook, with_kwargs=True))
        yield call
    finally:
        for handle in handles:
            handle.remove()


def _wide(rows: Tensor) -> Tensor:
    return rows.float() if rows.device.type == "mps" else rows.double()


def _changed(edit: Edit, rows: Tensor, given: Tensor | None) -> Tensor:
    """The changed rows in their own precision.

    Raises:
        NonFiniteError: they were finite and are not.
    """
    new = edit.change(_wide(rows), given).to(rows.dtype)
    sound = torch.isfinite(new.float().square().sum(-1))
    if not bool((sound | ~torch.isfinite(rows).all(-1)).all()):
        raise NonFiniteError(
            f"this change makes the states at layer {edit.layer} infinite; choose a smaller"
            " strength."
        )
    return new


def _with_first(output: Any, state: Tensor) -> Any:
    """What a module gave, with another state in the place of its first tensor."""
    if isinstance(output, Tensor):
        return state
    old = first_tensor(output)
    if isinstance(output, dict):
        new = output.copy()
        new.update({k: state for k, v in output.items() if v is old})
        return new
    return type(output)(state if one is old else one for one in output)


def _length(past: Any) -> int:
    """Tokens that keys and values are kept of."""
    if past is None:
        return 0
    if hasattr(past, "get_seq_length"):
        return int(past.get_seq_length())
    return int(past[0][0].shape[-2])
