"""Isotropy by brute force and planted shapes, and in a trace within its memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import PROMPT, Spaces, peak_bytes
from torch import Tensor

from engine import Limits
from engine.frames.isotropy import isotropy

# --- isotropy -------------------------------------------------------------------------------------


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "d"), [(400, 16), (60, 200), (300, 300)])
def test_an_isotropic_gaussian_reads_one(n: int, d: int) -> None:
    found = isotropy(gaussian(n, d))
    assert found.raw == pytest.approx(1.0, abs=0.02)
    assert found.centred == pytest.approx(1.0, abs=0.02)
    assert found.spectral == pytest.approx(1.0, abs=0.06)


def test_a_cone_reads_zero_and_one_once_centred() -> None:
    """Row S5."""
    axis = torch.zeros(32)
    axis[3] = 100.0
    found = isotropy(gaussian(500, 32) + axis)
    assert found.raw == pytest.approx(0.0, abs=0.01)
    assert found.centred == pytest.approx(1.0, abs=0.02)
    assert found.spectral == pytest.approx(1.0, abs=0.06)


def test_few_directions_read_as_few() -> None:
    """All variance in one direction: 1/d of what a ball has, whatever the scale."""
    line = gaussian(800, 1) * torch.ones(1, 20)
    assert isotropy(line).spectral == pytest.approx(1 / 20, rel=0.05)
    x = gaussian(50, 8)
    a, b = isotropy(x), isotropy(1e6 * x)
    assert a.raw == pytest.approx(b.raw, abs=1e-9)
    assert a.spectral == pytest.approx(b.spectral, rel=1e-6)


@given(n=st.integers(2, 12), d=st.integers(1, 6), seed=st.integers(0, 999))
def test_isotropy_is_the_mean_pairwise_cosine(n: int, d: int, seed: int) -> None:
    x = gaussian(n, d, seed).double()

    def by_pairs(y: Tensor) -> float:
        u = y / y.norm(dim=1, keepdim=True)
        cosine = u @ u.T
        mean = (cosine.sum() - cosine.diagonal().sum()) / (n * (n - 1))
        return float((1 - mean).clamp(0, 1))

    found = isotropy(x)
    assert found.raw == pytest.approx(by_pairs(x), abs=1e-9)
    assert 0 <= found.spectral <= 1


@given(n=st.integers(3, 12), d=st.integers(2, 6), seed=st.integers(0, 999))
def test_centred_isotropy_is_the_mean_absolute_cosine_against_chance(
    n: int, d: int, seed: int
) -> None:
    """Chance is drawn, not computed: |first coordinate| of uniform directions."""
    x = gaussian(n, d, seed).double()
    y = x - x.mean(0)
    u = y / y.norm(dim=1, keepdim=True)
    cosine = (u @ u.T).abs()
    mean = (cosine.sum() - cosine.diagonal().sum()) / (n * (n - 1))
    many = gaussian(200_000, d, 7).double()
    chance = float((many[:, 0] / many.norm(dim=1)).abs().mean())
    expected = min(max(float((1 - mean) / (1 - chance)), 0.0), 1.0)
    assert isotropy(x).centred == pytest.approx(expected, abs=0.02)


def test_a_line_reads_zero_centred_however_far_it_lies() -> None:
    line = gaussian(300, 1) * torch.ones(1, 20) + 5.0 * gaussian(1, 20, seed=1)
    assert isotropy(line).centred == pytest.approx(0.0, abs=1e-6)


def test_isotropy_of_nothing_is_not_a_number() -> None:
    for x in (
        torch.zeros(1, 4),
        torch.zeros(0, 4),
        torch.zeros(5, 4),
        torch.full((3, 4), float("nan")),
    ):
        assert math.isnan(isotropy(x).raw)


@pytest.mark.parametrize("name", ["gpt2", "phi"])
def test_isotropy_in_a_trace_is_that_of_its_states_and_nearest_bases(
    spaces: Spaces, name: str
) -> None:
    space = spaces[name]
    trace = space.trace(PROMPT, k=5)
    states = space.model.read_out(space.model.states(space.tokenize(PROMPT).ids).raw)
    frame = space.frame("output")
    for i, found in enumerate(trace.isotropy):
        whole = isotropy(states[i])
        assert found.layer == i
        assert found.raw == pytest.approx(whole.raw, abs=1e-5)
        assert found.centred == pytest.approx(whole.centred, abs=1e-5)
        assert found.spectral == pytest.approx(whole.spectral, abs=1e-5)
        near = [isotropy(frame.vectors(row)) for row in trace.top_ids[i]]
        assert found.near_raw == pytest.approx(sum(n.raw for n in near) / len(near), abs=1e-5)
        assert found.near_centred == pytest.approx(
            sum(n.centred for n in near) / len(near), abs=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["cosine", "l2"])
def test_a_trace_stays_within_its_memory(spaces: Spaces, geometry: str) -> None:
    """With 50 listed tokens in 320 dimensions, whose vectors alone would be 15 MiB."""
    space = spaces.fresh("wide", limits=Limits(memory_budget_mib=8))
    prompt = "a" * 120
    wanted = spaces["wide"].trace(prompt, k=50, geometry=geometry)
    space.states(prompt)
    # The budget holds for each reading; the answer itself and the states come on top.
    assert peak_bytes(lambda: space.trace(prompt, k=50, geometry=geometry)) <= 9 * 2**20
    for a, b in zip(
        space.trace(prompt, k=50, geometry=geometry).isotropy, wanted.isotropy, strict=True
    ):
        assert a.near_raw == pytest.approx(b.near_raw, rel=1e-4)
        assert a.near_centred == pytest.approx(b.near_centred, rel=1e-4)
