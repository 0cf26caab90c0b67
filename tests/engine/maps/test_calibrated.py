"""A calibration on a map: λ's states in the frame of the bases, beside those before it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tiny_models import PROMPT, Spaces
from torch import Tensor

from engine.errors import OptionError, PromptError
from engine.maps import CalibrationName, Calibrator, MapMaker, MapOptions, TextSet, verify
from engine.maps.axes import rms_radius
from engine.model.language_model import LanguageModel

NAME = CalibrationName(fingerprint="0123456789abcdef", name="planted", id="there")
TEXTS = TextSet(
    name="four",
    texts=("The cat sat.", "A dog ran.", "The king was happy.", "A sunny day."),
    labels=("animal", "animal", "crown", "day"),
)
AFTER = MapOptions(prompt=PROMPT, texts=TEXTS, calibration=NAME)
BEFORE = replace(AFTER, side="before")
PLAIN = replace(AFTER, calibration=None)


def lam(states: Tensor) -> Tensor:
    """A change that is neither a rotation nor a shift: every dimension squared, turned over."""
    return (states.float() ** 2).flip(-1) + 0.5


@pytest.fixture
def maker(spaces: Spaces) -> MapMaker:
    """A maker of its own, with the planted calibration of the last layer."""
    made = MapMaker(spaces["llama"])
    made.use(Calibrator(fingerprint=NAME.fingerprint, layer=made.space.model.blocks, apply=lam))
    return made


def states_by_hand(maker: MapMaker) -> np.ndarray:
    """Last-layer states of the prompt's positions and of the texts' ends, one run each."""
    model, tokenize = maker.space.model, maker.space.tokenize
    rows = [model.states(tokenize(PROMPT).ids).raw[-1]]
    rows += [model.states(tokenize(text).ids).raw[-1, -1:] for text in TEXTS.texts]
    return model.read_out(torch.cat(rows)).double().numpy()


def frame_by_hand(maker: MapMaker) -> tuple[np.ndarray, np.ndarray]:
    """Mean and axes of the bases, by scikit-learn."""
    bases = maker.space.frame("output").vectors(range(maker.space.model.vocabulary)).numpy()
    bases = bases / np.linalg.norm(bases, axis=1, keepdims=True)
    pca = PCA(2, svd_solver="covariance_eigh").fit(bases)
    axes = pca.components_ * np.sign(
        pca.components_[[0, 1], np.abs(pca.components_).argmax(1)]
    ).reshape(2, 1)
    return pca.mean_, axes


def unit(vectors: np.ndarray) -> np.ndarray:
    out: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return out


def test_both_sides_lie_in_the_frame_of_the_bases(maker: MapMaker) -> None:
    """By hand: states one run at a time, λ in NumPy, axes from scikit-learn."""
    states = states_by_hand(maker)
    changed = np.flip(states.astype(np.float32) ** 2, axis=1) + 0.5
    mean, axes = frame_by_hand(maker)
    for options, vectors in ((BEFORE, states), (AFTER, changed)):
        drawn = maker.map(options)
        own = drawn.points.kind != 0
        np.testing.assert_allclose(
            drawn.coordinates[own], (unit(vectors) - mean) @ axes.T, atol=2e-5
        )
    before, after, plain = maker.map(BEFORE), maker.map(AFTER), maker.map(PLAIN)
    np.testing.assert_array_equal(before.coordinates, plain.coordinates)
    bases = after.points.kind == 0
    np.testing.assert_array_equal(after.coordinates[bases], plain.coordinates[bases])
    assert before.border.range == after.border.range
    assert "before the calibration “planted”" in before.title
    assert "after the calibration “planted”" in after.title
    assert "calibrated states" in after.variance_of
    assert "calibrat" not in plain.title


@pytest.mark.parametrize("preprocessing", ["raw", "centred", "unit", "standardised"])
@pytest.mark.parametrize("projection", ["shared", "layer"])
def test_nothing_is_fitted_on_what_came_after(
    maker: MapMaker, preprocessing: str, projection: str
) -> None:
    """Another λ moves its own states and nothing else: not the axes, not the preprocessing."""
    options = replace(AFTER, preprocessing=preprocessing, projection=projection)
    first = maker.map(options)
    other = CalibrationName(fingerprint="another")
    maker.use(Calibrator(fingerprint="another", layer=first.layer, apply=lambda x: 3 * lam(x)))
    second = maker.map(replace(options, calibration=other))
    before = maker.map(replace(options, side="before"))
    plain = maker.map(replace(options, calibration=None))
    assert first.axes is not None
    for drawn in (second, before, plain):
        assert drawn.axes is not None
        np.testing.assert_array_equal(drawn.axes.directions, first.axes.directions)
        np.testing.assert_array_equal(drawn.axes.centre, first.axes.centre)
        bases = drawn.points.kind == 0
        np.testing.assert_array_equal(drawn.coordinates[bases], first.coordinates[bases])
    np.testing.assert_array_equal(before.coordinates, plain.coordinates)
    # Lengths are gone in `unit` alone: there both λ are the same picture.
    same = np.allclose(first.coordinates, second.coordinates, atol=1e-5)
    assert same == (preprocessing == "unit")


def test_changes_between_the_sides_by_brute_force(maker: MapMaker) -> None:
    found = maker.changes(BEFORE, AFTER, k=3)
    a, b = maker.map(BEFORE), maker.map(AFTER)
    own = a.points.kind != 0
    by_hand = np.linalg.norm(
        b.coordinates.astype(float) - a.coordinates.astype(float), axis=1
    ) / rms_radius(a.coordinates)
    np.testing.assert_allclose(found.displacement, by_hand, rtol=1e-4, atol=1e-6)
    assert found.moving == own.sum()
    assert found.median == pytest.approx(float(np.median(by_hand[own])), rel=1e-4)
    assert found.movers[0].index == int(np.argmax(np.where(own, by_hand, -1)))
    assert found.sentence.startswith("From before to after the calibration “planted”")
    # The identity moves nothing.
    maker.use(Calibrator(fingerprint="still", layer=a.layer, apply=lambda x: x))
    still = replace(AFTER, calibration=CalibrationName(fingerprint="still"))
    nothing = maker.changes(replace(still, side="before"), still)
    assert float(nothing.displacement.max()) == 0.0
    assert nothing.median_jaccard == 1.0


def test_only_its_own_layer_is_changed_and_that_is_said(maker: MapMaker) -> None:
    low = maker.map(replace(AFTER, layer=1))
    np.testing.assert_array_equal(low.coordinates, maker.map(replace(PLAIN, layer=1)).coordinates)
    assert any("works on layer 3; at layer 1" in note for note in low.warnings)
    assert not any("works on layer" in note for note in maker.map(AFTER).warnings)
    assert low.border.range == maker.map(AFTER).border.range


def test_a_tuned_model_stands_in_at_every_layer(maker: MapMaker, spaces: Spaces) -> None:
    """Here another model of the same shape: its states, where the model's own stood."""
    import copy

    own = maker.space.model
    module = copy.deepcopy(own.module)
    with torch.no_grad():
        for parameter in list(module.parameters())[-12:-1]:
            parameter.mul_(1.5)
    twin = LanguageModel(
        module, own.tokenizer, name="twin", revision="local", kind=own.anatomy.kind,
        limits=own.limits,
    )  # fmt: skip
    maker.use(Calibrator(fingerprint="tuned", layer=own.blocks, apply=lambda x: x, model=twin))
    for layer in (2, 3):
        options = replace(AFTER, calibration=CalibrationName(fingerprint="tuned"), layer=layer)
        drawn = maker.map(replace(options, preprocessing="raw"))
        scene = maker._scenes.scene(maker.resolve(drawn.options), lambda: None)
        found = maker._scenes.states(scene, lambda: None)
        ids = [maker.space.tokenize(t).ids for t in (PROMPT, *TEXTS.texts)]
        raw = [twin.states(one).raw[layer] for one in ids]
        wanted = twin.read_out(torch.cat([raw[0], *(one[-1:] for one in raw[1:])]))
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)
        assert drawn.warnings == ()


def test_near_and_neighbours_and_cka_under_a_calibration(maker: MapMaker) -> None:
    near = replace(AFTER, texts=None, select="near:7")
    np.testing.assert_array_equal(
        maker.points(near).row, maker.points(replace(near, calibration=None)).row
    )
    index = len(maker.points(AFTER)) - 1
    states = states_by_hand(maker)
    changed = np.flip(states.astype(np.float32) ** 2, axis=1) + 0.5
    bases = maker.space.frame("output").vectors(range(maker.space.model.vocabulary)).numpy()
    cosines = unit(bases) @ unit(changed)[-1]
    found = maker.neighbours(AFTER, index, k=3).bases
    assert [one.id for one in found] == np.argsort(-cosines, kind="stable")[:3].tolist()
    assert maker.cka(AFTER).values.tolist() == maker.cka(PLAIN).values.tolist()


def test_the_fingerprint_is_the_calibrations_and_not_its_name() -> None:
    one = AFTER.fingerprint("m")
    assert one != PLAIN.fingerprint("m") != BEFORE.fingerprint("m") != one
    renamed = replace(AFTER, calibration=replace(NAME, name="other", id="elsewhere"))
    assert renamed.fingerprint("m") == one
    retrained = replace(AFTER, calibration=replace(NAME, fingerprint="fedc"))
    assert retrained.fingerprint("m") != one
    again = MapOptions.from_dict(json.loads(json.dumps(AFTER.to_dict())))
    assert again == AFTER
    assert replace(PLAIN, side="before") == PLAIN  # a side without a calibration says nothing


def test_what_cannot_be_drawn_is_one_sentence(maker: MapMaker) -> None:
    with pytest.raises(OptionError, match="not open"):
        maker.map(replace(AFTER, calibration=CalibrationName(fingerprint="unknown")))
    with pytest.raises(OptionError, match="final norm"):
        replace(AFTER, state="raw")
    with pytest.raises(OptionError, match="side"):
        replace(AFTER, side="between")
    with pytest.raises(OptionError, match="fingerprint"):
        CalibrationName(fingerprint="")


def test_verify_needs_the_calibration(maker: MapMaker, spaces: Spaces) -> None:
    document = json.loads(json.dumps(maker.map(AFTER).to_dict()))
    report = verify(maker, document)
    assert report.ok
    assert report.largest_difference == 0.0
    bare = verify(MapMaker(spaces["llama"]), document)
    assert not bare.ok
    assert "calibration “planted”" in bare.sentence
    assert "cannot be computed again" in bare.sentence


def test_prompts_are_read_in_place_of_the_texts(maker: MapMaker) -> None:
    """The state is that of the template's end; what is written beside the point is the text."""
    prompts = tuple(f"Text: {text}\nTopic:" for text in TEXTS.texts)
    held = replace(TEXTS, prompts=prompts, template="Text: {text}\nTopic:")
    options = MapOptions(vocabulary="none", texts=held, preprocessing="raw")
    scene = maker._scenes.scene(maker.resolve(options), lambda: None)
    found = maker._scenes.states(scene, lambda: None)
    model = maker.space.model
    for vector, prompt in zip(found, prompts, strict=True):
        raw = model.states(maker.space.tokenize(prompt).ids).raw[-1, -1]
        np.testing.assert_allclose(vector, model.read_out(raw).numpy(), atol=1e-4)
    drawn = maker.map(options)
    assert drawn.points.labels() == list(TEXTS.texts)
    assert "4 texts of four: all, each at the last position of its prompt" in drawn.how_chosen
    assert "Topic:”" in drawn.how_chosen
    assert drawn.fingerprint != maker.map(replace(options, texts=TEXTS)).fingerprint
    assert MapOptions.from_dict(drawn.options.to_dict()) == drawn.options
    with pytest.raises(OptionError, match="prompts must be one per text"):
        replace(TEXTS, prompts=("one",))


def test_a_text_that_is_too_long_is_named(maker: MapMaker) -> None:
    limit = maker.space.model.max_tokens
    long = replace(TEXTS, texts=(*TEXTS.texts[:3], "word " * (limit + 5)))
    with pytest.raises(PromptError, match=r"text 4 of 4 in 'four' \(“word word.*tokens"):
        maker.map(MapOptions(vocabulary="none", texts=long))
