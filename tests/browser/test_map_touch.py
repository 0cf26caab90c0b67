"""The Map page under fingers: one moves the picture or opens a point, two zoom it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from driving import Open, Site, Visit
from playwright.sync_api import CDPSession, Page, expect

pytestmark = pytest.mark.browser

TEXT = "/map?prompt=She+opened+the+door+and"
SOLID = "/map?dims=3&select=near%3A200&prompt=She+opened+the+door+and"
PHONE: dict[str, Any] = {
    "viewport": {"width": 400, "height": 800},
    "has_touch": True,
    "is_mobile": True,
}
RANGES = """() => { const { xaxis, yaxis } = lexiscope.map.all()[0].element._fullLayout;
 return [[...xaxis.range], [...yaxis.range]]; }"""
VALUES = """([x, y]) => { const { element } = lexiscope.map.all()[0];
 const { xaxis, yaxis } = element._fullLayout;
 const box = element.getBoundingClientRect();
 return [xaxis.p2c(x - box.left - xaxis._offset), yaxis.p2c(y - box.top - yaxis._offset)]; }"""
"""What lies at a place of the screen."""
CAMERA = "() => lexiscope.map.all()[0].element._fullLayout.scene._scene.getCamera()"
FRAMES = "() => new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(f)))"


class Fingers:
    """Fingers on the screen, by the browser's own input."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._devtools: CDPSession = page.context.new_cdp_session(page)

    def _send(self, kind: str, places: list[tuple[float, float]]) -> None:
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
        self._devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        self._page.evaluate(FRAMES)

    def down(self, *places: tuple[float, float]) -> None:
        for n in range(len(places)):
            self._send("touchStart", list(places[: n + 1]))

    def move(self, *ways: tuple[tuple[float, float], tuple[float, float]], steps: int = 8) -> None:
        for i in range(1, steps + 1):
            at = i / steps
            self._send(
                "touchMove", [(a + (c - a) * at, b + (d - b) * at) for (a, b), (c, d) in ways]
            )

    def up(self) -> None:
        self._send("touchEnd", [])

    def drag(self, *ways: tuple[tuple[float, float], tuple[float, float]]) -> None:
        self.down(*[begin for begin, _ in ways])
        self.move(*ways)
        self.up()


def open_map(visit: Visit, path: str) -> tuple[Page, Fingers, tuple[float, float]]:
    """The page, fingers, and the middle of the picture in view."""
    page = visit.go(path)
    expect(page.locator(".map-plot[data-ready]")).to_be_visible()
    expect(page.locator(".map-legend").first).not_to_be_empty()
    page.locator(".map-box").evaluate("one => one.scrollIntoView({ block: 'center' })")
    box = page.locator(".map-plot").bounding_box()
    assert box is not None
    return page, Fingers(page), (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_one_finger_moves_the_picture_and_not_the_page(visit_to: Open, site: Site) -> None:
    """What was under the finger is under it still; the scale is as before."""
    page, fingers, (x, y) = open_map(visit_to(site, **PHONE), TEXT)
    before, scrolled = np.array(page.evaluate(RANGES)), page.evaluate("scrollY")
    held = page.evaluate(VALUES, [x, y])
    fingers.drag(((x, y), (x + 50, y - 80)))
    after = np.array(page.evaluate(RANGES))
    assert np.allclose(np.diff(after), np.diff(before))
    assert (after[0] < before[0]).all()
    assert (after[1] < before[1]).all()
    assert np.allclose(page.evaluate(VALUES, [x + 50, y - 80]), held, atol=1e-6)
    assert page.evaluate("scrollY") == scrolled
    assert "point=" not in page.url, "a move is no tap"


def test_two_fingers_zoom_around_their_middle(visit_to: Open, site: Site) -> None:
    """Three times as far apart: a third of the ranges, and what lay between them lies there."""
    page, fingers, (x, y) = open_map(visit_to(site, **PHONE), TEXT)
    before, middle = np.array(page.evaluate(RANGES)), (x + 40, y - 50)
    held = page.evaluate(VALUES, list(middle))
    a, b = middle
    fingers.drag(((a - 20, b), (a - 60, b)), ((a + 20, b), (a + 60, b)))
    after = np.array(page.evaluate(RANGES))
    assert np.allclose(np.diff(after), np.diff(before) / 3)
    assert np.allclose(page.evaluate(VALUES, list(middle)), held, atol=1e-6)
    assert page.evaluate("visualViewport.scale") == 1, "the picture is zoomed, the page is not"
    assert "point=" not in page.url, "a pinch is no tap"
    # Moved together they move it; and the dots' canvas shows what the axes show.
    fingers.drag(((a, b), (a + 30, b + 30)), ((a + 60, b), (a + 90, b + 30)))
    moved = np.array(page.evaluate(RANGES))
    assert np.allclose(np.diff(moved), np.diff(after))
    assert (moved[0] < after[0]).all()
    assert (moved[1] > after[1]).all()
    seen = page.evaluate(
        "(({ x0, x1, y0, y1 }) => [[x0, x1], [y0, y1]])(lexiscope.map.all()[0].cloud.now)"
    )
    assert np.allclose(seen, moved)


def test_a_pinch_may_follow_a_move_without_a_jump(visit_to: Open, site: Site) -> None:
    """The second finger comes while the first one moves: the move stands, the pinch goes on."""
    page, fingers, (x, y) = open_map(visit_to(site, **PHONE), TEXT)
    fingers.down((x, y))
    fingers.move(((x, y), (x + 40, y)))
    moved = np.array(page.evaluate(RANGES))
    fingers.down((x + 40, y), (x + 80, y))
    assert np.allclose(page.evaluate(RANGES), moved)
    fingers.move(((x + 40, y), (x + 20, y)), ((x + 80, y), (x + 100, y)))
    fingers.up()
    assert np.allclose(np.diff(page.evaluate(RANGES)), np.diff(moved) / 2)
    now = page.evaluate(RANGES)
    fingers.drag(((x, y), (x - 40, y)))
    assert page.evaluate(RANGES)[0][0] > now[0][0], "one finger moves it again"


def test_a_tap_opens_the_point_and_its_name_stays(visit_to: Open, site: Site) -> None:
    page, fingers, _ = open_map(visit_to(site, **PHONE), TEXT)
    index = page.evaluate("lexiscope.map.all()[0].n - 1")
    place = page.evaluate(
        """i => { const p = lexiscope.map.all()[0], w = p.where(i);
        const r = p.element.getBoundingClientRect(); return [r.left + w.x, r.top + w.y]; }""",
        index,
    )
    fingers.down((place[0], place[1]))
    fingers.up()
    page.wait_for_url("**point=*")
    opened = page.evaluate("lexiscope.map.all()[0].at")
    assert f"point={opened}&" in page.url
    name = page.evaluate("i => lexiscope.map.all()[0].label(i)", opened)
    expect(page.locator(".map-tip bdi")).to_be_visible()
    expect(page.locator("#point")).to_contain_text(name)


@pytest.mark.parametrize("beside", [".map-legend", ".map-about"])
def test_beside_the_picture_a_finger_scrolls_the_page(
    visit_to: Open, site: Site, beside: str
) -> None:
    page, fingers, _ = open_map(visit_to(site, **PHONE), TEXT)
    before, ranges = page.evaluate("scrollY"), page.evaluate(RANGES)
    box = page.locator(beside).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + 8
    down = 120 if y < 300 else -120
    fingers.drag(((x, y), (x, y + down)))
    page.wait_for_function("y => scrollY !== y", arg=before)
    assert (page.evaluate("scrollY") - before) * down < 0
    assert page.evaluate(RANGES) == ranges


@pytest.mark.parametrize(("width", "height"), [(400, 800), (800, 360)])
def test_the_picture_leaves_room_to_scroll_by(
    visit_to: Open, site: Site, width: int, height: int
) -> None:
    """Upright and on its side, a phone's window is never filled by the picture."""
    phone = PHONE | {"viewport": {"width": width, "height": height}}
    page, _, _ = open_map(visit_to(site, **phone), TEXT)
    box = page.locator(".map-box").bounding_box()
    assert box is not None
    assert box["height"] <= 0.81 * height


def test_fingers_turn_zoom_and_open_in_three_dimensions(visit_to: Open, site: Site) -> None:
    """One turns, two change the distance alone, a tap on a dot opens it."""
    opened = visit_to(site, **PHONE)
    opened.guard.allow = ("willReadFrequently",)
    page, fingers, (x, y) = open_map(opened, SOLID)
    first = page.evaluate(CAMERA)
    fingers.drag(((x, y), (x + 60, y + 40)))
    page.wait_for_function(f"eye => ({CAMERA})().eye.x !== eye", arg=first["eye"]["x"])
    page.evaluate(FRAMES)
    turned = page.evaluate(CAMERA)
    fingers.drag(((x - 20, y), (x - 40, y)), ((x + 20, y), (x + 40, y)))
    page.evaluate(FRAMES)
    near = page.evaluate(CAMERA)
    for axis in "xyz":
        assert near["eye"][axis] == pytest.approx(turned["eye"][axis] / 2, abs=1e-3)
        assert near["up"][axis] == pytest.approx(turned["up"][axis], abs=1e-3)
    for place in ((x + dx, y + dy) for dy in range(0, 100, 12) for dx in range(-96, 97, 12)):
        fingers.down(place)
        fingers.up()
        for _ in range(3):  # Plotly looks for the point when it draws
            page.evaluate(FRAMES)
        if "point=" in page.url:
            break
    opened_point = page.evaluate("lexiscope.map.all()[0].at")
    assert f"point={opened_point}&" in page.url
    expect(page.locator(".map-tip bdi")).to_be_visible()
