"""What the examples of the Trace page tell a visitor to look at is there, on the shipped model."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.routes.trace import EXAMPLES, LOOKED_AT
from engine import LatentSpace, Trace, load
from engine.errors import ModelNotFound


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> LatentSpace:
    folder: Path = tmp_path_factory.mktemp("bases")
    try:
        return load(device="cpu", cache_dir=folder)
    except ModelNotFound:
        pytest.skip("the model that ships is not in this checkout")


def regions(trace: Trace, text: str) -> list[str]:
    """The nearest token at each layer, over the first token of that text."""
    column = next(i for i, token in enumerate(trace.tokens) if token.text.strip() == text)
    return [trace.token_info[int(i)].text.strip() for i in trace.regions[:, column]]


def answers(trace: Trace) -> list[str]:
    return [trace.token_info[int(i)].text.strip() for i in trace.final_ids]


def test_looked_finds_at_from_layer_5_and_don_its_t_at_once(shipped: LatentSpace) -> None:
    trace = shipped.trace(EXAMPLES[1].prompt)
    looked = regions(trace, "looked")
    assert looked[5:] == ["at"] * len(looked[5:])
    assert "at" not in looked[:5]
    assert answers(trace)[1] == "at"
    assert set(regions(trace, "don")) == {"'t"}


def test_the_door_is_found_from_layer_4(shipped: LatentSpace) -> None:
    trace = shipped.trace(EXAMPLES[0].prompt)
    the = regions(trace, "the")
    assert the[4:] == ["door"] * len(the[4:])
    assert "door" not in the[:4]
    assert answers(trace)[2] == "door"


def test_united_is_nearest_to_states_at_every_layer(shipped: LatentSpace) -> None:
    assert set(regions(shipped.trace(EXAMPLES[2].prompt), "United")) == {"States"}


def test_after_and_the_the_king_comes_again(shipped: LatentSpace) -> None:
    trace = shipped.trace(EXAMPLES[3].prompt)
    assert trace.tokens[3].text == " the"
    the = [trace.token_info[int(i)].text.strip() for i in trace.regions[:, 3]]
    assert the[6:] == ["king"] * len(the[6:])
    assert "king" not in the[:6]


def test_the_model_does_not_count(shipped: LatentSpace) -> None:
    found = answers(shipped.trace(EXAMPLES[4].prompt))
    numbers = ["two", "three", "four", "five", "six", "seven"]
    assert not any(a == n for a, n in zip(found, numbers, strict=True))


def test_the_sentences_are_of_the_model_that_ships_and_no_other_s_page_holds_them(
    shipped: LatentSpace, shared_client: TestClient
) -> None:
    assert shipped.model.fingerprint == LOOKED_AT
    other = shared_client.get("/").text  # a tiny random model
    assert EXAMPLES[0].prompt in other
    assert not any(escape(one.look) in other or one.look in other for one in EXAMPLES)
