"""States of a text of ours: what readings of a model are measured on, the same for every model."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from engine.errors import PromptError
from engine.model.language_model import LanguageModel
from engine.model.prompts import Tokens
from engine.progress import Check, Progress, Steps, drain, no_check

TEXT: Final = Path(__file__).resolve().parents[1] / "examples" / "reading.txt"
"""Ten paragraphs, written for this."""
_SKIPPED: Final = 4
"""First tokens of a paragraph, after which nearly anything may follow."""
_LONGEST: Final = 96
"""Tokens of a paragraph at most."""


def reference_tokens(model: LanguageModel) -> list[Tokens]:
    """The paragraphs of our text as this model's tokens, each cut to what it takes."""
    found = []
    limit = min(_LONGEST, model.max_tokens)
    for paragraph in TEXT.read_text("utf-8").split("\n\n"):
        words = paragraph.split()
        # Cut by words before tokens: a model may take very few of them.
        while words:
            try:
                tokens = model.tokenize(" ".join(words))
            except PromptError:
                words = words[: len(words) // 2]
                continue
            if len(tokens.ids) <= limit:
                found.append(tokens)
                break
            words = words[: len(words) * limit // len(tokens.ids) or len(words) - 1]
    return found


def reference_states(model: LanguageModel, positions: int, *, check: Check = no_check) -> Tensor:
    """States of our text at evenly spaced positions, past the final norm.

    Args:
        model: whose states; called on its thread.
        positions: at most so many, and no more than half the memory of one reading holds scores
            for.
        check: raises to stop.

    Returns:
        layer × n × d, finite at every layer; n is 0 where the model answers nothing finite.
    """
    return drain(read_reference(model, positions, check=check))


def read_reference(
    model: LanguageModel, positions: int, *, check: Check = no_check
) -> Steps[Tensor]:
    """:func:`reference_states`, a paragraph at a time."""
    parts, given = [], reference_tokens(model)
    for tokens in given:
        states = model.read_out(model.states(tokens.ids, check=check).raw)
        parts.append(states[:, min(_SKIPPED, states.shape[1] - 1) :])
        yield Progress(len(parts), len(given), "reading a text")
    if not parts:
        return torch.empty(model.blocks + 1, 0, model.width)
    states = torch.cat(parts, 1)
    states = states[:, torch.isfinite(states).all(-1).all(0)]
    total = states.shape[1]
    room = model.limits.reading_bytes // (24 * model.vocabulary)
    count = min(total, max(1, min(positions, room)))
    picked = torch.linspace(0, max(total - 1, 0), count).long()
    return states[:, picked.to(states.device)]
