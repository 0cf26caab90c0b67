"""Two prompts on the page, in the API and on the command line: one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from asgi import PROMPT
from parsed import page
from same_numbers import assert_same_text
from starlette.testclient import TestClient

from app.cli import main as cli
from app.compare.page import EXAMPLES
from app.figures.compare import MEASURES, difference, race
from engine import LatentSpace
from engine.compare import compare_prompts

OTHER = "The dog sat on the hat"


def test_the_same_bytes_on_the_command_line(
    shared_client: TestClient, model_folder: Path, capfdbinary: Any
) -> None:
    asked = {"prompt": PROMPT, "other": OTHER, "frame": "tight", "layers": "1:4"}
    answer = shared_client.get("/api/v1/compare", params=asked)
    assert answer.status_code == 200, answer.text
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    reading = ["--frame", "tight", "--layers", "1:4", "--align", "tokens"]
    assert cli.main(["compare-prompts", PROMPT, OTHER, *where, *reading]) == 0
    assert_same_text(capfdbinary.readouterr().out, answer.content)


def test_the_page_shows_both_grids_the_difference_and_the_race(shared_client: TestClient) -> None:
    asked = {"prompt": PROMPT, "other": OTHER}
    api = shared_client.get("/api/v1/compare", params=asked).json()
    got = page(shared_client, f"/compare?prompt={PROMPT}&other={OTHER}")
    assert api["sentence"] in got.one(id="result").text
    assert len([e for e in got.elements if "data-plot" in e.attrs]) == 4
    table = [
        row
        for row in got.all("tr")
        if "difference-table" in [p.attrs.get("id") for p in row.within]
    ]
    assert len(table) == 1 + len(api["layers"])
    links = [e.attrs["href"] for e in got.all("a") if e.text == "Open its trace"]
    assert len(links) == 2
    for link, text in zip(links, (PROMPT, OTHER), strict=True):
        assert page(shared_client, link).one("textarea", id="prompt").text.strip() == text


def test_the_named_readings_read_both_prompts(shared_client: TestClient) -> None:
    """Each is a link that keeps the prompts and every other setting."""
    here = f"/compare?prompt={PROMPT}&other={OTHER}&align=characters&bos=no"
    got = page(shared_client, here)
    assert got.one("section", id="result").attrs["data-reading"] == (
        "cosine, semantic bases (output side)"
    )
    chips = {
        one.text: one
        for one in got.all("a", class_="chip")
        if [parent for parent in one.within if parent.attrs.get("aria-label") == "Readings"]
    }
    assert {"the paper's", "logit lens", "random control"} <= set(chips)
    assert "aria-current" in chips["the paper's"].attrs
    assert "aria-current" not in chips["logit lens"].attrs
    asked = parse_qs(urlsplit(chips["logit lens"].attrs["href"]).query)
    assert asked == {
        "prompt": [PROMPT], "other": [OTHER], "align": ["characters"], "bos": ["no"],
        "geometry": ["matmul"], "frame": ["head"],
    }  # fmt: skip
    there = page(shared_client, chips["logit lens"].attrs["href"])
    assert there.one("section", id="result").attrs["data-reading"].startswith("matrix product, ")


@pytest.mark.parametrize("other", [OTHER, OTHER + " and"])
def test_prompts_of_as_many_tokens_lead_to_their_causal_map(
    shared_client: TestClient, other: str
) -> None:
    got = page(shared_client, f"/compare?prompt={PROMPT}&other={other}")
    tokens = shared_client.get("/api/v1/compare", params={"prompt": PROMPT, "other": other}).json()[
        "tokens"
    ]
    twins = [e.attrs["href"] for e in got.all("a") if "twin=" in e.attrs.get("href", "")]
    assert bool(twins) == (len(tokens[0]) == len(tokens[1]))
    for one in twins:
        assert parse_qs(urlsplit(one).query) == {"prompt": [PROMPT], "twin": [other]}


def test_without_a_question_a_worked_example_stands_there(shared_client: TestClient) -> None:
    """Computed as any other, with its control and what to do next; and it is nobody's run."""
    runs = len(shared_client.get("/api/v1/history").json()["runs"])
    got = page(shared_client, "/compare")
    first, other = EXAMPLES[0]
    asked = {e.attrs["name"]: e.text.strip() for e in got.all("textarea")}
    assert asked == {"prompt": first, "other": other}
    api = shared_client.get("/api/v1/compare", params={"prompt": first, "other": other}).json()
    said = got.one(id="result").text
    assert "A worked example" in said
    assert api["sentence"] in said
    assert api["control"] in said
    assert "Next: change a word" in said
    assert len(shared_client.get("/api/v1/history").json()["runs"]) == runs
    assert "A worked example" not in page(shared_client, f"/compare?prompt={PROMPT}").one(
        "section", id="result"
    ).text  # fmt: skip
    example = next(a for a in got.all("a", class_="chip") if "other=" in a.attrs["href"])
    assert page(shared_client, example.attrs["href"]).one(id="race-title")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("prompt=the cat&other=", "prompt is empty"),
        ("prompt=&other=the cat", "prompt is empty"),
        ("prompt=the cat&other=the dog&layers=90", "layer"),
        ("prompt=the cat&other=the dog&align=words", "lign must be one of"),
    ],
)
def test_a_mistake_is_a_sentence(shared_client: TestClient, query: str, told: str) -> None:
    for path in ("/compare", "/api/v1/compare"):
        answer = shared_client.get(f"{path}?{query}")
        assert answer.status_code == 422
        assert told in answer.text


@pytest.mark.parametrize("colour", MEASURES)
def test_the_difference_draws_every_cell(reference: LatentSpace, colour: str) -> None:
    found = compare_prompts(reference, PROMPT, OTHER)
    figure = difference(found, colour)
    cells = np.asarray(figure.data[0].z)
    assert cells.shape == found.divergence.shape
    values = getattr(found, colour)
    drawn = cells**2 if colour == "divergence" else 10**cells
    np.testing.assert_allclose(drawn, values, rtol=1e-4, atol=1e-6)
    assert len(figure.data[1].text) == cells.size
    same = difference(compare_prompts(reference, PROMPT, PROMPT))
    assert (np.asarray(same.data[0].z) == 0).all()


def test_the_race_has_both_answers_by_either_prompt(reference: LatentSpace) -> None:
    found = compare_prompts(reference, PROMPT, OTHER)
    figure = race(found)
    assert len(figure.data) == 2 * len(found.race[0].tokens)
    np.testing.assert_allclose(figure.data[0].y, found.race[0].probabilities[0])
