"""The curve of the dial and its ridge sisters: every share by brute force over the vocabulary."""

from __future__ import annotations

import torch
from tiny_models import Spaces

from engine.progress import drain
from engine.trace.dial import RIDGES, keep_curve, load_curve, measure_dial
from engine.trace.reference import reference_states


def test_every_share_is_counted(spaces: Spaces, tmp_path) -> None:
    space = spaces["llama"]
    curve = drain(measure_dial(space.model, space.frame, alphas=(0.1, 1.0)))
    assert curve is not None
    states = reference_states(space.model, curve.positions).double()
    weight = space.model.anatomy.weight.detach().double()
    own = (states[-1] @ weight.T).argmax(1)
    g = weight.T @ weight
    mean = g.trace() / len(g)
    for ridge in RIDGES:
        bases = torch.linalg.solve(g + ridge * mean * torch.eye(len(g)), weight.T).T
        unit = bases / bases.norm(dim=1, keepdim=True)
        row = next(one for one in curve.rows if one.ridge == ridge)
        for layer in range(len(states)):
            said = (states[layer] @ unit.T).argmax(1)
            assert row.agreement[layer] == float((said == own).double().mean())
    assert curve.at(1.0).ridge is None
    keep_curve(curve, tmp_path)
    assert load_curve(tmp_path, space.model.fingerprint) == curve
