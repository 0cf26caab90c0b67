"""Bases, Model, Method and the figures, as values and as HTML."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest
from asgi import HOSTILE
from parsed import Parsed, page
from starlette.testclient import TestClient

from app.figures.bases import neighbours
from app.figures.theme import DARK, LIGHT, plot_text, text_colours
from app.figures.trace import COLOURS, grid
from app.figures.trace_curves import MEASURES, curves, isotropy, transitions
from app.method import page as method
from app.method import terms
from engine import LatentSpace
from engine.frames.kinds import FRAMES
from engine.model.vocabulary import visible


def test_every_formula_is_explained_and_leads_to_its_code(shared_client: TestClient) -> None:
    """Each formula stands on the page, with meaning, source and a line of our own code."""
    got = page(shared_client, "/method")
    for entry in method.ENTRIES:
        article = got.one("article", id=entry.key)
        assert entry.meaning in article.text
        assert entry.source in article.text
        for module, name in entry.code:
            line = method.line_of(module, name)
            defined = method.source(module)[line - 1]
            assert name.split(".")[-1] in defined or defined.strip().startswith("@")
            assert got.all("a", href=f"/method/source/{module}#L{line}")


def test_every_word_leads_to_a_place_that_is_there(shared_client: TestClient) -> None:
    """Tooltips and the glossary are one text; each term's place exists."""
    glossary = page(shared_client, "/method")
    places = {e.attrs["id"] for e in glossary.elements if "id" in e.attrs}
    for term in terms.TERMS.values():
        assert term.anchor in places
        assert term.entry is None or term.entry in places
    for path in ("/", "/bases", "/model?figures=true"):
        for link in page(shared_client, path).all("a", class_="term"):
            assert link.attrs["href"].removeprefix("/method#") in places
            assert link.attrs["title"]


def test_only_the_engine_can_be_read(shared_client: TestClient) -> None:
    """A module name is looked up among the engine's; anything else is not there."""
    for name in ("frames", "similarity", "trace"):
        got = page(shared_client, f"/method/source/{name}")
        lines = got.all("li", id="L1")
        assert len(lines) == 1
    for name in ("os", "settings", "app.settings", "%2e%2e", "frames.py", "Frames"):
        assert shared_client.get(f"/method/source/{name}").status_code in (404, 422)


@pytest.mark.slow
def test_the_model_page_shows_each_check_with_its_reason(shared_client: TestClient) -> None:
    got = page(shared_client, "/model")
    checks = shared_client.get("/api/v1/check").json()
    shown = [e for e in got.all("li") if e.attrs.get("class") in ("ok", "note", "fail")]
    assert len(shown) == len(checks["items"])
    for item, entry in zip(checks["items"], shown, strict=True):
        assert item["name"] in entry.text
        assert item["reason"] in entry.text
    table = page(shared_client, "/model?figures=true").one(id="frames")
    for label in ("condition number", "frame bounds", "round trip", "residual", "redundancy"):
        assert label in table.text


def test_the_badge_stands_on_each_page(shared_client: TestClient) -> None:
    for path in ("/", "/bases", "/model", "/method", "/?prompt=", "/nothing-here"):
        got = Parsed(shared_client.get(path).text)
        badge = next(e for e in got.all("a", class_="badge"))
        assert "self-check" in badge.text
        assert badge.attrs["title"]
        assert badge.attrs["href"].endswith("/model#self-check")


def test_one_frame_may_be_asked_for_alone_and_with_its_dial(shared_client: TestClient) -> None:
    """The page takes the frame as the API does."""
    got = page(shared_client, "/bases?token=%2340&frame=dial&alpha=0.3&k=3")
    assert len(got.all("h3")) == 1
    card = got.one("div", class_="five")
    asked = {"token": "#40", "frame": "dial", "alpha": 0.3, "k": 3}
    wanted = shared_client.get("/api/v1/bases", params=asked).json()
    for near in wanted["neighbours"]:
        assert f"{near['score']:.3f}"[:5].replace("-", "−") in card.text
    assert "α 0.3" in card.text
    assert len(page(shared_client, "/bases?token=%2340").all("h3")) > 4


def test_a_token_stands_in_every_frame(shared_client: TestClient) -> None:
    got = page(shared_client, "/bases?token=%2340&geometry=l2&k=3")
    cards = [e for e in got.all("section", class_="card") if any(
        "five" in parent.attrs.get("class", "").split() for parent in e.within)]  # fmt: skip
    assert len(cards) == len(FRAMES)
    for frame, card in zip(FRAMES, cards, strict=True):
        asked = {"token": "#40", "frame": frame, "geometry": "l2", "k": 3}
        data = shared_client.get("/api/v1/bases", params=asked).json()
        for near in data["neighbours"]:
            assert visible(near["text"]) in card.text


def test_a_search_shows_hostile_tokens_as_text(shared_client: TestClient) -> None:
    for token in HOSTILE:
        answer = shared_client.get("/bases", params={"search": token})
        got = Parsed(answer.text)
        assert visible(token) in {e.text for e in got.all("bdi", class_="tok")}
        assert not [e for e in got.all("script") if "src" not in e.attrs]


def test_a_new_search_shows_its_first_hit_and_a_switch_keeps_the_token(
    shared_client: TestClient,
) -> None:
    first = page(shared_client, "/bases?search=cat&shown=&token=%2340").one(
        "h2", class_="token-title"
    )
    assert "cat" in first.text
    kept = page(shared_client, "/bases?search=cat&shown=cat&token=%2340").one(
        "h2", class_="token-title"
    )
    assert "#40" in kept.text


def test_an_unknown_token_is_a_sentence(shared_client: TestClient) -> None:
    answer = shared_client.get("/bases?token=%23999999")
    assert answer.status_code == 422
    assert "token id must be" in Parsed(answer.text).one(id="problem").text
    refused = shared_client.get("/bases?token=cat&k=0")
    assert refused.status_code == 422
    assert "k must be at least 1" in Parsed(refused.text).one(id="problem").text
    assert "cat" in refused.text
    nothing = page(shared_client, "/bases?search=qqqqqqqq")
    assert "No token of this vocabulary" in nothing.one(id="result").text


# The figures, in a notebook.


def test_each_figure_builds_and_has_named_axes(reference: LatentSpace) -> None:
    """In both themes, by every colour and measure; axis titles carry name and unit."""
    trace = reference.trace("The cat sat on the mat")
    chosen = reference.curves("The cat sat on the mat")
    made = [grid(trace, colour, dark=d) for colour in COLOURS for d in (True, False)]
    made += [curves(chosen, measure) for measure in MEASURES]
    made += [transitions(trace, trace.positions[-1]), isotropy(trace)]
    made.append(neighbours([reference.bases("#40", frame=f, k=4) for f in FRAMES]))
    for figure in made:
        assert isinstance(figure, go.Figure)
        layout = figure.to_dict()["layout"]
        named = [a["title"]["text"] for k, a in layout.items() if k.startswith(("xaxis", "yaxis"))]
        named += [note["text"] for note in layout.get("annotations", [])]
        assert sum(bool(text) for text in named) >= 2


def test_the_grid_shows_what_the_trace_says(reference: LatentSpace) -> None:
    """Cell by cell: value and token; a dot exactly where the reading agrees."""
    trace = reference.trace("The cat sat on the mat", geometry="matmul", frame="head")
    figure = grid(trace, "entropy")
    assert np.allclose(figure.data[0].z, trace.entropy)
    ys, xs = np.indices(trace.agrees.shape).reshape(2, -1)
    for y, x, text in zip(ys, xs, figure.data[1].text, strict=True):
        label = trace.token_info[int(trace.top_ids[y, x, 0])].label
        assert text == plot_text(label, 11)
    dots = {(round(y - 0.31), round(x - 0.41)) for x, y in zip(
        figure.data[2].x, figure.data[2].y, strict=True)}  # fmt: skip
    assert dots == set(zip(*(part.tolist() for part in np.nonzero(trace.agrees)), strict=True))


def test_a_cell_that_is_not_finite_shows_no_ranking(reference: LatentSpace) -> None:
    """A gap in the figure and no token in it."""
    from dataclasses import replace

    trace = reference.trace("The cat sat")
    finite = trace.finite.copy()
    finite[1, 1] = False
    figure = grid(replace(trace, finite=finite))
    assert np.isnan(figure.data[0].z[1, 1])
    assert (1, 1) not in set(zip(figure.data[1].y, figure.data[1].x, strict=True))
    assert "not finite" in figure.data[0].hovertext[1][1]


@pytest.mark.parametrize("text", ["<b>", "a&lt;b", "<extra>", "%{x}", "<a href='x'>y</a>"])
def test_plotly_is_given_text_only(text: str) -> None:
    """After escaping nothing is left that Plotly's own HTML would act on."""
    out = plot_text(text)
    assert "<" not in out
    assert ">" not in out


def test_text_on_every_colour_can_be_read() -> None:
    """Contrast of at least 4.5 : 1 anywhere on each scale (WCAG AA)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for colours in (LIGHT, DARK):
        for stops in (colours.sequential, colours.diverging):
            at = np.linspace(0, 1, 61)
            grid = np.linspace(0, 1, len(stops))
            rgb = np.array([[int(s[i : i + 2], 16) for i in (1, 3, 5)] for s in stops])
            for value, text in zip(at, text_colours(at.astype(np.float32), stops), strict=True):
                mixed = [round(np.interp(value, grid, rgb[:, i])) for i in range(3)]
                back = luminance("#" + "".join(f"{c:02x}" for c in mixed))
                high, low = sorted((back, luminance(text)), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5
        values = [luminance(stop) for stop in colours.sequential]
        assert values == sorted(values) or values == sorted(values, reverse=True)
