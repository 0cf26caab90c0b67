"""What the Map page asks of the model, in one turn, and its parts made of the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request

from app.figures.map import LIMIT_3D, figure
from app.figures.theme import payload
from app.maps.answers import (
    Found,
    Neighbourhood,
    everyday,
    motion,
    neighbourhood,
    search,
)
from app.maps.documents import border_points, kinds_of, labels_of
from app.maps.files.drawing import border_sentence, noise_words
from app.maps.files.export import FORMATS
from app.maps.form import bar_of
from app.maps.panels import (
    Badge,
    Link,
    LinkTo,
    Panel,
    SelectedPanel,
    badge_of,
    border_rows,
    found_panel,
    point_panel,
    variance_words,
)
from app.maps.question import MapQuery, MapQuestion
from app.maps.tables import between, changes_part, layers_part
from app.model.explorer import Explorer
from app.web.rendering import as_text, link
from engine.errors import ArtifactError, InputError, LexiscopeError, NonFiniteError, OptionError
from engine.maps import PROJECTIONS, Changes, Cka, Map, MapMaker, MapOptions, Quality
from engine.progress import Check

NEIGHBOURS = 12
HITS = 120


@dataclass(frozen=True)
class MapExport:
    """The same map as files."""

    files: tuple[Link, ...]
    permalink: str
    command: str


def linker(request: Request, query: MapQuery, path: str = "/map") -> LinkTo:
    """Links to the page, or to another address that takes its state, with some of it changed."""
    state = query.model_dump(exclude_defaults=True)
    if query.prompt in (None, ""):
        state["prompt"] = ""

    def to(**changes: Any) -> str:
        return link(request, path, **{**state, **changes})

    return to


@dataclass(frozen=True, eq=False)
class PageAnswer:
    """All that the page asks of the model, computed in one turn."""

    everyday: Mapping[str, list[str]]
    """Words for a first visit: see `app.maps.answers.everyday`."""
    pictures: tuple[Map, ...]
    """The map, and the one beside it."""
    qualities: tuple[Quality, ...]
    """Of each picture; empty where nobody asked."""
    near: Neighbourhood | None
    """Of the point that is open."""
    found: Found | None
    """By the search."""
    changes: Changes | str | None
    """Between the two layers, or why there is nothing to say; None where nobody asked."""
    layers: Cka | str | None
    """How alike they are; the same."""


class PageRefused(Exception):
    """The page's map cannot be drawn, or not yet; the words of a first visit are known."""

    def __init__(self, everyday: Mapping[str, list[str]], error: LexiscopeError) -> None:
        super().__init__(str(error))
        self.everyday = everyday
        self.error = error


REFUSALS = (ArtifactError, InputError, NonFiniteError)
"""What a page says as a sentence in the picture's place."""


def read_page(
    maps: MapMaker,
    options: MapOptions,
    beside: MapOptions | None,
    query: MapQuery,
    *,
    check: Check,
) -> PageAnswer:
    """Everything that the page asks of the model.

    Args:
        options: of the first picture.
        beside: of the second.

    Raises:
        PageRefused: a map cannot be drawn.
    """
    known = everyday(maps.space)
    try:
        return _read(maps, options, beside, query, known, check)
    except REFUSALS as error:
        raise PageRefused(known, error) from error


def _read(
    maps: MapMaker,
    options: MapOptions,
    beside: MapOptions | None,
    query: MapQuery,
    known: Mapping[str, list[str]],
    check: Check,
) -> PageAnswer:
    both = {"a": options} if beside is None else {"a": options, "b": beside}
    pictures, qualities = [], []
    for one in both.values():
        pictures.append(_flat_enough(maps.map(one, check=check)))
        if query.panel == "quality":
            qualities.append(maps.quality(one, check=check))
    chosen, near, found = point_of(query, pictures[0]), None, None
    if chosen is not None and query.of in both:
        near = neighbourhood(
            maps, both[query.of], chosen, NEIGHBOURS, query.metric, query.to, check=check
        )
    if query.find is not None:
        found = search(maps, options, query.find, query.regex, check=check)
    changes = layers = None
    if query.panel == "changes" and between(query):
        changes = find_changes(maps, options, query.compared_layer, check=check)
    if query.panel == "layers":
        layers = find_cka(maps, options, check=check)
    return PageAnswer(known, tuple(pictures), tuple(qualities), near, found, changes, layers)


def _flat_enough(drawn: Map) -> Map:
    """Raises `OptionError` where there are too many points for three dimensions."""
    if drawn.dims == 3 and drawn.n > LIMIT_3D:
        raise OptionError(
            f"a picture in three dimensions takes at most {LIMIT_3D:,} points and this map has"
            f" {drawn.n:,}; choose two dimensions, or fewer tokens under “Which tokens”."
        )
    return drawn


def point_of(query: MapQuery, drawn: Map) -> int | None:
    """The point that is open; before one was: the text's last state, which the next token is
    predicted from."""
    ends = [run.start + run.count - 1 for run in drawn.points.runs if run.kind == "prompt"]
    return query.point if query.point is not None or not ends else ends[-1]


def find_changes(
    maps: MapMaker, options: MapOptions, to: int | None, *, check: Check
) -> Changes | str:
    """What moved to another layer, or by the calibration; a sentence where that cannot be said."""
    try:
        return motion(maps, options, to, check=check)[1]
    except InputError as error:
        return str(error)


def find_cka(maps: MapMaker, options: MapOptions, *, check: Check) -> Cka | str:
    """How alike the layers are; a sentence where that cannot be said."""
    try:
        return maps.cka(options, check=check)
    except InputError as error:
        return str(error)


def parts(
    request: Request, explorer: Explorer, query: MapQuery, answer: PageAnswer
) -> dict[str, Any]:
    """Every part of the page that shows a map."""
    to = linker(request, query)
    beside = query.beside()
    questions = [query.question(), *([] if beside is None else [beside])]
    first, found, near = answer.pictures[0], answer.found, answer.near
    to_point = partial(to, point=point_of(query, first))
    return {
        "panels": tuple(
            _panel(request, query, key, question, answer, to)
            for key, question in zip("ab", questions, strict=False)
        ),
        "bar": bar_of(query, first, explorer.facts()),
        "point": near and point_panel(request, query, near, to_point, first.layers + 1),
        "found": found and found_panel(found, to, HITS),
        "selected": outline(request, query),
        "changes": changes_part(request, query, answer.changes, to),
        "layers": layers_part(request, query, answer.layers, to),
        "export": _export(request, query, to),
    }


def _panel(
    request: Request,
    query: MapQuery,
    key: str,
    question: MapQuestion,
    answer: PageAnswer,
    to: LinkTo,
) -> Panel:
    place = "ab".index(key)
    drawn = answer.pictures[place]
    projection = PROJECTIONS[question.projection]
    fields = question.link_fields()
    badge = Badge(key, link(request, "/map/quality", **fields, key=key), to(panel="quality"))
    if answer.qualities:
        badge = badge_of(answer.qualities[place], badge)
    listed, noise = border_rows(drawn, to, key), drawn.noise_floor
    without_layer = {name: value for name, value in fields.items() if name != "layer"}
    model = drawn.model.fingerprint
    source = {
        "figure": payload(figure(drawn)),
        "dims": drawn.dims,
        "n": drawn.n,
        "layer": drawn.layer,
        "layers": drawn.layers + 1,
        "kinds": kinds_of(drawn),
        "labels": labels_of(drawn),
        "border": {"points": border_points(drawn)},
        "fingerprint": model,
        "projection": projection.name,
        # Straight from one linear picture to the next; a layout has nothing in between.
        "glides": not projection.is_job,
        "query": link(request, "", **without_layer).partition("?")[2],
        "vocabulary": not dict(drawn.points.kinds).keys().isdisjoint(("basis", "alone")),
        # Two pictures share their zoom where a place means the same in both.
        "scale": f"{projection.name} {question.frame} {question.preprocessing} {drawn.dims}",
        "urls": {
            "points": link(request, "/api/v1/map/points"),
            "meta": link(request, "/api/v1/map/meta"),
            "colour": link(request, "/api/v1/map/colour"),
            "regions": None if projection.layout is None else link(request, "/api/v1/map/regions"),
            "vocabulary": link(request, "/api/v1/vocabulary", v=model),
        },
    }
    # What a layout cannot show stands before everything else.
    caution = [] if projection.layout is None else [projection.layout.caution]
    return Panel(
        key=key,
        map=drawn,
        label=f"Map of {drawn.n:,} {'point' if drawn.n == 1 else 'points'}: {drawn.title}",
        badge=badge,
        warnings=tuple(dict.fromkeys([*caution, *drawn.warnings])),
        variance=variance_words(drawn.variance_shown, drawn.variance_of),
        noise="" if noise is None else f"another seed moves a point {noise_words(drawn)}",
        border=border_sentence(drawn),
        border_rows=listed,
        border_more=(
            f"The first {len(listed)} are listed." if drawn.border.count > len(listed) else ""
        ),
        still=link(request, "/api/v1/map", **fields, format="png", colour=query.colour),
        source=source,
        follows=key == "b" and query.compared_layer is None,
        point=query.point if query.of == key else None,
    )


def outline(request: Request, query: MapQuery) -> SelectedPanel:
    """The place of what an outline will hold."""
    fields = query.question().link_fields()
    return SelectedPanel(
        action=link(request, "/map/selected"), csv=link(request, "/map/selected.csv", **fields)
    )


def _export(request: Request, query: MapQuery, to: LinkTo) -> MapExport:
    question = query.question()
    fields = question.link_fields()
    files = tuple(
        Link(one.upper(), link(request, "/api/v1/map", **fields, format=one, colour=query.colour))
        for one in FORMATS
    )
    shown = fields | ({"calibration": "FOLDER"} if question.calibration else {})
    flags = " ".join(f"--{name.replace('_', '-')} {_quoted(value)}" for name, value in
                     shown.items())  # fmt: skip
    return MapExport(files, to(), f"lexiscope map {flags} --out map.html".replace("  ", " "))


def _quoted(value: object) -> str:
    text = as_text(value)
    return text if re.fullmatch(r"[\w./:-]+", text) else "'" + text.replace("'", "'\\''") + "'"
