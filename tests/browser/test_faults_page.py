"""Refusals and silence, as a person meets them: a sentence in the answer's place, and a way on."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import pytest
from driving import PATIENCE_MS, Faults, Open, Site, Visit
from playwright.sync_api import Page, expect
from starlette.responses import HTMLResponse, PlainTextResponse, Response

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

STATUSES = (401, 403, 409, 413, 422, 503, 504, 507)
EXPECTED = ("the server responded with a status of", "Failed to load resource", "Error Code",
    "htmx:sendError", "htmx:afterRequest", "htmx:responseError")  # fmt: skip
GRID = "#grid[data-ready=yes]"
WIDE = {"width": 1280, "height": 900}


@pytest.fixture
def faulty(visit_to: Open, site: Site) -> Iterator[tuple[Visit, Faults]]:
    """A tab whose console may name refusals, and the faults in front of its server."""
    opened = visit_to(site, viewport=WIDE)
    opened.guard.allow = EXPECTED
    yield opened, site.faults
    site.faults.stop()


def sentence_of(status: int) -> str:
    return f"The trial says {status} and what to do."


def again(page: Page, place: str) -> None:
    page.locator(place).get_by_role("button", name="Try again").click()


def test_a_refused_run_says_why_and_keeps_what_was_typed(faulty: tuple[Visit, Faults]) -> None:
    visit, faults = faulty
    page = visit.go()
    expect(page.locator(GRID)).to_be_visible()
    page.locator("#prompt").fill("one two three")
    for status in STATUSES:
        faults.refuse("/", status, sentence_of(status))
        page.get_by_role("button", name="Read").click()
        problem = page.locator("#result > #problem")
        expect(problem).to_contain_text(sentence_of(status))
        expect(problem.get_by_role("button", name="Try again")).to_have_count(1)
        if status == 503:
            expect(problem).to_contain_text("Try again in 2 seconds.")
        expect(page.locator("#prompt")).to_have_value("one two three")
        faults.stop()
    again(page, "#result")
    expect(page.locator(".cells thead th")).to_have_count(4)
    expect(page.locator("#problem")).to_have_count(0)
    assert parse_qs(urlsplit(page.url).query)["prompt"] == ["one two three"]


def bare() -> Response:
    return HTMLResponse("<html><body><h1>Bad gateway</h1>nginx</body></html>", 502)


def plain() -> Response:
    return PlainTextResponse("There are too many connections; try again in a moment.", 503)


def test_an_answer_of_a_proxy_leaves_a_sentence_and_no_hole(faulty: tuple[Visit, Faults]) -> None:
    """What stands between page and server speaks no language of ours."""
    visit, faults = faulty
    page = visit.go("/?cell=1%2C1")
    expect(page.locator(GRID)).to_be_visible()
    faults.say("/", bare)
    page.get_by_role("link", name="layer above").click()
    expect(page.locator("#detail > #problem")).to_contain_text("the status 502")
    faults.say("/", plain)
    again(page, "#detail")
    expect(page.locator("#detail > #problem")).to_contain_text("too many connections")
    faults.stop()
    again(page, "#detail")
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 2, position 1"))


def test_a_cell_that_is_refused_can_be_opened_again(faulty: tuple[Visit, Faults]) -> None:
    """What a key asks for by script leaves its place in the page when it is refused."""
    visit, faults = faulty
    page = visit.go("/?cell=2%2C2")
    expect(page.locator(GRID)).to_be_visible()
    page.locator("#grid").focus()
    page.keyboard.press("ArrowDown")
    faults.refuse("/", 503, sentence_of(503))
    page.keyboard.press("Enter")
    expect(page.locator("#detail > #problem")).to_contain_text(sentence_of(503))
    faults.stop()
    again(page, "#detail")
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 1, position 2"))


def test_a_part_that_comes_later_can_be_asked_for_again(faulty: tuple[Visit, Faults]) -> None:
    visit, faults = faulty
    faults.refuse("/trace/agreement", 504, sentence_of(504))
    page = visit.go()
    page.locator("#agreement").scroll_into_view_if_needed()
    expect(page.locator("#agreement > #problem")).to_contain_text(sentence_of(504))
    faults.stop()
    again(page, "#agreement")
    expect(page.locator("#agreement table")).to_be_visible()


def test_a_map_says_what_could_not_be_fetched(faulty: tuple[Visit, Faults]) -> None:
    """Points, colours, another layer: each failure is told, and each can be tried again."""
    visit, faults = faulty
    faults.refuse("/api/v1/map/points", 503, sentence_of(503))
    page = visit.go("/map?select=near%3A200")
    expect(page.locator(".map-panel .lost")).to_contain_text(sentence_of(503))
    faults.stop()
    again(page, ".map-panel")
    expect(page.locator(".map-plot[data-ready=yes]")).to_be_visible()
    expect(page.locator(".map-panel .lost")).to_have_count(0)
    faults.refuse("/api/v1/map/colour", 507, sentence_of(507))
    page.get_by_label("Colour by").select_option("norm")
    expect(page.locator(".map-panel .lost")).to_contain_text(sentence_of(507))
    faults.stop()
    again(page, ".map-panel")
    expect(page.locator(".map-legend .map-scale").first).to_be_visible()
    expect(page.locator(".map-panel .lost")).to_have_count(0)
    faults.refuse("/", 413, sentence_of(413))
    page.get_by_role("button", name="One layer back").click()
    expect(page.locator("#result > #problem")).to_contain_text(sentence_of(413))
    faults.stop()
    again(page, "#result")
    expect(page.locator(".map-plot[data-ready=yes]")).to_be_visible()


def test_a_refused_form_leaves_the_page_as_it_was(faulty: tuple[Visit, Faults]) -> None:
    """Every status beside the button that was pressed; then the same press works."""
    visit, faults = faulty
    page = visit.go("/calibrate?epochs=2")
    page.locator("#title").fill("kept while refused")
    button = page.get_by_role("button", name="Teach it")
    for status in STATUSES:
        faults.refuse("/calibrate/run", status, sentence_of(status), method="POST")
        button.click()
        expect(page.locator(".run-card .lost")).to_contain_text(sentence_of(status))
        expect(page.locator(".run-card .lost")).to_have_count(1)
        expect(page.locator("#title")).to_have_value("kept while refused")
    faults.stop()
    page.context.set_offline(True)
    again(page, ".run-card")
    expect(page.locator(".run-card .lost")).to_contain_text("did not answer")
    page.context.set_offline(False)
    again(page, ".run-card")
    expect(page).to_have_url(re.compile(r"/(jobs|calibrate)/[0-9a-f]{24}$"))
    expect(page.locator("h1")).to_contain_text("kept while refused")
    if "/jobs/" in page.url:  # so that it does not stand in the way of the next test
        page.get_by_role("button", name="Cancel").click()


def test_a_file_that_is_refused_can_be_sent_again(faulty: tuple[Visit, Faults]) -> None:
    visit, _ = faulty
    page = visit.go("/calibrate?epochs=7")
    bad = {"name": "broken.parquet", "mimeType": "text/csv", "buffer": b"PAR1 and no more"}
    page.locator("#file").set_input_files(bad)
    problem = page.locator("#upload .lost")
    expect(problem).to_contain_text("cannot be read as Parquet")
    expect(page.locator("#epochs")).to_have_value("7")
    good = {"name": "sound.csv", "mimeType": "text/csv", "buffer": b"text,label\na,x\nb,y\n" * 9}
    expect(page.get_by_role("button", name="Teach it")).to_have_count(0)  # it is not this file
    page.locator("#file").set_input_files(good)
    expect(page.locator(".set-card:has(input:checked)")).to_contain_text("sound.csv")


def test_a_page_that_watches_a_job_notices_the_server_coming_back(
    faulty: tuple[Visit, Faults], site: Site
) -> None:
    """While it is away the last state stands there with a sentence; then it goes on by itself."""
    visit, faults = faulty
    body = json.dumps({"set": "topics", "epochs": 400, "patience": 400}).encode()
    sent = Request(f"{site.url}/api/v1/calibrations", body, {"Content-Type": "application/json"})
    with urlopen(sent) as answer:
        job = json.load(answer)
    try:
        page = visit.go(f"/jobs/{job['id']}")
        state = page.locator("#job .badge")
        expect(state).to_be_visible()
        page.context.set_offline(True)
        expect(page.locator("#job > .lost")).to_contain_text("did not answer")
        expect(state).to_be_visible()
        page.context.set_offline(False)
        expect(page.locator("#job > .lost")).to_have_count(0)
        faults.refuse("/jobs/", 503, sentence_of(503))
        expect(page.locator("#job > .lost")).to_contain_text(sentence_of(503))
        expect(state).to_be_visible()
        faults.stop()
        expect(page.locator("#job > .lost")).to_have_count(0)
        page.get_by_role("button", name="Cancel").click()
        expect(state).to_have_text(re.compile("cancel", re.IGNORECASE), timeout=PATIENCE_MS)
    finally:
        faults.stop()
        stop = Request(f"{site.url}/api/v1/jobs/{job['id']}/cancel", b"", method="POST")
        with contextlib.suppress(HTTPError):  # it has ended
            urlopen(stop).close()


def test_a_page_of_another_model_is_told_so_and_keeps_its_question(
    faulty: tuple[Visit, Faults],
) -> None:
    """Every request says which model the page was made with; a refusal leads to a fresh page."""
    visit, faults = faulty
    page = visit.go()
    expect(page.locator(GRID)).to_be_visible()
    page.wait_for_load_state("networkidle")
    sent: list[str | None] = []
    page.on(
        "request",
        lambda r: (
            r.resource_type in ("xhr", "fetch") and sent.append(r.headers.get("x-lexiscope-expect"))
        ),
    )
    name = "X-Lexiscope-Expect"
    page.evaluate("v => document.body.setAttribute('hx-headers', v)", json.dumps({name: "old1"}))
    faults.refuse("/", 409, "The open model is now B; load the page again.",
        headers={"X-Lexiscope-Model": "B local new2"})  # fmt: skip
    page.locator("#prompt").fill("kept across models")
    page.get_by_role("button", name="Read").click()
    problem = page.locator("#result > #problem")
    expect(problem).to_contain_text("The open model is now B")
    assert set(sent) == {"old1"}
    faults.stop()
    problem.get_by_role("link", name="Load the page again").click()
    expect(page.locator(".cells thead")).to_contain_text("across")
    expect(page.locator("#prompt")).to_have_value("kept across models")
    page.goto(visit.site.url + "/map?select=near%3A200")
    expect(page.locator(".map-plot[data-ready=yes]")).to_be_visible()
    page.evaluate("v => document.body.setAttribute('hx-headers', v)", json.dumps({name: "old2"}))
    with page.expect_request("**/map/colour?*") as asked:
        page.get_by_label("Colour by").select_option("norm")
    assert asked.value.headers["x-lexiscope-expect"] == "old2"


def test_a_wait_says_so_with_the_place_in_the_queue_and_can_be_cancelled(
    faulty: tuple[Visit, Faults],
) -> None:
    visit, _ = faulty
    page = visit.go()
    expect(page.locator(GRID)).to_be_visible()
    strip, held = page.locator(".waiting"), []
    queue = {"ahead": 2, "own": 1, "waiting": 3}
    page.route("**/api/v1/queue", lambda route: route.fulfill(json=queue))
    page.route("**/?prompt=*", lambda route: held.append(route))  # is never answered
    page.locator("#prompt").fill("one two three")
    with page.expect_request_finished(lambda asked: asked.url.endswith("/queue")):
        page.get_by_role("button", name="Read").click()
        expect(strip).to_be_visible()
        expect(page.locator("#result")).to_have_css("opacity", "0.6")
    expect(strip).to_contain_text("2 before you")
    with page.expect_event("requestfailed", lambda asked: "prompt=one" in asked.url):
        strip.get_by_role("button", name="Cancel").click()
    expect(strip).to_contain_text("Cancelled")
    expect(page.locator("#result")).to_have_css("opacity", "1")
    expect(page.locator("#problem")).to_have_count(0)  # what was wanted is no fault
    assert len(held) == 1
