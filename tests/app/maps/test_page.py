"""The Map page as HTML and as a figure: complete without script, true to the engine, safe."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import numpy as np
import plotly.graph_objects as go
import pytest
from asgi import BASE, HOSTILE, PROMPT, settings_with
from calibration_calls import follow
from map_sources import source
from parsed import Parsed, page
from starlette.testclient import TestClient
from waiting import PATIENCE

from app.figures import map as figures
from app.figures.theme import payload
from app.main import create_app
from app.maps.answers import WORDS
from app.maps.form import EXAMPLES, first_view
from app.maps.page import corners
from app.maps.panels import variance_words
from app.maps.question import PROMPT as MAP_PROMPT
from app.maps.question import MapQuery, drawn_at_once
from app.web.security import CONTENT_SECURITY_POLICY
from engine import LatentSpace
from engine.calibration.labelled.known import example_sets
from engine.errors import OptionError
from engine.maps import Map, MapOptions, MapPoints
from engine.maps.border import draw_border
from engine.model.vocabulary import Token, visible
from engine.progress import Progress
from engine.trace.result import ModelInfo

LABELS = [label.format(topics=len(example_sets()["topics"].texts)) for label, _, _ in EXAMPLES]
HERE = f"/map?prompt={quote(PROMPT)}"
PAGES = (
    HERE,
    f"{HERE}&dims=3",
    f"{HERE}&layer=1&compare=layer%3A0&panel=changes&find=a&point=3&to=0&metric=l2",
    f"{HERE}&panel=quality&colour=norm&preprocessing=centred",
    f"{HERE}&panel=layers&projection=layer",
    f"{HERE}&compare=projection%3Aselection",
    f"{HERE}&compare=projection%3Alayer&vocabulary=alone&select=search%3Aa",
    "/map?prompt=&select=search%3At&frame=input",
)


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_sound_and_strict(shared_client: TestClient, path: str) -> None:
    """One h1, no id twice, a label for each field, no script in the page, no foreign link."""
    got = page(shared_client, path)
    assert len(got.all("h1")) == 1
    ids = [e.attrs["id"] for e in got.elements if "id" in e.attrs]
    assert len(ids) == len(set(ids))
    labelled = {e.attrs["for"] for e in got.all("label") if "for" in e.attrs}
    for e in got.elements:
        if e.tag in ("input", "select", "textarea") and e.attrs.get("type") != "hidden":
            inside = any(parent.tag == "label" for parent in e.within)
            assert inside or e.attrs.get("id") in labelled, e.attrs
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(e.attrs.get(name, "").split()) <= set(ids), e.attrs
        for name in ("href", "src", "action", "hx-get"):
            parts = urlsplit(e.attrs.get(name, ""))
            assert not parts.scheme
            assert not parts.netloc
        assert not [name for name in e.attrs if name.startswith(("on", "hx-on", "style"))]
    assert all("src" in e.attrs for e in got.all("script"))
    assert not got.all("style")
    assert "unsafe-eval" not in CONTENT_SECURITY_POLICY


def test_what_is_said_is_what_the_engine_says(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    """Title, choice, limits and share of variance on the page are the map's own."""
    for layer in (0, 2, -1):
        drawn = reference.maps.map(MapOptions(prompt=PROMPT, layer=layer))
        got = page(shared_client, f"{HERE}&layer={layer}")
        text = got.one(id="result").text
        heading = got.one("h2", id="title-a")
        assert (
            heading.text.strip()
            == f"Layer {drawn.layer} of 3 · output bases, shared axes · length 1"
        )
        assert heading.attrs["title"] == drawn.title
        assert drawn.how_chosen in text
        assert drawn.blind_to in text
        share = drawn.variance_shown
        assert share is not None
        assert f"{100 * share:.1f} %" in text or f"{100 * share:.0f} %" in text
        assert source(got)["n"] == drawn.n == drawn.coordinates.shape[0]


def test_the_badge_is_the_engines_sentence(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    """One sentence first, in the page and in the part that is asked for by itself."""
    quality = reference.maps.quality(MapOptions(prompt=PROMPT))
    whole = page(shared_client, f"{HERE}&panel=quality")
    part = page(
        shared_client, f"/map/quality?prompt={quote(PROMPT)}&key=a", **{"HX-Request": "true"}
    )
    for got in (whole, part):
        badge = got.one("details", id="badge-a")
        assert quality.sentence in badge.text
        assert f"{quality.to_dict()['trustworthiness']['value']:.3f}" in badge.text
        assert ("weak" in badge.attrs["class"].split()) == quality.weak
    waiting = page(shared_client, HERE).one("div", id="badge-a")
    assert waiting.attrs["hx-trigger"] == "load"


def test_a_points_neighbours_are_those_of_the_model(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    """The table lists the nearest by cosine over all points of the map, computed here by hand."""
    index = 40
    head = reference.frame("head").vectors(range(reference.model.vocabulary)).numpy()
    basis = np.linalg.pinv(head).T
    unit = basis / np.linalg.norm(basis, axis=1, keepdims=True)
    score = unit @ unit[index]
    score[index] = -np.inf
    best = np.argsort(-score)[:12]
    got = page(shared_client, f"/map?prompt=&point={index}")
    table = got.all("table", class_="map-near")
    assert len(table) == 1
    shown = [e.text for e in got.all("bdi") if table[0] in e.within]
    assert shown == [reference.vocabulary.labels[i] for i in best]
    lit = got.one("section", id="point").attrs["data-lit"]
    assert [int(i) for i in lit.split(",")] == best.tolist()


def test_the_figure_travels_without_its_points(shared_client: TestClient) -> None:
    """No coordinate stands in the page: they come as float32, 4 bytes a number."""
    got = page(shared_client, HERE)
    given = source(got)
    assert len(json.dumps(given["figure"])) < 8_000
    assert all(trace["x"] == [] for trace in given["figure"]["data"])
    answer = shared_client.get(f"{given['urls']['points']}?{given['query']}")
    assert answer.headers["X-Lexiscope-Points"] == f"{given['n']},2"
    assert len(answer.content) == given["n"] * 2 * 4


def test_thirty_thousand_points_stay_under_a_megabyte() -> None:
    """The budget of issue and page: the figure and its positions together."""
    n = 30_000
    assert len(json.dumps(payload(figures.figure(crowd(n))))) + 8 * n < 1_000_000


def crowd(n: int, dims: int = 2) -> Map:
    """A map of n bases and a prompt of three tokens, one basis at the border."""
    places = np.random.default_rng(1).normal(size=(n + 3, dims)).astype(np.float32)
    places[0] = 9
    prompt = tuple(Token(i, text, text) for i, text in enumerate(("a", "<b>", "c")))
    kind = np.array([0] * n + [2] * 3, dtype=np.uint8)
    row = np.array([*range(n), 0, 1, 2], dtype=np.int32)
    limits = np.full(dims, -5.0), np.full(dims, 5.0)
    return Map(
        options=MapOptions(), model=ModelInfo("m", "local", "f", "cpu", "float32"), layers=1,
        layer=0, points=MapPoints(kind, row, Any, prompt),  # type: ignore[arg-type]
        coordinates=places, border=draw_border(places, limits, shared=True), variance_shown=None,
        variance_of="", variance_of_bases=None, title="A crowd", how_chosen="", blind_to="",
        axis_names=("<i>x", "y", "z")[:dims], warnings=(), versions={}, fingerprint="crowd",
    )  # fmt: skip


@pytest.mark.parametrize("dims", [2, 3])
def test_a_notebooks_figure_holds_every_point_in_place(dims: int) -> None:
    """With coordinates, each point is where it belongs; text cannot become markup."""
    drawn = crowd(20, dims)
    places = drawn.border.clipped
    figure = figures.figure(drawn, points=True)
    assert isinstance(figure, go.Figure)
    by_part = {trace.meta["part"]: trace for trace in figure.data}
    assert list(by_part) == list(figures.PARTS)
    for i, name in enumerate("xyz"[:dims]):
        assert np.array_equal(by_part["points"][name], places[:20, i])
        assert np.array_equal(by_part["path"][name], places[20:, i])
    assert list(by_part["path"].text) == ["a", "&lt;b&gt;", "c"]
    assert len(by_part["border"].x) == 1
    if dims == 2:
        assert figure.layout.spikedistance == figures.SPIKE_DISTANCE == 20
        assert figure.layout.hoverdistance == figures.HOVER_DISTANCE == 8
        assert figure.layout.yaxis.scaleanchor == "x"
        assert figure.layout.xaxis.title.text == "&lt;i&gt;x"


def test_a_page_has_at_most_four_webgl_figures(shared_client: TestClient) -> None:
    for path in PAGES:
        assert len(page(shared_client, path).all("canvas", class_="map-cloud")) <= 2


def test_two_pictures_share_their_axes(shared_client: TestClient) -> None:
    """Side by side, two layers of one frame have the same limits, so a place means the same."""
    got = page(shared_client, f"{HERE}&layer=3&compare=layer%3A1")
    one, two = source(got), source(got, "b")
    assert (one["layer"], two["layer"]) == (3, 1)
    assert one["scale"] == two["scale"]
    for axis in ("xaxis", "yaxis"):
        assert one["figure"]["layout"][axis]["range"] == two["figure"]["layout"][axis]["range"]
    other = page(shared_client, f"{HERE}&compare=frame%3Ainput")
    assert source(other)["scale"] != source(other, "b")["scale"]


def test_links_keep_the_whole_state(shared_client: TestClient) -> None:
    """A neighbour's link, a cell of the layers and a metric change only what they name."""
    state = {"prompt": ["The dog"], "layer": ["1"], "preprocessing": ["centred"], "find": ["a"]}
    path = "/map?prompt=The%20dog&layer=1&preprocessing=centred&find=a&point=5&panel=layers"
    got = page(shared_client, path)
    point = got.one("section", id="point")
    links = [e for e in got.all("a", class_="tok-link") if point in e.within]
    inside = [parse_qs(urlsplit(e.attrs["href"]).query) for e in links]
    on_map = [q for e, q in zip(links, inside, strict=True) if e.attrs["href"].startswith("/map")]
    assert on_map
    for query in on_map:
        assert {k: query[k] for k in state} == state
        assert query["point"] != ["5"]
    cells = [
        e for e in got.all("a") if re.fullmatch(r"layers \d+ and \d+", e.attrs.get("title", ""))
    ]
    layers = source(got)["layers"]
    assert len(cells) >= layers * layers
    query = parse_qs(urlsplit(cells[1].attrs["href"]).query)
    assert query["layer"] == ["0"] or "layer" not in query
    assert query["compare"] == ["layer:1"]


def test_without_script_there_is_a_picture(shared_client: TestClient) -> None:
    """The still picture is of the same map and can be fetched."""
    got = page(shared_client, f"{HERE}&layer=1&colour=norm")
    still = got.one("img", class_="map-still")
    assert still.attrs["alt"]
    query = parse_qs(urlsplit(still.attrs["src"]).query)
    assert query["layer"] == ["1"]
    assert query["colour"] == ["norm"]
    answer = shared_client.get(still.attrs["src"])
    assert answer.status_code == 200
    assert answer.content.startswith(b"\x89PNG")


def test_an_outline_selects_what_lies_in_it(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    """The server's answer is the brute-force test of every point against a rectangle."""
    places = np.frombuffer(
        shared_client.get(f"/api/v1/map/points?prompt={quote(PROMPT)}").content, dtype="<f4"
    ).reshape(-1, 2)
    low, high = np.quantile(places, 0.3, axis=0), np.quantile(places, 0.7, axis=0)
    inside = np.flatnonzero(((places > low) & (places < high)).all(1))
    shape = f"{low[0]},{low[1]} {high[0]},{low[1]} {high[0]},{high[1]} {low[0]},{high[1]}"
    url = f"/map/selected?prompt={quote(PROMPT)}"
    answer = shared_client.post(url, data={"polygon": shape})
    assert answer.status_code == 200, answer.text[:300]
    section = Parsed(answer.text).one("section", id="selected")
    assert [int(i) for i in section.attrs["data-lit"].split(",")] == inside.tolist()
    table = shared_client.post(f"/map/selected.csv?prompt={quote(PROMPT)}", data={"polygon": shape})
    rows = [row for row in csv.reader(io.StringIO(table.text)) if row and row[0].isdecimal()]
    assert [int(row[0]) for row in rows] == inside.tolist()


def test_an_outline_that_is_none_is_a_sentence(shared_client: TestClient) -> None:
    for text in ("1,2 3,4", "1,2,3 4,5,6 7,8,9", "e,e e,e e,e", "1,1 " * 501):
        with pytest.raises(OptionError):
            corners(text)
        answer = shared_client.post("/map/selected", data={"polygon": text})
        assert answer.status_code == 422
        assert "Traceback" not in answer.text


def test_a_mistake_is_a_sentence_and_the_form_keeps_what_was_sent(
    shared_client: TestClient,
) -> None:
    for query in ("layer=99", "projection=nothing", "select=regex:(", "compare=layer%3A99",
                  "point=9999999", "projection=axes", "dims=7", "texts=nope",
                  "vocabulary=none&prompt=", "select=words:nosuchtokenatall"):  # fmt: skip
        path = f"/map?{query}" if "prompt" in query else f"/map?prompt=The%20cat&{query}"
        answer = shared_client.get(path)
        assert answer.status_code == 422, query
        got = Parsed(answer.text)
        sentence = got.one("section", id="problem").text
        assert sentence.strip().endswith(".")
        assert not got.all("canvas")
        if "prompt" not in query:
            assert got.one("textarea", id="prompt").text.strip() == "The cat"


def test_a_picture_that_takes_long_says_so_and_can_be_started(shared_client: TestClient) -> None:
    """UMAP is a form that posts; the page does not compute it."""
    got = page(shared_client, f"{HERE}&projection=umap")
    form = next(e for e in got.all("form") if e.attrs["action"].startswith("/map/umap"))
    assert form.attrs["method"] == "post"
    assert "mean nothing" in got.one("section", id="waiting").text
    assert parse_qs(urlsplit(form.attrs["action"]).query)["projection"] == ["umap"]


def test_its_button_leads_to_a_job_that_can_be_watched(client: TestClient) -> None:
    """A form without script: 303 to the job's page; the same question again joins the same job."""
    got = page(client, f"{HERE}&projection=umap")
    form = next(e for e in got.all("form") if e.attrs["action"].startswith("/map/umap"))
    first = client.post(form.attrs["action"], follow_redirects=False)
    again = client.post(form.attrs["action"], follow_redirects=False)
    assert first.status_code == again.status_code == 303
    assert first.headers["location"] == again.headers["location"]
    job = first.headers["location"]
    assert job.startswith("/jobs/")
    assert client.get(job).status_code == 200
    stopped = client.post(f"/api/v1{job.partition('?')[0]}/cancel")
    assert stopped.status_code == 200


WAITING = {
    "prompt": "", "projection": "umap", "texts": "topics", "colour": "label",
    "compare": "layer:1", "find": "king", "layer": "2",
}  # fmt: skip


def fields_of(href: str) -> dict[str, str]:
    return {
        name: value
        for name, (value,) in parse_qs(urlsplit(href).query, keep_blank_values=True).items()
    }


@pytest.mark.slow
def test_the_job_of_a_picture_leads_back_to_the_page_as_it_was_set(client: TestClient) -> None:
    """Everything in the query reaches the form, the job's result and the linear picture."""
    got = page(client, f"/map?{urlencode(WAITING)}")
    form = next(e for e in got.all("form") if e.attrs["action"].startswith("/map/umap"))
    assert fields_of(form.attrs["action"]) == WAITING
    instead = next(e for e in got.all("a") if "linear picture" in e.text)
    assert fields_of(instead.attrs["href"]) == WAITING | {"projection": "shared"}
    jobs: Any = client.app.state.jobs  # type: ignore[attr-defined]
    free = threading.Event()

    def held() -> Any:
        yield Progress(0, 1)
        assert free.wait(PATIENCE)

    before = jobs.submit("hold", "In the way", held, lambda _: None, lane="process")
    own = client.post(form.attrs["action"], follow_redirects=False).headers["location"]
    # Somebody else waits for the same picture on a page that is set otherwise.
    theirs = f"/map/umap?{urlencode({k: v for k, v in WAITING.items() if k != 'find'})}"
    other = client.post(theirs, follow_redirects=False).headers["location"]
    job = urlsplit(own).path
    assert urlsplit(other).path == job
    kept = jobs._known(job.rpartition("/")[2])
    client.post(f"/api/v1{job}/cancel")
    free.set()
    follow(client, job.rpartition("/")[2])
    follow(client, before.id)
    kept.state = "done"
    for place, wanted in ((own, WAITING), (other, {**WAITING, "find": None})):
        got = page(client, place)
        result = next(e for e in got.all("a") if "Open the result" in e.text)
        assert urlsplit(result.attrs["href"]).path == "/map"
        assert fields_of(result.attrs["href"]) == {k: v for k, v in wanted.items() if v is not None}
    # Whoever comes from elsewhere sees the picture alone: nothing of anybody's page.
    plain = next(e for e in page(client, job).all("a") if "Open the result" in e.text)
    assert "find" not in fields_of(plain.attrs["href"])
    assert fields_of(plain.attrs["href"])["projection"] == "umap"
    for evil in ("https://example.org/", "//example.org", "\r\nX: y", "%0d%0aX: y", "a" * 7_000):
        answer = client.get(job, params={"back": evil}, headers={"HX-Request": "true"})
        assert answer.status_code == 200
        assert answer.headers["hx-redirect"].startswith("/map?")
    assert client.get(job, params={"back": "a" * 9_000}).status_code == 422


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"projection": "umap"}, {"projection": "shared"}),
        ({"projection": "umap", "compare": "seed:1"}, {"projection": "shared", "compare": None}),
        (
            {"projection": "umap", "compare": "projection:shared"},
            {"projection": "shared", "compare": None},
        ),
        ({"projection": "umap", "compare": "projection:layer"}, {"projection": "shared"}),
        ({"compare": "projection:umap"}, {"compare": None}),
        ({"projection": "layer", "compare": "projection:umap"}, {"compare": "projection:shared"}),
    ],
)
def test_what_is_drawn_at_once_keeps_the_second_picture(
    given: dict[str, str], wanted: dict[str, str | None]
) -> None:
    assert drawn_at_once(MapQuery.model_validate(given)) == wanted


def test_a_picture_that_is_ready_is_shown_below_the_root_path(
    space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form that was left open meanwhile leads to the page, in the app that it came from."""

    async def ready(*_: object) -> None:
        return None

    monkeypatch.setattr("app.maps.page.start_umap", ready)
    app = create_app(settings_with(root_path="/lexi"), space)
    with TestClient(app, base_url=BASE) as below:
        answer = below.post(f"/map/umap?{urlencode(WAITING)}", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/lexi/map?")
    assert fields_of(answer.headers["location"]) == WAITING


def test_a_colour_that_is_none_is_refused(shared_client: TestClient) -> None:
    answer = shared_client.get(f"{HERE}&colour=plantedmark")
    assert answer.status_code == 422
    got = Parsed(answer.text)
    assert "colour" in got.one("section", id="problem").text
    assert "plantedmark" not in answer.text


def test_hostile_tokens_show_their_own_text(shared_client: TestClient) -> None:
    """Names of points reach the page as text, in tables and in the data of the picture."""
    for token in HOSTILE:
        answer = shared_client.get("/map", params={"prompt": "", "find": token})
        got = Parsed(answer.text)
        assert visible(token) in {e.text for e in got.all("bdi", class_="tok")}
        assert not [e for e in got.all("script") if "src" not in e.attrs]
    whole = shared_client.get("/map", params={"prompt": HOSTILE[0]})
    assert "<script>alert" not in whole.text


def test_an_empty_text_is_none_and_the_first_visit_has_one() -> None:
    assert MapQuery().question().prompt
    assert MapQuery(prompt="").question().prompt is None
    assert MapQuery(prompt="", compare="layer:2").beside().layer == 2  # type: ignore[union-attr]
    beside = MapQuery(prompt="a", compare_prompt="b").beside()
    assert beside is not None
    assert beside.prompt == "b"


def stories(got: Parsed) -> list[Any]:
    """The links to examples, those under More as well."""
    return [
        e for e in got.all("a") if any("map-stories" in w.attrs.get("class", "") for w in e.within)
    ]


def test_each_example_is_a_map(shared_client: TestClient) -> None:
    """Every example can be asked for; those that need the shipped model say a sentence."""
    for label, _, state in EXAMPLES:
        query = MapQuery.model_validate(state)
        assert query.question(), label
    got = page(shared_client, HERE)
    chips = {e.text for e in stories(got)}
    assert set(LABELS) <= chips


def test_the_share_is_words_where_there_is_none() -> None:
    assert "12 %" in variance_words(0.12, "the states")
    assert variance_words(None, "not linear") == "not linear"


# ---- the first visit -----------------------------------------------------------------------------


def test_a_first_visit_leads_to_a_view_of_its_own(shared_client: TestClient) -> None:
    """This model knows none of the words: the text is drawn; the address holds the whole state."""
    first = shared_client.get("/map", follow_redirects=False)
    assert first.status_code == 303
    assert parse_qs(urlsplit(first.headers["location"]).query) == {"prompt": [MAP_PROMPT]}
    got = page(shared_client, "/map")
    (current,) = [e for e in stories(got) if e.attrs.get("aria-current")]
    assert current.text == "Your text"


def test_the_words_of_a_first_visit_are_those_of_the_model() -> None:
    known = {name: words.split()[:5] for name, words in WORDS}
    state = first_view(known)
    query = MapQuery.model_validate(state)
    assert query.projection == "selection"
    assert query.select == "words:" + ";".join(f"{n}={','.join(w)}" for n, w in known.items())
    few = {name: words[:2] for name, words in known.items()}
    assert first_view(few) == {"prompt": MAP_PROMPT}
    some = {**few, **dict(list(known.items())[:3])}
    assert first_view(some)["select"].count("=") == 3


def test_every_example_is_a_question_that_is_marked_when_it_is_shown(
    shared_client: TestClient,
) -> None:
    """Each chip's address makes the same query again, and only its own chip is marked by it."""
    got = page(shared_client, "/map")
    chips = stories(got)
    assert [e.text for e in chips] == LABELS
    assert [e.text for e in got.all("a", class_="chip")] == LABELS[:3]  # the others are under More
    for chip in chips:
        answer = shared_client.get(chip.attrs["href"])
        marked = [e.text for e in stories(Parsed(answer.text)) if "aria-current" in e.attrs]
        assert marked == [chip.text]
    sentences = len(example_sets()["topics"].texts)
    assert f"{sentences} sentences by topic" in [e.text for e in chips]
