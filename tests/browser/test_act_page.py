"""The page Act in a real browser: the rail of layers by pointer and keyboard, over its field."""

from __future__ import annotations

import pytest
from driving import Visit
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_layers_are_drawn_on_the_rail(visit: Visit) -> None:
    page = visit.go("/act?layers=1&prompt=The+cat+sat")
    rail, field = page.get_by_role("listbox"), page.locator("#layers")
    cells = rail.get_by_role("option")
    count = cells.count()
    chosen = rail.get_by_role("option", selected=True)
    expect(chosen).to_have_count(1)
    expect(cells.nth(1)).to_have_attribute("aria-selected", "true")

    rail.focus()
    page.keyboard.press("Shift+ArrowRight")
    expect(field).to_have_value("1:3")
    expect(chosen).to_have_count(2)
    page.keyboard.press("Home")
    expect(field).to_have_value("0")
    page.keyboard.press("End")
    expect(field).to_have_value(str(count - 1))

    boxes = [cells.nth(n).bounding_box() for n in (0, count - 1)]
    assert all(boxes)
    ends = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes if box]
    page.mouse.move(*ends[0])
    page.mouse.down()
    page.mouse.move(*ends[1], steps=4)
    page.mouse.up()
    expect(field).to_have_value(f"0:{count}")
    expect(chosen).to_have_count(count)
    # What was drawn is asked for, and stands in the address.
    page.wait_for_url(f"**/act?*layers=0%3A{count}*")
    # The field stays the master: what is typed there is shown.
    field.fill("-1")
    expect(cells.nth(count - 1)).to_have_attribute("aria-selected", "true")
    expect(chosen).to_have_count(1)
