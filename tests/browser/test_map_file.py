"""The map as one HTML file: it opens from the disk with the network off and draws every point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from driving import PATIENCE_MS
from playwright.sync_api import Browser, Page
from tiny_models import Spaces

from app.maps.files.export import drawing_of, write
from engine import LatentSpace
from engine.maps import MapOptions, MapPoints
from engine.progress import no_check

pytestmark = pytest.mark.browser

PROMPT = "The old king and the queen"
# Chromium without a graphics card says this about its own software; it is no error of the page.
_NOISE = ("GPU stall due to ReadPixels", "willReadFrequently")


@pytest.fixture(scope="module")
def space(spaces: Spaces, request: pytest.FixtureRequest) -> LatentSpace:
    """The model that ships where it is there, else a tiny one: its cloud needs WebGL."""
    try:
        found: LatentSpace = request.getfixturevalue("small")
    except pytest.skip.Exception:
        found = spaces["gpt2"]
    return found


def opened(browser: Browser, file: Path, **more: Any) -> tuple[Page, list[str]]:
    """The file in a browser that reaches nothing, and everything that went wrong."""
    context = browser.new_context(offline=True, **more)
    page = context.new_page()
    trouble: list[str] = []
    page.add_init_script(
        "document.addEventListener('securitypolicyviolation', e =>"
        " console.error('policy ' + e.violatedDirective + ' ' + e.blockedURI))"
    )
    page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:"))
        else trouble.append(r.url))  # fmt: skip
    page.goto(file.as_uri())
    page.wait_for_selector("#map[data-drawn]", timeout=PATIENCE_MS)
    return page, trouble


def real(trouble: list[str]) -> list[str]:
    return [one for one in trouble if not any(noise in one for noise in _NOISE)]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_file_opens_with_the_network_off_and_shows_every_point(
    browser: Browser, space: LatentSpace, tmp_path: Path, dims: int
) -> None:
    select = "all" if dims == 2 else "search:a"
    options = MapOptions(prompt=PROMPT, layer=1, dims=dims, select=select)
    drawing = drawing_of(space.maps, options, "html", "class", check=no_check)
    file = tmp_path / "map.html"
    file.write_bytes(write(drawing, "html"))
    page, trouble = opened(browser, file)
    drawn = page.evaluate(
        "document.getElementById('map').data.reduce((sum, t) => sum + t.x.length, 0)"
    )
    assert drawn == drawing.map.n
    assert drawing.map.title in page.inner_text("h1")
    assert drawing.quality is not None
    assert drawing.quality.sentence in page.inner_text("header")
    assert drawing.map.fingerprint in page.inner_text("footer")
    assert "webgl.org" not in page.content().split("<script")[0] + page.inner_text("main")
    if dims == 2:
        assert _coloured(page) > 3_000 if drawing.map.n > 5_000 else _coloured(page) > 100
    assert real(trouble) == []


def _coloured(page: Page) -> int:
    """Pixels of the drawing that have a colour at all: points, not grey text and lines."""
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(page.locator("#map").screenshot())).convert("RGB")
    pixels = np.asarray(picture).astype(int)
    return int(((pixels.max(2) - pixels.min(2)) > 40).sum())


def test_a_search_lights_what_it_finds(
    browser: Browser, space: LatentSpace, tmp_path: Path
) -> None:
    drawing = drawing_of(space.maps, MapOptions(prompt=PROMPT), "html", "class", check=no_check)
    file = tmp_path / "map.html"
    file.write_bytes(write(drawing, "html"))
    page, trouble = opened(browser, file)
    labels = drawing.map.points.labels()
    expected = sum("th" in one.lower() for one in labels)
    page.fill("#find", "TH")
    page.wait_for_function("document.getElementById('found').textContent !== ''")
    assert page.inner_text("#found") == f"{expected:,} of {len(labels):,}"
    lit = page.evaluate("document.getElementById('map').data.at(-1).x.length")
    assert lit == expected
    assert real(trouble) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_file_reads_well_in_both_schemes_and_on_a_phone(
    browser: Browser, space: LatentSpace, tmp_path: Path, scheme: str
) -> None:
    options = MapOptions(prompt=PROMPT, select="search:a")
    drawing = drawing_of(space.maps, options, "html", "norm", check=no_check)
    file = tmp_path / "map.html"
    file.write_bytes(write(drawing, "html"))
    page, trouble = opened(
        browser, file, color_scheme=scheme, viewport={"width": 400, "height": 800}
    )
    wide, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= room
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    assert real(trouble) == []


def test_hostile_labels_stay_text(browser: Browser, space: LatentSpace, tmp_path: Path) -> None:
    hostile = [
        "<img src=x onerror=document.title='gone'>",
        "</script><script>document.title='gone'",
    ]
    drawing = drawing_of(space.maps, MapOptions(prompt=PROMPT), "html", "class", check=no_check)

    class Hostile(MapPoints):
        def label(self, i: int) -> str:
            return hostile[i % 2]

    drawn = replace(drawing.map, points=Hostile(**vars(drawing.map.points)), title="<b>T</b>")
    file = tmp_path / "map.html"
    file.write_bytes(write(replace(drawing, map=drawn), "html"))
    page, trouble = opened(browser, file)
    assert page.title() == "<b>T</b>"
    assert page.inner_text("h1") == "<b>T</b>"
    assert page.locator("img").count() == 0
    assert hostile[0] in page.evaluate("document.getElementById('map').textContent")
    assert real(trouble) == []
