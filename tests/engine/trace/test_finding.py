"""From where on an answer is nearest: by hand, by another route, and beside chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import PROMPT, Spaces

from engine import LatentSpace
from engine.errors import LayerError
from engine.frames.frame import Frame
from engine.trace.compute import leaders
from engine.trace.finding import Finding, find, settled_from


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_it_settles_where_nothing_else_follows(ranks: list[int]) -> None:
    layers = [3 * i for i in range(len(ranks))]
    wanted = [layer for i, layer in enumerate(layers) if all(rank == 1 for rank in ranks[i:])]
    assert settled_from(ranks, layers) == (wanted[0] if wanted else None)


@pytest.mark.parametrize("geometry", ["cosine", "l2", "matmul"])
@pytest.mark.parametrize("options", [{}, {"centred": True}, {"layers": "1:4"}, {"frame": "tight"}])
def test_ranks_are_those_of_the_trace_and_of_random_vectors(
    geometry: str, options: dict[str, object], spaces: Spaces
) -> None:
    space = spaces["llama"]
    trace = space.trace(PROMPT, geometry=geometry, **options)
    chance = space.trace(PROMPT, geometry=geometry, **{**options, "frame": "random"})
    for at in (0, -1):
        found = space.finding(PROMPT, geometry=geometry, position=trace.positions[at], **options)
        assert found.position == trace.positions[at]
        assert list(found.ranks) == trace.final_rank[:, at].tolist()
        assert list(found.control_ranks) == chance.final_rank[:, at].tolist()
        assert found.settled == settled_from(trace.final_rank[:, at].tolist(), trace.layers)


def test_what_chance_does_as_early_is_not_beyond_it() -> None:
    def one(settled: int | None, control: int | None) -> Finding:
        return Finding(0, (1,), settled, (1,), control)

    assert one(3, None).beyond_chance
    assert one(3, 4).beyond_chance
    assert not one(3, 3).beyond_chance
    assert not one(4, 3).beyond_chance
    assert not one(None, None).beyond_chance


def test_a_control_that_holds_the_answer_is_found_out() -> None:
    """Planted: vectors in which the states themselves stand at the answer's place."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 8, generator=generator)
    states = rows[7].repeat(4, 1) + 0.01 * torch.randn(4, 8, generator=generator)
    planted = Frame("planted", rows, None, rows.norm(dim=1), rows.double().mean(0))
    found = find(
        2, (0, 1, 2, 3), (9, 1, 1, 1), states, 7, planted, "cosine", centred=False,
        budget_bytes=2**20,
    )  # fmt: skip
    assert found.settled == 1
    assert found.control_ranks == (1, 1, 1, 1)
    assert not found.beyond_chance
    assert found.control_named


def test_a_position_without_an_answer_has_none() -> None:
    rows = torch.eye(4)
    planted = Frame("planted", rows, None, rows.norm(dim=1), rows.double().mean(0))
    found = find(
        0, (0, 1), (0, 0), torch.zeros(2, 4), -1, planted, "cosine", centred=False,
        budget_bytes=2**20,
    )  # fmt: skip
    assert (found.settled, found.control_settled) == (None, None)
    assert found.to_dict()["best_rank"] is None


def test_a_position_that_was_not_read_is_refused(spaces: Spaces) -> None:
    with pytest.raises(LayerError, match="position 0 is not among those read, 2 to 2"):
        spaces["llama"].finding(PROMPT, positions="2", position=0)


def test_the_answer_leads_and_two_rivals_follow(spaces: Spaces) -> None:
    trace = spaces["llama"].trace(PROMPT)
    position = trace.positions[1]
    found = leaders(trace, position)
    answer = int(trace.final_ids[1])
    assert found[0] == answer
    rest = [i for i in trace.top_ids[-1, 1].tolist() if i != answer]
    assert list(found[1:]) == rest[:2]


@pytest.mark.real
@pytest.mark.slow
def test_paris_settles_at_layer_25_and_by_chance_never(smollm2: LatentSpace) -> None:
    found = smollm2.finding("The capital of France is")
    assert found.settled == 25
    assert not found.control_named
    assert found.beyond_chance
    assert np.argmin(found.ranks) == 25
