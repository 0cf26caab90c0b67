"""The linear probe against scikit-learn's own pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from method_tasks import small_context
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_models import Spaces

from engine.calibration.methods import METHODS
from engine.calibration.probes import ITERATIONS, fit_probe
from engine.errors import OptionError
from engine.progress import drain


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
