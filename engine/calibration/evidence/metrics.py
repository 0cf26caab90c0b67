"""What a classifier and a labelled set of states are measured by, each with its formula.

Arrays in, plain numbers out; classes are indices 0 … C − 1. Intervals are percentile bootstraps
over the examples (Efron 1979), seeded. Knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import NonFiniteError, OptionError

ECE_BINS: Final = 15
RESAMPLES: Final = 1000
LEVEL: Final = 0.95
KNN: Final = (1, 16, 256)

Labels = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure and where it would lie in 95 of 100 repetitions."""

    value: float
    low: float
    high: float


def flat(result: Any) -> dict[str, Any]:
    """A frozen value as a row of a table: an interval becomes three columns."""
    row: dict[str, Any] = {}
    for name, value in vars(result).items():
        if isinstance(value, Interval):
            row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            row[name] = value
    return row


@dataclass(frozen=True)
class ClassScore:
    """How one class is found."""

    label: int
    precision: float
    """Of those called so, the share that is so; 0 where none is called so."""
    recall: float
    """Of those that are so, the share called so; 0 where there is none."""
    f1: float
    support: int
    """Rows of this class."""


def confusion(labels: Labels, predicted: Labels, classes: int) -> NDArray[np.int64]:
    """Rows of true class i called j: C × C."""
    _check(labels, predicted, classes)
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def per_class(labels: Labels, predicted: Labels, classes: int) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 = 2PR/(P + R) of each class."""
    table = confusion(labels, predicted, classes)
    out = []
    for i in range(classes):
        hit, called, real = int(table[i, i]), int(table[:, i].sum()), int(table[i].sum())
        precision = hit / called if called else 0.0
        recall = hit / real if real else 0.0
        f1 = 2 * hit / (called + real) if called + real else 0.0
        out.append(ClassScore(i, precision, recall, f1, real))
    return tuple(out)


def macro_f1(labels: Labels, predicted: Labels, classes: int) -> float:
    """The mean F1 over the classes that occur, as label or as prediction, in [0, 1]."""
    return float(_macro_f1(confusion(labels, predicted, classes)))


def _macro_f1(table: NDArray[np.int64]) -> float:
    hit = np.diagonal(table).astype(float)
    seen = table.sum(0) + table.sum(1)
    return float(np.mean(2 * hit[seen > 0] / seen[seen > 0]))


def expected_calibration_error(
    probabilities: Numbers, labels: Labels, *, bins: int = ECE_BINS
) -> float:
    """Σ_b (n_b/n)·|accuracy_b − mean confidence_b| over bins of equal width, in [0, 1].

    Confidence is the largest probability of a row; bin b holds ((b − 1)/B, b/B]. Guo et al. 2017.
    """
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=right.astype(float) - sure, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def adjusted_rand(labels: Labels, clusters: Labels) -> float:
    """The Rand index of two partitions, corrected for chance: 1 equal, 0 by chance, down to −0.5.

    (I − E)/(M − E) over pairs of rows (Hubert and Arabie 1985).
    """
    table = _contingency(labels, clusters)
    pairs = _pairs(table).sum()
    rows, columns = _pairs(table.sum(1)).sum(), _pairs(table.sum(0)).sum()
    total = _pairs(np.asarray(float(table.sum())))
    if total == 0:
        return 1.0
    expected = rows * columns / total
    most = (rows + columns) / 2
    return 1.0 if most == expected else float((pairs - expected) / (most - expected))


def normalized_mutual_information(labels: Labels, clusters: Labels) -> float:
    """Mutual information of two partitions over the mean of their entropies, in [0, 1]."""
    table = _contingency(labels, clusters)
    joint = table / table.sum()
    rows, columns = joint.sum(1), joint.sum(0)
    entropy = [float(-(p[p > 0] * np.log(p[p > 0])).sum()) for p in (rows, columns)]
    if len(rows) == len(columns) == 1:
        return 1.0
    seen = joint > 0
    outer = np.outer(rows, columns)
    mutual = float((joint[seen] * (np.log(joint[seen]) - np.log(outer[seen]))).sum())
    mean = sum(entropy) / 2
    return max(0.0, mutual) / mean if mean > 0 and mutual > np.finfo(float).eps else 0.0


def knn_correct(
    train_states: Tensor,
    train_labels: Labels,
    test_states: Tensor,
    test_labels: Labels,
    *,
    ks: Sequence[int] = KNN,
) -> dict[int, Numbers]:
    """k → for each row, whether the majority label of the k nearest training states is its own.

    Nearest by cosine; 1.0 right, 0.0 wrong. Where labels tie, the smallest index. A k beyond the
    training rows is left out.
    """
    ks = [k for k in ks if 1 <= k <= len(train_states)]
    if not ks:
        return {}
    index = _unit(train_states).T
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    one_hot = np.eye(classes)[train_labels]
    out: dict[int, list[Numbers]] = {k: [] for k in ks}
    for start in range(0, len(test_states), 512):
        near = (_unit(test_states[start : start + 512]) @ index).topk(max(ks), dim=1).indices
        votes = one_hot[near.numpy()].cumsum(axis=1)  # (row, k, class)
        truth = test_labels[start : start + 512]
        for k in ks:
            out[k].append((votes[:, k - 1].argmax(axis=1) == truth).astype(float))
    return {k: np.concatenate(parts) for k, parts in out.items()}


def own_similarity(states: Tensor, labels: Labels, centroids: Tensor) -> tuple[Numbers, Numbers]:
    """Cosine to the own label's centroid, and the margin to the nearest other, per row.

    Both in [−1, 1] and [−2, 2]; a positive margin is a right answer by cosine.
    """
    cosines = (_unit(states) @ _unit(centroids).T).double().numpy()
    rows = np.arange(len(labels))
    own = cosines[rows, labels]
    cosines[rows, labels] = -np.inf
    return own, own - cosines.max(axis=1)


def bootstrap_interval(
    values: Numbers | Sequence[float] | None = None,
    *,
    statistic: Callable[[NDArray[np.int64]], float] | None = None,
    n: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """A figure with its percentile bootstrap interval over the examples.

    Args:
        values: one number per example; the figure is their mean.
        statistic: or a figure as a function of the rows drawn (indices, n of them).
        n: how many examples, for a statistic.
        resamples: how often.
        level: the share of repetitions that the interval holds.
        seed: of the draws.

    Raises:
        OptionError: neither or both are given, or no example.
    """
    if (values is None) == (statistic is None):
        raise OptionError("give either one value per example or a statistic of row indices.")
    if values is not None:
        numbers = np.asarray(values, dtype=np.float64)
        n, statistic = len(numbers), lambda rows: float(numbers[rows].mean())
    if n < 1:
        raise OptionError("an interval needs at least one example.")
    assert statistic is not None
    draws = np.random.default_rng(seed)
    tail = (1 - level) / 2
    found = [statistic(draws.integers(0, n, n)) for _ in range(resamples)]
    value = statistic(np.arange(n))
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def paired_interval(
    first: Numbers | Sequence[float],
    second: Numbers | Sequence[float],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean of first − second over the same examples; both drawn together each time.

    An interval without 0 is a difference that the examples bear out.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise OptionError(
            f"a paired difference needs the same examples on both sides; got {len(a)} and {len(b)}."
        )
    return bootstrap_interval(a - b, resamples=resamples, level=level, seed=seed)


@dataclass(frozen=True)
class ClassificationReport:
    """How one set of predictions does."""

    n: int
    accuracy: Interval
    macro_f1: Interval
    ece: Interval | None
    """Expected calibration error; None where a method gives no probabilities."""
    ece_bins: int
    ari: float
    """Adjusted Rand index of predicted classes and labels."""
    nmi: float
    confusion: NDArray[np.int64]
    per_class: tuple[ClassScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return asdict(self) | {"confusion": self.confusion.tolist()}


def classification_report(
    labels: Labels,
    predicted: Labels,
    classes: int,
    *,
    probabilities: Numbers | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ClassificationReport:
    """All figures of one set of predictions, with intervals over its rows."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    _check(labels, predicted, classes)
    n = len(labels)
    if probabilities is not None and not np.isfinite(probabilities).all():
        raise NonFiniteError("the probabilities hold NaN or infinity; nothing can be measured.")

    def f1(rows: NDArray[np.int64]) -> float:
        return _macro_f1(confusion(labels[rows], predicted[rows], classes))

    def ece(rows: NDArray[np.int64]) -> float:
        assert probabilities is not None
        return expected_calibration_error(probabilities[rows], labels[rows])

    right = (labels == predicted).astype(float)
    return ClassificationReport(
        n=n,
        accuracy=bootstrap_interval(right, resamples=resamples, seed=seed),
        macro_f1=bootstrap_interval(statistic=f1, n=n, resamples=resamples, seed=seed),
        ece=None
        if probabilities is None
        else bootstrap_interval(statistic=ece, n=n, resamples=resamples, seed=seed),
        ece_bins=ECE_BINS,
        ari=adjusted_rand(labels, predicted),
        nmi=normalized_mutual_information(labels, predicted),
        confusion=confusion(labels, predicted, classes),
        per_class=per_class(labels, predicted, classes),
    )


def _check_rows(labels: Labels, predicted: Labels) -> None:
    if len(labels) != len(predicted) or not len(labels):
        raise OptionError(
            f"labels and predictions must be as many, and at least one; got {len(labels)} and"
            f" {len(predicted)}."
        )


def _check(labels: Labels, predicted: Labels, classes: int) -> None:
    _check_rows(labels, predicted)
    low = min(int(labels.min()), int(predicted.min()))
    high = max(int(labels.max()), int(predicted.max()))
    if low < 0 or high >= classes:
        raise OptionError(f"classes must be in [0, {classes - 1}]; got {low if low < 0 else high}.")


def _contingency(labels: Labels, clusters: Labels) -> Numbers:
    _check_rows(labels, clusters)
    a, rows = np.unique(labels, return_inverse=True)
    b, columns = np.unique(clusters, return_inverse=True)
    table = np.bincount(rows * len(b) + columns, minlength=len(a) * len(b))
    return table.reshape(len(a), len(b)).astype(float)


def _pairs(count: Numbers) -> Numbers:
    pairs: Numbers = count * (count - 1) / 2
    return pairs


def _unit(states: Tensor) -> Tensor:
    rows = states.detach().cpu().float()
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return unit
