"""A story of one's own: recorded while browsing, put in order, saved, opened, told, and as one
page that plays without a server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from driving import Open, Site, settle
from playwright.sync_api import expect

from app.present.stories import read_story

pytestmark = pytest.mark.browser

ICON = "/static/img/icon.svg"


def test_a_story_is_recorded_told_and_saved(visit_to: Open, site: Site, tmp_path: Path) -> None:
    visit = visit_to(site, viewport={"width": 1280, "height": 900})
    page = visit.go("/?prompt=the+cat")
    headline = page.locator("#headline").inner_text()
    present = page.locator("[data-menu=present]")
    for path in ("/?prompt=the+cat", "/?prompt=the+dog&frame=random"):
        page.goto(site.url + path)
        present.locator("summary").click()
        present.get_by_text("Add this view to your story").click()
    present.get_by_text("Your story (2 views)").click()
    rows = page.locator("[data-steps] > li")
    expect(rows).to_have_count(2)
    expect(rows.first.get_by_label("What it shows")).to_have_value(headline)
    rows.first.get_by_label("What you say").fill("A <b>note</b> & more.")
    rows.nth(1).get_by_role("button", name="Earlier").click()
    expect(rows.nth(1).get_by_label("What it shows")).to_have_value(headline)
    rows.nth(1).get_by_role("button", name="Earlier").click()
    page.get_by_label("Title").fill("Cats and dogs")
    page.get_by_label("Title").press("Tab")

    # As a file: the command line reads the same story, and the page takes it back.
    with page.expect_download() as got:
        page.get_by_role("button", name="Save as a story file").click()
    file = tmp_path / got.value.suggested_filename
    got.value.save_as(file)
    told = read_story(file)
    assert (told.name, told.title) == ("cats-and-dogs", "Cats and dogs")
    assert [one.address for one in told.steps] == [
        "/?prompt=the+cat",
        "/?prompt=the+dog&frame=random",
    ]
    assert told.steps[0].note == "A <b>note</b> & more."
    assert told.fingerprint in (page.locator("body").get_attribute("hx-headers") or "")

    # As one page: no server, no network, the same keys.
    with page.expect_download() as got:
        page.get_by_role("button", name="Save as one page").click()
    one_page = tmp_path / got.value.suggested_filename
    got.value.save_as(one_page)

    page.get_by_role("button", name="Begin anew").click()
    expect(rows).to_have_count(0)
    page.locator("[data-open]").set_input_files(
        files=[{"name": "bad.json", "mimeType": "application/json",
                "buffer": json.dumps({"steps": [{"address": "https://else.test"}]}).encode()}]
    )  # fmt: skip
    expect(page.locator("[data-said]")).to_contain_text("bad.json is no story")
    page.locator("[data-open]").set_input_files(file)
    expect(rows).to_have_count(2)

    # Told: the bar is filled in, the keys go on and back, the last step ends.
    page.get_by_role("link", name="Begin", exact=True).click()
    expect(page.locator("[data-step-title]")).to_have_text(headline)
    expect(page.locator(".stage-bar .dots a")).to_have_count(2)
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("frame=random&present=own"))
    expect(page.locator("[data-on]")).to_be_hidden()
    page.keyboard.press("PageUp")
    expect(page.locator("[data-step-title]")).to_have_text(headline)

    asked = len(visit.guard.requests)
    page.context.set_offline(True)
    page.goto(one_page.as_uri())
    expect(page.locator("#headline")).to_have_text(headline)
    expect(page.locator("#grid[data-ready=yes]")).to_be_visible()
    expect(page.locator("#grid .scatterlayer .textpoint text").first).to_be_visible()
    expect(page.locator("#headline.pointed")).to_be_in_viewport()
    page.keyboard.press("n")
    expect(page.locator(".stage-note")).to_have_text("A <b>note</b> & more.")
    page.keyboard.press(" ")
    expect(page.locator(".dots [aria-current]")).to_have_attribute("aria-label", "Step 2")
    expect(page.locator("#grid[data-ready=yes]")).to_be_visible()
    assert page.locator("main :is(a[href], form, script)").count() == 0
    # The icon of the page before may be fetched late; the saved one does not know it.
    assert ICON not in one_page.read_text("utf-8")
    told = [u for u in visit.guard.requests[asked:] if ICON not in u]
    assert [u for u in told if not u.startswith(("file:", "blob:"))] == []


def test_the_shipped_story_plays_from_behind_the_stage(visit_to: Open, site: Site) -> None:
    """Every step is asked for before it is shown; keys go through; P leads to the stories."""
    visit = visit_to(site, viewport={"width": 1280, "height": 900})
    visit.guard.allow = ("the server responded with a status of 4",)  # another model's story
    page = visit.go("/?prompt=the+cat")
    expect(page.locator("#grid[data-ready=yes]")).to_be_visible()
    page.keyboard.press("p")
    page.get_by_role("link", name="When does it know?").click()
    steps = page.locator("[data-story] [data-step]")
    expect(page.locator("[data-readiness]")).to_contain_text(f"of {steps.count()} steps are ready")
    expect(page.locator("[data-mark].wait")).to_have_count(0)
    settle(page)
    page.get_by_role("link", name="Begin", exact=True).click()
    expect(page.locator(".stage-prompt")).to_contain_text("The capital of France is")
    page.keyboard.press(" ")
    expect(page.locator("#headline.pointed")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile("/present/paris$"))
