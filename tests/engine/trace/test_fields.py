"""Fifty words of ten fields: planted fields are found, chance is chance, brute force agrees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import Spaces

from engine.frames.frame import Frame
from engine.trace.fields import (
    FIELDS,
    FieldWords,
    by_chance,
    field_words,
    over_words,
    shares_together,
)

WORDS = FieldWords(tuple(range(50)), tuple(n // 5 for n in range(50)))


def together(vectors: torch.Tensor, words: FieldWords = WORDS) -> tuple[float, float, float]:
    """The mean and its interval."""
    found = shares_together(frame(vectors), words)
    assert found is not None
    return over_words(found)


def frame(vectors: torch.Tensor) -> Frame:
    norms = vectors.norm(dim=1)
    return Frame("output", vectors, None, norms.float(), vectors.double().mean(0))


def test_the_fields_are_ten_of_five() -> None:
    words = [word for field in FIELDS.values() for word in field]
    assert (len(FIELDS), len(words), len(set(words))) == (10, 50, 50)


def test_planted_fields_lie_together_and_random_ones_by_chance() -> None:
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 16, generator=draw)
    noise = 0.1 * torch.randn(50, 16, generator=draw)
    planted = centres[torch.tensor(WORDS.fields)] + noise
    assert together(planted) == (1.0, 1.0, 1.0)
    assert by_chance(WORDS) == pytest.approx(4 / 49)
    shares = []
    for _ in range(60):
        share, low, high = together(torch.randn(50, 16, generator=draw))
        assert low <= share <= high
        shares.append(share)
    assert np.mean(shares) == pytest.approx(by_chance(WORDS), abs=0.02)


def test_it_is_brute_force_over_unequal_fields() -> None:
    draw = torch.Generator().manual_seed(3)
    b = torch.randn(7, 5, generator=draw)
    words = FieldWords(tuple(range(7)), (0, 0, 0, 1, 1, 2, 2))
    shares = []
    for i in range(7):
        others = [j for j in range(7) if j != i]
        cosine = [float(torch.cosine_similarity(b[i], b[j], dim=0)) for j in others]
        near = [others[j] for j in np.argsort(cosine)[::-1]]
        count = words.fields.count(words.fields[i]) - 1
        shares.append(np.mean([words.fields[j] == words.fields[i] for j in near[:count]]))
    found = shares_together(frame(b), words)
    assert found == pytest.approx(shares), "word by word"
    assert together(b, words)[0] == pytest.approx(np.mean(shares))
    assert by_chance(words) == pytest.approx((3 * 2 + 4 * 1) / 6 / 7)
    assert shares_together(frame(b), FieldWords((0, 1), (0, 0))) is None


def test_words_are_single_tokens_of_the_model(spaces: Spaces) -> None:
    model = spaces["llama"].model
    found = field_words(model)
    for i, field in zip(found.ids, found.fields, strict=True):
        text = model.vocabulary_texts.token(i).text.strip()
        assert text in list(FIELDS.values())[field]
