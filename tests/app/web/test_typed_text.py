"""A text that comes from a form is the text that was typed: browsers send CR LF for a line end."""

from __future__ import annotations

import csv
import io
from urllib.parse import quote

import pytest
from parsed import Parsed
from starlette.testclient import TestClient

from app.bases.page import BasesQuery
from app.calibrate.form import CalibrateQuery
from app.maps.question import MapQuery
from app.trace.question import TraceQuery
from app.web.questions import FormQuestion, ask_params
from engine import LatentSpace

TYPED = "The king\nand\n\nthe queen"
SENT = quote(TYPED.replace("\n", "\r\n"))


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/", "/map", "/map?compare=prompt&compare_prompt=a%0D%0Ab"])
def test_a_form_without_script_asks_for_what_was_typed(
    shared_client: TestClient, path: str
) -> None:
    """The same page as with the line ends that were typed, and the box holds them still."""
    join = "&" if "?" in path else "?"
    sent = shared_client.get(f"{path}{join}prompt={SENT}")
    typed = shared_client.get(f"{path.replace('%0D', '')}{join}prompt={quote(TYPED)}")
    assert sent.status_code == typed.status_code == 200
    assert "\r" not in sent.text
    assert sent.text.replace("%0D", "") == typed.text
    assert "%0D" not in sent.text
    assert Parsed(sent.text).one("textarea", id="prompt").text.strip() == TYPED


def test_the_text_beside_keeps_its_lines(shared_client: TestClient) -> None:
    """The second text of a map is typed into a box of several lines, like the first."""
    page = shared_client.get(f"/map?compare=prompt&compare_prompt={SENT}&prompt=a")
    box = Parsed(page.text).one(id="compare_prompt")
    assert box.tag == "textarea"
    assert box.text.strip() == TYPED


def test_the_cost_of_a_text_is_that_of_what_was_typed(shared_client: TestClient) -> None:
    ids = [
        shared_client.get(f"/cost?prompt={text}", headers={"HX-Request": "true"}).text
        for text in (SENT, quote(TYPED))
    ]
    assert (
        Parsed(ids[0]).one(id="cost").text.split("token")[0]
        == (Parsed(ids[1]).one(id="cost").text.split("token")[0])
    )


def test_the_api_takes_a_text_as_it_is(shared_client: TestClient) -> None:
    """There a text is data: CR LF are two characters, and its tokens spell them."""
    answer = shared_client.get(f"/api/v1/trace?prompt={SENT}").json()
    assert "".join(token["text"] for token in answer["tokens"]).count("\r\n") == 3


@pytest.mark.parametrize("kind", [TraceQuery, MapQuery, BasesQuery, CalibrateQuery])
def test_every_question_of_a_form_is_one(kind: type[FormQuestion]) -> None:
    assert issubclass(kind, FormQuestion)


def test_a_template_that_is_sent_by_a_form_has_the_line_ends_that_were_typed() -> None:
    from starlette.datastructures import QueryParams

    sent = QueryParams([("template", "Text: {text}\r\nTopic:"), ("name", "a\r\nb"), ("word", "c")])
    query, mistake = ask_params(CalibrateQuery, sent)
    assert mistake is None
    assert (query.template, query.name, query.word) == ("Text: {text}\nTopic:", ("a\nb",), ("c",))


def test_the_second_line_of_a_csv_names_its_columns(shared_client: TestClient) -> None:
    """As docs/api.md says: what skips one line reads a plain table."""
    body = shared_client.get("/api/v1/trace.csv?prompt=the%20king&k=2").text
    note, _, table = body.partition("\r\n")
    assert note.startswith('"# Lexiscope')
    rows = list(csv.DictReader(io.StringIO(table)))
    assert set(rows[0]) >= {"layer", "position", "token", "rank", "score", "probability"}
    assert {row["rank"] for row in rows} == {"1", "2"}


@pytest.mark.parametrize("path", ["/api/v1/trace", "/", "/cost", "/api/v1/cost"])
def test_a_chat_template_that_fails_is_a_sentence_of_422(
    client: TestClient, space: LatentSpace, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """The template is code of the model's author: what it raises is no fault of the server."""
    template = "{% for m in messages %}{{ m.content }}{% endfo %}"
    monkeypatch.setattr(space.model.tokenizer, "chat_template", template)
    answer = client.get(f"{path}?prompt=the%20king&chat=true")
    assert answer.status_code == 422
    assert "chat template of this model cannot write" in answer.text
    assert "Traceback" not in answer.text
