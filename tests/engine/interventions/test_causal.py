"""The causal map against one patch at a time, and the smallest nudge against its two laws."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, PROMPT, Spaces

from engine.errors import OptionError, PromptError
from engine.interventions import causal
from engine.interventions.causal import CausalMap, causal_map
from engine.interventions.effect import answers
from engine.interventions.nudge import along, nudge, products
from engine.model.anatomy import hidden_argument
from engine.progress import drain

ROUNDING = 2e-4
"""Of a contrast recovered: float32 through three blocks, in batches of other shapes."""
SHORT, TWIN = "The king ran", "The dog ran"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_cell_is_one_patch_and_its_answer(spaces: Spaces, name: str) -> None:
    """By hooks, one cell after another, from the embedding up; in the map, blocks are skipped."""
    space, twin = spaces[name], TWIN
    found = drain(causal_map(space, SHORT, twin))
    ids, other = space.tokenize(SHORT).ids, space.tokenize(twin).ids
    a, b = found.answers[0].id, found.followed.id

    def contrast(row: torch.Tensor) -> float:
        return float(row[b] - row[a])

    ends = [space.model.logits(one)[-1].double() for one in (ids, other)]
    assert [int(row.argmax()) for row in ends] == [one.id for one in found.answers]
    start, goal = map(contrast, ends)
    for layer in found.layers:
        for position in found.positions:
            with space.act("patch", source=twin, layers=str(layer), positions=str(position)):
                row = space.model.logits(ids)[-1].double()
            want = (contrast(row) - start) / (goal - start)
            scale = max(1.0, abs(want), 10 / abs(goal - start))
            assert abs(found.recovered[layer, position] - want) <= ROUNDING * scale
            assert found.probability[layer, position] == pytest.approx(
                float(row.softmax(0)[b]), abs=1e-4
            )
    last = found.recovered[-1]
    assert last[-1] == pytest.approx(1, abs=1e-3), "at the last layer the last word is all"
    assert np.abs(last[:-1]).max() <= 1e-3


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_work_of_a_map_is_what_was_counted(
    spaces: Spaces, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens and runs by hooks on the blocks, rows where the head reads: exactly what is foretold,
    in one batch of positions and in several."""
    space = spaces[name]
    ids, twin = (space.tokenize(text).ids for text in (f"{SHORT} to", f"{TWIN} to"))
    blocks, seen = space.model.anatomy.blocks, {"tokens": 0, "runs": 0, "rows": 0}

    def count(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        state = hidden_argument(args, kwargs)
        assert state is not None
        seen["runs"] += 1
        seen["tokens"] += state.shape[0] * state.shape[1]

    def counted_answers(space: Any, raw: torch.Tensor) -> torch.Tensor:
        seen["rows"] += len(raw)
        return answers(space, raw)

    monkeypatch.setattr(causal, "answers", counted_answers)
    handles = [one.register_forward_pre_hook(count, with_kwargs=True) for one in blocks]
    try:
        for at_once in (1024, 2 * len(ids)):
            monkeypatch.setattr(causal, "_TOKENS_AT_ONCE", at_once)
            seen.update(tokens=0, runs=0, rows=0)
            drain(causal_map(space, f"{SHORT} to", f"{TWIN} to"))
            found = causal.counted(ids, twin, len(blocks))
            assert seen == {"tokens": found.block_tokens, "runs": found.block_runs,
                            "rows": found.rows}  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()


def test_a_map_that_took_longer_than_foretold_teaches_what_the_next_one_takes(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unit costs measured while other programs had the processors: planted a hundred times too
    small. The map's own steps are timed, what is done between them is not."""
    space = spaces.fresh("llama")
    ticks = itertools.count()
    monkeypatch.setattr("engine.cost.time.thread_time", lambda: float(next(ticks)))
    foretold = space.predict_causal_map(SHORT, TWIN)
    steps, count = space.causal_map(SHORT, TWIN), 0
    for _ in steps:
        count += 1
        next(ticks)  # another's turn
    took = count + 1.0  # a step takes one tick of this clock, and the end of the work one more
    assert foretold < took / 100
    assert space.predict_causal_map(SHORT, TWIN) == pytest.approx(took)


def test_the_sentence_follows_the_carriers() -> None:
    """Planted: a fact that moves from one place to the next."""

    def grid(*rows: tuple[float, ...]) -> np.ndarray:
        return np.array(rows, np.float32)

    recovered = grid((0, 1, 0), (0, 0.9, 0), (0, 0.4, 0.4), (0, 0, 1), (0, 0, 1))
    planted = CausalMap(
        "", "", (), (), (0, 1, 2, 3, 4), (0, 1, 2), (None, None), None,  # type: ignore[arg-type]
        recovered, recovered, np.zeros_like(recovered),
    )  # fmt: skip
    assert planted.carriers == ((1, 0, 1), (2, 3, 4))
    as_good = CausalMap(
        "", "", (), (), (0, 1, 2, 3, 4), (0, 1, 2), (None, None), None,  # type: ignore[arg-type]
        recovered, recovered, recovered,
    )  # fmt: skip
    assert as_good.carriers == (), "an unrelated state does as much"


@pytest.mark.parametrize(
    ("twin", "error", "words"),
    [
        (f"{SHORT} to", PromptError, "as many tokens"),
        (SHORT, PromptError, "the prompt itself"),
        ("", PromptError, "empty"),
    ],
)
def test_twins_that_cannot_be_compared(
    spaces: Spaces, twin: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        drain(causal_map(spaces["llama"], SHORT, twin))


def test_twins_with_one_answer_and_long_ones_are_refused(spaces: Spaces) -> None:
    space = spaces["llama"]
    with pytest.raises(PromptError, match="at most 64"):
        drain(causal_map(space, "x" * 70, "z" * 70))
    bare = spaces["gpt2"]  # without attention or MLP only the last word is read
    with bare.act("zero", layers="1:", positions=":"), pytest.raises(OptionError, match="alike"):
        drain(causal_map(bare, "The king ran", "The dog ran"))


def test_twins_that_are_answered_alike_follow_what_the_twin_raises_most(spaces: Spaces) -> None:
    """By hand, and the ends of the scale: all states of the twin give all of the contrast."""
    space = spaces["opt_proj"]
    ids = space.tokenize(SHORT).ids
    own = space.model.logits(ids)[-1].double().log_softmax(0)
    a = int(own.argmax())
    for word in ("cat", "house", "old", "queen", "girl", "happy", "was", "sat"):
        text = SHORT.replace("king", word)
        other = space.tokenize(text).ids
        twin = space.model.logits(other)[-1].double().log_softmax(0)
        if len(other) == len(ids) and int(twin.argmax()) == a:
            break
    else:
        raise AssertionError("none of the words leaves the answer as it is")
    gain = twin.exp() * (twin - own - (twin[a] - own[a]))
    found = drain(causal_map(space, SHORT, text))
    assert found.followed.id == int(gain.argmax()) != a
    assert found.recovered[-1, -1] == pytest.approx(1, abs=1e-3)
    assert [one.id for one in found.answers] == [a, a]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "phi"])
def test_the_nudge_moves_its_contrast_exactly_and_disturbs_the_rest_least(
    spaces: Spaces, name: str
) -> None:
    """Both laws in float64: against the solution of the constrained least squares problem, and
    against random changes that move the contrast as far."""
    space = spaces[name]
    weight = space.model.anatomy.weight.detach().double()
    target, answer = 40, 90
    row = weight[target] - weight[answer]
    d = len(row)
    # min ‖WΔ‖² under row·Δ = 1, by its Lagrange conditions.
    gram = weight.T @ weight
    system = torch.zeros(d + 1, d + 1, dtype=torch.float64)
    system[:d, :d], system[:d, d], system[d, :d] = 2 * gram, row, row
    right = torch.zeros(d + 1, dtype=torch.float64)
    right[d] = 1
    solved = torch.linalg.solve(system, right)[:d]
    step = along(space, "output", target, answer)
    assert torch.allclose(step, solved, rtol=1e-5, atol=1e-8 * float(solved.abs().max()))
    assert torch.allclose(products(space, step), weight @ step, rtol=1e-6, atol=1e-9)
    least, shortest = float((weight @ step).square().sum()), along(space, "head", target, answer)
    assert float(row @ step) == pytest.approx(1, abs=1e-4)
    assert float(row @ shortest) == pytest.approx(1, abs=1e-4)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        other = torch.randn(d, generator=generator, dtype=torch.float64)
        other = other / (row @ other)
        assert float((weight @ other).square().sum()) >= least
        assert float(other.norm()) >= float(shortest.norm())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "phi", "cohere"])
def test_after_the_nudge_the_token_is_the_models_answer(spaces: Spaces, name: str) -> None:
    """The state is moved by it and read by the model's own head; a little less does not do."""
    space = spaces[name]
    anatomy = space.model.anatomy
    raw = space.states(PROMPT).raw
    state = space.model.read_out(raw[-1:, -1])[0].double()
    logits = anatomy.head(state.float()).detach()
    order = logits.argsort(descending=True).tolist()
    for target in (order[1], order[30]):
        found = nudge(space, PROMPT, target)
        assert found.answer == order[0]
        for way in found.ways:
            if way.delta is None:
                continue
            step = way.delta * along(space, way.frame, target, found.answer)
            moved = anatomy.head((state + step).float()).detach()
            assert int(moved.argmax()) == target
            change = float((moved - logits)[target] - (moved - logits)[found.answer])
            assert change == pytest.approx(way.delta, abs=1e-4 * max(1, abs(way.delta)))
            less = anatomy.head((state + step * (1 - 0.02 / way.delta)).float())
            assert int(less.argmax()) != target
            assert way.size == pytest.approx(float(step.norm() / state.norm()))
            change = (moved - logits).double().square()
            change[[target, found.answer]] = 0
            assert way.others == pytest.approx(float(change.sum()), rel=1e-3)
    with pytest.raises(OptionError, match="already"):
        nudge(space, PROMPT, order[0])
