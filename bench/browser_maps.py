"""The map page's budgets in a real browser: bytes of a figure, drawing, and freezes while hovering.

Synthetic points, so that the figures speak of the page and not of a model: a Gaussian crowd with a
few clusters, and one point a hundred radii away, as a first token may lie. The panel is the page's
own template and scripts under the page's own Content-Security-Policy.
"""

from __future__ import annotations

import json
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np
import orjson

from app.figures.map import figure
from app.figures.theme import payload
from app.maps.documents import kinds_of
from app.maps.files.drawing import border_sentence
from app.maps.panels import Badge, Panel
from app.web import assets
from app.web.rendering import environment
from app.web.security import CONTENT_SECURITY_POLICY
from bench.report import Goal, Section
from engine.maps import Map, MapOptions, MapPoints
from engine.maps.border import draw_border
from engine.trace.result import ModelInfo

SIZES = (30_000, 100_000, 250_000)
MOVES = 60
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PAGE = """{% import "_macros.html" as ui %}<!doctype html><html lang="en" class="js"><head>
<meta charset="utf-8"><meta name="plotly" content="/static/plotly.min.js"><title>bench</title>
<link rel="stylesheet" href="/static/css/lexiscope.css">
<link id="plotly.js-style-global" class="no-inline-styles" rel="stylesheet"
 href="/static/css/plotly.css"><link rel="stylesheet" href="/static/css/map.css">
{% for part in ["questions", "figures", "map-points", "map-cloud", "map-common", "map-paint",
 "map-names", "map-look", "map-layers", "pointer", "map-touch", "map-panel", "map"] %}
<script defer src="/static/js/{{ part }}.js"></script>{% endfor %}</head><body><main class="wrap">
<select data-colour hidden><option value="class"></option></select>
{% include "maps/_panel.html" %}</main><div id="live"></div></body></html>"""


@dataclass
class Crowd:
    """Synthetic points of one size."""

    n: int
    points: bytes = field(init=False)
    codes: bytes = field(init=False)
    map: Map = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.n)
        centres = rng.normal(size=(40, 2)) * 0.35
        places = centres[rng.integers(40, size=self.n)] + rng.normal(size=(self.n, 2)) * 0.12
        places[17] = (100.0, 80.0)
        limit = np.quantile(np.abs(places), 0.999) * 1.3
        corner = np.full(2, limit)
        border = draw_border(places.astype(np.float32), (-corner, corner), shared=True)
        self.points = border.clipped.astype("<f4").tobytes()
        self.codes = rng.integers(6, size=self.n).astype("u1").tobytes()
        kind, row = np.zeros(self.n, np.uint8), np.arange(self.n, dtype=np.int32)
        model = ModelInfo("bench", "local", "bench", "cpu", "float32")
        title = f"{self.n:,} synthetic points"
        self.map = Map(
            options=MapOptions(), model=model, layers=0, layer=0,
            points=MapPoints(kind, row, None),  # type: ignore[arg-type]  # no label is asked for
            coordinates=places.astype(np.float32), border=border, variance_shown=None,
            variance_of="", variance_of_bases=None, title=title, how_chosen="all", blind_to="",
            axis_names=("one", "two"), warnings=(), versions={}, fingerprint="bench",
        )  # fmt: skip

    def figure(self) -> dict[str, object]:
        """The figure as it stands in the page."""
        return payload(figure(self.map))

    def page(self) -> bytes:
        """The page's own panel around these points."""
        drawn = self.map
        far = {"index": 17, "kind": "basis", "row": 17, "id": 17, "label": "far",
               "at": drawn.border.clipped[17].tolist(), "x": 100.0, "y": 80.0}  # fmt: skip
        source = {
            "figure": self.figure(), "dims": 2, "n": self.n, "layer": 0, "layers": 1,
            "kinds": kinds_of(drawn), "labels": [], "border": {"points": [far]},
            "fingerprint": "bench", "projection": "shared", "glides": True,
            "query": "", "vocabulary": True, "scale": "bench",
            "urls": {"points": "/points", "meta": "/meta", "colour": "/colour",
                     "vocabulary": "/vocabulary"},
        }  # fmt: skip
        panel = Panel(
            key="a", map=drawn, label="bench", badge=Badge("a", "/", "/", "bench"),
            warnings=(), variance="", noise="",
            border=border_sentence(drawn), border_rows=(), border_more="", still="/",
            source=source, follows=False, point=None,
        )  # fmt: skip
        template = environment().from_string(PAGE)
        return template.render(panel=panel).encode()

    def answer(self, path: str) -> tuple[bytes, str]:
        """What the page asks for."""
        if path == "/points":
            return self.points, "application/octet-stream"
        if path == "/vocabulary":
            labels = [f"␣token{i}" if i % 3 else f"␣{'abcdefgh'[i % 8] * 5}" for i in range(self.n)]
            return orjson.dumps({"labels": labels}), "application/json"
        if path == "/colour":
            import base64

            body = {"by": "class", "type": "category", "dtype": "u1", "caption": "",
                    "codes": base64.b64encode(self.codes).decode(), "names": list("abcdef"),
                    "counts": [self.n // 6] * 6, "slots": list(range(6))}  # fmt: skip
            return orjson.dumps(body), "application/json"
        return self.page(), "text/html; charset=utf-8"


@contextmanager
def served(crowd: Crowd) -> Iterator[str]:
    """The page on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path.startswith("/static/"):
                asset = assets.catalogue()[path.removeprefix("/static/")]
                body, kind = asset.content().body, asset.media_type
            else:
                body, kind = crowd.answer(path)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


@dataclass
class Seen:
    """One size in the browser."""

    figure_bytes: int
    total_bytes: int
    draw_s: float
    freeze_ms: float
    hits: int


WATCH = """() => { window.freezes = [];
new PerformanceObserver((list) => window.freezes.push(...list.getEntries().map((e) => e.duration)))
  .observe({ type: "longtask" }); }"""


def browsed(n: int, rounds: int = 1) -> Seen:
    """Draw n points and move the pointer over them."""
    from playwright.sync_api import expect, sync_playwright

    crowd = Crowd(n)
    text = len(json.dumps(crowd.figure()))
    freezes, draws, hits = [], [], 0
    with served(crowd) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        for _ in range(rounds):
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            troubles: list[str] = []
            page.on("pageerror", lambda error, held=troubles: held.append(str(error)))
            page.goto(url)
            expect(page.locator(".map-plot[data-ready]")).to_be_visible(timeout=120_000)
            expect(page.locator(".map-legend i").first).to_be_visible(timeout=120_000)
            draws.append(page.evaluate("performance.now()") / 1000)
            page.wait_for_timeout(1_500)
            page.evaluate(WATCH)
            box = page.locator(".map-plot").bounding_box()
            assert box is not None
            rng = np.random.default_rng(0)
            seen = 0
            for _ in range(MOVES):
                x, y = rng.uniform(0.25, 0.75, 2)
                page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
                page.wait_for_timeout(30)
                seen += int(page.evaluate("!document.querySelector('.map-tip').hidden"))
            page.wait_for_timeout(300)
            freezes.append(max([0.0, *page.evaluate("window.freezes")]))
            hits = max(hits, seen)
            assert not troubles, troubles
            page.close()
        browser.close()
    return Seen(text, text + len(crowd.points), statistics.median(draws), max(freezes), hits)


def maps_in_the_browser(rounds: int = 1) -> Section:
    """Every size against its budget."""
    out = Section(
        "Maps in the browser",
        "The map page's own panel with synthetic points in headless Chromium, software GL: a floor."
        f" Longest main-thread task over {MOVES} moves of the pointer (tasks under 50 ms are not"
        " reported by the browser and count as 0), with one point a hundred radii away.",
        ("points", "figure", "with positions", "drawn after", "longest freeze", "points met"),
    )
    limits = {30_000: (1.0, 100.0), 100_000: (4.0, 100.0), 250_000: (4.0, 500.0)}
    for n in SIZES:
        seen = browsed(n, rounds)
        out.add(
            f"{n:,}", f"{seen.figure_bytes / 1e3:.0f} kB", f"{seen.total_bytes / 1e6:.2f} MB",
             f"{seen.draw_s:.1f} s", f"{seen.freeze_ms:.0f} ms", f"{seen.hits} of {MOVES}",
        )  # fmt: skip
        size, freeze = limits[n]
        out.goals.append(Goal(f"MB at {n:,} points", seen.total_bytes / 1e6, size))
        out.goals.append(Goal(f"ms of freeze at {n:,} points", seen.freeze_ms, freeze))
    return out
