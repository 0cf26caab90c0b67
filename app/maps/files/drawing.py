"""What every drawing of a map needs; pictures and the stand-alone page share it.

Knows the engine's maps and no drawing library.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app import version
from app.figures.theme import DARK, Theme
from engine.maps import KINDS, PROJECTIONS, Colour, Map, Quality
from engine.maps.arrays import Bools, Floats, Longs

LINES = (0, 5, 2, 3, 4, 6, 7)
"""The theme's line colours that categories take, in order; the second is left to the prompt."""
GREY = -1
"""The slot of what shares one grey."""
_EDGE = ("#858f96", "#6d7982")
"""That grey on light and dark, as ``--edge`` in the style sheet."""
_CLASSES = ("word", "word piece", "number", "punctuation", "text", "byte", "special")
_FIXED = {"class": _CLASSES, "kind": KINDS}
"""Categories whose colour is the same on every map; of theirs, what is not named is grey."""


def slots_of(by: str, names: Sequence[str], counts: Sequence[int]) -> tuple[int, ...]:
    """The colour of each category, as a place in `LINES` or `GREY`; pages and files share it.

    Kinds of tokens have a fixed one. Of other categories the largest have one, in their own order.

    Args:
        by: what colours the points.
        names: of the categories.
        counts: points in each.
    """
    fixed = _FIXED.get(by)
    if fixed is not None:
        return tuple(fixed.index(name) if name in fixed else GREY for name in names)
    found = [i for i in range(len(names)) if counts[i]]
    largest = sorted(found, key=lambda i: (-counts[i], i))[: len(LINES)]
    place = {code: slot for slot, code in enumerate(sorted(largest))}
    return tuple(place.get(code, GREY) for code in range(len(names)))


@dataclass(frozen=True)
class Paint:
    """A colour as it is drawn: categories that occur, or numbers."""

    caption: str
    """What the colour means, in words."""
    values: npt.NDArray[Any]
    """Per point: a code into `names`, or a number (NaN where unknown)."""
    names: tuple[str, ...] = ()
    """Empty where there are numbers."""
    counts: tuple[int, ...] = ()
    slots: tuple[int, ...] = ()
    """Per name its place in `LINES`, or `GREY`."""


def paint_of(colour: Colour) -> Paint:
    """An engine's colour, for a drawing: categories without a colour of their own become one."""
    if colour.codes is None:
        return Paint(colour.caption, np.asarray(colour.values))
    counts = np.bincount(colour.codes, minlength=len(colour.names)).tolist()
    slots = slots_of(colour.by, colour.names, counts)
    some = [i for i, count in enumerate(counts) if count]
    kept = sorted((i for i in some if slots[i] != GREY), key=lambda i: slots[i])
    rest = [i for i in some if slots[i] == GREY]
    place = np.full(len(colour.names), len(kept), dtype=np.int64)
    place[kept] = np.arange(len(kept))
    names = [colour.names[i] for i in kept]
    sizes = [counts[i] for i in kept]
    lines = [slots[i] for i in kept]
    if rest:
        names.append(colour.names[rest[0]] if len(rest) == 1 else f"{len(rest):,} others")
        sizes.append(sum(counts[i] for i in rest))
        lines.append(GREY)
    return Paint(colour.caption, place[colour.codes], tuple(names), tuple(sizes), tuple(lines))


@dataclass(frozen=True)
class Drawing:
    """A map with what a picture says about it."""

    map: Map
    colour: Colour | None
    quality: Quality | None

    @property
    def paint(self) -> Paint | None:
        """How its points are coloured."""
        return paint_of(self.colour) if self.colour else None

    @property
    def said(self) -> tuple[str, ...]:
        """Sentences under the title: how good the picture is, how the points were chosen, what of
        the variance it shows, what it is blind to, and the warnings."""
        badge = self.quality.sentence if self.quality else ""
        return tuple(one for one in (badge, self._chosen(), *self.map.warnings) if one)

    def _chosen(self) -> str:
        """Which points these are, how much of them the picture shows, and what it cannot show."""
        drawn = self.map
        parts = [f"On the map: {drawn.how_chosen}"]
        if drawn.variance_shown is not None:
            share = f"{100 * drawn.variance_shown:.1f} %"
            parts.append(f"It shows {share} of the variance of {drawn.variance_of}")
        if drawn.noise_floor is not None:
            parts.append(f"Between two seeds a point moves by {noise_words(drawn)} (median)")
        parts += [drawn.blind_to, border_sentence(drawn)]
        return " ".join(f"{one.rstrip('.')}." for one in parts if one)


def noise_words(map: Map) -> str:
    """How far a point moves between two seeds, and how far that differs from pair to pair."""
    floors = map.noise_floors
    spread = f", {min(floors):.2f} to {max(floors):.2f} in {len(floors)} pairs"
    return f"{map.noise_floor:.2f} map radii{spread if len(floors) > 1 else ''}"


def provenance(map: Map) -> str:
    """The line that stands in every export: what decides the numbers, readable by people."""
    model, options = map.model, map.options
    revision = "" if model.revision == "local" else f" at {model.revision}"
    frame = "" if options.vocabulary == "alone" else f"frame {options.frame_words}, "
    projection = PROJECTIONS[options.projection].provenance(options)
    versions = ", ".join(f"{name} {one}" for name, one in map.versions.items())
    calibration = ""
    if options.calibration is not None:
        named = options.calibration
        calibration = f"{options.side} calibration {named.label} ({named.fingerprint}), "
    lens = "" if options.lens == "none" else f"{options.lens} lens, "
    return (
        f"Lexiscope {version()} · model {model.name}{revision} ({model.fingerprint}) on "
        f"{model.device} in {model.dtype} · layer {map.layer}, {options.state} states, "
        f"{lens}{calibration}{options.preprocessing} · {frame}{projection}, {options.dims}-D, seed "
        f"{options.seed} · {versions} · map {map.fingerprint}"
    )


def border_sentence(drawn: Map) -> str:
    """How many points lie beyond the border; empty where none does."""
    count = drawn.border.count
    if count == 0:
        return ""
    verb = "point lies" if count == 1 else "points lie"
    return (
        f"{count:,} of {drawn.n:,} {verb} further out than the picture reaches and "
        f"{'is' if count == 1 else 'are'} drawn at its border."
    )


def class_colours(paint: Paint, colours: Theme) -> tuple[str, ...]:
    """One colour per category of a paint; what has none of its own is grey."""
    return tuple(
        _EDGE[colours.surface == DARK.surface] if slot == GREY else colours.lines[LINES[slot]]
        for slot in paint.slots
    )


def whole_words(drawn: Map) -> Bools:
    """Tokens that are whole words of three letters or more."""
    points = drawn.points
    vocabulary = points.vocabulary
    out = np.zeros(len(points), dtype=bool)
    for index in np.flatnonzero(points.kind <= KINDS.index("alone")):
        token = int(points.row[index])
        text = vocabulary.texts[token]
        whole = text[:1] == " " and text[1:].isalpha() and len(text) > 3
        out[index] = whole and vocabulary.words[token]
    return out


def spread_out(places: Floats, candidates: Longs, cells: int) -> Sequence[int]:
    """A few points spread over the map: in each cell of a grid the one nearest to its centre.

    Args:
        places: n × 2.
        candidates: indices to choose from.
        cells: cells along each side.
    """
    if len(candidates) == 0:
        return ()
    at = places[candidates, :2].astype(np.float64)
    low, high = at.min(0), at.max(0)
    size = np.where(high > low, high - low, 1.0)
    scaled = np.clip((at - low) / size * cells, 0, cells - 1e-9)
    cell = scaled.astype(np.int64)
    distance = ((scaled - cell - 0.5) ** 2).sum(1)
    key = cell[:, 0] * cells + cell[:, 1]
    order = np.lexsort((distance, key))
    _, first = np.unique(key[order], return_index=True)
    return [int(candidates[order[i]]) for i in first]


def packed(array: npt.NDArray[Any]) -> str:
    """An array's bytes, little-endian, in base64."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(np.ascontiguousarray(little).tobytes()).decode()


def unpacked(text: str, dtype: str) -> npt.NDArray[Any]:
    """The array behind `packed`; a text that is none is a `ValueError`."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=np.dtype(dtype))
