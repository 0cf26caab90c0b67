"""What larger models would need: planted laws are found again, and memory is what is held."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from tiny_models import peak_bytes

from engine.bases import foretold
from engine.bases.foretold import measure, needs
from engine.errors import OptionError
from engine.frames.decomposition import decompose

WIDTHS = (8, 16, 32)


def planted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rates of a machine whose parts take 2e-6·d², 3e-7·d³, 4e-6·d² and 5e-5·d seconds."""
    monkeypatch.setattr(foretold, "WIDTHS", WIDTHS)
    laws = [(2e-6, 2), (3e-7, 3), (4e-6, 2), (5e-5, 1)]
    # Each part is done three times; what else the machine does slows two of them.
    took = [c * d**p * slow for d in WIDTHS for c, p in laws for slow in (1.7, 1.0, 2.5)]
    times = chain.from_iterable((0.0, t) for t in took)
    return measure(clock=lambda: next(times))


def test_planted_laws_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = planted(monkeypatch)
    powers = ((rates.gram, 2), (rates.eigenvectors, 3), (rates.coordinates, 2), (rates.product, 1))
    for law, power in powers:
        assert law.exponent == pytest.approx(power, abs=1e-9)
        assert law.counted == power
        assert law.r_squared == pytest.approx(1)
    found = needs(rates, width=64, vocabulary=8192, layers=2, tokens=10)
    # The rows that were timed are as many as asked for, so the planted laws hold as they stand.
    assert found.bases_seconds == pytest.approx(2e-6 * 64**2 + 3e-7 * 64**3 + 4e-6 * 64**2)
    per_operation = 5e-5 / (2 * 128 * 8192)
    assert found.reading_seconds == pytest.approx(2 * 2 * 3 * 10 * 8192 * 64 * per_operation)
    assert found.forward_seconds == pytest.approx(2 * 12 * 2 * 64**2 * 10 * per_operation)


SIZES = [(500, 64), (2000, 256), (12_000, 64), (9_000, 192), (100, 300)]


@pytest.mark.parametrize(("v", "d"), SIZES)
def test_memory_at_once_is_within_a_tenth_of_the_allocators(
    monkeypatch: pytest.MonkeyPatch, v: int, d: int
) -> None:
    weight = torch.randn(v, d, generator=torch.Generator().manual_seed(1))
    held = peak_bytes(lambda: decompose(weight))
    found = needs(planted(monkeypatch), width=d, vocabulary=v, layers=1, tokens=1)
    assert found.bases_bytes == pytest.approx(held, rel=0.1)
    head = decompose(weight)
    parts = (head.eigenvalues, head.eigenvectors, head.leverage, head.basis_norms, head.row_norms)
    kept = sum(part.numel() * 8 for part in (*parts, head.row_mean))
    assert found.kept_bytes == kept


def test_parameters_are_those_of_a_real_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's blocks have the shape that is counted: 124 million parameters with its embedding."""
    found = needs(planted(monkeypatch), width=768, vocabulary=50_257, layers=12, tokens=1)
    assert found.weights_bytes / 4 == pytest.approx(124.4e6, rel=0.01)


def test_a_size_that_no_model_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = planted(monkeypatch)
    with pytest.raises(OptionError, match=r"width must be in \[1, 1,048,576\]; got 0"):
        needs(rates, width=0, vocabulary=10, layers=1, tokens=1)
