"""A model whose whole vocabulary is hostile, through every page: its own text, and only text.

The guard of each tab fails the test when a dialog opens, the Content-Security-Policy is broken,
or another host is asked for anything.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

import pytest
from driving import PATIENCE_MS, Open, Site, Visit, settle
from hostile_tokens import BYTES, hostile_model
from playwright.sync_api import Page, expect
from served import serve
from waiting import until

from app.figures.theme import plot_text
from app.settings import Settings
from engine.model.vocabulary import visible

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

WIDE = {"width": 1600, "height": 1000}
TEXT, LABEL = "<img src=x onerror=alert(1)>", '"><script>alert(2)</script>'
FIRST, SECOND = "<b onmouseover=alert(3)>first</b>", '=HYPERLINK("http://evil.example","second")'
TITLE = "</title><img src=x onerror=alert(5)>"


@dataclass(frozen=True)
class Crowd:
    """The server, and what its vocabulary says."""

    site: Site
    words: list[str]
    saved: str
    """The id of a calibration whose labels, columns, texts and title are hostile."""
    set: str
    job: str


def call(site: Site, path: str, body: bytes, kind: str = "application/json") -> dict[str, str]:
    with urlopen(Request(f"{site.url}{path}", body or None, {"Content-Type": kind})) as answer:
        found: dict[str, str] = json.load(answer)
        return found


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    folder = tmp_path_factory.mktemp("crowd")
    words = hostile_model(folder)
    settings = Settings(
        model=str(folder), device="cpu", threads=1, offline=True,
        cache_dir=tmp_path_factory.mktemp("crowd-cache"),
    )  # fmt: skip
    running = serve(settings, tmp_path_factory.mktemp("crowd-data"))
    site = next(running)
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow([TEXT, LABEL])
    for i in range(24):
        rows.writerow([f"{words[i]} text {i}".replace("\0", "␀"), (FIRST, SECOND)[i % 2]])
    edge = "a-line-between-parts"
    body = (
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="<svg onload=x>.csv"'
        f"\r\nContent-Type: text/csv\r\n\r\n{out.getvalue()}\r\n--{edge}--\r\n"
    )
    kept = call(site, "/api/v1/sets", body.encode(), f"multipart/form-data; boundary={edge}")
    question = {"set": kept["id"], "text_columns": [TEXT], "label_column": LABEL, "name": TITLE,
        "epochs": 2}  # fmt: skip
    job = call(site, "/api/v1/calibrations", json.dumps(question).encode())

    def ended() -> Any:
        view = call(site, f"/api/v1/jobs/{job['id']}", b"")
        return view if view["finished"] else None

    job = until(ended)
    assert job["state"] == "done", job["problem"]
    yield Crowd(site, words, job["result"], kept["id"], job["id"])
    next(running, None)


def nothing_acts(visit: Visit) -> None:
    """No element, link or htmx attribute came out of a text, and nothing was asked for by one."""
    page = visit.page
    assert page.locator("script:not([src]), [onerror], [onload], [onmouseover]").count() == 0
    assert page.locator("main b, iframe, base, style:not([id])").count() == 0
    inside = "[data-plot], .map-plot, .map-tip, .map-legend, .tok, bdi"
    for sign in (
        "a[href]",
        "img",
        "form",
        "[hx-get]",
        "[hx-post]",
        "[hx-trigger]",
        "[data-hx-get]",
    ):
        within = ", ".join(f"{place} {sign}" for place in inside.split(", "))
        assert page.locator(within).count() == 0, sign
    assert page.locator(".tok:not([hx-disable], [hx-disable] *)").count() == 0
    links = page.locator("a[href]").evaluate_all("all => all.map((a) => a.href)")
    own = urlsplit(visit.site.url).netloc
    for link in links:
        parts = urlsplit(link)
        assert parts.netloc == own or parts.netloc in (
            "arxiv.org",
            "aclanthology.org",
            "doi.org",
        ), link
    for asked in visit.guard.requests:
        assert urlsplit(asked).path not in ("/livez", "/api/v1/trace", "/x"), asked


def test_every_token_is_named_on_the_map(visit_to: Open, crowd: Crowd) -> None:
    """Under the pointer, as a name on the picture, among what was found: all of them."""
    visit = visit_to(crowd.site, viewport=WIDE)
    page = visit.go("/map?find=%3C")
    expect(page.locator(".map-plot[data-ready=yes]")).to_be_visible()
    named = page.evaluate(
        """() => { const panel = lexiscope.map.all()[0];
        return Array.from({ length: panel.n }, (_, i) => {
          panel.words_of(i); const name = panel.tip.firstChild;
          return [panel.label(i), name.textContent, name.childElementCount]; }); }"""
    )
    wanted = [visible(word) for word in crowd.words]
    own = named[BYTES : BYTES + len(wanted)]
    assert [label for label, _, _ in own] == wanted
    assert [tip for _, tip, _ in own] == [
        text if len(text) <= 40 else f"{text[:39]}…" for text in wanted
    ]
    assert {count for _, _, count in named} == {0}
    found = page.locator("#found .tok").all_text_contents()
    assert found
    assert set(found) <= {label for label, _, _ in named}
    assert all("<" in text for text in found)
    drawn = page.locator(".map-plot .textpoint text").all_text_contents()
    shown = {label.removeprefix("␣") for label, _, _ in named}
    assert len(drawn) > 5
    assert set(drawn) <= shown
    nothing_acts(visit)


def test_every_token_is_itself_in_a_figure(visit_to: Open, crowd: Crowd) -> None:
    """As a text, on an axis and in a legend, through the escape that all figures use."""
    visit = visit_to(crowd.site, viewport=WIDE)
    page = visit.go("/bases")
    settle(page)
    wanted = [visible(word) for word in crowd.words]
    texts = [plot_text(text) for text in wanted]
    draw = """async ([texts, ticks, names]) => { const Plotly = await lexiscope.plotly();
      const gd = document.createElement("div"); document.querySelector("main").append(gd);
      const blank = names.map((name, i) => ({ x: [i], y: [0], name, mode: "markers" }));
      const all_of_them = { x: texts.map((_, i) => i % 50), y: texts.map((_, i) => i), text: texts,
        mode: "text", showlegend: false };
      const xaxis = { tickvals: ticks.map((_, i) => i / 10), ticktext: ticks, range: [0, 50] };
      await Plotly.newPlot(gd, [all_of_them, ...blank],
        { width: 3000, height: 9000, xaxis, showlegend: true }, { displayModeBar: false });
      const all = (s) => [...gd.querySelectorAll(s)].map((one) => one.textContent);
      const found = [all(".textpoint text"), all(".xtick text"), all(".legendtext"),
        gd.querySelectorAll("a, image, foreignObject").length]; Plotly.purge(gd); gd.remove();
      return found; }"""
    few = random.Random(5).sample(range(len(wanted)), 150)
    some = [texts[i] for i in few]
    as_text, as_tick, as_name, foreign = page.evaluate(draw, [texts, some, some])
    assert as_text == wanted
    assert as_tick == [wanted[i] for i in few]
    assert as_name == [wanted[i] for i in few]
    assert foreign == 0
    nothing_acts(visit)


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def in_the_grid(page: Page, heads: list[str]) -> None:
    """The figure shows the table's own texts: in its cells, over its columns, under the pointer."""
    rows = page.locator(".cells tbody tr").evaluate_all(
        "all => all.map((row) => [...row.querySelectorAll('.tok')].map((t) => t.textContent))"
    )[::-1]  # the lowest layer is the lowest row of both, and comes first in the figure
    drawn = page.locator("#grid .scatterlayer .textpoint text").all_text_contents()
    assert drawn == [cut(text, 11) for row in rows for text in row]
    ticks = page.locator("#grid .xaxislayer-above .xtick text tspan").all_text_contents()
    assert ticks[::4] == [cut(text, 11) for text in heads]  # a bar and two positions in between
    hostile = [(y, x) for y, row in enumerate(rows) for x, text in enumerate(row) if "<" in text]
    assert len(hostile) > 10
    for y, x in random.Random(1).sample(hostile, 5):
        place = page.locator("#grid").evaluate(
            """(gd, [y, x]) => { const { xaxis, yaxis } = gd._fullLayout;
            const box = gd.parentElement; gd.scrollIntoView({ block: "center" });
            box.scrollLeft = xaxis._offset + xaxis.c2p(x) - box.clientWidth / 2;
            const { left, top } = gd.getBoundingClientRect();
            return [left + xaxis._offset + xaxis.c2p(x), top + yaxis._offset + yaxis.c2p(y)]; }""",
            [y, x],
        )
        page.mouse.move(*place)
        hover = page.locator("#grid .hoverlayer .hovertext")
        expect(hover).to_contain_text(f"layer {y}, position {x}")
        assert (hover.text_content() or "").startswith(cut(rows[y][x], 40))


def test_hostile_prompts_through_the_trace(visit_to: Open, crowd: Crowd) -> None:
    """Column heads, cells, lists, curves, titles and the permalink; then a click into the grid."""
    visit = visit_to(crowd.site, viewport=WIDE)
    usable = [w for w in crowd.words if "\0" not in w and len(w) < 60]
    labels = {visible(word) for word in crowd.words}
    chosen = random.Random(0).sample(usable, 30)
    prompt = "|".join(chosen)  # or two of them would be read as a third
    page = visit.go(f"/?{urlencode({'prompt': prompt, 'k': 50, 'panel': 'agreement'})}")
    settle(page)
    heads = page.locator(".cells thead th").filter(has=page.locator(".tok"))
    firsts = heads.evaluate_all("all => all.map((h) => h.querySelector('.tok').textContent)")
    assert firsts[::2] == [visible(word) for word in chosen]
    listed = page.locator("#cell .three .tok").all_text_contents()
    assert len(listed) == 150
    assert sum(text in labels for text in listed) > 100, "most of this vocabulary is hostile"
    kept = prompt.replace("\r\n", "\n").replace("\r", "\n")
    assert page.locator("#prompt").input_value() == kept
    nothing_acts(visit)
    in_the_grid(page, [visible(word) for word in chosen])
    pinned = page.locator("#cell .three a.tok-link").filter(has_text="<").first
    name = pinned.locator(".tok").text_content() or ""
    pinned.click()
    expect(page.get_by_role("link", name="Back to the answer and its rivals")).to_be_visible()
    expect(page.locator("#curves-plot[data-ready=yes]")).to_be_attached()
    names = page.locator("#curves-plot").evaluate("gd => gd.data.map((one) => one.name)")
    assert plot_text(name, 18) in names
    nothing_acts(visit)


def under_the_pointer(page: Page) -> None:
    """Each dot of the result's maps says its text and its labels, as text."""
    texts = json.loads(page.locator("#map-texts").evaluate("t => t.content.textContent"))
    assert any("<" in one["text"] for one in texts)
    said = {str(one["row"]): one for one in texts}
    dots = page.locator("#map-before circle[data-row]")
    for row in dots.evaluate_all("all => all.map((dot) => dot.dataset.row)"):
        # By its row: a dot that is lit is drawn last, so that the order changes.
        page.locator(f'#map-before circle[data-row="{row}"]').dispatch_event("pointerover")
        one = said[row]
        tip = page.locator("#map-tip")
        assert tip.locator(".tip-text").evaluate("e => e.textContent") == one["text"]
        assert f"truly {one['label']}" in (tip.text_content() or "")
        assert tip.locator("*").count() == 1


def test_hostile_labels_and_titles_on_every_other_page(visit_to: Open, crowd: Crowd) -> None:
    visit = visit_to(crowd.site, viewport=WIDE)
    setup = urlencode({"set": crowd.set, "text": TEXT, "label": LABEL})
    told = {
        f"/calibrate?{setup}": [FIRST, SECOND],
        f"/calibrate/{crowd.saved}": [FIRST, SECOND, TITLE],
        f"/jobs/{crowd.job}": [TITLE],
        "/jobs": [TITLE],
        f"/?prompt=plain&calibration={crowd.saved}": [FIRST, SECOND, TITLE],
        f"/map?vocabulary=none&texts={crowd.set}&colour=label": [],
        f"/bases?search={quote('<')}&k=50": [],
        "/model": [],
    }
    for path, texts in told.items():
        page = visit.go(path)
        settle(page)
        whole = page.locator("main").text_content() or ""
        for text in texts:
            assert text in whole, (path, text)
        if path == f"/calibrate/{crowd.saved}":
            under_the_pointer(page)
        nothing_acts(visit)
    assert page.locator("h1").count() == 1


GADGET = """(place) => { const one = document.createElement("div");
  one.innerHTML = '<div hx-get="/livez" hx-trigger="load"></div>';
  place.append(one); htmx.process(place); }"""


def test_htmx_is_off_wherever_a_texts_place_is(visit_to: Open, crowd: Crowd) -> None:
    """Even an attribute that got through would fire nothing; outside of such a place it does."""
    visit = visit_to(crowd.site, viewport=WIDE)
    for path, places in {
        "/": (".tok", "#grid", "#python"),
        "/map?select=near%3A200": (".map-tip", ".map-plot", ".map-legend"),
        f"/calibrate/{crowd.saved}": ("h1 [hx-disable]", ".pairs dd"),
    }.items():
        page = visit.go(path)
        settle(page)
        before = len(visit.guard.requests)
        for place in places:
            page.locator(place).first.evaluate(GADGET)
        # What comes last and outside of such a place is asked for, and it alone.
        with page.expect_response("**/livez"):
            page.locator("main").evaluate(GADGET)
        asked = [u for u in visit.guard.requests[before:] if u.endswith("/livez")]
        assert len(asked) == 1, path
