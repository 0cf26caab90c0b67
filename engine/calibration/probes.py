"""A linear probe: logistic regression on the states that calibration gets too.

The honest control of any trained module on frozen states: what a linear map of the same rows
reaches without bases or clustering (Alain and Bengio 2017). scikit-learn's logistic regression,
states standardised by the training rows, C chosen on the validation rows.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.calibration.protocol import MethodContext, Outcome, softmax
from engine.errors import OptionError
from engine.progress import Progress, Steps

STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""C (inverse strength of the penalty) that is chosen from."""
ITERATIONS: Final = 500


@dataclass(frozen=True)
class Probe:
    """A fitted linear map on standardised states."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    """C × d; rows of classes that had no training row are zero."""
    bias: NDArray[np.float64]
    """C; minus infinity's stand-in for classes that had no training row."""
    strength: float
    """The C that was chosen."""
    converged: bool

    def scores(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits: n × C."""
        out: NDArray[np.float64] = ((states - self.mean) / self.scale) @ self.weight.T + self.bias
        return out

    @property
    def stored_bytes(self) -> int:
        """In float32."""
        return 4 * (self.weight.size + self.bias.size + 2 * self.mean.size)


def fit_probe(
    train: NDArray[np.float64],
    labels: NDArray[np.int64],
    valid: NDArray[np.float64],
    valid_labels: NDArray[np.int64],
    classes: int,
    *,
    strengths: tuple[float, ...] = STRENGTHS,
) -> Steps[Probe]:
    """Fit for each C and keep the best on the validation rows; of equals the likeliest.

    Without validation rows the middle C is taken.

    Args:
        train: n × d.
        labels: n.
        valid: rows to choose C by; may be none.
        valid_labels: theirs.
        classes: how many there are.
        strengths: values of C.

    Raises:
        OptionError: the training rows have one class only.
    """
    mean = train.mean(0)
    scale = train.std(0)
    scale[scale < 1e-12] = 1.0
    rows = (train - mean) / scale
    if len(np.unique(labels)) < 2:
        raise OptionError("the training rows have one label only; a probe needs at least two.")
    tried = strengths if len(valid) else (strengths[len(strengths) // 2],)
    best: tuple[tuple[float, float], Probe] | None = None
    for done, strength in enumerate(tried, start=1):
        weight, bias, converged = _fit(rows, labels, strength, classes)
        probe = Probe(mean, scale, weight, bias, strength, converged)
        quality = (0.0, 0.0)
        if len(valid):
            logits = probe.scores(valid)
            peak = logits.max(1, keepdims=True)
            logs = logits - peak - np.log(np.exp(logits - peak).sum(1, keepdims=True))
            sure = float(logs[np.arange(len(valid)), valid_labels].mean())
            quality = (float(np.mean(logits.argmax(1) == valid_labels)), sure)
        if best is None or quality > best[0]:
            best = (quality, probe)
        yield Progress(done, len(tried), "fitting a linear probe")
    assert best is not None
    return best[1]


def _fit(
    rows: NDArray[np.float64], labels: NDArray[np.int64], strength: float, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=ITERATIONS)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        model.fit(rows, labels)
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in raised)
    weight = np.zeros((classes, rows.shape[1]))
    bias = np.full(classes, -1e9)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        weight[model.classes_] = np.concatenate([-model.coef_ / 2, model.coef_ / 2])
        bias[model.classes_] = np.concatenate([-model.intercept_ / 2, model.intercept_ / 2])
    else:
        weight[model.classes_] = model.coef_
        bias[model.classes_] = model.intercept_
    return weight, bias, converged


def linear_probe(context: MethodContext) -> Steps[Outcome]:
    """The probe as a method."""
    task, states = context.task, context.states.normed
    rows = {s: states[s].cpu().double().numpy() for s in ("train", "valid", "test")}
    probe, seconds = yield from context.timed(
        fit_probe(
            rows["train"], task.labels["train"], rows["valid"], task.labels["valid"], task.classes
        )
    )
    watch = context.stopwatch(train=context.train_seconds + seconds, infer=context.test_seconds)
    with watch.inferring():
        scores = probe.scores(rows["test"])
        probabilities = softmax(scores)
    notes = () if probe.converged else (f"Not converged in {ITERATIONS} iterations.",)
    return Outcome(
        "linear-probe",
        scores,
        probabilities,
        watch.train,
        watch.infer,
        probe.stored_bytes,
        settings={"C": probe.strength},
        notes=notes,
    )
