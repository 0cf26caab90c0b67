"""Permalinks that are old, cut off, of deleted things or garbage: a page that says so."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from asgi import HOSTILE, PROMPT, TWIN
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

LINKS = int(os.environ.get("LEXISCOPE_TEST_LINKS", "150"))
"""Mutated addresses; `make soak` takes thousands."""
NOBODY = "0" * 24
LARGEST_REFUSAL = 8192
WORDS = ("prompt", PROMPT)
Query = tuple[tuple[str, str], ...]
# Addresses as the pages write them today, with every kind of setting that a link may hold.
LINKED: tuple[tuple[str, Query], ...] = (
    ("/", (WORDS,)),
    ("/", (WORDS, ("geometry", "l2"), ("frame", "tight"), ("state", "raw"), ("colour", "kl"))),
    ("/", (WORDS, ("cell", "2,3"), ("pin", "5"), ("pin", "7"), ("curve", "rank"), ("start", "0"))),
    ("/", (WORDS, ("layers", "0:3"), ("positions", "1:"), ("centred", "true"), ("k", "5"))),
    ("/", (WORDS, ("panel", "agreement"), ("temperature", "0.5"), ("words_only", "true"))),
    ("/", (WORDS, ("calibration", NOBODY), ("bos", "no"))),
    ("/trace/words", (WORDS, ("cell", "1,1"), ("frame", "tight"))),
    ("/", (WORDS, ("panel", "words"), ("cell", "2,1"))),
    ("/trace/contexts", (WORDS, ("cell", "1,1"), ("bank", "topics"))),
    ("/", (WORDS, ("panel", "contexts"), ("bank", NOBODY))),
    ("/compare", (WORDS, ("other", "the dog"), ("align", "characters"), ("colour", "divergence"))),
    ("/compare", ()),
    ("/compare", (("run", NOBODY), ("other", "the dog"))),
    ("/compare", (WORDS, ("other_run", NOBODY), ("align", "characters"))),
    ("/compare/models", (WORDS, ("beside", "b"), ("colour", "kl"))),
    ("/compare/models", ()),
    ("/compare/models/second", ()),
    ("/compare/models/map", (WORDS, ("beside", "b"))),
    ("/compare/models/frames", (("beside", "b"), ("frame", "tight"))),
    ("/history", (("kind", "trace"), ("start", "20"))),
    ("/history", (("part", "recent"),)),
    (f"/history/{NOBODY}", ()),
    ("/api/v1/compare", (WORDS, ("other", "the dog"), ("layers", "1:3"))),
    ("/api/v1/compare/models", (WORDS, ("beside", "b"))),
    ("/api/v1/compare/map", (WORDS, ("beside", "b"), ("frame", "tight"))),
    ("/api/v1/compare/frames", (("beside", "b"), ("frame", "head"))),
    ("/trace/agreement", (WORDS, ("geometry", "cosine"))),
    ("/cost", (WORDS,)),
    ("/generate", (WORDS, ("tokens", "3"), ("temperature", "0.7"), ("seed", "4"))),
    ("/generate", (WORDS, ("tokens", "3"), ("forks", "1:5,0:7.2:9"), ("branch", "2"))),
    ("/generate/stream", (WORDS, ("tokens", "2"), ("frame", "tight"), ("geometry", "l2"))),
    ("/bases", (("token", "#5"), ("geometry", "matmul"), ("k", "7"))),
    ("/bases", (("search", "ca"),)),
    ("/map", (WORDS, ("layer", "2"), ("vocabulary", "bases"), ("select", "ids:1,2,3,4,5"))),
    ("/map", (("projection", "axes"), ("axes", "#5-#7,#8-#9"), ("dims", "2"))),
    ("/map", (("texts", NOBODY), ("compare", "layer:1"), ("colour", "norm"))),
    ("/map", (WORDS, ("calibration", NOBODY), ("side", "before"))),
    ("/map/quality", (WORDS, ("layer", "1"), ("select", "ids:1,2,3,4,5,6"))),
    ("/map/layers", (WORDS,)),
    ("/map/changes", (WORDS, ("layer", "1"), ("to", "2"), ("select", "ids:1,2,3,4,5,6"))),
    ("/calibrate", (("set", "sentiment"), ("text", "text"), ("label", "label"), ("epochs", "3"))),
    ("/calibrate", (("set", NOBODY), ("target", "module"), ("loss", "mm"))),
    (f"/calibrate/{NOBODY}", ()),
    (f"/calibrate/{NOBODY}/rows.csv", ()),
    (f"/jobs/{NOBODY}", ()),
    ("/readings", ()),
    ("/uses", ()),
    ("/present", ()),
    ("/present/paris", ()),
    ("/present/own", ()),
    ("/present/paris/9", ()),
    ("/", (WORDS, ("present", "own:2"))),
    ("/", (WORDS, ("present", "paris:2"))),
    ("/agreement", (("texts", "topics"), ("limit", "5"), ("k", "3"))),
    ("/", (WORDS, ("frame", "dial"), ("alpha", "0.3"), ("ridge", "0.1"), ("lens", "none"))),
    ("/map", (WORDS, ("frame", "dial"), ("alpha", "0.3"), ("ridge", "0.1"), ("lens", "none"))),
    ("/act", ()),
    ("/act", (WORDS, ("token", "#5"), ("foil", "#7"), ("layers", "1"), ("dose", "0.5"))),
    ("/act", (WORDS, ("do", "patch"), ("source", TWIN), ("twin", TWIN))),
    ("/act", (WORDS, ("do", "scale"), ("part", "mlp"), ("factor", "2"), ("target", "#5"))),
    ("/model", ()),
    ("/model", (("costs", "true"),)),
    ("/model/opening", ()),
    ("/model/frames", (("frame", "output"),)),
    ("/method", ()),
    ("/method/source/frames", ()),
    ("/api/v1/trace", (WORDS, ("layers", "1:3"))),
    ("/api/v1/cell", (WORDS, ("layer", "1"), ("position", "2"))),
    ("/api/v1/words", (WORDS, ("layer", "1"), ("words", "3"))),
    ("/api/v1/contexts", (WORDS, ("layer", "1"), ("bank", NOBODY), ("count", "3"))),
    ("/api/v1/contexts/plan", (("bank", "examples"),)),
    ("/api/v1/curves", (WORDS, ("ids", "5,7"), ("position", "-1"))),
    ("/api/v1/finding", (WORDS, ("position", "-1"))),
    ("/api/v1/generate", (WORDS, ("tokens", "2"), ("seed", "3"), ("fork", "1:5"))),
    ("/api/v1/bases", (("token", "#5"), ("frame", "random"))),
    ("/api/v1/map", (WORDS, ("layer", "1"), ("select", "ids:1,2,3,4,5,6"))),
    ("/api/v1/map/neighbours", (("index", "3"), ("k", "5"), ("select", "ids:1,2,3,4,5,6"))),
    ("/api/v1/tokens", (("search", "the"),)),
    ("/api/v1/vocabulary", ()),
    ("/api/v1/act", (WORDS, ("steer", "#5"), ("from", "#7"), ("layers", "1"), ("dose", "0.5"))),
    ("/api/v1/act", (WORDS, ("swap", "#5"), ("swap", "#7"), ("positions", ":"))),
    ("/api/v1/causal", (WORDS, ("twin", TWIN))),
    ("/api/v1/nudge", (WORDS, ("token", "#5"))),
    (f"/act/many/{NOBODY}", ()),
    (f"/api/v1/many/{NOBODY}", ()),
    (f"/api/v1/calibrations/{NOBODY}/trace", (WORDS,)),
)
STRANGE = (
    "", " ", "0", "-1", "1e999", "nan", "Infinity", "9" * 400, "true", "null", "[]", "{}",
    "../../etc/passwd", "\x00", "\ud800", "\u202e", "a,b", "0:", ":", "::", "1:0", "-0", "٣",
    "all", "none", "auto", "#", "#-1", "ids:", "words:", "near:3", "%s%n", "{{7*7}}", "x" * 3000,
    NOBODY, NOBODY[:-1], "f" * 24, "topics", "%", "%ff", "&", "=", "+", "'", *HOSTILE,
)  # fmt: skip
NAMES = (
    "layer",
    "layers",
    "version",
    "v",
    "model",
    "text",
    "q",
    "id",
    "prompt",
    "page",
    "__class__",
)


@st.composite
def links(draw: Any) -> str:
    """An address of today after a few changes."""
    path, pairs = draw(st.sampled_from(LINKED))
    query = [list(pair) for pair in pairs]
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(("drop", "twice", "value", "name", "more", "text", "swap")))
        at = draw(st.integers(0, max(len(query) - 1, 0)))
        if how in ("drop", "twice", "value", "name", "text", "swap") and not query:
            how = "more"
        match how:
            case "drop":
                del query[at]
            case "twice":
                query.append([query[at][0], draw(st.sampled_from(STRANGE))])
            case "value":
                query[at][1] = draw(st.sampled_from(STRANGE))
            case "text":
                query[at][1] = draw(st.text(max_size=40))
            case "name":
                query[at][0] = draw(st.sampled_from(NAMES))
            case "more":
                query.append([draw(st.sampled_from(NAMES)), draw(st.sampled_from(STRANGE))])
            case "swap":
                query[at][1] = query[draw(st.integers(0, len(query) - 1))][1]
    text = urlencode([(name, value) for name, value in query], errors="surrogatepass")
    if draw(st.integers(0, 4)) == 0:  # cut off, or changed by whoever passed it on
        cut = draw(st.integers(0, len(text)))
        text = text[:cut] + quote(draw(st.sampled_from(STRANGE)).encode("utf-8", "surrogatepass"))
    if draw(st.integers(0, 9)) == 0 and len(path) > 3:
        path = path[: draw(st.integers(1, len(path) - 1))] + draw(st.sampled_from(("", "/", "x")))
    return f"{path}?{text}"


@settings(max_examples=LINKS, deadline=None, derandomize=True, database=None)
@given(address=links(), part=st.booleans())
@example(address="/bases?token=%2399999", part=False)  # ids that no vocabulary has
@example(address=f"/api/v1/bases?token=%23{'9' * 30}", part=False)
@example(address="/map?select=ids%3A99999999999", part=True)
@example(address="/?prompt=a&cell=99,99&pin=99999", part=True)
@example(address="/generate?prompt=a&tokens=+", part=True)  # a mistake, asked for by htmx
@pytest.mark.slow
def test_a_mutated_permalink_is_answered_with_a_page_that_says_so(
    shared_client: TestClient, address: str, part: bool
) -> None:
    headers = {"HX-Request": "true"} if part else {}
    answer = shared_client.get(address, headers=headers, follow_redirects=False)
    assert answer.status_code < 500, (address, answer.text[:500])
    assert "Traceback" not in answer.text
    if answer.status_code < 400:
        return
    assert answer.status_code in (400, 404, 405, 409, 410, 413, 414, 422), address
    if address.startswith("/api/"):
        assert len(answer.content) <= LARGEST_REFUSAL
        assert answer.json()["error"]["sentence"].rstrip().endswith((".", "…"))
        return
    # A part of a page may be nothing but its sentence: what a prompt would cost.
    assert re.search(r"<(p|h1|span id=\"cost-problem\")[^>]*>[^<]{8,}", answer.text), address
    if not part:
        assert 'href="/"' in answer.text  # a way on


def test_every_page_has_a_link_here(shared_client: TestClient) -> None:
    """A page that is added must be among those whose links are mutated."""
    from fastapi.routing import iter_route_contexts

    app: Any = shared_client.app
    ours = {path for path, _ in LINKED}
    missing = []
    for context in iter_route_contexts(app.routes):
        path = context.path or ""
        if "GET" not in (context.methods or ()) or path.startswith(("/api/", "/static")):
            continue
        if path in ("/livez", "/readyz", "/health", "/ready", "/metrics", "/login", "/jobs"):
            continue
        shape = re.sub(r"\{[^}]*\}", "[^/]+", path)
        if not any(re.fullmatch(shape, one) for one in ours):
            missing.append(path)
    assert sorted(missing) == ["/calibrate/{id}/ablation.csv", "/map/calibration/{id_}"]


@pytest.mark.slow
def test_links_of_today_are_answered(shared_client: TestClient) -> None:
    """The seeds are links that work, so that their mutants are near something real."""
    for path, query in LINKED:
        answer = shared_client.get(f"{path}?{urlencode(query)}")
        lost = NOBODY in f"{path}{query}" or path == "/present/paris/9"  # made by nobody yet
        lost = lost or ("beside", "b") in query  # and no second model is open
        assert answer.status_code in ((200, 404, 422) if lost else (200,)), (path, query)
