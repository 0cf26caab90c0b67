"""A map as one HTML file that needs nothing else: Plotly.js, the numbers and the words inside.

It opens from a disk with the network off. Its own Content-Security-Policy names its two scripts by
their hashes and allows no connection, so whatever a token's text looks like, it stays text. The
policy has to allow ``eval`` as well: Plotly.js makes its drawing code for WebGL while it runs.
"""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from typing import Any

import numpy as np

from app.figures.theme import DARK, LIGHT, Theme, theme
from app.maps.files.drawing import Sheet, class_colours, packed
from app.web import assets, export

_POLICY = (
    "default-src 'none'; script-src {scripts} 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
_OPEN = '<script type="application/json" id="numbers">'


def page(sheet: Sheet, data: bytes) -> bytes:
    """The HTML file.

    Args:
        sheet: what is drawn.
        data: the map's numbers as JSON; they travel inside the file, so that it can be verified.
    """
    library, script = _plotly(), _script()
    policy = _POLICY.format(scripts=" ".join(_hash(one) for one in (library, script)))
    said = "".join(f"<li>{html.escape(one)}</li>" for one in sheet.said[1:])
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        '<meta name="color-scheme" content="light dark">\n',
        f"<title>{html.escape(sheet.title)}</title>\n<style>{_style()}</style>\n</head>\n<body>\n",
        f"<header>\n<h1>{html.escape(sheet.title)}</h1>\n",
        f'<p class="lead">{html.escape(sheet.said[0] if sheet.said else "")}</p>\n',
        '<p class="tools"><label for="find">Find a token</label> '
        '<input id="find" type="search" autocomplete="off" spellcheck="false"> '
        '<output id="found" for="find"></output></p>\n</header>\n<main>\n',
        f'<div id="map" role="figure" aria-label="{html.escape(sheet.title)}"></div>\n',
        f"<noscript><p>The drawing needs JavaScript; the numbers are in this file.</p></noscript>\n"
        f"<ul>{said}</ul>\n</main>\n<footer><p>{html.escape(sheet.foot)}</p>\n",
        "<p>This file holds its numbers: <code>lexiscope verify</code> with its name computes them "
        "anew and reports the largest difference.</p></footer>\n",
        f'<script type="application/json" id="sheet">{_inert(export.dumps(_plain(sheet)))}'
        f"</script>\n{_OPEN}{_inert(data)}</script>\n",
        f"<script>{library}</script>\n<script>{script}</script>\n</body>\n</html>\n",
    ]
    return "".join(parts).encode()


def numbers(body: bytes) -> bytes:
    """The JSON that `page` put into a file; empty where there is none."""
    start = body.find(_OPEN.encode())
    end = body.find(b"</script>", start)
    return b"" if start < 0 or end < 0 else body[start + len(_OPEN) : end]


def _plain(sheet: Sheet) -> dict[str, Any]:
    """What the script draws, in plain values."""
    paint = sheet.paint.grouped() if sheet.paint else None
    count = len(sheet.places)
    colour: dict[str, Any] | None = None
    if paint is not None and paint.kind == "category":
        colour = {
            "caption": paint.caption,
            "names": list(paint.names),
            "counts": list(paint.counts),
            "codes": packed(paint.values.astype(np.uint8)),
            "light": list(class_colours(paint, theme(False))),
            "dark": list(class_colours(paint, theme(True))),
        }
    elif paint is not None:
        colour = {"caption": paint.caption, "values": packed(paint.values.astype(np.float32))}
    return {
        "n": count,
        "dims": sheet.dims,
        "places": packed(sheet.places.astype(np.float32)),
        "kinds": packed(sheet.kinds.astype(np.uint8)),
        "outside": packed(sheet.outside.astype(np.uint8)),
        "ranges": [list(one) for one in sheet.ranges],
        "axes": list(sheet.axis_titles),
        "labels": [sheet.label(i) for i in range(count)],
        "colour": colour,
        "themes": {"light": _theme(LIGHT), "dark": _theme(DARK)},
    }


def _theme(colours: Theme) -> dict[str, Any]:
    return {
        "surface": colours.surface,
        "ink": colours.ink,
        "muted": colours.muted,
        "rule": colours.rule,
        "mark": colours.mark,
        "first": colours.lines[0],
        "ramp": list(colours.sequential[1:]),
    }


def _inert(data: bytes) -> str:
    """JSON that no HTML parser reads anything else into."""
    text = data.decode().strip()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _plotly() -> str:
    """Plotly.js out of the installed wheel, so that it may stand inside a script element."""
    text = assets.catalogue()["plotly.min.js"].content().body.decode()
    # In a string or an expression the backslash changes nothing; HTML would end the element.
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def _script() -> str:
    return assets.catalogue()["js/map-file.js"].content().body.decode()


@cache
def _style() -> str:
    return assets.catalogue()["css/map-file.css"].content().body.decode()
