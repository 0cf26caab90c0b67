"""Nearest contexts against brute force in float64, and what a bank keeps and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import NAN_LAYER, PROMPT, Spaces

from engine import LatentSpace
from engine.errors import ArtifactError, BudgetExceeded, LayerError, OptionError
from engine.progress import drain
from engine.trace import contexts as module
from engine.trace.bank import BankTexts, built_in, path_of
from engine.trace.contexts import ContextFinder

HALF = 2**-10
"""Of a cosine of two unit vectors of which one was rounded to float16."""
TEXTS = BankTexts(
    "mine",
    "mine",
    (
        "The king went to the house.",
        "",
        "Once upon a time there was a girl.",
        PROMPT,
        "The cat sat and the dog ran to the old house.",
        "It was a sunny day.",
    ),
)


@pytest.fixture
def finder(spaces: Spaces, tmp_path: Path) -> ContextFinder:
    return ContextFinder(spaces["llama"], tmp_path)


def units(space: LatentSpace, ids: Any) -> Any:
    read = space.model.read_out(space.model.states(ids).raw).double()
    return (read / read.norm(dim=-1, keepdim=True)).numpy()


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt_proj"])
def test_the_nearest_are_those_by_brute_force(spaces: Spaces, tmp_path: Path, name: str) -> None:
    space = spaces[name]
    finder = ContextFinder(space, tmp_path)
    bank = drain(finder.build(TEXTS))
    prompt = "A dog and the girl"
    own = units(space, space.tokenize(prompt).ids)
    every = [units(space, space.tokenize(text).ids) for text in TEXTS.texts if text]
    assert bank.positions == sum(one.shape[1] for one in every)
    for layer in range(space.model.blocks + 1):
        for position in (1, own.shape[1] - 1):
            found = finder.nearest(prompt, layer, position, TEXTS)
            cosines = [one[layer] @ own[layer, position] for one in every]
            best = sorted(range(len(every)), key=lambda n: -cosines[n].max())[:3]
            for hit, n in zip(found.near, best, strict=True):
                assert hit.cosine == pytest.approx(cosines[n].max(), abs=HALF)
                at = cosines[bank.texts.index(hit.text)]
                assert at[hit.position] == pytest.approx(at.max(), abs=2 * HALF)
                tokens = space.model.vocabulary_texts.prompt_tokens(
                    bank.ids[bank.texts.index(hit.text)]
                )
                assert hit.tokens[hit.lit] == tokens[hit.position]
            assert found.median == pytest.approx(np.median(np.concatenate(cosines)), abs=HALF)


def test_the_control_is_the_same_texts_shuffled(finder: ContextFinder, spaces: Spaces) -> None:
    """Its tokens are the bank's, so at the embedding without positions it comes exactly as near."""
    space = spaces["llama"]
    drain(finder.build(TEXTS))
    at_embedding = finder.nearest("The dog and the king", 0, -1, TEXTS)
    assert at_embedding.shuffled == pytest.approx(at_embedding.near[0].cosine, abs=HALF)
    assert not at_embedding.beyond_control
    assert "it is the word that is alike" in at_embedding.sentence
    above = finder.nearest("The dog and the king", space.model.blocks, -1, TEXTS)
    assert above.shuffled != pytest.approx(above.near[0].cosine, abs=1e-6)
    clear = replace(above, shuffled=above.near[0].cosine - 0.1)
    assert clear.beyond_control
    assert "the word that is alike" not in clear.sentence


def test_a_text_that_begins_like_the_prompt_is_no_other(finder: ContextFinder) -> None:
    drain(finder.build(TEXTS))
    found = finder.nearest(PROMPT, 2, -1, TEXTS, count=10)
    assert PROMPT not in [hit.text for hit in found.near]
    assert len(found.near) == len(TEXTS.texts) - 2
    assert found.near[0].cosine >= found.near[-1].cosine
    assert max(hit.cosine for hit in found.near) < 1


def test_a_bank_is_built_once_and_found_again(
    finder: ContextFinder, spaces: Spaces, tmp_path: Path
) -> None:
    space = spaces["llama"]
    plan = finder.plan(TEXTS)
    assert finder.known(TEXTS) is None
    with pytest.raises(OptionError, match="not in a bank"):
        finder.nearest(PROMPT, 1, 1, TEXTS)
    bank = drain(finder.build(TEXTS))
    assert (plan.texts, plan.positions, plan.bytes) == (5, bank.positions, bank.bytes)
    assert plan.left_out == bank.left_out == 1
    file = path_of(tmp_path, TEXTS.digest, space.model.fingerprint)
    assert bank.bytes <= file.stat().st_size < bank.bytes + 20_000
    before = finder.nearest(PROMPT, 1, 1, TEXTS)
    again = ContextFinder(space, tmp_path)
    assert again.known(TEXTS) == bank
    assert again.nearest(PROMPT, 1, 1, TEXTS) == before
    in_memory = ContextFinder(space, None)
    drain(in_memory.build(TEXTS))
    assert in_memory.nearest(PROMPT, 1, 1, TEXTS) == before
    assert bank.model == space.model.fingerprint


def test_a_bank_of_another_model_or_a_damaged_one_is_refused(
    finder: ContextFinder, spaces: Spaces, tmp_path: Path
) -> None:
    drain(finder.build(TEXTS))
    own = path_of(tmp_path, TEXTS.digest, spaces["llama"].model.fingerprint)
    others = path_of(tmp_path, TEXTS.digest, spaces["qwen3"].model.fingerprint)
    others.write_bytes(own.read_bytes())
    with pytest.raises(ArtifactError, match="build it anew"):
        ContextFinder(spaces["qwen3"], tmp_path).nearest(PROMPT, 1, 1, TEXTS)
    whole = own.read_bytes()
    own.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="damaged"):
        finder.nearest(PROMPT, 1, 1, TEXTS)


def test_what_does_not_fit_is_left_out_or_refused(
    finder: ContextFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = finder.plan(TEXTS)
    monkeypatch.setattr(ContextFinder, "limit", plan.bytes // 2)
    half = drain(finder.build(TEXTS))
    assert 0 < half.bytes <= plan.bytes // 2
    assert half.left_out + len(half.texts) == len(TEXTS.texts)
    monkeypatch.setattr(ContextFinder, "limit", 100)
    with pytest.raises(BudgetExceeded, match="not even one"):
        finder.plan(TEXTS)
    with pytest.raises(OptionError, match="no text"):
        finder.plan(BankTexts("none", "none", ("", " ")))
    monkeypatch.setattr(ContextFinder, "limit", plan.bytes)
    monkeypatch.setattr(module, "_free", lambda: 10)
    with pytest.raises(BudgetExceeded, match="MiB are free"):
        drain(finder.build(TEXTS))


def test_bad_questions_and_states_are_sentences(spaces: Spaces, tmp_path: Path) -> None:
    finder = ContextFinder(spaces["nan"], tmp_path)
    drain(finder.build(TEXTS))
    nothing = finder.nearest("The dog", NAN_LAYER, -1, TEXTS)
    assert nothing.near == ()
    assert "NaN" in nothing.sentence
    assert nothing.to_dict()["shuffled"] is None
    for layer, position in ((99, 0), (0, 99), (-9, 0)):
        with pytest.raises(LayerError):
            finder.nearest("The dog", layer, position, TEXTS)
    for count in (0, 11, 1.5):
        with pytest.raises(OptionError, match="from 1 to 10"):
            finder.nearest("The dog", 0, 0, TEXTS, count=count)  # type: ignore[arg-type]


def test_the_texts_that_ship_are_many_and_ours() -> None:
    texts = built_in().texts
    assert len(texts) > 900
    assert all(text.strip() for text in texts)
    assert len(set(texts)) > 0.99 * len(texts)
    assert torch.tensor([len(text) for text in texts]).float().median() > 40
