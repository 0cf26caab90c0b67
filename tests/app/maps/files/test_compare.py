"""A file verifies only if everything in it is what is drawn of its numbers; a hostile one costs a
sentence."""

from __future__ import annotations

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from asgi import PROMPT
from PIL import Image, PngImagePlugin

from app.cli import main as cli
from app.maps.files import embed, export
from app.maps.files.compare import difference
from app.maps.files.drawing import packed, unpacked
from app.maps.files.export import FORMATS, drawing_of, read, write
from app.maps.files.picture import Look
from app.web.export import MOST_VALUES
from engine import LatentSpace
from engine.errors import ArtifactError, LexiscopeError
from engine.maps import MapOptions, verify
from engine.maps.verify import VerifyReport
from engine.progress import no_check

pytestmark = pytest.mark.slow

OPTIONS = MapOptions(prompt=PROMPT, layer=2, select="search:a", seed=7)


def file_of(space: LatentSpace, format: Any, *, jitter: float = 0.0, **changes: Any) -> bytes:
    """A map as a file; with a jitter as another machine would compute its coordinates."""
    found = drawing_of(space.maps, OPTIONS, format, "class", check=no_check)
    drawn = replace(found.map, **changes)
    if jitter:
        noise = np.random.default_rng(0).uniform(-jitter, jitter, drawn.coordinates.shape)
        moved = (drawn.coordinates + noise).astype(np.float32)
        border = replace(drawn.border, clipped=moved, low=drawn.border.low + jitter)
        drawn = replace(drawn, coordinates=moved, border=border)
    look = Look(format, 500, 400) if format in ("svg", "png") else None
    return write(replace(found, map=drawn), format, look)


def checked(space: LatentSpace, body: bytes) -> VerifyReport:
    document = read(body)
    return verify(space.maps, document, compare=partial(difference, body, document))


@pytest.mark.parametrize("format", FORMATS)
def test_an_untouched_file_is_confirmed_whole(reference: LatentSpace, format: Any) -> None:
    report = checked(reference, file_of(reference, format))
    assert report.ok, report.sentence
    assert report.same_drawing is True
    assert "the same picture" in report.sentence


@pytest.mark.parametrize("format", ["json", "csv", "npz", "html"])
def test_last_digits_and_versions_of_another_machine_are_no_difference(
    reference: LatentSpace, format: Any
) -> None:
    body = file_of(reference, format, jitter=1e-7, versions={"torch": "0.0"})
    report = checked(reference, body)
    assert report.ok, report.sentence
    assert report.largest_difference > 0
    assert not report.same_versions


@pytest.mark.parametrize("format", ["svg", "png"])
def test_a_picture_of_another_machine_is_not_confirmed_but_its_numbers_are(
    reference: LatentSpace, format: Any
) -> None:
    report = checked(reference, file_of(reference, format, jitter=1e-7, title="Another title"))
    assert not report.ok
    assert report.same_drawing is False
    assert "the same numbers, but NOT the same picture" in report.sentence


def _text(old: str, new: str, count: int = -1) -> Callable[[bytes], bytes]:
    def change(body: bytes) -> bytes:
        assert old.encode() in body, old
        return body.replace(old.encode(), new.encode(), count)

    return change


def _sheet(key: str, new: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    """What the page's script draws, changed; the numbers below it stay."""

    def change(body: bytes) -> bytes:
        begin = body.index(b'id="sheet">') + len(b'id="sheet">')
        end = body.index(b"</script>", begin)
        sheet = json.loads(body[begin:end])
        sheet[key] = new(sheet[key])
        inert = json.dumps(sheet).replace("<", "\\u003c").encode()
        return body[:begin] + inert + body[end:]

    return change


def _moved(places: str) -> str:
    at = unpacked(places, "<f4").copy()
    at[0] += 1
    return packed(at)


def _archive(name: str, new: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    def change(body: bytes) -> bytes:
        with np.load(io.BytesIO(body)) as file:
            arrays = {one: file[one] for one in file.files}
        arrays[name] = new(arrays[name])
        out = io.BytesIO()
        np.savez(out, **arrays)
        return out.getvalue()

    return change


def _cell(column: str, new: Callable[[str], str]) -> Callable[[bytes], bytes]:
    def change(body: bytes) -> bytes:
        lines = list(csv.reader(io.StringIO(body.decode(), newline="")))
        at = lines[1].index(column)
        lines[4][at] = new(lines[4][at])
        out = io.StringIO(newline="")
        csv.writer(out).writerows(lines)
        return out.getvalue().encode()

    return change


def _painted(body: bytes) -> bytes:
    """The same numbers in a picture with a white square over its points."""
    with Image.open(io.BytesIO(body)) as picture:
        drawn, info = picture.convert("RGBA"), picture.info
    drawn.paste((255, 255, 255, 255), (300, 300, 500, 500))
    texts = PngImagePlugin.PngInfo()
    for key in ("Title", "Source"):
        texts.add_itxt(key, info[key])
    texts.add_itxt("Lexiscope", info["Lexiscope"], zip=True)
    out = io.BytesIO()
    drawn.save(out, "PNG", pnginfo=texts)
    return out.getvalue()


FORGED: list[tuple[str, str, Callable[[bytes], bytes], str]] = [
    ("json", "title", _text('"title":"Layer 2', '"title":"Layer 3'), "title differs"),
    ("json", "label", _text('"label":["', '"label":["x'), "label[0] differs"),
    ("json", "range", lambda b: orjson.dumps(
        orjson.loads(b) | {"range": [[-9.0, 9.0], [-9.0, 9.0]]}), "range[0][0] differs"),
    ("json", "a field more", lambda b: orjson.dumps(orjson.loads(b) | {"more": 1}), "other fields"),
    ("csv", "label", _cell("label", lambda cell: f"{cell}x"), "line 5 of the table"),
    ("csv", "outside", _cell("outside", lambda cell: "x"), "line 5 of the table"),
    ("csv", "the first line", _text("Lexiscope ", "Other ", 1), "the words of the first line"),
    ("npz", "label", _archive("label", lambda a: np.char.add(a, "x")), "the array label"),
    ("npz", "drawn", _archive("drawn", lambda a: a + np.float32(1)), "the array drawn"),
    ("npz", "title", _archive("meta", lambda a: np.array(
        str(a).replace('"title":"Layer 2', '"title":"Layer 3'))), "title differs"),
    ("html", "heading", _text("<h1>Layer 2", "<h1>Layer 3"), "the words around the map"),
    ("html", "sentence", _text('<p class="lead">', '<p class="lead">Not '), "the words around"),
    ("html", "no sheet", _text('id="sheet"', 'id="other"'), "the rest of the file is damaged"),
    ("html", "script", _text("</body>", "<script>draw()</script></body>"), "or its scripts"),
    ("html", "places", _sheet("places", _moved), "where the points are drawn"),
    ("html", "labels", _sheet("labels", lambda a: [*a[1:], a[0]]), "the labels of the points"),
    ("html", "axes", _sheet("axes", lambda a: a[::-1]), "the names of the axes"),
    ("html", "colour", _sheet("colour", lambda a: a | {"caption": "Truth."}), "the colours"),
    ("svg", "title", _text("<title>Layer 2", "<title>Layer 3"), "the title or the words"),
    ("svg", "drawing", _text("</svg>", '<circle r="9"/></svg>'), "the picture is not"),
    ("png", "pixels", _painted, "the picture is not"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("format", "change", "differs"),
    [(format, change, differs) for format, _, change, differs in FORGED],
    ids=[f"{format}: {what}" for format, what, _, _ in FORGED],
)
def test_a_file_with_the_right_numbers_that_shows_something_else_is_found_out(
    reference: LatentSpace, format: Any, change: Callable[[bytes], bytes], differs: str
) -> None:
    body = file_of(reference, format)
    forged = change(body)
    assert forged != body
    report = checked(reference, forged)
    assert report.largest_difference == 0
    assert report.same_points
    assert not report.ok
    assert differs in report.differs
    assert report.sentence.startswith("Recomputed")
    assert "NOT the same picture" in report.sentence


def test_without_the_file_the_report_says_what_was_compared(reference: LatentSpace) -> None:
    report = verify(reference.maps, read(file_of(reference, "html")))
    assert report.ok
    assert report.same_drawing is None
    assert "Coordinates, kinds and rows were compared, and nothing else." in report.sentence
    assert "the same picture" not in report.sentence


def test_a_picture_that_does_not_say_how_it_was_drawn_is_not_confirmed(
    reference: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = export.numbers

    def old(*given: Any) -> bytes:
        plain = orjson.loads(numbers(*given))
        del plain["drawn"]
        return orjson.dumps(plain)

    monkeypatch.setattr(export, "numbers", old)
    body = file_of(reference, "svg")
    monkeypatch.undo()
    report = checked(reference, body)
    assert not report.ok
    assert "does not say how it was drawn" in report.sentence


# ---- files made to harm --------------------------------------------------------------------------


def outcome(space: LatentSpace, body: bytes) -> str:
    """What is said of a file: the report's sentence, or why there is none."""
    try:
        return checked(space, body).sentence
    except LexiscopeError as error:
        return str(error)


VALUES: list[Any] = [
    None, True, -1, 10**30, 1e308, "", "x" * 300, "\x1b[2J", [], [[]], {}, {"a": []}, [None], "NaN",
]  # fmt: skip


def test_no_value_in_a_file_is_a_traceback(reference: LatentSpace) -> None:
    """Each field of a saved map, and each of its options, with each of these values."""
    whole = orjson.loads(file_of(reference, "json"))
    parts = [whole, *(whole[part] for part in ("options", "model", "versions"))]
    said = set()
    for holder, key in [(part, key) for part in parts for key in part]:
        kept = holder[key]
        for value in VALUES:
            holder[key] = value
            said.add(outcome(reference, json.dumps(whole).encode()))
        holder[key] = kept
    assert not [one for one in said if "\n" in one or not one.endswith(".")]
    assert len(said) > 30


@pytest.mark.parametrize("how", ["drawn", "meta", "coordinates", "kind", "row", "shape"])
def test_no_value_in_a_picture_is_a_traceback(reference: LatentSpace, how: str) -> None:
    body = file_of(reference, "svg")
    plain = orjson.loads(embed.svg_numbers(body))
    begin, end = body.index(embed._OPEN.encode()), body.index(embed._CLOSE.encode())
    for value in (*VALUES, {"colour": "x" * 99}, {"colour": "class", "width": 1e9, "height": 1}):
        numbers = json.dumps(plain | {how: value}).replace("&", "&amp;").replace("<", "&lt;")
        changed = body[: begin + len(embed._OPEN)] + numbers.encode() + body[end:]
        assert "the same picture; " not in outcome(reference, changed)


def _bomb(numbers: bytes) -> bytes:
    """A small PNG whose numbers are these."""
    held = b"Lexiscope\0\1\0\0\0" + zlib.compress(numbers, 9)
    return embed._PNG + embed._chunk(b"IHDR", b"\0" * 13) + embed._chunk(b"iTXt", held)


@pytest.mark.parametrize(
    "body",
    [
        _bomb(b'{"meta":[' + b"[]," * MOST_VALUES + b"[]]}"),
        b'{"options":[' + b"{}," * MOST_VALUES + b"{}]}",
        b'"# Settings: {}"\n' + b"," * (MOST_VALUES + 1),
    ],
    ids=["png", "json", "csv"],
)
def test_a_small_file_is_never_parsed_into_gigabytes(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much text as a map has, made of nothing but values: fifty times as much memory."""
    parsed: list[int] = []
    monkeypatch.setattr(export.orjson, "loads", lambda text: parsed.append(len(text)))
    monkeypatch.setattr(export.csv, "reader", lambda lines: parsed.append(1))
    with pytest.raises(ArtifactError, match="damaged"):
        read(body)
    assert parsed == []


def test_an_archive_that_claims_a_huge_array_is_damaged() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in ("meta", "coordinates"):
            held = io.BytesIO()
            header = {"descr": "<f4", "fortran_order": False, "shape": (2**46, 2)}
            np.lib.format.write_array_header_1_0(held, header)
            file.writestr(f"{name}.npy", held.getvalue())
    with pytest.raises(ArtifactError, match="damaged"):
        read(out.getvalue())


def test_what_stands_in_a_file_cannot_act_on_the_terminal(
    reference: LatentSpace, model_folder: Path, tmp_path: Path, capfd: Any
) -> None:
    document = orjson.loads(file_of(reference, "json"))
    document["model"] |= {"fingerprint": "0" * 32, "name": "\x1b]0;owned\x07\x1b[2J\u202egpj"}
    named, option = tmp_path / "named.json", tmp_path / "option.json"
    named.write_bytes(orjson.dumps(document))
    document["options"]["frame"] = "\x1b[2J"
    option.write_bytes(orjson.dumps(document))
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    assert cli.main(["verify", str(named), *where]) == 1
    assert cli.main(["verify", str(option), *where]) == 2
    out, err = capfd.readouterr()
    assert "made of another model" in out
    assert "options of this map cannot be read" in err
    for text in (out, err):
        assert all(c == "\n" or c.isprintable() for c in text)
