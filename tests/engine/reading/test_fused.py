"""The compiled passes against float64 and against torch's own passes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from engine.frames.decomposition import decompose
from engine.frames.frame import Frame
from engine.frames.kinds import build_frame
from engine.frames.kinds.kind import Source
from engine.reading import fused
from engine.reading.geometries import GEOMETRIES
from engine.reading.read import read
from engine.reading.similarity import divergence, scores

V, D = 3000, 24
RELATIVE = 1e-5
"""Of sums of float32 against those of float64, in units of the largest energy or 1."""


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every reading is large enough."""
    monkeypatch.setattr(fused, "LEAST", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frame(name: str = "output") -> Frame:
    """With a crowd of copies a few last places apart, more than are noted in passing."""
    rows = draw(V, D, seed=1) + 0.3
    rows[500:600] = rows[499] * (1 + 1e-7 * draw(100, D, seed=2))
    source = Source(weight=rows, embedding=rows, decomposition=decompose(rows))
    return build_frame(name, source)


def states() -> Tensor:
    """Of lengths from a thousandth to a hundred thousand, and one in the crowd."""
    out = draw(13, D, seed=3) * torch.logspace(-3, 5, 13)[:, None]
    out[6] = frame("head").vectors([499])[0].float()
    return out


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("temperature", [0.05, 1.0, 7.0])
def test_sums_lists_and_ranks_are_those_of_float64(geometry: str, temperature: float) -> None:
    given, there = frame("head"), states()
    targets = torch.tensor([[499, 7]]).repeat(len(there), 1)
    allowed = torch.ones(V, dtype=torch.bool)
    allowed[::3] = False
    found = read(
        given,
        there,
        geometries=(geometry,),
        k=9,
        targets=targets,
        allowed=allowed,
        temperatures={geometry: temperature},
    )[geometry]
    b, r = given.vectors(torch.arange(V)), there.double()
    every = r @ b.T
    if geometry == "cosine":
        every = every / (r.norm(dim=1, keepdim=True) * b.norm(dim=1))
    if geometry == "l2":
        every = -(r[:, None] - b).square().sum(2)
    energy = every / temperature
    slack = RELATIVE * energy.abs().amax(1).clamp_min(1)
    p = energy.softmax(1)
    assert bool(((found.log_partition - energy.logsumexp(1)).abs() <= slack).all())
    entropy = torch.special.entr(p).sum(1)
    assert bool(((found.entropy - entropy).abs() <= slack * (1 + entropy)).all())
    best = every.masked_fill(~allowed, -torch.inf).topk(9).values
    near = RELATIVE * every.abs().amax(1, keepdim=True)
    assert bool(((every.gather(1, found.ids) - best).abs() <= near).all())
    assert bool(allowed[found.ids].all())
    assert bool((found.probabilities.sum(1) <= 1 + RELATIVE).all())
    if geometry != "l2":  # whose float64 by differences rounds otherwise within the crowd
        assert torch.equal(
            found.ranks, 1 + (every[:, None] > every.gather(1, targets)[..., None]).sum(2)
        )


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("centred", [False, True])
def test_they_are_those_of_torchs_passes(centred: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = torch.arange(13)[:, None] * 40 + 480

    def found() -> list[Tensor]:
        got = read(frame(), states(), k=5, targets=targets, centred=centred)
        return [x for one in got.values() for x in (one.ids, one.ranks, one.entropy)]

    ours = found()
    monkeypatch.setattr(fused, "LEAST", 10**12)
    for a, b in zip(ours, found(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("compiled")
def test_a_kl_is_that_of_float64() -> None:
    given = frame("head")
    layers, last = (
        draw(4, 7, D, seed=4) * torch.logspace(-1, 2, 4)[:, None, None],
        draw(7, D, seed=5),
    )
    found = divergence(given, torch.cat([layers, last[None]]), last)
    logits = lambda x: (x.double() @ given.vectors(torch.arange(V)).T).log_softmax(-1)  # noqa: E731
    p = logits(last)
    wanted = (p.exp() * (p - logits(layers))).sum(-1)
    torch.testing.assert_close(found[:-1].double(), wanted, rtol=1e-4, atol=1e-5)
    assert float(found[-1].max()) <= 1e-5


@pytest.mark.usefixtures("compiled")
def test_gradients_pass() -> None:
    """Where a slope is wanted torch's passes are taken."""
    given, there = frame("head"), draw(3, D, seed=6).requires_grad_()
    read(given, there, geometries=("matmul",))["matmul"].log_partition.sum().backward()
    assert there.grad is not None
    p = scores(given, there.detach(), "matmul").double().softmax(1)
    wanted = p @ given.vectors(torch.arange(V))
    torch.testing.assert_close(there.grad.double(), wanted, rtol=1e-4, atol=1e-4)
