"""A linear probe: logistic regression on the states that calibration gets too.

The honest control of any trained module on frozen states: what a linear map of the same rows
reaches without bases or clustering (Alain and Bengio 2017). scikit-learn's logistic regression,
states standardised by the training rows, C chosen on the validation rows. It runs in a thread of
its own, which touches no model, so that the device thread is free between two looks at it.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.calibration.evidence.protocol import MethodContext, Outcome, softmax
from engine.errors import OptionError
from engine.progress import Progress, Steps

STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""C (inverse strength of the penalty) that is chosen from."""
ITERATIONS: Final = 500
LOOK_S: Final = 0.02
"""Seconds of a step: how long one waits for the solver before others get their turn."""

NOTE: Final = "fitting a linear probe"

T = TypeVar("T")


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
        fitting = _Beside(partial(_fit, rows, labels, strength, classes))
        try:
            while not fitting.ended.wait(LOOK_S):
                yield Progress(done - 1, len(tried), NOTE)
        finally:
            fitting.stop()
        weight, bias, converged = fitting.result()
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
        yield Progress(done, len(tried), NOTE)
    assert best is not None
    return best[1]


def _fit(
    rows: NDArray[np.float64], labels: NDArray[np.int64], strength: float, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=ITERATIONS)
    # `catch_warnings` is not for threads: two that overlap leave the filters of one behind. The
    # count of iterations says what the warning would.
    warnings.filterwarnings("ignore", message="lbfgs failed", category=ConvergenceWarning)
    model.fit(rows, labels)
    converged = int(np.max(model.n_iter_)) < ITERATIONS
    weight = np.zeros((classes, rows.shape[1]))
    bias = np.full(classes, -1e9)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        weight[model.classes_] = np.concatenate([-model.coef_ / 2, model.coef_ / 2])
        bias[model.classes_] = np.concatenate([-model.intercept_ / 2, model.intercept_ / 2])
    else:
        weight[model.classes_] = model.coef_
        bias[model.classes_] = model.intercept_
    return weight, bias, converged


class _Stopped(BaseException):
    """Raised in the thread of a fit that nobody waits for any more."""


class _Beside(Generic[T]):
    """Work in a thread of its own that can be told to stop."""

    def __init__(self, work: Callable[[], T]) -> None:
        """Begin at once."""
        self._work = work
        self._result: T | None = None
        self._error: BaseException | None = None
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="lexiscope-probe", daemon=True)
        self._thread.start()

    def result(self) -> T:
        """What came out, once it ended; or what it raised."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def stop(self) -> None:
        """Let it end at its next line of Python, which a solver reaches in each iteration."""
        with self._lock:
            if not self.ended.is_set() and self._thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread.ident), ctypes.py_object(_Stopped)
                )

    def _run(self) -> None:
        try:
            try:
                self._result = self._work()
            except Exception as error:
                self._error = error
            with self._lock:
                self.ended.set()
        except _Stopped:
            self.ended.set()


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
