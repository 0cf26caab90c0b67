"""Readings against brute force in float64: scores, lists, ranks, entropy, gradients, borders."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, PROMPT, Spaces, peak_bytes
from torch import Tensor

from engine.errors import OptionError
from engine.frames.decomposition import decompose
from engine.frames.frame import Frame
from engine.frames.kinds import FRAMES, build_frame
from engine.frames.kinds.kind import Source
from engine.reading.geometries import GEOMETRIES
from engine.reading.read import read
from engine.reading.regions import borders
from engine.reading.similarity import divergence, resolve, scores

SCORE = 1e-5
"""Of a float32 score against float64, relative to the largest score."""
NATS = 2e-4
"""Of an entropy, a log-partition or a divergence."""
SHARES = 1e-5
"""Row N13: shares sum to 1."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(100 + seed))


def frame_of(name: str, weight: Tensor, **more: Any) -> Frame:
    given = {"embedding": draw(*weight.shape, seed=7), "decomposition": decompose(weight)} | more
    return build_frame(name, Source(weight=weight, **given))


def head(v: int = 600, d: int = 24, seed: int = 0) -> Tensor:
    """A head with a common mean, spread norms, copies of a row and rows of zeros."""
    rows = draw(v, d, seed=seed) * (0.3 + draw(v, 1, seed=seed + 1).abs()) + 0.3
    rows[51:54] = rows[50]
    rows[-3:] = 0.0
    return rows


BIAS = 0.5 * draw(600, seed=3)


def capped(product: Tensor) -> Tensor:
    return 5.0 * torch.tanh(product * 0.5 / 5.0)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": BIAS},
    "cap": {"finish": capped, "embedding_scale": 3.0},
}


def brute_vectors(frame: Frame) -> Tensor:
    """b_i in float64 (their truth is tested in test_frames)."""
    return frame.vectors(torch.arange(frame.size))


def brute(frame: Frame, states: Tensor, geometry: str, *, centred: bool = False) -> Tensor:
    """Every score by its formula, float64, differentiable. States centred by the caller."""
    b, r = brute_vectors(frame), states.double()
    if centred:
        b = b - b.mean(0)  # a head bias moves every basis alike, so it is gone
    elif frame.shift is not None:
        r = r + frame.shift
    if geometry == "cosine":
        # A vector of zeros has no direction: it is similar to nothing.
        lengths = b.norm(dim=1)
        unit = torch.where(lengths[:, None] > 1e-12, b / lengths[:, None].clamp_min(1e-300), 0.0)
        return (r / r.norm(dim=1, keepdim=True)) @ unit.T
    if geometry == "l2":
        return -((r[:, None, :] - b[None]) ** 2).sum(-1)
    product = r @ b.T
    if frame.bias is not None:
        product = product + frame.bias.double()
    return product if frame.finish is None else frame.finish(product)


CASES = [
    pytest.param((name, variant, centred), id=f"{name}-{variant}{'-centred' if centred else ''}")
    for name in FRAMES
    for variant in VARIANTS
    for centred in (False, True)
]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Frame, bool]:
    name, variant, centred = request.param
    return frame_of(name, head(), **VARIANTS[variant]), centred


def states_of(n: int = 9, d: int = 24, seed: int = 11) -> Tensor:
    """States of spread norms, one of them zero but for a little."""
    out = draw(n, d, seed=seed) * torch.logspace(-1, 1.5, n)[:, None]
    out[-1] *= 1e-6
    return out


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_scores_equal_the_formula(case: tuple[Frame, bool], geometry: str) -> None:
    frame, centred = case
    states = states_of()
    wanted = brute(frame, states, geometry, centred=centred)
    ours = scores(frame, states, geometry, centred=centred)
    assert ours.dtype == torch.float32
    scale = wanted.abs().amax(1, keepdim=True).clamp_min(1e-6)
    assert float(((ours - wanted).abs() / scale).max()) <= 10 * SCORE
    ids = [599, 0, 51, 50, 51]
    some = scores(frame, states, geometry, ids=ids, centred=centred)
    torch.testing.assert_close(some, ours[:, ids], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperatures", [None, {"cosine": 1.0, "l2": 30.0, "matmul": 0.3}])
def test_readings_equal_brute_force(
    case: tuple[Frame, bool], temperatures: dict[str, float] | None
) -> None:
    """Top-k, probabilities, entropy, log-partition, target scores: one pass, in small chunks."""
    frame, centred = case
    states = states_of(6, seed=12)
    targets = torch.tensor([[0, 51]] * 6)
    found = read(
        frame,
        states,
        k=7,
        targets=targets,
        centred=centred,
        temperatures=temperatures,
        budget_bytes=200_000,
    )
    assert set(found) == set(GEOMETRIES)
    for geometry, reading in found.items():
        t = (temperatures or {}).get(geometry, GEOMETRIES[geometry].temperature)
        assert reading.temperature == t
        wanted = brute(frame, states, geometry, centred=centred)
        grain = 20 * SCORE * wanted.abs().amax(1, keepdim=True)
        best = wanted.topk(7, dim=1).values
        assert bool(((reading.scores - best).abs() <= grain).all())
        # The ids are those of the scores, all different, nearest first.
        assert bool(((wanted.gather(1, reading.ids) - reading.scores).abs() <= grain).all())
        assert all(len(set(row)) == 7 for row in reading.ids.tolist())
        assert bool((reading.scores.diff(dim=1) <= 0).all())
        log_p = torch.log_softmax(wanted / t, dim=1)
        entropy = -(log_p.exp() * log_p).sum(1)
        slack = NATS + grain[:, 0] / t * 5
        partition = torch.logsumexp(wanted / t, dim=1)
        assert bool(((reading.log_partition - partition).abs() <= slack).all())
        assert bool(((reading.entropy - entropy).abs() <= slack * (1 + entropy)).all())
        assert bool((reading.entropy >= 0).all())
        assert bool((reading.entropy <= math.log(600) + 1e-4).all())
        p = log_p.exp()
        relative = (reading.probabilities - p.gather(1, reading.ids)).abs()
        assert bool((relative <= 4 * slack[:, None] * p.gather(1, reading.ids) + 1e-7).all())
        assert bool((reading.probabilities.sum(1) <= 1 + 1e-5).all())
        assert bool(((reading.target_scores - wanted[:, [0, 51]]).abs() <= grain).all())
        assert bool(
            (
                (reading.target_probabilities - p[:, [0, 51]]).abs()
                <= 4 * slack[:, None] * p[:, [0, 51]] + 1e-7
            ).all()
        )


def test_exact_ranks_count_every_larger_score(case: tuple[Frame, bool]) -> None:
    """1 + the number of larger scores, for tokens near and far; equal scores share a rank."""
    frame, centred = case
    states = states_of(5, seed=13)
    wanted = torch.tensor([[3, 50, 51, 53, 598, 120]] * 5)
    found = read(frame, states, k=5, targets=wanted, centred=centred, budget_bytes=150_000)
    for geometry, reading in found.items():
        truth = brute(frame, states, geometry, centred=centred)
        own = truth.gather(1, wanted)
        grain = 20 * SCORE * truth.abs().amax(1, keepdim=True)
        least = 1 + (truth[:, :, None] > (own + grain)[:, None, :]).sum(1)
        most = 1 + (truth[:, :, None] > (own - grain)[:, None, :]).sum(1)
        assert bool((reading.ranks >= least).all())
        assert bool((reading.ranks <= most).all())


@given(seed=st.integers(0, 10_000), v=st.integers(2, 700), k=st.integers(1, 50))
def test_ranks_and_lists_are_exact_on_whole_numbers(seed: int, v: int, k: int) -> None:
    """Small whole numbers have no rounding: ranks and lists must be right to the last tie."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randint(-2, 3, (v, 4), generator=g).float()
    rows[0] = torch.tensor([1.0, 0, 0, 0])
    states = torch.randint(-3, 4, (5, 4), generator=g).float()
    states[:, 0] += 8.0
    targets = torch.randint(0, v, (5, 3), generator=g)
    frame = frame_of("head", rows)
    found = read(
        frame, states, geometries=("l2", "matmul"), k=k, targets=targets, budget_bytes=100_000
    )
    # With bit-equal norms the l2 scores are whole numbers too.
    exact = replace(frame, norms=rows.double().square().sum(1).sqrt().float())
    for geometry, reading in found.items():
        truth = brute(exact, states, geometry)
        rounded = truth.round()
        assert float((truth - rounded).abs().max()) < 1e-9
        best = rounded.topk(min(k, v), dim=1).values
        if geometry == "matmul":
            assert torch.equal(reading.scores.double(), best)
            own = rounded.gather(1, targets)
            assert torch.equal(reading.ranks, 1 + (rounded[:, :, None] > own[:, None]).sum(1))
        else:
            torch.testing.assert_close(reading.scores.double(), best, rtol=0, atol=1e-4)


def test_copies_of_the_target_never_push_its_rank_down() -> None:
    """A row that stands four times in the head has rank 1 where it is nearest, by each geometry."""
    rows = head()
    for name in ("output", "head", "tight", "input"):
        frame = frame_of(name, rows, embedding=rows)
        states = frame.vectors([50, 50, 52]).float() * 3
        targets = torch.tensor([[50, 51, 52, 53]] * 3)
        for budget in (100_000, 2**28):
            for k in (1, 2, 10):
                found = read(
                    frame,
                    states,
                    k=k,
                    targets=targets,
                    budget_bytes=budget,
                    geometries=("cosine",),
                    vectors=True,
                )
                assert torch.equal(found["cosine"].ranks, torch.ones(3, 4, dtype=torch.long))


# --- the same numbers whatever the chunks ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("budget", [1, 40_000, 300_000, 3_000_000])
def test_budget_changes_no_number(name: str, budget: int) -> None:
    rows = draw(2500, 12, seed=2)
    frame = frame_of(name, rows)
    states, targets = states_of(40, 12), torch.arange(80).reshape(40, 2) * 31
    whole = read(frame, states, targets=targets, k=9)
    cut = read(frame, states, targets=targets, k=9, budget_bytes=budget)
    for geometry in GEOMETRIES:
        a, b = whole[geometry], cut[geometry]
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.ranks, b.ranks)
        for field in ("scores", "log_partition", "entropy", "target_scores", "probabilities"):
            torch.testing.assert_close(getattr(a, field), getattr(b, field), rtol=2e-5, atol=2e-5)


def test_the_peak_of_memory_is_seen() -> None:
    peak = peak_bytes(lambda: (torch.zeros(1000, 1000) + 1).exp().sum())
    assert peak == pytest.approx(8_000_000, rel=0.01)


@pytest.mark.parametrize("what", ["read", "read centred", "borders", "divergence"])
def test_memory_stays_within_the_budget(what: str) -> None:
    """Whatever v and n: the whole block of scores would be 32 MiB, the budget is 6."""
    v, n, d, budget = 8192, 1024, 32, 6 * 2**20
    frame = frame_of("head", draw(v, d, seed=4))
    states = draw(n, d, seed=5)
    targets = torch.randint(0, v, (n, 1), generator=torch.Generator().manual_seed(0))
    layers = states.view(4, n // 4, d)

    def work() -> object:
        if what == "borders":
            return borders(frame, states, targets[:, 0], "cosine", budget_bytes=budget)
        if what == "divergence":
            return divergence(frame, layers, layers[-1], budget_bytes=budget)
        return read(
            frame,
            states,
            k=10,
            targets=targets,
            budget_bytes=budget,
            centred=what == "read centred",
        )

    read(frame, states[:64], k=10, centred=True)  # what is computed once is not counted
    with torch.no_grad():
        assert peak_bytes(work) <= 1.05 * budget


def test_no_states_give_empty_readings() -> None:
    frame = frame_of("output", head())
    found = read(frame, torch.zeros(0, 24), k=3)
    assert found["cosine"].ids.shape == (0, 3)
    distance, _ = borders(frame, torch.zeros(0, 24), torch.zeros(0, dtype=torch.long), "l2")
    assert distance.shape == (0,)


def test_nothing_given_is_changed() -> None:
    frame, states = frame_of("output", head()), states_of()
    rows, before = frame.block(0, frame.size).clone(), states.clone()
    reading = read(frame, states)
    borders(frame, states, reading["l2"].ids[:, 0], "l2", near=reading["l2"])
    divergence(frame, states[None], states)
    assert torch.equal(states, before)
    assert torch.equal(frame.block(0, frame.size), rows)


@pytest.mark.parametrize("where", ["read", "borders", "divergence"])
def test_work_stops_at_its_next_chunk_when_the_check_raises(where: str) -> None:
    frame, states = frame_of("head", draw(9000, 4)), draw(50, 4)
    calls = []

    class Stop(Exception):
        pass

    def check() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise Stop

    own = torch.zeros(50, dtype=torch.long)
    work = {
        "read": lambda: read(frame, states, check=check),
        "borders": lambda: borders(frame, states, own, "l2", check=check),
        "divergence": lambda: divergence(frame, states[None], states, check=check),
    }[where]
    with pytest.raises(Stop):
        work()


# --- filters and refusals -------------------------------------------------------------------------


def test_a_filter_changes_which_tokens_are_listed_and_no_number(spaces: Spaces) -> None:
    """Row L8."""
    frame = frame_of("output", head())
    states, targets = states_of(), torch.tensor([[17]] * 9)
    allowed = torch.zeros(600, dtype=torch.bool)
    allowed[torch.arange(0, 600, 7)] = True
    plain = read(frame, states, k=600, targets=targets)
    some = read(frame, states, k=20, targets=targets, allowed=allowed, budget_bytes=100_000)
    for geometry in GEOMETRIES:
        a, b = plain[geometry], some[geometry]
        for row in range(9):
            kept = [
                (i, s, p)
                for i, s, p in zip(
                    a.ids[row].tolist(),
                    a.scores[row].tolist(),
                    a.probabilities[row].tolist(),
                    strict=True,
                )
                if i % 7 == 0
            ][:20]
            assert [i for i, _, _ in kept] == b.ids[row].tolist()
            torch.testing.assert_close(
                torch.tensor([s for _, s, _ in kept]), b.scores[row], rtol=1e-5, atol=1e-5
            )
            torch.testing.assert_close(
                torch.tensor([p for _, _, p in kept]), b.probabilities[row], rtol=1e-4, atol=1e-9
            )
        torch.testing.assert_close(a.entropy, b.entropy, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a.log_partition, b.log_partition, rtol=1e-5, atol=1e-5)
        assert torch.equal(a.ranks, b.ranks)


def test_fewer_allowed_tokens_than_k_leave_empty_places() -> None:
    frame = frame_of("head", head())
    allowed = torch.zeros(600, dtype=torch.bool)
    allowed[[3, 5]] = True
    found = read(frame, states_of(), k=4, allowed=allowed)["cosine"]
    assert {3, 5, -1} == set(found.ids.flatten().tolist())
    assert bool((found.ids[:, 2:] == -1).all())
    assert bool((found.probabilities[:, 2:] == 0).all())


def test_an_unknown_geometry_is_refused() -> None:
    frame = frame_of("head", head())
    for work in (
        lambda: scores(frame, states_of(), "euclid"),
        lambda: read(frame, states_of(), geometries=("dot",)),
        lambda: borders(frame, states_of(), torch.zeros(9, dtype=torch.long), "dot"),
    ):
        with pytest.raises(OptionError, match="cosine, l2, matmul"):
            work()


def test_large_scores_keep_their_entropy() -> None:
    """Two tokens of equal, huge score share all: entropy log 2, whatever the offset."""
    rows = torch.zeros(300, 4)
    rows[:2] = torch.tensor([3000.0, 1, 0, 0])
    rows[2:] = draw(298, 4)
    frame = frame_of("head", rows)
    state = torch.tensor([[30.0, 0, 0, 0]])
    found = read(frame, state, geometries=("matmul",), budget_bytes=1)["matmul"]
    assert float(found.entropy[0]) == pytest.approx(math.log(2), abs=NATS)
    torch.testing.assert_close(
        found.probabilities[0, :2], torch.tensor([0.5, 0.5]), atol=1e-4, rtol=0
    )


# --- gradients ------------------------------------------------------------------------------------


def gradient(f: Any, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (out,) = torch.autograd.grad(f(x), x)
    return out


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(
    ("name", "variant"),
    [("output", "bias"), ("head", "cap"), ("tight", "plain"), ("random", "plain")],
)
def test_every_score_is_differentiable_in_the_state(
    name: str, variant: str, geometry: str, centred: bool
) -> None:
    """Row S4: gradients of scores, lists, log-partition and entropy against those of float64."""
    frame = frame_of(name, head(), **VARIANTS[variant])
    states = draw(4, 24, seed=21)
    t = {"cosine": 0.2, "l2": 20.0, "matmul": 2.0}
    weights = draw(4, 600, seed=22)
    pick = torch.tensor([[5, 9]] * 4)

    def truth(x: Tensor) -> Tensor:
        return brute(frame, x, geometry, centred=centred)

    chosen = truth(states).topk(6, dim=1).indices

    def ours(field: str) -> Any:
        def f(x: Tensor) -> Tensor:
            found = read(
                frame,
                x,
                geometries=(geometry,),
                k=6,
                temperatures=t,
                centred=centred,
                targets=pick,
                budget_bytes=60_000,
            )[geometry]
            value = getattr(found, field)
            return (value * value.detach().cos()).sum() if field != "entropy" else value.sum()

        return f

    def theirs(field: str) -> Any:
        def f(x: Tensor) -> Tensor:
            x = x.double()
            log_p = torch.log_softmax(truth(x) / t[geometry], 1)
            value = {
                "scores": lambda: truth(x).gather(1, chosen),
                "target_scores": lambda: truth(x).gather(1, pick),
                "log_partition": lambda: torch.logsumexp(truth(x) / t[geometry], 1),
                "probabilities": lambda: log_p.exp().gather(1, chosen),
                "entropy": lambda: -(log_p.exp() * log_p).sum(1),
            }[field]()
            return (value * value.detach().cos()).sum() if field != "entropy" else value.sum()

        return f

    cases = [
        (
            gradient(
                lambda x: (scores(frame, x, geometry, centred=centred) * weights).sum(), states
            ),
            gradient(lambda x: (truth(x) * weights).sum(), states),
        )
    ]
    for field in ("scores", "target_scores", "log_partition", "probabilities", "entropy"):
        cases.append((gradient(ours(field), states), gradient(theirs(field), states)))
    for mine, wanted in cases:
        assert float((mine - wanted).norm() / wanted.norm().clamp_min(1e-6)) <= 2e-3


def test_gradients_equal_finite_differences() -> None:
    """A second route: central differences along random directions, without any autograd."""
    frame = frame_of("output", head(120, 8)[:, :8])
    temperature = {"cosine": 0.2, "l2": 20.0, "matmul": 2.0}
    states = draw(3, 8, seed=31).double()
    for geometry in GEOMETRIES:
        for field in ("entropy", "log_partition"):

            def f(x: Tensor, geometry: str = geometry, field: str = field) -> Tensor:
                found = read(frame, x.float(), geometries=(geometry,), temperatures=temperature)
                return getattr(found[geometry], field).double().sum()

            slope = gradient(f, states)
            for seed in range(3):
                u = draw(3, 8, seed=40 + seed).double()
                h = 1e-2
                with torch.no_grad():
                    numeric = float(f(states + h * u) - f(states - h * u)) / (2 * h)
                along = float((slope * u).sum())
                assert numeric == pytest.approx(along, rel=2e-2, abs=2e-3)


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("budget", [1, 400_000, 2**28])
def test_divergence_equals_brute_force_and_is_0_at_the_reference(variant: str, budget: int) -> None:
    frame = frame_of("head", head(), **VARIANTS[variant])
    states = draw(4, 11, 24, seed=51)
    found = divergence(frame, states, states[-1], budget_bytes=budget)
    log_q = torch.log_softmax(
        torch.stack([brute(frame, layer, "matmul") for layer in states]), dim=-1
    )
    log_p = log_q[-1]
    wanted = (log_p.exp() * (log_p - log_q)).sum(-1)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=NATS)
    assert float(found.min()) >= 0.0
    assert float(found[-1].abs().max()) <= 1e-5


# --- borders --------------------------------------------------------------------------------------


def brute_borders(
    frame: Frame, states: Tensor, geometry: str, *, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The region, the least distance to any wall and every wall, over all pairs in float64."""
    b, r = brute_vectors(frame), states.double()
    if centred:
        b = b - b.mean(0)
    elif frame.shift is not None:
        r = r + frame.shift
    offset = torch.zeros(len(b), dtype=torch.float64)
    if geometry == "cosine":
        lengths = b.norm(dim=1, keepdim=True)
        b = torch.where(lengths > 1e-12, b / lengths.clamp_min(1e-300), 0.0)
        r = r / r.norm(dim=1, keepdim=True)
    elif geometry == "l2":
        offset = -(b**2).sum(1) / 2
    elif frame.bias is not None:
        offset = frame.bias.double()
    f = r @ b.T + offset  # linear, ordered as the scores are
    own = f.argmax(1)
    gap = f.gather(1, own[:, None]) - f
    span = (b[own][:, None] - b[None]).norm(dim=2)
    least = 1e-3 * b[own].norm(dim=1)[:, None]
    wall = torch.where(span > least, gap / span, torch.inf)
    if geometry == "cosine":
        wall = wall.clamp(max=1).asin()
    return own, wall.amin(1), wall


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("listed", [0, 5, 40])
def test_distance_to_the_border_equals_brute_force_over_all_pairs(
    case: tuple[Frame, bool], geometry: str, listed: int
) -> None:
    """Row S3; by the short cut through a list of near tokens and without it."""
    frame, centred = case
    states = draw(24, 24, seed=61) * 2
    # Some states deep inside a region, as near a basis as a half.
    inside = torch.arange(0, 480, 60)
    states[:8] = frame.vectors(inside).float() * 1.2 + 0.05 * draw(8, 24, seed=62)
    own, distance, walls = brute_borders(frame, states, geometry, centred=centred)
    near = None
    if listed:
        near = read(frame, states, geometries=(geometry,), k=listed, centred=centred)[geometry]
    found, beyond = borders(
        frame, states, own, geometry, near=near, centred=centred, budget_bytes=300_000
    )
    torch.testing.assert_close(found.double(), distance, rtol=1e-3, atol=1e-5)
    assert float(found.min()) >= 0.0
    assert bool((beyond != own).all())
    # The token beyond is the one whose wall it is (or another wall just as near).
    at = walls.gather(1, beyond[:, None]).squeeze(1)
    torch.testing.assert_close(at, distance, rtol=1e-3, atol=1e-5)


def test_borders_in_the_plane_are_those_a_ruler_finds() -> None:
    """Four points and a state in 2-D, each distance worked out by hand."""
    rows = torch.tensor([[2.0, 0], [0, 2.0], [-2.0, 0], [0, -2.0]])
    frame = frame_of("head", rows)
    state, own = torch.tensor([[1.0, 0.25]]), torch.tensor([0])
    # l2 and matmul: the wall between (2,0) and (0,2) is the line x = y.
    for geometry in ("l2", "matmul"):
        distance, beyond = borders(frame, state, own, geometry)
        assert float(distance[0]) == pytest.approx(0.75 / math.sqrt(2), rel=1e-6)
        assert int(beyond[0]) == 1
    # cosine: the same line, 45° from the axis; the state stands at atan(1/4).
    distance, beyond = borders(frame, state, own, "cosine")
    assert float(distance[0]) == pytest.approx(math.pi / 4 - math.atan(0.25), rel=1e-6)
    assert int(beyond[0]) == 1
    # A state on the border is at distance 0; one on the axis is as far from both sides.
    distance, _ = borders(frame, torch.tensor([[1.0, 1.0]]), own, "l2")
    assert float(distance[0]) == pytest.approx(0.0, abs=1e-7)
    distance, _ = borders(frame, torch.tensor([[3.0, 0.0]]), own, "cosine")
    assert float(distance[0]) == pytest.approx(math.pi / 4, rel=1e-6)


def test_a_token_whose_vector_is_zero_stands_behind_a_wall_too() -> None:
    """A row of zeros has cosine 0 with every state, so a region ends where its own cosine is 0."""
    frame = frame_of("head", torch.tensor([[1.0, 0], [0, 0]]))
    distance, beyond = borders(frame, torch.tensor([[1.0, 1.0]]), torch.tensor([0]), "cosine")
    assert float(distance[0]) == pytest.approx(math.pi / 4, rel=1e-6)
    assert int(beyond[0]) == 1


def test_moving_a_state_by_its_distance_reaches_the_border_and_not_before() -> None:
    """A walk straight to the nearest wall: the region stays until there and changes after."""
    frame = frame_of("head", draw(200, 6, seed=71))
    states = draw(20, 6, seed=72)
    b = brute_vectors(frame)
    own = brute(frame, states, "l2").argmax(1)
    distance, beyond = borders(frame, states, own, "l2")
    way = b[beyond] - b[own]
    way = way / way.norm(dim=1, keepdim=True)
    for share, changed in ((0.98, False), (1.02, True)):
        there = states.double() + share * distance[:, None].double() * way
        now = brute(frame, there.float(), "l2").argmax(1)
        assert bool(((now != own) == changed).all())


# --- the exact resolution -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_state_is_the_sum_of_its_logits_times_the_bases(spaces: Spaces, name: str) -> None:
    """Row N13 on every architecture: r = Σ z_i s_i, shares that sum to 1, at each layer."""
    space = spaces[name]
    states = space.model.read_out(space.model.states(space.tokenize(PROMPT).ids).raw)
    output, frame, tight = (space.frame(n) for n in ("output", "head", "tight"))
    s = brute_vectors(output)
    w = space.model.anatomy.weight.detach().double()
    for state in (states[0, 0], states[1, -1], states[-1, 3]):
        found = resolve(output, frame, tight, state)
        assert float(found.signed.double().sum()) == pytest.approx(1.0, abs=SHARES)
        assert float(found.parseval.double().sum()) == pytest.approx(1.0, abs=SHARES)
        assert float(found.parseval.min()) >= 0.0
        assert found.error <= SHARES
        r = state.double() + (output.shift if output.shift is not None else 0)
        z = w @ r
        torch.testing.assert_close(
            found.logits.double(), z, rtol=0, atol=SCORE * float(z.abs().max())
        )
        assert float((z @ s - r).norm() / r.norm()) <= 1e-9
        signed = z * (s @ r) / (r @ r)
        torch.testing.assert_close(
            found.signed.double(), signed, rtol=0, atol=SHARES * float(signed.abs().max())
        )
        t = brute_vectors(tight)
        torch.testing.assert_close(
            found.parseval.double(), (t @ r) ** 2 / (r @ r), rtol=0, atol=SHARES
        )


def test_beside_what_the_head_spans_the_shares_sum_to_what_is_inside(spaces: Spaces) -> None:
    """On a head of rank 24 in 32 dimensions: ‖P r‖²/‖r‖², and the error says the rest."""
    space = spaces["deficient"]
    state = space.model.read_out(space.model.states(space.tokenize(PROMPT).ids).raw)[-1, 2]
    found = resolve(space.frame("output"), space.frame("head"), space.frame("tight"), state)
    w = space.model.anatomy.weight.detach().double()
    inside = torch.linalg.pinv(w, rtol=1e-6) @ w @ state.double()
    share = float(inside.norm() ** 2 / state.double().norm() ** 2)
    assert share < 0.99
    assert float(found.signed.double().sum()) == pytest.approx(share, abs=SHARES)
    assert float(found.parseval.double().sum()) == pytest.approx(share, abs=SHARES)
    assert found.error == pytest.approx((1 - share) ** 0.5, abs=1e-4)


@given(v=st.integers(3, 60), d=st.integers(2, 10), seed=st.integers(0, 9999))
def test_every_cosine_is_in_range_and_norm_free(v: int, d: int, seed: int) -> None:
    """Cosines lie in [−1, 1] and do not change with a state's length; l2 is never positive."""
    rows, states = draw(v, d, seed=seed), draw(3, d, seed=seed + 1)
    for name in FRAMES:
        frame = frame_of(name, rows)
        cosine = scores(frame, states, "cosine")
        assert float(cosine.abs().max()) <= 1 + 1e-5
        torch.testing.assert_close(
            cosine, scores(frame, 1000 * states, "cosine"), rtol=1e-4, atol=1e-5
        )
        near = scores(frame, frame.vectors([0]).float(), "l2", vectors=True)
        scale = float(frame.norms.max()) ** 2
        assert float(near.max()) <= 1e-5 * scale
        assert float(near[0, 0]) == pytest.approx(0.0, abs=1e-4 * scale)
