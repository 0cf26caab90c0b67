"""A state in a few vectors: planted sums, brute force in float64, exhaustive search, chance."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from tiny_models import PROMPT, Spaces

from engine.frames.decomposition import decompose
from engine.frames.frame import Frame
from engine.frames.kinds import FRAMES, build_frame
from engine.frames.kinds.kind import Source
from engine.reading.pursuit import MOST, by_chance, pursue

EQUAL = 1e-9
"""Of shares and weights, all of which are worked out in float64."""
FOUND = 1e-6
"""Of a planted sum: a state is float32."""


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frame_of(name: str, v: int, d: int, **more: Any) -> Frame:
    weight = drawn(v, d, seed=1) * (0.3 + drawn(v, 1, seed=2).abs())
    given = {"embedding": drawn(v, d, seed=3), "decomposition": decompose(weight)} | more
    return build_frame(name, Source(weight=weight, **given))


def units(frame: Frame) -> Any:
    vectors = frame.vectors(range(frame.size)).numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(unit: Any, r: Any, k: int) -> tuple[list[int], Any, list[float]]:
    """The same pursuit over every vector, in float64."""
    r = r / np.linalg.norm(r)
    residue, ids, weights, shares = r, [], np.empty(0), []
    for _ in range(k):
        along = unit @ residue
        if along.max() <= FOUND * np.linalg.norm(residue) or np.linalg.norm(residue) < FOUND:
            break
        ids.append(int(along.argmax()))
        weights, rest = nnls(unit[ids].T, r)
        residue = r - weights @ unit[ids]
        shares.append(1 - rest**2)
    return ids, weights, shares


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_pursuit_by_brute_force(name: str, bias: bool) -> None:
    frame = frame_of(name, 300, 24, bias=drawn(300, seed=4) if bias else None)
    unit = units(frame)
    for seed in range(4):
        state = drawn(24, seed=10 + seed)
        found = pursue(frame, state)
        r = frame.place(state.unsqueeze(0))[0].double().numpy()
        ids, weights, shares = by_hand(unit, r, MOST)
        assert list(found.ids) == ids
        np.testing.assert_allclose(found.weights, weights, atol=EQUAL)
        np.testing.assert_allclose(found.shares, shares, atol=EQUAL)
        # What the sum says of itself: its parts, and its direction.
        whole = np.array(found.weights) @ unit[ids]
        assert sum(found.parts) == pytest.approx(found.shares[-1], abs=EQUAL)
        cosine = whole @ r / np.linalg.norm(whole) / np.linalg.norm(r)
        assert found.cosines[-1] == pytest.approx(cosine, abs=EQUAL)
        assert min(found.weights) >= 0
        assert list(found.shares) == sorted(found.shares)


@pytest.mark.parametrize("name", ["output", "head", "random"])
def test_planted_sums_are_found_again(name: str) -> None:
    frame = frame_of(name, 400, 256)
    unit = units(frame)
    planted = {17: 3.0, 203: 2.0, 88: 1.5, 350: 1.0}
    state = sum(a * unit[i] for i, a in planted.items())
    found = pursue(frame, torch.from_numpy(state).float())
    largest = dict(zip(found.ids[:4], found.weights[:4], strict=True))
    assert set(largest) == set(planted)
    assert found.shares[3] == pytest.approx(1.0, abs=FOUND)
    for i, a in planted.items():
        assert largest[i] * np.linalg.norm(state) == pytest.approx(a, rel=1e-4)


def test_no_sum_of_one_is_better_and_a_planted_pair_is_the_best_of_all_pairs() -> None:
    """Exhaustive search over a tiny vocabulary."""
    frame = frame_of("output", 40, 30)
    unit = units(frame)

    def best(r: Any, k: int) -> tuple[set[int], float]:
        sets = (list(ids) for ids in combinations(range(40), k))
        rests = {tuple(ids): nnls(unit[ids].T, r)[1] for ids in sets}
        ids = min(rests, key=lambda one: rests[one])
        return set(ids), 1 - rests[ids] ** 2

    for seed in range(5):
        state = drawn(30, seed=30 + seed)
        r = state.double().numpy() / float(state.double().norm())
        for k in (1, 2):
            found, (ids, share) = pursue(frame, state, k), best(r, k)
            assert found.shares[-1] <= share + EQUAL  # a pursuit is greedy
            if k == 1:
                assert set(found.ids) == ids
                assert found.shares[-1] == pytest.approx(share, abs=EQUAL)
        pair = unit[seed] + 0.8 * unit[20 + seed]
        both = set(pursue(frame, torch.from_numpy(pair).float(), 2).ids)
        assert both == best(pair / np.linalg.norm(pair), 2)[0] == {seed, 20 + seed}


def test_vectors_of_zero_and_copies_are_taken_never_and_once() -> None:
    weight = drawn(60, 16, seed=1)
    weight[7:9] = weight[5]
    weight[-4:] = 0.0
    source = Source(weight=weight, embedding=weight, decomposition=decompose(weight))
    for name in ("output", "head"):
        frame = build_frame(name, source)
        for state in (drawn(16, seed=3), weight[5], -weight[5]):
            ids = pursue(frame, state).ids
            assert not set(ids) & set(range(56, 60))
            assert len({5, 7, 8} & set(ids)) <= 1


def test_a_state_that_points_along_nothing_is_no_sum() -> None:
    weight = drawn(8, 8, seed=1).abs() + 0.1  # no row points into the opposite corner
    source = Source(weight=weight, embedding=weight, decomposition=decompose(weight))
    assert pursue(build_frame("head", source), -torch.ones(8)).ids == ()
    assert pursue(build_frame("head", source), torch.zeros(8)).ids == ()


def test_chance_has_the_law_of_vocabularies_that_are_drawn() -> None:
    """Against literal random directions and pursuits over them."""
    v, d, runs = 200, 12, 60
    rng = np.random.default_rng(5)
    literal = np.ones((runs, MOST))
    for n in range(runs):
        unit = rng.standard_normal((v, d))
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        shares = by_hand(unit, rng.standard_normal(d), MOST)[2]
        literal[n, : len(shares)] = shares
    ours = by_chance(v, d, draws=runs)
    for k in (0, 2, 5):
        spread = np.hypot(literal[:, k].std(), ours[:, k].std()) / runs**0.5
        assert abs(literal[:, k].mean() - ours[:, k].mean()) < 4 * spread
    assert (np.diff(ours, axis=1) >= -EQUAL).all()
    # The best of v directions: cos² = 2 ln v / d to first order, where d is large.
    wide = by_chance(5000, 2000, 1)
    assert wide.mean() == pytest.approx(2 * np.log(5000) / 2000, rel=0.25)


def test_the_control_frame_explains_what_chance_does(spaces: Spaces) -> None:
    """A model's random frame against the law that stands beside it."""
    space = spaces["llama"]
    frame = space.frame("random")
    shares = [pursue(frame, drawn(frame.width, seed=s), 5).shares[-1] for s in range(40)]
    law = by_chance(frame.size, frame.width, 5, draws=100)[:, -1]
    spread = np.hypot(np.std(shares) / 40**0.5, law.std() / 10)
    assert abs(np.mean(shares) - law.mean()) < 4 * spread
    assert space.in_words(PROMPT, -1, -1, frame="random").sums[0].frame == "random"
