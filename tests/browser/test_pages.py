"""What holds on every page: no trouble, no foreign word, readable, reachable, safe."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from driving import HOSTILE, Open, Site, Visit, settle, until
from playwright.sync_api import Page, expect

from engine.model.vocabulary import visible

pytestmark = pytest.mark.browser

PAGES = {
    "trace": "/",
    "trace with everything": "/?panel=agreement&geometry=l2&colour=kl&cell=1%2C1&curve=rank",
    "act": "/act",
    "generate": "/generate?prompt=Once+upon+a&tokens=4&forks=1%3A300&branch=1",
    "history": "/history",
    "two models": "/compare/models",
    "two prompts": "/compare?prompt=The+cat+sat&other=The+dog+sat",
    "bases": "/bases",
    "search": "/bases?search=e&geometry=matmul",
    "map": "/map",
    "calibrate": "/calibrate",
    "jobs": "/jobs",
    "stories": "/present",
    "a story": "/present/paris",
    "own story": "/present/own",
    "readings": "/readings",
    "uses": "/uses",
    "agreement": "/agreement",
    "model": "/model?figures=true",
    "method": "/method",
    "source": "/method/source/frames",
    "cost": "/cost?prompt=one+two",
    "a mistake": "/?layers=90%3A95",
    "nothing there": "/no/such/page",
    "a value out of range": "/bases?k=9999",
    "no such calibration": "/calibrate/000000000000000000000000",
}
ANSWERS = ("the server responded with a status of 4",)
"""What the console says of the pages that are about a mistake."""
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 400, "height": 800}
DRAWN = """() => [...document.querySelectorAll(".plot-scroll")].every(box =>
  box.scrollWidth <= box.clientWidth + 1 || box.querySelector("[tabindex]"))"""
"""Whether each figure has the width of its box, or can be scrolled by keyboard."""
LARGER_LETTERS = """() => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync("*, *::before, *::after { letter-spacing: 0.15em !important; }");
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
}"""
"""A font a quarter wider than the one that this machine has; another machine may have it."""


def fits(page: Page) -> bool:
    """Whether the page is no wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize("path", PAGES.values(), ids=PAGES.keys())
def test_every_page_is_readable_wide_and_light_narrow_and_dark(
    visit_to: Open, site: Site, path: str
) -> None:
    """Nothing serious for axe, and nothing wider than the page, whatever fonts a machine has."""
    visit = visit_to(site, viewport=WIDE)
    visit.guard.allow = ANSWERS
    page = visit.go(path)
    settle(page)
    for size, scheme in ((WIDE, "light"), (NARROW, "dark")):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        until(page, lambda: fits(page) and bool(page.evaluate(DRAWN)))  # figures are drawn anew
        serious = [
            f"{scheme} {v['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
            for v in Axe().run(page).response["violations"]
            if v["impact"] in ("serious", "critical")
            for node in v["nodes"][:3]
        ]
        assert not serious, "\n".join(serious)
    before = page.locator(".brand").bounding_box()
    page.evaluate(LARGER_LETTERS)
    assert page.locator(".brand").bounding_box() != before, "the letters are as they were"
    assert fits(page), "with wider letters"


REFUSALS = {
    401: "A token is needed",
    403: "This request was refused",
    409: "This does not fit how things stand",
    413: "This is too large",
    503: "The server cannot answer now",
    504: "This took too long",
    507: "This could not be saved",
}


def test_a_whole_page_that_is_refused_says_so_in_plain_words(visit_to: Open, site: Site) -> None:
    """A title, a sentence and a way on, for every status; readable, and no wider than the page."""
    visit = visit_to(site, viewport=NARROW, color_scheme="dark")
    visit.guard.allow = ("the server responded with a status of",)
    try:
        for status, title in REFUSALS.items():
            site.faults.refuse("/bases", status, f"The trial says {status}.")
            page = visit.go("/bases")
            problem = page.locator("#problem")
            expect(problem.locator("h2")).to_have_text(title)
            expect(problem).to_contain_text(f"The trial says {status}.")
            assert fits(page), status
            if status == 503:
                again = page.get_by_role("link", name="Try again")
                found = Axe().run(page).response["violations"]
                assert not [v["id"] for v in found if v["impact"] in ("serious", "critical")]
                site.faults.stop()
                again.click()
                expect(page.locator(".token-title")).to_be_visible()
            else:
                page.get_by_role("link", name="Go to the first example").wait_for()
    finally:
        site.faults.stop()


def test_a_search_leads_to_a_token_and_its_neighbours(visit: Visit) -> None:
    page = visit.go("/bases")
    page.get_by_label("Find a token").fill("e")
    page.get_by_label("Find a token").press("Enter")
    hits = page.locator(".hits a")
    expect(hits.first).to_be_visible()
    wanted = hits.nth(2).inner_text()
    hits.nth(2).click()
    expect(page.locator(".token-title")).to_contain_text(wanted)
    page.get_by_role("radio", name="squared L2").check()
    expect(page.locator("#result")).to_contain_text("minus squared distance")
    expect(page.locator(".token-title")).to_contain_text(wanted)
    page.locator(".five .card").first.locator("tbody a").first.click()
    expect(page.locator(".token-title")).not_to_contain_text(wanted)
    page.go_back()
    expect(page.locator(".token-title")).to_contain_text(wanted)


def test_every_formula_leads_to_its_code(visit: Visit) -> None:
    page = visit.go("/method")
    link = page.locator("#cosine .where a").first
    name = link.inner_text().split("·")[1].strip()
    link.click()
    target = page.locator("li:target")
    expect(target).to_contain_text(name)


def test_the_skip_link_and_the_keyboard_reach_the_content(visit: Visit) -> None:
    page = visit.go()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"


def fired(visit: Visit) -> list[str]:
    """Requests that only a token could have asked for."""
    own = ("/", "/trace/agreement", "/trace/words", "/trace/contexts", "/api/v1/queue")
    paths = {u: urlsplit(u).path for u in visit.guard.requests}
    return [u for u, path in paths.items() if path not in own and not path.startswith("/static/")]


def _no_gadgets(page: Page) -> None:
    """Nothing that stands in a token became an element or an htmx attribute."""
    inside = page.locator(
        ".tok *, [data-plot] a[href], [data-plot] [hx-get], [data-plot] [hx-post]"
    )
    assert inside.count() == 0
    assert page.locator("img[src=x], script:not([src])").count() == 0


def test_hostile_tokens_show_their_own_text(visit_to: Open, hostile_site: Site) -> None:
    """In tables, in the figure, on its axis, in curves and chips: the very characters, and only
    as characters."""
    prompt = "|".join(["plain", *HOSTILE[:12]])
    visit = visit_to(hostile_site, viewport={"width": 1600, "height": 1000})
    page = visit.go(f"/?prompt={quote(prompt)}&k=24&geometry=matmul")
    settle(page)
    shown = set(page.locator("#cell .three .tok").all_text_contents())
    assert {visible(text) for text in HOSTILE} <= shown
    _no_gadgets(page)
    table = page.locator(".cells tbody .tok").all_text_contents()
    rows = page.locator(".cells tbody tr").count()
    columns = len(table) // rows
    in_figure = page.locator("#grid .scatterlayer .textpoint text").all_text_contents()
    by_row = [table[i * columns : (i + 1) * columns] for i in reversed(range(rows))]
    expected = [text if len(text) <= 11 else text[:10] + "…" for row in by_row for text in row]
    assert in_figure == expected
    ticks = page.locator("#grid .xaxislayer-above .xtick text tspan").all_text_contents()
    heads = [visible(text) for text in ["plain", *HOSTILE[:12]]]
    assert [t for t in ticks if not t.isdecimal()] == [
        t if len(t) <= 11 else t[:10] + "…" for t in heads
    ]
    assert not fired(visit)


def test_hostile_tokens_in_the_hover_and_after_a_swap(visit_to: Open, hostile_site: Site) -> None:
    """Hover labels show the token's own text, and swapped regions fire nothing."""
    prompt = "|".join(HOSTILE[:8])
    visit = visit_to(hostile_site, viewport={"width": 1600, "height": 1000})
    page = visit.go(f"/?prompt={quote(prompt)}&k=24")
    settle(page)
    first = page.locator(".cells tbody tr").last.locator(".tok").first.text_content()
    place = page.locator("#grid").evaluate(
        """(gd) => { const { xaxis, yaxis } = gd._fullLayout; const r = gd.getBoundingClientRect();
        gd.scrollIntoView(); return [r.left + xaxis._offset + xaxis.c2p(0),
        gd.getBoundingClientRect().top + yaxis._offset + yaxis.c2p(0)]; }"""
    )
    page.mouse.move(*place)
    hover = page.locator("#grid .hoverlayer .hovertext")
    expect(hover).to_contain_text(first or "?")
    page.mouse.click(*place)
    expect(page.locator("#cell-title")).to_contain_text("position 0")
    for link in range(3):
        page.locator("#cell .three a.tok-link:not(.pinned)").nth(link * 3).click()
        expect(page.locator("#curves")).to_contain_text("Your tokens")
        expect(page.locator("#cell .three a.tok-link.pinned").nth(link)).to_be_attached()
    settle(page)
    _no_gadgets(page)
    chips = page.locator("#curves .pins .tok").all_text_contents()
    assert set(chips) <= {visible(text) for text in [*HOSTILE, "plain", "<unk>"]}
    assert not fired(visit)


def test_hostile_tokens_on_the_bases_page(visit_to: Open, hostile_site: Site) -> None:
    page = visit_to(hostile_site).go("/bases?search=%3C&k=20")
    settle(page)
    found = set(page.locator(".hits .tok").all_text_contents())
    assert {visible(text) for text in HOSTILE if "<" in text} <= found
    _no_gadgets(page)
