"""The templates' environment: escaped, strict, and data that cannot leave their script."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from asgi import BASE, settings_with
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import DictLoader, UndefinedError
from stand_alone import STAND_ALONE
from starlette.requests import Request
from starlette.testclient import TestClient

from app.main import create_app
from app.web import assets
from app.web.rendering import (
    environment,
    link,
    render_text,
    static_url,
    url_for_path,
    wants_fragment,
)
from app.web.words import digits_apart, number
from engine import LatentSpace


def request_with(app: FastAPI, root: str = "", **headers: str) -> Request:
    pairs = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return Request(
        {"type": "http", "app": app, "method": "GET", "path": f"{root}/bases", "query_string": b"",
         "root_path": root, "headers": [(b"host", b"localhost"), *pairs],
         "server": ("localhost", 8000), "scheme": "http"}
    )  # fmt: skip


def rendered(app: FastAPI, template: str, context: Any, root: str = "") -> str:
    env = environment()
    before = env.loader
    env.loader = DictLoader({"probe.html": template})
    try:
        body = render_text(request_with(app, root), "probe.html", context, is_fragment=False)
    finally:
        env.loader = before
        assert env.cache is not None
        env.cache.clear()
    return body.decode()


HOSTILE = ["<script>alert(1)</script>", "' onmouseover='x", '" x="', "</script>", "&lt;", "{{1}}"]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_escaped_and_data_cannot_end_their_script(app: FastAPI, text: str) -> None:
    page = rendered(app, '<b t="{{ text }}">{{ text }}</b>', {"text": text})
    assert "<script" not in page
    assert page.count("<") == 2
    data = rendered(app, "{{ value|tojson }}", {"value": {"label": text, "x": math.nan}})
    assert not re.search(r"[<>&']", data)
    assert json.loads(data) == {"label": text, "x": None}


def test_data_of_numpy_and_half_a_surrogate_pair_are_no_error(app: FastAPI) -> None:
    value = {"a": np.array([1.0, math.nan], dtype=np.float32), "b": ["\ud800"], "c": np.int64(3)}
    data = rendered(app, "{{ value|tojson }}", {"value": value})
    assert json.loads(data) == {"a": [1.0, None], "b": ["\ufffd"], "c": 3}
    assert rendered(app, "{{ text }}", {"text": "a\ud800b"}) == "a\ufffdb"


def test_an_unknown_name_is_an_error(app: FastAPI) -> None:
    with pytest.raises(UndefinedError):
        rendered(app, "{{ no_such_name }}", {})


def test_each_template_knows_the_model_and_the_badge(app: FastAPI) -> None:
    page = rendered(app, "{{ explorer.state }} {{ badge.level }} {{ path }} {{ notice }}", {})
    assert page == "loading wait /bases None"


def test_links_keep_the_root_path_and_quote_everything(app: FastAPI) -> None:
    asked = request_with(app, "/lexi")
    assert link(asked, "/bases", token="a b&c=#/ü", k=None, centred=True, x=[1, 2]) == (
        "/lexi/bases?token=a%20b%26c%3D%23%2F%C3%BC&centred=true&x=1&x=2"
    )
    assert url_for_path("/") == "/"
    page = rendered(app, "{{ url_for_path('/bases', k=3) }}", {}, root="/lexi")
    assert page == "/lexi/bases?k=3"
    styled = rendered(app, "{{ static_url('htmx.min.js') }}", {}, root="/lexi")
    assert styled == f"/lexi{static_url('htmx.min.js')}"


def test_under_a_root_path_every_page_links_below_it(space: LatentSpace) -> None:
    app = create_app(settings_with(root_path="/lexi"), space)
    with TestClient(app, base_url=BASE) as client:
        for prefix in ("", "/lexi"):  # a proxy that strips the prefix, and one that does not
            page = client.get(f"{prefix}/no/such/page")
            assert page.status_code == 404
            links = re.findall(r'(?:href|src)="(/[^"]*)"', page.text)
            assert links
            assert all(url.startswith("/lexi/") for url in links)
            asset = next(url for url in links if "/static/" in url)
            assert client.get(asset).status_code == 200
            assert client.get(f"{prefix}/livez").status_code == 200


def test_htmx_gets_a_fragment_unless_it_restores_history_or_boosts(app: FastAPI) -> None:
    assert wants_fragment(request_with(app, hx_request="true"))
    assert not wants_fragment(request_with(app))
    assert not wants_fragment(
        request_with(app, hx_request="true", hx_history_restore_request="true")
    )
    assert not wants_fragment(request_with(app, hx_request="true", hx_boosted="true"))


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (None, 3, "–"),
        (math.nan, 3, "–"),
        (math.inf, 3, "∞"),
        (-math.inf, 3, "-∞"),
        (0.0, 3, "0"),
        (0.12345, 3, "0.123"),
        (-1.5, 2, "-1.5"),
        (12.3456, 3, "12.3"),
        (123456.7, 3, "123457"),
        (1.5e-9, 3, "1.50e-09"),
        (2.5e12, 2, "2.5e+12"),
        (50257, 3, "50,257"),
        (np.float32(0.5), 3, "0.500"),
    ],
)
def test_numbers_as_people_read_them(value: Any, digits: int, shown: str) -> None:
    assert number(value, digits) == shown


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(2, 8))
def test_a_shown_number_is_near_the_number(value: float, digits: int) -> None:
    shown = float(number(value, digits))
    assert shown == pytest.approx(value, rel=0.6 * 10 ** (1 - digits), abs=1e-300)


def test_every_template_is_free_of_what_the_policy_forbids() -> None:
    """No inline script or style, no `safe`, no handler or htmx expression that would be code."""
    forbidden = re.compile(
        r"\|\s*safe\b|Markup\(|<style|\son[a-z]+\s*=|hx-on|js:|javascript:|hx-vals=[\"']js"
        r"|<script(?![^>]*(?:\ssrc=|type=\"application/json\"))|https?://(?!www\.w3\.org)",
        re.IGNORECASE,
    )
    allowed = re.compile(r'href="https://(?:arxiv|aclanthology|doi)\.org/')
    templates = sorted(set(assets.templates_folder().rglob("*.html")) - set(STAND_ALONE))
    assert len(templates) >= 4
    for file in templates:
        text = allowed.sub("", file.read_text(encoding="utf-8"))
        found = forbidden.search(text)
        assert found is None, f"{file.name}: {found and found[0]}"
        assert not re.search(r'hx-trigger="[^"]*\[', text), file.name


def test_a_column_has_as_many_digits_as_tell_its_numbers_apart() -> None:
    distances = [-1917.4372, -1917.4519, -1917.4581, -1917.4372]
    digits = digits_apart(distances, 5)
    assert digits == 6
    assert [number(one, digits) for one in distances] == [
        "-1917.44", "-1917.45", "-1917.46", "-1917.44"
    ]  # fmt: skip
    assert digits_apart([0.39586, 0.32853], 5) == 5
    assert digits_apart([1.0, 1.0 + 1e-12]) == 8
    assert digits_apart([]) == 3
