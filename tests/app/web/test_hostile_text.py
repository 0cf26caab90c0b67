"""Hostile texts, labels, column names and tokens: shown as they are, and nothing but text."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import pytest
from asgi import BASE, HOSTILE, load_tiny, settings_with
from calibration_calls import follow
from parsed import Parsed, page
from starlette.testclient import TestClient

from app.main import create_app
from engine.model.vocabulary import visible

pytestmark = pytest.mark.slow

TEXT = "<img src=x onerror=alert(1)>"
LABEL = '"><script>alert(2)</script>'
FIRST = "<b onmouseover=alert(3)>first</b>"
SECOND = '=HYPERLINK("http://evil.example","second")'
NAME = "<svg onload=alert(4)>"
TITLE = "</title><img src=x onerror=alert(5)>"
TEXTS = [
    "<script>alert(6)</script>", "=1+1", "@SUM(A1)", "+1", "-5 and more", "\u202eevil",
    "{{7*7}} ${7*7}", "%{x}<extra></extra>", "&lt;b&gt;", "]]> <!-- ", "$\\frac{", "_legend_",
    "' onfocus='alert(7)", "javascript:alert(8)", "a\ttab", "  =cmd|' /C calc'!A0",
]  # fmt: skip
TAIL = "and so on, longer than any label"
FORMULA = tuple("=+-@\t\r")


@dataclass(frozen=True)
class Kept:
    """What was uploaded and made of it."""

    client: TestClient
    set: str
    job: str
    saved: str


@pytest.fixture(scope="module")
def kept(model_folder: Path, cache: Path) -> Iterator[Kept]:
    """A server with a hostile label set and a calibration that was made from it."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow([TEXT, LABEL])
    for i in range(3):
        for j, text in enumerate(TEXTS):
            rows.writerow([f"{text} {i} {TAIL}", (FIRST, SECOND)[j % 2]])
    app = create_app(settings_with(), load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE) as client:
        file = (f"{NAME}.csv", out.getvalue().encode(), "text/csv")
        sent = client.post("/api/v1/sets", files={"file": file})
        assert sent.status_code == 201, sent.text
        question = {"set": sent.json()["id"], "text_columns": [TEXT], "label_column": LABEL,
            "name": TITLE, "epochs": 2}  # fmt: skip
        begun = client.post("/api/v1/calibrations", json=question)
        assert begun.status_code == 202, begun.text
        job = follow(client, begun.json()["id"])
        assert job["state"] == "done", job["problem"]
        yield Kept(client, question["set"], job["id"], job["result"])  # type: ignore[arg-type]


def harmless(got: Parsed) -> None:
    """Nothing of what was sent became an element, an attribute or an address."""
    for e in got.elements:
        if e.tag == "script":
            assert "src" in e.attrs
        assert e.tag not in ("b", "extra", "iframe", "object"), e.tag
        if e.tag == "img":
            assert e.attrs["src"].startswith(("/api/v1/map?", "/static/")), e.attrs
        for name, value in e.attrs.items():
            assert not name.startswith("on"), (e.tag, e.attrs)
            if name in ("href", "src", "action", "formaction", "hx-get"):
                assert value.startswith(("/", "#", "?")), value
                assert not value.startswith("//"), value


def setup(kept: Kept) -> str:
    return f"/calibrate?{urlencode({'set': kept.set, 'text': TEXT, 'label': LABEL})}"


def test_the_setup_shows_columns_labels_and_prompts_as_they_are(kept: Kept) -> None:
    got = page(kept.client, setup(kept))
    harmless(got)
    assert {FIRST, SECOND} == {
        e.attrs["value"] for e in got.all("input", name="name", type="hidden")
    }
    options = {e.attrs["value"] for e in got.all("option")}
    assert {TEXT, LABEL} <= options
    whole = got.one("main").text
    assert f"{NAME}.csv" in whole
    assert any(f"Input: {text}" in whole for text in TEXTS)


@pytest.mark.parametrize("template", ["{text} <script>alert(1)</script>", "<img src=x> {text}"])
def test_a_template_with_markup_is_text(kept: Kept, template: str) -> None:
    got = page(kept.client, f"{setup(kept)}&template={quote(template)}")
    harmless(got)
    assert template in got.one("textarea", name="template").text


def test_jobs_show_the_title_as_it_is(kept: Kept) -> None:
    for path in ("/jobs", f"/jobs/{kept.job}"):
        got = page(kept.client, path)
        harmless(got)
        assert TITLE in got.one("main").text


def test_the_result_shows_labels_and_flips_as_they_are(kept: Kept) -> None:
    got = page(kept.client, f"/calibrate/{kept.saved}")
    harmless(got)
    whole = got.one("main").text
    assert TITLE in whole
    assert FIRST in whole
    assert SECOND in whole
    rows = kept.client.get(f"/api/v1/calibrations/{kept.saved}").json()["comparison"]["rows"]
    for row in rows:
        if row["flip"]:
            assert " ".join(row["text"].split()) in " ".join(whole.split())


def test_the_calibration_in_a_trace_shows_labels_as_they_are(kept: Kept) -> None:
    asked = urlencode({"prompt": "".join(HOSTILE[:3]), "calibration": kept.saved})
    got = page(kept.client, f"/?{asked}")
    harmless(got)
    assert FIRST in got.one("main").text


def mapped(kept: Kept, **more: Any) -> str:
    return urlencode({"vocabulary": "none", "texts": kept.set, "prompt": "", "colour": "label"}
                     | more)  # fmt: skip


@pytest.mark.parametrize("index", range(len(TEXTS)))
def test_a_text_on_the_map_shows_itself(kept: Kept, index: int) -> None:
    """The panel of a point names the text, drawn visibly, and nothing of it acts."""
    got = page(kept.client, f"/map?{mapped(kept, point=index)}")
    harmless(got)
    text = visible(f"{TEXTS[index]} 0 {TAIL}")
    assert got.one(id="point-title").text == text


def test_hostile_tokens_stand_in_the_panel_and_among_the_movers(kept: Kept) -> None:
    prompt = "".join(HOSTILE)
    asked = {"vocabulary": "none", "prompt": prompt, "layer": 1}
    for index, token in enumerate(HOSTILE):
        got = page(kept.client, f"/map?{urlencode(asked | {'point': index})}")
        harmless(got)
        assert got.one(id="point-title").text == visible(token)
    got = page(kept.client, f"/map?{urlencode(asked | {'panel': 'changes', 'compare': 'layer:3'})}")
    harmless(got)
    movers = [e for e in got.all("bdi", class_="tok") if any(
        p.attrs.get("id") == "changes" for p in e.within)]  # fmt: skip
    assert {visible(token) for token in HOSTILE} <= {e.text for e in movers}


def element_shapes(text: str) -> set[tuple[str, tuple[str, ...]]]:
    return {(e.tag, tuple(sorted(e.attrs))) for e in Parsed(text).elements}


@pytest.mark.parametrize("token", [*HOSTILE, *TEXTS])
def test_a_page_to_keep_has_the_elements_of_a_harmless_one(kept: Kept, token: str) -> None:
    def saved(prompt: str) -> str:
        asked = {"vocabulary": "none", "prompt": prompt, "format": "html", "layer": 1}
        answer = kept.client.get("/api/v1/map", params=asked)
        assert answer.status_code == 200, answer.text[:300]
        return answer.text

    harmless_one = saved("The cat sat")
    assert element_shapes(saved(f"{token} cat")) <= element_shapes(harmless_one)


@pytest.mark.parametrize("query", ["texts", "prompt"])
def test_a_picture_is_sound_xml_without_script(kept: Kept, query: str) -> None:
    more = {"prompt": "".join(HOSTILE) + "".join(TEXTS[:4])} if query == "prompt" else {}
    answer = kept.client.get(f"/api/v1/map?{mapped(kept, format='svg', **more)}")
    assert answer.status_code == 200, answer.text[:300]
    tree = ElementTree.fromstring(answer.content)
    for element in tree.iter():
        kind = str(element.tag).rpartition("}")[2]
        assert kind not in ("script", "foreignObject", "img", "b", "iframe", "set", "animate")
        for name, value in element.attrib.items():
            assert not name.startswith("on"), element.attrib
            if name.endswith("href"):
                assert value.startswith(("#", "data:image/png;base64,")), value[:60]
    assert kept.client.get(f"/api/v1/map?{mapped(kept, format='png')}").content[1:4] == b"PNG"


def test_no_cell_of_a_table_is_a_formula(kept: Kept) -> None:
    outline = {"polygon": [[-99, -99], [99, -99], [99, 99], [-99, 99]]}
    asked = mapped(kept)
    tables = [
        kept.client.get(f"/calibrate/{kept.saved}/rows.csv"),
        kept.client.get(f"/api/v1/map?{asked}&format=csv"),
        kept.client.get("/api/v1/map", params={"prompt": "".join(HOSTILE), "format": "csv"}),
        kept.client.post(
            f"/api/v1/map/select?{asked.replace('&colour=label', '')}&format=csv", json=outline
        ),
    ]
    for answer in tables:
        assert answer.status_code == 200, answer.text[:300]
        assert answer.headers["content-type"].startswith("text/csv")
        sent = answer.headers["content-disposition"]
        assert sent.startswith("attachment; filename=")
        assert sent.isascii()
        assert "<" not in sent
        found = list(csv.reader(io.StringIO(answer.text, newline="")))
        assert len(found) > 5
        for cell in (cell for row in found for cell in row):
            if cell.lstrip(" ").startswith(FORMULA):
                float(cell)  # a number may be negative


def test_json_gives_the_texts_exactly(kept: Kept) -> None:
    got = kept.client.get(f"/api/v1/sets/{kept.set}").json()
    assert got["columns"] == [TEXT, LABEL]
    assert [one["values"][TEXT] for one in got["sample"][:16]] == [f"{t} 0 {TAIL}" for t in TEXTS]
    assert {one["values"][LABEL] for one in got["sample"]} == {FIRST, SECOND}


def test_no_name_inside_the_archive_was_typed_by_anybody(kept: Kept) -> None:
    answer = kept.client.get(f"/api/v1/calibrations/{kept.saved}/files")
    assert answer.headers["content-disposition"].isascii()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        for name in archive.namelist():
            assert name.isascii()
            assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-/")
            assert not name.startswith("/")
            assert ".." not in name
