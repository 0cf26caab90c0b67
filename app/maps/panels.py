"""The panels of the Map page: from the service's plain answers to what the templates show.

Each panel is finished here, down to the text of every number, so that the templates decide
nothing. Every link keeps the page's whole state: it is built by the function that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.web.words import Choice, number

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
SHOWN_TEXT = 90


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
    x: str = ""
    y: str = ""
    place: str = ""


@dataclass(frozen=True)
class BadgeRow:
    """One measure of a picture's quality."""

    name: str
    value: str
    random: str
    help: str


@dataclass(frozen=True)
class Badge:
    """How true a picture is; without a sentence: where to ask for it."""

    key: str
    load: str
    href: str
    sentence: str = ""
    weak: bool = False
    rows: tuple[BadgeRow, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class Panel:
    """One picture with what is said about it."""

    key: str
    """``a`` or ``b``."""
    title: str
    """Short."""
    sentence: str
    """The same in full."""
    label: str
    """For those who do not see the picture."""
    badge: Badge
    warnings: tuple[str, ...]
    how_chosen: str
    variance: str
    blind_to: str
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


def name_of(point: Mapping[str, Any]) -> Name:
    """A point's name; a text's is cut."""
    label = str(point["label"])
    return Name(label if len(label) <= SHOWN_TEXT else label[: SHOWN_TEXT - 1] + "…")


def what_of(point: Mapping[str, Any]) -> str:
    """What a point is, in two words."""
    kind, row = point["kind"], point["row"]
    return {
        "basis": f"token #{point.get('id', row)}",
        "alone": f"token #{point.get('id', row)} by itself",
        "prompt": f"position {row} of the text",
        "text": f"text {row}",
    }[kind]


def percent(share: float | None) -> str:
    """A share as people read it."""
    if share is None:
        return "not known"
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def variance_words(meta: Mapping[str, Any]) -> str:
    """How much of this layer the picture shows, as a sentence."""
    share = meta["variance_shown"]
    if share is None:
        return str(meta["variance_of"]) or "No share of variance can be given for this picture."
    of = meta["variance_of"]
    return f"{percent(share)} of the variance of {of}; the rest lies in directions not drawn."


def badge_of(quality: Mapping[str, Any], badge: Badge) -> Badge:
    """The measures of a picture as rows."""
    chance = quality["random"]
    k = quality["k"]
    rows = tuple(
        BadgeRow(name.format(k=k), _interval(quality[key]), _fixed(chance[key]), help)
        for key, name, help in MEASURES
    )
    if quality["exact"]:
        n = quality["n"]
        caption = "Exact, of one point. " if n == 1 else f"Exact, over all {number(n)} points. "
    else:
        caption = (
            f"From {number(quality['queries'])} points drawn at random against all"
            f" {number(quality['n'])}; in brackets the range that holds 95 % of resamples. "
        )
    caption += "Distances in the model's space are those of the preprocessing in the title."
    return replace(
        badge,
        sentence=str(quality["sentence"]),
        weak=bool(quality["weak"]),
        rows=rows,
        caption=caption,
    )


def _interval(one: Any) -> str:
    if not isinstance(one, Mapping):
        return _fixed(one)
    return f"{_fixed(one['value'])} ({_fixed(one['low'])} to {_fixed(one['high'])})"


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def border_rows(meta: Mapping[str, Any], link: LinkTo, panel: str) -> tuple[Row, ...]:
    """The points beyond the border with their true places."""
    axes = ("x", "y", "z")[: meta["dims"]]
    return tuple(
        Row(
            name_of(point),
            link(point=point["index"], of=panel),
            what=what_of(point),
            place=" / ".join(number(point[name]) for name in axes),
        )
        for point in meta["border"]["points"][:50]
    )


def point_panel(
    found: Mapping[str, Any],
    link: LinkTo,
    *,
    panel: str,
    metric: str,
    to: int | None,
    layers: int,
    links: Sequence[Link],
    basis_link: Callable[[int], str],
) -> PointPanel:
    """A point with its nearest in the model's own space."""
    point = found["point"]
    metrics = tuple(
        Choice(value, label, value == metric, href=link(metric=value))
        for value, label in (("cosine", "cosine"), ("l2", "distance"))
    )
    cosine = metric == "cosine"
    near = tuple(
        Row(
            name_of(one),
            link(point=one["index"]),
            number(1 - one["distance"] if cosine else one["distance"], 3),
            one["on_map"],
            "" if one["kind"] == "basis" else what_of(one),
        )
        for one in found["neighbours"]
    )
    others = tuple(
        Choice(str(layer), str(layer), layer == to, href=link(to=layer)) for layer in range(layers)
    )
    change = None
    if found.get("to"):
        other = found["to"]
        change = ChangeOfPoint(
            _common(_kept(other, found["k"]), found["k"], other["layer"])
            + f" (Jaccard {number(other['jaccard'], 2)}).",
            tuple(name_of(one) for one in other["gained"][:12]),
            tuple(name_of(one) for one in other["lost"][:12]),
        )
    return PointPanel(
        index=point["index"],
        panel=panel,
        token=name_of(point),
        what=what_of(point),
        sentence=str(found.get("sentence", "")),
        unit="cosine" if cosine else "distance",
        metrics=metrics,
        near=near,
        bases=tuple(
            Row(name_of(one), basis_link(one["id"]), number(one["score"]))
            for one in found.get("bases", ())
        ),
        others=others if layers > 1 else (),
        change=change,
        links=tuple(links),
        lit=_lit([one["index"] for one in found["neighbours"]]),
    )


def _common(kept: int, k: int, layer: int) -> str:
    if k == 1:
        return f"The nearest here is {'also' if kept else 'not'} the nearest at layer {layer}"
    verb = "is" if kept == 1 else "are"
    return f"Of the {k} nearest here, {kept} {verb} also among the {k} nearest at layer {layer}"


def _kept(other: Mapping[str, Any], k: int) -> int:
    return int(k - len(other["lost"]))


def _lit(indices: Sequence[int]) -> str:
    return ",".join(str(i) for i in indices)


def found_panel(hits: Mapping[str, Any], link: LinkTo) -> FoundPanel:
    """What a search found."""
    rows = tuple(
        Row(name_of(one), link(point=one["index"], of="a"), what=what_of(one))
        for one in hits["rows"]
    )
    return FoundPanel(str(hits["sentence"]), rows, _lit(hits["indices"]), link(find=None))


def selected_panel(
    answer: Mapping[str, Any], link: LinkTo, empty: SelectedPanel, polygon: str
) -> SelectedPanel:
    """What lies in an outline."""
    rows = tuple(
        Row(name_of(one), link(point=one["index"], of="a"), what=what_of(one),
            x=number(one["x"]), y=number(one["y"]))
        for one in answer["rows"]
    )  # fmt: skip
    return replace(
        empty,
        rows=rows,
        sentence=str(answer["sentence"]),
        polygon=polygon,
        lit=_lit(answer["indices"]),
    )
