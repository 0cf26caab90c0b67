"""One text through two models: laws, brute force in float64, other vocabularies and depths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax
from tiny_models import PROMPT, Spaces, byte_level, made
from transformers import PreTrainedTokenizerFast

import engine
from engine import LatentSpace, TraceOptions
from engine.compare import compare_models
from engine.compare.alike import debiased_cka
from engine.compare.shared import shared_vocabulary
from engine.compare.side import bytes_of, keep, side_of
from engine.compare.two_models import beside
from engine.errors import OptionError
from engine.reading.similarity import scores

NATS = 2e-4
"""Of a divergence against float64."""
FEW = 100
"""Shared tokens that are asked of tiny vocabularies."""


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> LatentSpace:
    """Another tokenizer (merges of its own), width and depth."""
    folder = tmp_path_factory.mktemp("shallow")
    raw = byte_level(["A queen and a cook went home, and then she sat. The king?"] * 4, 290,
                     special=["<s>", "</s>"])  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    made("GPT2LMHeadModel", folder / "model", seed=9, tokenizer=tokenizer, vocab_size=290,
         n_embd=24, n_layer=2, n_head=2)  # fmt: skip
    return engine.load(folder / "model", offline=True, cache_dir=folder / "cache")


def probabilities(space: LatentSpace, options: TraceOptions) -> np.ndarray:
    """layer × position × token, in float64, by the frame's scores alone."""
    states = space.model.read_out(space.states(PROMPT).raw)
    warmth = space.temperatures(options.frame_key)[options.geometry].value
    z = scores(space.frame(options.frame_key), states.flatten(0, 1), options.geometry)
    flat = softmax(z.detach().double().numpy() / warmth, axis=1)
    return flat.reshape(*states.shape[:2], -1)


@pytest.mark.parametrize(
    "settings", [{}, {"geometry": "matmul", "frame": "head"}, {"centred": True, "lens": "none"}]
)
def test_a_model_beside_itself_is_0_in_every_cell(spaces: Spaces, settings: dict[str, Any]) -> None:
    space = spaces["llama"]
    found = compare_models(space, space, PROMPT, **settings)
    assert (found.kl == 0).all()
    assert (found.js == 0).all()
    assert (found.overlap == 1).all()
    assert found.agreement.all()
    assert found.cosine is not None
    assert found.cosine == pytest.approx(1, abs=1e-6)
    assert np.diag(found.cka) == pytest.approx(1, abs=1e-9)
    assert (found.left_out == 0).all()
    assert found.shared.whole
    assert not found.movers
    assert found.alone == ((), ())
    assert np.array_equal(found.ranks[0], found.ranks[1])
    assert "the same way in every cell" in found.sentence
    assert (found.by_chance[:] > 0).all(), "the control is of another kind"


def test_each_cell_is_what_brute_force_says(spaces: Spaces) -> None:
    options = TraceOptions(geometry="cosine", frame="output", k=5)
    first, other = spaces["llama"], spaces["mistral"]  # one tokenizer
    found = compare_models(first, other, PROMPT, options)
    p, q = probabilities(first, options), probabilities(other, options)
    assert found.kl == pytest.approx(rel_entr(p, q).sum(-1), rel=1e-3, abs=NATS)
    assert found.js == pytest.approx(jensenshannon(p, q, axis=-1) ** 2, rel=1e-3, abs=NATS)
    chance = jensenshannon(p, np.roll(q, 1, axis=1), axis=-1) ** 2
    assert found.by_chance == pytest.approx(chance.mean(1), rel=1e-3, abs=NATS)
    best = [np.argsort(-one, axis=-1, kind="stable")[..., :5] for one in (p, q)]
    shares = [
        [len(set(a) & set(b)) / 5 for a, b in zip(*rows, strict=True)]
        for rows in zip(*best, strict=True)
    ]
    assert found.overlap == pytest.approx(np.array(shares))
    assert np.array_equal(found.agreement, best[0][..., 0] == best[1][..., 0])
    assert np.array_equal(found.top_ids[0], best[0])
    assert found.top_probabilities[1] == pytest.approx(
        np.take_along_axis(q, found.top_ids[1], -1), rel=1e-3
    )
    answers = [space.trace(PROMPT).final_ids for space in (first, other)]
    for reading, one in enumerate((p, q)):
        for whose in (0, 1):
            held = np.take_along_axis(one, np.tile(answers[whose], (len(one), 1))[..., None], -1)
            assert np.array_equal(found.ranks[reading, whose], 1 + (one > held).sum(-1))
    change = p[-1, -1] - q[-1, -1]
    assert found.movers[0].token.id == int(np.abs(change).argmax())
    assert found.movers[0].first - found.movers[0].other == pytest.approx(
        change[found.movers[0].token.id], abs=1e-5
    )


def test_other_tokenizers_widths_and_depths(spaces: Spaces, shallow: LatentSpace) -> None:
    first, options = spaces["gpt2"], TraceOptions(geometry="matmul", frame="head", k=5)
    sides = [side_of(space, PROMPT, options) for space in (first, shallow)]
    found = beside(*sides, options, fewest=FEW)
    assert found.layers == ((0, 0), (1, 1), (2, 1), (3, 2))
    assert found.cosine is None
    assert found.cka.shape == (4, 4)
    shared = shared_vocabulary(sides[0].vocabulary, sides[1].vocabulary, fewest=FEW)
    assert found.shared == shared.count
    assert not shared.whole
    assert FEW < len(shared) < 290
    texts = [side.vocabulary.texts for side in sides]
    assert all(texts[0][a] == texts[1][b] for a, b in zip(*_ids(shared), strict=True))
    for a, b in found.pairs:  # paired tokens end at the same character
        ends = [
            "".join(t.text for t in s.tokens[: n + 1]) for s, n in zip(sides, (a, b), strict=True)
        ]
        assert ends[0] == ends[1]
    held = [len(side.tokens) - len(found.pairs) for side in sides]
    assert [len(one) for one in found.alone] == held
    assert sum(held) > 0
    p, q = probabilities(first, options), probabilities(shallow, options)
    p = p[[a for a, _ in found.layers]][:, [a for a, _ in found.pairs]]
    q = q[[b for _, b in found.layers]][:, [b for _, b in found.pairs]]
    own, known = _ids(shared)
    assert found.left_out[0] == pytest.approx(1 - p[..., own].sum(-1), abs=1e-5)
    assert found.left_out[1] == pytest.approx(1 - q[..., known].sum(-1), abs=1e-5)
    p, q = (one / one.sum(-1, keepdims=True) for one in (p[..., own], q[..., known]))
    assert found.kl == pytest.approx(rel_entr(p, q).sum(-1), rel=1e-3, abs=NATS)
    assert found.js == pytest.approx(jensenshannon(p, q, axis=-1) ** 2, rel=1e-3, abs=NATS)
    with pytest.raises(OptionError, match=rf"share {len(shared):,} tokens .* at least 500"):
        beside(*sides, options)


def _ids(shared: Any) -> tuple[list[int], list[int]]:
    return shared.first.tolist(), shared.other.tolist()


def test_a_side_that_was_kept_says_the_same_without_its_model(
    spaces: Spaces, tmp_path: Path
) -> None:
    options = TraceOptions(k=5)
    first, other = (side_of(spaces[name], PROMPT, options) for name in ("llama", "mistral"))
    kept = keep(first, tmp_path / "scores")
    assert (tmp_path / "scores").stat().st_size == bytes_of(first)
    both = [beside(one, other, options).to_dict() for one in (first, kept)]
    movers = [[m["first"] for m in one.pop("movers")] for one in both]
    assert both[0] == both[1]
    assert movers[0] == pytest.approx(movers[1], rel=1e-5), "read alone and with others"


def test_what_two_vocabularies_share(spaces: Spaces, shallow: LatentSpace) -> None:
    own = spaces["padded"].vocabulary
    assert shared_vocabulary(own, own).whole
    found = shared_vocabulary(own, shallow.vocabulary, fewest=FEW)
    texts = set(shallow.vocabulary.texts)
    by_hand = [i for i, text in enumerate(own.texts) if text in texts and own.is_token(i)]
    assert found.first.tolist() == by_hand, "padding of the head is no token"


def test_debiased_cka_by_its_definition_and_laws() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, 20, 50))
    turn = np.linalg.qr(draw.normal(size=(50, 50)))[0]
    found, chance = debiased_cka(x, 3 * x @ turn)
    assert np.diag(found) == pytest.approx(1), "a rotation and a scale change nothing"
    assert abs(chance) < 0.1
    # Few states in many dimensions: the plain form would be near 1 for unrelated ones.
    many = [
        debiased_cka(draw.normal(size=(1, 8, 400)), draw.normal(size=(1, 8, 400)))[0][0, 0]
        for _ in range(200)
    ]
    assert abs(np.mean(many)) < 3 * np.std(many) / np.sqrt(200)
    n, k, its = 20, *(one @ one.T for one in (x[0], x[1]))  # Song et al. 2012, eq. 5, by loops
    for gram in (k, its):
        np.fill_diagonal(gram, 0)

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        one = np.ones(n)
        whole = (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
        return float((np.trace(a @ b) + whole - 2 * one @ a @ b @ one / (n - 2)) / (n * (n - 3)))

    assert debiased_cka(x[:1], x[1:])[0][0, 0] == pytest.approx(
        hsic(k, its) / np.sqrt(hsic(k, k) * hsic(its, its))
    )
    assert np.isnan(debiased_cka(x[:, :3], x[:, :3])[0]).all()


def test_states_that_are_not_finite_are_not_compared(spaces: Spaces) -> None:
    found = compare_models(spaces["nan"], spaces["llama"], PROMPT)
    assert np.isnan(found.js[2:]).all()
    assert np.isfinite(found.js[:2]).all()
    assert not found.agreement[2:].any()
    assert (found.ranks[:, :, 2:] == 0).all()
    assert found.answers[0] is None
    assert "nothing finite" in found.sentence


def test_only_the_layers_that_are_asked_for(spaces: Spaces) -> None:
    whole = compare_models(spaces["llama"], spaces["mistral"], PROMPT)
    some = compare_models(spaces["llama"], spaces["mistral"], PROMPT, layers="1:4:2")
    assert some.layers == ((1, 1), (3, 3))
    assert some.kl == pytest.approx(whole.kl[[1, 3]], rel=1e-4, abs=1e-6)


def test_a_text_of_which_nothing_ends_alike(spaces: Spaces, shallow: LatentSpace) -> None:
    options = TraceOptions()
    first, other = (side_of(one, PROMPT, options) for one in (spaces["gpt2"], shallow))
    other = replace(other, tokens=())
    with pytest.raises(OptionError, match="no two tokens end at the same"):
        beside(first, other, options, fewest=FEW)
