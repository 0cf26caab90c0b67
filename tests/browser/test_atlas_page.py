"""The Map page's picture: large, its names apart, found and flown to, drawn while it runs."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from driving import PATIENCE_MS, Open, Site, Visit, until
from playwright.sync_api import Page, Route, expect
from test_map_page import PLACE, open_map, pixels, ready

from app.figures.map import BULK

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

ATLAS = "/map?projection=umap&prompt="
STAGE = {"width": 1440, "height": 900}
BOXES = """() => [...document.querySelectorAll('#map-a .scatterlayer text')].map((one) => {
  const r = one.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; })
  .filter((r) => r[2] > r[0])"""

HIDDEN = """(edge) => { const p = lexiscope.map.all()[0]; const { yaxis } = p.element._fullLayout;
  return p.places[1].filter((y) => yaxis.c2p(y) + yaxis._offset < edge).length / p.n; }"""
"""The share of the dots that lie above a height."""
WRITTEN = """() => {
  const p = lexiscope.map.all()[0], n = p.n;
  const more = p.places.map((one) => Float32Array.from([...one, one[5], one[7]]));
  const one = Object.assign(Object.create(p), {
    places: more, grid: new lexiscope.points.Grid(...more),
    kinds: [...p.kinds, { kind: "prompt", start: n, count: 2 }],
    label: (i) => (i < n ? `␣w${i}` : i === n ? "␣is" : "␣w7"),
  });
  return [one.written(n), one.written(n + 1)];
}"""
"""What is written at two states, one at the place of basis 5 and one, called w7, at that of 7."""


def overlaps(boxes: list[list[float]]) -> int:
    """How many pairs of boxes cover each other by more than a pixel each way."""
    found = 0
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            wide = min(a[2], b[2]) - max(a[0], b[0])
            found += wide > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 3
    return found


def range_of(page: Page) -> Any:
    return page.evaluate("lexiscope.map.all()[0].view()")


def test_the_picture_is_the_page_and_what_is_found_is_flown_to(visit_to: Open, site: Site) -> None:
    opened = visit_to(site, viewport=STAGE, reduced_motion="reduce")
    # The dots are there before the words are: one answer that is held back.
    held: list[Route] = []
    opened.page.route("**/api/v1/vocabulary*", lambda route: held.append(route))
    page = opened.go(ATLAS)
    expect(page.locator("#map-a[data-ready]")).to_be_attached()
    until(page, lambda: bool(held))
    assert pixels(page) > 500
    assert page.locator("#map-a .scatterlayer text").count() == 0
    held.pop().continue_()
    ready(page)
    box = page.locator("#map-a").bounding_box()
    assert box is not None
    assert box["y"] < 0.2 * STAGE["height"]
    assert box["height"] >= 0.79 * STAGE["height"]
    # At first what stands on the picture hides no dot.
    about = page.locator(".map-about").bounding_box()
    assert about is not None
    covered = page.evaluate(HIDDEN, about["y"] + about["height"] - box["y"])
    assert covered < 1 - BULK[1]  # what the first view leaves out in any case
    assert page.evaluate(WRITTEN) == ["is → w5", "w7"]
    bar = page.locator(".map-bar").bounding_box()
    assert bar is not None
    assert bar["y"] + bar["height"] <= STAGE["height"]
    if not page.evaluate("lexiscope.map.all()[0].regions.length"):
        pytest.skip("the small model's atlas does not ship")
    # Regions are named, coarse ones at first; nearer there are more names; none covers another.
    names = [page.evaluate(BOXES)]
    shown = set(page.locator("#map-a .scatterlayer text").all_text_contents())
    assert len(shown) > 5
    for _ in range(2):
        view = range_of(page)
        for _ in range(3):
            page.get_by_role("button", name="Zoom in").click()
        until(page, lambda view=view: range_of(page) != view)
        names.append(page.evaluate(BOXES))
    assert [overlaps(one) for one in names] == [0, 0, 0]
    near = page.evaluate("lexiscope.map.all()[0].cloud.near")
    assert near > 2
    later = set(page.locator("#map-a .scatterlayer text").all_text_contents())
    assert later - shown
    # A word is completed, the exact one first, then flown to, ringed and named.
    find = page.get_by_label("Find on the map")
    find.press_sequentially("mother")
    options = page.locator("#find-words option")
    expect(options.first).to_have_attribute("value", "mother")
    find.press("Enter")
    expect(page.locator("#found .map-tokens .tok").first).to_have_text("␣mother")
    index = int(page.locator("#found").get_attribute("data-fly") or -1)
    assert page.evaluate("i => lexiscope.map.all()[0].label(i)", index) == "␣mother"
    expect(page.locator("#map-a ~ .map-tip bdi")).to_have_text("␣mother")
    x, y, inside = page.evaluate(PLACE, index)
    assert inside
    assert abs(x - box["x"] - box["width"] / 2) < 0.1 * box["width"]
    assert abs(y - box["y"] - box["height"] / 2) < 0.1 * box["height"]


def test_skewed_numbers_have_their_colours_and_states_their_own(visit: Visit) -> None:
    """By rank where half would share a few steps; codes rise with the values in each group."""
    page = open_map(visit)
    asked = """([values, runs]) => {
      const flat = new Uint8Array(new Float32Array(values).buffer);
      const coded = lexiscope.points.coded({ type: "number", values: btoa(String.fromCharCode(...flat)) }, runs);
      return { codes: [...coded.codes], ranked: coded.scales.map((s) => s.ranked), names: coded.scales.map((s) => s.name) };
    }"""  # noqa: E501
    generator = np.random.default_rng(0)
    skewed = np.exp(3 * generator.normal(size=200)).astype(np.float32)
    even = np.linspace(100, 200, 50, dtype=np.float32)
    runs = [
        {"kind": "basis", "start": 0, "count": 200},
        {"kind": "prompt", "start": 200, "count": 50},
    ]
    found = page.evaluate(asked, [[*skewed.tolist(), *even.tolist()], runs])
    assert found["ranked"] == [True, False]
    assert found["names"] == ["bases", "states"]
    codes = np.array(found["codes"])
    assert len(np.unique(codes[:200])) == 48
    order = np.argsort(skewed, kind="stable")
    assert all(a <= b for a, b in pairwise(codes[order]))
    np.testing.assert_array_equal(codes[200:], np.round(np.linspace(0, 47, 50)))


def test_another_text_has_its_input_at_once(visit: Visit) -> None:
    page = open_map(visit)
    page.get_by_text("Settings", exact=False).first.click()
    area = page.get_by_label("Another text beside it")
    expect(area).not_to_be_visible()
    page.get_by_label("Beside it", exact=True).select_option("prompt")
    expect(area).to_be_visible()
    area.fill("He closed the window")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator(".map-panel")).to_have_count(2)


def test_a_umap_is_drawn_while_it_runs_and_the_page_stays(visit: Visit) -> None:
    """Its places on their way, then the picture, then what was measured; all on one page."""
    page = visit.go("/map?projection=umap&prompt=&select=search%3Ast&neighbours=7")
    origin = page.evaluate("performance.timeOrigin")
    page.evaluate(
        """() => { window.sketches = 0; const old = lexiscope.Cloud.prototype.draw;
        lexiscope.Cloud.prototype.draw = function () {
          if (this.canvas.closest('.map-draft')) window.sketches++; old.call(this); }; }"""
    )
    # However fast it is: at the first look the job is under way, and these are its places.
    looks = iter([{"state": "running", "note": "placing points", "done": 1, "total": 4}])
    places = np.random.default_rng(0).normal(size=(90, 2)).astype("<f4")

    def once(route: Route) -> None:
        view = next(looks, None)
        if view is None:
            route.continue_()
        else:
            route.fulfill(json=view)

    def draft(route: Route) -> None:
        headers = {"X-Lexiscope-Points": "90,2"}
        route.fulfill(body=places.tobytes(), headers=headers)

    page.route("**/api/v1/jobs/*", once)
    page.route("**/api/v1/map/draft*", draft)
    page.get_by_role("button", name="Compute it").click()
    until(page, lambda: page.evaluate("window.sketches") > 0)
    # UMAP is compiled first, which is most of the work.
    expect(page.locator("#map-a[data-ready]")).to_be_attached(timeout=4 * PATIENCE_MS)
    assert page.evaluate("performance.timeOrigin") == origin
    assert page.url.split("?")[0].endswith("/map")
    expect(page.locator("#badge-a")).to_have_text(re.compile("neighbours kept"))
    # What is measured afterwards arrives without a click.
    moves = "another seed moves a point"
    expect(page.locator("#facts-a")).to_contain_text(moves, timeout=4 * PATIENCE_MS)
