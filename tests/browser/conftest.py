"""A real server on a free port, a real browser in front of it, and a guard on both.

The guard fails a test when the page logged an error, broke the Content-Security-Policy, opened a
dialog or asked another host for anything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from driving import HOSTILE, PATIENCE_MS, Guard, Open, Site, Visit
from playwright.sync_api import Browser, BrowserContext, sync_playwright
from served import serve
from tiny_models import SMALL, Folders
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from app.settings import Settings

CHROMIUM = os.environ.get("LEXISCOPE_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Names of other sites, and of this one seen from outside: all of them lead to this machine.
    "--host-resolver-rules=MAP *.test 127.0.0.1",
]


@pytest.fixture(scope="session")
def site(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The app on the model that ships, or on a tiny random one where that is not there."""
    shipped = (SMALL / "config.json").is_file()
    folder = SMALL if shipped else folders["llama"]
    cache = tmp_path_factory.mktemp("cache")
    yield from serve(
        Settings(model=str(folder), device="cpu", threads=1, offline=True, cache_dir=cache),
        tmp_path_factory.mktemp("data"),
    )


@pytest.fixture(scope="session")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The app on a model whose whole vocabulary is hostile, so that all of it is shown."""
    folder = tmp_path_factory.mktemp("hostile")
    words = ["<unk>", "plain", *HOSTILE]
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>").save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(words), n_positions=64, n_embd=16, n_layer=2, n_head=2,
                bos_token_id=0, eos_token_id=0,
            )
        )  # fmt: skip
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    cache = tmp_path_factory.mktemp("hostile-cache")
    yield from serve(
        Settings(model=str(folder), device="cpu", threads=1, offline=True, cache_dir=cache),
        tmp_path_factory.mktemp("hostile-data"),
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or the one that LEXISCOPE_CHROMIUM names."""
    if not Path(CHROMIUM).is_file():
        pytest.fail(f"there is no Chromium at {CHROMIUM}; set LEXISCOPE_CHROMIUM to where it is")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit_to(browser: Browser) -> Iterator[Open]:
    """Open guarded tabs; at the end no guard may have seen trouble."""
    opened: list[tuple[BrowserContext, Guard]] = []

    def visit(site: Site, *, script: bool = True, **settings: Any) -> Visit:
        context = browser.new_context(java_script_enabled=script, **settings)
        guard = Guard(urlsplit(site.url).netloc)
        if script:
            guard.watch(context)
        else:
            context.set_default_timeout(PATIENCE_MS)
            context.on("request", lambda request: guard.request(request.url))
        opened.append((context, guard))
        return Visit(context.new_page(), guard, site)

    yield visit
    troubles = []
    for context, guard in opened:
        context.close()
        troubles += guard.troubles
    assert not troubles, "\n".join(troubles)


@pytest.fixture
def visit(visit_to: Open, site: Site) -> Visit:
    """A guarded tab in front of the shipped model."""
    return visit_to(site, viewport={"width": 1280, "height": 900})
