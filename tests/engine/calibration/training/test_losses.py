"""Centroids are the frame's vectors, and each loss is its formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import planted_tasks
import pytest
import torch
from scipy.special import log_softmax, softmax
from tiny_models import Spaces
from torch import Tensor

from engine.calibration.training.losses import LOSSES, Centroids, centroids, clustering_loss
from engine.errors import OptionError
from engine.frames.kinds import FRAMES
from engine.reading import similarity

CLOSE = 2e-4
MODELS = ("llama", "phi", "gemma2", "cohere")  # plain, head bias, soft cap, logit scale


def _made(spaces: Spaces, name: str, frame: str, scope: str = "labels") -> tuple[Centroids, Tensor]:
    space = spaces[name]
    task = planted_tasks.task(space, 30)
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(8, space.model.width, generator=draw)
    return centroids(space, task.label_tokens, frame=frame, scope=scope), states  # type: ignore[arg-type]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_reading(spaces: Spaces, name: str, frame: str) -> None:
    """The same numbers as `engine.reading.similarity.scores`, which has tests of its own."""
    own, states = _made(spaces, name, frame, "vocabulary")
    space = spaces[name]
    bases = space.frame(frame)
    product = space.frame("head") if frame in ("output", "head") else bases
    for kind, geometry, source in (("sm", "cosine", bases), ("mm", "matmul", product)):
        expected = similarity.scores(source, states, geometry)
        whole = own.scores(states, kind, "vocabulary")  # type: ignore[arg-type]
        assert torch.allclose(whole, expected, atol=CLOSE, rtol=1e-4)
        some = own.scores(states, kind)  # type: ignore[arg-type]
        assert torch.allclose(some, expected[:, list(own.ids)], atol=CLOSE, rtol=1e-4)


def test_in_chunks_the_vocabulary_scores_are_the_same(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, states = _made(spaces, "phi", "output", "vocabulary")
    written = {kind: own.scores(states, kind, "vocabulary") for kind in ("sm", "mm")}
    monkeypatch.setattr("engine.calibration.training.losses._WHOLE_BYTES", 0)
    fresh = replace(own, _written={})
    for kind, expected in written.items():
        found = fresh.scores(states, kind, "vocabulary")  # type: ignore[arg-type]
        assert torch.allclose(found, expected, atol=CLOSE, rtol=1e-4)
    assert not fresh._written


def test_matrix_product_with_the_head_is_the_models_own_logit(spaces: Spaces) -> None:
    for name in MODELS:
        space = spaces[name]
        ids = space.tokenize("The king and the cat").ids
        logits = space.model.logits(ids)[-1]
        state = space.model.read_out(space.model.states(ids).raw[-1, -1:])
        own, _ = _made(spaces, name, "output")
        assert torch.allclose(own.scores(state, "mm")[0], logits[list(own.ids)], atol=CLOSE)


@pytest.mark.parametrize("scope", ["labels", "vocabulary"])
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_each_loss_is_its_formula_in_float64(
    spaces: Spaces, name: str, kind: str, scope: str
) -> None:
    own, states = _made(spaces, name, "output", scope)
    space = spaces[name]
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    temperature = 0.3
    anatomy = space.model.anatomy
    r = states.double().numpy()
    which = range(space.model.vocabulary) if scope == "vocabulary" else own.ids
    y = np.array(own.ids)[labels] if scope == "vocabulary" else labels
    bases = space.frame("output").vectors(list(which)).numpy()
    shift = space.frame("output").shift
    placed = r if shift is None else r + shift.numpy()
    cosine = placed @ bases.T
    cosine /= np.linalg.norm(placed, axis=1)[:, None] * np.linalg.norm(bases, axis=1)
    rows = anatomy.weight.detach().double().numpy()[list(which)]
    product = r @ rows.T
    if anatomy.bias is not None:
        product = product + anatomy.bias.detach().double().numpy()[list(which)]
    product = anatomy.finish(torch.from_numpy(product)).numpy()
    kappa = own.kappa if kind.startswith("mm") else 1.0
    scores = (cosine if kind.startswith("sm") else product) / (kappa * temperature)
    if kind == "sm-gt":
        expected = np.mean(1 - cosine[np.arange(8), y])
    elif kind.endswith("-exp"):
        expected = -np.mean(log_softmax(softmax(scores, axis=1), axis=1)[np.arange(8), y])
    else:
        expected = -np.mean(log_softmax(scores, axis=1)[np.arange(8), y])
    found = clustering_loss(kind, states, torch.from_numpy(labels), own, temperature)
    assert float(found) == pytest.approx(float(expected), abs=1e-3, rel=1e-3)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_slope_is_the_finite_difference(spaces: Spaces, kind: str) -> None:
    own, states = _made(spaces, "gemma2", "output")
    own = replace(own, labels=own.labels.double(), rows=own.rows.double())
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    moved = states.double().requires_grad_()
    clustering_loss(kind, moved, labels, own, 0.5).backward()  # type: ignore[no-untyped-call]
    assert moved.grad is not None
    flat = moved.detach().clone()
    step = 1e-6
    for row, column in ((0, 0), (3, 5), (7, 30)):
        there = flat.clone()
        there[row, column] += step
        back = flat.clone()
        back[row, column] -= step
        slope = (
            clustering_loss(kind, there, labels, own, 0.5)
            - clustering_loss(kind, back, labels, own, 0.5)
        ) / (2 * step)
        assert float(moved.grad[row, column]) == pytest.approx(float(slope), abs=1e-7, rel=1e-4)


def test_the_loss_is_least_on_the_own_basis(spaces: Spaces) -> None:
    own, _ = _made(spaces, "llama", "output")
    labels = torch.tensor([0, 1, 2])
    at_home = own.labels.clone()
    for kind in ("sm", "sm-gt", "sm-exp"):
        home = float(clustering_loss(kind, at_home, labels, own, 0.1))
        away = float(clustering_loss(kind, at_home.roll(1, 0), labels, own, 0.1))
        assert home < away
    assert float(clustering_loss("sm-gt", at_home, labels, own, 1.0)) == pytest.approx(0, abs=1e-6)


def test_a_word_of_several_tokens_may_stand_for_its_mean(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    task = planted_tasks.task(
        space, 30, word_rule="mean", label_words={"king": "kingship", "cat": "cat", "dog": "dogs"}
    )
    own = centroids(space, task.label_tokens)
    frame = space.frame("output")
    for i, token in enumerate(task.label_tokens):
        vectors = frame.vectors(token.ids)
        if token.mean:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        assert torch.allclose(own.labels[i].double(), vectors.mean(0), atol=1e-5)
    assert any(t.mean for t in task.label_tokens)
    with pytest.raises(OptionError, match="one token"):
        centroids(space, task.label_tokens, scope="vocabulary")


def test_unknown_names_are_refused(spaces: Spaces) -> None:
    own, states = _made(spaces, "llama", "output")
    with pytest.raises(OptionError, match="loss"):
        clustering_loss("ce", states, torch.zeros(8, dtype=torch.long), own, 1.0)
    with pytest.raises(OptionError, match="scope"):
        _made(spaces, "llama", "output", "all")
    with pytest.raises(OptionError, match="label words only"):
        own.scores(states, "sm", "vocabulary")
