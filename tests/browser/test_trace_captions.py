"""The captions of the Trace page's grid: in view wherever the grid has been scrolled to."""

from __future__ import annotations

from typing import Any

import pytest
from driving import Open, Site, Visit
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

GRID = "#grid[data-ready=yes]"
LONG = (
    "/?prompt=Once+upon+a+time+there+was+a+little+girl+who+lived+in+a+small+house+near+the"
    "+forest+and+every+day+she+went+to+the+river"
)
ROWS = """() => {
  const gd = document.querySelector("#grid"), box = gd.parentElement.getBoundingClientRect();
  const { yaxis } = gd._fullLayout, top = gd.getBoundingClientRect().top;
  return [...document.querySelectorAll(".grid-rows span:not(.grid-title)")].map((one, i) => {
    const at = one.getBoundingClientRect();
    return { text: one.textContent, inside: at.left >= box.left && at.right <= box.right,
             off: Math.abs((at.top + at.bottom) / 2 - top - yaxis._offset - yaxis.c2p(i)) };
  });
}"""
"""Each layer's caption: whether it lies in the visible part, and how far it is from its row."""
COLUMNS = """() => {
  const gd = document.querySelector("#grid"), { xaxis } = gd._fullLayout;
  const left = gd.getBoundingClientRect().left;
  return [".above", ".under"].map((side) =>
    [...document.querySelectorAll(`.grid-columns${side} .grid-inner span`)].map((one, i) => {
      const at = one.getBoundingClientRect();
      return { text: one.textContent, top: at.top, bottom: at.bottom,
               off: Math.abs((at.left + at.right) / 2 - left - xaxis._offset - xaxis.c2p(i)) };
    }));
}"""
NEAR = 1.5  # pixels


def drawn(opened: Visit, path: str) -> Page:
    page = opened.go(path)
    expect(page.locator(GRID)).to_be_visible()
    return page


def scroll_sideways(page: Page, to: int) -> None:
    page.locator("#grid").evaluate("(gd, to) => { gd.parentElement.scrollLeft = to; }", to)
    # What follows the scroll is done in the same frame; two frames later it has been.
    page.evaluate("() => new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(f)))")


@pytest.mark.parametrize("width", [400, 1440])
def test_captions_stay_while_the_grid_is_scrolled_sideways(
    visit_to: Open, site: Site, width: int
) -> None:
    """Each layer's name beside its row, each token's over its column, the axes' names in view."""
    page = drawn(visit_to(site, viewport={"width": width, "height": 900}), LONG)
    for left in (0, 137, 100_000):
        scroll_sideways(page, left)
        rows: list[dict[str, Any]] = page.evaluate(ROWS)
        assert [row["text"] for row in rows] == page.evaluate(
            "document.querySelector('#grid').layout.yaxis.ticktext"
        )
        assert all(row["inside"] and row["off"] < NEAR for row in rows), rows
        above, under = page.evaluate(COLUMNS)
        assert len(above) == len(under) > 20
        assert max(one["off"] for one in above + under) < NEAR
        box = page.locator(".plot-frame:has(#grid)").bounding_box()
        assert box is not None
        names = page.locator(".grid-title, .grid-aside")
        expect(names).to_have_count(3)
        for name in names.all():
            place = name.bounding_box()
            assert place is not None
            assert name.evaluate(
                "one => getComputedStyle(one.parentElement).overflow === 'visible'"
                " || one.matches('.grid-title')"
            ), "nothing cuts it off"
            assert place["x"] >= box["x"] - 1
            assert place["x"] + place["width"] <= box["x"] + box["width"] + 1
    assert page.locator("#grid").evaluate("gd => gd.parentElement.scrollLeft") > 0


def test_the_captions_say_what_the_figure_says(visit_to: Open, site: Site) -> None:
    """Under the columns the prompt's tokens with their positions, above them the predictions."""
    page = drawn(visit_to(site, viewport={"width": 1440, "height": 900}), LONG)
    above, under = page.evaluate(COLUMNS)
    heads = page.locator(".cells thead th:not(:first-child)")
    tokens = heads.locator(".tok:not(.bare)").all_text_contents()
    answers = heads.locator(".tok.bare").all_text_contents()
    assert [one["text"] for one in under] == [f"{t}\n{i}" for i, t in enumerate(tokens)]
    assert [one["text"] for one in above] == answers


def test_tokens_stay_in_the_window_past_a_grid_that_is_higher(visit_to: Open, site: Site) -> None:
    """Over the rows and under them; and neither covers the row that the keys have reached."""
    page = drawn(visit_to(site, viewport={"width": 1000, "height": 300}), LONG)
    top, height = page.locator("#grid").evaluate(
        "gd => [gd.getBoundingClientRect().top + scrollY, gd.getBoundingClientRect().height]"
    )
    assert height > 300, "higher than the window"
    page.evaluate("y => scrollTo(0, y)", top + 70)
    above, under = page.evaluate(COLUMNS)
    assert all(0 <= one["top"] < one["bottom"] <= 300 for one in above + under)
    page.locator("#grid").focus()
    for key in ["ArrowDown"] * 8 + ["ArrowUp"] * 8:
        page.keyboard.press(key)
        cell, over, below = page.evaluate(
            """() => [document.querySelector("#grid .shapelayer path"),
                      ...document.querySelectorAll(".grid-columns")].map((one) => {
                const { top, bottom } = one.getBoundingClientRect(); return [top, bottom]; })"""
        )
        assert over[1] - 3 <= cell[0], "the open row is not under the upper captions"
        assert cell[1] <= below[0] + 3, "nor under the lower ones"


def test_in_a_window_that_holds_the_grid_no_caption_moves(visit_to: Open, site: Site) -> None:
    page = drawn(visit_to(site, viewport={"width": 1440, "height": 900}), LONG)
    offsets = set()
    for y in (0, 150, 350):
        page.evaluate("y => scrollTo(0, y)", y)
        above, _ = page.evaluate(COLUMNS)
        top = page.locator("#grid").evaluate("gd => gd.getBoundingClientRect().top")
        offsets.add(round(above[0]["top"] - top))
    assert len(offsets) == 1
