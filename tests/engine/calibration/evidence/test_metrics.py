"""Every metric equals scikit-learn's, or a plain loop where scikit-learn has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.neighbors import KNeighborsClassifier

from engine.calibration.evidence import metrics as own
from engine.errors import NonFiniteError, OptionError

TIGHT = 1e-12


@st.composite
def _answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    classes = draw(st.integers(1, 6))
    n = draw(st.integers(1, 60))
    rows = st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)
    return np.array(draw(rows)), np.array(draw(rows)), classes


@given(_answers())
def test_confusion_and_f1_are_scikit_learns(case: tuple) -> None:
    labels, predicted, classes = case
    expected = np.zeros((classes, classes), dtype=int)
    np.add.at(expected, (labels, predicted), 1)
    assert np.array_equal(own.confusion(labels, predicted, classes), expected)
    # scikit-learn's own choice: the classes that occur on either side.
    f1 = sk.f1_score(labels, predicted, average="macro", zero_division=0)
    assert own.macro_f1(labels, predicted, classes) == pytest.approx(f1, abs=TIGHT)
    table = sk.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0
    )
    for i, score in enumerate(own.per_class(labels, predicted, classes)):
        found = (score.precision, score.recall, score.f1, score.support)
        assert found == pytest.approx(tuple(column[i] for column in table), abs=TIGHT)


def test_the_confusion_matrix_is_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    labels, predicted = draw.integers(0, 5, 80), draw.integers(0, 5, 80)
    expected = sk.confusion_matrix(labels, predicted)
    assert np.array_equal(own.confusion(labels, predicted, 5), expected)


@given(_answers())
def test_cluster_agreement_is_scikit_learns(case: tuple) -> None:
    labels, clusters, _ = case
    ari = sk.adjusted_rand_score(labels, clusters)
    assert own.adjusted_rand(labels, clusters) == pytest.approx(ari, abs=1e-9)
    nmi = sk.normalized_mutual_info_score(labels, clusters)
    assert own.normalized_mutual_information(labels, clusters) == pytest.approx(nmi, abs=1e-9)


def test_nearest_neighbours_vote_as_scikit_learns() -> None:
    draw = torch.Generator().manual_seed(0)
    train, test = torch.randn(300, 7, generator=draw), torch.randn(120, 7, generator=draw)
    train_labels = np.arange(300) % 4
    test_labels = np.arange(120) % 4
    found = own.knn_correct(train, train_labels, test, test_labels, ks=(1, 16, 256, 1000))
    assert set(found) == {1, 16, 256}
    for k, hits in found.items():
        judge = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
        judge.fit(train.numpy(), train_labels)
        assert hits.mean() == pytest.approx(judge.score(test.numpy(), test_labels), abs=TIGHT)


def test_calibration_error_equals_a_plain_loop_over_the_bins() -> None:
    draw = np.random.default_rng(1)
    logits = draw.normal(size=(500, 5)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = draw.integers(0, 5, 500)
    expected = 0.0
    for b in range(15):
        inside = [i for i in range(500) if b / 15 < p[i].max() <= (b + 1) / 15]
        if inside:
            right = np.mean([p[i].argmax() == labels[i] for i in inside])
            expected += len(inside) / 500 * abs(right - np.mean([p[i].max() for i in inside]))
    assert own.expected_calibration_error(p, labels) == pytest.approx(expected, abs=TIGHT)
    sure = np.eye(5)[labels]
    assert own.expected_calibration_error(sure, labels) == 0.0
    assert own.expected_calibration_error(sure, (labels + 1) % 5) == 1.0


def test_own_similarity_and_margin_equal_a_plain_loop() -> None:
    draw = torch.Generator().manual_seed(2)
    states, centroids = torch.randn(20, 6, generator=draw), torch.randn(3, 6, generator=draw)
    labels = np.arange(20) % 3
    cosine, margin = own.own_similarity(states, labels, centroids)
    for i in range(20):
        all_ = [
            float(torch.nn.functional.cosine_similarity(states[i], c, dim=0)) for c in centroids
        ]
        mine = all_.pop(int(labels[i]))
        assert cosine[i] == pytest.approx(mine, abs=1e-6)
        assert margin[i] == pytest.approx(mine - max(all_), abs=1e-6)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(3)
    inside = 0
    for i in range(200):
        values = (draw.random(80) < 0.7).astype(float)
        found = own.bootstrap_interval(values, resamples=300, seed=i)
        inside += found.low <= 0.7 <= found.high
    assert 0.88 <= inside / 200 <= 0.99  # 95 % less what the percentile bootstrap loses at n = 80


def test_intervals_are_seeded_and_both_forms_agree() -> None:
    values = np.random.default_rng(4).random(50)
    one = own.bootstrap_interval(values, seed=7)
    assert one == own.bootstrap_interval(values, seed=7)
    assert one != own.bootstrap_interval(values, seed=8)
    by_rows = own.bootstrap_interval(
        statistic=lambda rows: float(values[rows].mean()), n=50, seed=7
    )
    assert by_rows.value == pytest.approx(one.value)
    assert (by_rows.low, by_rows.high) == pytest.approx((one.low, one.high))


def test_a_paired_difference_is_narrower_than_two_intervals_apart() -> None:
    draw = np.random.default_rng(5)
    first = (draw.random(300) < 0.6).astype(float)
    second = first.copy()
    second[:15] = 0.0
    found = own.paired_interval(first, second)
    assert found.value == pytest.approx(float((first - second).mean()))
    single = own.bootstrap_interval(first)
    assert found.low > 0
    assert found.high - found.low < single.high - single.low
    assert own.paired_interval(first, first) == own.Interval(0.0, 0.0, 0.0)


def test_the_report_holds_the_single_figures() -> None:
    draw = np.random.default_rng(6)
    labels, p = draw.integers(0, 3, 90), draw.dirichlet(np.ones(3), 90)
    report = own.classification_report(labels, p.argmax(1), 3, probabilities=p, resamples=200)
    assert report.accuracy.value == pytest.approx(sk.accuracy_score(labels, p.argmax(1)))
    assert report.macro_f1.value == pytest.approx(own.macro_f1(labels, p.argmax(1), 3))
    assert report.ece is not None
    assert report.ece.value == pytest.approx(own.expected_calibration_error(p, labels))
    assert sum(map(sum, report.to_dict()["confusion"])) == 90
    for interval in (report.accuracy, report.macro_f1):
        assert interval.low <= interval.value <= interval.high


def test_what_cannot_be_measured_is_refused_in_one_sentence() -> None:
    some = np.array([0, 1])
    for work in (
        lambda: own.confusion(some, some[:1], 3),
        lambda: own.confusion(some[:0], some[:0], 3),
        lambda: own.confusion(np.array([0, 3]), some, 2),
        lambda: own.bootstrap_interval([]),
        lambda: own.bootstrap_interval(),
        lambda: own.paired_interval([1.0], [1.0, 0.0]),
    ):
        with pytest.raises(OptionError) as caught:
            work()
        assert "\n" not in str(caught.value)
    with pytest.raises(NonFiniteError):
        own.classification_report(some, some, 2, probabilities=np.array([[np.nan, 1], [0, 1]]))
