"""Fifty words of ten fields of meaning: whether a frame puts words of one field together.

Of each word as many neighbours are taken, by cosine among the other words, as its field has others:
the share of them that are of its field is 1 where the fields lie apart, and by chance what a draw
without replacement gives. Words that are not one token of the model are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import PromptError
from engine.frames.frame import Frame
from engine.model.language_model import LanguageModel

FIELDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        name: tuple(words.split())
        for name, words in (
            ("animals", "dog cat horse cow bird"),
            ("colours", "red blue green white black"),
            ("months", "January March June October December"),
            ("countries", "France Germany Italy China Japan"),
            ("numbers", "two three five seven ten"),
            ("the body", "hand foot head eye arm"),
            ("family", "mother father brother sister son"),
            ("food", "bread milk meat fruit rice"),
            ("weather", "rain snow wind storm sun"),
            ("buildings", "house church school hospital castle"),
        )
    }
)
_RESAMPLES: Final = 2000


@dataclass(frozen=True)
class FieldWords:
    """Those that are one token of a model."""

    ids: tuple[int, ...]
    fields: tuple[int, ...]
    """Of each, the number of its field."""


def field_words(model: LanguageModel) -> FieldWords:
    """The words as they stand in running text, after a space; of fields with at least two."""
    found: list[tuple[int, int]] = []
    for number, words in enumerate(FIELDS.values()):
        own: list[int] = []
        for word in words:
            try:
                ids = model.tokenize(f" {word}", bos="no").ids
            except PromptError:
                continue
            own += ids if len(ids) == 1 else ()
        found += [(i, number) for i in dict.fromkeys(own)] if len(set(own)) > 1 else []
    return FieldWords(tuple(i for i, _ in found), tuple(n for _, n in found))


def shares_together(frame: Frame, words: FieldWords) -> NDArray[np.float64] | None:
    """Of each word the share of its neighbours that are of its field; None where fewer than two
    fields are known."""
    fields = np.array(words.fields)
    if len(np.unique(fields)) < 2:
        return None
    b = frame.vectors(words.ids)
    unit = b / b.norm(dim=1, keepdim=True).clamp_min(torch.finfo(b.dtype).tiny)
    cosine = (unit @ unit.T).numpy()
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")
    same = fields[order] == fields[:, None]
    others = (fields[:, None] == fields).sum(1) - 1
    return np.array([row[:n].mean() for row, n in zip(same, others, strict=True)])


def over_words(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean over the words, and its 95 % interval by drawing words with replacement."""
    draw = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(values[draw].mean(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def by_chance(words: FieldWords) -> float:
    """What a random order gives: each neighbour is of the word's field with (m − 1)/(n − 1)."""
    fields = np.array(words.fields)
    if len(fields) < 2:
        return 0.0
    return float((((fields[:, None] == fields).sum(1) - 1) / (len(fields) - 1)).mean())
