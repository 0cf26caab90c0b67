"""Maps of real and tiny models: points, frames, words, evidence and verification."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tiny_models import NAN_LAYER, PROMPT, Spaces

from engine import LatentSpace
from engine.errors import (
    ArtifactError,
    BudgetExceeded,
    Cancelled,
    LayerError,
    LexiscopeError,
    NonFiniteError,
    OptionError,
    PromptError,
    TokenError,
)
from engine.frames.frame import Frame
from engine.maps import COLOURS, KINDS, MapMaker, MapNotReady, MapOptions, TextSet, verify
from engine.maps.axes import rms_radius
from engine.maps.colours import CLASSES

SENTENCES = (
    "The cat sat on the old mat.",
    "A dog ran to the house.",
    "The king was happy.",
    "It was a sunny day, and the girl had a ball.",
    "Queens rule.",
    "Once upon a time there was a boy who",
)
TEXTS = TextSet(
    name="six", texts=SENTENCES, labels=("animal", "animal", "crown", "day", "crown", "")
)


@pytest.fixture(scope="module")
def maker(spaces: Spaces) -> MapMaker:
    return spaces["llama"].maps


@pytest.fixture(scope="module")
def real(small: LatentSpace) -> MapMaker:
    return small.maps


def test_the_shared_frame_is_scikit_learns_and_states_are_placed_in_it(real: MapMaker) -> None:
    """Bases, states and axes by another road: written-out bases, sklearn, states one by one."""
    space = real.space
    prompt = "The old king and the queen"
    drawn = real.map(MapOptions(prompt=prompt, layer=3))
    b = space.frame("output").vectors(range(space.model.vocabulary)).numpy()
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    pca = PCA(2, svd_solver="covariance_eigh").fit(b)
    c = pca.components_
    c *= np.sign(c[[0, 1], np.abs(c).argmax(1)])[:, None]
    radius = rms_radius(drawn.coordinates)
    bases = drawn.points.kind == 0
    np.testing.assert_allclose(drawn.coordinates[bases], (b - pca.mean_) @ c.T, atol=1e-4 * radius)
    raw = space.model.states(space.tokenize(prompt).ids).raw[3]
    state = space.model.read_out(raw).double().numpy()
    state /= np.linalg.norm(state, axis=1, keepdims=True)
    np.testing.assert_allclose(drawn.coordinates[~bases], (state - pca.mean_) @ c.T, atol=1e-5)
    assert drawn.variance_of_bases == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-4)
    spread = state - state.mean(0)
    share = np.sum((spread @ c.T) ** 2) / np.sum(spread**2)
    assert drawn.variance_shown == pytest.approx(share, rel=1e-4)
    assert drawn.points.kinds == (("basis", 8192), ("prompt", len(raw)))
    assert "8,192 of 8,192 tokens: all" in drawn.how_chosen


def test_the_layer_switch_keeps_points_and_window_and_bases(maker: MapMaker) -> None:
    options = MapOptions(prompt=PROMPT, texts=TEXTS)
    maps = {layer: maker.map(replace(options, layer=layer)) for layer in range(4)}
    first = maps[0]
    for drawn in maps.values():
        np.testing.assert_array_equal(drawn.points.kind, first.points.kind)
        np.testing.assert_array_equal(drawn.points.row, first.points.row)
        assert drawn.border.shared
        assert drawn.border.range == first.border.range
        bases = drawn.points.kind == 0
        np.testing.assert_array_equal(drawn.coordinates[bases], first.coordinates[bases])
        assert drawn.border.count + int((~drawn.border.outside).sum()) == drawn.n
    assert not np.array_equal(maps[1].coordinates, maps[2].coordinates)
    again = maker.map(replace(options, layer=-1))
    np.testing.assert_array_equal(again.coordinates, maps[3].coordinates)
    assert again.fingerprint == maps[3].fingerprint
    assert again.layer == 3


def test_bases_that_move_are_placed_at_all_layers_in_one_pass(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bases of the per-layer projection lie elsewhere at every layer, and one window holds all of
    them: one pass for the map, one for the others, none for the next layer; and window and places
    are the same whichever layer is drawn first."""
    maker = MapMaker(spaces["llama"])
    options = MapOptions(prompt=PROMPT, projection="layer")
    rows: list[int] = []
    block = Frame.block

    def counted(self: Frame, start: int, stop: int) -> torch.Tensor:
        rows.append(stop - start)
        return block(self, start, stop)

    maker.map(MapOptions(prompt=PROMPT))  # the moments of all bases
    monkeypatch.setattr(Frame, "block", counted)
    drawn = {layer: maker.map(replace(options, layer=layer)) for layer in (1, 3, 2)}
    assert sum(rows) == 2 * maker.space.model.vocabulary
    other = MapMaker(maker.space)
    for layer in (2, 3, 1):
        again = other.map(replace(options, layer=layer))
        assert again.border.range == drawn[layer].border.range == drawn[1].border.range
        np.testing.assert_array_equal(again.coordinates, drawn[layer].coordinates)


def test_alone_points_are_states_of_one_token_prompts(maker: MapMaker) -> None:
    space = maker.space
    drawn = maker.map(
        MapOptions(vocabulary="alone", select="ids:5,7,299,9,120", layer=2, preprocessing="raw")
    )
    begin = space.model.tokenizer.bos_token_id
    assert drawn.points.row.tolist() == [5, 7, 9, 120, 299]
    vectors = maker._scenes.raw(
        maker._scenes.scene(maker.resolve(drawn.options), lambda: None), lambda: None
    )
    for vector, id in zip(vectors, drawn.points.row, strict=True):
        raw = space.model.states([begin, int(id)]).raw[2, -1]
        np.testing.assert_allclose(vector, space.model.read_out(raw).numpy(), atol=1e-4)
    assert set(drawn.points.kind.tolist()) == {KINDS.index("alone")}


def test_text_points_are_last_position_states(maker: MapMaker) -> None:
    space = maker.space
    options = MapOptions(vocabulary="none", texts=TEXTS, layer=1, preprocessing="raw")
    scene = maker._scenes.scene(maker.resolve(options), lambda: None)
    vectors = maker._scenes.raw(scene, lambda: None)
    for vector, text in zip(vectors, SENTENCES, strict=True):
        raw = space.model.states(space.tokenize(text).ids).raw[1, -1]
        np.testing.assert_allclose(vector, space.model.read_out(raw).numpy(), atol=1e-4)
    drawn = maker.map(options)
    assert drawn.how_chosen == "6 texts of six: all"
    assert drawn.points.group(0) == "animal"
    assert drawn.points.id(0) is None


@pytest.mark.parametrize(
    ("select", "wanted"),
    [
        ("ids:7,5,7,#9", [5, 7, 9]),
        ("prompt", None),
        ("search:king", None),
        ("regex:^.$", None),
        ("near:6", None),
    ],
)
def test_selections_choose_what_they_say(
    maker: MapMaker, select: str, wanted: list[int] | None
) -> None:
    import re

    space = maker.space
    texts = space.vocabulary.texts
    drawn = maker.map(MapOptions(select=select, prompt=PROMPT, layer=2))
    ids = drawn.points.row[drawn.points.kind == 0].tolist()
    if select == "prompt":
        wanted = sorted(set(space.tokenize(PROMPT).ids))
    elif select.startswith("search"):
        wanted = [i for i, t in enumerate(texts) if "king" in t.casefold()]
    elif select.startswith("regex"):
        wanted = [i for i, t in enumerate(texts) if re.search("^.$", t)]
    elif select.startswith("near"):
        state = space.model.read_out(space.model.states(space.tokenize(PROMPT).ids).raw[2, -1])
        bases = space.frame("output").vectors(range(space.model.vocabulary))
        cosine = torch.nn.functional.cosine_similarity(bases, state.double()[None])
        wanted = sorted(cosine.topk(6).indices.tolist())
    assert ids == wanted
    assert f"{len(ids):,} of {space.model.vocabulary:,} tokens" in drawn.how_chosen


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"vocabulary": "all"}, OptionError),
        ({"vocabulary": "none"}, OptionError),
        ({"frame": "x"}, OptionError),
        ({"select": "near:5"}, OptionError),
        ({"select": "near:0", "prompt": "a"}, OptionError),
        ({"select": "ids:99999"}, TokenError),
        ({"select": "ids:x"}, TokenError),
        ({"select": "ids"}, OptionError),
        ({"select": "all:3"}, OptionError),
        ({"select": "search:zzqqzz"}, OptionError),
        ({"select": "regex:("}, OptionError),
        ({"select": "words:zzqq zz"}, TokenError),
        ({"layer": 4}, LayerError),
        ({"layer": -5}, LayerError),
        ({"layer": 1.5}, OptionError),
        ({"dims": 4}, OptionError),
        ({"seed": -1}, OptionError),
        ({"min_dist": float("nan")}, OptionError),
        ({"neighbours": 1}, OptionError),
        ({"projection": "axes"}, OptionError),
        ({"projection": "axes", "axes": (("a", "a"), ("b", "c"))}, OptionError),
        ({"prompt": ""}, PromptError),
        (
            {"prompt": "a", "bos": "no", "preprocessing": "centred", "vocabulary": "none"},
            OptionError,
        ),
        ({"prompt": "a", "bos": "no", "vocabulary": "none", "projection": "layer"}, OptionError),
        ({"select": "ids:5", "projection": "umap"}, MapNotReady),
    ],
)
def test_what_cannot_be_drawn_gets_one_sentence(
    maker: MapMaker, settings: dict[str, object], error: type[LexiscopeError]
) -> None:
    with pytest.raises(error) as raised:
        maker.map(MapOptions(**settings))
    message = str(raised.value)
    assert message.endswith((".", ")"))
    assert "\n" not in message


def test_one_basis_and_states_that_are_nan(spaces: Spaces, maker: MapMaker) -> None:
    one = maker.map(MapOptions(select="ids:5"))
    assert one.n == 1
    assert "1 point " in maker.quality(MapOptions(select="ids:5")).sentence
    broken = spaces["nan"].maps
    assert broken.map(MapOptions(prompt=PROMPT, layer=NAN_LAYER - 1)).n > 300
    with pytest.raises(NonFiniteError, match=f"layer {NAN_LAYER}"):
        broken.map(MapOptions(vocabulary="none", prompt=PROMPT, layer=NAN_LAYER))


def test_frame_b_of_bases_only_is_frame_a(maker: MapMaker) -> None:
    a, b = (maker.map(MapOptions(projection=p)) for p in ("shared", "layer"))
    np.testing.assert_array_equal(a.coordinates, b.coordinates)
    assert any("shared frame" in w for w in b.warnings)


def test_frame_b_keeps_the_shape_of_the_layers_own_pca(maker: MapMaker) -> None:
    """Turning and shifting change no distance between states."""
    options = MapOptions(vocabulary="alone", layer=1, projection="layer", preprocessing="raw")
    drawn = maker.map(options)
    scene = maker._scenes.scene(maker.resolve(options), lambda: None)
    x = maker._scenes.raw(scene, lambda: None).astype(np.float64)
    own = PCA(2, svd_solver="covariance_eigh").fit_transform(x)
    rows = np.random.default_rng(0).integers(0, len(x), (2, 500))
    a = np.linalg.norm(own[rows[0]] - own[rows[1]], axis=1)
    b = np.linalg.norm(drawn.coordinates[rows[0]] - drawn.coordinates[rows[1]], axis=1)
    np.testing.assert_allclose(a, b, atol=1e-4 * a.max())
    top = maker.map(replace(options, layer=-1))
    before = np.linalg.norm(own - own.mean(0) - (top.coordinates - top.coordinates.mean(0)), axis=1)
    after = drawn.coordinates - drawn.coordinates.mean(0)
    after = np.linalg.norm(after - (top.coordinates - top.coordinates.mean(0)), axis=1)
    assert (after**2).sum() <= (before**2).sum() + 1e-6


def test_concept_axes_read_token_differences(maker: MapMaker) -> None:
    options = MapOptions(
        projection="axes", axes=(("#5", "#9"), ("#20", "#31")), preprocessing="unit"
    )
    drawn = maker.map(options)
    b = maker.space.frame("output").vectors([5, 9, 20, 31]).numpy()
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    gap = np.linalg.norm(b[0] - b[1])
    assert drawn.coordinates[5, 0] - drawn.coordinates[9, 0] == pytest.approx(gap, rel=1e-4)
    assert drawn.axis_names == ("#5 − #9", "#20 − #31")
    assert "cosine" in drawn.blind_to


def test_planted_movers_are_found(maker: MapMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tokens alone are moved between two layers that are the same otherwise."""
    from engine.maps import scenes

    options = MapOptions(vocabulary="alone", layer=1, preprocessing="raw")
    scene = maker._scenes.scene(maker.resolve(options), lambda: None)
    base = maker._scenes.raw(scene, lambda: None)
    axes = maker.map(options).axes
    assert axes is not None
    planted = np.arange(3, 300, 30)
    moved = base.copy()
    moved[planted] += (40 * axes.directions[:, 0]).astype(np.float32)

    def fake(space, options, points, layer, store, check, calibrator):  # type: ignore[no-untyped-def]
        return moved if layer == 2 else base

    monkeypatch.setattr(scenes, "state_vectors", fake)
    fresh = MapMaker(maker.space)
    found = fresh.changes(options, replace(options, layer=2))
    assert {m.index for m in found.movers[:10]} == set(planted.tolist())
    others = np.setdiff1d(np.arange(found.n), planted)
    np.testing.assert_allclose(found.displacement[others], 0, atol=1e-5)
    np.testing.assert_allclose(found.displacement[planted], 40 / found.radius, rtol=1e-4)
    assert found.median == pytest.approx(0, abs=1e-6)
    assert (found.jaccard[planted] < 0.7).all()
    assert found.relative[planted].min() > found.relative[others].max()
    same = fresh.changes(options, replace(options, layer=1))
    assert same.median_jaccard == 1
    assert same.displacement.max() == 0


def test_motion_of_everything_is_not_relative_motion(
    maker: MapMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.maps import scenes

    options = MapOptions(vocabulary="alone", layer=1, preprocessing="raw")
    scene = maker._scenes.scene(maker.resolve(options), lambda: None)
    base = maker._scenes.raw(scene, lambda: None)
    monkeypatch.setattr(scenes, "state_vectors", lambda *a: base + 3 if a[3] == 2 else base)
    found = MapMaker(maker.space).changes(options, replace(options, layer=2))
    assert found.median > 0.01
    assert found.median_relative < 1e-4 * max(found.median, 1)
    turned = MapMaker(maker.space).changes(
        replace(options, projection="layer"), replace(options, projection="layer", layer=2)
    )
    assert turned.median < 1e-4  # frame B is blind to it


def test_neighbours_are_those_of_the_model_by_brute_force(maker: MapMaker) -> None:
    options = MapOptions(prompt=PROMPT, layer=2)
    drawn = maker.map(options)
    scene = maker._scenes.scene(maker.resolve(options), lambda: None)
    x = maker._scenes.raw(scene, lambda: None).astype(np.float64)
    index = drawn.n - 1
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for metric, distances in (
        ("cosine", 1 - unit @ unit[index]),
        ("l2", np.linalg.norm(x - x[index], axis=1)),
    ):
        found = maker.neighbours(options, index, k=5, metric=metric, layer_b=3)
        order = [i for i in np.argsort(distances) if i != index][:5]
        assert [n.index for n in found.neighbours] == order
        for n in found.neighbours:
            assert n.distance == pytest.approx(distances[n.index], abs=1e-4)
        bases = distances[drawn.points.kind == 0]
        assert [b.id for b in found.bases] == np.argsort(bases)[:5].tolist()
        before = {n.index for n in found.neighbours}
        there = {
            n.index
            for n in maker.neighbours(
                replace(options, layer=3), index, k=5, metric=metric
            ).neighbours
        }
        assert {n.index for n in found.gained} == there - before
        assert {n.index for n in found.lost} == before - there
        assert found.jaccard == pytest.approx(len(before & there) / len(before | there))
    with pytest.raises(OptionError, match="index"):
        maker.neighbours(options, drawn.n)
    with pytest.raises(OptionError, match="metric"):
        maker.neighbours(options, 0, metric="l1")


def test_colours_have_a_value_or_a_name_for_each_point(maker: MapMaker) -> None:
    options = MapOptions(prompt=PROMPT, texts=TEXTS, layer=3)
    drawn = maker.map(options)
    space = maker.space
    for by in COLOURS:
        colour = maker.colour(options, by)
        given = colour.values if colour.values is not None else colour.codes
        assert given is not None
        assert len(given) == drawn.n
        if colour.codes is not None:
            assert 0 <= colour.codes.min() <= colour.codes.max() < len(colour.names)
        json.dumps(colour.to_dict(), allow_nan=False)
    prediction = maker.colour(options, "prediction")
    ids = space.tokenize(PROMPT).ids
    wanted = space.model.logits(ids).argmax(1).tolist()
    inside = np.flatnonzero(drawn.points.kind == 2)
    assert prediction.codes is not None
    named = [prediction.names[prediction.codes[i]] for i in inside]
    for name, id in zip(named, wanted, strict=True):
        assert name in (space.vocabulary.labels[id], "other")
    assert any(name != "other" for name in named)
    leverage = maker.colour(options, "leverage").values
    assert leverage is not None
    np.testing.assert_allclose(leverage[:300], space.decomposition.leverage[:300], rtol=1e-6)
    assert np.isnan(leverage[-1])
    with pytest.raises(OptionError, match="no corpus"):
        maker.colour(options, "frequency")
    with pytest.raises(OptionError, match="colour must be"):
        maker.colour(options, "taste")


def test_token_classes_are_those_a_reader_gives(real: MapMaker) -> None:
    vocabulary = real.space.vocabulary
    colour = real.colour(MapOptions(), "class")
    assert colour.codes is not None
    by_text = {t: colour.names[c] for t, c in zip(vocabulary.texts, colour.codes, strict=True)}
    assert by_text[" king"] == "word"
    assert by_text["ing"] == "word piece"
    assert by_text[","] == "punctuation"
    assert by_text["\n"] == "space"
    assert {by_text[t] for t in by_text if t.strip().isdecimal()} == {"number"}
    assert set(by_text.values()) <= set(CLASSES)
    few = real.colour(MapOptions(select="search:king"), "class")
    assert few.codes is not None
    points = real.points(MapOptions(select="search:king"))
    assert [few.names[c] for c in few.codes] == [
        by_text[points.text(i)] for i in range(len(points))
    ]


def test_search_and_polygon_select_points(maker: MapMaker) -> None:
    options = MapOptions(prompt=PROMPT, texts=TEXTS, layer=2)
    drawn = maker.map(options)
    texts = [drawn.points.text(i) for i in range(drawn.n)]
    found = maker.search(options, "king").tolist()
    assert found == [i for i, t in enumerate(texts) if "king" in t.casefold()]
    assert {int(drawn.points.kind[i]) for i in found} >= {2, 3}
    assert maker.search(options, "^The", regex=True).tolist() == [
        i for i, t in enumerate(texts) if t.startswith("The")
    ]
    (x0, x1), (y0, y1) = drawn.border.range
    everything = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    assert len(maker.inside(options, everything)) == drawn.n  # points at the border too
    with pytest.raises(OptionError, match="2 dimensions"):
        maker.inside(replace(options, dims=3), everything)


def test_cka_of_few_states_takes_tokens_alone_and_says_so(maker: MapMaker) -> None:
    found = maker.cka(MapOptions(prompt=PROMPT, layer=2))
    assert found.n == maker.space.model.vocabulary
    assert "tokens" in found.note
    assert found.values.shape == (4, 4)
    np.testing.assert_allclose(np.diag(found.values), 1)
    np.testing.assert_allclose(found.values, found.values.T)
    alone = maker.cka(MapOptions(vocabulary="alone"))
    np.testing.assert_allclose(alone.values, found.values, atol=1e-9)
    assert alone.note == ""


def test_a_saved_map_verifies_and_a_changed_one_does_not(maker: MapMaker, spaces: Spaces) -> None:
    options = MapOptions(prompt=PROMPT, texts=TEXTS, layer=2, projection="layer", dims=3)
    document = json.loads(json.dumps(maker.map(options).to_dict(), allow_nan=False))
    report = verify(maker, document)
    assert report.ok
    assert report.largest_difference == 0
    assert report.same_versions
    arrays = {
        "meta": np.array(json.dumps(maker.map(options).header())),
        "coordinates": np.array(document["coordinates"], np.float32),
        "kind": np.array(document["kind"]),
        "row": np.array(document["row"]),
    }
    assert verify(maker, arrays).ok
    document["coordinates"][7][1] += 0.5
    changed = verify(maker, document)
    assert not changed.ok
    assert changed.largest_difference == pytest.approx(0.5, rel=1e-3)
    assert "NOT" in changed.sentence
    foreign = verify(spaces["gpt2"].maps, document)
    assert not foreign.same_model
    assert not foreign.ok
    with pytest.raises(ArtifactError):
        verify(maker, {"format": "lexiscope-map"})
    with pytest.raises(ArtifactError):
        verify(maker, document | {"options": {"layer": "x"}})


def test_options_survive_json_and_name_their_picture() -> None:
    options = MapOptions(texts=TEXTS, axes=(("a", "b"), ("c", "d")), layer=3, prompt="x\ny")
    again = MapOptions.from_dict(json.loads(json.dumps(options.to_dict())))
    assert again == options
    assert again.fingerprint("m") == options.fingerprint("m")
    others = [
        replace(options, layer=2),
        replace(options, seed=1),
        replace(options, texts=replace(TEXTS, texts=(*SENTENCES[:5], "z"))),
    ]
    names = {o.fingerprint("m") for o in (options, *others)} | {options.fingerprint("n")}
    assert len(names) == 5
    with pytest.raises(OptionError, match="no option"):
        MapOptions.from_dict({"colour": "red"})


def test_a_head_bias_moves_states_to_the_frames_origin(spaces: Spaces) -> None:
    """phi's head has a bias: r + W⁺b is what lies among the bases."""
    space = spaces["phi"]
    options = MapOptions(prompt=PROMPT, layer=3, preprocessing="raw")
    drawn = space.maps.map(options)
    states = space.model.read_out(space.states(PROMPT).raw[3])
    moved = space.frame("output").place(states).double().numpy()
    assert drawn.axes is not None
    np.testing.assert_allclose(
        drawn.coordinates[drawn.points.kind == 2], drawn.axes.place(moved), rtol=1e-4, atol=1e-4
    )
    named = space.maps.colour(options, "prediction")
    wanted = space.model.logits(space.tokenize(PROMPT).ids).argmax(1).tolist()
    assert named.codes is not None
    got = [named.names[c] for c in named.codes[drawn.points.kind == 2]]
    labels = space.vocabulary.labels
    assert all(g in (labels[w], "other") for g, w in zip(got, wanted, strict=True))


def test_work_is_stopped_by_its_check_and_bounded_in_memory(spaces: Spaces) -> None:
    def stop() -> None:
        raise Cancelled("gone")

    fresh = MapMaker(spaces["llama"])
    with pytest.raises(Cancelled):
        fresh.map(MapOptions(vocabulary="alone"), check=stop)
    tight = MapMaker(spaces["llama"], vector_bytes=1000)
    tight.map(MapOptions())  # no basis is written out for a picture
    with pytest.raises(BudgetExceeded, match="select fewer"):
        tight.quality(MapOptions())
    narrow = MapMaker(spaces["llama"], state_bytes=100_000)
    drawn = narrow.map(MapOptions(vocabulary="alone", layer=2))
    assert not drawn.border.shared  # the other layers could not be held
    wide = spaces["llama"].maps.map(MapOptions(vocabulary="alone", layer=2))
    np.testing.assert_allclose(drawn.coordinates, wide.coordinates, atol=1e-6)
