"""A map as one HTML file that needs nothing else: Plotly.js, the numbers and the words inside.

It opens from a disk with the network off. Its own Content-Security-Policy names its two scripts by
their hashes and allows no connection, so whatever a token's text looks like, it stays text. The
policy has to allow ``eval`` as well: Plotly.js makes its drawing code for WebGL while it runs.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Any

import numpy as np
import orjson
from markupsafe import Markup

from app.figures.theme import DARK, LIGHT, Theme
from app.maps.files.drawing import Drawing, class_colours, packed, provenance
from app.web import assets, export
from app.web.rendering import environment

_POLICY = (
    "default-src 'none'; script-src {scripts} 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
_OPEN = '<script type="application/json" id="numbers">'
_SHEET = '<script type="application/json" id="sheet">'


def page(drawing: Drawing, data: bytes) -> bytes:
    """The HTML file.

    Args:
        data: the map's numbers as JSON; they travel inside the file, so that it can be verified.
    """
    library, script = _plotly(), _asset("js/map-file.js")
    page = environment().get_template("maps/file.html")
    text = page.render(
        title=drawing.map.title,
        said=drawing.said,
        foot=provenance(drawing.map),
        policy=Markup(_POLICY.format(scripts=" ".join(map(_hash, (library, script))))),
        style=_asset("css/map-file.css"),
        drawn=export.inert(export.dumps(_plain(drawing))),
        opening=Markup(_OPEN),
        numbers=export.inert(data),
        library=library,
        script=script,
    )
    return f"{text}\n".encode()


def numbers(body: bytes) -> bytes:
    """The JSON that `page` put into a file; empty where there is none."""
    start, end = _inside(body, _OPEN)
    return body[start:end]


def parts(body: bytes) -> tuple[bytes, dict[str, Any]]:
    """The page without its numbers and without what the script draws, and the latter."""
    (start, end), (first, last) = _inside(body, _SHEET), _inside(body, _OPEN)
    sheet = orjson.loads(body[start:end])
    if end > first or not isinstance(sheet, dict):
        raise ValueError("no page of ours")
    return body[:start] + body[end:first] + body[last:], sheet


def _inside(body: bytes, opening: str) -> tuple[int, int]:
    """Where the text of a script element begins and ends; both 0 where there is none."""
    start = body.find(opening.encode())
    end = body.find(b"</script>", start)
    return (0, 0) if start < 0 or end < 0 else (start + len(opening), end)


def _plain(drawing: Drawing) -> dict[str, Any]:
    """What the script draws, in plain values."""
    drawn, paint = drawing.map, drawing.paint
    colour: dict[str, Any] | None = None
    if paint is not None and paint.names:
        colour = {
            "caption": paint.caption,
            "names": paint.names,
            "counts": paint.counts,
            "codes": packed(paint.values.astype(np.uint8)),
            "light": class_colours(paint, LIGHT),
            "dark": class_colours(paint, DARK),
        }
    elif paint is not None:
        colour = {"caption": paint.caption, "values": packed(paint.values.astype(np.float32))}
    return {
        "n": drawn.n,
        "dims": drawn.dims,
        "places": packed(drawn.border.clipped),
        "kinds": packed(drawn.points.kind),
        "outside": packed(drawn.border.outside.astype(np.uint8)),
        "ranges": drawn.border.range,
        "axes": drawn.axis_names,
        "labels": drawn.points.labels(),
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


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _plotly() -> Markup:
    """Plotly.js out of the installed wheel, so that it may stand inside a script element."""
    # In a string or an expression the backslash changes nothing; HTML would end the element.
    text = str(_asset("plotly.min.js"))
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


@cache
def _asset(name: str) -> Markup:
    return Markup(assets.catalogue()[name].content().body.decode())
