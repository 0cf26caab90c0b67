"""A page added the way CONTRIBUTING says: module, template, a place in the list, a test.

The throw-away page is added to a copy of the tree, where its own test and the contracts of all
pages run in a process of their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("app", "engine", "static", "templates", "tests", "pyproject.toml")

MODULE = '''
"""Echo: tokens that hold a piece of text, and nothing else."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import Field

from app.model.explorer import ExplorerDep
from app.web.rendering import Page
from app.web.questions import PageQuestion, ShortText, ask
from app.web.rendering import render
from engine import LatentSpace
from engine.errors import InputError, OptionError
from engine.model.vocabulary import Token

router = APIRouter(include_in_schema=False)
PAGE = Page("Echo", "/echo", router)


class EchoQuery(PageQuestion):
    """The whole state of the page."""

    text: ShortText = "a"
    limit: int = Field(5, ge=1, le=20)


@dataclass(frozen=True)
class EchoPage:
    """What ``bases/echo.html`` shows."""

    text: str
    limit: int
    tokens: tuple[Token, ...]
    problem: str | None


@router.get("/echo", response_class=HTMLResponse)
async def echo_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """The page; a mistake is a sentence in the answer's place."""
    query, mistake = ask(EchoQuery, request)
    tokens, problem = (), None
    try:
        if mistake is not None:
            raise OptionError(mistake)
        hits = await explorer.ask(request, LatentSpace.search, query.text, limit=query.limit)
        tokens = tuple(hit.token for hit in hits)
    except InputError as error:
        problem = str(error)
    context = EchoPage(query.text, query.limit, tokens, problem)
    return render(request, "bases/echo.html", context, status=200 if problem is None else 422)
'''

TEMPLATE = """
{% extends "base.html" %}
{% block title %}Echo · Lexiscope{% endblock %}
{% block main %}
<h1>Echo</h1>
<form method="get" action="{{ url_for_path('/echo') }}">
  <label for="text">Text</label> <input id="text" name="text" value="{{ text }}">
  <button class="button" type="submit">Search</button>
</form>
{% if problem %}<p id="problem">{{ problem }}</p>{% endif %}
<ul>{% for token in tokens %}<li>{{ ui.tok(token) }}</li>{% endfor %}</ul>
{% endblock %}
"""

TEST = '''
"""The page Echo."""

from asgi import Call, running, settings_with
from parsed import Parsed, page

from app.main import PAGES, create_app
from app.web.security import HEADERS


def test_it_answers_and_stands_in_the_navigation(shared_client):
    got = page(shared_client, "/echo?text=cat")
    assert all("cat" in e.text.lower() for e in got.all("li"))
    assert got.all("li")
    for one in PAGES:
        answer = shared_client.get(one.path)
        assert answer.status_code == 200
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        links = [e for e in Parsed(answer.text).all("a") if e.text == "Echo"]
        assert [e.attrs["href"] for e in links] == ["/echo"]
        assert ("aria-current" in links[0].attrs) == (one.path == "/echo")


def test_mistakes_are_sentences(shared_client):
    for query, said in (("limit=0", "limit must be at least 1."), ("other=1", "does not know.")):
        answer = shared_client.get(f"/echo?text=cat&{query}")
        assert answer.status_code == 422
        got = Parsed(answer.text)
        assert got.one(id="problem").text.endswith(said)
        assert got.one(id="text").attrs["value"] == "cat"
    missing, refused = shared_client.get("/echo/none"), shared_client.post("/echo")
    assert (missing.status_code, refused.status_code) == (404, 405)
    for answer in (missing, refused):
        assert Parsed(answer.text).one(id="problem").text.strip().endswith(".")
        assert "Echo" in answer.text


async def test_it_takes_one_turn(space):
    app = create_app(settings_with(), space)
    async with running(app):
        before = app.state.explorer.device.counters["done"]
        assert (await Call(app, "/echo", {"text": "cat"}).answer()).status == 200
        assert app.state.explorer.device.counters["done"] == before + 1
'''


def test_a_page_is_added_in_four_files(tmp_path: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    (tmp_path / "models").symlink_to(ROOT / "models")

    (tmp_path / "app/bases/echo.py").write_text(MODULE.lstrip())
    (tmp_path / "templates/bases/echo.html").write_text(TEMPLATE.lstrip())
    main = tmp_path / "app/main.py"
    listed = main.read_text().replace("    method.PAGE,\n", "    method.PAGE,\n    echo.PAGE,\n")
    assert "echo.PAGE" in listed
    main.write_text(
        listed.replace("from app.bases import page", "from app.bases import echo, page")
    )
    (tmp_path / "tests/app/bases").mkdir()
    (tmp_path / "tests/app/bases/test_echo.py").write_text(TEST.lstrip())

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "echo",
         "tests/app/bases/test_echo.py", "tests/app/trace/test_page.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "6 passed" in run.stdout, "three tests of its own and three contracts of all pages"
