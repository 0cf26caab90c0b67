"""What the pages cost a visitor's line, in bytes as they are sent."""

from __future__ import annotations

import pytest
from driving import Open, Site, settle
from playwright.sync_api import Request

pytestmark = pytest.mark.browser

FIRST, LATER = 1_900_000, 300_000
LATER_PAGES = (
    "/act",
    "/compare?prompt=The+cat+sat&other=The+dog+sat",
    "/generate?prompt=Once+upon+a&tokens=4",
    "/map",
    "/calibrate",
    "/bases",
    "/model",
    "/method",
    "/present",
    "/?prompt=one+two+three",
)


def test_the_first_page_and_every_later_one_are_light(visit_to: Open, site: Site) -> None:
    visit = visit_to(site, viewport={"width": 1440, "height": 900})
    finished: list[Request] = []
    visit.page.context.on("requestfinished", lambda one: finished.append(one))

    def cost(path: str) -> int:
        finished.clear()
        settle(visit.go(path))
        sizes = [one.sizes() for one in finished]
        return sum(one["responseBodySize"] + one["responseHeadersSize"] for one in sizes)

    first = cost("/")
    assert 1_000_000 < first <= FIRST, "with what draws the figures"
    found = {path: cost(path) for path in LATER_PAGES}
    assert all(0 < bytes_ <= LATER for bytes_ in found.values()), found
