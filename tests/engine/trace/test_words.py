"""A state of a prompt in words: which state it is, its sentence, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import NAN_LAYER, PROMPT, Spaces

from engine import TraceOptions
from engine.errors import LayerError, OptionError
from engine.reading.pursuit import pursue
from engine.trace.options import prepare
from engine.trace.words import Chance


@pytest.mark.parametrize("name", ["llama", "opt", "gemma2"])
@pytest.mark.parametrize("options", [TraceOptions(), TraceOptions(frame="tight", centred=True)])
def test_the_chosen_frame_stands_first_and_the_state_is_what_is_read(
    spaces: Spaces, name: str, options: TraceOptions
) -> None:
    space = spaces[name]
    found = space.in_words(PROMPT, 2, 4, options, words=6)
    assert [one.frame for one in found.sums] == [*dict.fromkeys([options.frame, "output", "head"])]
    assert found.token == space.tokenize(PROMPT).items[4]
    states = space.states(PROMPT)
    asked = replace(options, centred=False, layers="2", positions="4")
    state = prepare(space.model, states, asked).states[0, 0]
    for one in found.sums:
        by_hand = pursue(space.frame(one.frame), state, 6)
        assert tuple(word.token.id for word in one.words) == by_hand.ids
        assert one.shares == by_hand.shares
        assert one.cosines == pytest.approx(np.sqrt(one.shares))
        assert sum(word.share for word in one.words) == pytest.approx(one.shares[-1])
    shorter = space.in_words(PROMPT, 2, 4, options, words=3)
    assert shorter.sums[0].shares == found.sums[0].shares[:3]
    assert shorter.random == found.random[:3]
    assert space.in_words(PROMPT, -1, -1).layer == space.model.blocks


def test_words_are_named_only_beyond_chance(spaces: Spaces) -> None:
    space = spaces["llama"]
    found = space.in_words(PROMPT, -1, -1, words=2)
    one = found.sums[0]
    weights = (0.31, 0.2)
    words = tuple(replace(w, weight=x) for w, x in zip(one.words, weights, strict=True))
    chance = (Chance(0.1, 0.05, 0.15), Chance(0.2, 0.15, 0.25))
    clear = replace(found, random=chance, sums=(replace(one, words=words, shares=(0.3, 0.4)),))
    first, second = (word.token.label for word in words)
    assert clear.beyond_chance
    assert f"three tenths “{first}” and two tenths “{second}”" in clear.sentence
    assert "40\u00a0%" in clear.sentence
    assert "0.50 times as much" in clear.sentence
    level = replace(clear, sums=(replace(clear.sums[0], shares=(0.2, 0.25)),))
    assert not level.beyond_chance
    assert first not in level.sentence.split("“")[0]
    assert "“" not in level.sentence
    assert level.to_dict()["sentence"] == level.sentence


def test_what_cannot_be_said_in_words_is_a_sentence(spaces: Spaces) -> None:
    space = spaces["llama"]
    for words in (0, 11, 2.5, "3"):
        with pytest.raises(OptionError, match="from 1 to 10"):
            space.in_words(PROMPT, 1, 1, words=words)  # type: ignore[arg-type]
    for layer, position in ((9, 0), (1, 99), (-9, 0)):
        with pytest.raises(LayerError):
            space.in_words(PROMPT, layer, position)
    empty = spaces["nan"].in_words(PROMPT, NAN_LAYER, -1)
    assert empty.sums == ()
    assert not empty.beyond_chance
    assert "NaN" in empty.sentence
