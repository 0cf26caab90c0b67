"""Maps as files: each holds its numbers exactly, says where it comes from, and stays inert."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from asgi import HOSTILE, PROMPT
from parsed import Parsed
from PIL import Image
from scipy.stats import rankdata

from app.figures.theme import DARK, LIGHT
from app.maps.documents import write_colour
from app.maps.files import embed as map_embed
from app.maps.files import fonts as map_type
from app.maps.files import picture as map_picture
from app.maps.files.drawing import Drawing, class_colours, paint_of, provenance, spread_out
from app.maps.files.export import FORMATS, drawing_of, format_of, read, write
from app.maps.files.picture import Look
from app.maps.files.scales import STEPS, UNKNOWN, ramp, stepped
from engine import LatentSpace
from engine.errors import ArtifactError, OptionError
from engine.maps import Colour, Map, MapOptions, MapPoints, verify
from engine.maps.border import Border
from engine.maps.colours import CLASSES
from engine.progress import no_check
from engine.trace.result import ModelInfo

OPTIONS = MapOptions(prompt=PROMPT, layer=2, seed=7)
SMALL = Look("png", 500, 400)


def drawing(space: LatentSpace, options: MapOptions = OPTIONS, colour: str = "class") -> Drawing:
    return drawing_of(space.maps, options, "html", colour, check=no_check)


SIX = Colour("class", None, np.array([0, 1, 0, 1, 2, 2]), ("a", "b", "c"), "A class.")


def points_of(
    places: Any = ((0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5), (0.52, 0.5)),
    kinds: Any = (0, 0, 0, 0, 2, 2),
    *,
    outside: Sequence[int] = (),
    label: Callable[[int], str] = lambda i: f"␣point {i}",
    colour: Colour | None = SIX,
    title: str = "Six points",
    axis_names: tuple[str, ...] = ("PC1", "PC2"),
    limits: tuple[float, float] = (-0.1, 1.1),
) -> Drawing:
    """A map of a few points that never saw a model; those of the vocabulary are whole words."""
    at, count = np.array(places, dtype=np.float32), len(places)
    kind, row = np.array(kinds, dtype=np.uint8), np.arange(count, dtype=np.int32)
    names = [label(i) for i in range(count)]
    vocabulary: Any = SimpleNamespace(texts=[" word"] * count, words=[True] * count, labels=names)
    tokens: Any = tuple(SimpleNamespace(id=i, text=one, label=one) for i, one in enumerate(names))
    ends = np.full(2, limits[0]), np.full(2, limits[1])
    far = np.isin(np.arange(count), outside)
    drawn = Map(
        options=MapOptions(), model=ModelInfo("here", "local", "f", "cpu", "float32"), layers=2,
        layer=2, points=MapPoints(kind, row, vocabulary, tokens), coordinates=at,
        border=Border(*ends, far, at, shared=True), variance_shown=None, variance_of="",
        variance_of_bases=None, title=title, how_chosen="A sentence.", blind_to="Another one.",
        axis_names=axis_names, warnings=(), versions={}, fingerprint="here",
    )  # fmt: skip
    return Drawing(drawn, colour, None)


# ---- every format --------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("format", FORMATS)
def test_a_file_holds_the_coordinates_bit_for_bit_and_verifies(
    reference: LatentSpace, format: Any, dims: int
) -> None:
    found = drawing(reference, replace(OPTIONS, dims=dims))
    body = write(found, format, Look(format, 500, 400) if format in ("svg", "png") else None)
    document = read(body)
    np.testing.assert_array_equal(
        np.asarray(document["coordinates"], dtype=np.float32), found.map.coordinates
    )
    report = verify(reference.maps, document)
    assert report.ok, report.sentence
    assert report.n == found.map.n
    assert report.largest_difference == 0


@pytest.mark.parametrize("format", FORMATS)
def test_a_changed_coordinate_is_found_by_its_size(reference: LatentSpace, format: Any) -> None:
    found = drawing(reference)
    moved = found.map.coordinates.copy()
    moved[3, 1] += 0.25
    body = write(replace(found, map=replace(found.map, coordinates=moved)), format)
    report = verify(reference.maps, read(body))
    assert not report.ok
    assert report.largest_difference == pytest.approx(0.25, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_the_same_question_gives_the_same_bytes(reference: LatentSpace, format: Any) -> None:
    assert write(drawing(reference), format) == write(drawing(reference), format)


@pytest.mark.parametrize("format", FORMATS)
def test_every_file_says_where_it_comes_from(reference: LatentSpace, format: Any) -> None:
    found = drawing(reference)
    told = provenance(found.map)
    for part in (
        reference.model.name,
        reference.model.fingerprint,
        "layer 2",
        "normed states, unit",
        "frame output",
        "seed 7",
        "torch ",
        found.map.fingerprint,
    ):
        assert part in told
    body = write(found, format)
    match format:
        case "json":
            document = json.loads(body)
            assert document["fingerprint"] == found.map.fingerprint
            assert document["versions"]["torch"]
            assert document["options"]["seed"] == 7
        case "csv":
            assert told in next(csv.reader(io.StringIO(body.decode())))[0]
        case "npz":
            with np.load(io.BytesIO(body), allow_pickle=False) as file:
                assert str(file["provenance"]) == told
        case "html":
            assert told in body.decode()
        case "svg":
            root = ElementTree.fromstring(body)
            described = root.find("{http://www.w3.org/2000/svg}desc")
            assert described is not None
            assert told in str(described.text)
        case "png":
            with Image.open(io.BytesIO(body)) as picture:
                assert picture.info["Source"] == told
                assert picture.info["Title"] == found.map.title
                assert picture.size == (2400, 1600)


def test_the_table_has_a_row_for_every_point(reference: LatentSpace) -> None:
    found = drawing(reference)
    lines = list(csv.reader(io.StringIO(write(found, "csv").decode(), newline="")))
    names, rows = lines[1], lines[2:]
    assert len(rows) == found.map.n
    assert {"index", "kind", "row", "id", "text", "label", "x", "y", "outside"} <= set(names)
    for text in HOSTILE:  # no cell begins what a spreadsheet would compute
        assert not [row for row in rows if row[names.index("text")] == text and text[0] in "=@-"]


def test_the_archive_needs_no_pickle_and_no_clock(reference: LatentSpace) -> None:
    body = write(drawing(reference), "npz")
    with zipfile.ZipFile(io.BytesIO(body)) as file:
        assert {one.date_time for one in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(io.BytesIO(body), allow_pickle=False) as file:
        n, dims = file["coordinates"].shape
        assert file["coordinates"].dtype == file["drawn"].dtype == np.float32
        assert (len(file["label"]), len(file["id"]), dims) == (n, n, 2)


# ---- reading what is no map ----------------------------------------------------------------------


def _short_archive() -> bytes:
    out = io.BytesIO()
    np.savez(out, other=np.zeros(3))
    return out.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 100,
        b"{",
        b"[1, 2]",
        b'{"a": 1}',
        b"a,b\r\n1,2\r\n",
        b"\xff\xfe\x00",
        b"<!doctype html><p>no map</p>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 60,
        b"PK\x03\x04" + b"\0" * 40,
        _short_archive(),
        b'"# Settings: {"\r\n',
        b'"# Settings: {}"\r\n"a"\r\n',
    ],
)
def test_a_file_that_is_no_map_is_refused_in_a_sentence(body: bytes) -> None:
    with pytest.raises(ArtifactError) as raised:
        read(body)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_was_cut_short_never_verifies(reference: LatentSpace, format: Any) -> None:
    body = write(drawing(reference), format)
    for share in (0.3, 0.6, 0.9):
        cut = body[: int(len(body) * share)]
        try:
            report = verify(reference.maps, read(cut))
        except ArtifactError:
            continue
        # The numbers stand whole before the drawing; then the file says what it always said.
        assert report.ok is (format in ("html", "svg", "png"))


def test_a_picture_does_not_unpack_without_end(reference: LatentSpace) -> None:
    bomb = map_embed.with_numbers_png(
        map_embed._PNG + b"\0" * 25, points_of(), b"0" * (map_embed._MOST_NUMBERS + 10)
    )
    with pytest.raises(ArtifactError):
        read(bomb)


def test_the_ending_says_the_format() -> None:
    assert [format_of(f"a.b/map.{one.upper()}") for one in FORMATS] == list(FORMATS)
    for name in ("map", "map.", "map.pdf", "png"):
        with pytest.raises(OptionError, match="must end in"):
            format_of(name)


# ---- the page ------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else_and_hostile_tokens_are_data(reference: LatentSpace) -> None:
    body = write(drawing(reference), "html").decode()
    page = Parsed(body)
    scripts = page.all("script")
    kinds = [script.attrs.get("type") for script in scripts]
    assert kinds == ["application/json", "application/json", None, None]
    for script in scripts[:2]:
        assert not set("<>&") & set(script.text)
        assert script.attrs["id"] in ("sheet", "numbers")
    sheet = json.loads(scripts[0].text)
    assert sheet["labels"] == drawing(reference).map.points.labels()
    assert any("<script>" in one for one in sheet["labels"])
    assert not {e.tag for e in page.elements} & {"link", "img", "iframe", "a", "base"}
    assert not [e for e in page.elements if {"src", "href"} & set(e.attrs)]
    assert not [e for e in page.elements if any(name.startswith("on") for name in e.attrs)]


def test_the_pages_policy_names_its_scripts_and_allows_no_connection(
    reference: LatentSpace,
) -> None:
    body = write(drawing(reference), "html").decode()
    page = Parsed(body)
    policy = page.one("meta", http_equiv="Content-Security-Policy").attrs["content"]
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    assert "'self'" not in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]
    for script in page.all("script"):
        if "type" not in script.attrs:
            digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy


# ---- the picture ---------------------------------------------------------------------------------


def test_a_measured_width_is_the_width_that_is_drawn() -> None:
    """Against Matplotlib's own renderer, in the same type and size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    renderer = FigureCanvasAgg(Figure(dpi=100)).get_renderer()
    font = FontProperties(family=list(map_type.families()), size=20 * 0.72)
    for text in ("The old king and the queen", "WWWW iiii", "8,192 of 8,192: 3.5 %"):
        drawn, _, _ = renderer.get_text_width_height_descent(text, font, False)
        assert map_type.width_of(text, 20) == pytest.approx(drawn, rel=0.05)


def test_lines_are_as_long_as_the_room() -> None:
    words = "Of a point's 15 nearest neighbours in the model, 4 are among the 15 nearest here."
    lines = map_type.wrapped(words, 12, 150, most=20)
    assert " ".join(lines) == words
    assert len(lines) > 2
    assert all(map_type.width_of(line, 12) <= 150 for line in lines)
    assert map_type.wrapped(words, 12, 150, most=2)[-1].endswith("…")


def test_no_label_covers_another() -> None:
    """Forty tokens of a prompt in one spot: those that find room do not touch, the rest is left."""
    count = 40
    places = np.random.default_rng(0).normal(0.5, 0.02, (count, 2)).astype(np.float32)
    sheet = points_of(places, np.full(count, 2), colour=None)
    picture = map_picture._Picture(sheet, Look("png", 900, 700))
    picture.save()
    labels = picture.taken[count:]
    assert 8 < len(labels) <= count
    for i, a in enumerate(labels):
        for b in labels[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.slow
def test_the_points_are_drawn_where_they_are() -> None:
    """A single prompt token's colour lies at its place, one unit is as long across as it is up."""
    sheet = points_of([[0.2, 0.9], [0.9, 0.3]], (2, 2), label=lambda i: "x", colour=None)
    body = map_picture.draw(sheet, Look("png", 800, 600))
    with Image.open(io.BytesIO(body)) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
    mark = np.array([int(LIGHT.mark[i : i + 2], 16) for i in (1, 3, 5)])
    # Without the legend's sign, which has the same colour.
    pixels = pixels[:, : 2 * (800 - 196)]
    hit = np.argwhere((np.abs(pixels - mark) < 3).all(2))
    left = hit[hit[:, 1] < hit[:, 1].mean()].mean(0)
    right = hit[hit[:, 1] > hit[:, 1].mean()].mean(0)
    across, up = right[1] - left[1], right[0] - left[0]
    assert across > 100
    assert up / across == pytest.approx(0.6 / 0.7, rel=0.1)


def test_numbers_have_the_colours_that_they_have_on_the_page() -> None:
    """By rank where they are skewed, by value where not, states apart; and so in the picture."""
    random = np.random.default_rng(0)
    skewed, even = np.exp(3 * random.normal(size=200)), np.linspace(100, 200, 50)
    values = np.array([*skewed, *even, np.nan], dtype=np.float32)
    kinds = np.array([0] * 200 + [2] * 51)
    steps, scales = stepped(values, kinds)
    ranks = rankdata(values[:200], "min") - 1
    np.testing.assert_array_equal(steps[:200], np.floor(ranks / 199 * (STEPS - 1) + 0.5))
    np.testing.assert_array_equal(steps[200:250], np.round((even - 100) / 100 * (STEPS - 1)))
    assert steps[250] == UNKNOWN
    assert [(one.name, one.ranked) for one in scales] == [("bases", True), ("states", False)]
    assert scales[0].middle == sorted(values[:200])[100]
    # A point in the middle of skewed ones has the middle colour, alone at its own place.
    sheet = points_of(
        [[0.5, 0.5], *([[0.0, 0.0]] * 4), *([[1.0, 1.0]] * 4)], [0] * 9, label=lambda i: "",
        colour=Colour("norm", np.array([10, 1, 2, 3, 4, 1e3, 1e4, 1e5, 1e6]), None, (), "?"),
    )  # fmt: skip
    with Image.open(io.BytesIO(map_picture.draw(sheet, Look("png", 600, 500)))) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
    ink = np.array(ramp(LIGHT)(24)[:3]) * 255
    paper = np.array([int(LIGHT.surface[i : i + 2], 16) for i in (1, 3, 5)])
    wanted = 0.85 * ink + 0.15 * paper
    assert (np.abs(pixels[:, : 2 * (600 - 196)] - wanted) < 3).all(2).sum() > 20


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_both_themes_and_dimensions_are_drawn(
    reference: LatentSpace, dark: bool, dims: int
) -> None:
    found = drawing(reference, replace(OPTIONS, dims=dims), colour="norm")
    body = map_picture.draw(found, replace(SMALL, dark=dark))
    with Image.open(io.BytesIO(body)) as picture:
        corner = picture.convert("RGB").getpixel((2, 2))
    surface = (DARK if dark else LIGHT).surface
    assert corner == tuple(int(surface[i : i + 2], 16) for i in (1, 3, 5))


def test_text_in_a_picture_is_text() -> None:
    """Nothing is read as mathematics or markup, and what no font has is a box."""
    odd = ["$x^2$", "$\\frac{", "<svg onload=alert(1)>", "&amp;", "]]>", "\U0010ffff", "\\n", "_^"]
    sheet = points_of(
        title="$\\frac{1}{2}$ <b>&", label=lambda i: odd[i], axis_names=("$a$", "<i>"), outside=[3],
        colour=replace(SIX, by="label", names=("$\\x$", "<g>", "]]>"), caption="$"),
    )  # fmt: skip
    body = map_picture.draw(sheet, Look("svg", 600, 500), b'{"]]>": "<&"}')
    root = ElementTree.fromstring(body)
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == sheet.map.title
    assert map_embed.svg_numbers(body) == b'{"]]>": "<&"}'
    assert not [one for one in root.iter() if one.tag.endswith(("script", "foreignObject"))]
    assert not re.search(rb"\son[a-z]+=", body)
    assert map_type.drawable("a\U0010ffffb") == "a▯b"


def test_a_large_cloud_stays_a_small_svg(reference: LatentSpace) -> None:
    """Beyond some thousand points the cloud is a picture inside the drawing."""
    count = 20_000
    random = np.random.default_rng(0)
    sheet = points_of(random.random((count, 2)), np.zeros(count), colour=None)
    body = map_picture.draw(sheet, Look("svg", 600, 500))
    assert b"<image" in body
    assert len(body) < 1_500_000
    few = map_picture.draw(points_of(outside=[3]), Look("svg", 600, 500))
    assert b"<image" not in few


def test_a_map_of_one_point_and_one_without_numbers_are_drawn() -> None:
    nothing = Colour("norm", np.full(1, np.nan, dtype=np.float32), None, (), "?")
    for colour in (None, nothing):
        one = points_of([[0, 0]], [0], colour=colour, limits=(0.0, 0.0))
        assert map_picture.draw(one, SMALL).startswith(b"\x89PNG")


def test_rare_categories_share_a_colour_and_none_gets_lost() -> None:
    codes = np.array([i for i in range(12) for _ in range(20 - i)])
    paint = paint_of(Colour("label", None, codes, tuple(f"n{i}" for i in range(12)), "?"))
    assert len(paint.names) == 8
    assert paint.names[:7] == tuple(f"n{i}" for i in range(7))
    assert sum(paint.counts) == len(codes)
    assert paint.counts == tuple(np.bincount(paint.values).tolist())
    colours = class_colours(paint, LIGHT)
    assert len(set(colours)) == 8
    assert LIGHT.mark not in colours


def test_a_kind_of_token_has_one_colour_whatever_else_is_on_the_map() -> None:
    """The same class on three maps, in files and in the page's answer, is the same colour."""
    drawn: dict[str, set[str]] = {}
    order = list(CLASSES)
    generator = np.random.default_rng(0)
    for some in (range(9), (1, 3, 7), (0, 2, 3, 4, 6, 8)):
        codes = generator.choice(np.array(some), 500)
        paint = paint_of(Colour("class", None, codes, CLASSES, "?"))
        for name, colour in zip(paint.names, class_colours(paint, DARK), strict=True):
            drawn.setdefault(name, set()).add(colour)
        own = [name for name, slot in zip(paint.names, paint.slots, strict=True) if slot >= 0]
        assert own == sorted(own, key=order.index)
        answer = json.loads(
            write_colour(Colour("class", None, codes.astype(np.int32), CLASSES, "?"))
        )
        for name, slot in zip(paint.names, paint.slots, strict=True):
            if name in order:
                assert answer["slots"][order.index(name)] == slot
    assert all(len(colours) == 1 for colours in drawn.values())
    named = [next(iter(drawn[name])) for name in ("word", "word piece", "number", "punctuation")]
    assert len(set(named)) == 4


def test_labelled_words_are_spread_over_the_map() -> None:
    places = np.random.default_rng(1).random((5000, 2)).astype(np.float32)
    chosen = spread_out(places, np.arange(0, 5000, 2), 5)
    assert len(chosen) == 25
    assert all(i % 2 == 0 for i in chosen)
    cells = {tuple((places[i] * 5).astype(int)) for i in chosen}
    assert len(cells) == 25
    assert spread_out(places, np.array([], dtype=np.int64), 5) == ()
