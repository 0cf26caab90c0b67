"""The evaluation: resampling against brute force, pairing, bookkeeping of time, plain sentences."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from method_tasks import quick_settings, small_context, small_task
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
from tiny_models import Spaces
from waiting import Clock

from engine.calibration.evidence import evaluation, peft_tuning, protocol, resampling
from engine.calibration.evidence.evaluation import evaluate
from engine.calibration.evidence.evaluation_result import Average, Cell, Difference
from engine.calibration.evidence.findings import counted, draw_conclusions, signed
from engine.calibration.evidence.methods import METHODS, VARIANTS, methods_named, run_method
from engine.calibration.evidence.metrics import Interval
from engine.calibration.evidence.protocol import (
    CLOCKS,
    MethodSettings,
    Outcome,
    Stopwatch,
    softmax,
    timed,
)
from engine.calibration.evidence.resampling import Bootstrap, Draws
from engine.calibration.evidence.untaught_words import TaskLabels, words_given
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.errors import NonFiniteError, OptionError
from engine.progress import Progress, drain


def accuracy_draws(right: list[NDArray[np.bool_]], *, seed: int = 0) -> Draws:
    """Of runs on the same rows."""
    return Bootstrap.same_rows(len(right[0]), len(right), seed=seed).accuracy(right)


def difference_draws(first: list[NDArray[np.bool_]], second: list[NDArray[np.bool_]]) -> Draws:
    """Of two methods that ran on the same rows, paired."""
    drawn = Bootstrap.same_rows(len(first[0]), len(first))
    return drawn.accuracy(first).minus(drawn.accuracy(second))


def test_calibration_is_set_against_every_trained_rival() -> None:
    rivals = {m.name for m in METHODS.values() if m.kind == "trained"}
    assert {("calibration-sm", name) for name in rivals} <= set(evaluation.COMPARED)


def test_accuracy_draws_equal_a_plain_bootstrap() -> None:
    """Drawing counts and drawing rows are the same: percentiles agree within their own noise."""
    draw = np.random.default_rng(0)
    right = draw.random(400) < 0.7
    found = accuracy_draws([right]).interval
    means = [right[draw.integers(0, 400, 400)].mean() for _ in range(4000)]
    assert found.value == right.mean()
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.012)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.012)


def test_seeds_that_differ_widen_the_interval() -> None:
    """Three seeds of the same rows, alike or far apart."""
    alike = [np.arange(200) < 120] * 3
    apart = [np.arange(200) < n for n in (80, 120, 160)]
    narrow, wide = accuracy_draws(alike).interval, accuracy_draws(apart).interval
    assert narrow.value == pytest.approx(wide.value)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_difference_draws_are_paired() -> None:
    """Two methods that are right on the same rows differ by nothing, and surely so."""
    right = np.random.default_rng(1).random(300) < 0.6
    same = difference_draws([right], [right]).interval
    assert (same.value, same.low, same.high) == (0, 0, 0)
    other = right.copy()
    other[:30] = ~other[:30]
    found = difference_draws([right], [other]).interval
    draw = np.random.default_rng(2)
    gaps = right.astype(float) - other
    means = [gaps[draw.integers(0, 300, 300)].mean() for _ in range(4000)]
    assert found.value == pytest.approx(gaps.mean())
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.012)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.012)
    with pytest.raises(OptionError, match="each row of each seed"):
        difference_draws([right], [right[:5]])
    with pytest.raises(OptionError, match="no run"):
        Bootstrap([])


def test_a_deterministic_method_gains_nothing_by_seeds() -> None:
    """On one test file three runs of the same answers are one run, exactly; paired ones too."""
    right = np.random.default_rng(7).random(260) < 0.6
    other = np.random.default_rng(8).random(260) < 0.5
    assert accuracy_draws([right] * 3).interval == accuracy_draws([right]).interval
    three = difference_draws([right] * 3, [other] * 3).interval
    assert three == difference_draws([right], [other]).interval
    labels = np.arange(260) % 3
    said = np.where(right, labels, 0)
    one, thrice = (
        Bootstrap.same_rows(260, n).macro_f1([labels] * n, [said] * n, 3).interval for n in (1, 3)
    )
    assert (one.low, one.high) == pytest.approx((thrice.low, thrice.high))


def test_shared_rows_are_drawn_once() -> None:
    """Three seeds that share all rows, half of them, none: an interval by how many rows there are.

    Disjoint rows give the narrower interval of seeds that are drawn on their own: the mean of three
    seeds picked with replacement has 5/9 of the variance of one.
    """
    draw = np.random.default_rng(11)
    truth = draw.random(1200) < 0.7

    def width(rows: list[np.ndarray]) -> float:
        one = Bootstrap(rows, seed=1).accuracy([truth[own] for own in rows]).interval
        return one.high - one.low

    def alike(starts: tuple[int, ...]) -> list[np.ndarray]:
        return [np.arange(start, start + 400) for start in starts]

    truth[400:800] = truth[:400]  # every third as often right: seeds differ in nothing
    truth[800:] = truth[:400]
    single, shared, disjoint = (
        width(alike((0,))),
        width(alike((0, 0, 0))),
        width(alike((0, 400, 800))),
    )
    assert shared == single
    assert disjoint / single == pytest.approx(5**0.5 / 3, abs=0.05)
    assert disjoint < width([np.arange(400), np.arange(200, 600), np.arange(400, 800)]) < single


def test_bootstrap_equals_rows_drawn_by_hand() -> None:
    """Overlapping seeds: lists of drawn rows, looked up in each seed, give the same percentiles."""
    draw = np.random.default_rng(21)
    rows = [np.sort(draw.choice(150, 100, replace=False)) + 1000 for _ in range(3)]
    right = [draw.random(100) < p for p in (0.5, 0.6, 0.7)]
    found = Bootstrap(rows).accuracy(right).interval
    union = sorted(set(np.concatenate(rows).tolist()))
    repeated = []
    for _ in range(3000):
        drawn = draw.choice(union, len(union))
        shares = []
        for s in draw.integers(0, 3, 3):
            hit = dict(zip(rows[s].tolist(), right[s].tolist(), strict=True))
            shares.append(np.mean([hit[r] for r in drawn.tolist() if r in hit]))
        repeated.append(np.mean(shares))
    assert found.value == pytest.approx(np.mean([r.mean() for r in right]))
    assert found.low == pytest.approx(np.quantile(repeated, 0.025), abs=0.015)
    assert found.high == pytest.approx(np.quantile(repeated, 0.975), abs=0.015)


@pytest.mark.slow
def test_intervals_cover_the_truth_where_seeds_share_rows() -> None:
    """200 test files of 150 rows, five seeds that agree on most: 95 % is 95 %.

    A row is right for all seeds or for none but for one row in ten; what is estimated is the share
    of rows that are right in the population, 0.6. Drawing rows for each seed on its own covers it
    far less often.
    """
    draw = np.random.default_rng(31)
    covered = alone = 0
    for trial in range(200):
        base = draw.random(150) < 0.6
        runs = [np.where(draw.random(150) < 0.1, draw.random(150) < 0.6, base) for _ in range(5)]
        ours = accuracy_draws(runs, seed=trial).interval
        apart = [np.arange(150) + 1000 * s for s in range(5)]
        theirs = Bootstrap(apart, seed=trial).accuracy(runs).interval
        covered += ours.low <= 0.6 <= ours.high
        alone += theirs.low <= 0.6 <= theirs.high
    assert covered >= 182  # three standard errors below 190 are 181
    assert alone < 165


def test_large_unions_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks change the draws' grouping, not their law, and a second question draws the same."""
    right = np.random.default_rng(41).random(500) < 0.8
    whole = accuracy_draws([right]).interval
    monkeypatch.setattr(resampling, "_CELLS", 7 * 500)
    drawn = Bootstrap.same_rows(500)
    parts = drawn.accuracy([right]).interval
    assert parts == drawn.accuracy([right]).interval
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.012)


@pytest.mark.slow
def test_f1_equals_sklearns_and_its_bootstrap() -> None:
    """Macro-F1 of a confusion table is scikit-learn's; the paired difference too."""
    draw = np.random.default_rng(4)
    labels = draw.integers(0, 3, 250)
    first = np.where(draw.random(250) < 0.8, labels, draw.integers(0, 3, 250))
    second = np.where(draw.random(250) < 0.5, labels, draw.integers(0, 3, 250))
    found = Bootstrap.same_rows(250).macro_f1([labels], [first], 3).interval
    assert found.value == pytest.approx(f1_score(labels, first, average="macro"))
    drawn = Bootstrap.same_rows(250)
    one, other = (drawn.macro_f1([labels], [said], 3) for said in (first, second))
    gap = one.minus(other).interval
    hand = f1_score(labels, first, average="macro") - f1_score(labels, second, average="macro")
    assert gap.value == pytest.approx(hand)
    repeated = []
    for _ in range(800):
        rows = draw.integers(0, 250, 250)
        a, b = (f1_score(labels[rows], x[rows], average="macro") for x in (first, second))
        repeated.append(a - b)
    assert gap.low == pytest.approx(np.quantile(repeated, 0.025), abs=0.02)
    assert gap.high == pytest.approx(np.quantile(repeated, 0.975), abs=0.02)


def test_mean_of_independent_draws_is_narrower() -> None:
    """The interval of a mean over four alike tasks is about half as wide."""
    parts = [accuracy_draws([np.arange(300) % 3 > 0], seed=i) for i in range(4)]
    one, four = parts[0].interval, Draws.mean(parts).interval
    assert (four.high - four.low) / (one.high - one.low) == pytest.approx(0.5, abs=0.1)


def test_time_between_steps_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the device in between does not lengthen a method's time."""
    clock = Clock()
    monkeypatch.setattr(protocol, "CLOCKS", {"wall": clock})

    def work():
        clock.now += 2
        yield Progress(1, 2)
        clock.now += 3
        return "done"

    steps = timed(work())
    next(steps)
    clock.now += 100
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == ("done", 5.0)


def test_timed_closes_its_work() -> None:
    """Cancelling the outer cancels the inner: its clean-up runs."""
    closed = []

    def work():
        try:
            yield Progress(1, 2)
        finally:
            closed.append(True)

    steps = timed(work())
    next(steps)
    steps.close()
    assert closed == [True]


def test_processor_time_ignores_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's clock, which stands while nothing is computed, is another one."""
    assert CLOCKS["processor"] is time.process_time
    wall, processor = Clock(), Clock()
    monkeypatch.setattr(protocol, "CLOCKS", {"wall": wall, "processor": processor})
    watch = Stopwatch(clock="processor")
    with watch.training():
        wall.now += 10
        processor.now += 1
    assert watch.train == 1.0
    with pytest.raises(OptionError, match="clock"):
        MethodSettings(clock="moon")  # type: ignore[arg-type]


def test_method_names() -> None:
    """All, fast, some; unknown ones get a sentence."""
    assert [m.name for m in methods_named("all")] == list(METHODS)
    assert len(METHODS) == 19
    assert {m.needs for m in methods_named("fast")} == {"states"}
    assert [m.name for m in methods_named("ia3, zero-shot,ia3")] == ["ia3", "zero-shot"]
    for wrong in ("", "zero-shot,magic"):
        with pytest.raises(OptionError, match="methods must be"):
            methods_named(wrong)
    assert set(VARIANTS) <= set(METHODS)
    for changes in VARIANTS.values():
        CalibrationOptions(**changes).validate()


def test_settings_are_checked() -> None:
    """Out of range is one sentence."""
    with pytest.raises(OptionError, match="adapter_epochs"):
        MethodSettings(adapter_epochs=0)
    with pytest.raises(OptionError, match="shots"):
        MethodSettings(shots=-1)


def test_scores_must_be_finite() -> None:
    """A method that lost the numbers does not reach the table."""
    with pytest.raises(NonFiniteError, match="not finite"):
        Outcome("x", np.array([[np.nan, 1.0]]), None, 0, 0, 0)


def test_softmax_sums_to_one() -> None:
    """Large scores do not overflow."""
    rows = softmax(np.array([[1e4, 0.0], [-5.0, -5.0]]))
    np.testing.assert_allclose(rows, [[1, 0], [0.5, 0.5]])


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].needs == "states"])
def test_every_method_on_states_is_sound(spaces: Spaces, name: str) -> None:
    """Shape, probabilities, times and sizes of each; the same seed gives the same answers."""
    context = small_context(spaces["llama"])
    outcome, again = (drain(run_method(METHODS[name], context)) for _ in range(2))
    assert outcome.method == name
    assert outcome.scores.shape == (context.task.size("test"), 2)
    if outcome.probabilities is not None:
        np.testing.assert_allclose(outcome.probabilities.sum(1), 1, atol=1e-4)
        assert (outcome.probabilities >= 0).all()
    assert np.array_equal(outcome.scores, again.scores)
    assert outcome.seconds_infer >= context.test_seconds > 0
    trained = METHODS[name].kind != "model"
    assert (outcome.seconds_train > context.train_seconds) == trained
    assert (outcome.stored_bytes > 0) == trained
    json.dumps(outcome.to_dict())


@pytest.mark.slow
def test_evaluate_fills_the_table(spaces: Spaces) -> None:
    """Every cell from the runs, averages over tasks, pairs that are there, JSON and flat rows."""
    space = spaces["llama"]
    tasks = [
        lambda seed: small_task(space, rows=60, seed=seed),
        small_task(space, rows=60, labels=("left", "right", "up"), name="three"),
    ]
    names = ["zero-shot", "class-mean", "calibration-sm,calibration-sm-gt", "linear-probe"]
    found = drain(evaluate(space, tasks, names, [0, 1], settings=quick_settings()))
    assert list(found.methods) == ",".join(names).split(",")
    assert len(found.cells) == 10
    for (method, task), cell in found.cells.items():
        assert len(cell.per_seed) == 2
        mean = np.mean([r.right.mean() for r in cell.per_seed])
        assert cell.accuracy.value == pytest.approx(mean), (method, task)
        assert cell.accuracy.low <= mean <= cell.accuracy.high
        sides = [(run.truth, run.predicted) for run in cell.per_seed]
        assert cell.ari == pytest.approx(np.mean([adjusted_rand_score(*one) for one in sides]))
        mutual = [normalized_mutual_info_score(*one) for one in sides]
        assert cell.nmi == pytest.approx(np.mean(mutual))
        for run in cell.per_seed:
            assert run.accuracy == pytest.approx(np.trace(run.table) / run.table.sum())
    average = found.averages["class-mean"]
    both = [found.cells["class-mean", t].accuracy.value for t in ("small", "three")]
    assert average.accuracy.value == pytest.approx(np.mean(both))
    both = [found.cells["class-mean", t].ari for t in ("small", "three")]
    assert average.ari == pytest.approx(np.mean(both))
    assert found.rows()[5]["ari"] == average.ari
    pairs = {(d.first, d.second): d for d in found.differences}
    gap = pairs["calibration-sm", "linear-probe"]
    hand = found.averages["calibration-sm"].accuracy.value
    hand -= found.averages["linear-probe"].accuracy.value
    assert gap.mean.value == pytest.approx(hand)
    plain = json.loads(json.dumps(found.to_dict()))
    assert [m["name"] for m in plain["methods"]] == list(found.methods)
    rows = found.rows()
    assert len(rows) == 15
    assert len({tuple(r) for r in rows}) == 1
    assert plain["sentence"] == found.findings[0].text


def test_states_are_read_once_for_all_methods(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many methods work on states, the texts go through the model once per seed."""
    space = spaces["llama"]
    seen = []
    plain = space.model.last_states

    def counting(batch, *args, **kwargs):
        seen.extend(tuple(ids) for ids in batch)
        return plain(batch, *args, **kwargs)

    monkeypatch.setattr(space.model, "last_states", counting)
    task = small_task(space, rows=60)
    drain(evaluate(space, [task], ["fast"], [0], settings=quick_settings()))
    assert len(seen) == len(set(seen))
    assert len(seen) <= 60


def test_a_method_that_cannot_run_is_left_out_with_its_sentence(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model without known projections: LoRA is missing, the others stand."""
    space = spaces["llama"]
    monkeypatch.setattr(peft_tuning, "_ATTENTION_INPUTS", frozenset())
    task = small_task(space, rows=60)
    found = drain(evaluate(space, [task], ["zero-shot,lora"], [0, 1], settings=quick_settings()))
    assert "nothing to adapt" in found.left_out["lora", "small"]
    assert "lora" not in found.averages
    assert ("zero-shot", "small") in found.cells
    assert "nothing to adapt" in str(found.to_dict()["methods"][1]["left_out"])


def test_two_tasks_of_one_name_are_refused(spaces: Spaces) -> None:
    """Their cells would be one."""
    space = spaces["llama"]
    task = small_task(space, rows=60)
    with pytest.raises(OptionError, match="two tasks are named"):
        drain(evaluate(space, [task, task], ["zero-shot"], [0], settings=quick_settings()))
    with pytest.raises(OptionError, match="at least one task"):
        drain(evaluate(space, [], ["zero-shot"], [0]))


def test_reading_is_charged_when_the_disk_had_it(spaces: Spaces, tmp_path) -> None:
    """States from the cache cost what reading would: within a factor, never nothing."""
    space = spaces["llama"]
    task = small_task(space, rows=60)
    settings = quick_settings()
    first = drain(evaluation.prepare(space, task, seed=0, settings=settings, cache_dir=tmp_path))
    second = drain(evaluation.prepare(space, task, seed=0, settings=settings, cache_dir=tmp_path))
    assert first.states.cached == 0
    assert second.states.computed == 0
    assert second.train_seconds > first.train_seconds / 20
    tokens = {s: sum(map(len, task.ids[s])) for s in ("train", "test")}
    ratio = second.state_seconds["train"] / second.state_seconds["test"]
    assert ratio == pytest.approx(tokens["train"] / tokens["test"])


def _line(accuracy: Interval, seconds: float) -> Average:
    """A method that takes so long to train, and no time to answer."""
    return Average(accuracy, accuracy, seconds, 0.0, 0.0, 0.0, 1)


def _cell(accuracy: Interval) -> Cell:
    """A method on one task of which nothing but the accuracy counts."""
    return Cell(accuracy, accuracy, None, 0.0, 0.0, 0, 0, 0.0, 0.0, ())


@pytest.mark.parametrize(
    ("gap", "words", "verdict"),
    [
        (Interval(0.05, 0.01, 0.09), "it beats the probe", "met"),
        (Interval(-0.05, -0.09, -0.01), "it does not reach the probe", "missed"),
        (Interval(-0.01, -0.04, 0.02), "on a par within the interval", "met"),
    ],
)
def test_the_probe_sentence_follows_the_figures(gap: Interval, words: str, verdict: str) -> None:
    """Whatever comes out is said as it came out."""
    lines = {n: _line(Interval(0.6, 0.5, 0.7), 1.0) for n in ("calibration-sm", "linear-probe")}
    pair = Difference("calibration-sm", "linear-probe", gap, {})
    found = draw_conclusions({n: n for n in lines}, {}, lines, [pair], {})
    headline, own = found[:2]
    short = {"met": "on a par with", "missed": "less than"}[verdict]
    if gap.low > 0:
        short = "more than"
    assert headline.text == f"Calibration reaches 60 %, {short} the linear probe (60 %)."
    assert "Calibration minus linear probe" in own.text
    assert words in own.text
    assert own.verdict == verdict


def test_goals_against_knn_prompting() -> None:
    """Accuracy and time, both ways."""
    lines = {
        "calibration-sm": _line(Interval(0.6, 0.5, 0.7), 4.0),
        "knn-prompting": _line(Interval(0.65, 0.6, 0.7), 6.0),
    }
    pair = Difference("calibration-sm", "knn-prompting", Interval(-0.05, -0.08, -0.02), {})
    accuracy, time = draw_conclusions({n: n for n in lines}, {}, lines, [pair], {})[1:3]
    assert accuracy.verdict == time.verdict == "missed"
    assert "Calibration minus kNN prompting: −5.0 points (−8.0 to −2.0)" in accuracy.text
    assert "own basis against the others [sm]" in accuracy.text
    assert "0.67 of its time" in time.text


def test_shuffled_labels_above_chance_are_said() -> None:
    """A control that finds something is a warning, not a footnote."""
    cells = {("shuffled-labels", "t"): _cell(Interval(0.8, 0.75, 0.85))}
    [found] = draw_conclusions({}, cells, {}, [], {"t": 0.5})
    assert found.verdict == "missed"
    assert "above chance on t" in found.text
    [fine] = draw_conclusions({}, cells, {}, [], {"t": 0.76})
    assert fine.verdict == "met"
    assert "on the data set (" in fine.text
    both = {**cells, ("shuffled-labels", "u"): cells["shuffled-labels", "t"]}
    [two] = draw_conclusions({}, both, {}, [], {"t": 0.76, "u": 0.9})
    assert "on all 2 data sets (" in two.text


@pytest.mark.parametrize(
    ("logits", "chance", "words"),
    [
        (0.59, 0.5, "on a par with the model's own answer (59 %), the best untrained"),
        (0.4, 0.45, "more than always guessing the largest class (45 %), the best untrained"),
        (0.4, 0.72, "less than always guessing the largest class (72 %), the best untrained"),
    ],
)
def test_the_headline_names_the_best_without_training(
    logits: float, chance: float, words: str
) -> None:
    """Calibration at 60 % is no gain where the model says as much itself, or a guess does."""
    lines = {
        "calibration-sm": _line(Interval(0.6, 0.5, 0.7), 1.0),
        "zero-shot": _line(Interval(logits, logits - 0.1, logits + 0.1), 1.0),
        "head-thresholds": _line(Interval(0.6, 0.5, 0.7), 1.0),
    }
    pairs = [
        Difference("calibration-sm", "zero-shot", Interval(0.6 - logits, -0.1, 0.3), {}),
        Difference("calibration-sm", "head-thresholds", Interval(0.0, -0.1, 0.1), {}),
    ]
    found = draw_conclusions({n: n for n in lines}, {}, lines, pairs, {"t": chance})
    assert found[0].text == f"Calibration reaches 60 %, {words}."
    assert "no more than bias removal" in found[1].text


def test_untaught_words_are_a_column_recounted(spaces: Spaces) -> None:
    """The mean over sets, seeds and rows; none for methods that read by no words."""
    space, words = spaces["llama"], {"left": ["c", "d"], "right": ["e", "f"]}
    task = small_task(space)
    options = CalibrationOptions(epochs=2)
    settings = quick_settings(calibration=options, untaught=words)
    names = "class-mean,zero-shot-cosine,calibration-sm,random-bases"
    found = drain(evaluate(space, [task], [names], [0, 1], settings=settings))
    assert found.cells["class-mean", task.name].untaught is None
    assert found.averages["class-mean"].untaught is None
    labels = TaskLabels.of(task)
    sets = words_given(space, labels, words).sets
    vectors = space.frame("random").vectors(torch.arange(space.model.vocabulary)).double()
    states, hits = small_context(space, task).states, []
    for seed in (0, 1):
        own = replace(options, frame="random", seed=seed)
        trained = drain(calibrate(space, states, task, own))
        moved = trained.apply(states.normed["test"]).double()
        for tokens in sets:
            some = vectors[[t.id_used for t in tokens]]
            cosines = torch.nn.functional.cosine_similarity(moved[:, None], some[None], dim=2)
            hits.append(np.mean(cosines.argmax(1).numpy() == task.labels["test"]))
    cell = found.cells["random-bases", task.name]
    assert cell.untaught is not None
    assert cell.untaught.value == pytest.approx(np.mean(hits))
    assert found.averages["random-bases"].untaught == cell.untaught
    row = next(r for r in found.rows() if r["method"] == "random-bases")
    assert row["untaught"] == cell.untaught.value
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["methods"][1]["tasks"][task.name]["untaught"]["value"] >= 0


def test_a_method_that_trained_nothing_is_marked(spaces: Spaces) -> None:
    """Where a run kept its start, its cell, every table and the findings say so."""
    task = small_task(spaces["llama"])
    settings = quick_settings(calibration=CalibrationOptions(epochs=1))
    steps = evaluate(spaces["llama"], [task], ["head-only,class-mean"], [0, 1], settings=settings)
    found = drain(steps)
    runs = {key: list(cell.per_seed) for key, cell in found.cells.items()}
    for place, epoch in enumerate((1, 0)):
        own = runs["head-only", task.name]
        own[place] = replace(own[place], settings={**own[place].settings, "best_epoch": epoch})
    found = evaluation.summarise(
        found.model, found.tasks, found.methods, found.seeds, runs, {}, settings
    )
    cell = found.cells["head-only", task.name]
    assert cell.kept_start == cell.to_dict()["kept_start"] == 1
    assert found.marked("head-only").endswith("(best epoch 0 in 1 of 2)")
    assert found.marked("class-mean") == found.title("class-mean")
    assert any("in 1 of 2 runs no epoch lowered" in one.text for one in found.findings)


def test_signs_and_numbers_are_written_out() -> None:
    """A real minus, no signed zero, and one of a thing is singular."""
    assert signed(-0.0123) == "−1.2"
    assert signed(0.05) == "+5.0"
    assert signed(-0.0001) == signed(0.0) == "0.0"
    assert counted(1, "seed") == "1 seed"
    assert counted(1200, "seed") == "1,200 seeds"
