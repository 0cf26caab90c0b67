"""A server with several models: the list, an opening watched in the page, and tabs of the old one.

Everything here is answered by the real server; only the loading of a model can be held at a gate.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

import pytest
from axe_playwright_python.sync_playwright import Axe
from driving import PATIENCE_MS, Open, Site, settle
from playwright.sync_api import Page, expect
from served import serve
from tiny_models import Folders
from waiting import until

from app.settings import Settings

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

LONG_NAME = "a-model-with-a-rather-long-name-of-many-letters.v2"
REFUSED = ("the server responded with a status of", "Error Code 409", "htmx:responseError")
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 400, "height": 800}


@dataclass
class Choice:
    """A server with several models, and the gate before each loading."""

    site: Site
    gate: threading.Event

    def begin(self, name: str) -> None:
        body = json.dumps({"name": name}).encode()
        sent = Request(
            f"{self.site.url}/api/v1/models/open", body, {"Content-Type": "application/json"}
        )
        urlopen(sent).close()

    def wait(self) -> None:
        until(lambda: self.site.app.state.explorer.models.opening is None)

    def open(self, name: str) -> None:
        self.begin(name)
        self.wait()


@pytest.fixture(scope="module")
def choice(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Choice]:
    broken = tmp_path_factory.mktemp("choice") / "broken"
    shutil.copytree(folders["gpt2"], broken)
    (broken / "model.safetensors").write_bytes(b"no weights at all")
    listed = {"first": folders["llama"], LONG_NAME: folders["gpt2"], "broken": broken}
    settings = Settings(
        model="first", models=",".join(f"{name}={place}" for name, place in listed.items()),
        device="cpu", threads=1, offline=True, cache_dir=tmp_path_factory.mktemp("choice-cache"),
    )  # fmt: skip
    running = serve(settings, tmp_path_factory.mktemp("choice-data"))
    site = next(running)
    gate = threading.Event()
    gate.set()
    models = site.app.state.explorer.models
    real = models._load

    def load(settings: Settings, check: Any, tell: Any, *rest: Any) -> Any:
        tell("reading the weights")
        while not gate.wait(0.01):
            check()
        return real(settings, check, tell, *rest)

    models._load = load
    yield Choice(site, gate)
    gate.set()
    next(running, None)


@pytest.fixture(autouse=True)
def _first_again(choice: Choice) -> Iterator[None]:
    yield
    choice.gate.set()
    choice.wait()
    choice.open("first")


def sound(page: Page) -> None:
    """Readable light and dark, and nothing wider than the page."""
    for size, scheme in ((WIDE, "light"), (NARROW, "dark")):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        wide, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= room, size
        room = page.locator("#models .table-scroll")
        assert room.evaluate("one => one.scrollWidth <= one.clientWidth"), size
        serious = [
            f"{v['id']}: {node['html'][:160]}"
            for v in Axe().run(page).response["violations"]
            if v["impact"] in ("serious", "critical")
            for node in v["nodes"][:3]
        ]
        assert not serious, "\n".join(serious)
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]


def test_a_model_is_opened_from_the_page_and_a_failure_is_told_there(
    visit_to: Open, choice: Choice
) -> None:
    """The list, the opening as it goes on, the fresh page at its end, and what fails."""
    visit = visit_to(choice.site, viewport=WIDE)
    visit.guard.allow = REFUSED
    page = visit.go("/model")
    settle(page)
    expect(page.locator("#models tbody tr")).to_have_count(3)
    sound(page)
    late = page.context.new_page()  # its buttons stand while another model is opened
    late.goto(f"{choice.site.url}/model")
    choice.gate.clear()
    page.get_by_role("button", name=f"Open {LONG_NAME}").click()
    expect(page.locator("#models [role=status]")).to_contain_text("reading the weights")
    expect(page.locator("#models button")).to_have_count(0)
    expect(page.locator(".model-name")).to_have_text("first")
    sound(page)
    late.get_by_role("button", name="Open broken").click()
    expect(late.locator("#models .lost")).to_contain_text(f"{LONG_NAME} is being opened")
    choice.gate.set()
    expect(page.locator(".model-name")).to_have_text(LONG_NAME)
    expect(page.locator("#models tr:has(.badge.ok) th")).to_contain_text(LONG_NAME)
    page.get_by_role("button", name="Open broken").click()
    expect(page.locator("#models .failed")).to_contain_text("broken could not be opened:")
    expect(page.locator(".model-name")).to_have_text(LONG_NAME)
    sound(page)


def test_a_tab_of_the_old_model_is_told_so_and_goes_on_with_its_question(
    visit_to: Open, choice: Choice
) -> None:
    """A run, a part of the page, a map's colours and a form: each is refused, none is mixed."""
    visit = visit_to(choice.site, viewport=WIDE)
    visit.guard.allow = REFUSED
    tabs = {path: visit.page.context.new_page() for path in ("/", "/map", "/calibrate")}
    for path, tab in tabs.items():
        tab.goto(choice.site.url + path)
        tab.wait_for_load_state("networkidle")
    choice.open(LONG_NAME)
    told = f"The open model is now {LONG_NAME}; this was asked of first"

    trace = tabs["/"]
    trace.locator("#prompt").fill("The king and the queen")
    trace.get_by_role("button", name="Read").click()
    problem = trace.locator("#result > #problem")
    expect(problem).to_contain_text(told)
    expect(trace.locator(".cells")).to_have_count(0)
    problem.get_by_role("link", name="Load the page again").click()
    expect(trace.locator(".model-name")).to_have_text(LONG_NAME)
    expect(trace.locator("#prompt")).to_have_value("The king and the queen")
    expect(trace.locator(".cells")).to_be_attached()

    cloud = tabs["/map"]
    cloud.get_by_label("Colour by").select_option("norm")
    problem = cloud.locator(".map-panel .lost")
    expect(problem).to_contain_text(told)
    problem.get_by_role("link", name="Load the page again").click()
    expect(cloud.locator(".model-name")).to_have_text(LONG_NAME)
    expect(cloud.locator(".map-plot[data-ready=yes]")).to_be_visible()

    form = tabs["/calibrate"]
    form.locator("#title").fill("of the old model")
    form.get_by_role("button", name="Teach it").click()
    problem = form.locator(".run-card .lost")
    expect(problem).to_contain_text(told)
    expect(form.locator("#title")).to_have_value("of the old model")
    with urlopen(f"{choice.site.url}/api/v1/jobs") as answer:
        assert json.load(answer)["jobs"] == []
    problem.get_by_role("link", name="Load the page again").click()
    expect(form.locator(".model-name")).to_have_text(LONG_NAME)
