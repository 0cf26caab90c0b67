"""The named regions of a layout: where many points lie close together, at several levels.

A region is a cluster that HDBSCAN finds among the places on the picture (Campello, Moulavi & Sander
2013, scikit-learn's, leaves of its tree), with at least 1/125, 1/400 or 1/1200 of the points. It is
named by its most central words: those of its members that lie nearest to the mean of all of them in
the space that was laid out. A name is therefore always a member; what a region has in common is for
the reader to see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.json_number import Plain
from engine.maps.colours import token_class
from engine.maps.points import ALONE, BASIS, MapPoints
from engine.maps.reduction import UmapResult

NAMES: Final = 3
"""Words that name a region."""
LEAST_LETTERS: Final = 3


@dataclass(frozen=True)
class Region(Plain):
    """A dense part of a layout."""

    level: int
    """0 is the coarsest."""
    x: float
    """Median of its points' places, in the map's units."""
    y: float
    radius: float
    """Median distance of its points from there."""
    count: int
    """Points in it."""
    names: tuple[str, ...]
    """Its most central words, the most central first; pieces where it holds no word."""
    indices: tuple[int, ...]
    """The points that these are."""


def regions_of(result: UmapResult, points: MapPoints) -> tuple[Region, ...]:
    """The regions of a layout in the plane that have a name, coarse ones first, large before small.

    Args:
        result: the layout; without regions there are none.
        points: what was laid out.
    """
    if result.labels is None or result.central is None or result.coordinates.shape[1] != 2:
        return ()
    found = [
        _region(result, points, level, number)
        for level, own in enumerate(result.labels)
        for number in np.unique(own[own >= 0]).tolist()
    ]
    named = [one for one in found if one.names]
    return tuple(sorted(named, key=lambda one: (one.level, -one.count)))


def _region(result: UmapResult, points: MapPoints, level: int, number: int) -> Region:
    assert result.labels is not None
    assert result.central is not None
    places = result.coordinates[result.labels[level] == number].astype(np.float64)
    middle = np.median(places, axis=0)
    central = [i for i in result.central[number].tolist() if i >= 0]
    named = dict(_names(points, central))
    return Region(
        level=level,
        x=float(middle[0]),
        y=float(middle[1]),
        radius=float(np.median(np.linalg.norm(places - middle, axis=1))),
        count=len(places),
        names=tuple(named),
        indices=tuple(named.values()),
    )


def _names(points: MapPoints, central: list[int]) -> Iterator[tuple[str, int]]:
    """Up to three different words and their points; of pieces where there is no word."""
    tokens = [i for i in central if points.kind[i] in (BASIS, ALONE)]
    classes = {i: token_class(points.vocabulary, int(points.row[i])) for i in tokens}
    for wanted in (("word",), ("word piece", "number", "other", "punctuation")):
        seen: dict[str, tuple[str, int]] = {}
        for i in tokens:
            text = points.vocabulary.texts[int(points.row[i])].strip()
            if not text or "<0x" in text:  # bytes that are no text
                continue
            if classes[i] in wanted and (len(text) >= LEAST_LETTERS or wanted != ("word",)):
                seen.setdefault(text.casefold(), (text, i))
        if seen:
            yield from list(seen.values())[:NAMES]
            return
