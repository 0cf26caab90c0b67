"""What templates, scripts and figures may not hold, so that no text of a stranger can act.

Each rule is shown a careless line first, which it must find.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from jinja2 import nodes
from stand_alone import STAND_ALONE

import app as package
from app.web import assets
from app.web.rendering import environment

APP = Path(package.__file__).parent
TEMPLATES = sorted(assets.templates_folder().rglob("*.html"))
SCRIPTS = sorted(assets.static_folder().rglob("*.js"))
INSIDE = ("a style sheet", "a script of its own")
"""What a file that stands alone has to hold, and a page must not."""

IN_TEMPLATES = {
    "marked as safe": (r"\|\s*safe\b|Markup\(|autoescape", "<p>{{ name|safe }}</p>"),
    "a handler in an attribute": (r"\son[a-z]+\s*=", '<p onclick="x()">'),
    "htmx code": (r"hx-on|\bjs:|javascript:", '<p hx-on:click="x()">'),
    "a filter in a trigger": (r'hx-trigger="[^"]*\[', '<p hx-trigger="click[ctrlKey]">'),
    "htmx values made by code": (r"hx-(?:vals|vars)\s*=", "<p hx-vals='{\"a\": 1}'>"),
    "a style sheet": (r"<style\b", "<style>p{}</style>"),
    "a script of its own": (r"<script(?![^>]*\ssrc=\")", "<script>x()</script>"),
    "an attribute without quotes": (r"=\s*\{\{", "<p title={{ name }}>"),
    "a frame or plug-in": (r"<(?:iframe|object|embed|base)\b", "<iframe src=x>"),
    "a page in an attribute": (r"srcdoc", "<p srcdoc='x'>"),
}
IN_SCRIPTS = {
    "text read as HTML": (
        r"innerHTML|outerHTML\s*=|insertAdjacentHTML|document\.write|createContextualFragment",
        "box.innerHTML = name;",
    ),
    "text run as code": (
        r"\beval\(|new Function|set(?:Timeout|Interval)\(\s*[\"'`]",
        'setTimeout("x()", 1);',
    ),
    "a request of its own": (
        r"XMLHttpRequest|sendBeacon|WebSocket|EventSource|\bimport\(",
        "new XMLHttpRequest();",
    ),
    "a handler in an attribute": (
        r"setAttribute\(\s*[\"'](?:on|hx-)",
        'e.setAttribute("onclick", x);',
    ),
    "another host": (r"https?://(?!www\.w3\.org/)", 'fetch("https://example.org/")'),
}  # fmt: skip


@pytest.mark.parametrize("rule", IN_TEMPLATES)
def test_no_template_holds(rule: str) -> None:
    pattern, careless = IN_TEMPLATES[rule]
    found = re.compile(pattern, re.IGNORECASE)
    assert found.search(careless), "the rule finds nothing"
    assert len(TEMPLATES) > 40
    for file in sorted(set(TEMPLATES) - set(STAND_ALONE)) if rule in INSIDE else TEMPLATES:
        hit = found.search(file.read_text(encoding="utf-8"))
        assert hit is None, f"{file.name}: {hit and hit[0]}"


@pytest.mark.parametrize("file", STAND_ALONE, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_file_that_stands_alone_may_ask_nobody(file: Path) -> None:
    """It has a policy of its own, from the first line on, and no address in it leads anywhere."""
    text = file.read_text(encoding="utf-8")
    policy = text.index("Content-Security-Policy")
    assert policy < text.index("<style")
    assert "<script" not in text[:policy]
    assert not re.search(r"\ssrc=|<link\b|@import", text)


@pytest.mark.parametrize("rule", IN_SCRIPTS)
def test_no_script_holds(rule: str) -> None:
    pattern, careless = IN_SCRIPTS[rule]
    found = re.compile(pattern)
    assert found.search(careless), "the rule finds nothing"
    assert len(SCRIPTS) > 6
    for file in SCRIPTS:
        hit = found.search(file.read_text(encoding="utf-8"))
        assert hit is None, f"{file.name}: {hit and hit[0]}"


def test_one_script_asks_for_all() -> None:
    """So that every request says which model its page was made with."""
    asking = [file.name for file in SCRIPTS if re.search(r"\bfetch\(", file.read_text())]
    assert asking == ["questions.js"]
    base = (assets.templates_folder() / "base.html").read_text()
    assert re.search(r"<body[^>]*hx-headers='\{\{ \{\"X-Lexiscope-Expect\"", base)


def test_there_is_one_environment_and_it_escapes() -> None:
    made = [
        str(file.relative_to(APP))
        for file in sorted(APP.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", getattr(node.func, "attr", ""))
        in ("Environment", "Template", "Markup", "Jinja2Templates")
    ]
    # A map's file has its own library and script inside; what they hold is ours, or made inert.
    assert set(made) == {"web/rendering.py", "web/export.py", "maps/files/html.py"}
    assert made.count("web/rendering.py") == 1
    assert environment().autoescape is True
    careless = environment().from_string("<p>{{ name }}</p>")
    assert careless.render(name="<b>") == "<p>&lt;b&gt;</p>"


def test_data_stand_in_elements_that_nothing_runs() -> None:
    """`tojson` is used inside of template elements and of the body's headers for htmx alone."""
    places = []
    for file in TEMPLATES:
        text = file.read_text(encoding="utf-8")
        for hit in re.finditer(r"\|\s*tojson", text):
            before = text[: hit.start()]
            opened = before[before.rindex("<") :]
            places.append(opened)
            assert re.match(r"<template[^>]*>\{\{|<body [^>]*hx-headers='\{\{", opened), file.name
    assert len(places) >= 3


def test_no_template_writes_a_literal_around_a_variable_in_an_address() -> None:
    """An address is one finished value or begins with a function of ours, never with a text."""
    env = environment()
    for file in TEMPLATES:
        text = file.read_text(encoding="utf-8")
        env.parse(text)
        for value in re.findall(r'(?:href|src|action|hx-get|hx-post)="([^"]*\{\{[^"]*)"', text):
            assert value.startswith(("{{ ", "#")), f"{file.name}: {value}"


def test_hovers_are_written_here_and_never_made_of_data() -> None:
    """Plotly reads `%{…}` and `<extra>` in them; a name goes through the escape first."""
    seen = 0
    for file in sorted((APP / "figures").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "hovertemplate":
                seen += 1
                kinds = (ast.Constant, ast.IfExp, ast.Compare, ast.Name, ast.BinOp, ast.Add,
                    ast.NotEq, ast.Load)  # fmt: skip
                for part in ast.walk(node.value):
                    assert isinstance(part, kinds), f"{file.name}:{node.value.lineno}"
    assert seen >= 3


def test_regions_of_foreign_text_are_closed_to_htmx() -> None:
    """A token's element, and what a script writes texts into, say so themselves."""
    macros = (assets.templates_folder() / "_macros.html").read_text()
    assert re.search(r'<bdi class="tok[^>]*\shx-disable', macros)
    panel = (assets.templates_folder() / "maps" / "_panel.html").read_text()
    for name in ("map-plot", "map-tip", "map-legend"):
        assert re.search(rf'<div class="{name}[^>]*\shx-disable', panel), name
    found = list(environment().parse(macros).find_all(nodes.Macro))
    assert {"tok", "plot"} <= {macro.name for macro in found}
