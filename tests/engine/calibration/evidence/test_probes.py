"""The linear probe against scikit-learn's own pipeline."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from method_tasks import small_context
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_models import Spaces
from waiting import until

from engine.calibration.evidence import probes
from engine.calibration.evidence.methods import METHODS
from engine.calibration.evidence.probes import ITERATIONS, Probe, fit_probe
from engine.errors import OptionError
from engine.progress import Steps, drain


@pytest.mark.parametrize("classes", [2, 4])
def test_probe_equals_sklearns_pipeline(classes: int) -> None:
    """Standardised logistic regression with the C that was chosen: the same logits and answers."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, classes, 200)
    rows = draw.normal(size=(200, 10)) + 1.5 * np.eye(10)[labels] + 40
    test = draw.normal(size=(50, 10)) + 40
    probe = drain(fit_probe(rows[:150], labels[:150], rows[150:], labels[150:], classes))
    hand = make_pipeline(
        StandardScaler(), LogisticRegression(C=probe.strength, max_iter=ITERATIONS)
    ).fit(rows[:150], labels[:150])
    scores = probe.scores(test)
    assert (scores.argmax(1) == hand.predict(test)).all()
    shifted = np.exp(scores - scores.max(1, keepdims=True))
    np.testing.assert_allclose(
        shifted / shifted.sum(1, keepdims=True), hand.predict_proba(test), atol=1e-6
    )
    assert probe.converged


def slow_to_fit(rows: int = 600, width: int = 300) -> Steps[Probe]:
    """Labels that nothing tells, and hardly a penalty: the solver takes many iterations."""
    draw = np.random.default_rng(5)
    labels = draw.integers(0, 4, rows)
    states = draw.normal(size=(rows, width))
    return fit_probe(states, labels, states[:0], labels[:0], 4, strengths=(1e6,))


def probe_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "lexiscope-probe"]


def test_a_fit_in_steps_is_one_plain_fit_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the device in between, the solver never stops: the same weights exactly."""
    monkeypatch.setattr(probes, "LOOK_S", 0.001)
    draw = np.random.default_rng(5)
    labels = draw.integers(0, 4, 600)
    states = draw.normal(size=(600, 300))
    steps, turns = slow_to_fit(), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            probe = end.value
            break
        turns += 1
    assert turns > 3
    hand = LogisticRegression(C=1e6, max_iter=ITERATIONS).fit(
        (states - states.mean(0)) / states.std(0), labels
    )
    np.testing.assert_array_equal(probe.weight, hand.coef_)
    np.testing.assert_array_equal(probe.bias, hand.intercept_)


def test_a_fit_that_is_given_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled in the middle: its thread is gone long before the fit would have ended."""
    monkeypatch.setattr(probes, "ITERATIONS", 10**9)
    monkeypatch.setattr(probes, "LOOK_S", 0.001)
    plain = LogisticRegression.fit

    def forever(self: LogisticRegression, *args: object) -> LogisticRegression:
        while True:
            plain(self, *args)

    monkeypatch.setattr(LogisticRegression, "fit", forever)
    steps = slow_to_fit(60, 5)
    next(steps)
    assert len(probe_threads()) == 1
    steps.close()
    until(lambda: not probe_threads())


def test_a_fit_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the solver raises in its thread is raised where the answer is waited for."""

    def fails(self: LogisticRegression, *args: object) -> None:
        raise ValueError("no such solver")

    monkeypatch.setattr(LogisticRegression, "fit", fails)
    with pytest.raises(ValueError, match="no such solver"):
        drain(slow_to_fit(60, 5))


def test_too_few_iterations_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that stops at the limit says that it did not converge, and warns nobody else."""
    monkeypatch.setattr(probes, "ITERATIONS", 2)
    assert not drain(slow_to_fit(60, 5)).converged


def test_c_is_the_best_on_the_validation_rows() -> None:
    """No other strength has more validation rows right."""
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 3, 160)
    rows = draw.normal(size=(160, 30)) + 0.6 * np.eye(30)[labels]
    strengths = (1e-4, 1e-2, 1.0)
    probe = drain(fit_probe(rows[:80], labels[:80], rows[80:], labels[80:], 3, strengths=strengths))
    scaler = StandardScaler().fit(rows[:80])
    right = {}
    for c in strengths:
        model = LogisticRegression(C=c, max_iter=ITERATIONS).fit(
            scaler.transform(rows[:80]), labels[:80]
        )
        right[c] = model.score(scaler.transform(rows[80:]), labels[80:])
    assert right[probe.strength] == max(right.values())


def test_a_class_without_training_rows_is_never_answered() -> None:
    """It is in the columns and below every other."""
    draw = np.random.default_rng(1)
    rows = draw.normal(size=(30, 4))
    labels = np.where(rows[:, 0] > 0, 2, 0)
    probe = drain(fit_probe(rows, labels, rows[:0], labels[:0], 3, strengths=(10.0,)))
    scores = probe.scores(rows)
    assert scores.shape == (30, 3)
    assert (scores.argmax(1) != 1).all()
    assert np.mean(scores.argmax(1) == labels) > 0.9


def test_one_class_is_refused() -> None:
    """There is nothing to tell apart."""
    with pytest.raises(OptionError, match="one label only"):
        drain(fit_probe(np.ones((4, 2)), np.zeros(4, int), np.ones((0, 2)), np.zeros(0, int), 2))


def test_the_method_on_a_model(spaces: Spaces) -> None:
    """On states of a tiny model: scikit-learn's answers, weights counted."""
    context = small_context(spaces["llama"])
    outcome = drain(METHODS["linear-probe"].run(context))
    states = {s: t.double().numpy() for s, t in context.states.normed.items()}
    hand = make_pipeline(
        StandardScaler(), LogisticRegression(C=outcome.settings["C"], max_iter=ITERATIONS)
    ).fit(states["train"], context.task.labels["train"])
    assert (outcome.predicted == hand.predict(states["test"])).all()
    width = context.space.model.width
    assert outcome.stored_bytes == 4 * (2 * width + 2 + 2 * width)
    assert outcome.seconds_train > context.train_seconds > 0
