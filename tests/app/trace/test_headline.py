"""The sentence on top of a trace: made of its numbers, withheld where chance does as well."""

from __future__ import annotations

from dataclasses import replace

import pytest
from parsed import page
from starlette.testclient import TestClient
from tiny_models import PROMPT, Spaces

from app.trace.headline import headline
from engine import LatentSpace
from engine.trace.finding import Finding
from engine.trace.result import Trace


@pytest.fixture(scope="module")
def trace(spaces: Spaces) -> Trace:
    return spaces["llama"].trace(PROMPT)


def found(trace: Trace, ranks: list[int], chance: list[int]) -> Finding:
    from engine.trace.finding import settled_from

    layers = trace.layers
    return Finding(
        trace.positions[-1], tuple(ranks), settled_from(ranks, layers), tuple(chance),
        settled_from(chance, layers),
    )  # fmt: skip


def test_it_says_where_the_answer_settles_and_what_chance_does(trace: Trace) -> None:
    last = trace.layers[-1]
    assert last >= 2
    far, near = [9] * len(trace.layers), [1] * len(trace.layers)
    late = [*far[:-2], 1, 1]
    said = headline(trace, found(trace, late, far))
    assert said.kind == "found"
    assert said.says == f"becomes the nearest word at layer {last - 1} of {last}, and stays."
    assert said.control == "never (rank 9 at best)"
    assert said.answer.id == int(trace.final_ids[-1])
    end = headline(trace, found(trace, [*far[:-1], 1], far))
    assert end.says == f"becomes the nearest word only at the last layer, {last}."
    whole = headline(trace, found(trace, near, far))
    assert whole.says == "is the nearest word at every layer, the embedding included."


def test_it_is_withheld_where_chance_does_as_well(trace: Trace) -> None:
    far = [9] * len(trace.layers)
    late = [*far[:-2], 1, 1]
    said = headline(trace, found(trace, late, late))
    assert said.kind == "chance"
    assert "becomes" not in said.says
    assert said.control == f"at layer {trace.layers[-2]}, {trace.layers[-1]}"


def test_another_end_is_named_with_the_answers_rank(trace: Trace) -> None:
    far = [9] * len(trace.layers)
    said = headline(trace, found(trace, far, far))
    assert (said.kind, said.rank) == ("apart", 9)
    assert said.ends is not None
    assert said.ends.id == int(trace.top_ids[-1, -1, 0])


def test_random_directions_and_no_answer_say_so(spaces: Spaces, trace: Trace) -> None:
    far = [9] * len(trace.layers)
    chance = spaces["llama"].trace(PROMPT, frame="random")
    assert headline(chance, found(chance, far, far)).kind == "control"
    ids = trace.final_ids.copy()
    ids[-1] = -1
    info = {**trace.token_info, -1: replace(trace.token_info[int(ids[0])], id=-1)}
    none = replace(trace, final_ids=ids, token_info=info)
    assert headline(none, found(none, [0] * len(far), [0] * len(far))).kind == "none"


def test_the_page_says_it_beside_the_control(shared_client: TestClient) -> None:
    got = page(shared_client, "/?geometry=matmul&frame=head")
    assert got.one("p", id="headline").text.strip()
    beside = got.one("ul", class_="beside").text
    assert "Random control:" in beside
    assert "Read by" in beside


@pytest.mark.real
@pytest.mark.slow
def test_the_first_sentence_of_the_real_model(smollm2: LatentSpace) -> None:
    prompt = "The capital of France is"
    said = headline(smollm2.trace(prompt), smollm2.finding(prompt))
    assert said.answer.text.strip() == "Paris"
    assert said.says == "becomes the nearest word at layer 25 of 30, and stays."
    assert said.control.startswith("never")
