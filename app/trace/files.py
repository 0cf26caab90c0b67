"""Traces as files: JSON, CSV, NPZ and one HTML page; and the trace read back out of each.

NPZ and HTML are made of the JSON document alone and hold it, so that `lexiscope verify` can read
the tokens again, compare every number, and make the file again of the numbers in it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np
import orjson

from app.figures.theme import DARK, LIGHT, sheet_colours
from app.model.open_model import facts_of
from app.web import export
from app.web.rendering import environment
from engine import LatentSpace, Trace
from engine.differences import differences
from engine.errors import ArtifactError, OptionError
from engine.model.vocabulary import visible
from engine.verification import Verification, report, traced_again, verify_trace

Format = Literal["json", "csv", "npz", "html"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
MEDIA: Final[Mapping[Format, str]] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "npz": "application/octet-stream",
    "html": "text/html; charset=utf-8",
}
_OPEN: Final = b'<script type="application/json" id="trace">'
_TABLE: Final = re.compile(rb'(\xef\xbb\xbf)?"# Lexiscope [^,]+, trace, model ')
_NUMBERS: Final = (
    "entropy", "final_rank", "probability", "divergence", "border", "region", "target_similarity",
    "deviation", "gain", "alignment", "norm",
)  # fmt: skip
"""Of a cell: one number each, NaN where there is none."""


@dataclass(frozen=True)
class TraceFile:
    """Writes a trace as the bytes of a file."""

    source: export.Source
    format: Format

    def __call__(self, trace: Trace) -> bytes:
        """The file."""
        if self.format == "csv":
            return export.TraceTable(self.source)(trace)
        body = export.Document(self.source)(trace)
        return body if self.format == "json" else _MADE[self.format](orjson.loads(body))


def format_of(name: str) -> Format:
    """The format that a file's ending names.

    Raises:
        OptionError: another ending.
    """
    ending = name.rpartition(".")[2].lower()
    for one in FORMATS:
        if ending == one:
            return one
    raise OptionError(f"the file's name must end in .{', .'.join(FORMATS)}; got {name[-40:]!r}.")


# Writing


def archive(document: Mapping[str, Any]) -> bytes:
    """The trace for NumPy: ``np.load`` reads it without pickle."""
    tokens, cells = document["tokens"], document["cells"]
    shape = len(document["layers"]), len(document["positions"])
    k = max((len(cell["top"]) for cell in cells), default=0)

    def of_tops(name: str, missing: float) -> Any:
        rows = [[one[name] for one in cell["top"]] for cell in cells]
        padded = [[*row, *[missing] * (k - len(row))] for row in rows]
        return np.array(padded, dtype=float).reshape(*shape, k)

    arrays = {
        "layers": np.array(document["layers"]),
        "positions": np.array(document["positions"]),
        "token_id": np.array([token["id"] for token in tokens]),
        "token_text": np.array([token["text"] for token in tokens]),
        "top_id": of_tops("id", -1).astype(np.int64),
        "top_score": of_tops("score", np.nan),
        "top_probability": of_tops("probability", np.nan),
        "final_id": np.array([-1 if f["id"] is None else f["id"] for f in document["final"]]),
        "meta": np.array(export.dumps(document).decode()),
    }
    for name in _NUMBERS:
        arrays[name] = np.array([cell[name] for cell in cells], dtype=float).reshape(shape)
    return export.archive(arrays)


@dataclass(frozen=True)
class _Cell:
    """A cell of the table: its token, what stands under it, and how strong its colour is."""

    label: str
    chance: str
    step: int
    agrees: bool
    title: str


def page(document: Mapping[str, Any]) -> bytes:
    """One HTML page: no script runs, nothing is fetched; layers from the last down to the first."""
    options, columns = document["options"], len(document["positions"])
    cells = [_cell(cell) for cell in document["cells"]]
    rows = [
        (layer, cells[i * columns : (i + 1) * columns])
        for i, layer in enumerate(document["layers"])
    ]
    tokens = [visible(document["tokens"][p]["text"]) for p in document["positions"]]
    text = environment().get_template("trace/file.html").render(
        title="".join(token["text"] for token in document["tokens"])[:200],
        document=document,
        settings=", ".join(f"{name} {value}" for name, value in options.items()
                           if value not in (None, False)),
        tokens=list(zip(document["positions"], tokens, strict=True)),
        final=[visible(one["text"]) if one["id"] is not None else "–" for one in document["final"]],
        rows=rows[::-1],
        versions=export.version_words(document["provenance"]["versions"]),
        light=sheet_colours(LIGHT, "--paper:#f7f7f4;"),
        dark=sheet_colours(DARK, "--paper:#0f1316;"),
        numbers=export.inert(export.dumps(document)),
    )  # fmt: skip
    return f"{text}\n".encode()


def _cell(cell: Mapping[str, Any]) -> _Cell:
    if not cell["top"]:
        return _Cell("–", "not finite", 0, False, "This state is not finite.")
    shares = [one["probability"] or 0.0 for one in cell["top"]]
    listed = [
        f"{visible(one['text'])} {share:.3f}"
        for one, share in zip(cell["top"], shares, strict=True)
    ]
    label = visible(cell["top"][0]["text"])
    step = min(6, int(7 * shares[0]))
    return _Cell(label, f"{shares[0]:.2f}", step, bool(cell["agrees"]), "\n".join(listed))


_MADE: Final[Mapping[str, Callable[[Mapping[str, Any]], bytes]]] = {"npz": archive, "html": page}


# Reading back


def is_trace(body: bytes) -> bool:
    """Whether a file looks like one that is written here."""
    if body.startswith(b"PK\x03\x04"):
        return b"top_id.npy" in body
    start = body[:4096].lstrip(b"\xef\xbb\xbf \r\n")
    if start.lower().startswith(b"<!doctype html"):
        return _OPEN in body
    return (start.startswith(b"{") and b'"cells"' in body) or bool(_TABLE.match(body))


def verify(space: LatentSpace, body: bytes) -> Verification:
    """Compute the trace of a file again, and make the file again of its numbers.

    Raises:
        ArtifactError: the file is no trace, or damaged.
    """
    if len(body) > export.LARGEST_FILE:
        raise ArtifactError(
            f"the file has {len(body):,} bytes; at most {export.LARGEST_FILE:,} are read."
        )
    try:
        if _TABLE.match(body):
            return _verify_table(space, body)
        format, document = _document(body)
        anew = body if format == "json" else _MADE[format](document)
    except ArtifactError:
        raise
    except export.DAMAGED as error:
        raise ArtifactError(
            f"this file is no trace that was saved here, or it is damaged ({type(error).__name__});"
            " export it again."
        ) from None
    found = verify_trace(space, document)
    if found.ok and anew != body and not _same_arrays(format, body, anew):
        words = "the rest of the file is not what is made of its numbers here"
        more = f"{found.sentence} But {words}: it was changed, or another version wrote it."
        return replace(found, ok=False, differs=words, sentence=more)
    return found


def _document(body: bytes) -> tuple[Format, Any]:
    if body.startswith(b"PK\x03\x04"):
        with export.arrays_in(body) as arrays:
            return "npz", orjson.loads(export.counted(str(arrays["meta"][()]).encode()))
    start = body.find(_OPEN)
    if start < 0:
        return "json", orjson.loads(export.counted(body))
    start += len(_OPEN)
    inside = body[start : body.index(b"</script>", start)]
    return "html", orjson.loads(export.counted(inside))


def _same_arrays(format: Format, body: bytes, anew: bytes) -> bool:
    """Whether an archive holds what it must, however another machine compressed it."""
    if format != "npz":
        return False
    with export.arrays_in(body) as given, export.arrays_in(anew) as right:
        return sorted(given.files) == sorted(right.files) and all(
            given[name].dtype == right[name].dtype
            and np.array_equal(given[name], right[name], equal_nan=given[name].dtype.kind == "f")
            for name in right.files
        )


def _verify_table(space: LatentSpace, body: bytes) -> Verification:
    """A table's trace is read again by the settings in its first line, its cells are compared."""
    given = _lines(body)
    _, _, held = export.first_line(given[0][0])
    trace = traced_again(space, held)
    if isinstance(trace, Verification):
        return trace
    source = export.Source.of(facts_of(space))
    anew = _lines(export.TraceTable(source)(trace))
    return report("trace", differences(_values(given[1:]), _values(anew[1:]), path="table"))


def _lines(body: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(export.counted(body).decode("utf-8-sig"), newline="")))


def _values(lines: Iterable[list[str]]) -> list[list[str | float]]:
    """Cells as what they are: a number with a point is one."""
    return [[_value(cell) for cell in line] for line in lines]


def _value(cell: str) -> str | float:
    try:
        return float(cell) if "." in cell else cell
    except ValueError:
        return cell
