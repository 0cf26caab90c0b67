"""Principal axes, Procrustes and moments against scikit-learn, SciPy and planted truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group
from sklearn.decomposition import PCA
from tiny_models import Spaces

from engine.errors import NonFiniteError, OptionError
from engine.maps.axes import (
    Axes,
    concept_axes,
    principal_axes,
    principal_axes_of,
    procrustes,
    procrustes_of_moments,
    rms_radius,
    variance_of_moments,
    variance_shown,
)
from engine.maps.frames import Landscape
from engine.maps.options import MapOptions
from engine.maps.preprocessing import (
    Treatment,
    moments_of,
    moments_of_bases,
    treat_states,
)
from engine.progress import no_check

TOLERANCE = 1e-5
"""Of coordinates against scikit-learn, relative to the map's radius."""


def cloud(n: int = 400, d: int = 12, seed: int = 0) -> np.ndarray:
    """Points whose dimensions have clearly different spreads."""
    generator = np.random.default_rng(seed)
    mixing = np.linalg.qr(generator.standard_normal((d, d)))[0]
    return (generator.standard_normal((n, d)) * np.logspace(0, -1, d)) @ mixing.T + 3.0


def fixed(pca: PCA) -> np.ndarray:
    """scikit-learn's components with the largest loading positive."""
    c = pca.components_
    signs = np.sign(c[np.arange(len(c)), np.abs(c).argmax(axis=1)])
    return c * signs[:, None]


@pytest.mark.parametrize("dims", [2, 3])
def test_principal_axes_are_those_of_scikit_learn(dims: int) -> None:
    x = cloud()
    pca = PCA(dims, svd_solver="covariance_eigh").fit(x)
    axes = principal_axes(moments_of(x), dims)
    np.testing.assert_allclose(axes.directions.T, fixed(pca), atol=1e-9)
    np.testing.assert_allclose(axes.place(x), (x - pca.mean_) @ fixed(pca).T, atol=1e-9)
    np.testing.assert_allclose(axes.shares, pca.explained_variance_ratio_, rtol=1e-9)
    assert variance_shown(x, axes) == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-9)
    assert variance_of_moments(moments_of(x), axes) == pytest.approx(
        pca.explained_variance_ratio_.sum(), rel=1e-9
    )
    largest = np.abs(axes.directions).argmax(axis=0)
    assert (axes.directions[largest, np.arange(dims)] > 0).all()


@pytest.mark.parametrize("n", [4, 25])
def test_axes_of_few_points_are_those_of_scikit_learn(n: int) -> None:
    """From singular vectors; of four points three directions vary and the plane has two."""
    x = cloud(n, 200, 5)
    pca = PCA(2, svd_solver="full").fit(x)
    axes = principal_axes_of(x, 2)
    np.testing.assert_allclose(axes.directions.T, fixed(pca), atol=1e-9)
    np.testing.assert_allclose(axes.place(x), (x - pca.mean_) @ fixed(pca).T, atol=1e-9)
    np.testing.assert_allclose(axes.shares, pca.explained_variance_ratio_, rtol=1e-9)
    with pytest.raises(OptionError, match="all points are equal"):
        principal_axes_of(np.ones((n, 200)), 2)
    x[1, 3] = np.inf
    with pytest.raises(NonFiniteError, match="NaN"):
        principal_axes_of(x, 2)


def turned_axes(axes: Axes) -> Axes:
    """The same with its two axes exchanged, one further along both."""
    return axes.turned(np.eye(2)[::-1], np.ones(2))


@pytest.mark.parametrize("frame", ["output", "input", "head", "tight", "random"])
@pytest.mark.parametrize("preprocessing", ["raw", "centred", "unit", "standardised"])
@pytest.mark.parametrize("model", ["llama", "deficient"])
def test_bases_are_placed_as_scikit_learn_places_the_written_out_ones(
    spaces: Spaces, model: str, frame: str, preprocessing: str
) -> None:
    """The axes come from moments, the places from one d × dims matrix; here all is written out."""
    space = spaces[model]
    b = space.frame(frame).vectors(range(space.model.vocabulary)).numpy()
    mean, spread = b.mean(0), b.std(0, ddof=1)
    if preprocessing == "centred":
        x = b - mean
    elif preprocessing == "unit":
        norms = np.linalg.norm(b, axis=1, keepdims=True)
        x = b / np.where(norms > 1e-9, norms, 1.0)
    elif preprocessing == "standardised":
        x = (b - mean) / spread
    else:
        x = b
    pca = PCA(2, svd_solver="covariance_eigh").fit(x)
    wanted = (x - pca.mean_) @ fixed(pca).T
    landscape = Landscape(space)
    options = MapOptions(frame=frame, preprocessing=preprocessing)
    axes = landscape.shared(frame, preprocessing, 2, no_check)
    ids = np.arange(space.model.vocabulary)
    found, turned = landscape.place_bases(options, ids, [axes, turned_axes(axes)], no_check)
    explained = pca.explained_variance_ratio_.sum()
    assert sum(axes.shares) == pytest.approx(explained, rel=1e-5)
    if frame == "tight" and preprocessing in ("raw", "centred"):
        assert axes.tied  # Σ t_i t_iᵀ = I: every direction is as good as any
    else:
        np.testing.assert_allclose(found, wanted, atol=20 * TOLERANCE * rms_radius(wanted))
    some = np.array([5, 17, 200])
    np.testing.assert_array_equal(
        landscape.place_bases(options, some, [axes], no_check)[0], found[some]
    )
    # Others in the same pass change no bit, and have their own places.
    alone = landscape.place_bases(options, ids, [turned_axes(axes)], no_check)[0]
    np.testing.assert_array_equal(turned, alone)
    np.testing.assert_allclose(turned, found[:, ::-1] + 1, atol=1e-4 * rms_radius(found))
    treatment = landscape.bases(frame, preprocessing, no_check).treatment
    np.testing.assert_allclose(treatment.exact(b), x, atol=1e-6 * np.abs(x).max())


def test_moments_of_bases_are_those_of_the_written_out_ones(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    for name in ("output", "input", "random"):
        frame = space.frame(name)
        b = frame.vectors(range(frame.size)).numpy()
        found = moments_of_bases(frame, unit=False, check=no_check)
        np.testing.assert_allclose(found.mean, b.mean(0), atol=1e-6 * np.abs(b).max())
        np.testing.assert_allclose(
            found.covariance, np.cov(b.T), atol=1e-6 * np.abs(np.cov(b.T)).max()
        )


def test_rotating_everything_leaves_frame_b_and_moves_frame_a() -> None:
    """The fixture of maps.md §3.7: landmarks and states turned together in their space."""
    states, landmarks = cloud(200, 12, 1), cloud(300, 12, 2)
    turn = ortho_group.rvs(12, random_state=3)
    a = principal_axes(moments_of(landmarks), 2)
    before = a.place(states)
    after_a = a.place(states @ turn)
    radius = rms_radius(before)
    moved_a = np.linalg.norm(after_a - before, axis=1).mean() / radius
    # Frame B: axes of the states of this layer, turned onto where the landmarks lay.
    own = principal_axes(moments_of(states), 2)
    first = procrustes(own.place(landmarks), a.place(landmarks))
    turned = principal_axes(moments_of(states @ turn), 2)
    second = procrustes(turned.place(landmarks @ turn), a.place(landmarks))
    b0 = own.turned(first.rotation, first.offset).place(states)
    b1 = turned.turned(second.rotation, second.offset).place(states @ turn)
    assert np.abs(b1 - b0).max() < 1e-8 * rms_radius(b0) * 1e3
    assert moved_a > 0.5
    np.testing.assert_allclose(a.place(states), before)  # identity: nothing moves


def test_procrustes_is_scipys_and_finds_a_planted_reflection() -> None:
    x = cloud(50, 2, 4)
    turn = np.array([[0.0, 1.0], [1.0, 0.0]])  # a reflection
    y = x @ turn + np.array([5.0, -2.0])
    fit = procrustes(x, y)
    np.testing.assert_allclose(fit.rotation, turn, atol=1e-10)
    np.testing.assert_allclose(x @ fit.rotation + fit.offset, y, atol=1e-9)
    assert fit.residual < 1e-10
    noisy = y + np.random.default_rng(0).standard_normal(y.shape)
    wanted, _ = orthogonal_procrustes(x - x.mean(0), noisy - noisy.mean(0))
    found = procrustes(x, noisy)
    np.testing.assert_allclose(found.rotation, wanted, atol=1e-10)
    assert found.residual > 0.1


def test_procrustes_of_moments_is_that_of_the_points() -> None:
    x = cloud(500, 10, 5)
    m = moments_of(x)
    source, target = principal_axes(moments_of(cloud(60, 10, 6)), 2), principal_axes(m, 2)
    a = procrustes(source.place(x), target.place(x))
    b = procrustes_of_moments(m, source, target)
    np.testing.assert_allclose(a.rotation, b.rotation, atol=1e-8)
    np.testing.assert_allclose(a.offset, b.offset, atol=1e-8)
    assert a.residual == pytest.approx(b.residual, rel=1e-6)


def test_a_concept_axis_reads_the_difference_of_its_tokens() -> None:
    x = cloud(6, 5, 7)
    axes = concept_axes(x[[0, 2]], x[[1, 3]], x.mean(0))
    place = axes.place(x)
    for j, (a, b) in enumerate(((0, 1), (2, 3))):
        direction = (x[a] - x[b]) / np.linalg.norm(x[a] - x[b])
        np.testing.assert_allclose(place[:, j], (x - x.mean(0)) @ direction, atol=1e-12)
        assert place[a, j] - place[b, j] == pytest.approx(np.linalg.norm(x[a] - x[b]))
    with pytest.raises(OptionError, match="same vector"):
        concept_axes(x[[0, 2]], x[[1, 2]], x.mean(0))


def test_degenerate_points_get_one_sentence() -> None:
    with pytest.raises(OptionError, match="only one point"):
        principal_axes(moments_of(np.ones((1, 4))), 2)
    with pytest.raises(OptionError, match="all points are equal"):
        principal_axes(moments_of(np.full((9, 4), 0.1)), 2)
    bad = np.ones((5, 4))
    bad[2, 1] = np.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        principal_axes(moments_of(bad), 2)
    assert variance_shown(np.ones((3, 4)), principal_axes(moments_of(cloud(9, 4)), 2)) is None


def test_nearly_equal_axes_are_said_to_be() -> None:
    generator = np.random.default_rng(0)
    ball = generator.standard_normal((20_000, 5))
    assert principal_axes(moments_of(ball), 2).tied
    assert not principal_axes(moments_of(ball * [5, 3, 1, 0.5, 0.2]), 2).tied


def test_treatments_do_what_they_say_and_leave_their_input() -> None:
    x = cloud(40, 6).astype(np.float32)
    kept = x.copy()
    unit = treat_states(x, "unit").apply(x)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    standard = treat_states(x, "standardised").apply(x)
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(0, ddof=1), 1, atol=1e-5)
    centred = treat_states(x, "centred").apply(x)
    np.testing.assert_allclose(centred, x - x.mean(0), atol=1e-5)
    assert treat_states(x, "raw").apply(x) is x
    np.testing.assert_array_equal(x, kept)
    zero = Treatment(unit=True).apply(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(zero, 0)
    flat = np.ones((4, 3), np.float32)
    assert np.isfinite(treat_states(flat, "standardised").apply(flat)).all()
    with pytest.raises(OptionError, match="one state"):
        treat_states(x[:1], "centred")
