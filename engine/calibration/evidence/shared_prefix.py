"""Many prompts that begin alike: what they share goes through the model once.

Demonstrations stand in front of every query, so their keys and values are computed once and used
by all (the model's own cache); a query then costs its own tokens only. Exact up to rounding, which
is checked against a plain pass on one prompt; a model without such a cache is read the plain way.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import PromptError
from engine.model.anatomy import first_tensor
from engine.model.language_model import LanguageModel
from engine.model.texts import batches, padded, text_states
from engine.progress import Progress, Steps

SHORTEST: Final = 8
"""Tokens that prompts must share before a cache is worth its trouble."""
TOLERANCE: Final = 2e-3
"""Largest allowed distance from a plain pass, as a share of the state's length."""


def common_prefix(ids: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts have in common at their begin, at least one left to each.

    Raises:
        PromptError: no prompt, or an empty one.
    """
    if not ids or not all(ids):
        raise PromptError("there is no prompt to read, or an empty one; give at least one token.")
    rows = [tuple(i) for i in ids]
    # In dictionary order: what the first and the last share, all share.
    pairs = zip(min(rows), max(rows), strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return min(shared, min(len(i) for i in ids) - 1)


def prefixed_states(
    model: LanguageModel,
    ids: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 2048,
    share: bool = True,
) -> Steps[Tensor]:
    """The state that the head reads at the last position of each prompt.

    Args:
        model: whose states; called on the thread that owns it.
        ids: token ids, a list per prompt.
        batch_tokens: size of a batch; the shared part counts once per prompt.
        share: whether to run the common beginning once; else every prompt whole.

    Returns:
        prompt × d, float32, after the final norm, in the order given.

    Raises:
        PromptError: no prompt, an empty one, or one that is too long.
    """
    shared = common_prefix(ids)
    longest = max(len(i) for i in ids)
    if longest > model.max_tokens:
        raise PromptError(
            f"a prompt has {longest:,} tokens and this model reads {model.max_tokens:,}; use fewer"
            " demonstrations or shorter texts."
        )
    if share and shared >= SHORTEST and len(ids) > 1:
        prefix = _Prefix(model, ids[0][:shared])
        if prefix.agrees(ids[0]):
            return (yield from _suffixes(prefix, ids, batch_tokens))
    raw = yield from text_states(model, ids, layers=(-1,), batch_tokens=batch_tokens)
    return model.read_out(raw.raw[:, 0])


def _suffixes(prefix: _Prefix, ids: Sequence[Sequence[int]], batch_tokens: int) -> Steps[Tensor]:
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    out = torch.empty(len(ids), prefix.model.width, device=prefix.model.anatomy.weight.device)
    done = 0
    for batch in batches(order, ids, batch_tokens, mixed=prefix.model.pads):
        rows = torch.tensor(batch, device=out.device)
        out[rows] = prefix.read([ids[i][prefix.length :] for i in batch])
        done += len(batch)
        yield Progress(done, len(ids), "reading prompts with demonstrations")
    return out


class _Prefix:
    """Keys and values of the tokens that all prompts begin with."""

    def __init__(self, model: LanguageModel, ids: Sequence[int]) -> None:
        self.model, self.length = model, len(ids)
        self._ids = list(ids)
        self._cache: Any = None

    def agrees(self, ids: Sequence[int]) -> bool:
        """Whether this model can go on from a cache: tried on one prompt against a plain pass."""
        try:
            self._fill()
            mine = self.read([ids[self.length :]])
        except (AttributeError, TypeError, ValueError, NotImplementedError, RuntimeError):
            return False
        plain = self.model.read_out(self.model.last_states([list(ids)], [self.model.blocks])[:, 0])
        return float((mine - plain).norm()) <= TOLERANCE * float(plain.norm())

    def _fill(self) -> None:
        given = torch.tensor([self._ids], device=self.model.input_device)
        with torch.inference_mode():
            out = self._without_head(
                {"input_ids": given, "attention_mask": torch.ones_like(given), "use_cache": True}
            )
        self._cache = out.past_key_values
        if self._cache is None or int(self._cache.get_seq_length()) != self.length:
            raise ValueError("no cache of keys and values")

    def read(self, suffixes: Sequence[Sequence[int]]) -> Tensor:
        """The state after each suffix: n × d, float32, after the final norm."""
        device = self.model.input_device
        given, own, lengths = padded(suffixes)
        mask = functional.pad(own, (self.length, 0), value=1)
        kept: list[Tensor] = []

        def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            assert tensor is not None
            where = (lengths - 1).to(tensor.device)
            kept.append(tensor[torch.arange(len(where), device=tensor.device), where])

        anatomy = self.model.anatomy
        handle = anatomy.blocks[-1].register_forward_hook(keep, with_kwargs=True)
        try:
            with torch.inference_mode():
                cache = copy.deepcopy(self._cache)
                if len(suffixes) > 1:
                    cache.batch_repeat_interleave(len(suffixes))
                self._without_head(
                    {
                        "input_ids": given.to(device),
                        "attention_mask": mask.to(device),
                        "past_key_values": cache,
                        "use_cache": True,
                    }
                )
        finally:
            handle.remove()
        states = kept[0].to(anatomy.weight.device, torch.float32, copy=True)
        return self.model.read_out(states).clone()

    def _without_head(self, given: dict[str, Any]) -> Any:
        """One forward pass that makes the logits of one position only, where the model can."""
        takes = inspect.signature(self.model.module.forward).parameters
        extra = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        return self.model.module(**given, **extra)
