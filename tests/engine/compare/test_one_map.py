"""Two models on one map: laws, scikit-learn, planted turns, controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors
from tiny_models import PROMPT, Spaces, turned_copy

import engine
from engine import LatentSpace
from engine.compare.one_map import one_map
from engine.errors import OptionError
from engine.trace.options import TraceOptions


def test_a_model_beside_itself_lies_on_itself(spaces: Spaces) -> None:
    space = spaces["llama"]
    found = one_map(space, space, PROMPT)
    assert found.places[0] == pytest.approx(found.places[1])
    assert (found.same, found.apart) == (1, 0)
    assert found.by_chance < 0.1
    assert not found.movers
    assert found.paths[0] == pytest.approx(found.paths[1])
    assert found.layers == ((0, 1, 2, 3), (0, 1, 2, 3))
    assert "can be read on one map" in found.sentence


def test_a_turned_frame_is_the_same_map(spaces: Spaces, tmp_path: Path) -> None:
    folder = turned_copy(spaces.folders, tmp_path / "turned")
    other = engine.load(folder, offline=True, cache_dir=tmp_path / "cache")
    found = one_map(spaces["llama"], other, options=TraceOptions(frame="head"))
    assert found.same == 1
    assert found.apart == pytest.approx(0, abs=1e-6)
    assert found.paths[0].shape == (0, 2)


def test_two_models_as_scikit_learn_places_them(spaces: Spaces) -> None:
    first, other = spaces["llama"], spaces["wide"]  # 32 and 320 dimensions
    found = one_map(first, other, landmarks=120)
    ids = [token.id for token in found.words]
    coordinates = []
    for space in (first, other):
        near = coordinates_of(space, ids)
        coordinates.append(near - near.mean(0))
    pca = PCA(n_components=2).fit(np.concatenate(coordinates))
    wanted = np.concatenate([pca.transform(one) for one in coordinates])
    got = np.concatenate(found.places)
    assert np.abs(got) == pytest.approx(np.abs(wanted), abs=1e-6)  # signs are free
    assert found.variance == pytest.approx(pca.explained_variance_ratio_.sum())
    nearest = NearestNeighbors(n_neighbors=1, metric="cosine").fit(coordinates[1])
    hits = nearest.kneighbors(coordinates[0], return_distance=False)[:, 0] == np.arange(len(ids))
    assert found.same == pytest.approx(hits.mean())
    low, high = found.interval
    assert low <= found.same <= high
    assert "more than chance" in found.sentence, "random heads have nothing in common"


def coordinates_of(space: LatentSpace, ids: list[int], states: Any = None) -> Any:
    """Cosines with the landmarks: of all tokens that stand for a word, every second one."""
    every = [i for i in range(space.model.vocabulary) if space.vocabulary.words[i]]
    if len(every) < 240:
        every = list(range(space.model.vocabulary))
    chosen = [every[round(x)] for x in np.linspace(0, len(every) - 1, min(240, len(every)))]
    assert chosen[0::2] == ids
    frame = space.frame("output")
    marks = frame.vectors(chosen[1::2]).numpy()
    return cosine_similarity(frame.vectors(ids).numpy() if states is None else states, marks)


def test_the_path_is_the_cosines_of_the_last_states(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    found = one_map(space, space, PROMPT, landmarks=120)
    ids = [token.id for token in found.words]
    words = coordinates_of(space, ids)
    states = space.model.read_out(space.states(PROMPT).raw)[:, -1]
    near = coordinates_of(space, ids, space.frame("output").place(states).double().numpy())
    axes = PCA(n_components=2, svd_solver="covariance_eigh").fit(
        np.concatenate([words - words.mean(0)] * 2)
    )
    assert np.abs(found.paths[0]) == pytest.approx(
        np.abs((near - words.mean(0)) @ axes.components_.T), abs=1e-5
    )


def test_what_cannot_be_placed_is_a_sentence(spaces: Spaces) -> None:
    space = spaces["llama"]
    with pytest.raises(OptionError, match="random"):
        one_map(space, space, options=TraceOptions(frame="random"))
    with pytest.raises(OptionError, match="at least 9,999 are needed"):
        one_map(space, spaces["padded"], fewest=9999)
