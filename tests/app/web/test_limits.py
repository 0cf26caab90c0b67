"""Every address that costs something has a limit, and whoever passes it is told the number."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import pytest
from asgi import BASE, routes_of, settings_with
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import K_CEILING, NEW_TOKEN_CEILING, PROMPT_CEILING
from engine import LatentSpace

TOKENS, BYTES, BODY = 64, 5000, 1_000_000
NOBODY = "0" * 24
OPEN = "the open one"
"""Stands for the name of the model that is open."""
LONG = {"prompt": "a " * PROMPT_CEILING}
MANY = {"prompt": "cat " * 200}
LAYER = {"layer": 1}
ROWS = {"file": ("a.csv", b"text,label\n" + b"a,b\n" * BYTES)}
READ = ("trace", "trace.csv", "trace.npz", "trace.html", "agreement", "curves", "finding", "cost")
MAPS = ("map", "map/points", "map/meta", "map/quality", "map/cka", "map/regions", "map/draft")
Case = tuple[str, str, dict[str, Any], int | str]


def cases() -> Iterator[Case]:
    """Method, address, what is sent, and the number (or words) that the answer must hold."""
    prompts: list[tuple[str, dict[str, object]]] = [
        ("/", {}), ("/trace/agreement", {}), ("/trace/words", {}),
        ("/trace/contexts", {}), ("/compare", {"other": "a"}), ("/api/v1/compare", {"other": "a"}),
        ("/cost", {}), ("/map", LAYER),
        ("/map/layers", LAYER), ("/map/quality", LAYER), ("/map/changes", {**LAYER, "to": 2}),
        *((f"/api/v1/{one}", {}) for one in READ), *((f"/api/v1/{one}", LAYER) for one in MAPS),
        ("/api/v1/cell", {**LAYER, "position": 0}), ("/api/v1/words", LAYER),
        ("/act", {}), ("/api/v1/act", {"steer": "#5"}), ("/api/v1/causal", {"twin": "cat"}),
        ("/api/v1/nudge", {"token": "#5"}),
        ("/api/v1/map/neighbours", {**LAYER, "index": 0}),
        ("/api/v1/map/changes", {**LAYER, "to": 2}),
        ("/api/v1/map/colour", {**LAYER, "by": "norm"}),
        (f"/api/v1/calibrations/{NOBODY}/trace", {}),
    ]  # fmt: skip
    parts = (
        "/map/layers",
        "/map/quality",
        "/map/changes",
        "/api/v1/map/colour",
        "/api/v1/map/draft",
    )
    for path, more in prompts:
        yield "GET", path, {"params": {**more, **LONG}}, PROMPT_CEILING
        if path not in parts and NOBODY not in path:
            yield "GET", path, {"params": {**more, **MANY}}, TOKENS
    for path in ("/compare/models", "/compare/models/map", "/api/v1/compare/models",
                 "/api/v1/compare/map"):  # fmt: skip
        yield "GET", path, {"params": {"beside": OPEN, **MANY}}, TOKENS
        yield "GET", path, {"params": {"beside": OPEN, **LONG}}, PROMPT_CEILING
    yield "POST", "/api/v1/trace", {"json": MANY}, TOKENS
    for path in ("/api/v1/generate", "/generate", "/generate/stream"):
        yield "GET", path, {"params": MANY}, TOKENS
        yield "GET", path, {"params": LONG}, PROMPT_CEILING
        yield "GET", path, {"params": {"prompt": "a", "tokens": 300}}, 256
        yield "GET", path, {"params": {"prompt": "a", "tokens": 10**6}}, NEW_TOKEN_CEILING
    yield "POST", "/api/v1/generate", {"json": MANY}, TOKENS
    yield "POST", "/api/v1/trace", {"json": LONG}, PROMPT_CEILING
    yield "POST", "/api/v1/many", {"json": {"cases": LONG["prompt"]}}, PROMPT_CEILING
    yield "POST", "/act/many", {"data": {"cases": "cat | dog\n" * 1001}}, 1000
    yield "POST", "/act/causal", {"data": MANY | {"twin": "cat"}}, TOKENS
    for path, more in (("/api/v1/act", {"steer": "#5"}), ("/api/v1/causal", {"twin": "cat"})):
        yield "POST", path, {"json": MANY | more}, TOKENS
        yield "POST", path, {"json": LONG | more}, PROMPT_CEILING
    for path in ("/api/v1/bases", "/api/v1/bases.csv", "/bases"):
        yield "GET", path, {"params": {"token": "#5", "k": K_CEILING + 1}}, K_CEILING
    yield "GET", "/api/v1/contexts", {"params": {"prompt": "a", "count": 11}}, 10
    yield "GET", "/api/v1/contexts", {"params": LONG}, PROMPT_CEILING
    yield "GET", "/api/v1/contexts/plan", {"params": {"bank": "a" * 41}}, 40
    yield "POST", "/api/v1/contexts", {"json": {"bank": "a" * 41}}, 40
    yield "POST", "/trace/contexts/build", {"data": {"bank": "a" * 41}}, 40
    yield "GET", "/api/v1/words", {"params": {"prompt": "a", **LAYER, "words": 11}}, 10
    for path in ("/bases", "/api/v1/tokens"):
        yield "GET", path, {"params": {"search": "x" * 3000}}, 400
    yield "GET", "/api/v1/tokens", {"params": {"search": "x", "limit": 201}}, 200
    yield "GET", "/api/v1/map/search", {"params": {"text": "x" * 3000}}, 400
    yield "GET", "/api/v1/map/neighbours", {"params": {"index": 0, "k": 10**6}}, 100
    yield "GET", "/api/v1/map", {"params": {"select": "ids:" + "1," * 3000 + "1"}}, 4000
    yield "GET", "/api/v1/map", {"params": {"format": "png", "width": 10**6}}, 2400
    yield "POST", "/api/v1/map/select", {"json": {"polygon": [[0.0, 1.0]] * 10**5}}, BODY
    for path in ("/map/selected", "/map/selected.csv"):
        yield "POST", path, {"data": {"polygon": "1," * BODY}}, BODY
    for path in ("/map/umap", "/api/v1/map/umap"):
        asked = {"projection": "umap", "neighbours": 10**6}
        yield "POST", path, {"params": asked}, 200
    for path in ("/agreement", "/api/v1/agreement/set"):
        for method in ("GET", "POST"):
            yield method, path, {"params": {"limit": 10**6}}, 2000
    for path in ("/api/v1/sets", "/calibrate/sets"):
        yield "POST", path, {"files": ROWS}, BYTES
    yield "POST", "/api/v1/calibrations", {"json": {"set": "topics", "epochs": 10**6}}, 10_000
    task = {"set": "topics", "template": "x" * 50_000}
    yield "POST", "/api/v1/calibrations/task", {"json": task}, 4000
    for what in ("competitors", "ablation"):
        there = f"/api/v1/calibrations/{NOBODY}/{what}"
        yield "POST", there, {"json": {"seeds": 11}}, 10
    yield "GET", f"/api/v1/calibrations/{NOBODY}/words", {"params": {"words": "x" * 3000}}, 2000
    own = {"text": LONG["prompt"]}
    yield "GET", f"/api/v1/calibrations/{NOBODY}/text", {"params": own}, PROMPT_CEILING
    yield "POST", f"/calibrate/{NOBODY}/competitors", {"data": {"seeds": "11"}}, 10
    yield "GET", "/calibrate", {"params": {"set": "topics", "epochs": 10**9}}, 2000
    yield "POST", "/calibrate/run", {"data": {"set": "topics", "epochs": 10**9}}, 2000


EVERY = list(cases())
# What has nothing to choose the size of: read from memory or a list, or bounded by the number of
# places of the queue and of the jobs, which their own tests pass.
FIXED = {
    "/api/v1/openapi.json", "/model", "/model/frames", "/method", "/method/source/frames",
    "/api/v1/frames/output", "/api/v1/check", "/api/v1/model", "/api/v1/queue", "/health",
    "/livez", "/ready", "/readyz", "/metrics", "/static/htmx.min.js", "/api/v1/jobs",
    "/jobs", "/api/v1/sets",
    "/api/v1/vocabulary", "/model/opening", "/model/open", "/api/v1/models", "/api/v1/models/open",
    "/api/v1/models/cost",
    "/api/v1/calibrations", "/readings", "/readings/measure", "/api/v1/readings",
    "/uses", "/uses/measure", "/api/v1/uses",
    "/present", "/present/own", "/present/paris", "/present/paris/9", "/present/paris/9/make",
    "/compare/models/second", "/compare/models/close", "/compare/models/frames",
    "/api/v1/compare/beside", "/api/v1/compare/frames",
    "/history", "/history/clear", "/history/import", "/api/v1/history", "/api/v1/history/file",
}  # fmt: skip
OF_ONE = re.compile(
    rf"/(api/v1/)?(jobs|sets|calibrations|calibrate|calibrate/sets|map/calibration|many|act/many|history)/{NOBODY}"
    r"(/cancel|/restart|/forget|/delete|/rows\.csv|/ablation\.csv|/files|/ablation|/file)?"
)


@pytest.fixture(scope="module")
def small_limits(space: LatentSpace) -> Iterator[TestClient]:
    app = create_app(settings_with(max_tokens=TOKENS, upload_limit=BYTES, body_limit=BODY), space)
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "sent", "told"), EVERY, ids=[f"{m} {p} {n}" for m, p, _, n in EVERY]
)
def test_too_much_is_refused_with_the_number_that_is_allowed(
    small_limits: TestClient, method: str, path: str, sent: dict[str, Any], told: int
) -> None:
    if sent.get("params", {}).get("beside") == OPEN:
        name = small_limits.get("/api/v1/models").json()["open"]
        sent = {"params": sent["params"] | {"beside": name}}
    answer = small_limits.request(method, path, **sent)
    assert answer.status_code in (413, 422), (answer.status_code, answer.text[:400])
    text = html.unescape(re.sub(r"<(script|style|form)[\s\S]*?</\1>|<[^>]+>", " ", answer.text))
    if path in ("/calibrate", "/calibrate/run", "/", "/map"):
        text = html.unescape(answer.text)  # the sentence stands inside the form
    plain = text.replace(",", "").replace("\u202f", "").replace("\u2009", "")
    assert re.search(rf"(at most|to) {told}\b", plain), text[:2000]


def test_every_address_is_limited_or_has_nothing_to_choose() -> None:
    """An address that is added needs a row here."""
    app = create_app(settings_with())
    limited = {(method, path) for method, path, _, _ in EVERY}
    missing = [
        f"{method} {path}"
        for method, path in routes_of(app)
        if method not in ("HEAD", "OPTIONS")
        and (method, path) not in limited
        and path not in FIXED
        and not OF_ONE.fullmatch(path)
    ]
    assert missing == []
