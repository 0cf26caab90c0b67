"""The Trace page as HTML: complete without script, safe, and its links keep the whole state."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from asgi import BASE, HOSTILE, load_tiny, settings_with
from parsed import Element, Parsed, page
from starlette.testclient import TestClient

from app import main
from app.figures import theme
from app.main import create_app
from app.trace.question import TraceQuery, examples_of
from engine import LatentSpace
from engine.model.vocabulary import visible

ROOT = Path(__file__).resolve().parents[3]


PAGES = (
    *(one.path for one in main.PAGES),
    "/?geometry=l2&frame=tight&colour=border&centred=true&k=3&cell=1,1&panel=agreement&curve=rank",
    "/?prompt=the+cat&panel=words&cell=2,1",
    "/?prompt=the+cat&panel=contexts&cell=2,1",
    "/compare?prompt=the+cat&other=the+dog+ran",
    "/bases?search=a",
    "/model?figures=true",
    "/method/source/similarity",
    "/cost?prompt=hello",
)


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_sound_html(shared_client: TestClient, path: str) -> None:
    """Balanced tags, one h1, no id twice, a label for each field, a name for each figure."""
    got = page(shared_client, path)
    assert len(got.all("h1")) == 1
    ids = [e.attrs["id"] for e in got.elements if "id" in e.attrs]
    assert len(ids) == len(set(ids))
    labelled = {e.attrs["for"] for e in got.all("label") if "for" in e.attrs}
    for e in got.elements:
        if e.tag in ("input", "select", "textarea") and e.attrs.get("type") != "hidden":
            inside = any(parent.tag == "label" for parent in e.within)
            named = e.attrs.get("aria-label") or e.attrs.get("aria-labelledby")
            assert inside or named or e.attrs.get("id") in labelled, e.attrs
        if "data-plot" in e.attrs:
            assert e.attrs["aria-label"]
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(e.attrs.get(name, "").split()) <= set(ids)


@pytest.mark.parametrize("path", PAGES)
def test_no_page_holds_script_style_or_handlers(shared_client: TestClient, path: str) -> None:
    """What the strict Content-Security-Policy forbids does not stand there in the first place."""
    got = page(shared_client, path)
    assert all("src" in e.attrs for e in got.all("script"))
    assert not got.all("style")
    for e in got.elements:
        assert not [name for name in e.attrs if name.startswith(("on", "hx-on", "hx-vals"))]
        trigger = e.attrs.get("hx-trigger", "")
        assert "[" not in trigger, "a trigger's filter needs eval"


@pytest.mark.parametrize("path", PAGES)
def test_every_link_stays_here(shared_client: TestClient, path: str) -> None:
    """Links and sources are the site's own, and links to places of a page find them."""
    got = page(shared_client, path)
    ids = {e.attrs["id"] for e in got.elements if "id" in e.attrs}
    for e in got.elements:
        for name in ("href", "src", "action", "hx-get", "formaction"):
            url = e.attrs.get(name, "")
            assert not urlsplit(url).scheme, url
            assert not urlsplit(url).netloc, url
            if url.startswith("#"):
                assert url[1:] in ids


def test_the_templates_never_switch_escaping_off() -> None:
    """No `safe`, no `Markup`, no inline handler in any template."""
    for path in (ROOT / "templates").rglob("*.html"):
        text = path.read_text()
        for bad in ("|safe", "| safe", "Markup", "autoescape", "hx-on", "javascript:"):
            assert bad not in text, f"{bad} in {path.name}"


def test_the_first_visit_is_the_first_example(model_folder: Path, tmp_path: Path) -> None:
    # Of its own: what another test measures of the shared one decides how it is read at first.
    space = load_tiny(model_folder, tmp_path)
    with TestClient(create_app(settings_with(), space), base_url=BASE) as client:
        got = page(client, "/")
    assert got.one("textarea").text.strip() == examples_of("")[0].prompt
    chosen = [one.text.strip() for one in got.all("a", class_="chip", aria_current="true")]
    assert chosen == [examples_of("")[0].kind, "the paper's"], "of a model of which none is known"
    assert got.one(id="cell")


def test_the_figure_is_data_that_a_browser_never_runs(shared_client: TestClient) -> None:
    """The grid's JSON parses, names every cell, and holds no NaN."""
    import json

    got = page(shared_client, "/?prompt=The cat sat")
    figure = json.loads(got.one("template", id="grid-data").text)
    cells, texts = figure["data"][0], figure["data"][1]
    assert cells["x"] == list(range(len(cells["x"]))), "positions are numbers, not categories"
    assert len(texts["text"]) == len(cells["x"]) * len(cells["y"])
    assert set(figure["layout"]["meta"]["planes"]) == {
        "probability", "entropy", "rank", "kl", "agreement", "deviation", "border",
    }  # fmt: skip


def test_equal_tokens_keep_their_own_columns(shared_client: TestClient) -> None:
    got = page(shared_client, "/?prompt=the the the the")
    heads = [e for e in got.all("th", scope="col") if _in_table(e, "cells")]
    positions = [h.text.split()[0] for h in heads[1:]]
    assert positions == [str(i) for i in range(len(positions))]
    assert len(positions) >= 4


def _in_table(element: Element, name: str) -> bool:
    return any(name in parent.attrs.get("class", "").split() for parent in element.within)


def test_links_of_the_table_keep_the_whole_state(shared_client: TestClient) -> None:
    """A cell's link changes the cell and nothing else."""
    asked = (
        "prompt=The cat&geometry=l2&frame=head&state=raw&temperature=3&k=4&colour=kl&bos=no"
        "&layers=0:3&positions=0:2&words_only=true&curve=score&pin=40&pin=41&centred=true"
    )
    got = page(shared_client, f"/?{asked}")
    links = [e.attrs["href"] for e in got.all("a") if "data-cell" in e.attrs]
    assert len(links) == 6
    for href in links:
        state = parse_qs(urlsplit(href).query)
        assert state.pop("cell")
        assert state == parse_qs(asked)


def test_every_setting_has_a_field_or_a_link(shared_client: TestClient) -> None:
    """Whatever the query can hold can be reached from the page."""
    got = page(shared_client, "/?pin=40&cell=1,1&curve=rank")
    fields_ = {e.attrs["name"] for e in got.elements if e.tag in ("input", "select", "textarea")
               and "name" in e.attrs}  # fmt: skip
    linked = {
        key for e in got.all("a") for key in parse_qs(urlsplit(e.attrs.get("href", "")).query)
    }
    # No chat template in this model; one window holds all; no calibration is saved; the panel
    # that chooses a bank is fetched when it is seen; no story is told.
    hidden_here = {"chat", "start", "calibration", "bank", "present"}
    assert set(TraceQuery.model_fields) - hidden_here <= fields_ | linked
    forms = {e.attrs["form"] for e in got.all("input", type="hidden")}
    assert forms == {"trace-form", "go-on"}


def test_a_fragment_is_a_part_of_its_page(shared_client: TestClient) -> None:
    """htmx gets the very result that stands in the whole page; history and boosts get the page."""
    path = "/?prompt=The cat"
    whole = shared_client.get(path)
    part = shared_client.get(path, headers={"HX-Request": "true"})
    assert part.text.strip() in whole.text
    assert "<html" not in part.text
    detail = shared_client.get(path, headers={"HX-Request": "true", "HX-Target": "detail"})
    assert detail.text.strip() in whole.text
    assert len(detail.text) < len(part.text)
    for more in ({"HX-History-Restore-Request": "true"}, {"HX-Boosted": "true"}):
        answer = shared_client.get(path, headers={"HX-Request": "true", **more})
        assert "<html" in answer.text
    assert "HX-Target" in part.headers["Vary"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("prompt=", "prompt"),
        ("prompt=x&layers=70:90", "layer"),
        ("prompt=x&positions=7000", "position"),
        ("prompt=x&pin=99999999", "token id"),
        ("prompt=x&k=0", "k must be at least 1"),
        ("prompt=x&frame=zzz", "frame must be one of"),
        ("prompt=x&temperature=nan", "temperature"),
        ("prompt=x&cell=abc", "cell"),
        ("prompt=x&bogus=1", "does not know"),
    ],
)
def test_a_mistake_is_a_sentence_in_the_results_place(
    shared_client: TestClient, query: str, words: str
) -> None:
    """Status 422, the sentence inside the result, and the form as it was sent."""
    answer = shared_client.get(f"/?{query}")
    assert answer.status_code == 422
    got = Parsed(answer.text)
    problem = got.one(id="problem")
    assert any(e.attrs.get("id") == "result" for e in problem.within)
    assert words in problem.text
    assert got.one("textarea").text.strip() == parse_qs(query).get("prompt", [""])[0]


def test_a_cell_outside_of_the_trace_falls_back_and_says_so(shared_client: TestClient) -> None:
    answer = shared_client.get("/?prompt=The cat&cell=2,40")
    assert answer.status_code == 422
    got = Parsed(answer.text)
    assert got.all("table", class_="cells") or got.one(id="grid-table")
    assert "is not part of this trace" in got.one(id="cell").text


def test_a_long_prompt_is_drawn_in_windows(
    shared_client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many columns at most; the last are shown first, and links lead to the others."""
    monkeypatch.setattr("app.trace.panels.MAX_COLUMNS", 8)
    path = "/?prompt=The cat sat on the mat. The dog sat on the cat"

    def shown(got: Parsed) -> list[int]:
        heads = [e for e in got.all("th", scope="col") if _in_table(e, "cells")][1:]
        return [int(head.text.split()[0]) for head in heads]

    got = page(shared_client, path)
    last = shown(got)[-1]
    assert shown(got) == list(range(last - 7, last + 1))
    middle = page(shared_client, f"{path}&cell=1,1")
    assert 1 in shown(middle), "the window holds the open cell"
    seen = set(shown(got))
    while links := [e for e in got.all("a") if "earlier tokens" in e.text]:
        got = page(shared_client, links[0].attrs["href"])
        seen |= set(shown(got))
    assert seen == set(range(last + 1))


def test_hostile_tokens_stand_as_text(shared_client: TestClient) -> None:
    """A prompt of tokens that look like markup adds no element; each shows its visible form."""
    plain = page(shared_client, "/?prompt=The cat")
    prompt = "".join(HOSTILE)
    answer = shared_client.get("/", params={"prompt": prompt, "k": 50})
    got = Parsed(answer.text)
    assert {e.tag for e in got.elements} <= {e.tag for e in plain.elements} | {"ul", "li"}
    shown = {e.text for e in got.all("bdi", class_="tok")}
    heads = [e.text for e in got.all("th", scope="col") if _in_table(e, "cells")]
    for token in HOSTILE:
        assert visible(token) in shown
        assert any(visible(token) in head for head in heads)
    for e in got.all("bdi", class_="tok"):
        assert "hx-disable" in e.attrs
    for control in "\u202e\t\x07":
        assert control not in "".join(shown)


@pytest.mark.parametrize("frame", ["output", "input", "head", "tight", "random"])
def test_every_sentence_begins_with_a_capital(shared_client: TestClient, frame: str) -> None:
    """Also where it begins with the name of a frame, which stands in the middle of others."""
    got = page(shared_client, f"/?prompt=the+cat&frame={frame}&panel=agreement")
    sentences = [p.text.strip() for p in got.all("p") if p.text.strip().endswith(".")]
    assert any("how far away they are" in text for text in sentences)
    assert [text for text in sentences if text[0].islower()] == []


def test_the_agreement_panel_names_its_control(shared_client: TestClient) -> None:
    for path in ("/?prompt=The cat sat&panel=agreement", "/trace/agreement?prompt=The cat sat"):
        got = page(shared_client, path)
        panel = got.one(id="agreement")
        assert "random (control)" in panel.text
        assert "the paper's reading" in panel.text
        assert len(got.all("tr", class_="control")) == 1


@pytest.mark.slow
def test_a_cell_says_in_words_only_what_chance_does_not(shared_client: TestClient) -> None:
    """The panel by itself and in the page are one; a random frame's words are not named."""
    asked = "/?prompt=The cat sat&cell=2,1"
    closed = page(shared_client, asked).one(id="words")
    fetched = page(shared_client, closed.attrs["hx-get"])
    whole = page(shared_client, f"{asked}&panel=words")
    shown = whole.one(id="words")
    assert fetched.one(id="words").text == shown.text
    api = shared_client.get(
        "/api/v1/words", params={"prompt": "The cat sat", "layer": 2, "position": 1}
    ).json()
    assert api["sentence"] in shown.text
    assert [e.text for e in fetched.all("bdi")] == [
        visible(one["text"]) for one in sorted(api["sums"][0]["words"], key=lambda w: -w["weight"])
    ]
    control = page(shared_client, f"{asked}&panel=words&frame=random").one(id="words")
    assert ("no more than chance" in control.text) != ("together" in control.text)


@pytest.mark.parametrize("path", ["/trace/words?", "/?panel=words&"])
def test_a_word_is_pinned_beside_the_answer_and_its_rivals(
    shared_client: TestClient, reference: LatentSpace, path: str
) -> None:
    """Those of the cell's own position: the model's answer, and the two nearest others on top."""
    prompt, place = "The cat sat on the", 2
    trace = reference.trace(prompt)
    answer = int(reference.model.logits(reference.tokenize(prompt).ids)[place].argmax())
    nearest = [int(i) for i in trace.top_ids[-1, place] if int(i) != answer][:2]
    got = page(shared_client, f"{path}prompt={prompt}&cell=3,{place}")
    links = [
        parse_qs(urlsplit(one.attrs["href"]).query)["pin"]
        for one in got.all("a", class_="tok-link")
        if "words" in [parent.attrs.get("id") for parent in one.within]
    ]
    assert links
    for pins in links:
        assert {answer, *nearest} <= {int(one) for one in pins}
        assert len(pins) <= 4


def test_downloads_and_snippet_carry_the_settings(shared_client: TestClient) -> None:
    got = page(shared_client, "/?prompt=The cat&geometry=l2&k=4&colour=kl")
    hrefs = [e.attrs["href"] for e in got.all("a", class_="quiet")]
    json_link = next(h for h in hrefs if h.startswith("/api/v1/trace?"))
    csv_link = next(h for h in hrefs if h.startswith("/api/v1/trace.csv?"))
    others = [next(h for h in hrefs if f"/trace.{one}?" in h) for one in ("npz", "html")]
    for href in (json_link, csv_link, *others):
        answer = shared_client.get(href)
        assert answer.status_code == 200
    assert shared_client.get(json_link).json()["geometry"] == "l2"
    python = got.one("pre", id="python").text
    assert "geometry='l2'" in python
    assert "k=4" in python
    compile(python, "snippet", "exec")


def test_the_page_and_the_api_show_the_same_numbers(shared_client: TestClient) -> None:
    got = page(shared_client, "/?prompt=The cat sat on")
    data = shared_client.get("/api/v1/trace", params={"prompt": "The cat sat on"}).json()
    for cell in data["cells"]:
        key = f"{cell['layer']},{cell['position']}"
        link = got.one("a", data_cell=key)
        assert link.text.endswith(f"#{cell['final_rank']}")
        label = link.attrs["aria-label"]
        assert f"probability {cell['top'][0]['probability']:.3f}" in label
        assert ("agrees" in label) == cell["agrees"]


def test_the_figures_have_the_colours_of_the_page() -> None:
    """theme.py and the style sheet hold the same values, light and dark."""
    css = (ROOT / "static" / "css" / "lexiscope.css").read_text()
    blocks = {
        "light": re.search(r":root \{(.*?)\n\}", css, re.S),
        "system": re.search(r":root:not\(\[data-theme=\"light\"\]\) \{(.*?)\n  \}", css, re.S),
        "dark": re.search(r":root\[data-theme=\"dark\"\] \{(.*?)\n\}", css, re.S),
    }
    found = {}
    for name, block in blocks.items():
        assert block, name
        found[name] = dict(re.findall(r"--([a-z0-9-]+):\s*([^;]+);", block[1]))
    assert found["system"] == found["dark"]
    for colours, sheet in ((theme.LIGHT, found["light"]), (theme.DARK, found["dark"])):
        for field in fields(colours):
            value = getattr(colours, field.name)
            prefix = {"sequential": "seq", "diverging": "div", "lines": "line"}.get(field.name)
            if prefix is None:
                assert sheet[field.name] == value
            else:
                assert [sheet[f"{prefix}-{i}"] for i in range(len(value))] == list(value)
