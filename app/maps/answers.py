"""The engine's maps as pages and the API need them: its own values, with what must be looked up.

Each function runs on the device thread, because a map and its labels can be large, and takes the
maker of maps first (:mod:`app.maps.turn`). :mod:`app.maps.documents` turns the answers into JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from engine import LatentSpace
from engine.errors import OptionError
from engine.maps import Changes, Map, MapMaker, MapOptions, Neighbours
from engine.maps.arrays import Floats, Longs
from engine.maps.points import Space
from engine.maps.selection import split_words, word_groups
from engine.progress import Check

Polygon = tuple[tuple[float, float], ...]


def draft_of(space: LatentSpace, *, options: MapOptions, check: Check) -> Floats | None:
    """Where the points of a layout under way were lately (n × dims)."""
    return space.maps.draft(options)


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A point's neighbours in the model's own space, with what the picture makes of them."""

    map: Map
    found: Neighbours
    on_map: frozenset[int]
    """The points that are nearest on the picture, as many as were looked for."""

    @property
    def sentence(self) -> str:
        """How many of the neighbours are near on the picture as well."""
        near = self.found.neighbours
        kept = sum(one.index in self.on_map for one in near)
        if not np.isfinite(self.map.coordinates[self.found.index]).all():
            return "This state holds NaN or infinity, so it has no neighbours."
        if len(near) == 1:
            return f"This neighbour is {'' if kept else 'not '}the nearest on the map."
        return (
            f"{kept} of these {len(near)} neighbours {'is' if kept == 1 else 'are'} among the"
            f" {len(near)} points that are nearest on the map."
        )


def neighbourhood(
    maps: MapMaker,
    options: MapOptions,
    index: int,
    k: int,
    metric: str,
    to: int | None,
    *,
    check: Check,
) -> Neighbourhood:
    """A point's nearest in the model's own space, and what another layer makes of them."""
    found = maps.neighbours(options, index, k=k, metric=metric, layer_b=to, check=check)
    drawn = maps.map(options, check=check)
    return Neighbourhood(drawn, found, _nearest_drawn(drawn, index, len(found.neighbours)))


def _nearest_drawn(drawn: Map, index: int, k: int) -> frozenset[int]:
    """The k points that are nearest on the picture, the point itself left out."""
    away = ((drawn.coordinates - drawn.coordinates[index]) ** 2).sum(1)
    away[np.isnan(away)] = np.inf
    away[index] = np.inf
    k = min(k, len(away) - 1)
    return frozenset(np.argpartition(away, k - 1)[:k].tolist()) if k > 0 else frozenset()


def motion(
    maps: MapMaker, options: MapOptions, to: int | None, *, check: Check
) -> tuple[Map, Changes]:
    """A map, and what moves from its layer to another one; None: from before its calibration."""
    if to is not None:
        other = replace(options, layer=to)
    elif options.calibration is not None:
        options, other = replace(options, side="before"), replace(options, side="after")
    else:
        raise OptionError(
            "say which layer is compared (to), or name a calibration to compare before and"
            " after it."
        )
    found = maps.changes(options, other, check=check)
    return maps.map(options, check=check), found


@dataclass(frozen=True, eq=False)
class Found:
    """Some points of a map."""

    map: Map
    indices: Longs
    what: str
    """What is said of them: ``found``."""
    exact: int | None = None
    """The point whose text is what was looked for, or the only one; None where there is none."""

    def sentence(self, limit: int) -> str:
        """How many there are, and how many of them are listed."""
        count, shown = len(self.indices), min(len(self.indices), limit)
        rest = f"; the first {shown:,} are listed" if shown < count else ""
        points = "point" if self.map.n == 1 else "points"
        return f"{count:,} of {self.map.n:,} {points} {self.what}{rest}."


def search(maps: MapMaker, options: MapOptions, text: str, regex: bool, *, check: Check) -> Found:
    """Points whose text holds these characters or fits this expression."""
    indices = maps.search(options, text, regex=regex, check=check)
    drawn = maps.map(options, check=check)
    if not regex:
        indices = _nearest_spelling(drawn, indices, text)
    exact = None
    if len(indices):
        first = int(indices[0])
        same = drawn.points.text(first).strip().casefold() == text.strip().casefold()
        exact = first if len(indices) == 1 or (same and not regex) else None
    return Found(drawn, indices, "found", exact)


def _nearest_spelling(drawn: Map, indices: Longs, text: str) -> Longs:
    """What was typed comes first, as it was typed before in other case, whole words that begin
    with it next, then what else holds it; each in the order of the points."""
    wanted = text.strip()

    def rank(i: int) -> int:
        own = drawn.points.text(i)
        bare = own.strip()
        if bare == wanted:
            return 0 if own == text or own[:1].isspace() else 1
        if bare.casefold() == wanted.casefold():
            return 2
        return 3 if bare.casefold().startswith(wanted.casefold()) else 4

    order = np.argsort([rank(i) for i in indices.tolist()], kind="stable")
    return indices[order]


def inside(maps: MapMaker, options: MapOptions, polygon: Polygon, *, check: Check) -> Found:
    """Points that are drawn inside a polygon."""
    indices = maps.inside(options, polygon, check=check)
    return Found(maps.map(options, check=check), indices, "lie inside the outline")


WORDS: tuple[tuple[str, str], ...] = (
    ("animals", "dog cat horse bird fish cow sheep pig lion bear"),
    ("numbers", "two three four five six seven eight nine ten"),
    ("months", "January February March April June July August September October"),
    ("family", "mother father sister brother daughter son wife husband uncle aunt cousin"),
    ("places", "France Germany England Italy Spain Russia China Japan India America Africa Europe"),
)
"""Everyday words that a first visit draws, those of them that are single tokens of the model."""


def everyday(space: Space) -> Mapping[str, list[str]]:
    """Of each group of words those that are single tokens of the model, in their order."""
    return {name: [one for one in some.split() if _is_token(space, one)] for name, some in WORDS}


def _is_token(space: Space, word: str) -> bool:
    if split_words(space, word):
        return False
    found = list(word_groups(space, word))
    # A text in two pieces may be found by a special name; only the word itself counts.
    return space.vocabulary.texts[found[0]].strip() == word
