"""Every page on the packaged language model, in the real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import Open, Site, settle
from playwright.sync_api import expect
from served import serve

from app.main import PAGES
from app.settings import Settings

pytestmark = [pytest.mark.browser, pytest.mark.real]


@pytest.fixture(scope="module")
def real_site(smollm2_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    cache = tmp_path_factory.mktemp("real-cache")
    (cache / "gguf").symlink_to(smollm2_copy.parent)
    settings = Settings(model="smollm2", device="cpu", threads=1, offline=True, cache_dir=cache)
    yield from serve(settings, tmp_path_factory.mktemp("real-data"))


def test_every_page_shows_the_real_model(real_site: Site, visit_to: Open) -> None:
    """No trouble in the console, nothing wider than the window, and the model's name on each."""
    for width in (1440, 400):
        visit = visit_to(real_site, viewport={"width": width, "height": 900})
        page = visit.page
        for one in PAGES:
            visit.go(one.path)
            settle(page)
            expect(page.get_by_text("SmolLM2-135M-Instruct").first).to_be_attached()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), one.path


def test_the_first_page_names_paris_and_the_control_does_not(
    real_site: Site, visit_to: Open
) -> None:
    shown = visit_to(real_site, viewport={"width": 1440, "height": 900}).go("/")
    settle(shown)
    assert shown.locator("#prompt").input_value() == "The capital of France is"
    expect(shown.locator(".answer")).to_contain_text("Paris")
    expect(shown.locator(".answer")).to_contain_text("becomes the nearest word at layer 25 of 30")
    shown.get_by_role("link", name="random control").click()
    expect(shown.locator(".answer")).to_contain_text("whatever this shows is chance")
