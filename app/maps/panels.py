"""The panels of the Map page: from answers about maps to what the templates show.

Each panel is finished here, down to the text of every number, so that the templates decide
nothing. Every link keeps the page's whole state: it is built by the function that is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request

from app.maps.answers import Found, Neighbourhood
from app.maps.documents import INDICES
from app.maps.question import MapQuery
from app.web.rendering import link
from app.web.words import Choice, number
from engine.maps import Map, Point, Quality
from engine.maps.quality import Estimate, count_words

LinkTo = Callable[..., str]
"""The page's link with some of its state changed."""

MEASURES = (
    (
        "kept",
        "true neighbours kept, of {k}",
        "How many of a point's nearest neighbours in the model are among its nearest here.",
    ),
    (
        "trustworthiness",
        "trustworthiness",
        "1: no point is a neighbour here that is none in the model.",
    ),
    ("continuity", "continuity", "1: no true neighbour has been torn away here."),
    (
        "rank_correlation",
        "rank correlation of distances",
        "1: distances here are in the same order as in the model.",
    ),
)
"""Field of the quality, name, and what it means."""
GOOD_TRUST = 0.9
"""Trustworthiness from which on three dots are given."""
SHOWN_TEXT = 90
LINKED = 400
"""Characters of a text that a link to its trace holds."""
BORDER_ROWS = 50
"""Points at the border that the page lists."""
METRICS = (("cosine", "cosine"), ("l2", "distance"))


@dataclass(frozen=True)
class Name:
    """A point's name, as the token macro writes it."""

    label: str
    piece: str | None = None


@dataclass(frozen=True)
class Row:
    """A point in a list."""

    token: Name
    href: str
    score: str = ""
    near: bool | None = None
    """Whether it is near on the picture as well; None where that is not known."""
    what: str = ""
    place: str = ""


@dataclass(frozen=True)
class Badge:
    """How true a picture is; without a sentence: where to ask for it."""

    key: str
    load: str
    href: str
    sentence: str = ""
    weak: bool = False
    short: str = "Not measured"
    """The same in a few words: how many neighbours it keeps, and how many by chance."""
    dots: int = 0
    """How far to trust it, of three: `trust_dots`."""
    rows: tuple[tuple[str, str, str, str], ...] = ()
    """Of each measure its name, its value, that of a random picture, and what it means."""
    caption: str = ""


@dataclass(frozen=True)
class Panel:
    """One picture with what is said about it."""

    key: str
    """``a`` or ``b``."""
    map: Map
    label: str
    """For those who do not see the picture."""
    badge: Badge
    warnings: tuple[str, ...]
    variance: str
    noise: str
    border: str
    border_rows: tuple[Row, ...]
    border_more: str
    still: str
    source: Mapping[str, Any]
    follows: bool
    """Whether the layer slider moves it."""
    point: int | None


@dataclass(frozen=True)
class ChangeOfPoint:
    """What another layer makes of a point's neighbours."""

    sentence: str
    gained: tuple[Name, ...]
    lost: tuple[Name, ...]


@dataclass(frozen=True)
class Link:
    """A button that leads somewhere."""

    label: str
    href: str


@dataclass(frozen=True)
class PointPanel:
    """One point in the model's own space."""

    index: int
    panel: str
    token: Name
    what: str
    sentence: str
    unit: str
    metrics: tuple[Choice, ...]
    near: tuple[Row, ...]
    bases: tuple[Row, ...]
    others: tuple[Choice, ...]
    change: ChangeOfPoint | None
    links: tuple[Link, ...]
    lit: str


@dataclass(frozen=True)
class FoundPanel:
    """What a search has lit."""

    sentence: str
    rows: tuple[Row, ...]
    lit: str
    clear: str
    fly: int | None
    """The point that is flown to: what was looked for, or the only one; None: there is none."""


@dataclass(frozen=True)
class SelectedPanel:
    """What lies in an outline; `rows` is None before one was drawn."""

    action: str
    csv: str
    rows: tuple[Row, ...] | None = None
    sentence: str = ""
    problem: str = ""
    polygon: str = ""
    lit: str = ""


def name_of(label: str) -> Name:
    """A point's name by its label; a text's is cut."""
    return Name(label if len(label) <= SHOWN_TEXT else label[: SHOWN_TEXT - 1] + "…")


def what_of(point: Point) -> str:
    """What a point is, in two words."""
    return {
        "basis": f"token #{point.row}",
        "alone": f"token #{point.row} by itself",
        "prompt": f"position {point.row} of the text",
        "text": f"text {point.row}",
    }[point.kind]


def percent(share: float | None) -> str:
    """A share as people read it."""
    if share is None:
        return "not known"
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def variance_words(share: float | None, of: str) -> str:
    """How much of this layer the picture shows, as a sentence."""
    if share is None:
        return of or "No share of variance can be given for this picture."
    return f"{percent(share)} of the variance of {of}; the rest lies in directions not drawn."


def badge_of(quality: Quality, badge: Badge) -> Badge:
    """The measures of a picture as rows."""
    k = quality.k
    rows = tuple(
        (name.format(k=k), _interval(getattr(quality, key)), _fixed(quality.random[key]), help)
        for key, name, help in MEASURES
    )
    if quality.exact:
        n = quality.n
        caption = "Exact, of one point. " if n == 1 else f"Exact, over all {number(n)} points. "
    else:
        caption = (
            f"From {number(quality.queries)} points drawn at random against all"
            f" {number(quality.n)}; in brackets the range that holds 95 % of resamples. "
        )
    caption += "Distances in the model's space are those of the preprocessing in the title."
    return replace(
        badge,
        sentence=quality.sentence,
        weak=quality.weak,
        short=_short(quality),
        dots=trust_dots(quality),
        rows=rows,
        caption=caption,
    )


def trust_dots(quality: Quality) -> int:
    """How far a picture may be trusted, in dots: one for a weak one; three where it keeps half of
    the neighbours, and trustworthiness is 0.9; else two. None where there is nothing to measure."""
    if quality.k < 1:
        return 0
    if quality.weak:
        return 1
    good = quality.kept.value >= quality.k / 2 and quality.trustworthiness.value >= GOOD_TRUST
    return 3 if good else 2


def _short(quality: Quality) -> str:
    if quality.k < 1:
        return "nothing to measure"
    kept, chance = count_words(quality.kept.value), count_words(quality.random["kept"])
    return f"{kept} of {quality.k} neighbours kept (chance {chance})"


def _interval(one: Estimate | float) -> str:
    if not isinstance(one, Estimate):
        return _fixed(one)
    return f"{_fixed(one.value)} ({_fixed(one.low)} to {_fixed(one.high)})"


def _fixed(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def border_rows(drawn: Map, to: LinkTo, panel: str) -> tuple[Row, ...]:
    """The points beyond the border with their true places."""
    return tuple(
        Row(
            name_of(point.label),
            to(point=point.index, of=panel),
            what=what_of(point),
            place=" / ".join(number(float(x)) for x in drawn.coordinates[point.index]),
        )
        for point in map(drawn.points.point, drawn.border.indices[:BORDER_ROWS].tolist())
    )


def point_panel(
    request: Request, query: MapQuery, answer: Neighbourhood, to: LinkTo, layers: int
) -> PointPanel:
    """A point with its nearest in the model's own space.

    Args:
        answer: about the point.
        layers: how many the model has.
    """
    found, points = answer.found, answer.map.points
    point = points.point(found.index)
    metrics = tuple(
        Choice(value, label, value == found.metric, href=to(metric=value))
        for value, label in METRICS
    )
    cosine = found.metric == "cosine"
    near = tuple(
        Row(
            name_of(one.label),
            to(point=one.index),
            number(1 - one.distance if cosine else one.distance, 3),
            one.index in answer.on_map,
            "" if one.kind == "basis" else what_of(points.point(one.index)),
        )
        for one in found.neighbours
    )
    others = tuple(
        Choice(str(layer), str(layer), layer == query.to, href=to(to=layer))
        for layer in range(layers)
    )
    change = None
    if found.layer_b is not None:
        change = ChangeOfPoint(
            _common(found.k - len(found.lost), found.k, found.layer_b)
            + f" (Jaccard {number(found.jaccard, 2)}).",
            tuple(name_of(one.label) for one in found.gained[:12]),
            tuple(name_of(one.label) for one in found.lost[:12]),
        )
    return PointPanel(
        index=point.index,
        panel=query.of,
        token=name_of(point.label),
        what=what_of(point),
        sentence=answer.sentence,
        unit="cosine" if cosine else "distance",
        metrics=metrics,
        near=near,
        bases=tuple(
            Row(name_of(one.label), _bases(request, one.id), number(one.score))
            for one in found.bases
        ),
        others=() if point.kind == "basis" else others,
        change=change,
        links=_links(request, answer.map, point),
        lit=_lit(one.index for one in found.neighbours),
    )


def _bases(request: Request, token: int | None) -> str:
    return link(request, "/bases", token=f"#{token}")


def _links(request: Request, drawn: Map, point: Point) -> tuple[Link, ...]:
    """Where else a point is shown."""
    if point.kind == "prompt":
        cell = f"{drawn.layer},{point.row}"
        where = link(request, "/", prompt=drawn.options.prompt, cell=cell)
        return (Link("In the trace", where),)
    if point.kind == "text":
        return (Link("Trace this text", link(request, "/", prompt=point.text[:LINKED])),)
    return (Link("Its bases", _bases(request, point.id)),)


def _common(kept: int, k: int, layer: int) -> str:
    if k == 1:
        return f"The nearest here is {'also' if kept else 'not'} the nearest at layer {layer}"
    verb = "is" if kept == 1 else "are"
    return f"Of the {k} nearest here, {kept} {verb} also among the {k} nearest at layer {layer}"


def _lit(indices: Iterable[int]) -> str:
    return ",".join(str(i) for i in indices)


def _rows(found: Found, to: LinkTo, limit: int) -> Iterator[tuple[Point, Row]]:
    for point in map(found.map.points.point, found.indices[:limit].tolist()):
        yield point, Row(name_of(point.label), to(point=point.index, of="a"), what=what_of(point))


def found_panel(found: Found, to: LinkTo, limit: int) -> FoundPanel:
    """What a search found."""
    rows = tuple(row for _, row in _rows(found, to, limit))
    lit = _lit(found.indices[:INDICES].tolist())
    return FoundPanel(found.sentence(limit), rows, lit, to(find=None), found.exact)


def selected_panel(
    found: Found, to: LinkTo, empty: SelectedPanel, polygon: str, limit: int
) -> SelectedPanel:
    """What lies in an outline."""
    return replace(
        empty,
        rows=tuple(row for _, row in _rows(found, to, limit)),
        sentence=found.sentence(limit),
        polygon=polygon,
        lit=_lit(found.indices[:INDICES].tolist()),
    )
