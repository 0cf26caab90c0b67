"""The part of a layout's work that needs the model: in small steps, counted, with the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import PROMPT, Spaces

from engine.frames.frame import Frame
from engine.maps import MapMaker, MapOptions
from engine.maps.axes import principal_axes as principal
from engine.maps.projections.umap import make_problem
from engine.progress import drain

BLOCK = 64


@pytest.mark.parametrize("preprocessing", ["unit", "standardised"])
def test_no_step_writes_out_more_than_a_block_of_bases(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch, preprocessing: str
) -> None:
    """What is left for the end is made of vectors alone, on any thread."""
    monkeypatch.setattr("engine.maps.frames._BLOCK", BLOCK)
    maker = MapMaker(spaces["gpt2"])
    options = MapOptions(prompt=PROMPT, projection="umap", preprocessing=preprocessing)
    wanted = maker.vectors(options)
    written, steps = [0], maker.umap_points(options)
    vectors, axes = Frame.vectors, []

    def counted(self: Frame, ids: torch.Tensor) -> torch.Tensor:
        written[-1] += len(ids)
        return vectors(self, ids)

    monkeypatch.setattr(Frame, "vectors", counted)
    monkeypatch.setattr(
        "engine.maps.projections.umap.principal_axes",
        lambda moments, dims: axes.append(dims) or principal(moments, dims),
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            make = end.value
            break
        written.append(0)
    v = maker.space.model.vocabulary
    assert sum(written) == v
    assert max(written) == BLOCK < v
    assert not axes  # the eigenvectors are for whoever makes the problem
    problem = make()
    resolved = maker.resolve(options)
    np.testing.assert_array_equal(
        problem.points, make_problem(wanted, resolved, problem.fingerprint).points
    )
    assert problem.fingerprint == maker.fingerprint(options)


def test_a_map_without_bases_has_its_points_too(spaces: Spaces) -> None:
    maker = MapMaker(spaces["gpt2"])
    options = MapOptions(
        vocabulary="alone", select="ids:" + ",".join(map(str, range(5, 40))), projection="umap"
    )
    problem = drain(maker.umap_points(options))()
    wanted = make_problem(maker.vectors(options), maker.resolve(options), "")
    np.testing.assert_array_equal(problem.points, wanted.points)
    bare = replace(options, vocabulary="bases")
    assert len(drain(maker.umap_points(bare))().points) == 35
