"""The Map page's parts: each from one answer of the service, ready for its template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request

from app.figures.map import LIMIT_3D, figure
from app.figures.theme import payload
from app.maps.api import MapQuestion, options_of
from app.maps.form import bar_of
from app.maps.panels import (
    Badge,
    FoundPanel,
    Link,
    LinkTo,
    Panel,
    PointPanel,
    SelectedPanel,
    badge_of,
    border_rows,
    found_panel,
    point_panel,
    variance_words,
)
from app.maps.question import MapQuery
from app.maps.service import MapService
from app.maps.tables import ChangesPanel, LayersPanel, changes_panel, layers_panel
from app.model.explorer import Explorer
from app.web.rendering import link
from engine.errors import InputError, OptionError
from engine.maps import MapOptions

NEIGHBOURS = 12
MOVERS = 15
HITS = 120
FILES = ("json", "csv", "npz", "html", "svg", "png")


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


async def parts(request: Request, explorer: Explorer, query: MapQuery) -> dict[str, Any]:
    """Every part of the page that shows a map."""
    maps = MapService(explorer)
    to = linker(request, query)
    questions = {"a": query.question()}
    beside = query.beside()
    if beside is not None:
        questions["b"] = beside
    options = {key: await options_of(request, one) for key, one in questions.items()}
    panels = []
    for key, question in questions.items():
        meta = await maps.meta(request, options[key])
        follows = key == "b" and not (query.compare or "").startswith("layer:")
        panels.append(
            await _panel(request, maps, query, key, question, options[key], meta, follows, to)
        )
    metas = [panel.source for panel in panels]
    # Nothing was opened yet: the text's last state, which the next token is predicted from.
    ends = [run["start"] + run["count"] - 1 for run in metas[0]["kinds"] if run["kind"] == "prompt"]
    chosen = query.point if query.point is not None or not ends else ends[-1]
    return {
        "panels": tuple(panels),
        "bar": bar_of(query, metas[0], explorer.facts(), to),
        "point": await _point(
            request, maps, query, chosen, options, partial(to, point=chosen), metas[0]["layers"]
        ),
        "found": await _found(request, maps, query, options["a"], to),
        "selected": outline(request, query),
        "changes": await changes_part(request, maps, query, options["a"], to),
        "layers": await layers_part(request, maps, query, options["a"], to),
        "export": _export(request, query, to),
    }


async def _panel(
    request: Request,
    maps: MapService,
    query: MapQuery,
    key: str,
    question: MapQuestion,
    options: MapOptions,
    meta: dict[str, Any],
    follows: bool,
    to: LinkTo,
) -> Panel:
    if meta["dims"] == 3 and meta["n"] > LIMIT_3D:
        raise OptionError(
            f"a picture in three dimensions takes at most {LIMIT_3D:,} points and this map has"
            f" {meta['n']:,}; choose two dimensions, or fewer tokens under “Which tokens”."
        )
    fields = question.link_fields()
    badge = Badge(key, link(request, "/map/quality", **fields, key=key), to(panel="quality"))
    if query.panel == "quality":
        quality = await maps.quality(request, options)
        badge = badge_of(quality.to_dict(), badge)
    border = meta["border"]
    listed = border_rows(meta, to, key)
    noise = meta.get("noise_floor")
    without_layer = {name: value for name, value in fields.items() if name != "layer"}
    source = {
        "figure": payload(figure(meta)),
        **{name: meta[name] for name in ("dims", "n", "layer", "layers", "kinds", "labels")},
        "border": {"points": border["points"]},
        "fingerprint": meta["model"]["fingerprint"],
        "projection": question.projection,
        "query": link(request, "", **without_layer).partition("?")[2],
        "vocabulary": any(run["kind"] in ("basis", "alone") for run in meta["kinds"]),
        # Two pictures share their zoom where a place means the same in both.
        "scale": f"{question.projection} {question.frame} {question.preprocessing} {meta['dims']}",
        "urls": {
            "points": link(request, "/api/v1/map/points"),
            "meta": link(request, "/api/v1/map/meta"),
            "colour": link(request, "/api/v1/map/colour"),
            "vocabulary": link(request, "/api/v1/vocabulary", v=meta["model"]["fingerprint"]),
        },
    }  # fmt: skip
    return Panel(
        key=key,
        title=str(meta["heading"]),
        sentence=str(meta["title"]),
        label=f"Map of {meta['n']:,} {'point' if meta['n'] == 1 else 'points'}: {meta['title']}",
        badge=badge,
        warnings=_warnings(question, meta),
        how_chosen=str(meta["how_chosen"]),
        variance=variance_words(meta),
        blind_to=str(meta["blind_to"]),
        noise="" if noise is None else f"another seed moves a point {noise:.2f} map radii",
        border=str(border["sentence"]),
        border_rows=listed,
        border_more=f"The first {len(listed)} are listed." if border["count"] > len(listed) else "",
        still=link(request, "/api/v1/map", **fields, format="png", colour=query.colour),
        source=source,
        follows=follows,
        point=query.point if query.of == key else None,
    )


def _warnings(question: MapQuestion, meta: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be read before the picture; what UMAP cannot show stands first."""
    own = [str(one) for one in meta["warnings"]]
    if question.projection != "umap":
        return tuple(own)
    return tuple(dict.fromkeys([str(meta["blind_to"]).partition(". ")[0].rstrip(".") + ".", *own]))


async def _point(
    request: Request,
    maps: MapService,
    query: MapQuery,
    index: int | None,
    options: dict[str, MapOptions],
    to: LinkTo,
    layers: int,
) -> PointPanel | None:
    if index is None or query.of not in options:
        return None
    chosen = options[query.of]
    found = await maps.neighbours(request, chosen, index, NEIGHBOURS, query.metric, query.to)
    point = found["point"]
    links = []
    if point["kind"] in ("basis", "alone"):
        links.append(Link("Its bases", link(request, "/bases", token=f"#{point['id']}")))
    elif point["kind"] == "prompt":
        cell = f"{chosen.layer if chosen.layer >= 0 else layers - 1},{point['row']}"
        where = link(request, "/", prompt=chosen.prompt, cell=cell)
        links.append(Link("In the trace", where))
    elif point["kind"] == "text":
        links.append(Link("Trace this text", link(request, "/", prompt=point["text"])))
    return point_panel(
        found,
        to,
        panel=query.of,
        metric=query.metric,
        to=query.to,
        layers=layers if point["kind"] != "basis" else 1,
        links=links,
        basis_link=lambda token: link(request, "/bases", token=f"#{token}"),
    )


async def _found(
    request: Request, maps: MapService, query: MapQuery, options: MapOptions, to: LinkTo
) -> FoundPanel | None:
    if query.find is None:
        return None
    hits = await maps.search(request, options, query.find, regex=query.regex, limit=HITS)
    return found_panel(hits, to)


def outline(request: Request, query: MapQuery) -> SelectedPanel:
    """The place of what an outline will hold."""
    fields = query.question().link_fields()
    return SelectedPanel(
        action=link(request, "/map/selected"), csv=link(request, "/map/selected.csv", **fields)
    )


async def changes_part(
    request: Request, maps: MapService, query: MapQuery, options: MapOptions, to: LinkTo
) -> ChangesPanel | None:
    """What moved between the two layers, or where to ask for it."""
    if query.compared_calibration is not None:
        other = None
        between = "between before and after the calibration"
    elif query.compare is not None and query.compare.startswith("layer:"):
        other = int(query.compare.partition(":")[2])
        between = f"between this layer and layer {other}"
    else:
        return None
    if query.panel != "changes":
        state = query.model_copy(update={"compare": None}).question().link_fields()
        load = link(request, "/map/changes", **state, compare=query.compare)
        return ChangesPanel(between, load=load, href=to(panel="changes") + "#changes")
    try:
        found = await maps.changes(request, options, other, MOVERS)
    except InputError as error:
        return ChangesPanel(between, problem=str(error))
    return changes_panel(found, to, between)


async def layers_part(
    request: Request, maps: MapService, query: MapQuery, options: MapOptions, to: LinkTo
) -> LayersPanel:
    """How alike the layers are, or where to ask for it."""
    if query.panel != "layers":
        fields = query.question().link_fields()
        load = link(request, "/map/layers", **fields)
        return LayersPanel(load=load, href=to(panel="layers") + "#layers")
    try:
        found = await maps.cka(request, options)
    except InputError as error:
        return LayersPanel(problem=str(error))
    return layers_panel(found, partial(to, panel=None))


def _export(request: Request, query: MapQuery, to: LinkTo) -> MapExport:
    question = query.question()
    fields = question.link_fields()
    files = tuple(
        Link(one.upper(), link(request, "/api/v1/map", **fields, format=one, colour=query.colour))
        for one in FILES
    )
    shown = fields | ({"calibration": "FOLDER"} if question.calibration else {})
    flags = " ".join(f"--{name.replace('_', '-')} {_quoted(value)}" for name, value in
                     shown.items())  # fmt: skip
    return MapExport(files, to(), f"lexiscope map {flags} --out map.html".replace("  ", " "))


def _quoted(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if re.fullmatch(r"[\w./:-]+", text) else "'" + text.replace("'", "'\\''") + "'"
