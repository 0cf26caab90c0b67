"""Cells before and after an action: KL and ranks by brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from tiny_models import Spaces

from engine.compare.acted import acted_cells
from engine.interventions.action import Action
from engine.trace.options import TraceOptions

TEXT = "The king and the"
ROUNDING = 1e-4
"""Of a KL: float32 cosines over a few hundred tokens, divided by a small temperature."""


def test_every_cell_is_what_both_readings_say(spaces: Spaces) -> None:
    space, token = spaces["llama"], 40
    action = Action(kind="steer", token=token, foil=90, layers="2", dose=0.7)
    options = TraceOptions(geometry="cosine")
    found = acted_cells(space, TEXT, action, token, options)
    ids = space.tokenize(TEXT).ids
    vectors = space.frame("output").vectors(range(space.model.vocabulary))
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    warmth = space.temperatures("output")["cosine"].value

    def cosines() -> torch.Tensor:
        states = space.model.read_out(space.model.states(ids).raw).double()
        return states / states.norm(dim=-1, keepdim=True) @ vectors.T

    before = cosines()
    with space.act(action):
        after = cosines()
    p, q = ((one / warmth).softmax(-1).numpy() for one in (before, after))
    assert found.divergence == pytest.approx(rel_entr(p, q).sum(-1), rel=1e-3, abs=ROUNDING)
    assert not found.divergence[:2].any(), "below the action nothing changes"
    assert not found.divergence[:, :-1].any(), "nor before its position"
    assert (found.divergence[2:, -1] > 0).all()
    for rows, ranks in ((before, found.rank_before), (after, found.rank_after)):
        wanted = 1 + (rows > rows[..., token, None]).sum(-1)
        assert np.array_equal(ranks, wanted.numpy())
