"""Maps on any place of the dial, with a ridge, and through a lens: against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tiny_models import PROMPT, Spaces

from engine import LatentSpace
from engine.errors import LensMissing, OptionError
from engine.lenses.kind import Lens
from engine.maps import CalibrationName, MapOptions, verify


@pytest.fixture
def space(spaces: Spaces, monkeypatch: pytest.MonkeyPatch) -> LatentSpace:
    """With a lens that turns every state into another."""
    space = spaces["llama"]
    draw = torch.Generator().manual_seed(1)
    size = space.model.blocks, space.model.width
    maps = torch.randn(*size, size[1], generator=draw).half()
    lens = Lens("linear", space.model.fingerprint, maps, torch.ones(size), (), 9, 0, "noise", 0.0)
    monkeypatch.setitem(space._lenses, "linear", lens)
    space.maps.forget()
    return space


@pytest.mark.parametrize(
    ("alpha", "ridge", "key"),
    [(0.25, None, "dial:0.25"), (None, 0.1, "dial:1.0:0.1"), (0.7, 0.02, "dial:0.7:0.02")],
)
def test_the_bases_of_a_map_stand_where_the_dial_does(
    space: LatentSpace, alpha: float | None, ridge: float | None, key: str
) -> None:
    """The shared axes are scikit-learn's of those vectors, and neighbours are brute force's."""
    options = MapOptions(prompt=PROMPT, layer=1, frame="dial", alpha=alpha, ridge=ridge)
    drawn = space.maps.map(options)
    b = space.frame(key).vectors(range(space.model.vocabulary)).numpy()
    unit = b / np.linalg.norm(b, axis=1, keepdims=True)
    wanted = PCA(2, svd_solver="covariance_eigh").fit_transform(unit)
    for axis in range(2):
        found = drawn.coordinates[: len(unit), axis]
        sign = np.sign(found @ wanted[:, axis])
        np.testing.assert_allclose(found, sign * wanted[:, axis], atol=1e-5)
    index = len(unit) + 2  # the prompt's third token
    state = space.model.read_out(space.states(PROMPT).raw[1])[2].double().numpy()
    cosine = unit @ state / np.linalg.norm(state)
    near = space.maps.neighbours(options, index, k=5).bases
    assert [one.id for one in near] == np.argsort(-cosine, kind="stable")[:5].tolist()
    assert options.frame_words in drawn.title
    assert drawn.fingerprint != space.maps.map(replace(options, alpha=0.4)).fingerprint


def test_states_of_a_map_go_through_the_lens(space: LatentSpace) -> None:
    plain = MapOptions(prompt=PROMPT, layer=1, vocabulary="none", preprocessing="raw")
    through = replace(plain, lens="linear")
    lens = space.lens("linear")
    assert lens is not None
    states = space.model.read_out(space.states(PROMPT).raw[1]).double()
    moved = states @ lens.maps[1].double() + lens.offsets[1].double()
    index = 2
    wanted = torch.cdist(moved[index : index + 1], moved)[0]
    found = space.maps.neighbours(through, index, k=3, metric="l2").neighbours
    order = [i for i in wanted.argsort().tolist() if i != index]
    assert [one.index for one in found] == order[:3]
    distances = [float(wanted[i]) for i in order[:3]]
    assert [one.distance for one in found] == pytest.approx(distances, rel=1e-4)
    drawn = space.maps.map(through)
    assert "through the linear lens" in drawn.title
    last = [space.maps.map(replace(one, layer=-1)).coordinates for one in (plain, through)]
    np.testing.assert_allclose(*last, atol=1e-6)  # the last layer is where the head reads


def test_a_map_through_a_lens_verifies_by_the_same_lens_only(
    space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = MapOptions(prompt=PROMPT, layer=1, frame="dial", ridge=0.1, lens="linear")
    drawn = space.maps.map(options)
    saved = drawn.to_dict()
    assert MapOptions.from_dict(saved["options"]) == space.maps.resolve(options)
    assert verify(space.maps, saved).ok
    lens = space.lens("linear")
    assert lens is not None
    other = replace(lens, maps=-lens.maps)
    monkeypatch.setitem(space._lenses, "linear", other)
    space.maps.forget()
    assert not verify(space.maps, saved).ok
    assert space.maps.fingerprint(options) != drawn.fingerprint
    monkeypatch.delitem(space._lenses, "linear")
    space.maps.forget()
    with pytest.raises(LensMissing, match="not fitted"):
        space.maps.map(options)


def test_what_says_nothing_changes_no_name() -> None:
    """A map of before has the same settings, so its file and its layout are found again."""
    plain = MapOptions(prompt="a")
    assert not {"alpha", "ridge", "lens"} & plain.to_dict().keys()
    assert plain.fingerprint("m") != plain.fingerprint("m", "lens")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"alpha": 0.3}, "alpha belongs to the frame dial"),
        ({"frame": "dial", "alpha": "0.3"}, "alpha must be a number"),
        ({"frame": "dial", "ridge": -1.0}, "ridge must be from 0"),
        ({"lens": "magic"}, "lens must be one of none, linear"),
        ({"lens": "linear", "state": "raw"}, "choose one of the two"),
        ({"lens": "linear", "calibration": CalibrationName(fingerprint="f")}, "one of the two"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(given: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        MapOptions(**given)  # type: ignore[arg-type]
