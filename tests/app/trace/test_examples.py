"""What the examples of the Trace page tell a visitor to look at is there, on the shipped model."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.trace.question import EXAMPLES as SETS
from engine import LatentSpace, Trace, load
from engine.errors import ModelNotFound
from engine.loading import SHIPPED

SMALL, SMOLLM2 = SETS
EXAMPLES = SETS[SMALL]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> LatentSpace:
    folder: Path = tmp_path_factory.mktemp("bases")
    try:
        return load(SHIPPED, device="cpu", cache_dir=folder)
    except ModelNotFound:
        pytest.skip("the model that ships is not in this checkout")


def regions(trace: Trace, text: str, last: bool = False) -> list[str]:
    """The nearest token at each layer, over the first or the last token of that text."""
    columns = [i for i, token in enumerate(trace.tokens) if token.text.strip() == text]
    column = columns[-1] if last else columns[0]
    return [trace.token_info[int(i)].text.strip() for i in trace.regions[:, column]]


def answers(trace: Trace) -> list[str]:
    return [trace.token_info[int(i)].text.strip() for i in trace.final_ids]


def test_the_door_that_is_shut_is_found_from_layer_5(shipped: LatentSpace) -> None:
    trace = shipped.trace(EXAMPLES[0].prompt)
    assert [token.text for token in trace.tokens[-2:]] == [" shut", " the"]
    the = regions(trace, "the", last=True)
    assert the[5:] == ["door"] * 4
    assert "door" not in the[:5]
    assert answers(trace)[-1] == "door"


def test_fast_is_asleep_until_the_words_before_it_have_won(shipped: LatentSpace) -> None:
    trace = shipped.trace(EXAMPLES[1].prompt)
    fast = regions(trace, "fast")
    assert fast[:4] == ["asleep", "asleep", "est", "est"]
    assert fast[5:] == ["as"] * 4
    assert "as" not in fast[:5]
    assert answers(trace)[3] == "as"
    assert trace.tokens[3].text == " fast"


def test_united_is_nearest_to_states_at_every_layer(shipped: LatentSpace) -> None:
    assert set(regions(shipped.trace(EXAMPLES[2].prompt), "United")) == {"States"}


def test_from_side_to_side_and_again(shipped: LatentSpace) -> None:
    trace = shipped.trace(EXAMPLES[3].prompt)
    to = regions(trace, "to", last=True)
    assert to[7:] == ["side"] * 2
    assert "side" not in to[:7]
    assert answers(trace)[-1] == "side"
    assert "side" not in regions(trace, "to")


def test_the_model_does_not_count(shipped: LatentSpace) -> None:
    found = answers(shipped.trace(EXAMPLES[4].prompt))
    numbers = ["two", "three", "four", "five", "six", "seven"]
    assert not any(a == n for a, n in zip(found, numbers, strict=True))


def test_the_sentences_are_of_the_model_that_ships_and_no_other_s_page_holds_them(
    shipped: LatentSpace, shared_client: TestClient
) -> None:
    assert shipped.model.fingerprint == SMALL
    other = shared_client.get("/").text  # a tiny random model
    assert SETS[SMOLLM2][0].prompt in other
    looks = [one.look for examples in SETS.values() for one in examples]
    assert not any(escape(look) in other or look in other for look in looks)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(
    ("number", "answer", "since", "alone"),
    [
        (0, "Paris", 25, True), (1, "Friday", 24, True), (2, "Mary", 28, True),
        (3, "cat", 29, False), (4, "dogs", 30, False), (5, "Sydney", 30, True),
    ],
)  # fmt: skip
def test_what_is_said_of_the_real_model_is_so(
    smollm2: LatentSpace, number: int, answer: str, since: int, alone: bool
) -> None:
    """The answer over the last token, and from which layer on the semantic bases name it."""
    assert smollm2.model.fingerprint == SMOLLM2
    example = SETS[SMOLLM2][number]
    assert f"“{answer}”" in example.look
    trace = smollm2.trace(example.prompt, positions="-1")
    assert answers(trace) == [answer]
    named = [trace.token_info[int(i)].text.strip() == answer for i in trace.regions[:, 0]]
    assert all(named[since:])
    assert not named[since - 1]
    assert any(named[:since]) != alone
