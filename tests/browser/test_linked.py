"""What is pointed at in one figure is marked in those beside it, by mouse and by keys."""

from __future__ import annotations

import pytest
from driving import Open, Site, settle, until
from playwright.sync_api import Page

pytestmark = pytest.mark.browser

MARKED = """() => Object.fromEntries([...document.querySelectorAll("[data-linked]")].map((gd) => {
  const one = (gd.layout.shapes ?? []).filter((shape) => shape.name === "linked");
  const place = (s) => [(s.x0 + s.x1) / 2, (s.y0 + s.y1) / 2];
  return [gd.id, one.map((s) => s.type === "line" ? ["layer", s.x0] : place(s))];
}))"""
"""Of every linked figure what is marked: (column, row) of a grid, the layer of a race."""


def point_at(page: Page, id: str, column: int, row: int) -> None:
    page.locator(f"#{id}").scroll_into_view_if_needed()
    x, y = page.locator(f"#{id}").evaluate(
        """(gd, [column, row]) => {
          const { xaxis, yaxis } = gd._fullLayout, box = gd.getBoundingClientRect();
          return [box.left + xaxis._offset + xaxis.d2p(column),
                  box.top + yaxis._offset + yaxis.d2p(row)];
        }""",
        [column, row],
    )
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)


def test_the_same_cell_is_marked_in_every_figure_beside_it(visit_to: Open, site: Site) -> None:
    page = visit_to(site, viewport={"width": 1440, "height": 1400}).go(
        "/compare?prompt=The+cat+sat&other=The+dog+sat"
    )
    settle(page)
    everywhere = {"difference", "grid-1", "grid-2", "race-plot"}
    for id in ("difference", "grid-2"):
        point_at(page, id, 1, 2)
        until(
            page,
            lambda: (
                page.evaluate(MARKED)
                == {one: [["layer", 2]] if one == "race-plot" else [[1, 2]] for one in everywhere}
            ),
        )
    page.mouse.move(1, 1)
    until(page, lambda: page.evaluate(MARKED) == {one: [] for one in everywhere})

    page.locator("#grid-1").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    first = page.evaluate(MARKED)["grid-1"]
    until(page, lambda: page.evaluate(MARKED)["race-plot"] != [])
    found = page.evaluate(MARKED)
    assert found["difference"] == found["grid-2"] == found["grid-1"] != [], first
    assert found["race-plot"] == [["layer", found["grid-1"][0][1]]]
    assert "layer" in page.locator("#live").inner_text()

    page = visit_to(site, viewport={"width": 1440, "height": 1400}).go("/?prompt=The+cat+sat")
    settle(page)
    point_at(page, "grid", 0, 1)
    until(page, lambda: page.evaluate(MARKED) == {"grid": [[0, 1]], "curves-plot": [["layer", 1]]})
    page.mouse.move(1, 1)
    page.locator("#grid").focus()
    page.keyboard.press("ArrowDown")
    until(page, lambda: page.evaluate(MARKED)["curves-plot"] != [])
    cursor = page.locator("#grid").evaluate(
        "gd => gd.layout.shapes.filter((s) => s.name !== 'linked').map((s) => (s.y0 + s.y1) / 2)"
    )
    assert page.evaluate(MARKED)["curves-plot"] == [["layer", cursor[0]]]
