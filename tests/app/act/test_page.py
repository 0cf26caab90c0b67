"""The Act page: an action in the address, its answer beside the controls, mistakes as sentences."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from asgi import PROMPT, TWIN
from starlette.testclient import TestClient
from waiting import until

from app.act.examples import EXAMPLES
from app.act.page import DOES, ActQuery

QUERIES: dict[str, dict[str, Any]] = {
    "steer": {"token": "#70", "foil": "#75", "layers": "2"},
    "swap": {"token": "#70", "foil": "#75", "layers": "0"},
    "ablate": {"token": "#70"},
    "zero": {"part": "mlp", "layers": "1:3"},
    "scale": {"part": "block", "factor": "0.5"},
    "patch": {"source": TWIN, "layers": "1"},
}


def test_there_is_a_query_for_every_action() -> None:
    assert set(QUERIES) == {name for name, _, _ in DOES}


@pytest.mark.parametrize("do", QUERIES)
def test_every_action_shows_what_its_json_says(shared_client: TestClient, do: str) -> None:
    page = shared_client.get("/act", params={"prompt": PROMPT, "do": do, **QUERIES[do]})
    assert page.status_code == 200, page.text[:2000]
    text = html.unescape(page.text)
    found = re.search(r'href="(/api/v1/act\?[^"]+)">JSON', page.text)
    assert found is not None
    json = shared_client.get(html.unescape(found[1])).json()
    assert f"{json['kl']:.3g}"[:4] in text
    tag = "beyond the controls" if json["beyond_controls"] else "not beyond the controls"
    assert f">{tag}<" in text
    for control in json["controls"]:
        assert control["what"] in text
    # The address is the whole state: the permalink answers with the same page.
    permalink = re.search(r'href="(/act\?[^"]+)">Permalink', page.text)
    assert permalink is not None
    again = shared_client.get(html.unescape(permalink[1]))
    assert (
        re.search(r'class="answer">[^<]+', again.text)[0]
        == (re.search(r'class="answer">[^<]+', page.text)[0])
    )


@pytest.mark.slow
def test_what_is_written_and_how_each_cell_changes(shared_client: TestClient) -> None:
    asked = {"prompt": PROMPT, **QUERIES["steer"], "generate": 3, "dose": 0.9}
    dialled = {"frame": "dial", "alpha": 1.0, "ridge": 0.1}
    json = shared_client.get("/api/v1/act", params={
        "prompt": PROMPT, "steer": "#70", "from": "#75", "layers": "2", "generate": 3, "dose": 0.9,
        **dialled}).json()  # fmt: skip
    assert json["written"]["tokens"] == 3
    assert json["action"]["ridge"] == 0.1
    for colour, words in (("moved", "the state moved far"), ("kl", "KL of the readings before"),
                          ("rank", "near the first")):  # fmt: skip
        page = shared_client.get("/act", params=asked | dialled | {"colour": colour})
        assert page.status_code == 200
        assert words in page.text
        for side in ("before", "once", "after", "control"):
            assert html.escape(json["written"][side]) in page.text
    assert 'data-count="' in page.text
    # A dial that stands in the form beside another frame is no mistake.
    assert shared_client.get("/act", params=asked | {"ridge": 0.1}).status_code == 200
    too_many = shared_client.get("/act", params=asked | {"generate": 65})
    assert too_many.status_code == 422


def test_the_first_visit_has_an_action_ready(shared_client: TestClient) -> None:
    """Of a model without examples: from its own answer to the token that stands second."""
    page = shared_client.get("/act")
    assert page.status_code == 200
    assert "Steering towards" in page.text
    assert "as it is" in page.text


def test_another_action_keeps_what_was_typed(shared_client: TestClient) -> None:
    asked = {"prompt": PROMPT, "token": "#70", "foil": "#75", "dose": "0.7", "layers": "1"}
    page = shared_client.get("/act", params=asked | {"do": "zero"}).text
    for name, value in (("token", "#70"), ("foil", "#75"), ("dose", "0.7")):
        assert f'<input type="hidden" name="{name}" value="{value}">' in page
    links = [html.unescape(one) for one in re.findall(r'class="chip" href="(/act[^"]+)"', page)]
    query = parse_qs(urlsplit(next(one for one in links if "do=swap" in one)).query)
    assert query["token"] == ["#70"]
    assert query["layers"] == ["1"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"token": "cat sat"}, "tokens for this model"),
        ({"token": "#70", "layers": "9"}, "[0, 3]"),
        ({"do": "swap", "token": "#70"}, "name both"),
        ({"do": "swap", "token": "#70", "foil": "#75", "layers": "0:3"}, "undoes itself"),
        ({"do": "patch"}, "the prompt whose states"),
        ({"do": "patch", "source": "cat", "positions": "4"}, "other prompt"),
        ({"token": "#70", "dose": "1e28"}, "infinite"),
        ({"dose": "much"}, "number"),
        ({"prompt": "cat " * 200}, "at most 64 tokens"),
    ],
)
def test_a_mistake_is_a_sentence_and_the_form_stands(
    shared_client: TestClient, query: dict[str, Any], words: str
) -> None:
    page = shared_client.get("/act", params={"prompt": PROMPT, **query})
    assert page.status_code == 422
    text = html.unescape(page.text)
    problem = re.search(r'id="problem".*?</section>', text, re.S)
    assert problem is not None
    assert words in problem[0]
    assert 'id="act-form"' in text


@pytest.mark.slow
def test_a_twin_is_mapped_in_the_background_and_then_drawn(client: TestClient) -> None:
    other = "The mat sat on the dog"  # of this test alone: maps are kept
    asked = {"prompt": PROMPT, "random": "1", "twin": other}
    before = client.get("/act", params=asked)
    assert "Compute the map" in before.text
    assert "in the background" in before.text
    started = client.post(
        "/act/causal", data={"prompt": PROMPT, "twin": other}, follow_redirects=False
    )
    assert started.status_code == 303
    job = "/api/v1" + started.headers["location"]
    until(lambda: client.get(job).json()["finished"], lambda: client.get(job).json())
    assert client.get(job).json()["state"] == "done"
    after = client.get("/act", params=asked).text
    assert "Compute the map" not in after
    assert 'id="causal-map"' in after
    short = client.get("/act", params=asked | {"twin": "cat"})
    assert short.status_code == 200
    assert "as many tokens" in short.text


def test_a_cell_of_the_trace_leads_here(shared_client: TestClient) -> None:
    page = shared_client.get("/", params={"prompt": PROMPT, "cell": "2,3"}).text
    found = re.search(r'href="(/act[^"]+)"[^>]*>Act here', page)
    assert found is not None
    query = parse_qs(urlsplit(html.unescape(found[1])).query)
    assert query == {"prompt": [PROMPT], "layers": ["2"], "positions": ["3"]}
    assert shared_client.get(html.unescape(found[1])).status_code == 200


def test_the_examples_are_questions_of_the_page() -> None:
    for examples in EXAMPLES.values():
        for one in examples:
            query = ActQuery.model_validate(one.state)
            assert query.action().kind == query.do
