"""Share, Export and Present in the header, and pictures that say what they show."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from driving import Open, Site, Visit, settle
from playwright.sync_api import expect

from app.figures.trace import MARGIN, cells_height

pytestmark = pytest.mark.browser

PROMPT = "one <b>two</b> & three"
READ = "/?prompt=one%20%3Cb%3Etwo%3C%2Fb%3E%20%26%20three&frame=tight"


def test_share_copies_the_address_and_shows_it(visit_to: Open, site: Site) -> None:
    visit = visit_to(site, permissions=["clipboard-read", "clipboard-write"])
    page = visit.go(READ)
    page.get_by_text("Share", exact=True).click()
    shown = page.get_by_label("The address of this page")
    expect(shown).to_have_value(page.url)
    expect(page.locator("[data-shared]")).to_contain_text("Copied.")
    expect(page.locator("[data-shared]")).to_contain_text("this machine alone")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    page.keyboard.press("Escape")
    expect(shown).to_be_hidden()
    expect(page.get_by_text("Share", exact=True)).to_be_focused()


def test_without_script_share_is_a_link_and_export_leads_to_the_files(
    visit_to: Open, site: Site
) -> None:
    page = visit_to(site, script=False).go(READ)
    page.get_by_text("Share", exact=True).click()
    link = page.get_by_role("link", name="this page as it stands")
    assert link.get_attribute("href") == page.url.removeprefix(site.url)
    page.get_by_text("Export", exact=True).click()
    page.get_by_role("link", name="This page's files").click()
    expect(page.locator("#files")).to_be_in_viewport()


def test_every_picture_says_what_it_shows(visit: Visit, tmp_path: Path) -> None:
    """Grid and race, as they are saved: title, prompt, reading and model are texts of the file."""
    page = visit.go(READ)
    settle(page)
    model = page.locator(".model-name").inner_text()
    menu = page.locator("[data-menu=files]")
    menu.locator("summary").click()
    names = menu.locator("li > span").all_inner_texts()
    assert names[:2] == ["Every layer, every token", page.locator("#curves-title").inner_text()]
    assert names[-2:] == ["Numbers", "This page"]
    assert {"JSON", "CSV", "NPZ", "HTML"} == set(
        menu.locator("li").nth(-2).locator("a").all_inner_texts()
    )
    for name, title in (("grid", names[0]), ("curves-plot", names[1])):
        with page.expect_download() as got:
            menu.locator(f"[data-picture=svg][data-of={name}]").click()
        got.value.save_as(tmp_path / f"{name}.svg")
        root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        texts = ["".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}tspan")]
        assert title in texts
        assert f"Prompt: {PROMPT}" in texts, "the very characters"
        assert f"cosine, tight frame · {model} · Lexiscope" in texts
        # Nothing of the words stands over the figure or outside of the picture.
        page.goto((tmp_path / f"{name}.svg").as_uri())
        boxes = page.evaluate(
            "() => ['svg', '.gtitle', '.annotation-text, .legendtext'].map("
            "one => document.querySelector(one).getBoundingClientRect().toJSON())"
        )
        whole, words, below = boxes
        assert words["bottom"] <= below["top"]
        assert words["right"] <= whole["right"]
        page.goto(visit.site.url + READ)
        settle(page)
        menu.locator("summary").click()
    with page.expect_download() as got:
        menu.locator("[data-picture=png][data-of=curves-plot]").click()
    got.value.save_as(tmp_path / "race.png")
    data = (tmp_path / "race.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") >= 840, "twice as fine as it is drawn"


def test_the_first_screen_holds_headline_grid_and_race(visit_to: Open, site: Site) -> None:
    """One screen of 1440 × 900; no sideways scroll at 900 and 400, where the last column shows."""
    page = visit_to(site, viewport={"width": 1440, "height": 900}).go("/?prompt=The+cat+sat+on+the")
    expect(page.locator("#curves-plot[data-ready=yes]")).to_be_visible()
    boxes = [page.locator(one).bounding_box() for one in ("#headline", "#grid", "#curves-plot")]
    assert all(boxes)
    head, grid, race = boxes
    assert head["y"] + head["height"] <= grid["y"]
    thirty = cells_height(31) + MARGIN["t"] + MARGIN["b"]  # of the default model
    assert grid["y"] + thirty <= 900
    assert race["y"] + race["height"] <= 900
    assert race["x"] >= grid["x"] + grid["width"]
    for width in (900, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.reload()
        expect(page.locator("#grid[data-ready=yes]")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        last = page.locator("#grid .xaxislayer-above .xtick text").last
        assert re.search(r"\d$", last.text_content() or "")
        box = page.locator("#grid").locator("..").bounding_box()
        label = last.bounding_box()
        assert box is not None
        assert label is not None
        inside = box["x"] <= label["x"] <= box["x"] + box["width"] - label["width"]
        assert inside, f"the last column at {width} px"


def test_the_tour_goes_on_when_the_visitor_acts(visit: Visit) -> None:
    """Nothing until it is asked for; three tasks, each done by an act; put away, it stays away."""
    page = visit.go("/?prompt=He+opened+the+door+and+shut+the")
    expect(page.locator("#grid[data-ready=yes]")).to_be_visible()
    tour = page.locator(".tour")
    expect(tour).to_have_count(0)
    page.get_by_role("button", name="Tour").press("Enter")
    expect(tour.locator("h2")).to_contain_text("1 of 3")
    expect(tour.get_by_role("button", name="Put the tour away")).to_be_focused()
    page.locator("#grid-table > summary").click()
    page.locator(".cells tbody tr").last.locator("td a").last.click()  # the embedding: not yet
    expect(page.locator("#cell-title")).to_contain_text("embedding")
    expect(tour.locator("h2")).to_contain_text("1 of 3")
    page.locator(".cells td.agrees:last-child a").last.click()
    expect(tour.locator("h2")).to_contain_text("2 of 3")
    page.reload()
    expect(tour.locator("h2")).to_contain_text("2 of 3")  # remembered
    tour.get_by_role("link", name="Go to Act").click()
    expect(page.locator("#result .answer")).to_be_visible()
    expect(tour.locator("h2")).to_contain_text("2 of 3")
    page.locator("#token").fill("cat")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(tour.locator("h2")).to_contain_text("3 of 3")
    page.goto(f"{visit.site.url}/?prompt=He+opened+the+door+and+shut+the")
    page.get_by_role("link", name="random control").click()
    expect(tour.locator("h2")).to_have_text("That is all three")
    page.reload()
    expect(tour).to_have_count(0)
    page.get_by_role("button", name="Tour").click()
    page.keyboard.press("Escape")
    expect(tour).to_have_count(0)
    page.reload()
    expect(page.locator("#grid[data-ready=yes]")).to_be_visible()
    expect(tour).to_have_count(0)


def test_long_lists_are_folded_on_a_narrow_page_and_stay_as_they_were_left(
    visit_to: Open, site: Site
) -> None:
    visit = visit_to(site, viewport={"width": 400, "height": 800})
    page = visit.go("/?prompt=one+two+three")
    folds = page.locator("#cell .fold")
    expect(folds.nth(1)).to_be_attached()
    assert folds.evaluate_all("all => all.some(one => one.open)") is False
    folds.first.locator("summary").click()
    expect(folds.first.locator(".three")).to_be_visible()
    before = page.locator("#cell-title").inner_text()
    page.locator("#step-2").click()
    expect(page.locator("#cell-title")).not_to_have_text(before)
    expect(folds.first.locator(".three")).to_be_visible()
    expect(folds.nth(1).locator("table")).not_to_be_visible()
    page.set_viewport_size({"width": 1440, "height": 900})
    expect(folds.nth(1).locator("table")).to_be_visible()
