"""Before and after: recounted by hand from the predictions; the plane by its laws; the ablation."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from method_tasks import small_context, small_task
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, confusion_matrix
from tiny_models import Spaces

from engine.calibration.evidence import comparison, probes
from engine.calibration.evidence.ablation import Ablation, AblationRow, ablate
from engine.calibration.evidence.baselines import UNTRAINED, Baseline, fit_thresholds
from engine.calibration.evidence.comparison import compare_before_after
from engine.calibration.evidence.comparison_result import Comparison, verdict
from engine.calibration.evidence.controls import SHUFFLES
from engine.calibration.evidence.metrics import Interval
from engine.calibration.evidence.plane import fit_plane
from engine.calibration.labelled.tasks import Task
from engine.calibration.training.calibrated import Calibration
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.errors import ArtifactError, LayerError, LexiscopeError, OptionError
from engine.progress import drain


def compared(
    spaces: Spaces, name: str = "llama", **options
) -> tuple[Task, Calibration, Comparison]:
    """A small task calibrated and measured."""
    space = spaces[name]
    task = small_task(space, rows=80, labels=("left", "right", "up"))
    context = small_context(space, task)
    chosen = CalibrationOptions(**({"epochs": 6, "patience": 0} | options))
    calibration = drain(calibrate(space, context.states, task, chosen))
    return task, calibration, drain(compare_before_after(space, task, context.states, calibration))


@pytest.fixture(scope="module")
def measured(spaces: Spaces) -> tuple[Task, Calibration, Comparison]:
    """One comparison for all that only look at it."""
    return compared(spaces)


def test_before_is_the_nearest_basis_and_after_the_calibrations(spaces: Spaces, measured) -> None:
    """Both recounted: pinv bases by cosine before; λ of the calibration after."""
    task, calibration, found = measured
    space = spaces["llama"]
    context = small_context(space, task)
    bases = torch.linalg.pinv(space.model.anatomy.weight.detach().double()).T
    rows = bases[[t.id_used for t in task.label_tokens]]
    truth = task.labels["test"]

    def nearest(states: torch.Tensor) -> np.ndarray:
        return (
            torch.nn.functional.cosine_similarity(states.double()[:, None], rows[None], dim=2)
            .argmax(1)
            .numpy()
        )

    before = nearest(context.states.normed["test"])
    after = nearest(calibration.apply(context.states.normed["test"]))
    assert found.before.report.accuracy.value == pytest.approx(np.mean(before == truth))
    assert found.after.report.accuracy.value == pytest.approx(np.mean(after == truth))
    gap = np.mean(after == truth) - np.mean(before == truth)
    assert found.accuracy_difference.value == pytest.approx(gap)
    assert (found.after.report.confusion == confusion_matrix(truth, after, labels=range(3))).all()
    assert found.before.report.ari == pytest.approx(adjusted_rand_score(truth, before))
    flips = {
        "fixed": int(((before != after) & (after == truth)).sum()),
        "broken": int(((before != after) & (before == truth)).sum()),
        "changed": int(((before != after) & (before != truth) & (after != truth)).sum()),
    }
    assert found.flips == flips


def test_similarity_and_margin_by_hand(spaces: Spaces, measured) -> None:
    """Mean cosine to the own label's basis, and to the next."""
    task, calibration, found = measured
    states = small_context(spaces["llama"], task).states.normed["test"]
    moved = torch.nn.functional.normalize(calibration.apply(states).double(), dim=1)
    bases = torch.linalg.pinv(spaces["llama"].model.anatomy.weight.detach().double()).T
    rows = torch.nn.functional.normalize(bases[[t.id_used for t in task.label_tokens]], dim=1)
    cosines = (moved @ rows.T).numpy()
    truth = task.labels["test"]
    own = cosines[np.arange(len(truth)), truth]
    cosines[np.arange(len(truth)), truth] = -2
    assert found.after.own_similarity.value == pytest.approx(own.mean(), abs=1e-5)
    assert found.after.margin.value == pytest.approx((own - cosines.max(1)).mean(), abs=1e-5)


def test_rows_and_controls_and_layers(spaces: Spaces, measured) -> None:
    """Every test row once, in order; the controls by name; a point per layer; plain JSON."""
    task, _, found = measured
    assert [r.text for r in found.rows] == list(task.texts["test"])
    assert [r.label for r in found.rows] == [task.label_names[i] for i in task.labels["test"]]
    assert [c.name for c in found.controls] == ["shuffled-labels", "random-bases"]
    assert [c.runs for c in found.controls] == [SHUFFLES, 1]
    assert found.layers is not None
    assert found.layers.layers == tuple(range(spaces["llama"].model.blocks + 1))
    assert found.layers.reading[-1].value == found.before.report.accuracy.value
    assert found.layers.after == found.after.report.accuracy
    here = found.layers.probe[found.layers.calibrated_layer]
    assert here == found.probe.accuracy  # one probe on one page
    plain = json.loads(json.dumps(found.to_dict()))
    assert len(plain["map"]["before"]) == len(plain["rows"]) == task.size("test")
    assert plain["sentence"] == found.sentence
    assert plain["before"]["per_class"][0]["label"] == task.label_names[0]
    largest = np.bincount(task.labels["test"]).max() / task.size("test")
    assert plain["chance"] == pytest.approx(largest)


@pytest.mark.slow
def test_head_and_matrix_product_are_compared_too(spaces: Spaces) -> None:
    """The trained rows of a head, read by matrix products."""
    _, _, found = compared(spaces, target="head", inference="mm", loss="mm")
    assert found.plane.after == pytest.approx(found.plane.before)
    assert len(found.controls) == 2


def test_foreign_states_and_models_are_refused(spaces: Spaces, measured) -> None:
    """Another model's calibration, another task's states."""
    task, calibration, _ = measured
    space = spaces["llama"]
    context = small_context(space, task)
    wrong = replace(context.states, task="another")
    with pytest.raises(LexiscopeError, match="another task"):
        drain(compare_before_after(space, task, wrong, calibration))
    other = small_context(spaces["gpt2"])
    with pytest.raises(ArtifactError, match="belongs to"):
        drain(compare_before_after(spaces["gpt2"], other.task, other.states, calibration))


@pytest.mark.parametrize(
    ("gain", "probe", "words"),
    [
        ((0.2, 0.1, 0.3), (0.1, 0.05, 0.2), ("more than the model's own", "beats a linear")),
        ((-0.2, -0.3, -0.1), (-0.1, -0.2, -0.05), ("less than the model's own", "does better")),
        ((0.01, -0.1, 0.1), (0.0, -0.1, 0.1), ("cannot be told apart from the", "can be told")),
    ],
)
def test_the_sentence_follows_the_intervals(measured, gain, probe, words) -> None:
    """Above, below or around zero, for the gain and for the probe."""
    _, _, found = measured
    title, accuracy = UNTRAINED["logits"], Interval(0.805, 0.75, 0.86)
    shown = replace(
        found,
        # The reading before may be passed by far: what counts is the best without training.
        accuracy_difference=Interval(0.44, 0.4, 0.5),
        baseline=Baseline("logits", title, accuracy, Interval(*gain)),
        thresholds_difference=Interval(0.2, 0.1, 0.3),
        probe_difference=Interval(*probe),
        controls=(),
    )
    text = verdict(shown)
    assert all(w in text for w in words)
    assert "the best without training, at 80 %" in text
    assert text.endswith(".")
    assert "(" not in text
    assert "bias removal" not in text
    alike = replace(shown, thresholds_difference=Interval(-0.02, -0.06, 0.01))
    assert "the gain over the reading before is bias removal" in verdict(alike)
    low = replace(found.after.report, accuracy=Interval(0.3, 0.2, 0.4))
    assert "below chance, 62 %" in verdict(
        replace(shown, chance=0.62, after=replace(found.after, report=low))
    )


def test_the_baseline_is_the_best_of_three_recounted(spaces: Spaces, measured) -> None:
    """The model's logits from the head by hand, the nearest basis, the largest class."""
    task, calibration, found = measured
    context = small_context(spaces["llama"], task)
    truth, states = task.labels["test"], context.states.normed["test"]
    head = spaces["llama"].model.anatomy.weight.detach().double()
    logits = states.double() @ head[[t.id_used for t in task.label_tokens]].T
    accuracies = {
        "logits": np.mean(logits.argmax(1).numpy() == truth),
        "bases": found.before.report.accuracy.value,
        "largest": np.bincount(truth).max() / len(truth),
    }
    assert found.baseline.accuracy.value == pytest.approx(max(accuracies.values()))
    assert accuracies[found.baseline.name] == max(accuracies.values())
    after = np.mean(calibration.read(states).predicted.numpy() == truth)
    gap = found.baseline.difference
    assert gap.value == pytest.approx(after - max(accuracies.values()))
    assert gap.low <= gap.value <= gap.high
    plain = found.to_dict()
    assert plain["baseline"]["title"] in plain["sentence"]


@pytest.mark.slow
def test_a_training_that_kept_its_start_says_so_first(spaces: Spaces) -> None:
    """A rate far too high: the sentence begins with it, and the figures are those before."""
    _, calibration, found = compared(spaces, target="head", learning_rate=10.0, epochs=2)
    assert calibration.best_epoch == 0
    assert found.sentence.startswith("No epoch lowered the validation loss (best epoch 0)")
    assert found.after.report.accuracy == found.before.report.accuracy
    assert found.to_dict()["warning"] == found.warning == calibration.warning
    _, fine, better = compared(spaces, epochs=2, patience=0)
    assert (fine.best_epoch > 0) == (better.warning == "")


def test_thresholds_are_a_logistic_regression_on_the_difference() -> None:
    """Two classes against scikit-learn without a penalty; three with a planted bias."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 300)
    scores = draw.normal(0, 1, (300, 2)) * 0.01 + 0.3
    scores[np.arange(300), labels] += 0.01
    scores[:, 1] += 0.08  # so that the larger one is always the second
    assert np.mean(scores.argmax(1) == labels) == np.mean(labels == 1)
    fitted = fit_thresholds(scores, labels)
    gap = (scores[:, 1] - scores[:, 0])[:, None]
    model = LogisticRegression(C=1e9, tol=1e-10, max_iter=10_000).fit(100 * gap, labels)
    own = fitted.scores(scores)
    np.testing.assert_allclose(
        own[:, 1] - own[:, 0], model.decision_function(100 * gap), rtol=1e-3, atol=1e-3
    )
    many = draw.integers(0, 3, 200)
    planted = np.eye(3)[many] * 0.1 + draw.normal(0, 0.005, (200, 3)) + [0.0, 5.0, -3.0]
    assert np.mean(planted.argmax(1) == many) == np.mean(many == 1)
    assert (fit_thresholds(planted, many).scores(planted).argmax(1) == many).all()


def test_a_control_above_chance_is_in_the_sentence(measured) -> None:
    """Shuffled labels that help are said."""
    _, _, found = measured
    line = replace(found.controls[0], at_chance=False, accuracy=Interval(0.62, 0.6, 0.7))
    assert "still reaches 62 %, above chance" in verdict(replace(found, controls=(line,)))


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_plane_puts_bases_on_corners_and_no_state_matters(classes: int) -> None:
    """Bases on the unit circle, evenly; other states after move no basis and no state before."""
    draw = torch.Generator().manual_seed(0)
    before, after = torch.randn(40, 12, generator=draw), torch.randn(40, 12, generator=draw)
    bases = torch.randn(classes, 12, generator=draw) + 2
    plane = fit_plane(before, after, bases)
    if classes == 2:
        np.testing.assert_allclose(plane.bases, [[-1, 0], [1, 0]], atol=1e-9)
    else:
        np.testing.assert_allclose(np.linalg.norm(plane.bases, axis=1), 1, atol=1e-9)
        angles = np.sort(np.arctan2(plane.bases[:, 1], plane.bases[:, 0]))
        np.testing.assert_allclose(np.diff(angles), 2 * np.pi / classes, atol=1e-9)
    other = fit_plane(before, after * 3 + 1, bases)
    np.testing.assert_allclose(other.before, plane.before, atol=1e-12)
    np.testing.assert_allclose(other.bases, plane.bases, atol=1e-12)
    assert 0 <= plane.variance_before <= 1


@pytest.mark.parametrize("classes", [2, 4])
def test_the_plane_does_not_care_how_space_is_turned(classes: int) -> None:
    """Rotating states and bases together changes nothing (for two labels but for a sign)."""
    draw = torch.Generator().manual_seed(1)
    before, after = torch.randn(30, 10, generator=draw), torch.randn(30, 10, generator=draw)
    bases = torch.randn(classes, 10, generator=draw)
    turn = torch.linalg.qr(torch.randn(10, 10, generator=draw).double())[0].float()
    one, two = (fit_plane(before @ q, after @ q, bases @ q) for q in (torch.eye(10), turn))
    np.testing.assert_allclose(one.after[:, 0], two.after[:, 0], atol=1e-5)
    np.testing.assert_allclose(np.abs(one.after[:, 1]), np.abs(two.after[:, 1]), atol=1e-5)
    assert one.variance_after == pytest.approx(two.variance_after, abs=1e-6)


def test_states_on_their_bases_land_on_the_corners() -> None:
    """A planted truth: where calibration is perfect, the picture shows it."""
    bases = torch.randn(4, 20, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(12) % 4
    plane = fit_plane(torch.zeros(12, 20) + 1, 7 * bases[labels], bases)
    np.testing.assert_allclose(plane.after, plane.bases[labels.numpy()], atol=1e-6)


def test_ablation_takes_the_method_apart(spaces: Spaces) -> None:
    """Every combination; untrained rows equal the readings; the reference differs by nothing."""
    space = spaces["llama"]
    task = small_task(space, rows=60)
    context = small_context(space, task)
    found = drain(
        ablate(
            space,
            task,
            context.states,
            base=CalibrationOptions(epochs=3),
            frames=("output", "random"),
            losses=("sm", "sm-gt"),
            seeds=(0, 1),
        )
    )
    assert len(found.rows) == 2 * 3 * 2
    by_key = {(r.basis, r.loss, r.inference): r for r in found.rows}
    own = by_key["output", "sm", "sm"]
    assert (own.difference.value, own.difference.low, own.difference.high) == (0, 0, 0)
    for row in found.rows:
        gap = row.accuracy.value - own.accuracy.value
        assert row.difference.value == pytest.approx(gap)
        assert row.trained == (row.seconds > 0)
    bases = torch.linalg.pinv(space.model.anatomy.weight.detach().double()).T
    rows = bases[[t.id_used for t in task.label_tokens]]
    states = context.states.normed["test"].double()
    said = torch.nn.functional.cosine_similarity(states[:, None], rows[None], dim=2).argmax(1)
    hand = np.mean(said.numpy() == task.labels["test"])
    assert by_key["output", "none", "sm"].accuracy.value == pytest.approx(hand)
    direct = drain(
        calibrate(
            space,
            context.states,
            task,
            CalibrationOptions(epochs=3, loss="sm-gt", frame="random", seed=0),
        )
    )
    again = drain(
        calibrate(
            space,
            context.states,
            task,
            CalibrationOptions(epochs=3, loss="sm-gt", frame="random", seed=1),
        )
    )
    truth = task.labels["test"]
    hits = [
        float(np.mean(c.read(context.states.normed["test"]).predicted.numpy() == truth))
        for c in (direct, again)
    ]
    assert by_key["random", "sm-gt", "sm"].accuracy.value == pytest.approx(np.mean(hits))
    plain = json.loads(json.dumps(found.to_dict()))
    assert len(plain["rows"]) == 12
    assert plain["sentence"] == found.sentence
    with pytest.raises(OptionError, match="an ablation needs"):
        drain(ablate(space, task, context.states, losses=("magic",)))


@pytest.mark.slow
def test_layers_are_an_axis_of_the_ablation(spaces: Spaces) -> None:
    """Each layer has every combination, equal to an ablation of that layer alone."""
    space = spaces["llama"]
    task = small_task(space, rows=60)
    states = drain(task_states(space, task, layers=(1, -1)))
    few: dict[str, Any] = {"frames": ("output", "random"), "losses": ("sm",)}
    base = CalibrationOptions(epochs=2)
    found = drain(ablate(space, task, states, base=base, layers=(1,), **few))
    top = space.model.blocks
    assert [row.layer for row in found.rows] == [top] * 8 + [1] * 8
    alone = drain(ablate(space, task, states, base=replace(base, layer=1), **few))
    for one, other in zip(found.rows[8:], alone.rows, strict=True):
        assert one.accuracy.value == other.accuracy.value
        gap = one.accuracy.value - found.rows[2].accuracy.value
        assert one.difference.value == pytest.approx(gap)  # to the paper's own, at its own layer
    reference = [row for row in found.rows if row.difference.value == row.difference.low == 0]
    assert (found.rows[2].layer, found.rows[2].basis, found.rows[2].loss) == (top, "output", "sm")
    assert found.rows[2] in reference
    with pytest.raises(LayerError):
        drain(ablate(space, task, states, base=base, layers=(0,), **few))


@pytest.mark.slow
def test_the_curve_chooses_from_what_the_probe_chooses_from(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every layer the same values of C are tried as for the probe of the headline."""
    tried: list[tuple[float, ...]] = []
    plain = comparison.fit_probe

    def noting(*given, strengths=probes.STRENGTHS, **more):
        tried.append(strengths)
        return plain(*given, strengths=strengths, **more)

    monkeypatch.setattr(comparison, "fit_probe", noting)
    compared(spaces)
    assert len(tried) == spaces["llama"].model.blocks + 1  # the calibrated layer's is fitted once
    assert set(tried) == {probes.STRENGTHS}


def test_the_ablation_says_that_its_winner_is_flattered() -> None:
    """Names instead of codes, each code once, and the pair beside the difference."""

    def row(basis: str, loss: str, accuracy: float, gap: float) -> AblationRow:
        similarity = "none" if loss == "none" else "cosine"
        interval = Interval(gap, gap - 0.01, gap + 0.01)
        own = Interval(accuracy, accuracy - 0.05, accuracy + 0.05)
        return AblationRow(basis, similarity, loss, "sm", own, own, interval, 0.0)

    best = row("head", "sm-gt", 0.7, 0.1)
    rows = (row("output", "sm", 0.6, 0.0), best, row("random", "sm", 0.55, -0.05))
    words = Ablation("t", rows, (), (0,), 1).sentence
    assert "own basis only [sm-gt], read by cosine, on raw head rows" in words
    assert "of 1 test text (chosen on the test texts, so flattered)" in words
    assert words.count("[sm]") == 1
    assert "random minus semantic bases: −5.0 points (−6.0 to −4.0)" in words
    assert "semantic bases matter" in words
    assert "it is the paper's own variant" in Ablation("t", rows[::2], (), (0,), 9).sentence
