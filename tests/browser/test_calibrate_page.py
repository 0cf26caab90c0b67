"""The Calibrate page in a browser: choose, look, run, watch, read; with script and without."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from axe_playwright_python.sync_playwright import Axe
from driving import Open, Site, Visit, until
from playwright.sync_api import Page, expect
from waiting import until as wait_until

pytestmark = pytest.mark.browser

RESULT = re.compile(r"/calibrate/[0-9a-f]{24}$")
LONG_MS = 120_000
NARROW = {"width": 400, "height": 800}


def texts(rows: int = 40) -> bytes:
    """Labelled texts that a small model reads in a moment."""
    kinds = (
        ("sports", "The striker scored twice before the break."),
        ("business", "The bank raised its forecast for the year."),
    )
    lines = ["text,label"]
    lines += [f'"{text} Match {i}.",{label}' for i in range(rows // 2) for label, text in kinds]
    return "\n".join(lines).encode()


@pytest.fixture(scope="module")
def result(site: Site) -> str:
    """The address of a calibration that was made over the API."""
    body = json.dumps({"set": "topics", "epochs": 6}).encode()
    from urllib.request import Request

    sent = Request(
        f"{site.url}/api/v1/calibrations", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urlopen(sent) as answer:
        job = json.load(answer)

    def ended() -> Any:
        with urlopen(f"{site.url}/api/v1/jobs/{job['id']}") as answer:
            view = json.load(answer)
        return view if view["finished"] else None

    job = wait_until(ended)
    assert job["state"] == "done", job["problem"]
    return f"/calibrate/{job['result']}"


def serious(page: Page) -> list[str]:
    """What axe calls serious or worse."""
    return [
        f"{v['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for v in Axe().run(page).response["violations"]
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"][:3]
    ]


def add(page: Page, name: str = "small.csv", content: bytes | None = None) -> None:
    """Choose a file, which adds it; without script a button does."""
    sent = {"name": name, "mimeType": "text/csv", "buffer": content or texts()}
    page.locator("#file").set_input_files(sent)
    if page.locator("html.no-js").count():
        # The big button would run the set that was there before.
        expect(page.get_by_role("button", name="Teach it")).to_have_count(0)
        page.get_by_role("button", name="Add this file").click()
    expect(page.locator(".set-card:has(input:checked)")).to_contain_text(name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_on_any_of_the_pages(
    visit_to: Open, site: Site, result: str, scheme: str
) -> None:
    visit = visit_to(site, color_scheme=scheme, viewport={"width": 1280, "height": 900})
    for path in ("/calibrate", result, "/jobs", f"/?calibration={result.rsplit('/', 1)[1]}"):
        page = visit.go(path)
        page.wait_for_load_state("networkidle")
        assert not serious(page), path
    job = page.request.get(f"{site.url}/api/v1/jobs").json()["jobs"][0]["id"]
    assert not serious(visit.go(f"/jobs/{job}"))


def test_nothing_scrolls_sideways_at_400_pixels(visit_to: Open, site: Site, result: str) -> None:
    visit = visit_to(site, viewport=NARROW)
    for path in ("/calibrate", "/calibrate?frame=random&seed=3", result, "/jobs"):
        page = visit.go(path)
        wide, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= room, path


def test_choosing_another_set_shows_its_prompts(visit: Visit) -> None:
    """The form is swapped as it stands, the address follows and the way back works."""
    page = visit.go("/calibrate")
    expect(page.locator(".prompts li")).to_have_count(4)
    page.get_by_role("radio", name="Sentiment").check()
    expect(page.locator(".prompts li")).to_have_count(2)
    expect(page.locator(".prompts li").first).to_contain_text("Review:")
    assert "set=sentiment" in page.url
    word = page.get_by_label("Word for positive")
    word.fill("wonderful")
    word.press("Tab")
    expect(page.locator(".prompts")).to_contain_text("wonderful")
    page.get_by_text("How it learns").click()
    page.locator("#loss").select_option("sm-gt")
    expect(page.locator("#loss")).to_have_value("sm-gt")
    expect(page.get_by_label("Word for positive")).to_have_value("wonderful")
    page.go_back()
    expect(page.locator("#loss")).to_have_value("sm")


def test_a_mistake_is_said_between_the_steps_and_mended_there(visit: Visit) -> None:
    page = visit.go("/calibrate")
    template = page.locator("#template")
    template.fill("no place for the text")
    template.press("Tab")
    expect(page.locator("#problem")).to_contain_text("placeholder")
    expect(page.get_by_role("button", name="Teach it")).to_have_count(0)
    page.locator("#template").fill("{text} It is about")
    page.locator("#template").press("Tab")
    expect(page.locator("#problem")).to_have_count(0)
    expect(page.get_by_role("button", name="Teach it")).to_be_enabled()


def test_a_run_is_watched_survives_a_reload_and_leads_to_its_result(visit: Visit) -> None:
    """The whole way of a first visitor with a file of their own."""
    page = visit.go("/calibrate")
    add(page)
    page.get_by_role("button", name="Teach it").click()
    page.wait_for_url(re.compile(r"/jobs/"))
    expect(page.locator("#job")).to_be_visible()
    if not RESULT.search(page.url):
        page.reload()
    page.wait_for_url(RESULT, timeout=LONG_MS)
    expect(page.locator(".headline")).to_contain_text("texts it never saw")
    expect(page.locator("#map-after circle[data-row]")).to_have_count(
        page.locator("#map-before circle[data-row]").count()
    )


def test_a_job_is_cancelled_and_says_so(visit: Visit) -> None:
    page = visit.go("/calibrate?set=sentiment&epochs=2000&patience=2000")
    page.get_by_role("button", name="Teach it").click()
    page.wait_for_url(re.compile(r"/jobs/"))
    expect(page.locator("#job .chart-box")).to_have_count(2, timeout=LONG_MS)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#job .badge")).to_have_text("Cancelled", timeout=LONG_MS)
    expect(page.locator("#job")).not_to_have_attribute("hx-get", re.compile("."))
    expect(page.get_by_role("button", name="Run it again")).to_be_visible()


def test_pointing_at_a_text_lights_it_on_both_maps(visit: Visit, result: str) -> None:
    page = visit.go(result)
    dot = page.locator("#map-before circle[data-row]").first
    row = dot.get_attribute("data-row")
    texts_ = json.loads(page.locator("#map-texts").evaluate("t => t.content.textContent"))
    said = next(one for one in texts_ if str(one["row"]) == row)
    dot.dispatch_event("pointerover")
    lit = page.locator("[data-map] .lit")
    expect(lit).to_have_count(2)
    assert set(lit.evaluate_all("all => all.map((one) => one.dataset.row)")) == {row}
    expect(page.locator("#map-tip")).to_contain_text(said["text"])
    expect(page.locator("#map-tip")).to_contain_text(f"truly {said['label']}")
    page.locator("#map-before").dispatch_event("pointerover")
    expect(lit).to_have_count(0)


def test_the_points_move_once_and_a_sentence_lands_among_them(visit: Visit, result: str) -> None:
    """The style sheet alone carries every point from its place before to that after."""
    page = visit.go(result)
    place = "all => all.map((c) => [getComputedStyle(c).cx, getComputedStyle(c).cy])"
    after = page.locator("#map-after circle[data-row]").evaluate_all(place)
    dots = page.locator("#map-before circle[data-row]")
    begin = ["--x0", "--y0"]
    before = dots.evaluate_all(
        "(all, names) => all.map((c) => names.map((n) => c.style.getPropertyValue(n)))", begin
    )
    assert before != after
    until(page, lambda: dots.evaluate_all(place) == after)  # by itself, where the page opens
    page.locator("#view-before").check()
    until(page, lambda: dots.evaluate_all(place) == before)
    page.get_by_role("button", name="Replay").click()
    until(page, lambda: dots.evaluate_all(place) == after)
    first = dots.first.element_handle()
    page.get_by_label("Try your own sentence").fill("The river rose in the night.")
    page.get_by_role("button", name="Try it").click()
    expect(page.locator(".try-said")).to_contain_text("before")
    expect(page.locator("#own-before .was")).to_have_count(1)
    expect(page.locator("#own-before .is")).to_be_visible()
    assert "text=The" in page.url
    # The map itself was not drawn again.
    assert first is not None
    assert first.evaluate("dot => dot.isConnected")


def test_with_reduced_motion_the_points_are_there_at_once(
    visit_to: Open, site: Site, result: str
) -> None:
    page = visit_to(site, reduced_motion="reduce").go(result)
    moves = "all => all.flatMap((dot) => dot.getAnimations()).length"
    assert page.locator("#map-before circle[data-row]").evaluate_all(moves) == 0


def test_a_changed_text_opens_its_trace_with_the_calibration_on(visit: Visit, result: str) -> None:
    page = visit.go(result)
    line = page.locator(".flip-list li").first
    after = line.locator(".reads strong").inner_text()
    line.get_by_role("link", name="Open its trace").click()
    panel = page.locator("#switched-on")
    expect(panel).to_contain_text(f"After: {after}")
    panel.get_by_text("At every position").click()
    expect(panel.locator(".strip")).to_be_visible()
    panel.get_by_role("link", name="Switch it off").click()
    expect(page.locator("#switched-on")).to_have_count(0)
    expect(page.locator("#grid")).to_be_visible()


def test_without_script_everything_is_there(visit_to: Open, site: Site, tmp_path: Path) -> None:
    """Upload, look, run, wait, read, delete: by links and forms, the waiting by the page itself."""
    page = visit_to(site, script=False, viewport={"width": 1280, "height": 900}).go("/calibrate")
    add(page, "plain.csv")
    page.locator("#template").fill("{text} This is about")
    page.get_by_role("button", name="Look again").click()
    expect(page.locator(".prompts li").first).to_contain_text("This is about")
    page.get_by_role("button", name="Teach it").click()
    expect(page.locator("#job")).to_be_visible()
    page.get_by_role("link", name="Open the result").click(timeout=LONG_MS)
    expect(page.locator(".headline")).to_contain_text("texts it never saw")
    expect(page.locator("#map-before")).to_be_visible()
    page.get_by_text("What it was made with; use it").click()
    page.get_by_text("Delete this calibration").click()
    address = page.url
    page.get_by_role("button", name="Delete it for good").click()
    expect(page.locator("#setup")).to_be_visible()
    assert page.request.get(address).status == 404
