"""Atlases that ship, and the regions of layouts: true by another route, and named by their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from engine import LatentSpace
from engine.maps import MapMaker, MapOptions, UmapProcess, verify
from engine.maps.atlas import FOLDER, OPTIONS, digest_of, find_atlas, is_atlas, quantised
from engine.maps.colours import token_class

LARGEST = 500_000
VERIFY = sys.modules["engine.maps.verify"]
FILES = sorted(FOLDER.glob("*.npz"))


@pytest.fixture(scope="module")
def maker(small: LatentSpace) -> Iterator[MapMaker]:
    """A maker of its own, that keeps nothing on the disk."""
    one = MapMaker(small)
    yield one
    one.close()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[:8])
def test_an_atlas_is_small_and_its_names_are_of_their_regions(path: Path) -> None:
    assert path.stat().st_size <= LARGEST
    found = find_atlas(path.stem)
    assert found is not None
    result, meta = found.result, found.meta
    assert meta["model"]["fingerprint"] == path.stem
    assert meta["digest"] == digest_of(result.coordinates) == result.atlas
    quality = meta["quality"]
    assert not quality["weak"]
    assert quality["kept"]["low"] > 10 * quality["random"]["kept"]
    assert quality["trustworthiness"]["low"] > quality["random"]["trustworthiness"] + 0.15
    assert result.labels is not None
    assert result.central is not None
    levels = len(result.labels)
    assert levels == 3
    counts = [len(np.unique(own[own >= 0])) for own in result.labels]
    assert counts == sorted(counts)  # finer levels have more regions
    for number, central in enumerate(result.central):
        members = central[central >= 0]
        assert len(members) > 0
        assert (result.labels[:, members] == number).any(axis=0).all()


def test_no_other_model_and_no_other_settings_have_the_atlas() -> None:
    assert find_atlas("0" * 32) is None
    assert find_atlas("../atlases/" + FILES[0].stem) is None
    assert is_atlas(OPTIONS, 64)
    assert is_atlas(replace(OPTIONS, principal=64, layer=3, state="raw"), 64)
    for other in (
        {"seed": 1}, {"vocabulary": "alone"}, {"select": "search:a"}, {"dims": 3},
        {"frame": "head"},
        {"preprocessing": "raw"}, {"neighbours": 5}, {"principal": 50}, {"projection": "shared"},
    ):  # fmt: skip
        assert not is_atlas(replace(OPTIONS, **other), 64)


def test_places_are_kept_to_half_a_step() -> None:
    places = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32) * [3, 40]
    steps, limits, back = quantised(places.astype(np.float32))
    assert steps.dtype == np.uint16
    half = (limits[1] - limits[0]) / 65_535 / 2
    assert (np.abs(back - places) <= half * 1.01 + 1e-6).all()


def test_the_atlas_keeps_as_many_neighbours_as_it_says(maker: MapMaker) -> None:
    """By scikit-learn on the written-out bases; shuffled places keep what chance keeps."""
    found = find_atlas(maker.space.model.fingerprint)
    if found is None:
        pytest.skip("the small model's atlas does not ship")
    drawn = maker.map(OPTIONS)
    x = normalize(maker.space.frame("output").vectors(range(drawn.n)).double().numpy())
    places = drawn.coordinates.astype(np.float64)
    some = np.random.default_rng(1).choice(drawn.n, 400, replace=False)

    def near(rows: np.ndarray) -> np.ndarray:
        index = NearestNeighbors(n_neighbors=16).fit(rows)
        return index.kneighbors(rows[some], return_distance=False)[:, 1:]

    true, random = near(x), np.random.default_rng(2).permutation(places)
    kept, chance = (
        np.mean([len(set(a) & set(b)) for a, b in zip(true, near(at), strict=True)])
        for at in (places, random)
    )
    said = found.meta["quality"]["kept"]
    spread = 2 * (said["high"] - said["low"])
    assert said["value"] - spread < kept < said["value"] + spread
    assert chance < 0.1 < kept / 10
    part = some[:300]
    assert trustworthiness(x[part], places[part]) > trustworthiness(x[part], random[part]) + 0.15


@pytest.mark.slow
def test_the_atlas_is_there_at_once_and_verifies_by_its_quality(
    maker: MapMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_atlas(maker.space.model.fingerprint)
    if found is None:
        pytest.skip("the small model's atlas does not ship")
    monkeypatch.setattr(UmapProcess, "layout", lambda *_, **__: pytest.fail("it was laid out"))
    drawn = maker.map(OPTIONS)
    assert drawn.atlas == found.result.atlas
    assert drawn.noise_floor == found.meta["noise_floor"]
    np.testing.assert_array_equal(drawn.coordinates, found.result.coordinates)
    saved = json.loads(json.dumps(drawn.to_dict()))
    report = verify(maker, saved)
    assert report.ok, report.sentence
    assert "a random picture" in report.sentence
    moved = json.loads(json.dumps(saved))
    moved["coordinates"][7][0] += 0.5
    assert not verify(maker, moved).ok
    assert "does not ship" in verify(maker, saved | {"atlas": "0" * 32}).sentence
    # An atlas that says more of itself than is so, and one that says nothing.
    quality = found.meta["quality"]
    better = quality | {"kept": quality["kept"] | {"value": quality["kept"]["value"] + 1}}
    boasting = replace(found, meta=found.meta | {"quality": better})
    monkeypatch.setattr(VERIFY, "find_atlas", lambda _: boasting)
    assert not verify(maker, saved).ok
    # Places that are shuffled show chance, whatever they say.
    order = np.random.default_rng(0).permutation(drawn.n)
    mixed = replace(found.result, coordinates=found.result.coordinates[order])
    monkeypatch.setattr("engine.maps.drawing.find_atlas", lambda _: replace(found, result=mixed))
    shuffled = saved | {"coordinates": mixed.coordinates.tolist()}
    monkeypatch.setattr(VERIFY, "find_atlas", lambda _: found)
    assert not verify(maker, shuffled).ok


def test_regions_are_named_by_central_words_of_their_own(maker: MapMaker) -> None:
    found = maker.regions(OPTIONS)
    if not found:
        pytest.skip("the small model's atlas does not ship")
    result = find_atlas(maker.space.model.fingerprint).result  # type: ignore[union-attr]
    points, vocabulary = maker.points(OPTIONS), maker.space.vocabulary
    unit = normalize(maker.space.frame("output").vectors(range(len(points))).double().numpy())
    assert [one.level for one in found] == sorted(one.level for one in found)
    for region in found:
        own = result.labels[region.level][list(region.indices)]  # type: ignore[index]
        assert len(set(own.tolist())) == 1
        members = np.flatnonzero(result.labels[region.level] == own[0])  # type: ignore[index]
        assert region.count == len(members)
        np.testing.assert_allclose(
            [region.x, region.y], np.median(result.coordinates[members], axis=0), rtol=1e-5
        )
        assert [vocabulary.texts[i].strip() for i in region.indices] == list(region.names)
        # Each name is more central than all words of the region that do not name it.
        away = np.linalg.norm(unit[members] - unit[members].mean(axis=0), axis=1)
        order = [int(i) for i in members[np.argsort(away)]]
        words = [
            i for i in order
            if token_class(vocabulary, i) == "word" and len(vocabulary.texts[i].strip()) >= 3
        ]  # fmt: skip
        if words and words[0] in order[:20]:
            first = [vocabulary.texts[i].strip().casefold() for i in words[:2]]
            assert region.names[0].casefold() in first  # a tie may turn by rounding
    assert maker.regions(MapOptions()) == ()


def test_a_text_stands_on_the_atlas_at_its_nearest_words(maker: MapMaker) -> None:
    """By brute force in float64; the bases do not move, and it is said that nothing was laid out
    for the text."""
    if find_atlas(maker.space.model.fingerprint) is None:
        pytest.skip("the small model's atlas does not ship")
    alone = maker.map(OPTIONS)
    bases = normalize(maker.space.frame("output").vectors(range(alone.n)).double().numpy())
    seen = set()
    for layer in (3, maker.space.model.blocks):
        options = replace(OPTIONS, prompt="The old king and the queen", layer=layer)
        drawn = maker.map(options)
        np.testing.assert_array_equal(drawn.coordinates[: alone.n], alone.coordinates)
        states = maker.vectors(options)[alone.n :].astype(np.float64)
        near = (normalize(states) @ bases.T).argmax(axis=1)
        np.testing.assert_array_equal(drawn.coordinates[alone.n :], alone.coordinates[near])
        assert any("laid out without the text" in note for note in drawn.warnings)
        assert maker.regions(options) == maker.regions(OPTIONS)
        seen.add(tuple(near.tolist()))
    assert len(seen) == 2  # the path goes from word to word
    report = verify(maker, json.loads(json.dumps(drawn.to_dict())))
    assert report.ok, report.sentence


@pytest.mark.slow
def test_the_default_models_atlas_is_as_true_as_it_says(smollm2: LatentSpace) -> None:
    maker = MapMaker(smollm2)
    drawn = maker.map(OPTIONS)
    assert drawn.atlas
    assert drawn.n == smollm2.model.vocabulary
    report = verify(maker, drawn.to_dict())
    assert report.ok, report.sentence
