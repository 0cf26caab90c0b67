"""The numbers of a map inside a picture: in an SVG's metadata, in a chunk of a PNG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from xml.sax.saxutils import escape, unescape  # nosec B406  # it parses nothing

from app.maps.files.drawing import Drawing, provenance

_PNG = b"\x89PNG\r\n\x1a\n"
_KEY = b"Lexiscope"
_OPEN = '<lexiscope:map xmlns:lexiscope="https://lexiscope/map">'
_CLOSE = "</lexiscope:map>"
_MOST_NUMBERS = 64 * 2**20
"""Bytes that the numbers in a PNG may unpack to."""


def with_numbers_svg(body: bytes, drawing: Drawing, data: bytes) -> bytes:
    """The SVG with a title, a description and the map's numbers."""
    head, start, rest = body.decode().partition("<metadata>")
    about = (
        f"<title>{escape(drawing.map.title)}</title><desc>{escape(' '.join(drawing.said))} "
        f"{escape(provenance(drawing.map))}</desc>"
    )
    inside = f"{start}{_OPEN}{escape(data.decode())}{_CLOSE}"
    return (head + about + inside + rest).encode()


def with_numbers_png(body: bytes, drawing: Drawing, data: bytes) -> bytes:
    """The PNG with the provenance as text and the map's numbers compressed."""
    # Behind the header, which is the first chunk and always 25 bytes long.
    cut = len(_PNG) + 25
    about = [
        _chunk(b"iTXt", key + b"\0\0\0\0\0" + text.encode())
        for key, text in ((b"Title", drawing.map.title), (b"Source", provenance(drawing.map)))
    ]
    numbers = _chunk(b"iTXt", _KEY + b"\0\1\0\0\0" + zlib.compress(data, 6))
    return b"".join([body[:cut], *about, numbers, body[cut:]])


def svg_numbers(body: bytes) -> bytes:
    """What `draw` put into an SVG; empty where there is nothing."""
    start, end = body.find(_OPEN.encode()), body.find(_CLOSE.encode())
    if start < 0 or end < start:
        return b""
    return unescape(body[start + len(_OPEN) : end].decode()).encode()


def svg_parts(body: bytes) -> tuple[bytes, bytes]:
    """Of an SVG without its numbers the title and the description, and the rest."""
    start, end = body.find(_OPEN.encode()), body.find(_CLOSE.encode())
    whole = body[:start] + body[end:]
    first, last = whole.find(b"<title>"), whole.find(b"</desc>")
    return whole[first:last], whole[:first] + whole[last:]


def png_parts(body: bytes) -> tuple[bytes, bytes]:
    """Of a PNG without its numbers the texts, and the rest."""
    texts, rest = [], []
    for kind, data in _chunks(body):
        if kind != b"iTXt":
            rest.append(kind + data)
        elif not data.startswith(_KEY + b"\0"):
            texts.append(data)
    return b"\n".join(texts), b"\n".join(rest)


def png_numbers(body: bytes) -> bytes:
    """What `draw` put into a PNG; empty where there is nothing."""
    head = _KEY + b"\0\1\0\0\0"
    for kind, data in _chunks(body):
        if kind == b"iTXt" and data.startswith(head):
            unpacking = zlib.decompressobj()
            found = unpacking.decompress(data[len(head) :], _MOST_NUMBERS)
            return b"" if unpacking.unconsumed_tail else found
    return b""


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def _chunks(body: bytes) -> Iterable[tuple[bytes, bytes]]:
    at = len(_PNG)
    while at + 8 <= len(body):
        size, kind = struct.unpack(">I4s", body[at : at + 8])
        yield kind, body[at + 8 : at + 8 + size]
        at += 12 + size
