"""The temperature of a reading: against a grid, a planted one, and the model's own logits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import PROMPT, Spaces

from engine.model.language_model import LanguageModel, States
from engine.reading.geometries import GEOMETRIES
from engine.reading.similarity import scores
from engine.reading.temperature import HOTTEST, fit_scale, fit_temperatures
from engine.trace.reference import reference_states, reference_tokens
from engine.trace.temperatures import Temperatures


def kl(log_p: torch.Tensor, values: torch.Tensor, t: float) -> float:
    """Mean KL in float64, written out."""
    log_p, values = log_p.double(), values.double()
    log_q = torch.log_softmax(values / t, 1)
    return float((log_p.exp() * (log_p - log_q)).sum(1).mean())


@pytest.mark.parametrize("planted", [0.03, 0.4, 1.0, 25.0])
def test_a_planted_temperature_is_found(planted: float) -> None:
    values = torch.randn(20, 200, generator=torch.Generator().manual_seed(1)) * planted * 2
    log_p = torch.log_softmax(values / planted, 1)
    assert fit_scale(values, log_p) == pytest.approx(planted, rel=1e-4)


def test_no_temperature_of_a_grid_is_better() -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(30, 150, generator=generator)
    log_p = torch.log_softmax(2 * values + torch.randn(30, 150, generator=generator), 1)
    best = fit_scale(values, log_p)
    least = min(kl(log_p, values, t) for t in np.geomspace(1e-2, 1e2, 400))
    assert kl(log_p, values, best) <= least + 1e-6


def test_scores_that_say_nothing_are_read_as_hot_as_may_be() -> None:
    """Where the reading is against the model, the flat one is the nearest."""
    values = torch.randn(10, 50, generator=torch.Generator().manual_seed(3))
    assert fit_scale(values, torch.log_softmax(-values, 1)) == HOTTEST


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi"])
def test_the_models_own_head_is_read_at_one(spaces: Spaces, name: str) -> None:
    """The matrix product with the head rows is the model's logits, soft cap and bias included."""
    found = spaces[name].temperatures("head")["matmul"]
    assert found.fitted
    assert found.value == pytest.approx(1, rel=2e-3)
    assert found.kl == pytest.approx(0, abs=1e-5)
    assert found.kl_at_one == pytest.approx(0, abs=1e-5)


def test_each_is_what_brute_force_says(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    states = reference_states(space.model, 64)[-1]
    own = torch.log_softmax(scores(space.frame("head"), states, "matmul"), 1)
    found = fit_temperatures(space.frame("tight"), states, own)
    assert found == space.temperatures("tight")
    for geometry in GEOMETRIES:
        values = scores(space.frame("tight"), states, geometry)
        one = found[geometry]
        assert one.kl == pytest.approx(kl(own, values, one.value), abs=1e-4)
        assert one.kl_at_one == pytest.approx(kl(own, values, 1.0), abs=1e-4)
        assert one.kl <= one.kl_at_one + 1e-6


def test_a_number_typed_in_wins_and_only_for_its_geometry(spaces: Spaces) -> None:
    space = spaces["llama"]
    fitted = space.trace(PROMPT)
    given = space.trace(PROMPT, temperature=0.7)
    assert given.temperature == 0.7
    assert not given.temperatures["cosine"].fitted
    assert given.temperatures["l2"] == fitted.temperatures["l2"]
    assert fitted.temperatures["cosine"].fitted
    assert fitted.to_dict()["temperatures"]["cosine"]["value"] == fitted.temperature


def test_they_are_measured_once_and_kept(spaces: Spaces, tmp_path: Path) -> None:
    space = spaces["llama"]
    first = Temperatures(space.model, space.frame, tmp_path)
    wanted = first.of("tight")
    (file,) = tmp_path.glob("temperatures-*.json")

    def nobody(name: str) -> object:
        raise AssertionError(f"frame {name} was measured again")

    again = Temperatures(space.model, nobody, tmp_path)  # type: ignore[arg-type]
    assert again.of("tight") == wanted
    assert again.known().keys() == {"tight"}
    for damaged in ("", "[]", "{", json.dumps({"format": 0, "frames": {}})):
        file.write_text(damaged)
        fresh = Temperatures(space.model, space.frame, tmp_path)
        assert fresh.of("tight") == wanted


def test_where_nothing_is_finite_the_geometries_own_stand(spaces: Spaces, tmp_path: Path) -> None:
    space = spaces.fresh("llama")
    well = Temperatures(space.model, space.frame, tmp_path).of("tight")
    with torch.no_grad():
        space.model.anatomy.blocks[-1].mlp.down_proj.weight.fill_(torch.inf)
    ill = Temperatures(space.model, space.frame, tmp_path)
    found = ill.of("output")
    assert {name: one.value for name, one in found.items()} == {
        one.name: one.temperature for one in GEOMETRIES.values()
    }
    assert not any(one.fitted for one in found.values())
    # Nor does a process that could measure nothing tell the next one what to read by.
    assert Temperatures(space.model, space.frame, tmp_path).known() == {"tight": well}


def test_measuring_yields_after_every_geometry(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step reads more than one paragraph or makes more than one product with the whole
    vocabulary, and the whole is the same."""
    space = spaces["gpt2"]
    wanted = Temperatures(space.model, space.frame, None).of("output")
    made, through, states = [0], [0], LanguageModel.states

    def passed(*given: object, **more: object) -> States:
        through[-1] += 1
        return states(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "states", passed)

    def counted(*given: object) -> torch.Tensor:
        made[-1] += 1
        return scores(*given)  # type: ignore[arg-type]

    for place in ("engine.trace.temperatures", "engine.reading.temperature"):
        monkeypatch.setattr(f"{place}.scores", counted)
    steps = Temperatures(space.model, space.frame, None).measuring("output")
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            break
        made.append(0)
        through.append(0)
    assert found == wanted
    assert max(through) == 1
    assert sum(through) == len(reference_tokens(space.model))
    assert max(made) == 1
    assert sum(made) == 1 + len(GEOMETRIES)
