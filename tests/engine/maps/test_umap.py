"""UMAP in its own process: planted clusters, seeds, cancel, two at once, and the cache."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from tiny_models import PROMPT, Spaces
from waiting import PATIENCE

import engine.maps.umap_process as process_module
from engine.errors import OptionError, WorkError
from engine.maps import MapMaker, MapNotReady, MapOptions, UmapResult, reduce, verify
from engine.maps.projections.umap import make_problem
from engine.maps.reduction import UmapCache
from engine.maps.umap_process import UmapProblem, UmapProcess
from engine.progress import Progress, drain


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UmapProcess]:
    """One process for all tests that do not end it."""
    process = UmapProcess(tmp_path_factory.mktemp("lock"))
    yield process
    process.close()


def clusters(n: int = 240, d: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, n)
    centres = 6 * generator.standard_normal((4, d))
    return (centres[labels] + generator.standard_normal((n, d))).astype(np.float32), labels


def problem(seed: int = 0, **more: object) -> UmapProblem:
    x, _ = clusters()
    return replace(make_problem(x, MapOptions(projection="umap", seed=seed), f"test{seed}"), **more)


def test_the_points_given_to_umap_are_unit_vectors_on_their_principal_axes() -> None:
    x, _ = clusters(200, 80)
    found = make_problem(x, MapOptions(projection="umap", principal=50), "name")
    unit = x.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    pca = PCA(50, svd_solver="covariance_eigh")
    wanted = pca.fit_transform(unit)
    # Of axes with nearly the same variance any mixture is as good: distances say all.
    np.testing.assert_allclose(_squares(found.points), _squares(wanted), atol=1e-4)
    np.testing.assert_allclose(np.abs(found.points[:, :2]), np.abs(wanted[:, :2]), atol=1e-5)
    assert found.variance == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-5)
    every = make_problem(x, MapOptions(projection="umap", principal=80), "name")
    cosine = 1 - _squares(every.points) / 2
    np.testing.assert_allclose(cosine, unit @ unit.T, atol=1e-4)
    with pytest.raises(OptionError, match="at least 10"):
        make_problem(x[:9], MapOptions(projection="umap"), "name")
    with pytest.raises(OptionError, match="equal"):
        make_problem(np.ones((20, 5), np.float32), MapOptions(projection="umap"), "name")


def _squares(x: np.ndarray) -> np.ndarray:
    return ((x[:, None] - x[None]) ** 2).sum(-1)


def child_module() -> ModuleType:
    path = Path(process_module.__file__).with_name("umap_child.py")
    spec = importlib.util.spec_from_file_location("umap_child", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_childs_neighbours_are_scikit_learns(capsys: pytest.CaptureFixture[str]) -> None:
    x, _ = clusters(500)
    ids, distances = child_module().exact_neighbours(x, 9)
    wanted_distances, wanted = NearestNeighbors(n_neighbors=9).fit(x).kneighbors(x)
    np.testing.assert_array_equal(ids, wanted)
    np.testing.assert_allclose(distances, wanted_distances, atol=1e-3)
    assert "finding neighbours" in capsys.readouterr().out


def test_planted_crowds_are_the_regions() -> None:
    """Four crowds on the picture and noise between them; central: nearest to the mean in the
    space, by brute force."""
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(5), [300, 250, 200, 150, 60])
    centres = np.array([[0, 0], [9, 0], [0, 9], [9, 9], [4.5, 4.5]], dtype=float)
    places = centres[truth] + generator.normal(size=(len(truth), 2)) * np.where(
        truth[:, None] == 4, 6, 0.4
    )
    x = generator.normal(size=(len(truth), 6)).astype(np.float32)
    labels, central = child_module().find_regions(places.astype(np.float32), x)
    assert labels.shape[1] == len(truth)
    coarse = labels[0]
    owners = {
        int(np.bincount(coarse[truth == k][coarse[truth == k] >= 0]).argmax()) for k in range(4)
    }
    assert len(owners) == 4
    for own in labels:
        for number in np.unique(own[own >= 0]):
            members = np.flatnonzero(own == number)
            away = np.linalg.norm(x[members].astype(float) - x[members].mean(axis=0), axis=1)
            wanted = members[np.argsort(away, kind="stable")][:20]
            assert list(central[number][:20])[: len(wanted)] == list(wanted)


def test_the_cache_gives_back_what_it_got_and_nothing_else(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    xy = generator.standard_normal((30, 2)).astype(np.float32)
    cache = UmapCache(tmp_path)
    assert cache.get("a", (30, 2)) is None
    cache.put(UmapResult("a", xy, 0.5))
    labels, central = np.zeros((1, 30), np.int32), np.arange(4, dtype=np.int32)[None]
    others = xy[::-1].copy(), xy + 1
    cache.put(UmapResult("b", xy, 0.7, others, labels, central))
    fresh = UmapCache(tmp_path)
    a, b = fresh.get("a", (30, 2)), fresh.get("b", (30, 2))
    assert a is not None
    assert b is not None
    np.testing.assert_array_equal(a.coordinates, xy)
    assert a.others == ()
    assert a.noise_floor is None
    np.testing.assert_array_equal(b.others, others)
    assert (a.variance, b.variance) == (0.5, 0.7)
    assert a.labels is None
    np.testing.assert_array_equal(b.labels, labels)
    np.testing.assert_array_equal(b.central, central)
    # Regions that are none of these points are a damaged file.
    for wrong in (labels[:, :5], labels + 1):
        cache.put(UmapResult("c", xy, 0.7, labels=wrong, central=central))
        assert UmapCache(tmp_path).get("c", (30, 2)) is None
    assert UmapCache(tmp_path).get("a", (31, 2)) is None  # another map's shape
    path = tmp_path / "umap-a.npz"
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[: len(whole) // 2],
        b"not a file",
        whole[:200] + b"\xff" * 40 + whole[240:],
    ):
        path.write_bytes(damaged)
        assert UmapCache(tmp_path).get("a", (30, 2)) is None
    assert not list(tmp_path.glob(".tmp-*"))


def test_the_noise_floor_is_the_median_over_the_pairs_of_seeds() -> None:
    """Each pair by SciPy's Procrustes; a turned copy does not move, and before all seeds are done
    nothing is said."""
    generator = np.random.default_rng(0)
    xy = generator.standard_normal((200, 2))
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    layouts = [xy, xy @ turn + 3, xy + 0.2 * generator.standard_normal((200, 2))]
    first, *others = (one.astype(np.float32) for one in layouts)
    found = UmapResult("a", first, 1.0, tuple(others))

    def moved(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(0), b - b.mean(0)
        rotation, _ = orthogonal_procrustes(b, a)
        radius = np.sqrt((a**2).sum(1).mean())
        return float(np.median(np.linalg.norm(b @ rotation - a, axis=1))) / radius

    wanted = [moved(a, b) for a, b in itertools.combinations(layouts, 2)]
    np.testing.assert_allclose(found.noise_floors, wanted, atol=1e-5)
    assert found.noise_floors[0] == pytest.approx(0, abs=1e-5)
    assert found.noise_floor == pytest.approx(sorted(wanted)[1], abs=1e-5)
    for few in ((), tuple(others[:1])):
        assert UmapResult("a", first, 1.0, few).noise_floor is None


@pytest.mark.slow
def test_planted_clusters_stay_together_and_a_seed_is_a_picture(warm: UmapProcess) -> None:
    _, labels = clusters()
    seen: list[Progress] = []

    def watched() -> np.ndarray:
        steps = warm.layout(problem())
        while True:
            try:
                seen.append(next(steps))
            except StopIteration as end:
                return end.value

    xy = watched()
    near = NearestNeighbors(n_neighbors=5).fit(xy).kneighbors(return_distance=False)
    assert (labels[near] == labels[:, None]).mean() > 0.99
    notes = {p.note for p in seen}
    assert {"finding neighbours", "placing points"} <= notes
    assert max(p.done for p in seen if p.note == "placing points") > 0
    drafts: list[np.ndarray] = []
    np.testing.assert_array_equal(drain(warm.layout(problem(), watch=drafts.append)), xy)
    assert {one.shape for one in drafts} == {xy.shape}  # where it was on its way
    assert not np.array_equal(drafts[0], xy)
    assert not np.array_equal(drain(warm.layout(problem(seed=1))), xy)


@pytest.mark.slow
def test_what_was_compiled_once_is_loaded(warm: UmapProcess, tmp_path: Path) -> None:
    """Another process of the same work compiles nothing, and its picture is the same to the bit."""
    one = problem()
    xy = drain(warm.layout(one))  # whoever is first keeps what is compiled
    np.save(tmp_path / "in.npy", one.points)
    job = {"points": "in.npy", "out": "out.npz", "draft": "draft.npy", "exact": one.exact}
    job |= {"dims": one.dims, "neighbours": one.neighbours, "min_dist": one.min_dist}
    job |= {"seed": one.seed, "epochs": one.epochs}
    said = subprocess.run(
        [sys.executable, "-P", str(child_module().__file__)], input=json.dumps(job), text=True,
        capture_output=True, check=True, cwd=tmp_path, env=os.environ | {"NUMBA_DEBUG_CACHE": "1"},
    ).stdout  # fmt: skip
    assert "data saved to" not in said
    assert "_optimize_layout_euclidean_single_epoch" in said
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["coordinates"], xy)


@pytest.mark.slow
def test_two_requests_at_once_both_answer_one_after_the_other(warm: UmapProcess) -> None:
    cache = UmapCache(None)
    results: dict[int, UmapResult] = {}

    def work(seed: int) -> None:
        results[seed] = drain(reduce(problem(seed), cache, warm, floor=seed == 10))

    threads = [threading.Thread(target=work, args=(s,)) for s in (10, 20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(PATIENCE)
    assert set(results) == {10, 20}
    assert len(results[10].noise_floors) == 3
    assert results[20].others == ()
    assert cache.get("test10", (240, 2)) is results[10]
    alone = drain(warm.layout(problem(10)))
    np.testing.assert_array_equal(alone, results[10].coordinates)


@pytest.mark.slow
def test_cancel_ends_the_process_and_keeps_nothing(tmp_path: Path) -> None:
    process, cache = UmapProcess(tmp_path), UmapCache(tmp_path)
    steps = reduce(problem(), cache, process)
    next(steps)
    while not process.running:
        next(steps)
    child = process._child
    assert child is not None
    steps.close()
    assert child.poll() is not None
    assert not process.running
    assert cache.get("test0", (240, 2)) is None
    assert not list(tmp_path.glob("*.npz"))
    # A process that dies by itself is a sentence, and the next layout starts another.
    steps = reduce(problem(), cache, process, floor=False)
    while not process.running:
        next(steps)
    assert process._child is not None
    os.kill(process._child.pid, signal.SIGKILL)
    with pytest.raises(WorkError, match="ended by itself"):
        drain(steps)
    with pytest.raises(WorkError, match="UMAP failed"):
        drain(process.layout(problem(points=np.full((240, 5), np.nan, np.float32))))
    process.close()


@pytest.mark.slow
def test_a_umap_map_has_its_noise_floor_and_comes_back_at_once(
    spaces: Spaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = MapMaker(spaces["llama"], cache_dir=tmp_path)
    try:
        options = MapOptions(prompt=PROMPT, layer=1, projection="umap", vocabulary="alone")
        with pytest.raises(MapNotReady, match="start its job"):
            maker.map(options)
        first = drain(maker.umap(options, floor=False))
        assert first.noise_floor is None
        drawn = drain(maker.umap(options))
        assert drawn.noise_floor is not None
        assert 0 < drawn.noise_floor < 2
        assert len(drawn.noise_floors) == 3
        assert min(drawn.noise_floors) <= drawn.noise_floor <= max(drawn.noise_floors)
        assert "not meaningful" in drawn.blind_to
        assert drawn.variance_shown is None
        again = MapMaker(spaces["llama"], cache_dir=tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(UmapProcess, "layout", lambda *_: pytest.fail("it was laid out anew"))
            np.testing.assert_array_equal(again.map(options).coordinates, drawn.coordinates)
        with pytest.raises(MapNotReady):
            maker.changes(options, replace(options, layer=2))
        drain(maker.umap(replace(options, layer=2), floor=False))
        changes = maker.changes(options, replace(options, layer=2))
        assert changes.noise_floor == drawn.noise_floor
        ratio, pairs = changes.noise_ratio, [changes.median / one for one in drawn.noise_floors]
        assert ratio is not None
        assert ratio.value == pytest.approx(sorted(pairs)[1])
        assert (ratio.low, ratio.high) == pytest.approx((min(pairs), max(pairs)))
        assert changes.noise_pairs == 3
        assert f"{ratio.value:.2f} times that, the median of 3 pairs of seeds" in changes.sentence
        drain(maker.umap(replace(options, seed=7), floor=False))
        same = maker.changes(options, replace(options, seed=7))  # the data are the same: row N6
        assert same.noise_ratio is not None
        assert 0.5 < same.noise_ratio.value < 2  # about 1, as one more pair of seeds
        assert same.noise_ratio.value <= ratio.value * 1.5
        assert "not above the noise" in same.sentence
        assert changes.moving == drawn.n
        report = verify(maker, drawn.to_dict())
        assert report.ok
        assert report.largest_difference == 0
    finally:
        maker.close()


def test_the_cache_on_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest layouts go when there are too many."""
    monkeypatch.setattr("engine.maps.reduction.FILES", 3)
    cache = UmapCache(tmp_path, limit=1)
    for i in range(5):
        cache.put(UmapResult(f"f{i}", np.full((4, 2), i, np.float32)))
        os.utime(tmp_path / f"umap-f{i}.npz", (i, i))
    assert {p.name for p in tmp_path.iterdir()} == {f"umap-f{i}.npz" for i in (2, 3, 4)}
    assert cache.get("f0", (4, 2)) is None
    found = cache.get("f3", (4, 2))
    assert found is not None
    assert (found.coordinates == 3).all()
