"""Text that a model writes itself: what a lens is fitted on where nobody brings a text.

Each text begins with another word of the vocabulary, drawn from a seed, and goes on by sampling
from the model's own distribution. So the model is read where it is at home, and no corpus is asked
for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from engine.model.language_model import LanguageModel
from engine.progress import Check, no_check

_ENOUGH: Final = 100
"""Beginnings with a capital letter are taken where there are so many."""


def beginnings(model: LanguageModel) -> Tensor:
    """Ids of words that a text may begin with."""
    texts = model.vocabulary_texts
    size = min(model.vocabulary, len(texts.words))
    words = [i for i in range(size) if texts.words[i]]
    capital = [i for i in words if texts.token(i).text.strip()[:1].isupper()]
    if len(capital) >= _ENOUGH:
        return torch.tensor(capital)
    return torch.tensor(words or list(range(size)))


@torch.inference_mode()
def written(
    model: LanguageModel, texts: int, tokens: int, seed: int, *, check: Check = no_check
) -> Iterator[Tensor]:
    """Texts of a model as it writes them, token by token.

    Args:
        model: a causal one.
        texts: written side by side.
        tokens: of each.
        seed: of the beginnings and the draws.
        check: called between blocks; raises to stop.

    Yields:
        After each token the states there: layer × text × residual width, before the final norm.
    """
    generator = torch.Generator().manual_seed(seed)
    first = beginnings(model)
    begin = first[torch.randint(len(first), (texts, 1), generator=generator)]
    bos = model.tokenizer.bos_token_id
    starts_so = bos is not None and bos in model.tokenize("a").ids[:1]
    ids = torch.cat([torch.full_like(begin, bos), begin], 1) if starts_so else begin
    new, past = ids, None
    while True:
        states, logits, past = model.advance(new, past, check=check)
        yield states[:, :, -1]
        if ids.shape[1] >= tokens:
            return
        chances = torch.softmax(torch.nan_to_num(logits, nan=0.0).cpu(), -1)
        chosen = torch.multinomial(chances, 1, generator=generator)
        ids = torch.cat([ids, chosen], 1)
        new = chosen if model.remembers and past is not None else ids
