"""What a model does with the tokens around a position, tried on a few: never told by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from engine.model.placement import runs_on

_ROUNDING: Final = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Of the largest number: what rounding alone cannot move; in half precision `_HALF`."""
_HALF: Final = 2e-2
PROBE: Final = 12
"""Tokens of the longer of two prompts that padding is tried with."""


def probe_ids(embedding: nn.Module, count: int) -> list[int]:
    """Token ids spread over the vocabulary, each once where it is large enough."""
    weight = embedding.weight
    assert isinstance(weight, Tensor)
    rows = int(weight.shape[0])
    return [(7 * i + 3) * rows // (7 * count + 3) for i in range(count)]


@torch.no_grad()
def reads_ahead(model: Any) -> bool | None:
    """Whether the logits at a position depend on the tokens behind it.

    Two prompts that differ in their last token go through the model together; a model that reads
    from left to right says the same before it.

    Args:
        model: a Hugging Face model in eval mode.

    Returns:
        None where that cannot be told: no logits, none that are finite, or a difference that
        rounding might have made.
    """
    embedding = model.get_input_embeddings()
    if not isinstance(getattr(embedding, "weight", None), Tensor):
        return None
    *front, one, other = probe_ids(embedding, 6)
    ids = torch.tensor([[*front, one], [*front, other]], device=runs_on(embedding))
    takes = inspect.signature(model.forward).parameters
    extra: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    try:
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra)
    except Exception:  # the architecture's own code; `dissect` says what it raises
        return None
    logits = getattr(out, "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:2] != ids.shape:
        return None
    before = logits[:, :-1]
    if not bool(torch.isfinite(before).any()):
        return None
    if moved(before[0], before[1], embedding.weight.dtype):
        return True
    # The rows of one call are rounded alike, so what does not look ahead says the very same.
    same = torch.equal(before[0].nan_to_num(), before[1].nan_to_num())
    return False if same or embedding.weight.dtype == torch.float32 else None


def padding_shows(
    last_states: Callable[[list[list[int]]], Tensor], ids: list[int], dtype: torch.dtype
) -> bool:
    """Whether a short prompt's states change where a longer one stands beside it.

    Args:
        last_states: the states at each prompt's last position.
        ids: of the longer prompt; its beginning is the shorter one.
        dtype: of the model.
    """
    if len(ids) < 2:
        return False
    short = ids[: max(1, len(ids) // 4)]
    try:
        alone, beside = last_states([short])[0], last_states([short, ids])[0]
    except Exception:  # the architecture's own code: it may take no padding at all
        return True
    return moved(alone, beside, dtype)


def moved(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    """Whether two answers differ by more than rounding in a precision, where both are finite."""
    told = torch.isfinite(a) & torch.isfinite(b)
    if not bool(told.any()):
        return False
    limit = _ROUNDING.get(dtype, _HALF)
    largest = float(a[told].abs().max())
    return float((a - b)[told].abs().max()) > limit * max(largest, 1e-12)
