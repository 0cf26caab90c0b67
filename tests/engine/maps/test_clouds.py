"""Distances of bases that are never written out, against vectors written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from tiny_models import PROMPT, Spaces

from engine.frames.frame import Frame
from engine.maps import MapMaker, MapOptions
from engine.maps.clouds import UnitBases, Written
from engine.maps.quality import measure_quality
from engine.progress import no_check

CLOSE = 2e-5
"""Of a squared distance between unit vectors, from products in float32."""


@pytest.mark.parametrize("select", ["all", "regex:e"])
@pytest.mark.parametrize(("model", "frame"), [("llama", "output"), ("gpt2", "tight")])
def test_bases_have_the_distances_of_the_written_out_ones(
    spaces: Spaces, model: str, frame: str, select: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.maps.scenes.EXACT", 5)
    maker = MapMaker(spaces[model])
    options = maker.resolve(MapOptions(prompt=PROMPT, frame=frame, select=select, layer=1))
    scene = maker._scenes.scene(options, no_check)
    cloud = maker._scenes.cloud(scene, no_check)
    assert isinstance(cloud, UnitBases)
    bases = maker.space.frame(frame).vectors(scene.ids).numpy()
    states = maker._scenes.states(scene, no_check).astype(np.float64)
    unit = np.concatenate([bases, states])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    queries = np.array([0, 3, len(bases) - 1, len(bases), len(unit) - 1])
    wanted = cdist(unit[queries], unit, "sqeuclidean")
    wanted[np.arange(len(queries)), queries] = np.inf
    found = np.concatenate([block.numpy() for _, block in cloud.blocks(queries)])
    np.testing.assert_allclose(found, wanted, atol=CLOSE)
    directions = np.random.default_rng(0).standard_normal((cloud.width, 2))
    np.testing.assert_allclose(cloud.along(directions), unit @ directions, atol=CLOSE)
    # So the badge is that of the written-out points, but for ties.
    coordinates = maker.map(options).coordinates
    one = measure_quality(cloud, coordinates)
    other = measure_quality(unit.astype(np.float32), coordinates)
    assert one.kept.value == pytest.approx(other.kept.value, abs=0.01)
    assert one.trustworthiness.value == pytest.approx(other.trustworthiness.value, abs=1e-3)


def test_the_badge_of_many_bases_writes_none_out_and_is_exact_on_demand(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampled with an interval that holds the exact figure, which every point gives on demand."""
    monkeypatch.setattr("engine.maps.scenes.EXACT", 5)
    monkeypatch.setattr("engine.maps.quality.EXACT", 5)
    monkeypatch.setattr("engine.maps.maker.QUERIES", 120)
    maker = MapMaker(spaces["gpt2"])
    options = MapOptions(prompt=PROMPT)
    written: list[int] = []
    vectors = Frame.vectors

    def counted(self: Frame, ids: np.ndarray) -> object:
        written.append(len(ids))
        return vectors(self, ids)

    monkeypatch.setattr(Frame, "vectors", counted)
    sampled = maker.quality(options)
    assert sum(written) <= 120 < maker.space.model.vocabulary
    assert (sampled.queries, sampled.exact) == (120, False)
    whole = maker.quality(options, exact=True)
    assert (whole.queries, whole.exact) == (whole.n, True)
    for name in ("kept", "trustworthiness", "continuity"):
        one, truth = getattr(sampled, name), getattr(whole, name).value
        assert one.low < truth < one.high
    assert maker.quality(options) is sampled


def test_other_preprocessings_and_drawn_rows_are_written_out(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.maps.scenes.EXACT", 5)
    maker = MapMaker(spaces["llama"])
    for options in (MapOptions(preprocessing="centred"), MapOptions(frame="random")):
        scene = maker._scenes.scene(maker.resolve(options), no_check)
        assert isinstance(maker._scenes.cloud(scene, no_check), Written)
