"""The files that a browser may fetch and the folder the templates come from.

Names are looked up in a catalogue that is built by walking the folder once; a name out of a URL is
never joined to a path. Plotly.js and htmx come out of installed wheels, which are found without
being imported. Works from a checkout (``static/`` and ``templates/`` beside ``app/``) and from an
installed wheel (``app/_assets/``).
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import mimetypes
import threading
from dataclasses import dataclass
from pathlib import Path

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
