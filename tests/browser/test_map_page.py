"""The Map page in a real browser: dots where the server has them, one hand on two pictures."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from driving import HOSTILE, PATIENCE_MS, Open, Site, Visit, until
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

PLACE = """i => { const p = lexiscope.map.all()[0]; const w = p.where(i);
 const r = p.element.getBoundingClientRect(); return [r.left + w.x, r.top + w.y, w.inside]; }"""
WIDE = {"width": 1440, "height": 1000}


def ready(page: Page) -> Page:
    """Wait until every picture is drawn and coloured."""
    expect(page.locator(".map-plot").first).to_be_attached()
    expect(page.locator(".map-plot:not([data-ready])")).to_have_count(0)
    expect(page.locator(".map-legend").first).not_to_be_empty()
    return page


TEXT = "/map?prompt=She+opened+the+door+and"
"""All bases with a text among them."""


def open_map(visit: Visit, path: str = TEXT) -> Page:
    return ready(visit.go(path))


def pixels(page: Page) -> Any:
    """How many pixels of the dots' canvas are painted, read straight from WebGL."""
    return page.evaluate(
        """() => { const { cloud } = lexiscope.map.all()[0]; cloud.draw(); const gl = cloud.gl;
        const { width, height } = cloud.canvas; const all = new Uint8Array(4 * width * height);
        gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, all);
        let n = 0; for (let i = 3; i < all.length; i += 4) n += all[i] > 40; return n; }"""
    )


def test_the_dots_are_the_servers(visit: Visit, site: Site) -> None:
    """The arrays in the page are the bytes of the API, and they are painted."""
    page = open_map(visit)
    shown = page.evaluate("lexiscope.map.all()[0].places.map((one) => [...one.slice(0, 50)])")
    query = page.evaluate("lexiscope.map.all()[0].source.query")
    body = page.request.get(f"{site.url}/api/v1/map/points?{query}").body()
    wanted = np.frombuffer(body, dtype="<f4").reshape(-1, 2)[:50]
    assert np.array_equal(np.asarray(shown, dtype=np.float32).T, wanted)
    assert pixels(page) > 500


def test_the_pointer_names_a_point_and_a_click_opens_it(visit: Visit) -> None:
    """The name under the pointer is the token's, and its neighbours are the API's."""
    page = open_map(visit)
    lone = page.evaluate(
        """() => { const p = lexiscope.map.all()[0]; const { px, py } = p.axes();
        const free = (i) => { let n = 0; const [x, y] = [p.places[0][i], p.places[1][i]];
          p.grid.within(x - 16 / px, x + 16 / px, y - 16 / py, y + 16 / py, () => { n++; });
          return n === 1 && p.where(i).inside && p.where(i).y > 160; };
        for (let i = 0; i < p.runs.points.count; i++) if (free(i)) return i; return -1; }"""
    )
    assert lone >= 0
    page.locator(".map-plot").scroll_into_view_if_needed()
    x, y, _ = page.evaluate(PLACE, lone)
    page.mouse.move(x + 3, y + 2)
    label = page.evaluate("i => lexiscope.map.all()[0].label(i)", lone)
    expect(page.locator(".map-tip bdi")).to_have_text(label)
    page.mouse.click(x + 3, y + 2)
    expect(page.locator("#point-title")).to_have_text(label)
    assert f"point={lone}" in page.url
    lit = page.evaluate("lexiscope.map.all()[0].lit.length")
    assert lit == page.locator("#point .map-near tbody tr").count()


def test_the_keyboard_walks_from_point_to_point(visit: Visit) -> None:
    page = open_map(visit)
    page.locator(".map-plot").focus()
    page.keyboard.press("ArrowRight")
    first = page.evaluate("lexiscope.map.all()[0].at")
    assert first >= 0
    page.keyboard.press("ArrowRight")
    second = page.evaluate("lexiscope.map.all()[0].at")
    here, there = page.evaluate(PLACE, first), page.evaluate(PLACE, second)
    assert second != first
    assert there[0] > here[0]
    name = page.evaluate("i => lexiscope.map.all()[0].label(i)", second)
    expect(page.locator("#live")).to_contain_text(name)
    page.keyboard.press("Enter")
    expect(page.locator("#point-title")).to_have_text(name)


def test_layers_follow_the_slider_and_keep_each_points_identity(visit: Visit, site: Site) -> None:
    """After steps the places are the layer's own; title, address and badge follow."""
    page = open_map(visit)
    last = int(page.locator("#layer").get_attribute("max") or 0)
    page.get_by_role("button", name="One layer back").click()
    expect(page.locator("#layer-shown")).to_have_text(f"layer {last - 1} of {last}")
    expect(page.locator("#title-a")).to_contain_text(f"Layer {last - 1} of {last}")
    assert f"layer={last - 1}" in page.url
    query = page.evaluate("lexiscope.map.all()[0].source.query")
    body = page.request.get(f"{site.url}/api/v1/map/points?{query}&layer={last - 1}").body()
    wanted = np.frombuffer(body, dtype="<f4").reshape(-1, 2)

    def arrived() -> bool:
        shown = page.evaluate("lexiscope.map.all()[0].places.map((one) => [...one])")
        return np.array_equal(np.asarray(shown, dtype=np.float32).T, wanted)

    until(page, arrived)


def test_reduced_motion_moves_nothing_in_between(visit_to: Open, site: Site) -> None:
    page = open_map(visit_to(site, viewport=WIDE, reduced_motion="reduce"))
    page.evaluate(
        """() => { window.between = 0; const p = lexiscope.map.all()[0];
        const old = p.under_axes.bind(p);
        p.under_axes = (s = 0) => { if (s > 0) window.between++; old(s); }; }"""
    )
    where = "lexiscope.map.all()[0].places.map((one) => [...one])"
    before = page.evaluate(where)
    page.get_by_role("button", name="One layer back").click()
    until(page, lambda: page.evaluate(where) != before)
    frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    page.evaluate(frames)
    assert page.evaluate("window.between") == 0


def test_two_pictures_share_pointer_and_zoom(visit_to: Open, site: Site) -> None:
    page = open_map(visit_to(site, viewport=WIDE), f"{TEXT}&compare=layer%3A1")
    assert page.locator("canvas").count() <= 4
    index = page.evaluate("lexiscope.map.all()[0].n - 1")
    tips = page.locator(".map-tip:not([hidden]) bdi")

    def shown_twice() -> bool:
        hover = "i => { const one = lexiscope.map.all()[0]; one.hover(-1); one.hover(i); }"
        page.evaluate(hover, index)
        return tips.count() == 2

    until(page, shown_twice)
    assert len(set(tips.all_text_contents())) == 1
    views = "lexiscope.map.all().map((p) => p.view())"
    before, _ = page.evaluate(views)
    page.locator("[data-panel=a]").get_by_role("button", name="Zoom in").click()

    def zoomed_alike() -> bool:
        one, two = page.evaluate(views)
        axes = ("xaxis.range", "yaxis.range")
        return one != before and all(np.allclose(one[axis], two[axis]) for axis in axes)

    until(page, zoomed_alike)


def test_a_first_visit_shows_named_words_in_their_colours(visit: Visit, site: Site) -> None:
    page = open_map(visit, "/map")
    assert "select=words" in page.url
    expect(page.locator("#badge-a")).to_contain_text("nearest neighbours in the model")
    legend = page.locator(".map-legend")
    for group in ("animals", "family", "numbers"):
        expect(legend).to_contain_text(group)
    drawn = page.evaluate(
        """(() => { const p = lexiscope.map.all()[0];
        return p.figure.data[p.trace('names')].text; })()"""
    )
    assert len(drawn) > 20
    assert {"mother", "two", "dog"} & set(drawn)
    # No basis differs from layer to layer, so nothing plays.
    expect(page.get_by_role("button", name="One layer back")).to_be_disabled()
    expect(page.locator("#layer")).to_be_disabled()


def test_before_and_after_a_calibration_stand_side_by_side(visit_to: Open, site: Site) -> None:
    """One frame and one window; the dots of the left are the model's own, by the API."""
    opened = visit_to(site, viewport=WIDE)
    ask = opened.page.request
    body = {"set": "topics", "template": "Text: {text}\nTopic:", "epochs": 3, "compare": False}
    job = ask.post(f"{site.url}/api/v1/calibrations", data=body).json()["id"]
    seen = f"{site.url}/api/v1/jobs/{job}"
    until(opened.page, lambda: ask.get(seen).json()["finished"])
    view = ask.get(seen).json()
    assert view["state"] == "done", view
    page = open_map(opened, f"/map/calibration/{view['result']}")
    expect(page.locator("#title-a")).to_contain_text("before the calibration")
    expect(page.locator("#title-b")).to_contain_text("after the calibration")
    left, right = page.evaluate("lexiscope.map.all().map((p) => p.view())")
    assert left == right
    a, b = page.evaluate("lexiscope.map.all().map((p) => p.places.map((one) => [...one]))")
    bases = 4  # the labels' words
    assert np.array_equal(np.array(a)[:, :bases], np.array(b)[:, :bases])
    assert not np.allclose(np.array(a)[:, bases:], np.array(b)[:, bases:])
    query = page.evaluate("lexiscope.map.all()[0].source.query")
    plain = re.sub(r"&?(calibration|side)=[^&]*", "", query)
    own = ask.get(f"{site.url}/api/v1/map?{plain}").json()["coordinates"]
    assert np.allclose(np.array(a).T, np.array(own), atol=1e-6)
    page.evaluate("i => lexiscope.map.all()[0].hover(i)", bases + 7)
    expect(page.locator(".map-tip:not([hidden]) bdi")).to_have_count(2)
    page.locator("#changes").scroll_into_view_if_needed()
    expect(page.locator("#changes")).to_contain_text("From before to after the calibration")
    assert ask.delete(f"{site.url}/api/v1/calibrations/{view['result']}").status == 204


def test_a_lasso_asks_the_server_and_lights_its_answer(visit: Visit) -> None:
    page = open_map(visit)
    page.get_by_role("radio", name="lasso").check()
    page.locator(".map-plot").scroll_into_view_if_needed()
    box = page.locator(".map-plot").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.4
    page.mouse.move(x, y)
    page.mouse.down()
    for dx, dy in ((60, -20), (120, 20), (110, 90), (30, 100), (-10, 40), (0, 0)):
        page.mouse.move(x + dx, y + dy, steps=4)
    page.mouse.up()
    section = page.locator("#selected")
    expect(section).to_contain_text("inside the outline")
    count = int(re.sub(r"\D", "", section.inner_text().split(" of ")[0]))
    assert page.evaluate("lexiscope.map.all()[0].lit.length") == count
    with page.expect_download() as download:
        section.get_by_role("button", name="All as CSV").click()
    assert download.value.suggested_filename.endswith(".csv")


def test_what_is_found_is_lit_and_colours_change_without_a_new_page(visit: Visit) -> None:
    page = open_map(visit)
    page.get_by_label("Find on the map").fill("ing")
    page.get_by_label("Find on the map").press("Enter")
    expect(page.locator("#found")).to_contain_text("found")
    assert page.evaluate("lexiscope.map.all()[0].lit.length") > 0
    before = page.evaluate("performance.timeOrigin")
    page.get_by_label("Colour by").select_option("norm")
    expect(page.locator(".map-legend .map-scale")).to_have_count(2)  # bases, and the text's states
    expect(page.locator(".map-legend b")).to_have_text(["bases", "states"])
    assert "colour=norm" in page.url
    assert page.evaluate("performance.timeOrigin") == before


def test_three_dimensions_are_drawn_and_can_be_turned(visit_to: Open, site: Site) -> None:
    opened = visit_to(site, viewport=WIDE)
    opened.guard.allow = ("willReadFrequently",)
    page = open_map(opened, "/map?dims=3&select=near%3A200")
    assert page.locator("#map-a canvas").count() >= 1
    assert page.locator("#drag-lasso").count() == 0
    page.get_by_role("button", name="Zoom in").click()


def test_a_layer_cell_leads_to_two_pictures(visit: Visit) -> None:
    page = open_map(visit)
    page.get_by_role("link", name="Show the table").click()
    page.get_by_title("layers 1 and 3").first.click()
    ready(page)
    expect(page.locator(".map-panel")).to_have_count(2)
    assert "compare=layer" in page.url


def test_without_script_the_picture_and_the_tables_stand(visit_to: Open, site: Site) -> None:
    page = visit_to(site, script=False, viewport=WIDE).go("/map?panel=quality&point=300")
    still = page.locator(".map-still")
    expect(still).to_be_visible()
    assert page.locator("#point .map-near tbody tr").count() > 3
    expect(page.locator("#badge-a")).to_contain_text("nearest")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("h1")).to_be_visible()


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1440, "light")])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_page(
    visit_to: Open, site: Site, scheme: str, width: int
) -> None:
    settings = {"color_scheme": scheme, "viewport": {"width": width, "height": 1000}}
    page = open_map(visit_to(site, **settings), f"{TEXT}&find=ing")
    page.get_by_role("link", name="Show the table").click()
    expect(page.locator("#layers table").first).to_be_visible()
    wide, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= room
    serious = [
        f"{v['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for v in Axe().run(page).response["violations"]
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"][:3]
    ]
    assert not serious, "\n".join(serious)


def test_hostile_tokens_are_only_names(visit_to: Open, hostile_site: Site) -> None:
    """On the map, under the pointer, in lists: the very characters, and only as characters."""
    visit = visit_to(hostile_site, viewport=WIDE)
    page = open_map(visit, f"/map?prompt={quote('|'.join(HOSTILE[:6]))}&find=a")
    for i in range(page.evaluate("lexiscope.map.all()[0].n")):
        page.evaluate("i => lexiscope.map.all()[0].hover(i)", i)
    inside = page.locator(".tok *, .map-tip bdi *, .map-plot a, .map-legend a, img[src=x]")
    assert inside.count() == 0
    assert page.locator("script:not([src])").count() == 0
