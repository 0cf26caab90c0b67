"""Maps as files: JSON, CSV, NPZ, one HTML page, SVG and PNG; and the numbers read back out of each.

Every file carries the provenance line for people, and inside it all settings and the coordinates,
so that `lexiscope verify` can draw the map anew from the file alone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import orjson

from app.maps.files import embed as map_embed
from app.maps.files import html as map_html
from app.maps.files import picture as map_picture
from app.maps.files.drawing import Drawing, packed, provenance, unpacked
from app.web import export
from engine.errors import ArtifactError, OptionError
from engine.maps import KINDS, Map, MapMaker, MapOptions
from engine.progress import Check

Format = Literal["json", "csv", "npz", "html", "svg", "png"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
MEDIA: Final[Mapping[Format, str]] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "npz": "application/octet-stream",
    "html": "text/html; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}
LARGEST_FILE = export.LARGEST_FILE


def drawing_of(
    maps: MapMaker, options: MapOptions, format: Format, colour: str | None, *, check: Check
) -> Drawing:
    """A map with its colour and its quality where the format shows them.

    Raises:
        MapNotReady: its layout has not been computed.
    """
    drawn = maps.map(options, check=check)
    if format not in ("html", "svg", "png"):
        return Drawing(drawn, None, None)
    by = colour.replace("_", " ") if colour else None
    painted = maps.colour(options, by, check=check) if by else None
    return Drawing(drawn, painted, maps.quality(options, check=check))


def file_of(
    maps: MapMaker,
    options: MapOptions,
    format: Format,
    colour: str | None,
    look: map_picture.Look | None,
    *,
    check: Check,
) -> bytes:
    """A map as the bytes of a file."""
    drawing = drawing_of(maps, options, format, colour, check=check)
    check()
    return write(drawing, format, look)


# Writing


def write(drawing: Drawing, format: Format, look: map_picture.Look | None = None) -> bytes:
    """The map as the bytes of a file.

    Args:
        drawing: the map; its colour and its quality matter for HTML and pictures only.
        look: of a picture; None: as usual.
    """
    drawn = drawing.map
    match format:
        case "json":
            return export.document(drawn)
        case "csv":
            return table(drawn, drawn.rows())
        case "npz":
            return archive(drawn)
        case "html":
            return map_html.page(drawing, numbers(drawing))
        case "svg" | "png":
            look = look or map_picture.Look(format=format)
            return map_picture.draw(drawing, look, numbers(drawing, look))


def settings(drawn: Map) -> dict[str, Any]:
    """All that decides the numbers, without them."""
    return cast(dict[str, Any], export.without_clock(drawn.header()))


def numbers(drawing: Drawing, look: map_picture.Look | None = None) -> bytes:
    """Settings and coordinates in compact JSON, for files that hold them unseen, and how the points
    are drawn, so that the file can be drawn again."""
    drawn, points = drawing.map, drawing.map.points
    how = {"colour": drawing.colour.by if drawing.colour else None}
    return export.dumps(
        {
            "meta": settings(drawn),
            "drawn": how | ({} if look is None else asdict(look)),
            "shape": [drawn.n, drawn.dims],
            "coordinates": packed(drawn.coordinates.astype("<f4")),
            "kind": packed(points.kind.astype("<u1")),
            "row": packed(points.row.astype("<i4")),
        }
    )


def table(drawn: Map, rows: Iterable[Mapping[str, object]]) -> bytes:
    """Points of a map as CSV; the first line says where they come from and holds all settings."""
    # ASCII only, so that no character of it needs the care that cells get.
    held = json.dumps(settings(drawn), ensure_ascii=True, separators=(",", ":"))
    return export.table(f"{provenance(drawn)}. {export.SETTINGS}{held}", rows)


def archive(drawn: Map) -> bytes:
    """The map for NumPy: ``np.load`` reads it without pickle."""
    points, border = drawn.points, drawn.border
    ids = np.array([-1 if points.id(i) is None else points.id(i) for i in range(drawn.n)])
    arrays: dict[str, npt.NDArray[Any]] = {
        "coordinates": np.asarray(drawn.coordinates, dtype=np.float32),
        "drawn": np.asarray(border.clipped, dtype=np.float32),
        "outside": np.asarray(border.outside),
        "kind": points.kind,
        "kinds": np.array(KINDS),
        "row": points.row,
        "id": ids.astype(np.int32),
        "label": np.array([points.label(i) for i in range(drawn.n)]),
        "meta": np.array(export.dumps(settings(drawn)).decode()),
        "provenance": np.array(provenance(drawn)),
    }
    return export.archive(arrays)


# Reading back


def read(body: bytes) -> dict[str, Any]:
    """The settings and coordinates of a map out of a file that `write` made.

    A file of a stranger's costs no more than `LARGEST_FILE` times a small number: what it unfolds
    to, and how many values its text holds, are bounded before it is parsed.

    Returns:
        What `engine.maps.verify` takes: the document of the JSON, or ``meta`` (the settings as
        JSON text), ``coordinates``, ``kind`` and ``row``. Of HTML and pictures also ``drawn``: how
        they were drawn.

    Raises:
        ArtifactError: the file is no map of ours, or damaged.
    """
    if len(body) > LARGEST_FILE:
        raise ArtifactError(
            f"the file has {len(body):,} bytes and at most {LARGEST_FILE:,} are read; verify the "
            "NPZ of this map, which is smaller."
        )
    try:
        found = _read(body)
    except export.DAMAGED as error:
        raise ArtifactError(
            f"the file is damaged or not written by Lexiscope ({type(error).__name__}); export the "
            "map again."
        ) from None
    if found is None:
        raise ArtifactError(
            "the file holds no map; verify takes the JSON, CSV, NPZ, HTML, SVG and PNG files that "
            "lexiscope map and the map page write."
        )
    return found


def kind_of(body: bytes) -> Format:
    """The format of a file, by how it begins."""
    if body.startswith(b"PK\x03\x04"):
        return "npz"
    if body.startswith(b"\x89PNG"):
        return "png"
    start = body[:4096].lstrip(b"\xef\xbb\xbf \r\n").lower()
    if start.startswith(b"<!doctype html"):
        return "html"
    if start.startswith((b"<?xml", b"<svg")):
        return "svg"
    return "json" if start.startswith(b"{") else "csv"


def numbers_in(body: bytes, format: Format) -> bytes:
    """What `numbers` put into HTML or a picture; empty where there is nothing."""
    match format:
        case "png":
            return map_embed.png_numbers(body)
        case "svg":
            return map_embed.svg_numbers(body)
    return map_html.numbers(body)


def _read(body: bytes) -> dict[str, Any] | None:
    format = kind_of(body)
    if format == "npz":
        return _from_archive(body)
    if format in ("png", "html", "svg"):
        return _from_numbers(numbers_in(body, format))
    if format == "json":
        value = orjson.loads(export.counted(body))
        return value if isinstance(value, dict) and "options" in value else None
    return _from_table(body)


def _from_numbers(data: bytes) -> dict[str, Any] | None:
    if not data:
        return None
    value = orjson.loads(export.counted(data))
    return {
        "meta": json.dumps(value["meta"]),
        "drawn": value.get("drawn"),
        "coordinates": unpacked(value["coordinates"], "<f4").reshape(value["shape"]),
        "kind": unpacked(value["kind"], "<u1"),
        "row": unpacked(value["row"], "<i4"),
    }


def rows_of(body: bytes) -> Iterator[list[str]]:
    """The lines of a table that `table` wrote, cell by cell."""
    csv.field_size_limit(2**31 - 1)
    return csv.reader(io.StringIO(export.counted(body).decode("utf-8-sig"), newline=""))


def _from_archive(body: bytes) -> dict[str, Any] | None:
    with export.arrays_in(body) as arrays:
        if "meta" not in arrays.files:
            return None
        found = {name: arrays[name] for name in ("coordinates", "kind", "row")}
        return {**found, "meta": str(arrays["meta"][()])}


def _from_table(body: bytes) -> dict[str, Any] | None:
    lines = rows_of(body)
    first = next(lines, [])
    if len(first) != 1 or export.SETTINGS not in first[0]:
        return None
    _, _, settings = export.first_line(first[0])
    names = next(lines, [])
    kind, row = names.index("kind"), names.index("row")
    axes = [names.index(one) for one in "xyz" if one in names]
    rows = [line for line in lines if line]
    coordinates = [[float(line[i] or "nan") for i in axes] for line in rows]
    return {
        "meta": json.dumps(settings),
        "coordinates": np.array(coordinates, dtype=np.float32).reshape(len(rows), len(axes)),
        "kind": np.array([KINDS.index(line[kind]) for line in rows], dtype=np.uint8),
        "row": np.array([int(line[row]) for line in rows], dtype=np.int32),
    }


def format_of(name: str) -> Format:
    """The format that a file's ending names.

    Raises:
        OptionError: another ending.
    """
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    for one in FORMATS:
        if ending == one:
            return one
    raise OptionError(
        f"the file's name must end in .{', .'.join(FORMATS[:-1])} or .{FORMATS[-1]}; "
        "its ending says what is written."
    )
