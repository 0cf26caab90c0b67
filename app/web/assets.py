"""The files that a browser may fetch, how they are sent, and the folder the templates come from.

Names are looked up in a catalogue that is built by walking the folder once; a name out of a URL is
never joined to a path. Plotly.js and htmx come out of installed wheels, which are found without
being imported. Works from a checkout (``static/`` and ``templates/`` beside ``app/``) and from an
installed wheel (``app/_assets/``).

The URL's ``v`` is the content's hash, so a browser may keep what it got with the right one for
ever. Anything else is asked for anew and answered 304 where it has not changed.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import hashlib
import importlib.util
import mimetypes
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.exceptions import HTTPException
from starlette.responses import Response

router = APIRouter(include_in_schema=False)
_PACKAGE = Path(__file__).resolve().parents[1]
_COMPRESSIBLE = ("text/", "application/json", "application/javascript", "image/svg+xml")
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".ico": "image/x-icon",
}


def _folder(name: str) -> Path:
    installed = _PACKAGE / "_assets" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def static_folder() -> Path:
    """The folder of our own static files."""
    return _folder("static")


def templates_folder() -> Path:
    """The folder of the Jinja templates."""
    return _folder("templates")


def _package_folder(package: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"The package {package} is not installed; run `make setup`.")
    return Path(spec.submodule_search_locations[0])


@dataclass(frozen=True)
class Content:
    """The bytes of one file at one moment."""

    body: bytes
    compressed: bytes | None
    """The same, gzipped; None where that gains nothing."""
    digest: str
    """The first 16 hexadecimal digits of the SHA-256 of `body`."""


class Asset:
    """One file that a browser may fetch; read, hashed and gzipped once per version of the file."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.media_type = _TYPES.get(
            path.suffix, mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        )
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._body = b""
        self._digest = ""
        self._compressed: bytes | None = None

    def _refresh(self) -> None:
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            self._body = self._path.read_bytes()
            self._digest = hashlib.sha256(self._body).hexdigest()[:16]
            self._compressed = None
            self._stamp = stamp

    def digest(self) -> str:
        """The hash that goes into the URL, so that a browser may keep the file for ever."""
        with self._lock:
            self._refresh()
            return self._digest

    def content(self) -> Content:
        """The file's bytes; the first call compresses, so call it outside the event loop."""
        with self._lock:
            self._refresh()
            if self._compressed is None and self.media_type.startswith(_COMPRESSIBLE):
                # A fixed time stamp keeps the bytes the same from run to run.
                self._compressed = gzip.compress(self._body, 6, mtime=0)
            return Content(self._body, self._compressed, self._digest)


@functools.cache
def catalogue() -> dict[str, Asset]:
    """Every file under ``/static/`` by the name it has there."""
    root = static_folder()
    found = {
        path.relative_to(root).as_posix(): Asset(path.relative_to(root).as_posix(), path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }
    vendored = {
        "plotly.min.js": _package_folder("plotly") / "package_data" / "plotly.min.js",
        "htmx.min.js": _package_folder("js_lib_htmx") / "static" / "htmx" / "htmx.min.js",
    }
    for name, path in vendored.items():
        found[name] = Asset(name, path)
    return found


@router.get("/static/{name:path}")
async def static(
    name: str,
    v: Annotated[str, Query(max_length=64)] = "",
    accept_encoding: Annotated[str, Header(max_length=1000)] = "",
    if_none_match: Annotated[str, Header(max_length=1000)] = "",
) -> Response:
    """One file of the catalogue; a name is looked up there and never becomes a path."""
    asset = catalogue().get(name)
    if asset is None:
        raise HTTPException(404)
    # The first call of a file reads and compresses it, which must not hold up the loop.
    content = await asyncio.to_thread(asset.content)
    packed = content.compressed is not None and _takes_gzip(accept_encoding)
    tag = f'"{content.digest}{"-gzip" if packed else ""}"'
    lasting = v == content.digest
    headers = {
        "ETag": tag,
        "Vary": "Accept-Encoding",
        "Cache-Control": "public, max-age=31536000, immutable" if lasting else "no-cache",
    }
    if tag in [given.strip().removeprefix("W/") for given in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    body = content.compressed if packed else content.body
    return Response(body, headers=headers, media_type=asset.media_type)


def _takes_gzip(accepted: str) -> bool:
    for part in accepted.lower().split(","):
        name, _, parameters = part.partition(";")
        if name.strip() in ("gzip", "*"):
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
