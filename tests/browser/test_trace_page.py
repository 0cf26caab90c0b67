"""The Trace page, driven as a person drives it."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from driving import Open, Site, Visit, quiet, settle
from playwright.sync_api import Page, Route, expect

pytestmark = pytest.mark.browser

GRID = "#grid[data-ready=yes]"


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def cell_texts(page: Page) -> list[str]:
    """The texts in the grid's cells, as the figure shows them, row by row from the bottom."""
    found: list[str] = page.locator("#grid .scatterlayer .textpoint text").all_text_contents()
    return found


def click_cell(page: Page, row: int, column: int) -> None:
    """A real mouse click into a cell of the figure; row 0 is the bottom."""
    box = page.locator("#grid").evaluate(
        """(gd, [row, column]) => {
            const { xaxis, yaxis } = gd._fullLayout;
            gd.parentElement.scrollLeft = 0;
            gd.scrollIntoView({ block: "center" });
            const rect = gd.getBoundingClientRect();
            return [rect.left + xaxis._offset + xaxis.c2p(column),
                    rect.top + yaxis._offset + yaxis.c2p(row)];
        }""",
        [row, column],
    )
    page.mouse.move(*box)
    page.mouse.click(*box)


def run(page: Page, prompt: str) -> None:
    page.locator("#prompt").fill(prompt)
    page.get_by_role("button", name="Read").click()


def test_the_first_visit_shows_a_computed_example(visit: Visit) -> None:
    """No click is needed: a grid, a cell, curves and a path stand there at once."""
    page = visit.go()
    expect(page.locator(GRID)).to_be_visible()
    expect(page.locator("#cell-title")).to_contain_text("position")
    texts = cell_texts(page)
    rows = page.locator(".cells tbody tr").count()
    columns = page.locator(".cells thead th").count() - 1
    assert len(texts) == rows * columns > 10
    assert all(texts)
    expect(page.locator("#curves-plot[data-ready=yes]")).to_be_attached()
    assert page.locator("h1").count() == 1


def test_typing_a_prompt_and_running_it(visit: Visit) -> None:
    """The grid's columns are the new prompt's tokens; the URL holds it; reload shows the same."""
    page = visit.go()
    expect(page.locator(GRID)).to_be_visible()
    run(page, "the the the")
    expect(page.locator(".cells thead th")).to_have_count(4)
    expect(page.locator(GRID)).to_be_visible()
    ticks = page.locator("#grid .xaxislayer-above .xtick text").all_text_contents()
    assert [re.sub(r"\D", "", tick) for tick in ticks] == ["0", "1", "2"], "a column for each token"
    assert query(page)["prompt"] == ["the the the"]
    before = cell_texts(page)
    page.reload()
    expect(page.locator(GRID)).to_be_visible()
    assert cell_texts(page) == before


def test_control_enter_runs_the_prompt(visit: Visit) -> None:
    page = visit.go()
    box = page.locator("#prompt")
    box.fill("one two")
    box.press("Control+Enter")
    expect(page.locator(".cells thead th")).to_have_count(3)


def test_a_click_on_a_cell_opens_it_and_back_closes_it(visit: Visit) -> None:
    """The panel, the table's mark and the URL follow the click; back and forward walk them."""
    page = visit.go()
    expect(page.locator(GRID)).to_be_visible()
    first = page.locator("#cell-title").inner_text()
    click_cell(page, 1, 2)
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 1, position 2"))
    assert query(page)["cell"] == ["1,2"]
    expect(page.locator('.cells a[aria-current="true"]')).to_have_attribute("data-cell", "1,2")
    shown = page.locator("#cell .three table").first.inner_text()
    expect(page.locator(GRID)).to_be_visible()
    page.go_back()
    expect(page.locator("#cell-title")).to_have_text(first)
    page.go_forward()
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 1, position 2"))
    assert page.locator("#cell .three table").first.inner_text() == shown
    expect(page.locator(GRID)).to_be_visible()


def test_a_switch_of_geometry_never_runs_the_model_again(visit: Visit, site: Site) -> None:
    """Other scores, same states: the count of forward passes stays."""
    page = visit.go()
    run(page, "She opened the door and saw")
    expect(page.locator("#grid-table")).to_contain_text("opened")
    expect(page.locator(GRID)).to_be_visible()
    settle(page)  # a part that comes later may need a pass of its own
    passes = site.forward_passes
    before = page.locator(".cells").text_content()
    page.locator("#more > summary").click()
    page.get_by_role("radio", name="squared L2").check()
    expect(page.locator("#cell .chosen .head")).to_have_text("squared L2")
    assert query(page)["geometry"] == ["l2"]
    assert page.locator(".cells").text_content() != before
    page.get_by_label("Frame").select_option("head")
    expect(page.locator(".result-head")).to_contain_text("squared L2, raw head rows")
    page.get_by_role("radio", name="matrix product").check()
    expect(page.locator(".result-head")).to_contain_text("matrix product, raw head rows")
    expect(page.locator("#headline")).to_contain_text("nearest word")
    assert site.forward_passes == passes


def test_a_change_of_colour_does_not_reach_the_server(visit: Visit) -> None:
    """The figure is repainted in the page; the URL, and every link, keep the choice."""
    page = visit.go()
    expect(page.locator(GRID)).to_be_visible()
    page.wait_for_load_state("networkidle")
    reads = page.locator("[data-reads]").inner_text()
    sent = len(visit.guard.requests)
    page.get_by_label("Colour", exact=True).select_option("entropy")
    expect(page.locator("#grid .cbtitle, #grid .colorbar")).not_to_have_count(0)
    expect(page.locator("[data-reads]")).not_to_have_text(reads)
    assert query(page)["colour"] == ["entropy"]
    asked = [u for u in visit.guard.requests[sent:] if "/static/" not in u]
    assert asked == []
    href = page.locator(".cells a").first.get_attribute("href") or ""
    assert "colour=entropy" in href
    title = page.locator("#grid").evaluate("gd => gd.data[0].colorbar.title.text")
    assert "entropy" in title
    page.reload()
    expect(page.get_by_label("Colour", exact=True)).to_have_value("entropy")


def test_a_token_can_be_pinned_and_taken_off(visit: Visit) -> None:
    page = visit.go()
    expect(page.locator("#curves-plot[data-ready=yes]")).to_be_attached()
    chosen = page.locator("#cell .three a.tok-link:not(.pinned)").nth(4)
    name = chosen.inner_text()
    chosen.click()
    chips = page.locator("#curves .pins a")
    expect(page).to_have_url(re.compile("pin="))
    expect(page.get_by_role("link", name="Back to the answer and its rivals")).to_be_visible()
    expect(chips.last).to_contain_text(name)
    count = len(query(page)["pin"])
    assert count in (3, 4), "the answer and its rivals stay"
    expect(chips).to_have_count(count)
    expect(page.locator("#curves-plot[data-ready=yes]")).to_be_attached()
    page.locator("#cell .three a.tok-link:not(.pinned)").nth(2).click()
    expect(chips).to_have_count(count + 1)
    page.locator("#measure-score").click()
    expect(page.locator("#curves .segmented a[aria-current]")).to_have_text("score")
    expect(chips).to_have_count(count + 1)
    chips.first.click()
    expect(chips).to_have_count(count)
    page.get_by_role("link", name="Back to the answer and its rivals").click()
    expect(page.locator("#curves")).to_contain_text("nearest at some layer")
    assert "pin" not in query(page)


def test_all_links_follow_a_pin_and_a_curve(visit: Visit) -> None:
    """What a click in the details set is kept by every link outside of them."""
    page = visit.go()
    page.locator("#cell .three a.tok-link:not(.pinned)").nth(4).click()
    expect(page).to_have_url(re.compile("pin="))
    count = len(query(page)["pin"])
    expect(page.locator("#curves .pins a")).to_have_count(count)
    page.locator("#measure-score").click()
    expect(page.locator("#curves .segmented a[aria-current]")).to_have_text("score")
    page.get_by_role("link", name="layer below").click()
    expect(page).to_have_url(re.compile("cell="))
    state = query(page)
    assert set(state) == {"pin", "curve", "cell"}

    def kept(href: str | None) -> dict[str, list[str]]:
        return parse_qs(urlsplit(href or "").query)

    permalink = page.get_by_role("link", name="Permalink").get_attribute("href")
    assert {name: kept(permalink)[name] for name in state} == state
    cell = page.locator('.cells a[data-cell="1,1"]')
    assert kept(cell.get_attribute("href")) == state | {"cell": ["1,1"]}
    page.get_by_label("Colour", exact=True).select_option("entropy")
    page.locator("#grid-table > summary").click()
    cell.click()
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 1, position 1"))
    assert query(page) == state | {"cell": ["1,1"], "colour": ["entropy"]}
    expect(page.locator("#curves .pins a")).to_have_count(count)


def test_the_form_keeps_what_links_have_set(visit: Visit) -> None:
    """An open cell and a pin survive a change of a switch."""
    page = visit.go("/?cell=1%2C1")
    page.locator("#cell .three a.tok-link").nth(3).click()
    expect(page).to_have_url(re.compile("pin="))
    count = len(query(page)["pin"])
    page.locator("#more > summary").click()
    page.get_by_role("radio", name="matrix product").check()
    expect(page.locator("#cell .chosen .head")).to_have_text("matrix product")
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 1, position 1"))
    expect(page.locator("#curves .pins a")).to_have_count(count)


def test_the_grid_works_by_keyboard(visit: Visit) -> None:
    """Arrows move the outline and say where it is; Enter opens the cell."""
    page = visit.go("/?cell=2%2C2")
    expect(page.locator(GRID)).to_be_visible()
    page.locator("#grid").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#live")).to_contain_text("layer 1, position 1")
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 2, position 2"))
    page.keyboard.press("Enter")
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 1, position 1"))
    assert query(page)["cell"] == ["1,1"]
    assert page.evaluate("document.activeElement.id") == "grid", "the focus stays on the grid"


def test_the_steps_beside_a_cell_lead_to_its_neighbours(visit: Visit) -> None:
    page = visit.go("/?cell=2%2C2")
    page.get_by_role("link", name="layer above").click()
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 3, position 2"))
    page.get_by_role("link", name="position before").click()
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 3, position 1"))


def test_the_agreement_table_arrives_by_itself(visit: Visit) -> None:
    page = visit.go()
    page.locator("#agreement").scroll_into_view_if_needed()
    table = page.locator("#agreement table")
    expect(table).to_be_visible()
    expect(table).to_contain_text("random (control)")
    expect(page.locator("#agreement")).to_contain_text("the paper's reading")


def test_the_cost_is_predicted_while_typing(visit: Visit) -> None:
    page = visit.go()
    expect(page.locator("#cost")).to_contain_text("measured")
    page.locator("#prompt").press_sequentially(" little girl who had")
    expect(page.locator("#cost")).not_to_contain_text("measured")
    expect(page.locator("#cost")).to_contain_text("predicted")
    assert "prompt" not in query(page), "predicting is not running"


def test_the_cost_of_a_run_is_measured(visit: Visit) -> None:
    """It stands there after the run, and no late forecast replaces it."""
    page = visit.go()
    held: list[Route] = []
    page.route("**/cost?*", lambda route: held.append(route))
    with page.expect_request("**/cost?*"):
        page.locator("#prompt").fill("the king and the queen")
    page.get_by_role("button", name="Read").click()
    expect(page.locator(".cells thead")).to_contain_text("king")
    expect(page.locator("#cost")).to_contain_text("measured")
    with page.expect_response("**/cost?*"):
        held[0].continue_()
    page.unroute("**/cost?*")
    quiet(page)
    expect(page.locator("#cost")).to_contain_text("measured")
    page.locator("#prompt").fill("the king")
    expect(page.locator("#cost")).not_to_contain_text("measured")


def test_the_example_in_use_is_marked_and_no_other(visit: Visit) -> None:
    page = visit.go()
    marked, look = page.locator(".examples .chip[aria-current]"), page.locator(".look")
    expect(marked).to_have_count(1)
    expect(look).to_be_visible()
    run(page, "the king and the queen")
    expect(marked).to_have_count(0)
    expect(look).to_be_hidden()
    chip = page.locator(".examples .chip").last
    run(page, chip.get_attribute("data-prompt") or "")
    expect(marked).to_have_text(chip.inner_text())
    title = chip.get_attribute("title") or ""
    expect(look).to_have_text(title.removeprefix(f"{chip.get_attribute('data-prompt')}: "))


def test_a_scrolled_grid_begins_with_a_whole_column(visit_to: Open, site: Site) -> None:
    page = visit_to(site, viewport={"width": 400, "height": 800}).go()
    expect(page.locator(GRID)).to_be_visible()
    left, over, end = page.locator("#grid").evaluate(
        """gd => {
            const [x, box] = [gd._fullLayout.xaxis, gd.parentElement];
            const last = x._offset + x.c2p(x.range[1]) - box.scrollLeft;
            const left = box.scrollLeft;
            return [left, left % (x.c2p(1) - x.c2p(0)), box.clientWidth - last];
        }"""
    )
    assert left > 0
    assert over == pytest.approx(0, abs=1)
    assert end >= 0, "the last column can be seen whole"


def test_a_mistake_is_a_sentence_and_the_page_goes_on(visit: Visit) -> None:
    """Unknown layers: one sentence in the result's place; the form still works."""
    visit.guard.allow = ("status of 422", "Error Code 422")
    page = visit.go()
    page.locator("#more > summary").click()
    layers = page.locator("#layers")
    layers.fill("90:95")
    layers.press("Enter")
    expect(page.locator("#result #problem")).to_contain_text("layer")
    layers.fill("1:3")
    layers.press("Enter")
    expect(page.locator(".cells tbody tr")).to_have_count(2)
    expect(page.locator("#problem")).to_have_count(0)


def test_the_sentence_about_a_mistake_stays(visit: Visit) -> None:
    """Neither the forecast of the cost nor further typing takes it away."""
    visit.guard.allow = ("status of 422", "Error Code 422")
    visit.page.clock.install()
    page = visit.go()
    box = page.locator("#prompt")
    box.fill("king " * 1000)
    box.press("Control+Enter")
    sentence = page.locator("#result > #problem")
    expect(sentence).to_contain_text("tokens")
    page.clock.fast_forward(2_000)  # past all that waits for a pause in the typing
    quiet(page)
    expect(sentence).to_be_visible()
    expect(page.locator("#cost strong")).to_have_count(0)
    box.fill("king " * 900)
    expect(page.locator("#cost-problem")).to_contain_text("tokens")
    expect(sentence).to_be_visible()
    box.fill("king")
    expect(page.locator("#cost")).to_contain_text("predicted")
    expect(sentence).to_be_visible()
    box.press("Control+Enter")
    expect(page.locator("#cost")).to_contain_text("measured")
    expect(page.locator("#problem")).to_have_count(0)


def test_no_answer_is_said_in_the_page(visit: Visit) -> None:
    """When the server is gone the reader is told so, in words."""
    visit.guard.allow = ("Failed to load resource", "htmx:sendError", "htmx:afterRequest")
    page = visit.go()
    expect(page.locator(GRID)).to_be_visible()
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    page.get_by_role("link", name="layer below").click()
    expect(page.locator(".lost")).to_contain_text("did not answer")
    page.context.set_offline(False)
    page.get_by_role("link", name="layer below").click()
    expect(page.locator(".lost")).to_have_count(0)


def test_light_and_dark_are_remembered_and_the_figures_follow(visit: Visit) -> None:
    page = visit.go()
    expect(page.locator(GRID)).to_be_visible()
    paper = "gd => gd.layout.paper_bgcolor"
    before = page.locator("#grid").evaluate(paper)
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.locator("#grid").evaluate(paper) != before
    page.reload()
    expect(page.locator(GRID)).to_be_visible()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.locator("#grid").evaluate(paper) != before


def test_without_script_everything_is_there(visit_to: Open, site: Site) -> None:
    """Type, run, open a cell, pin, agree, export: links and forms alone."""
    page = visit_to(site, script=False).go()
    page.locator("#prompt").fill("one two three")
    page.get_by_role("button", name="Read").click()
    assert query(page)["prompt"] == ["one two three"]
    expect(page.locator(".cells")).to_be_visible()
    expect(page.locator("#curves-table table")).to_be_visible()
    page.locator('.cells a[data-cell="1,1"]').click()
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 1, position 1"))
    page.locator("#cell .three a.tok-link").nth(2).click()
    expect(page.get_by_role("link", name="Back to the answer and its rivals")).to_be_visible()
    page.locator("#more > summary").click()
    page.get_by_role("radio", name="squared L2").check()
    page.get_by_role("button", name="Read").click()
    expect(page.locator("#cell-title")).to_have_text(re.compile("layer 1, position 1"))
    expect(page.locator("#cell .chosen .head")).to_have_text("squared L2")
    page.get_by_role("link", name="Show the agreement table").click()
    expect(page.locator("#agreement table")).to_be_visible()
    page.get_by_role("button", name="Predict the cost only").click()
    expect(page.locator("#cost")).to_contain_text("predicted")
