"""The Calibrate pages as HTML: from labelled texts to before and after, by links and forms."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
from asgi import BASE, HOSTILE, load_tiny, settings_with
from calibrate_fixture import ablation, comparison, competitors, history
from calibration_forms import encoded, finished, form_of, job, table_of
from parsed import Parsed, page
from starlette.requests import Request
from starlette.testclient import TestClient

from app.calibrate.form import CalibrateQuery, options_of, spec_of
from app.calibrate.saved import result_of
from app.calibrate.views import Saved, SavedView
from app.calibrate.words import share
from app.jobs.job import JobView
from app.jobs.page import JobPage
from app.jobs.panel import duration, job_panel
from app.main import create_app
from app.web.rendering import render_text
from engine import LatentSpace
from engine.calibration.labelled.known import example_sets
from engine.calibration.labelled.tables import read_table
from engine.calibration.labelled.tasks import make_task
from engine.calibration.training.options import CalibrationOptions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(model_folder: Path, cache: Path) -> Iterator[TestClient]:
    """A started app of this module's own: its tests add sets and calibrations."""
    app = create_app(settings_with(), load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE) as client:
        yield client


def upload(client: TestClient, content: bytes, name: str = "weather.csv") -> str:
    """Send a file by the form; gives the new set's id."""
    answer = client.post(
        "/calibrate/sets", files={"file": (name, content, "text/csv")}, follow_redirects=False
    )
    assert answer.status_code == 303, answer.text[:600]
    return parse_qs(urlsplit(answer.headers["location"]).query)["set"][0]


@pytest.fixture(scope="module")
def weather(client: TestClient) -> str:
    """An uploaded set."""
    return upload(client, table_of())


def run(client: TestClient, set_id: str, **changes: str) -> tuple[JobView, str]:
    """Send the form as it stands with changes; gives the finished job and its page's address."""
    got = page(client, f"/calibrate?set={set_id}")
    fields = [(n, v) for n, v in form_of(got) if n not in changes] + list(changes.items())
    answer = client.post("/calibrate/run", data=encoded(fields), follow_redirects=False)
    assert answer.status_code == 303, Parsed(answer.text).one(id="problem").text
    return finished(client, answer.headers["location"]), answer.headers["location"]


@pytest.fixture(scope="module")
def made(client: TestClient, weather: str) -> str:
    """The id of a calibration that was run by the form."""
    job, _ = run(client, weather, epochs="4")
    assert job.state == "done", job.problem
    assert job.result is not None
    return job.result


# ---- step by step -------------------------------------------------------------------------------


def test_the_first_visit_shows_what_the_model_would_read(
    client: TestClient, reference: LatentSpace
) -> None:
    """Labels, words, tokens, counts and prompts are those of the engine's own task."""
    got = page(client, "/calibrate")
    example = example_sets()["topics"]
    task = make_task(example.spec, example.table, reference.model)
    rows = [e for e in got.all("tr") if any("labels-table" in p.attrs.get("class", "")
            for p in e.within)][1:]  # fmt: skip
    assert len(rows) == task.classes
    for row, token in zip(rows, task.label_tokens, strict=True):
        assert token.label in row.text
        assert token.rule in row.text
        assert str(task.report.balance["train"][token.label]) in row.text
    words = [e.attrs["value"] for e in got.all("input", name="word")]
    assert words == list(task.label_words)
    shown = [e.text for e in got.all("pre") if any("prompts" in p.attrs.get("class", "")
             for p in e.within)]  # fmt: skip
    for text, token in zip(shown, task.label_tokens, strict=True):
        assert any(text.startswith(prompt) for prompt in task.prompts["train"])
        assert token.texts[token.ids.index(token.id_used)] in text
    sizes = [e.text for e in got.all("dd")][:3]
    assert sizes == [str(task.size(split)) for split in ("train", "valid", "test")]
    button = next(e for e in got.all("button") if "Teach it" in e.text)
    assert "disabled" not in button.attrs


def test_sending_the_form_as_it_stands_changes_nothing(client: TestClient) -> None:
    got = page(client, "/calibrate?set=sentiment&loss=mm&seed=7&valid=0.2&frame=head")
    again = client.get("/calibrate", params=encoded(form_of(got)))
    assert again.status_code == 200
    assert form_of(Parsed(again.text)) == form_of(got)


def test_another_set_lets_go_of_what_was_typed_for_the_first(client: TestClient) -> None:
    """Template and words go, settings stay."""
    typed = {"shown": "topics", "set": "sentiment", "template": "Foo {text}", "seed": "7",
             "name": ["world"], "word": ["globe"], "text": "text", "label": "label"}  # fmt: skip
    got = Parsed(client.get("/calibrate", params=typed).text)
    assert "Foo" not in got.one("textarea", id="template").text
    assert got.one("input", id="seed").attrs["value"] == "7"
    assert "globe" not in {e.attrs["value"] for e in got.all("input", name="word")}
    kept = Parsed(client.get("/calibrate", params={**typed, "shown": "sentiment"}).text)
    assert "Foo" in kept.one("textarea", id="template").text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"template": "no placeholder"}, "placeholder"),
        ({"text": "nonsense"}, "nonsense"),
        ({"name": ["cold", "warm"], "word": ["same", "same"]}, "same"),
        ({"valid": "1.5"}, "whole number"),
        ({"epochs": "0"}, "Epochs must be at least 1"),
        ({"temperature": "nan"}, "Temperature must be"),
        ({"target": "moon"}, "Target"),
        ({"target": "head", "frame": "random"}, "head"),
        ({"rule": "third"}, "Rule must be one of"),
    ],
)
def test_a_mistake_is_a_sentence_and_the_form_stays(
    client: TestClient, weather: str, changes: dict[str, Any], said: str
) -> None:
    """Asked for as a page it is a 422, sent by Run as well, and nothing is queued."""
    before = len(client.app.state.jobs.list())  # type: ignore[attr-defined]
    asked = {"set": weather, "seed": "11", **changes}
    for answer in (
        client.get("/calibrate", params=asked),
        client.post("/calibrate/run", data=asked),
    ):
        assert answer.status_code == 422
        got = Parsed(answer.text)
        assert said in got.one(id="problem").text
        assert got.one("input", id="seed").attrs["value"] == "11"
        chosen = [e for e in got.all("input", type="radio", name="set") if "checked" in e.attrs]
        assert [e.attrs["value"] for e in chosen] == [weather]
    assert len(client.app.state.jobs.list()) == before  # type: ignore[attr-defined]


def test_a_change_that_is_swapped_in_is_no_error(client: TestClient) -> None:
    """While a form is being filled in, htmx swaps the page with its sentence."""
    headers = {"HX-Request": "true"}
    answer = client.get("/calibrate?template=none", headers=headers)
    assert answer.status_code == 200
    assert Parsed(answer.text).one(id="setup")
    assert Parsed(answer.text).one(id="problem")


def test_an_upload_is_shown_and_its_columns_are_guessed(client: TestClient, weather: str) -> None:
    got = page(client, f"/calibrate?set={weather}")
    picked = {
        e.within[-1].attrs["name"]: e.attrs["value"]
        for e in got.all("option") if "selected" in e.attrs
    }  # fmt: skip
    assert picked["text"] == "sentence"
    assert picked["label"] == "kind"
    assert {e.attrs["value"] for e in got.all("input", name="word")} == {"cold", "warm"}


def test_bad_rows_are_listed_by_line_and_the_rest_is_kept(client: TestClient) -> None:
    id_ = upload(client, table_of("7,,cold\n8,a text without a label,\n"), "bad.csv")
    got = page(client, f"/calibrate?set={id_}")
    listed = [e.text for e in got.all("li") if any("bad-rows" in p.attrs.get("class", "")
              for p in e.within)]  # fmt: skip
    assert [text.split(":")[0] for text in listed] == ["line 62", "line 63"]
    assert "no text" in listed[0]
    assert "no label" in listed[1]
    deleted = client.post(f"/calibrate/sets/{id_}/delete", follow_redirects=False)
    assert deleted.status_code == 303
    assert client.get(f"/calibrate?set={id_}").status_code == 422
    assert client.get("/calibrate").status_code == 200


def test_bad_rows_are_listed_under_the_set_also_where_it_cannot_run(client: TestClient) -> None:
    """One label only, so nothing can be calibrated; the rows left out stand there by line."""
    rows = 'text;label\n"never closed;a\nfine, too;a\none cell\nno label;\n'
    id_ = upload(client, rows.encode(), "semicolons.csv")
    answer = client.get(f"/calibrate?set={id_}")
    assert answer.status_code == 422
    got = Parsed(answer.text)
    assert not got.all("ul", class_="prompts")
    listed = [e.text for e in got.all("li") if got.one("details", id="left-out") in e.within]
    assert listed == ["line 4: 1 cell where the header has 2", "line 5: no label"]
    card = next(e for e in got.all("label", class_="set-card") if "semicolons.csv" in e.text)
    assert "separated by semicolons" in card.text
    notes = [e.text for e in got.all("p", class_="set-note")]
    assert notes == ["A quote opened on line 2 is never closed; it was read as text."]
    view = client.get(f"/api/v1/sets/{id_}").json()
    assert (view["separator"], view["notes"]) == ("semicolon", [{"line": 2, "text": notes[0]}])


def test_deleting_a_set_asks_first_and_enter_presses_nothing_of_it(
    client: TestClient, weather: str
) -> None:
    """Enter in a field presses the first button of its form, which must change nothing."""
    got = page(client, f"/calibrate?set={weather}")
    button = next(e for e in got.all("button") if "Delete it for good" in e.text)
    assert got.one("details", id="delete-set") in button.within
    form = got.one("form", id=button.attrs["form"])
    assert form.attrs["action"] == f"/calibrate/sets/{weather}/delete"
    own = got.one("form", id="calibrate-form")
    inside = [e for e in got.all("button") if own in e.within]
    first = next(e for e in inside if e.attrs.get("form", "calibrate-form") == "calibrate-form")
    assert "formaction" not in first.attrs
    assert not page(client, "/calibrate?set=topics").all("details", id="delete-set")


def test_a_calibration_is_called_as_was_typed_and_the_list_says_what_differs(
    client: TestClient, weather: str
) -> None:
    job, _ = run(client, weather, epochs="2", loss="mm", title="  Two epochs, product ")
    assert job.title == "Calibration: Two epochs, product"
    got = page(client, f"/calibrate?set={weather}&title=typed")
    assert got.one("input", id="title").attrs["value"] == "typed"
    line = next(e for e in got.all("li") if "Two epochs, product" in e.text)
    assert "loss: product, 2 epochs at most" in line.text
    assert re.search(r"\d\d:\d\d UTC", line.text)
    assert client.post(f"/calibrate/{job.result}/delete").status_code == 200


def test_a_file_that_is_no_table_is_a_sentence(client: TestClient) -> None:
    for content, name in ((b"\x00\x01\x02", "a.csv"), (b"", "b.csv"), (b"{", "c.jsonl")):
        answer = client.post("/calibrate/sets", files={"file": (name, content, "text/csv")})
        assert answer.status_code in (400, 413, 422)
        assert Parsed(answer.text).one(id="problem").text.strip()
    answer = client.post("/calibrate/sets", data={"name": "nothing"})
    assert answer.status_code in (415, 422)


def test_the_columns_of_a_table_are_guessed() -> None:
    """By name where a name says it, else by content."""
    query = CalibrateQuery.model_validate({"set": "0" * 24})
    plain = read_table(b"a,b\nlong text here,x\nanother long one,y\nmore of it,x\n", "t.csv")
    spec = spec_of(query, plain)
    assert (spec.text_columns, spec.label_column) == (("a",), "b")
    named = read_table(b"Label,z,Text\nx,longer than the text column is,t\ny,q,u\n", "t.csv")
    spec = spec_of(query, named)
    assert (spec.text_columns, spec.label_column) == (("Text",), "Label")


def test_what_the_form_leaves_empty_is_the_engines_default() -> None:
    assert options_of(CalibrateQuery.model_validate({})) == CalibrationOptions()
    given = CalibrateQuery.model_validate({"target": "head", "epochs": "5", "batch": ""})
    assert options_of(given) == replace(CalibrationOptions(), target="head", epochs=5)


def test_hostile_texts_and_labels_stay_text(client: TestClient) -> None:
    """Of an uploaded table nothing becomes markup, in the form or on the result page."""
    lines = ["text,label"]
    for i in range(8):
        lines += [f'"{HOSTILE[0]} {i} one","<b>bold</b>"', f'"{HOSTILE[4]} {i} two","a ""quote"""']
    id_ = upload(client, "\n".join(lines).replace(HOSTILE[4], "evil").encode(), "<img src=x>.csv")
    got = page(client, f"/calibrate?set={id_}")
    assert not [e for e in got.all("script") if "src" not in e.attrs]
    assert not got.all("img")
    assert not got.all("b")
    assert {"<b>bold</b>", 'a "quote"'} == {
        e.attrs["value"] for e in got.all("input", name="name", type="hidden")
    }
    job, _ = run(client, id_, epochs="1")
    assert job.state == "done", job.problem
    result = page(client, f"/calibrate/{job.result}")
    assert not [e for e in result.all("script") if "src" not in e.attrs]
    assert not result.all("b")
    assert not result.all("img")


# ---- the job and its result ---------------------------------------------------------------------


def test_run_leads_to_the_job_and_the_job_to_the_result(
    client: TestClient, weather: str, made: str
) -> None:
    jobs: Any = client.app.state.jobs  # type: ignore[attr-defined]
    job = next(one for one in jobs.list() if one.result == made)
    got = page(client, f"/jobs/{job.id}")
    link = next(e for e in got.all("a", class_="button") if "Open the result" in e.text)
    assert link.attrs["href"] == f"/calibrate/{made}"
    assert not [e for e in got.all("meta") if e.attrs.get("http-equiv") == "refresh"]
    assert "hx-get" not in got.one(id="job").attrs
    assert len(got.all("svg", class_="chart-box")) == 2
    followed = client.get(f"/jobs/{job.id}", headers={"HX-Request": "true"})
    assert followed.headers["hx-redirect"] == f"/calibrate/{made}"
    assert page(client, "/jobs").all("a", href=f"/jobs/{job.id}")


def test_the_result_says_what_was_saved(client: TestClient, made: str) -> None:
    """Sentence, accuracies, rows and settings are those of the saved JSON."""
    saved = client.get(f"/api/v1/calibrations/{made}").json()
    compared = saved["comparison"]
    got = page(client, f"/calibrate/{made}")
    assert compared["sentence"] in [e.text for e in got.all("p", class_="verdict")]
    best = compared["baseline"]
    headline = got.one("p", class_="headline").text
    assert share(best["accuracy"]["value"]) in headline
    assert share(compared["after"]["accuracy"]["value"]) in headline
    assert best["title"] in got.all("p", class_="verdict")[0].text
    cards = got.one("ul", class_="verdict-checks")
    assert len([e for e in got.all("li") if cards in e.within]) == 4
    standing = got.all("table", class_="standing")[0].text
    for part in (
        compared["before"]["accuracy"],
        compared["after"]["accuracy"],
        compared["probe"]["accuracy"],
        compared["logits"]["accuracy"],
        *(control["accuracy"] for control in compared["controls"]),
    ):
        assert share(part["value"]) in standing
    matrices = got.all("table", class_="confusion")
    for matrix, key in zip(matrices, ("before", "after"), strict=True):
        cells = [int(e.text) for e in got.all("td", class_="h") if matrix in e.within]
        assert cells == [n for row in compared[key]["confusion"] for n in row]
    assert len(got.all("circle")) >= 2 * len(compared["rows"])
    links = [e.attrs["href"] for e in got.all("a") if e.text == "Open its trace"]
    moved = sum(compared["flips"][key] for key in ("fixed", "broken"))
    assert len(links) == min(moved, len(links)) or moved > 16
    prompts = {row["prompt"] for row in compared["rows"]}
    for link in links:
        query = parse_qs(urlsplit(link).query)
        assert query["prompt"][0] in prompts
        assert query["calibration"] == [made]
        assert client.get(link).status_code == 200
    table = client.get(f"/calibrate/{made}/rows.csv")
    assert table.headers["content-disposition"].startswith("attachment")
    lines = list(csv.reader(io.StringIO(table.text)))[1:]
    assert len(lines) == len(compared["rows"]) + 1
    listed = page(client, "/calibrate").all("a", href=f"/calibrate/{made}")
    assert listed


def test_a_sentence_of_ones_own_lands_on_the_map(client: TestClient, made: str) -> None:
    """A test text that is typed in stands where its dot stands, and reads as in the table."""
    compared = client.get(f"/api/v1/calibrations/{made}").json()["comparison"]
    row = compared["rows"][0]
    asked = client.get(f"/api/v1/calibrations/{made}/text", params={"text": row["text"]}).json()
    assert asked["prompt"] == row["prompt"]
    for when in ("before", "after"):
        assert asked[when]["label"] == row[f"predicted_{when}"]
        assert asked[when]["probability"] == pytest.approx(row[f"probability_{when}"], abs=1e-3)
        place = [asked[when]["x"], asked[when]["y"]]
        np.testing.assert_allclose(place, compared["map"][when][0], atol=2e-3)
    got = page(client, f"/calibrate/{made}?{urlencode({'text': row['text']})}")
    said = got.one("p", class_="try-said").text
    for when in ("before", "after"):
        assert f"{row[f'predicted_{when}']} {share(asked[when]['probability'])}" in said
    own = got.one("svg", id="own-before")
    here = [e for e in got.all("circle", class_="was") if own in e.within]
    dot = next(e for e in got.all("circle") if e.attrs.get("data-row") == "0")
    for axis in ("cx", "cy"):
        assert float(here[0].attrs[axis][:-1]) == pytest.approx(float(dot.attrs[axis][:-1]), abs=1)
    assert page(client, f"/calibrate/{made}").one("input", id="try-text").attrs["value"] == ""
    empty = client.get(f"/api/v1/calibrations/{made}/text", params={"text": " "})
    assert empty.status_code == 422


def test_rows_are_pasted_and_few_test_texts_are_warned_of(client: TestClient) -> None:
    lines = [f"It was {n} o'clock;{'wet' if n % 2 else 'dry'}" for n in range(40)]
    rows = "\n".join(["text;label", *lines])
    sent = client.post("/calibrate/sets", files={"pasted": (None, rows)}, follow_redirects=False)
    assert sent.status_code == 303, sent.text[:300]
    got = page(client, sent.headers["location"])
    assert any("pasted texts.csv" in e.text for e in got.all("strong"))
    warned = got.one("fieldset", class_="few")
    assert "Only 10 texts will be tested: one of them is 10 points" in warned.text
    offered = [e.attrs["value"] for e in got.all("input", name="splits")]
    assert offered == ["1", "5", "10"]
    assert not page(client, "/calibrate").all("fieldset", class_="few")
    set_id = parse_qs(urlsplit(sent.headers["location"]).query)["set"][0]
    job, _ = run(client, set_id, epochs="1", splits="3", seed="7")
    assert job.state == "done", job.problem
    kept = client.get(f"/api/v1/calibrations/{job.result}").json()
    found = kept["comparison"]["splits"]
    assert found["seeds"] == [7, 8, 9]
    # What the list says is what all splits say.
    assert kept["accuracy_after"] == found["after"]["value"]
    assert kept["accuracy_baseline"] == found["untrained"]["value"]
    assert kept["sentence"] == found["sentence"]
    shown_ = page(client, f"/calibrate/{job.result}")
    assert "on the average of 3 splits" in shown_.one("p", class_="headline").text
    assert found["sentence"] in shown_.one("section", id="splits").text


def test_a_calibration_is_asked_by_any_words(client: TestClient, made: str) -> None:
    """By labels an accuracy, by a list the nearest; the API says the same; mistakes stay there."""
    words = "cold = dog, king; warm = cat, girl"
    got = page(client, f"/calibrate/{made}?{urlencode({'words': words})}")
    told = client.get(f"/api/v1/calibrations/{made}/words", params={"words": words}).json()
    assert told["nearest"] is None
    section = got.one(id="untaught").text
    assert told["measured"]["sentence"] in section
    assert [one["words"] for one in told["measured"]["sets"]] == [["dog", "cat"], ["king", "girl"]]
    assert share(told["measured"]["after"]["value"]) in section
    assert got.one("textarea", name="words").text.strip() == words
    listed = {"words": "dog, cat, king"}
    near = client.get(f"/api/v1/calibrations/{made}/words", params=listed).json()["nearest"]
    assert near["words"] == ["dog", "cat", "king"]
    assert near["labels"] == ["cold", "warm"]
    for side in ("before", "after"):
        assert [sum(row) for row in near[side]] == pytest.approx([1.0, 1.0])
    table = page(client, f"/calibrate/{made}?{urlencode(listed)}").one(id="untaught").text
    assert f"{share(near['before'][0][0])} → {share(near['after'][0][0])}" in table
    for wrong, sentence in (
        ("dog", "give from 2 to 20 words"),
        ("cold = dog", "the label 'warm' has no untaught word"),
        ("= dog", "is no label = word, word"),
    ):
        again = page(client, f"/calibrate/{made}?{urlencode({'words': wrong})}")
        assert sentence in again.one(id="untaught").text
        answer = client.get(f"/api/v1/calibrations/{made}/words", params={"words": wrong})
        assert answer.status_code == 422
        assert sentence.casefold() in answer.json()["error"]["sentence"].casefold()


def test_the_same_form_gives_the_same_figures(client: TestClient, weather: str, made: str) -> None:
    """Deterministic on the CPU: another run of the same form says the same."""
    job, _ = run(client, weather, epochs="4")
    one, two = (client.get(f"/api/v1/calibrations/{i}").json() for i in (made, job.result))
    for key in ("before", "after", "probe", "map", "rows", "sentence"):
        assert one["comparison"][key] == two["comparison"][key]
    gone = client.post(f"/calibrate/{job.result}/delete", follow_redirects=False)
    assert gone.status_code == 303
    assert client.get(f"/calibrate/{job.result}").status_code == 404


def test_the_ablation_is_one_click(client: TestClient, made: str) -> None:
    missing = client.get(f"/calibrate/{made}/ablation.csv")
    assert missing.status_code == 404
    got = page(client, f"/calibrate/{made}")
    form = got.one("form", action=f"/calibrate/{made}/ablation")
    answer = client.post(form.attrs["action"], follow_redirects=False)
    assert answer.status_code == 303
    cancelled = client.post(f"{answer.headers['location']}/cancel", follow_redirects=False)
    assert cancelled.status_code == 303
    job = finished(client, answer.headers["location"])
    assert job.state in ("cancelled", "done")
    assert job.kind == "ablation"


@pytest.mark.parametrize("seeds", ["0", "99", "x", "-1", "²"])
def test_the_competitors_take_a_bounded_number_of_seeds(
    client: TestClient, made: str, seeds: str
) -> None:
    answer = client.post(f"/calibrate/{made}/competitors", data={"seeds": seeds})
    assert answer.status_code == 422


@pytest.mark.parametrize("path", ["", "/rows.csv", "/ablation.csv"])
def test_a_calibration_that_is_not_there_is_a_sentence(client: TestClient, path: str) -> None:
    answer = client.get(f"/calibrate/{'0' * 24}{path}")
    assert answer.status_code == 404
    assert client.get(f"/calibrate/nothing{path}").status_code in (404, 422)
    assert client.post(f"/calibrate/{'0' * 24}/delete").status_code == 404


# ---- sound pages --------------------------------------------------------------------------------


def test_each_page_is_sound(client: TestClient, weather: str, made: str) -> None:
    """Balanced tags, one h1, no id twice, labels, no script, style or handler, no link outside."""
    form = f"/calibrate?set={weather}&frame=head"
    traced = f"/?calibration={made}&prompt=the%20cat"
    for path in ("/calibrate", form, f"/calibrate/{made}", "/jobs", traced):
        got = page(client, path)
        assert len(got.all("h1")) == 1, path
        ids = [e.attrs["id"] for e in got.elements if "id" in e.attrs]
        assert len(ids) == len(set(ids)), path
        labelled = {e.attrs["for"] for e in got.all("label") if "for" in e.attrs}
        for e in got.elements:
            if e.tag in ("input", "select", "textarea") and e.attrs.get("type") != "hidden":
                inside = any(parent.tag == "label" for parent in e.within)
                named = "aria-label" in e.attrs
                assert inside or named or e.attrs.get("id") in labelled, e.attrs
            for name in ("aria-labelledby", "aria-describedby"):
                assert set(e.attrs.get(name, "").split()) <= set(ids), (path, e.attrs)
            assert not [n for n in e.attrs if n.startswith(("on", "hx-on", "hx-vals"))]
            for name in ("href", "src", "action", "hx-get", "formaction"):
                url = urlsplit(e.attrs.get(name, ""))
                assert not url.scheme + url.netloc
        assert not got.all("style")
        assert all("src" in e.attrs for e in got.all("script"))
        assert not [e for e in got.all("form") if any(p.tag == "form" for p in e.within)]


def saved_view(**changes: Any) -> SavedView:
    """A saved calibration as a list shows it."""
    given = SavedView(
        id="a" * 24, name="Topics", created="2026-11-23T15:04:05+00:00", set_id="topics",
        set_name="Topics of short news", model_name="other-model", model_fingerprint="f" * 32,
        usable=True, method="module", changed=None, accuracy_before=0.3, accuracy_after=0.8,
        sentence="It did.", bytes=1234567,
    )  # fmt: skip
    return replace(given, **changes)


def saved(**changes: Any) -> Saved:
    """A saved calibration with everything that can be run on one."""
    given: dict[str, Any] = {
        "view": saved_view(),
        "order": {},
        "settings": CalibrationOptions().to_dict(),
        "task": {"spec": {"template": "Input: {text}\nType:"}, "sizes": {"train": 9}},
        "history": tuple(history()),
        "facts": {"best_epoch": 41, "seconds": 3.4, "trained_weights": 608_256},
        "comparison": comparison(),
        "competitors": competitors(),
        "ablation": ablation(),
    } | changes
    return Saved(**given)


def shown(client: TestClient, one: Saved) -> Parsed:
    """The result page of a saved calibration that nobody saved."""

    scope = {"type": "http", "path": "/", "headers": [], "app": client.app, "root_path": ""}
    request = Request({**scope, "query_string": b"", "server": ("localhost", 80)})
    context = result_of(request, one, "tiny")
    body = render_text(request, "calibrate/result.html", context, is_fragment=False)
    return Parsed(body.decode())


def test_everything_that_was_run_is_shown(client: TestClient) -> None:
    got = shown(client, saved())
    assert "LoRA" in got.one("section", id="competitors").text
    assert "random (control)" in got.one("section", id="ablation").text
    assert "608,256" in {e.text for e in got.all("dd")}
    assert len(got.all("table", class_="ablation")) == 1
    ids = [e.attrs["id"] for e in got.elements if "id" in e.attrs]
    assert len(ids) == len(set(ids))


def test_every_card_with_figures_leads_to_its_formula(client: TestClient) -> None:
    """On the result, the Model page and the Readings: an entry that there is, with its code."""
    method = page(client, "/method")
    entries = {one.attrs["id"] for one in method.all("article", class_="entry")} | {"symbols"}
    pages = [shown(client, saved()), page(client, "/model?figures=true"), page(client, "/readings")]
    counted = 0
    for got in pages:
        for card in got.all("section", class_="card"):
            inside = [one for one in got.elements if card in one.within]
            title = card.attrs.get("aria-labelledby", "")
            figures = any(one.tag in ("table", "svg") or "data-plot" in one.attrs or (
                one.attrs.get("class") in ("checks", "pairs") and title != "keep-title"
            ) for one in inside)  # fmt: skip
            settings = len(got.all("h1")) and "before and after" in got.one("h1").text
            if not figures or title == "models-title" or (title == "facts-title" and settings):
                continue  # lists of models and settings hold no figure of the method
            hrefs = [one.attrs["href"] for one in inside if one.tag == "a" and "href" in one.attrs]
            anchors = {href.partition("#")[2] for href in hrefs if href.startswith("/method#")}
            assert anchors & entries, title
            counted += 1
    assert counted >= 13


def test_what_a_figure_is_worth_stands_beside_it(client: TestClient) -> None:
    compared = comparison()
    compared["before"]["ece"], compared["after"]["ece"] = 0.02, 0.2
    layers = compared["layers"]
    for key in ("reading", "probe"):
        layers[key] = [{**one, "value": 0.1} for one in layers[key]]
        layers[key][-1] = {**layers[key][-1], "value": 0.9}
    got = shown(client, saved(comparison=compared))
    text = " ".join(" ".join(e.text.split()) for e in got.all("p"))
    assert "clears the one trained on shuffled labels" in text
    assert "another seed draws another" in text
    last = layers["layers"][-1]
    assert text.count(f"at layer {last}") == 1
    assert "and by the nearest label basis" in text
    row = next(e for e in got.all("tr") if "calibration error" in e.text)
    assert "worse" in [e.text for e in got.all("small") if row in e.within]
    layers["reading"][0] = {**layers["reading"][0], "value": 0.95}
    text = " ".join(e.text for e in shown(client, saved(comparison=compared)).all("p"))
    assert f"and at layer {layers['layers'][0]} by the nearest" in " ".join(text.split())


def test_a_foreign_models_calibration_can_be_read_but_not_used(client: TestClient) -> None:
    got = shown(client, saved(view=saved_view(usable=False)))
    text = " ".join(e.text for e in got.all("p", class_="warnings"))
    assert "other-model" in text
    assert "tiny" in text
    actions = {e.attrs["action"] for e in got.all("form")}
    assert actions == {f"/calibrate/{'a' * 24}/delete"}
    assert not [e for e in got.all("a") if e.text == "Open its trace"]


def test_without_a_comparison_nothing_is_claimed(client: TestClient) -> None:
    got = shown(client, saved(comparison=None, competitors=None, ablation=None))
    assert "nothing is claimed" in got.one("p", class_="verdict").text
    assert not got.all("table", class_="standing")
    assert not [e for e in got.all("a") if "CSV" in e.text]


# ---- a calibration in the trace -----------------------------------------------------------------


def test_a_calibration_can_be_switched_on_in_the_trace(client: TestClient, made: str) -> None:
    """The panel's probabilities are the API's, and the switch stands in the form and off again."""
    prompt = "the snow on the cat"
    got = page(client, f"/?prompt={prompt.replace(' ', '%20')}&calibration={made}")
    panel = got.one("section", id="switched-on")
    told = client.get(
        f"/api/v1/calibrations/{made}/trace", params={"prompt": prompt, "k": 5}
    ).json()
    last = told["positions"][-1]
    bars = [e for e in got.all("li") if panel in e.within]
    wanted = [
        share(one["probability"]) for key in ("before", "after") for one in last[key]["labels"]
    ]
    assert [re.sub(r"^\D+", "", e.text.strip()) for e in bars] == wanted
    assert f"After: {last['after']['predicted']}" in panel.text
    options = [e for e in got.all("option", value=made) if "selected" in e.attrs]
    assert len(options) == 1
    off = next(e for e in got.all("a") if e.text == "Switch it off")
    assert "calibration" not in parse_qs(urlsplit(off.attrs["href"]).query)
    assert not page(client, off.attrs["href"]).all("section", id="switched-on")
    missing = page(client, f"/?prompt=the%20cat&calibration={'0' * 24}")
    assert "nothing saved under this id" in missing.one("section", id="switched-on").text


# ---- a job in words -----------------------------------------------------------------------------


def test_a_job_says_what_it_does_and_how_far_it_is() -> None:
    told = job_panel(job())
    assert (told.percent, told.steps, told.active) == ("25.0", "3 of 12", True)
    assert "30 seconds" in told.left
    assert told.loss is None
    waiting = job_panel(job(state="queued", ahead=2, share=None, seconds_run=None))
    assert "2 jobs" in waiting.note
    assert waiting.percent is None
    failed = job_panel(job(state="failed", problem="the loss is not finite.", seconds_left=None))
    assert failed.note == "The loss is not finite."
    assert not failed.active
    assert failed.level == "fail"
    assert "last" in job_panel(job(stopping=True)).note
    told = job_panel(job(history=({"done": 1, "epoch": 1, "train_loss": 1.0, "valid_loss": 1.1,
                                   "valid_accuracy": 0.5},
                                  {"done": 2, "epoch": 2, "train_loss": 0.5, "valid_loss": 0.9,
                                   "valid_accuracy": 0.75})))  # fmt: skip
    assert told.loss is not None
    assert "epoch 2" in told.latest
    assert "75\u202f%" in told.latest


@pytest.mark.parametrize(
    ("state", "restartable"), [("interrupted", True), ("failed", False), ("running", False)]
)
def test_only_a_job_under_way_is_said_to_run(
    client: TestClient, state: Any, restartable: bool
) -> None:
    view = job(state=state, restartable=restartable, problem="The server ended.")
    scope = {"type": "http", "path": "/", "headers": [], "app": client.app, "root_path": ""}
    request = Request({**scope, "query_string": b"", "server": ("localhost", 80)})
    active = not view.finished
    context = JobPage(job_panel(view), None, "/jobs/1", None, None,
                      "/jobs/1/restart" if restartable else None)  # fmt: skip
    text = render_text(request, "jobs/page.html", context, is_fragment=False).decode()
    assert ("runs in the background" in text) == active
    assert ("Run it again" in text) == restartable


def test_an_interrupted_job_can_be_run_again_or_forgotten_from_the_list(
    client: TestClient, weather: str
) -> None:
    """The mark in every page's head goes with it."""
    jobs: Any = client.app.state.jobs  # type: ignore[attr-defined]
    view, _ = run(client, weather, epochs="2")
    assert not [e for e in page(client, "/calibrate").all("a", href="/jobs") if "badge" in
                e.attrs.get("class", "")]  # fmt: skip
    jobs._jobs[view.id].state = "interrupted"
    links = page(client, "/bases").all("a", href="/jobs")
    mark = next(e for e in links if "badge" in e.attrs.get("class", ""))
    assert mark.text.strip() == "1 interrupted"
    actions = [e.attrs["action"] for e in page(client, "/jobs").all("form")]
    assert f"/jobs/{view.id}/restart" in actions
    answer = client.post(f"/jobs/{view.id}/restart", follow_redirects=False)
    assert answer.status_code == 303
    again = finished(client, answer.headers["location"])
    assert again.state == "done"
    got = page(client, "/jobs")
    assert f"/jobs/{view.id}/restart" not in [e.attrs["action"] for e in got.all("form")]
    assert not [e for e in got.all("a", href="/jobs") if "interrupted" in e.text]
    assert client.post(f"/jobs/{view.id}/restart").status_code == 422
    assert client.post(f"/jobs/{view.id}/forget", follow_redirects=False).status_code == 303
    assert client.get(f"/jobs/{view.id}").status_code == 404
    for result in (view.result, again.result):
        client.post(f"/calibrate/{result}/delete")


@pytest.mark.parametrize("body", ["", "epochs=2", "{}", "set="])
def test_a_form_without_a_set_is_a_sentence_and_starts_nothing(
    client: TestClient, body: str
) -> None:
    before = client.get("/api/v1/jobs").json()
    answer = client.post(
        "/calibrate/run",
        content=body,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        follow_redirects=False,
    )
    assert answer.status_code == 422
    assert "arrived without a set of labelled texts" in answer.text
    assert client.get("/api/v1/jobs").json() == before


def test_a_word_for_a_label_that_is_not_there_is_a_sentence(
    client: TestClient, weather: str
) -> None:
    before = client.get("/api/v1/jobs").json()
    fields = {"set": weather, "shown": weather, "name": "no such <label>", "word": "king"}
    answer = client.post("/calibrate/run", data=fields, follow_redirects=False)
    assert answer.status_code == 422
    assert "no such &lt;label&gt;" in answer.text
    assert "leave it out or correct it" in answer.text
    asked = {"set": weather, "label_words": {"nowhere": "king"}} | {
        "text_columns": ["sentence"], "label_column": "kind", "template": "{sentence} is"
    }  # fmt: skip
    refused = client.post("/api/v1/calibrations", json=asked)
    assert refused.status_code == 422
    assert "'nowhere'" in refused.json()["error"]["sentence"]
    assert client.get("/api/v1/jobs").json() == before


def test_a_time_span_is_never_more_exact_than_it_can_be() -> None:
    assert [duration(x) for x in (0.2, 12.4, 200, 9000)] == [
        "a second", "12 seconds", "3 minutes", "2.5 hours",
    ]  # fmt: skip
