"""Pushes and swaps over facts against one action after another, and KL of the rest by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import binomtest
from tiny_models import Spaces

from engine import LatentSpace
from engine.interventions.doses import (
    DOSES,
    FRAMES,
    MIRRORS,
    Doses,
    measure_doses,
    rest_apart,
    rows_of_doses,
)
from engine.interventions.many import Case
from engine.progress import drain

ROUNDING = 2e-4
"""Of a KL or a contrast: float32 logits through a few blocks, in batches of another shape."""


def cases(space: LatentSpace) -> list[Case]:
    """Two prompts towards what stands third there, one that names another answer than is given."""
    out = []
    for prompt in ("The king and the", "The cat sat"):
        ids = space.tokenize(prompt).ids
        order = space.model.logits(ids)[-1].argsort(descending=True)
        words = (f"#{ids[1]}", f"#{int(order[7])}")
        out.append(Case(prompt, f"#{int(order[2])}", f"#{int(order[0])}", swap=words))
    return [*out, replace(out[0], own=out[0].target, target=out[0].own or "")]


def frame_of(key: str) -> dict[str, object]:
    name, *alpha = key.split(":")
    return {"frame": name, "alpha": float(alpha[0])} if alpha else {"frame": name}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_push_and_swap_is_the_action_alone(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    given = cases(space)
    found = drain(measure_doses(space, given))
    assert found is not None
    assert (found.facts, found.used, sum(found.skipped.values())) == (3, 2, 1)
    assert {one.frame for one in found.pushes} == set(FRAMES)
    assert {one.dose for one in found.pushes} == set(DOSES)
    assert len(found.pushes) == len(FRAMES) * len(DOSES) * len(found.layers)
    assert 1 + len(found.pushes) + len(found.swaps) == rows_of_doses(space.model.blocks)
    assert {one.frame for one in found.swaps} == set(MIRRORS)
    for one in (*found.pushes[:: len(DOSES)], *found.swaps):
        seen = []
        for case in given[:2]:
            ids = space.tokenize(case.prompt).ids
            target, said = int(case.target[1:]), int((case.own or "#0")[1:])
            before = space.model.logits(ids)[-1].double().softmax(0)
            pair = {"token": target, "foil": said}
            if one.dose is None:
                pair = dict(zip(("token", "foil"), case.swap or (), strict=True))
            kind = "steer" if one.dose is not None else "swap"
            more = frame_of(one.frame) | {"layers": str(one.layer)}
            with space.act(kind, **pair, **more, dose=one.dose or 0.3):
                after = space.model.logits(ids)[-1].double().softmax(0)
            keep = [i for i in range(len(before)) if i not in (target, said)]
            p, q = (x[keep].numpy() / x[keep].sum().item() for x in (before, after))
            odds = [float((x[target] / x[said]).log()) for x in (before, after)]
            seen.append((int(after.argmax()) == target, float(after[target]),
                         odds[1] - odds[0], float(rel_entr(p, q).sum())))  # fmt: skip
        hits, chance, rise, rest = (list(map(float, column)) for column in zip(*seen, strict=True))
        assert one.share.value == np.mean(hits)
        bounds = binomtest(int(sum(hits)), 2).proportion_ci(method="wilson")
        assert (one.share.low, one.share.high) == pytest.approx((bounds.low, bounds.high))
        assert one.probability == pytest.approx(np.mean(chance), rel=1e-3, abs=1e-6)
        assert one.contrast == pytest.approx(np.mean(rise), rel=1e-3, abs=ROUNDING)
        assert one.rest.value == pytest.approx(np.mean(rest), rel=1e-3, abs=ROUNDING)
        assert min(rest) - ROUNDING <= one.rest.low <= one.rest.high <= max(rest) + ROUNDING
        if one.frame != "head":
            head = next(
                row
                for row in (*found.pushes, *found.swaps)
                if (row.frame, row.layer, row.dose) == ("head", one.layer, one.dose)
            )
            assert one.rest_less_head is not None
            assert one.rest_less_head.value == pytest.approx(
                one.rest.value - head.rest.value, abs=1e-6
            )
    again = Doses.from_dict(found.to_dict())
    assert again == found


def test_what_is_left_out_does_not_count() -> None:
    """All mass moves between the two: the rest is as it was; else it is the KL of the rest."""
    p = torch.tensor([0.6, 0.1, 0.2, 0.1]).double().log()
    q = torch.stack([torch.tensor([0.1, 0.6, 0.2, 0.1]), torch.tensor([0.1, 0.1, 0.1, 0.7])]).log()
    apart = rest_apart(p, q.double(), [0, 1])
    assert apart[0] == pytest.approx(0, abs=1e-7)
    wanted = 2 / 3 * np.log(2 / 3 / (1 / 8)) + 1 / 3 * np.log(1 / 3 / (7 / 8))
    assert apart[1] == pytest.approx(wanted)


def test_a_model_that_knows_no_fact_gives_nothing(spaces: Spaces) -> None:
    space = spaces["llama"]
    assert drain(measure_doses(space, cases(space)[2:])) is None
