"""The page of a text that goes on: whole for programs, in pieces for browsers, with its forks."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from asgi import HOSTILE, PROMPT, running
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.generate.question import GeneratePageQuery
from engine import GenerateOptions, LatentSpace, TraceOptions
from engine.errors import OptionError
from engine.generation.column import Generation

BROWSER = {"Sec-Fetch-Dest": "document"}
LOGIT_LENS = TraceOptions(geometry="matmul", frame="head", k=3)


def text_of(page: str, mark: str) -> str:
    """The text of the first element with this mark in its tag."""
    found = re.search(rf"<(\w+)[^>]*{mark}[^>]*>(.*?)</\1>", page, re.S)
    assert found, mark
    return html.unescape(re.sub(r"<[^>]+>", "", found[2]))


def told(found: Generation) -> str:
    """The text as the page shows it: token by token, bytes that are no text by themselves drawn."""
    return PROMPT + "".join(column.token.text for column in found.columns)


def links(page: str) -> list[str]:
    return [html.unescape(one) for one in re.findall(r'href="([^"]+)"', page)]


def test_without_a_question_the_page_asks_nothing_of_the_model(shared_client: TestClient) -> None:
    app: Any = shared_client.app
    before = app.state.explorer.device.steps
    page = shared_client.get("/generate")
    assert page.status_code == 200
    assert app.state.explorer.device.steps == before
    assert "data-stream" not in page.text
    assert 'name="tokens"' in page.text


def test_the_finished_text_and_its_grid_without_javascript(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    asked = {"prompt": PROMPT, "tokens": 5, "temperature": 1, "seed": 8}
    page = shared_client.get("/generate", params=asked).text
    options = GenerateOptions(tokens=5, temperature=1, seed=8, reading=LOGIT_LENS)
    found = reference.generation(PROMPT, options)
    assert text_of(page, 'class="written"') == told(found)
    assert "data-stream" not in page
    columns = re.findall(r'<li class="column".*?</li>', page, re.S)
    assert len(columns) == len(found.columns)
    for shown, column in zip(columns, found.columns, strict=True):
        cells = re.findall(r'<span class="cell[^"]*"[^>]*>.*?</bdi></span>', shown, re.S)
        tops = [column.token_info[int(id)].label for id in column.top_ids[::-1, 0]]
        assert [html.unescape(re.sub("<[^>]+>", "", cell)) for cell in cells] == tops
        marked = [n for n, cell in enumerate(cells) if " settles" in cell.partition(">")[0]]
        assert marked == [len(cells) - 1 - column.settling_layer]
    assert text_of(page, 'id="finding"') == found.thinking.sentence


def test_a_browser_gets_the_page_at_once_and_the_rest_in_pieces(shared_client: TestClient) -> None:
    asked = {"prompt": PROMPT, "tokens": 3, "seed": 77, "temperature": 1.2}
    page = shared_client.get("/generate", params=asked, headers=BROWSER)
    assert "Sec-Fetch-Dest" in page.headers["vary"]
    assert '<li class="column"' not in page.text
    refresh = re.search(r'<noscript><meta http-equiv="refresh" content="0; url=([^"]+)"', page.text)
    assert refresh
    whole = shared_client.get(html.unescape(refresh[1]), headers=BROWSER).text
    stream = re.search(r'data-stream="([^"]+)"', page.text)
    assert stream
    answer = shared_client.get(html.unescape(stream[1]))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    parts = [part.split("\n") for part in answer.text.strip().split("\n\n")]
    assert [part[0] for part in parts] == ["event: column"] * 3 + ["event: end"]
    assert all(line.startswith("data: ") for part in parts for line in part[1:])
    sent = "\n".join(line[6:] for part in parts for line in part[1:])
    of_the_page = re.findall(r'<li class="column".*?</li>', whole, re.S)
    assert re.findall(r'<li class="column".*?</li>', sent, re.S) == of_the_page
    rows = re.findall(r'<tr id="token-.*?</tr>', whole, re.S)
    assert re.findall(r'<tr id="token-.*?</tr>', sent, re.S) == rows
    assert text_of(sent, 'id="finding"') == text_of(whole, 'id="finding"')
    # What was written is kept: the same address is whole at once now.
    assert (
        '<li class="column"' in shared_client.get("/generate", params=asked, headers=BROWSER).text
    )


def test_a_fork_is_a_tab_beside_the_text(shared_client: TestClient, reference: LatentSpace) -> None:
    asked = {"prompt": PROMPT, "tokens": 4}
    page = shared_client.get("/generate", params=asked).text
    trunk = reference.generation(PROMPT, tokens=4, reading=LOGIT_LENS)
    other = trunk.columns[1].alternatives[3].token
    [href] = [one for one in links(page) if f"forks=1%3A{other.id}&" in one]
    page = shared_client.get(href).text
    fork = reference.generation(PROMPT, tokens=4, forced=((1, other.id),), reading=LOGIT_LENS)
    assert text_of(page, 'class="written"') == told(fork)
    tabs = text_of(page, 'aria-label="Branches"').split("\n")
    assert [tab.strip() for tab in tabs if tab.strip()] == ["the text", f"2: {other.label}"]
    # A fork of the fork keeps the first one's token, and stands beside it.
    third = fork.columns[2].alternatives[1].token.id
    [href] = [one for one in links(page) if f".2%3A{third}&" in one]
    asked_now = parse_qs(urlsplit(href).query)
    assert asked_now["forks"] == [f"1:{other.id},1:{other.id}.2:{third}"]
    assert asked_now["branch"] == ["2"]
    both = ((1, other.id), (2, third))
    deep = reference.generation(PROMPT, tokens=4, forced=both, reading=LOGIT_LENS)
    page = shared_client.get(href).text
    assert text_of(page, 'class="written"') == told(deep)
    # A fork before both leaves them: it has only its own token.
    first = trunk.columns[0].alternatives[1].token.id
    assert any(f"%2C0%3A{first}&branch=3" in one for one in links(page))


def test_the_json_of_the_page_is_of_the_same_text(shared_client: TestClient) -> None:
    asked = {"prompt": PROMPT, "tokens": 3, "forks": "1:40", "branch": 1, "top_k": 5, "seed": 2}
    page = shared_client.get("/generate", params=asked).text
    [href] = [one for one in links(page) if one.startswith("/api/v1/generate")]
    found = shared_client.get(href).json()
    texts = "".join(one["text"] for one in found["tokens"])
    assert PROMPT + texts == text_of(page, 'class="written"')
    assert found["tokens"][1]["id"] == 40
    assert found["sentence"] == text_of(page, 'id="finding"')


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"tokens": 500}, "from 1 to 256"),
        ({"tokens": "many"}, "tokens must be a whole number"),
        ({"branch": 2, "forks": "1:5"}, "branch must be at most 1"),
        ({"forks": "1:5;2:6"}, "forks cannot be used"),
        ({"forks": "1:999999", "branch": 1}, "token id must be in"),
        ({"forks": "70:5", "branch": 1, "tokens": 4}, "number of a new token"),
        ({"prompt": ""}, "prompt is empty"),
        ({"lens": "linear"}, "not fitted"),
    ],
)
def test_a_mistake_is_a_sentence_on_the_page(
    shared_client: TestClient, asked: dict[str, Any], sentence: str
) -> None:
    for headers in ({}, BROWSER):
        page = shared_client.get("/generate", params={"prompt": PROMPT, **asked}, headers=headers)
        streams = page.status_code == 200  # then the stream says it
        if streams:
            stream = re.search(r'data-stream="([^"]+)"', page.text)
            assert stream
            page = shared_client.get(html.unescape(stream[1]))
        assert page.status_code == 422
        assert sentence.lower() in html.unescape(page.text).lower()
        assert 'name="prompt"' in page.text or streams


def test_hostile_tokens_are_text(shared_client: TestClient, reference: LatentSpace) -> None:
    """Each is forced into the text; none of them is markup, in a page or in an event."""
    ids = [reference.find_token(text) for text in HOSTILE]
    path = ".".join(f"{n}:{id}" for n, id in enumerate(ids))
    asked = {"prompt": PROMPT, "tokens": len(ids), "forks": path, "branch": 1}
    page = shared_client.get("/generate", params=asked)
    assert page.status_code == 200
    events = shared_client.get("/generate/stream", params=asked)
    for body in (page.text, events.text):
        assert "<script>alert" not in body
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert events.text.count("event: ") == len(ids) + 1


def test_a_dial_that_stands_in_another_frames_form_says_nothing() -> None:
    query = GeneratePageQuery(prompt="a", alpha=0.3)
    assert query.options().reading.alpha is None
    assert GeneratePageQuery(prompt="a", alpha=0.3, frame="dial").options().reading.alpha == 0.3
    with pytest.raises(OptionError):
        GeneratePageQuery(prompt="a", branch=1).options()


def test_the_page_read_lets_its_prompt_go_on_as_it_is_read(shared_client: TestClient) -> None:
    asked = {"prompt": PROMPT, "geometry": "l2", "frame": "tight", "words_only": "true", "k": "4"}
    page = shared_client.get("/", params=asked).text
    form = re.search(r'<form id="go-on".*?</form>', page, re.S)
    assert form
    pairs = re.findall(r'type="hidden" form="go-on" name="(\w+)" value="([^"]*)"', form[0])
    given = {name: html.unescape(value) for name, value in pairs}
    wanted = {"prompt": PROMPT, "geometry": "l2", "frame": "tight", "words_only": "true"}
    assert given == wanted
    part = shared_client.get("/generate", params=given, headers={"HX-Request": "true"})
    assert part.text.lstrip().startswith('<section id="run"')
    assert "data-stream" in part.text


async def test_the_whole_page_is_written_in_background_steps(app: FastAPI) -> None:
    from asgi import Call

    async with running(app):
        device = app.state.explorer.device
        before = dict(device.counters)
        asked = {"prompt": PROMPT, "tokens": 4, "seed": 1}
        assert (await Call(app, "/generate", asked).answer()).status == 200
        assert device.counters == before  # no turn of the queue
        assert device.steps >= 4
