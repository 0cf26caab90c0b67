"""How results leave the app as text: JSON and CSV, the same bytes on the page and the command line.

The same request gives the same bytes, so measured seconds, and when it was asked, are left out of
documents; pages show the seconds. Each says which model, which text (by its hash) and which
versions its numbers are of. JSON is lossless. CSV is for spreadsheets: a text cell that a
spreadsheet would take for a formula gets a leading apostrophe, controls and bidirectional marks are
written ``<U+202E>``, and the first line says so, next to where the numbers come from.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import importlib.metadata
import io
import json
import math
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import numpy as np
import orjson
from markupsafe import Markup
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from app import version
from engine import Trace
from engine.bases.lookup import TokenHit
from engine.bases.token_basis import TokenBasis
from engine.model.origin import Origin

SETTINGS = "Settings: "
"""In the first line of a table, before the JSON that its numbers can be computed from again."""
LARGEST_FILE: Final = 128 * 2**20
"""Bytes of a file that is read back, and of what an archive unpacks to: a hundred for each of a
million points of a map."""
MOST_VALUES: Final = 8_000_000
"""Values in the text of such a file. Each costs up to a hundred bytes of memory, so that a file of
commas would cost fifty times its size."""
DAMAGED: Final = (
    ValueError, LookupError, TypeError, AttributeError, OSError, EOFError, RecursionError,
    NotImplementedError, ArithmeticError, MemoryError, csv.Error, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
"""What readers raise about bytes that are not what they should be."""
_MEASURED = frozenset({"seconds", "predicted_seconds"})
_FORMULA = frozenset("=+-@\t\r＝＋－＠")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
APOSTROPHE_NOTE = (
    "A leading apostrophe before = + - @ is not part of the text: it keeps spreadsheets from "
    "reading a formula; the JSON holds the exact text."
)


def dumps(value: object) -> bytes:
    """JSON with a line end: the fields in their given order, NaN and infinity as null."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(value, default=_plain, option=options)


def document(value: Any) -> bytes:
    """A result of the engine as JSON: its contract, without what depends on the clock."""
    return dumps(without_clock(value.to_dict()))


class _Facts(Protocol):
    """What an answer says of the model that its numbers are of; `app.model` has them."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def origin(self) -> Origin: ...


@dataclass(frozen=True)
class Source:
    """Where numbers come from; two that are equal are of the same model and the same text."""

    name: str
    revision: str
    fingerprint: str
    device: str
    dtype: str
    origin: Origin
    prompt_sha256: str | None
    """Of the prompt in UTF-8; None where none was asked about."""

    @classmethod
    def of(cls, facts: _Facts, prompt: str | None = None) -> Source:
        """Of this model, asked about this prompt."""
        digest = None
        if prompt is not None:
            digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
        where = facts.device, facts.dtype, facts.origin
        return cls(facts.name, facts.revision, facts.fingerprint, *where, digest)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON, with the versions that decided the numbers."""
        plain = asdict(self)
        known = {key: value for key, value in plain.pop("origin").items() if value is not None}
        return {**plain, **known, "versions": versions()}

    @property
    def words(self) -> str:
        """The same for the first line of a table, but for the versions."""
        of = "" if self.prompt_sha256 is None else f", prompt with SHA-256 {self.prompt_sha256}"
        revision = "" if self.revision == "local" else f" at {self.revision}"
        return (
            f"model {self.name}{revision} ({self.fingerprint}) on {self.device} in {self.dtype}{of}"
        )


@dataclass(frozen=True)
class Document:
    """Writes a result of the engine as JSON that says where it comes from."""

    source: Source

    def __call__(self, value: Any) -> bytes:
        """The JSON."""
        return dumps(without_clock({**value.to_dict(), "provenance": self.source.to_dict()}))


def hits(found: Iterable[TokenHit]) -> bytes:
    """What a search found, as JSON: ``{"tokens": [{id, text, label, norm, leverage}]}``."""
    rows = [
        {
            "id": hit.token.id,
            "text": hit.token.text,
            "label": hit.token.label,
            "norm": _finite(hit.norm),
            "leverage": _finite(hit.leverage),
        }
        for hit in found
    ]
    return dumps({"tokens": rows})


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def without_clock(value: Any) -> Any:
    """The same structure without measured and forecast seconds, which differ from run to run."""
    if isinstance(value, Mapping):
        return {key: without_clock(one) for key, one in value.items() if key not in _MEASURED}
    if isinstance(value, list | tuple):
        return [without_clock(one) for one in value]
    return value


@functools.cache
def versions() -> dict[str, str]:
    """The versions that decide the numbers."""
    found = {"lexiscope": version()}
    for name in ("torch", "transformers", "tokenizers", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def file_stem(kind: str, *parts: object) -> str:
    """An ASCII name for a download, which holds nothing of what a person typed."""
    digest = hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()
    return f"lexiscope-{kind}-{digest[:12]}"


# CSV


def text_cell(text: str) -> str:
    """A text as a CSV cell: nothing invisible in it, and no spreadsheet takes it for a formula."""
    shown = "".join(f"<U+{ord(c):04X}>" if unicodedata.category(c) in _HIDDEN else c for c in text)
    return f"'{shown}" if shown.lstrip()[:1] in _FORMULA else shown


def cell(value: object) -> str:
    """One value as a CSV cell: numbers stay numbers, what is not finite is empty."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else ""
        case str():
            return text_cell(value)
    item = getattr(value, "item", None)
    if callable(item):  # a number out of an array
        return cell(item())
    return text_cell(str(value))


def table(note: str, rows: Iterable[Mapping[str, object]]) -> bytes:
    """Rows as CSV, each cell in quotes: a line about the table, the column names, the rows."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow([text_cell(f"# {note} {APOSTROPHE_NOTE}")])
    columns: list[str] | None = None
    for row in rows:
        if columns is None:
            columns = list(row)
            writer.writerow(map(text_cell, columns))
        writer.writerow([cell(row[name]) for name in columns])
    return out.getvalue().encode()


@dataclass(frozen=True)
class TraceTable:
    """Writes a trace as CSV: one row per layer, position and rank."""

    source: Source

    def __call__(self, trace: Trace) -> bytes:
        """The table."""
        held = without_clock({**trace.to_dict(), "provenance": self.source.to_dict()})
        del held["cells"]
        # ASCII only, so that no character of it needs the care that cells get.
        settings = json.dumps(held, ensure_ascii=True, separators=(",", ":"), default=_plain)
        note = (
            f"Lexiscope {version()}, trace, {self.source.words}, geometry {trace.geometry}, "
            f"frame {trace.frame}, state {trace.options.state}, temperature "
            f"{trace.temperature:g}. Entropy is in nats. {version_words()} {SETTINGS}{settings}"
        )
        return table(note, trace.rows())


def first_line(text: str) -> tuple[str, str, Any]:
    """Of a table's first line the words before and behind its settings, and these."""
    before, _, rest = text.partition(SETTINGS)
    held, end = json.JSONDecoder().raw_decode(rest)
    return before, rest[end:], held


def counted(text: bytes) -> bytes:
    """The same text, if it holds no more values than may be."""
    if sum(text.count(mark) for mark in (b",", b"[", b"{", b"\n")) > MOST_VALUES:
        raise ValueError("more values than are read")
    return text


def arrays_in(body: bytes) -> NpzFile:
    """What `archive` wrote, if it unpacks to no more than is read."""
    with zipfile.ZipFile(io.BytesIO(body)) as file:
        if sum(one.file_size for one in file.infolist()) > LARGEST_FILE:
            raise ValueError("it unpacks to too much")
    found: NpzFile = np.load(io.BytesIO(body), allow_pickle=False)
    return found


def archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays for NumPy: the same ones give the same bytes, and ``np.load`` reads them."""
    out = io.BytesIO()
    # numpy.savez would write the time of day into the file.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays.items():
            held = io.BytesIO()
            np.lib.format.write_array(held, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, held.getvalue())
    return out.getvalue()


def inert(data: bytes) -> Markup:
    """JSON that no HTML parser reads anything else into."""
    text = data.decode().strip()
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def version_words(found: Mapping[str, object] | None = None) -> str:
    """The versions that decided the numbers, for a note; without an argument today's."""
    every = versions() if found is None else found
    return "Versions: " + ", ".join(f"{name} {one}" for name, one in every.items()) + "."


@dataclass(frozen=True)
class BasesTable:
    """Writes a token's nearest tokens as CSV."""

    source: Source

    def __call__(self, basis: TokenBasis) -> bytes:
        """The table."""
        note = (
            f"Lexiscope {version()}, {self.source.words}, nearest tokens of token {basis.id}, "
            f"frame {basis.frame}, geometry {basis.geometry}. {version_words()}"
        )
        rows = (
            {
                "token_id": basis.id,
                "token_text": basis.text,
                "rank": rank,
                "id": neighbour.token.id,
                "text": neighbour.token.text,
                "score": float(neighbour.score),
            }
            for rank, neighbour in enumerate(basis.neighbours, start=1)
        )
        return table(note, rows)


def _plain(value: object) -> object:
    to_dict = getattr(value, "to_dict", None)
    if callable(to_dict):
        return to_dict()
    tolist = getattr(value, "tolist", None)
    if callable(tolist):
        return tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")
