"""Two prompts beside each other: laws, brute force in float64, alignment."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import NAN_LAYER, PROMPT, Spaces

from engine.compare import PromptComparison, compare_prompts
from engine.compare.alignment import align
from engine.compare.divergence import divergence_of_readings
from engine.errors import OptionError, PromptError
from engine.frames.kinds import FRAMES
from engine.model.vocabulary import Token
from engine.reading.geometries import GEOMETRIES
from engine.reading.similarity import scores

NATS = 2e-4
"""Of a divergence against float64."""
OTHER = "The king and the queen went to the old dog. The cat sat."


def tokens(*texts: str) -> list[Token]:
    known = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    return [Token(known[text], text, text) for text in texts]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "bf16"])
@pytest.mark.parametrize(
    "settings", [{}, {"geometry": "matmul", "frame": "head"}, {"geometry": "l2", "centred": True}]
)
def test_a_prompt_against_itself_is_0_in_every_cell(
    spaces: Spaces, name: str, settings: dict[str, Any]
) -> None:
    found = compare_prompts(spaces[name], PROMPT, PROMPT, **settings)
    assert len(found.pairs) == len(found.tokens[0])
    assert (found.divergence == 0).all()
    assert (found.rank_in_other == found.first.final_rank).all()
    assert (found.rank_in_first == found.first.final_rank).all()
    assert "equal in every cell" in found.sentence
    assert found.race[0].to_dict() == found.race[1].to_dict()


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("frame", ["output", "head", "random"])
def test_each_cell_is_the_divergence_by_brute_force(
    spaces: Spaces, geometry: str, frame: str
) -> None:
    assert frame in FRAMES
    space = spaces["llama"]
    found = compare_prompts(space, PROMPT, OTHER, geometry=geometry, frame=frame)
    assert found.layers == tuple(range(space.model.blocks + 1))
    read = [
        space.model.read_out(space.states(text).raw)[:, [pair[side] for pair in found.pairs]]
        for side, text in enumerate((PROMPT, OTHER))
    ]
    logs = []
    for states in read:
        flat = states.flatten(0, 1)
        z = scores(space.frame(frame), flat, geometry).double() / found.first.temperature
        logs.append(z - z.logsumexp(1, keepdim=True))
    kl = (logs[0].exp() * (logs[0] - logs[1])).sum(1).reshape(found.divergence.shape)
    np.testing.assert_allclose(found.divergence, kl.numpy(), atol=NATS, rtol=1e-3)
    for own, ranks, answers in (
        (logs[1], found.rank_in_other, found.first.final_ids),
        (logs[0], found.rank_in_first, found.other.final_ids),
    ):
        wanted = torch.from_numpy(np.tile(answers, len(found.layers))).unsqueeze(1)
        by_hand = 1 + (own > own.gather(1, wanted)).sum(1)
        assert (ranks == by_hand.numpy().reshape(ranks.shape)).mean() > 0.98  # near ties
    # Causal attention: what stands before the word that differs is the same.
    same = [
        n
        for n, (a, b) in enumerate(found.pairs)
        if found.tokens[0][: a + 1] == found.tokens[1][: b + 1]
    ]
    assert same
    before = np.abs(found.divergence[:, same]).max()
    assert before < NATS
    assert found.divergence[1:, len(same) :].max() > before


def test_divergence_does_not_depend_on_how_it_is_cut(spaces: Spaces) -> None:
    frame = spaces["llama"].frame("head")
    drawn = torch.randn(2, 40, frame.width, generator=torch.Generator().manual_seed(1))
    asked = {"geometry": "matmul", "temperature": 0.5}
    whole = divergence_of_readings(frame, *drawn, **asked)  # type: ignore[arg-type]
    small = divergence_of_readings(frame, *drawn, budget_bytes=40_000, **asked)  # type: ignore[arg-type]
    torch.testing.assert_close(whole, small, atol=NATS, rtol=1e-4)
    assert (whole > 0).all()


def test_tokens_are_paired_by_equal_ids_and_gaps_from_their_end() -> None:
    first, other = tokens("a", "b", "c", "d"), tokens("a", "b", "c", "d")
    assert align(first, other) == ((0, 0), (1, 1), (2, 2), (3, 3))
    base = tokens("the", "x", "y", "is", "end", "new")
    the, x, y, is_, end, new = base
    assert align([the, x, is_], [the, y, is_]) == ((0, 0), (1, 1), (2, 2))
    # A gap of two against one: the last of the two has read as much.
    assert align([the, x, y, is_, end], [the, new, is_, end]) == ((0, 0), (2, 1), (3, 2), (4, 3))
    assert align([the], [the, is_]) == ((0, 0),)
    assert align([], [the]) == ()


def test_characters_pair_tokens_that_end_together() -> None:
    whole = tokens("the ", "house", " is")
    parts = tokens("the ", "ho", "use", " is")
    assert align(whole, parts, "characters") == ((0, 0), (1, 2), (2, 3))
    assert align(whole, parts, "tokens") != align(whole, parts, "characters")
    with pytest.raises(OptionError, match="align must be one of"):
        align(whole, parts, "words")


def test_what_has_no_partner_is_named_and_the_positions_count_in_the_prompt(
    spaces: Spaces,
) -> None:
    space = spaces["llama"]
    longer = compare_prompts(space, PROMPT, PROMPT + " And the dog ran.")
    assert longer.alone[0] == ()
    assert longer.alone[1] == longer.tokens[1][len(longer.tokens[0]) :]
    assert "the last token that both have" in longer.sentence
    few = compare_prompts(space, PROMPT, OTHER, positions="-3:", layers="1:3")
    count = len(few.tokens[0])
    assert [a for a, _ in few.pairs] == [count - 3, count - 2, count - 1]
    assert few.layers == (1, 2)
    assert len(few.to_dict()["cells"]) == 6


def test_states_that_are_not_finite_and_prompts_without_a_pair_are_said(spaces: Spaces) -> None:
    broken = compare_prompts(spaces["nan"], PROMPT, OTHER)
    at = broken.layers.index(NAN_LAYER)
    assert np.isnan(broken.divergence[at]).all()
    assert (broken.rank_in_other[at] == 0).all()
    assert broken.to_dict()["cells"][at * len(broken.pairs)]["divergence"] is None
    with pytest.raises(PromptError):
        compare_prompts(spaces["llama"], PROMPT, "")
    with pytest.raises(OptionError, match="no token in common"):
        compare_prompts(spaces["llama"], PROMPT + " And the dog ran.", PROMPT, positions="-1")


@pytest.mark.parametrize("reading", [{"frame": "head", "geometry": "matmul"}, {"frame": "tight"}])
def test_from_where_on_the_answers_part_and_whether_chance_parts_them_too(
    spaces: Spaces, reading: dict[str, Any]
) -> None:
    """Ranks of both answers counted one by one in every score of either prompt, with random
    vectors as well."""
    space = spaces["llama"]
    texts = PROMPT, PROMPT.replace("king", "house")
    found = compare_prompts(space, *texts, **reading)
    a, b = (one.id for one in found.answers)
    assert a != b
    options = found.first.options

    def parted(frame: str) -> int | None:
        ranks = []
        for text in texts:
            states = space.model.read_out(space.model.states(space.tokenize(text).ids).raw)[:, -1]
            values = scores(space.frame(frame), states, options.geometry).double()
            ranks.append([[1 + int((row > row[t]).sum()) for t in (a, b)] for row in values])
        start = None
        for layer in reversed(range(len(ranks[0]))):
            (own, back), (there, far) = (side[layer] for side in ranks)
            if own >= there or far >= back:
                break
            start = layer
        return start

    assert found.parted == parted(options.frame)
    assert found.parted_by_chance == parted("random")
    if options.frame == "head":
        assert found.parted is not None, "at the last layer each answer is the first"
    plain = found.to_dict()
    assert plain["parted"] == found.parted
    assert plain["control"] == found.control


@pytest.mark.parametrize(
    ("own", "chance", "words"),
    [
        (24, None, "at no layer"),
        (24, 28, "random vectors from layer 28 on."),
        (24, 24, "says nothing of words"),
        (24, 3, "says nothing of words"),
        (None, 5, "no layer parts them"),
    ],
)
def test_where_random_vectors_part_them_as_early_nothing_is_said(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch, own: int | None, chance: int | None, words: str
) -> None:
    found = compare_prompts(spaces["llama"], PROMPT, PROMPT.replace("king", "house"))
    monkeypatch.setattr(PromptComparison, "parted", property(lambda _: own))
    assert words in replace(found, parted_by_chance=chance).control
    same = compare_prompts(spaces["llama"], PROMPT, PROMPT)
    assert (same.control, same.parted_by_chance) == ("", None)


def test_an_action_holds_while_its_side_is_read_and_no_longer(spaces: Spaces) -> None:
    space = spaces.fresh("gpt2")
    plain = space.trace(PROMPT)
    action = {"random": 3, "dose": 2.0, "layers": "1", "positions": ":"}
    found = compare_prompts(
        space, PROMPT, PROMPT, within=(nullcontext, partial(space.act, "steer", **action))
    )
    assert np.abs(found.divergence[0]).max() == 0
    assert found.divergence[-1].min() > 0
    np.testing.assert_array_equal(found.first.top_ids, plain.top_ids)
    with space.act("steer", **action):
        after = space.trace(PROMPT)
    np.testing.assert_array_equal(found.other.top_ids, after.top_ids)
    assert space.trace(PROMPT) is plain
