"""Whether a file shows what its numbers say: it is drawn again of them, and compared.

The same numbers give the same bytes on one machine. Elsewhere last digits differ, and pictures with
the fonts and the version of what draws them; then words and labels must be the same, and numbers as
near as `CLOSE`. A picture that is not the same, byte by byte, cannot be told from a changed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import orjson

from app.maps.files import embed, html
from app.maps.files.drawing import Drawing, unpacked
from app.maps.files.export import Format, kind_of, numbers_in, rows_of, write
from app.maps.files.picture import HEIGHTS, WIDTHS, Look
from app.web import export
from engine.differences import CLOSE, differences, same
from engine.errors import OptionError
from engine.maps import Map, MapMaker

_SHEET: Final = {
    "labels": "the labels of the points",
    "places": "where the points are drawn",
    "kinds": "what kinds the points are",
    "outside": "which points lie at the border",
    "ranges": "the window",
    "axes": "the names of the axes",
    "colour": "the colours of the points",
}


def difference(body: bytes, document: Mapping[str, Any], maps: MapMaker, drawn: Map) -> str:
    """What a file shows that its numbers do not say, in a few words; empty where there is nothing.

    Args:
        body: the file.
        document: what `app.maps.files.export.read` found in it.
        maps: computes colours and quality anew.
        drawn: the map of the numbers in the file, as `engine.maps.verify` hands it over.
    """
    format = kind_of(body)
    drawing, look = Drawing(drawn, None, None), None
    if format in ("html", "svg", "png"):
        how = document.get("drawn")
        if not isinstance(how, dict):
            return "it does not say how it was drawn (an older version wrote it)"
        try:
            colour, look = _how(how, format)
            painted = maps.colour(drawn.options, colour) if colour else None
        except (TypeError, ValueError, LookupError, ArithmeticError, OptionError):
            return "what it says of how it was drawn is damaged"
        drawing = Drawing(drawn, painted, maps.quality(drawn.options))
    anew = write(drawing, format, look)
    try:
        return "" if body == anew else _found(body, anew, format)
    except export.DAMAGED:
        return "the rest of the file is damaged"


def _found(body: bytes, anew: bytes, format: Format) -> str:
    """What differs between a file and the same drawn anew."""
    match format:
        case "json":
            return _document(orjson.loads(body), orjson.loads(anew))
        case "csv":
            return _table(body, anew)
        case "npz":
            return _archive(body, anew)
    before, after = (orjson.loads(numbers_in(one, format)) for one in (body, anew))
    found = _document(before["meta"], after["meta"])
    if found:
        return found
    match format:
        case "html":
            return _page(body, anew)
        case "svg":
            parts = zip(embed.svg_parts(body), embed.svg_parts(anew), strict=True)
        case _:
            parts = zip(embed.png_parts(body), embed.png_parts(anew), strict=True)
    words, drawn = (a == b for a, b in parts)
    if not words:
        return "the title or the words in its description differ"
    return "" if drawn else (
        "the picture is not the one that is drawn of them here; it was changed, or drawn with"
        " other fonts or another version"
    )  # fmt: skip


def _how(given: Mapping[str, Any], format: Format) -> tuple[str | None, Look | None]:
    colour = None if given["colour"] is None else str(given["colour"])
    if format not in ("svg", "png"):
        return colour, None
    width, height = (int(given[name]) for name in ("width", "height"))
    if not (WIDTHS[0] <= width <= WIDTHS[1] and HEIGHTS[0] <= height <= HEIGHTS[1]):
        raise ValueError("no such size")
    return colour, Look(format, width, height, bool(given["dark"]))


def _document(given: Any, anew: Any) -> str:
    """Where two JSON values differ, as a path."""
    return differences(given, anew).differs


def _table(body: bytes, anew: bytes) -> str:
    given, right = list(rows_of(body)), list(rows_of(anew))
    if len(given) != len(right):
        return "it has other rows"
    (*words, held), (*right_words, right_held) = (
        export.first_line(one[0][0]) for one in (given, right)
    )
    if words != right_words:
        return "the words of the first line differ"
    found = _document(held, right_held)
    if found:
        return found
    for i, (a, b) in enumerate(zip(given[1:], right[1:], strict=True), start=2):
        if len(a) != len(b) or not all(map(_same_cell, a, b)):
            return f"line {i} of the table differs"
    return ""


def _same_cell(given: str, anew: str) -> bool:
    if given == anew:
        return True
    try:
        return "." in anew and same(float(given), float(anew))
    except ValueError:
        return False


def _archive(body: bytes, anew: bytes) -> str:
    with export.arrays_in(body) as given, export.arrays_in(anew) as right:
        if sorted(given.files) != sorted(right.files):
            return "it holds other arrays"
        for name in right.files:
            a, b = given[name], right[name]
            if name == "meta":
                found = _document(orjson.loads(str(a[()])), orjson.loads(str(b[()])))
                if found:
                    return found
            elif not _same_array(a, b):
                return f"the array {name} differs"
    return ""


def _same_array(given: Any, anew: Any) -> bool:
    if given.shape != anew.shape or given.dtype.kind != anew.dtype.kind:
        return False
    if given.dtype.kind != "f":
        return bool(np.array_equal(given, anew))
    return bool(np.allclose(given, anew, rtol=CLOSE, atol=CLOSE, equal_nan=True))


def _page(body: bytes, anew: bytes) -> str:
    (shell, sheet), (right_shell, right) = html.parts(body), html.parts(anew)
    if shell != right_shell:
        return "the words around the map, or its scripts, differ"
    if set(sheet) != set(right):
        return "what is drawn has other fields"
    for key, value in right.items():
        given = sheet[key]
        if key in ("places", "kinds", "outside"):
            dtype = "<f4" if key == "places" else "<u1"
            same = _same_array(unpacked(given, dtype), unpacked(value, dtype))
        elif key == "colour" and given and value and "values" in given and "values" in value:
            pair = (unpacked(one["values"], "<f4") for one in (given, value))
            same = _same_array(*pair) and given["caption"] == value["caption"]
        else:
            same = not _document(given, value)
        if not same:
            return f"{_SHEET.get(key, key)} differ"
    return ""
