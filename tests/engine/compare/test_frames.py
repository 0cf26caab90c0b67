"""The frames of two models beside each other: planted turns, scipy, laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from tiny_models import Spaces, turned_copy

import engine
from engine.bases.drift import interface_drift
from engine.compare.frames import compare_frames
from engine.errors import OptionError


def test_a_frame_beside_itself_and_beside_itselfturned_copy(spaces: Spaces, tmp_path: Path) -> None:
    first = spaces["llama"]
    found = compare_frames(first, first)
    assert found.distance == 0
    assert found.cosine == pytest.approx(1)
    assert not found.movers
    assert found.by_chance > 0.9
    folder = tmp_path / "turned"
    turned = engine.load(turned_copy(spaces.folders, folder), offline=True, cache_dir=tmp_path)
    moved = compare_frames(first, turned, "head")
    assert moved.distance == pytest.approx(0, abs=1e-5)
    assert moved.cosine_turned == pytest.approx(1, abs=1e-9)
    assert moved.cosine is not None
    assert abs(moved.cosine) < 0.5, "as they lie they have little in common"


@pytest.mark.parametrize("frame", ["output", "head", "input"])
def test_two_models_as_scipy_lays_them(spaces: Spaces, frame: str) -> None:
    first, other = spaces["llama"], spaces["mistral"]
    found = compare_frames(first, other, frame)
    a, b = (s.frame(frame).vectors(range(s.model.vocabulary)).numpy() for s in (first, other))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found.cosine == pytest.approx(cosines.mean(), abs=1e-9)
    a, b = (one - one.mean(0) for one in (a, b))
    a, b = (one / np.linalg.norm(one) for one in (a, b))
    turn, scale = orthogonal_procrustes(b, a)
    assert found.distance == pytest.approx(np.linalg.norm(a - scale * b @ turn), abs=1e-9)
    laid = b @ turn
    after = (a * laid).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(laid, axis=1)
    assert found.cosine_turned == pytest.approx(after.mean(), abs=1e-9)
    assert [m.token.id for m in found.movers] == np.argsort(after)[: len(found.movers)].tolist()
    assert found.distance < 1
    assert "no more in common" in found.sentence or found.distance < found.by_chance


def test_other_widths(spaces: Spaces) -> None:
    found = compare_frames(spaces["llama"], spaces["wide"], fewest=100)
    assert found.cosine is None
    assert 0 < found.distance < 1


def test_a_random_frame_is_nobodys(spaces: Spaces) -> None:
    with pytest.raises(OptionError, match="random"):
        compare_frames(spaces["llama"], spaces["llama"], "random")


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "opt"])
def test_interface_drift_is_0_for_the_bases_and_by_its_formula(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    head = space.frame("head")
    assert interface_drift(space.frame("output"), head) == pytest.approx(0, abs=1e-6)
    e, w = (
        space.frame(f).vectors(range(space.model.vocabulary)).numpy() for f in ("input", "head")
    )
    m = e.T @ w
    alpha = np.trace(m) / len(m)
    wanted = np.linalg.norm(m / alpha - np.eye(len(m))) / np.sqrt(len(m))
    assert interface_drift(space.frame("input"), head) == pytest.approx(wanted)
    assert wanted > 0.1
