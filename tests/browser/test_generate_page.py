"""The page Generate in a real browser: it fills, it stops, it forks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from driving import Site, Visit, until
from playwright.sync_api import expect

from engine.errors import Cancelled

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_text_fills_column_by_column_and_forks_where_one_clicks(visit: Visit) -> None:
    page = visit.go("/generate")
    page.locator("#tokens").fill("5")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#finding")).to_be_visible()
    expect(page.locator("li.column")).to_have_count(5)
    expect(page.locator(".others tbody tr")).to_have_count(5)
    expect(page.locator("[data-stop]")).to_have_count(0)
    whole = page.locator(".written").inner_text()
    other = page.locator("#token-2 a.chip").first
    word = other.locator(".tok").inner_text()
    other.click()
    expect(page.locator("#finding")).to_be_visible()
    expect(page.locator("#token-2 .tag")).to_have_text("chosen")
    assert page.locator("#token-2 th .tok").inner_text() == word
    tabs = page.get_by_role("list", name="Branches")
    expect(tabs.locator("[aria-current]")).to_contain_text(word)
    tabs.get_by_text("the text").click()
    expect(page.locator(".written")).to_have_text(whole, use_inner_text=True)


def test_escape_stops_the_text_and_the_server(
    visit: Visit, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is held before its third step, until it is told to stop."""
    explorer = site.app.state.explorer
    advance, steps, stopped = explorer._space.model.advance, [], []

    def held(*given: Any, check: Callable[[], None]) -> Any:
        steps.append(1)
        try:
            while len(steps) > 2:
                check()
                time.sleep(0.002)
        except Cancelled:
            stopped.append(1)
            raise
        return advance(*given, check=check)

    monkeypatch.setattr(explorer._space.model, "advance", held)
    page = visit.go("/generate?prompt=Once+upon+a+time&tokens=20&temperature=1&seed=5")
    expect(page.locator("li.column").nth(1)).to_be_attached()
    page.keyboard.press("Escape")
    expect(page.locator("[data-end]")).to_have_text("Stopped after 2 tokens.")
    expect(page.locator("[aria-busy=true], [data-stop]")).to_have_count(0)
    until(page, lambda: stopped and not explorer.device.held_by("127.0.0.1"))


def test_the_page_read_goes_on_where_it_stands(visit: Visit) -> None:
    page = visit.go("/?prompt=Once+upon+a")
    page.locator("#go-on-tokens").fill("3")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#continuation li.column")).to_have_count(3)
    expect(page.locator("#continuation #finding")).to_be_visible()
    assert page.url.endswith("/?prompt=Once+upon+a")


def test_a_refused_text_says_why_and_can_be_asked_for_again(visit: Visit, site: Site) -> None:
    site.faults.refuse("/generate/stream", 503, "The model is busy.")
    visit.guard.allow = ("the server responded with a status of 503",)
    page = visit.go("/generate?prompt=Once+upon+a&tokens=3&seed=6")
    expect(page.locator(".lost")).to_contain_text("The model is busy.")
    site.faults.stop()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("li.column")).to_have_count(3)
    expect(page.locator("#finding")).to_be_visible()
