"""Near ties: ranks and lists equal those of float64, where float32 alone does not tell."""

from __future__ import annotations

import pytest
import torch
from tiny_models import Spaces
from torch import Tensor

from engine.frames.decomposition import decompose
from engine.frames.frame import Frame
from engine.frames.kinds import FRAMES, build_frame
from engine.frames.kinds.kind import Source
from engine.reading.geometries import GEOMETRIES
from engine.reading.read import read


def crowded(v: int = 600, d: int = 16) -> Tensor:
    """Rows in crowds: twelve to a crowd, a last place of float32 or a few apart."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(v // 12, d, generator=generator).repeat_interleave(12, 0)
    noise = torch.randn(v, d, generator=generator)
    return centres * (1 + 2e-7 * noise)


def frame_of(name: str, weight: Tensor, **more: object) -> Frame:
    source = Source(weight=weight, embedding=weight, decomposition=decompose(weight), **more)  # type: ignore[arg-type]
    return build_frame(name, source)


def truth(frame: Frame, states: Tensor, geometry: str, *, centred: bool) -> Tensor:
    """All scores in float64, up to what is the same for a whole row."""
    b = frame.vectors(torch.arange(frame.size))
    placed = states.double()
    if centred:
        b = b - frame.mean
    else:
        placed = frame.place(placed)
    dots = placed @ b.T
    if geometry == "matmul":
        return dots if frame.bias is None else dots + frame.bias.double()
    if geometry == "cosine":
        return dots / b.norm(dim=1)
    return 2 * dots - b.square().sum(1)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("centred", [False, True])
def test_ranks_and_lists_in_a_crowd_are_those_of_float64(
    name: str, geometry: str, centred: bool
) -> None:
    weight = crowded()
    frame = frame_of(name, weight, bias=torch.linspace(-1, 1, 600))
    states = weight[::7].repeat(2, 1) + 0.3
    targets = torch.arange(0, 600, 7).repeat(2).unsqueeze(1)[: len(states)]
    found = read(frame, states, geometries=(geometry,), k=20, targets=targets, centred=centred)[
        geometry
    ]
    every = truth(frame, states, geometry, centred=centred)
    own = every.gather(1, targets)
    wanted = 1 + (every > own).sum(1, keepdim=True)
    assert torch.equal(found.ranks, wanted)
    listed = every.gather(1, found.ids)
    assert bool((listed[:, :-1] >= listed[:, 1:]).all()), "nearest first"


def test_float32_alone_would_not_have_told() -> None:
    """So that the test above cannot pass by itself."""
    weight = crowded()
    every32 = weight[::7] @ weight.T
    every64 = weight[::7].double() @ weight.double().T
    own = torch.arange(0, 600, 7)[:, None]
    ranks = [1 + (e > e.gather(1, own)).sum(1) for e in (every32, every64)]
    assert int((ranks[0] != ranks[1]).sum()) > 10


def test_where_states_swamp_the_distances_their_order_stays(spaces: Spaces) -> None:
    """A state ten thousand times as long as the vectors: −‖r − b‖² in float32 has few values."""
    space = spaces["llama"]
    frame = space.frame("output")
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(8, space.model.width, generator=generator)
    states *= 1e4 * frame.norms.median()
    own = truth(frame, states, "l2", centred=False)
    targets = own.topk(7).indices[:, 6:]
    found = read(frame, states, geometries=("l2",), k=7, targets=targets)["l2"]
    assert torch.equal(found.ids, own.topk(7).indices)
    assert found.ranks[:, 0].tolist() == [7] * 8
    shown = -(states.double().square().sum(1, keepdim=True) - own.gather(1, found.ids))
    torch.testing.assert_close(found.scores.double(), shown, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "phi"])
def test_every_rank_of_a_models_states_is_exact(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    states = space.model.read_out(space.states("The king and the queen went.").raw)
    flat = states.reshape(-1, states.shape[-1])
    targets = (torch.arange(len(flat)) * 7 % space.model.vocabulary)[:, None]
    for one in ("output", "tight", "dial"):
        frame = space.frame(one)
        found = read(frame, flat, k=10, targets=targets)
        for geometry in GEOMETRIES:
            every = truth(frame, flat, geometry, centred=False)
            wanted = 1 + (every > every.gather(1, targets)).sum(1, keepdim=True)
            assert torch.equal(found[geometry].ranks, wanted), (one, geometry)
