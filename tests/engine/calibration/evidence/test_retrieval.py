"""Retrieval methods: divergences by scipy, neighbours by brute force, class means by sklearn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from method_tasks import small_context, small_task
from scipy.special import softmax as scipy_softmax
from scipy.stats import entropy
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from tiny_models import Spaces

from engine.calibration.evidence.methods import METHODS
from engine.calibration.evidence.prompting import choose_demonstrations
from engine.calibration.evidence.retrieval import (
    Anchors,
    class_means,
    log_distributions,
    majority,
    nearest_mean_scores,
    neighbour_distribution,
    squared_distances,
    stratified,
)
from engine.progress import drain


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "phi", "gpt2"])
def test_divergences_equal_scipys(spaces: Spaces, name: str) -> None:
    """KL(p_anchor ‖ p_query) from d + 1 numbers equals scipy's from the model's own logits."""
    space = spaces[name]
    prompts = ["The king", "The cat sat.", "Once upon a time", "It was"]
    ids = [space.tokenize(p).ids for p in prompts]
    p = np.stack([torch.softmax(space.model.logits(i)[-1].double(), 0).numpy() for i in ids])
    states = torch.stack([space.model.read_out(space.model.states(i).raw[-1, -1]) for i in ids])
    anchors = Anchors(space.model, states[:3])
    drain(anchors.fill())
    found = anchors.divergences(states).numpy()
    for query in range(4):
        for anchor in range(3):
            assert found[query, anchor] == pytest.approx(entropy(p[anchor], p[query]), abs=2e-4)
    assert np.allclose(np.diag(found), 0, atol=2e-4)
    assert anchors.stored_bytes == 4 * 3 * (space.model.width + 1)


def test_log_distributions_are_the_models(spaces: Spaces) -> None:
    """The softmax of the model's own logits."""
    space = spaces["phi"]  # its head has a bias
    ids = space.tokenize("The king and").ids
    state = space.model.read_out(space.model.states(ids).raw[-1, -1])[None]
    hand = torch.log_softmax(space.model.logits(ids)[-1].double(), 0)
    torch.testing.assert_close(log_distributions(space.model, state)[0], hand, atol=1e-4, rtol=0)


def test_knn_prompting_by_brute_force(spaces: Spaces) -> None:
    """Whole distributions from plain forward passes, scipy's KL, a counted majority."""
    space = spaces["llama"]
    task = small_task(space, rows=70)
    context = small_context(space, task)
    outcome = drain(METHODS["knn-prompting"].run(context))
    shown = choose_demonstrations(space.model, task, seed=1, shots=1)
    rows = [i for i in range(task.size("train")) if i not in shown.rows]
    assert outcome.settings["anchors"] == len(rows)

    def distribution(prompt: str) -> np.ndarray:
        logits = space.model.logits(space.tokenize("".join(shown.texts) + prompt).ids)[-1]
        return torch.softmax(logits.double(), 0).numpy()

    held = [distribution(task.prompts["train"][i]) for i in rows]
    labels = task.labels["train"][rows]
    k = outcome.settings["k"]
    for row, prompt in enumerate(task.prompts["test"][:8]):
        asked = distribution(prompt)
        near = np.argsort([entropy(p, asked) for p in held])[:k]
        counts = np.bincount(labels[near], minlength=2)
        np.testing.assert_allclose(outcome.scores[row], counts / k, atol=1e-5)


@pytest.mark.slow
def test_knn_prompting_chooses_k_without_the_row_itself(spaces: Spaces) -> None:
    """k is the best by leave-one-out: recounted here row by row."""
    space = spaces["llama"]
    task = small_task(space, rows=70)
    context = small_context(space, task)
    outcome = drain(METHODS["knn-prompting"].run(context))
    states = next(v for n, v in context.memo.items() if n.startswith("few-shot train")).states
    shown = choose_demonstrations(space.model, task, seed=1, shots=1)
    labels = np.delete(task.labels["train"], list(shown.rows))
    logs = log_distributions(space.model, states).numpy()
    hits = {}
    for k in (1, 3, 5, 9, 17):
        right = 0
        for i in range(len(states)):
            others = [j for j in range(len(states)) if j != i]
            near = sorted(others, key=lambda j: entropy(np.exp(logs[j]), np.exp(logs[i])))[:k]
            counts = np.bincount(labels[near], minlength=2)
            tied = np.flatnonzero(counts == counts.max())
            said = next(labels[j] for j in near if labels[j] in tied)
            right += int(said == labels[i])
        hits[k] = right
    assert hits[outcome.settings["k"]] == max(hits.values())


def test_fewer_anchors_keep_every_class(spaces: Spaces) -> None:
    """A capped index is stratified and smaller to store."""
    context = small_context(spaces["llama"], anchors=10)
    outcome = drain(METHODS["knn-prompting"].run(context))
    assert outcome.settings["anchors"] == pytest.approx(10, abs=1)
    rows = stratified(np.array([0] * 50 + [1] * 2), 10, 0)
    assert set(np.array([0] * 50 + [1] * 2)[rows]) == {0, 1}
    assert (stratified(np.arange(9) % 3, 6, 1) == stratified(np.arange(9) % 3, 6, 1)).all()


def test_majority_votes_and_ties() -> None:
    """Counted by hand; of equal counts the class whose row is nearer."""
    distances = np.array([[0.3, 0.1, 0.2, 9.0], [0.1, 0.2, 0.4, 0.3]])
    labels = np.array([0, 1, 1, 0])
    votes = majority(distances, labels, 3, 3)
    np.testing.assert_allclose(votes, [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0]], atol=2e-6)
    tied = majority(distances, labels, 2, 2)
    assert tied.argmax(1).tolist() == [1, 0]
    even = majority(np.array([[0.2, 0.1]]), np.array([0, 1]), 2, 2)
    assert even.argmax(1).tolist() == [1]


def test_majority_equals_sklearns() -> None:
    """On odd k and two classes there are no ties, so votes are scikit-learn's."""
    draw = np.random.default_rng(0)
    train, test = draw.normal(size=(60, 5)), draw.normal(size=(20, 5))
    labels = (train[:, 0] > 0).astype(np.int64)
    hand = KNeighborsClassifier(7).fit(train, labels).predict_proba(test)
    found = majority(squared_distances(test, train), labels, 7, 2)
    np.testing.assert_allclose(found, hand, atol=2e-6)


def test_neighbour_distribution_by_a_loop() -> None:
    """p_kNN summed neighbour by neighbour."""
    draw = np.random.default_rng(1)
    distances, labels = draw.random((4, 12)) * 5, draw.integers(0, 3, 12)
    found = neighbour_distribution(distances, labels, 5, 0.7, 3)
    for row in range(4):
        near = np.argsort(distances[row])[:5]
        weights = scipy_softmax(-distances[row, near] / 0.7)
        hand = [
            sum(w for w, j in zip(weights, near, strict=True) if labels[j] == c) for c in range(3)
        ]
        np.testing.assert_allclose(found[row], hand, atol=1e-12)
    assert np.allclose(found.sum(1), 1)


def test_knn_lm_by_hand(spaces: Spaces) -> None:
    """λ·p_kNN + (1 − λ)·p_LM with the settings that it says it chose."""
    context = small_context(spaces["llama"])
    outcome = drain(METHODS["knn-lm"].run(context))
    zero = drain(METHODS["zero-shot"].run(context))
    chosen = outcome.settings
    train = context.states.normed["train"].double()
    labels = context.task.labels["train"]
    assert zero.probabilities is not None
    for row, state in enumerate(context.states.normed["test"].double()[:6]):
        distances = (train - state).square().sum(1).numpy()
        near = np.argsort(distances)[: chosen["k"]]
        weights = scipy_softmax(-distances[near] / chosen["temperature"])
        own = np.bincount(labels[near], weights=weights, minlength=2)
        hand = chosen["share"] * own + (1 - chosen["share"]) * zero.probabilities[row]
        np.testing.assert_allclose(outcome.scores[row], hand, atol=1e-6)


def test_class_means_equal_sklearns(spaces: Spaces) -> None:
    """Nearest centroid of scikit-learn on the same states."""
    context = small_context(spaces["llama"])
    outcome = drain(METHODS["class-mean"].run(context))
    train = context.states.normed["train"].double().numpy()
    hand = NearestCentroid().fit(train, context.task.labels["train"])
    said = hand.predict(context.states.normed["test"].double().numpy())
    assert (outcome.predicted == said).all()
    assert outcome.stored_bytes == 4 * 2 * context.space.model.width


def test_a_class_without_rows_is_never_answered() -> None:
    """It has no mean: its score is below every other."""
    means = class_means(np.eye(3), [0, 0, 2], 3)
    assert np.isnan(means[1]).all()
    scores = nearest_mean_scores(np.eye(3), means)
    assert (scores.argmax(1) != 1).all()
    assert np.isfinite(scores).all()
