"""The badge against scikit-learn, and neighbours against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import ortho_group, spearmanr
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

import engine.maps.neighbours as neighbours_module
import engine.maps.quality as quality_module
from engine.maps.neighbours import (
    jaccard,
    linear_cka,
    nearest,
    overlap,
)
from engine.maps.quality import distortion, measure_quality

K = 15


def clusters(n: int, d: int = 24, seed: int = 0) -> np.ndarray:
    """Twenty planted clusters in d dimensions."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((20, d))
    return (centres[generator.integers(0, 20, n)] + 0.4 * generator.standard_normal((n, d))).astype(
        np.float32
    )


def near(x: np.ndarray, k: int) -> np.ndarray:
    """scikit-learn's neighbours, without the point itself."""
    return NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)


def test_nearest_is_scikit_learns_in_order() -> None:
    x = clusters(700)
    queries = np.array([0, 3, 699, 350])
    ids, distances = nearest(x, queries, 12)
    model = NearestNeighbors(n_neighbors=13, algorithm="brute").fit(x.astype(np.float64))
    wanted_distances, wanted = model.kneighbors(x[queries].astype(np.float64))
    np.testing.assert_array_equal(ids, wanted[:, 1:])
    np.testing.assert_allclose(distances, wanted_distances[:, 1:], rtol=1e-5)


def test_nearest_is_exact_far_from_the_origin_and_beside_an_outlier() -> None:
    """Products of large numbers lose small differences: a far offset and a far point."""
    x = clusters(300, 8).astype(np.float64) * 1e-2 + 50
    x[7] = 5000
    ids, _ = nearest(x.astype(np.float32), np.arange(300), 5)
    exact = x.astype(np.float32).astype(np.float64)
    wanted = np.linalg.norm(exact[:, None] - exact[None], axis=2)
    np.fill_diagonal(wanted, np.inf)
    got = np.take_along_axis(wanted, ids.astype(int), axis=1)
    best = np.sort(wanted, axis=1)[:, :5]
    assert (got <= best * 1.001).mean() > 0.99
    flat = np.c_[np.linspace(0, 1, 60), np.zeros(60)].astype(np.float32)
    flat[0] = 1e6
    ids, _ = nearest(flat, np.arange(2, 58), 2)
    np.testing.assert_array_equal(np.sort(ids, 1), np.c_[np.arange(1, 57), np.arange(3, 59)])


@pytest.mark.slow
def test_the_badge_is_scikit_learns_at_3000_points() -> None:
    x = clusters(3000)
    y = PCA(2, svd_solver="covariance_eigh").fit_transform(x).astype(np.float32)
    found = measure_quality(x, y)
    assert found.exact
    assert found.queries == 3000
    trust = trustworthiness(x, y, n_neighbors=K)
    continuity = trustworthiness(y, x, n_neighbors=K)
    a, b = near(x, K), near(y, K)
    kept = np.mean([len(set(p) & set(q)) for p, q in zip(a, b, strict=True)])
    assert found.trustworthiness.value == pytest.approx(trust, abs=1e-4)
    assert found.continuity.value == pytest.approx(continuity, abs=1e-4)
    assert found.kept.value == pytest.approx(kept, abs=0.01)
    assert found.random["trustworthiness"] < trust
    rows = np.random.default_rng(1).integers(0, 3000, (2, 40_000))
    rho = spearmanr(
        np.linalg.norm(x[rows[0]] - x[rows[1]], axis=1),
        np.linalg.norm(y[rows[0]] - y[rows[1]], axis=1),
    ).statistic
    assert found.rank_correlation == pytest.approx(rho, abs=0.02)


def test_the_sampled_badge_is_within_a_hundredth_and_its_interval_holds_the_truth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = clusters(3000, seed=2)
    y = PCA(2, svd_solver="covariance_eigh").fit_transform(x).astype(np.float32)
    whole = measure_quality(x, y)
    monkeypatch.setattr(quality_module, "EXACT", 100)
    some = measure_quality(x, y)
    assert not some.exact
    assert some.queries == quality_module.QUERIES
    for name in ("trustworthiness", "continuity"):
        a, b = getattr(whole, name), getattr(some, name)
        assert a.value == pytest.approx(b.value, abs=0.01)
        assert b.low is not None
        assert b.high is not None
        assert b.low - 0.003 <= a.value <= b.high + 0.003
        assert 0 < b.high - b.low < 0.05
    again = measure_quality(x, y)
    assert again == some  # seeded


def test_a_faithful_picture_is_perfect_and_a_shuffled_one_is_chance() -> None:
    y = clusters(500, 2)
    x = (y @ np.eye(2, 6)).astype(np.float32) @ ortho_group.rvs(6, random_state=0)
    perfect = measure_quality(x.astype(np.float32), y)
    assert perfect.kept.value == pytest.approx(K, abs=0.02)
    assert perfect.trustworthiness.value == pytest.approx(1, abs=1e-4)
    assert perfect.rank_correlation == pytest.approx(1, abs=1e-4)
    assert not perfect.weak
    shuffled = measure_quality(
        x.astype(np.float32), y[np.random.default_rng(0).permutation(len(y))]
    )
    assert shuffled.weak
    assert "Weak" in shuffled.sentence
    assert shuffled.trustworthiness.value == pytest.approx(0.5, abs=0.05)
    assert shuffled.kept.value == pytest.approx(K * K / 499, abs=0.15)


def test_the_badge_of_few_or_equal_points_is_a_sentence() -> None:
    few = measure_quality(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    assert few.weak
    assert "2 points" in few.sentence
    one = measure_quality(np.ones((1, 3), np.float32), np.ones((1, 2), np.float32))
    assert "1 point has" in one.sentence.replace("of 1 point", "1 point")
    three = np.array([[0, 0], [1, 0], [5, 0]], dtype=np.float32)
    assert "its nearest here in 100 % of cases" in measure_quality(three, three).sentence
    assert few.to_dict()["trustworthiness"]["value"] is None
    same = measure_quality(np.ones((40, 5), np.float32), np.ones((40, 2), np.float32))
    assert np.isfinite(same.trustworthiness.value)


def test_distortion_is_the_share_of_missing_neighbours() -> None:
    x = clusters(400)
    y = PCA(2, svd_solver="covariance_eigh").fit_transform(x).astype(np.float32)
    found = distortion(x, y)
    a, b = near(x, K), near(y, K)
    wanted = [1 - len(set(p) & set(q)) / K for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(found.value, wanted, atol=1e-6)
    assert found.looked_at == 400


def test_distortion_of_very_many_points_says_how_many_it_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quality_module, "_EVERY_POINT", 1200)
    x = clusters(2000, 6)
    found = distortion(x, x[:, :2].copy())
    looked = np.isfinite(found.value)
    assert looked.sum() == found.looked_at == 1000
    whole = np.array(
        [len(set(p) & set(q)) for p, q in zip(near(x, K), near(x[:, :2], K), strict=True)]
    )
    np.testing.assert_allclose(found.value[looked], 1 - whole[looked] / K, atol=1e-6)


def test_overlap_and_jaccard_by_sets() -> None:
    generator = np.random.default_rng(0)
    a = np.array([generator.choice(30, 8, replace=False) for _ in range(20)], dtype=np.int32)
    b = np.array([generator.choice(30, 8, replace=False) for _ in range(20)], dtype=np.int32)
    pairs = [(set(p), set(q)) for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_array_equal(overlap(a, b), [len(p & q) for p, q in pairs])
    np.testing.assert_allclose(jaccard(a, b), [len(p & q) / len(p | q) for p, q in pairs])


def hsic_cka(x: np.ndarray, y: np.ndarray) -> float:
    """CKA by its definition: centred Gram matrices of the examples."""
    h = np.eye(len(x)) - 1 / len(x)
    k, m = h @ (x @ x.T) @ h, h @ (y @ y.T) @ h
    return float(np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))


@pytest.mark.parametrize("n", [30, 200])
def test_cka_is_its_definition_and_knows_no_rotation_or_scale(n: int) -> None:
    """Fewer states than dimensions and more: both forms."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n, 60)) * np.logspace(0, -1, 60)
    y = np.tanh(x @ generator.standard_normal((60, 40)))
    assert linear_cka(x, y) == pytest.approx(hsic_cka(x, y), abs=1e-9)
    turned = 3.7 * x @ ortho_group.rvs(60, random_state=1) + 5
    assert linear_cka(turned, y) == pytest.approx(linear_cka(x, y), abs=1e-9)
    assert linear_cka(x, turned) == pytest.approx(1, abs=1e-9)
    assert linear_cka(x, x[generator.permutation(n)]) < 0.9
    assert np.isnan(linear_cka(np.ones((n, 3)), x))


@pytest.mark.parametrize(("n", "band"), [(40, 2**20), (40, 2**14), (400, 2**20)])
def test_cka_of_all_layers_is_that_of_every_two(
    n: int, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Gram matrices of the states, in one band and in several, and by products of dimensions:
    each pair by the definition, with all dimensions and without the planted large one."""
    monkeypatch.setattr(neighbours_module, "_GRAMS", band)
    generator = np.random.default_rng(3)
    layers = [
        generator.standard_normal((n, 30)) @ generator.standard_normal((30, 30)) for _ in "ab"
    ]
    layers += [np.tanh(layers[0]) + 3, np.ones((n, 30)), 2 * layers[1]]
    for place, x in enumerate(layers[:3]):
        x[:, place] *= 100
    stacks = [x.astype(np.float32) for x in layers]
    products: list[int] = []

    def whole_and_without() -> tuple[np.ndarray, np.ndarray]:
        return neighbours_module.cka_matrices(stacks, 1, lambda: products.append(1))

    found = whole_and_without()
    # A pair at a time there are 15 of them; by states only as many steps as bands.
    assert (len(products) == 15) == (n == 400)
    for drop, matrix in zip((0, 1), found, strict=True):
        kept = [
            np.delete(x, np.argsort(x.var(0, dtype=np.float64))[30 - drop :], axis=1).astype(float)
            for x in stacks
        ]
        np.testing.assert_array_equal(matrix, matrix.T)
        for i, j in itertools.product(range(5), repeat=2):
            if 3 in (i, j):  # one that does not vary
                assert np.isnan(matrix[i, j])
            else:
                assert matrix[i, j] == pytest.approx(hsic_cka(kept[i], kept[j]), abs=1e-9)


def test_ranks_are_scipys() -> None:
    from scipy.stats import rankdata

    from engine.maps.quality import _ranks

    generator = np.random.default_rng(4)
    for values in (
        generator.normal(size=500),
        generator.integers(0, 9, size=500).astype(float),
        np.zeros(7),
        np.array([3.0]),
    ):
        np.testing.assert_array_equal(_ranks(values), rankdata(values))
