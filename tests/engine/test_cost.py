"""What a run will need: a planted law is found again, and a known allocation is seen."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import PROMPT, Spaces

import engine.reading.read as read_module
from engine.cost import CostModel, Measured, Work, measured, timed
from engine.progress import no_check
from engine.reading.geometries.geometry import Rows
from engine.trace.options import TraceOptions

CPU = torch.device("cpu")
WITHIN = 0.25
"""Row N4."""


def work(tokens: int, states: int, vocabulary: int = 50_000, forward: bool = True) -> Work:
    return Work(
        forward_tokens=tokens if forward else 0,
        states=states,
        vocabulary=vocabulary,
        width=256,
        layers=12,
        tokens=tokens,
        k=10,
        budget_bytes=256 * 2**20,
    )


def law(job: Work) -> float:
    """Seconds: a constant, tokens through the model, products, states."""
    return (
        0.004
        + 2e-4 * job.forward_tokens
        + 3e-3 * job.states * job.vocabulary * 1e-6
        + 1e-5 * job.states
    )


def test_a_planted_law_of_time_is_found_again() -> None:
    """From noisy runs of many sizes, new ones are foretold within a few per cent."""
    noise = np.random.default_rng(0)
    model = CostModel()
    for n in range(24):
        tokens = int(noise.integers(4, 600))
        job = work(tokens, tokens * int(noise.integers(1, 13)), forward=n % 3 != 0)
        model.add(job, Measured(law(job) * float(noise.uniform(0.95, 1.05)), 0))
    sizes = ((20, 13, True), (300, 13, True), (300, 2, False), (900, 6, True))
    for tokens, layers, forward in sizes:
        job = work(tokens, tokens * layers, forward=forward)
        assert model.seconds(job) == pytest.approx(law(job), rel=0.1)


def test_what_always_grows_together_is_told_apart_by_runs_alone() -> None:
    """At load each trace reads all layers of its tokens; model and product are run alone besides,
    and then a work of many runs, many tokens and few products is foretold."""

    def own(job: Work) -> float:
        rows = job.vocabulary * 1e-6
        return (
            4e-3 * job.passes
            + 2e-4 * job.forward_tokens
            + (3e-3 * job.states + 5e-4 * job.products) * rows
        )

    model = CostModel()
    for tokens in (4, 12, 32):
        alone = replace(work(tokens, 0), states=0)
        product = replace(alone, forward_tokens=0, passes=0, products=tokens)
        for job in (work(tokens, 13 * tokens), alone, product):
            model.add(job, Measured(own(job), 0))
    mixed = replace(work(3000, 0), products=300, passes=40)
    assert model.seconds(mixed) == pytest.approx(own(mixed), rel=0.05)


def test_a_machine_that_becomes_slower_is_followed() -> None:
    model = CostModel()
    jobs = [work(t, t * 13) for t in (10, 40, 160, 320) * 12]
    for job in jobs:
        model.add(job, Measured(law(job), 0))
    for job in jobs:
        model.add(job, Measured(3 * law(job), 0))
    assert model.seconds(jobs[2]) == pytest.approx(3 * law(jobs[2]), rel=0.1)


def test_an_overloaded_machine_foretells_what_an_idle_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clocks that count their readings: the thread has a processor for one second in ten."""
    device, foretold = torch.device("cpu"), []
    for busy in (1, 10):
        clock = itertools.count(step=busy)
        monkeypatch.setattr("engine.cost.clock", lambda clock=clock: next(clock))
        own = itertools.count()
        monkeypatch.setattr("engine.cost.time.thread_time", lambda own=own: next(own))
        model = CostModel()
        for job in (work(10, 130), work(40, 520)):
            with timed(device) as spent:
                pass
            assert (spent.seconds, spent.busy) == (busy, 1)
            model.add(job, spent)
        foretold.append(model.seconds(work(20, 260)))
    assert foretold[0] == pytest.approx(foretold[1])
    with timed(torch.device("meta")) as spent:  # another device works while the thread waits
        pass
    assert spent.busy == 0


def test_no_prediction_is_negative_and_more_work_never_costs_less() -> None:
    noise = np.random.default_rng(1)
    model = CostModel()
    assert model.seconds(work(10, 100)) == 0.0
    for _ in range(6):
        job = work(int(noise.integers(1, 50)), int(noise.integers(1, 500)))
        model.add(job, Measured(float(noise.uniform(0.001, 0.1)), int(noise.integers(0, 10**8))))
    small, large = work(5, 10), work(500, 6000)
    assert 0 <= model.seconds(small) <= model.seconds(large)
    assert 0 < model.bytes(small) <= model.bytes(large)


def test_memory_stops_growing_with_the_blocks_at_the_budget() -> None:
    """What is foretold for states grows; what is foretold for blocks of scores does not."""
    model = CostModel()
    few, many = work(1000, 13_000, vocabulary=10_000), work(1000, 13_000, vocabulary=250_000)
    assert model.bytes(few) == model.bytes(many)
    assert model.bytes(many) < 2 * 256 * 2**20


def test_memory_is_scaled_by_what_runs_needed_in_truth() -> None:
    model, job = CostModel(), work(200, 2600)
    before = model.bytes(job)
    for _ in range(3):
        model.add(job, Measured(1.0, 2 * before))
    assert model.bytes(job) == pytest.approx(2 * before, rel=0.01)


@pytest.mark.parametrize("mebibytes", [24, 96])
def test_an_allocation_of_a_known_size_is_seen(mebibytes: int) -> None:
    size = mebibytes * 2**20
    with measured(CPU) as spent:
        block = torch.ones(size // 4)
        block += 1
        del block
    assert spent.bytes == pytest.approx(size, rel=WITHIN)
    assert spent.seconds > 0


def test_what_was_there_before_is_not_counted() -> None:
    held = torch.ones(2**24)
    with measured(CPU) as spent:
        total = float(held.sum())
    assert total == 2**24
    assert spent.bytes < 16 * 2**20


def test_a_measurement_is_taken_also_where_the_work_fails() -> None:
    caught: list[Measured] = []

    def fail() -> None:
        with measured(CPU) as spent:
            caught.append(spent)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert caught[0].seconds > 0


def test_a_trace_says_its_cost_before_and_after(spaces: Spaces) -> None:
    space = spaces.fresh("gpt2")
    before = space.predict_cost(26)
    trace = space.trace(PROMPT)
    assert before.predicted_seconds > 0
    assert before.predicted_bytes > 0
    assert trace.cost.seconds is not None
    assert trace.cost.seconds > 0
    assert trace.cost.bytes is not None
    assert before.predicted_bytes == pytest.approx(trace.cost.predicted_bytes, rel=0.01)
    longer = space.predict_cost(120)
    assert longer.predicted_bytes > before.predicted_bytes
    assert longer.predicted_seconds >= before.predicted_seconds


@pytest.mark.parametrize(
    "settings",
    [{}, {"words_only": True}, {"layers": "1:3", "positions": "0:4"}, {"frame": "random", "k": 50}],
)
def test_the_work_that_is_foretold_is_the_work_that_is_done(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    """Tokens through the model, and products of states with the whole vocabulary, as hooks count
    them: those of the reading, those of words alone, and one of each position for its answer."""
    space = spaces.fresh("gpt2")
    options = TraceOptions(**settings)  # type: ignore[arg-type]
    tokens, through, entries = len(space.tokenize(PROMPT).ids), [], []
    foretold = space._work(tokens, options, forward_tokens=tokens)
    forward, product = space.model.module.forward, read_module.products

    def passing(*given: object, **more: torch.Tensor) -> object:
        through.append(more["input_ids"].numel())
        return forward(*given, **more)

    def multiplied(
        rows: Rows, block: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        found = product(rows, block, out)
        entries.append(found.numel())
        return found

    space._temperatures_for(options, no_check)
    monkeypatch.setattr(space.model.module, "forward", passing)
    monkeypatch.setattr(read_module, "products", multiplied)
    trace = space.trace(PROMPT, options)
    assert sum(through) == foretold.forward_tokens
    rows = foretold.states + foretold.again + len(trace.positions)
    distinct = foretold.states * len(set(trace.final_ids.tolist()))  # for the targets' own scores
    assert sum(entries) == rows * foretold.vocabulary + distinct


def test_a_setting_that_was_never_run_is_foretold_by_its_parts(spaces: Spaces) -> None:
    """Planted costs of a unit of each kind of work; reading for words alone was seen once, on few
    states, and never together with a run of the model."""

    def own(job: Work) -> float:
        entries = job.vocabulary * 1e-6
        return (
            4e-3 * job.passes
            + 2e-4 * job.forward_tokens
            + 3e-3 * job.states * entries
            + (2e-3 * job.again * entries)
        )

    model = CostModel()
    for tokens in (4, 12, 32):
        whole = work(tokens, 13 * tokens)
        for job in (whole, replace(whole, states=0)):
            model.add(job, Measured(own(job), 0))
    few = replace(work(4, 52, forward=False), passes=0, again=52)
    model.add(few, Measured(own(few), 0))
    words = replace(work(60, 780), again=780)
    assert model.seconds(words) == pytest.approx(own(words), rel=0.02)
    assert own(words) > 1.3 * own(replace(words, again=0))


def test_a_frame_that_is_drawn_anew_is_counted_and_one_that_is_kept_is_not(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = spaces.fresh("gpt2")
    options = TraceOptions(frame="random")
    first = space._work(9, options, forward_tokens=9)
    assert first.made > 4 * space.model.vocabulary * space.model.width
    space.frame("random")
    kept = space._work(9, options, forward_tokens=9)
    assert (kept.drawn, kept.made) == (0, 0)
    monkeypatch.setattr("engine.frames.frame._DRAWN", 0)
    assert space._work(9, options, forward_tokens=9).drawn > 0
