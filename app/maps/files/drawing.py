"""What every drawing of a map needs, in plain values; pictures and the stand-alone page share it.

Knows the engine's maps and no drawing library. A sheet is complete: who draws it asks nothing more.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from app import version
from app.figures.theme import DARK, Theme
from engine.maps import KINDS, PROJECTIONS, Colour, Map

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
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
    """How the points are coloured: by category or by number."""

    by: str
    caption: str
    """What the colour means, in words."""
    kind: Literal["category", "number"]
    values: npt.NDArray[Any]
    """Per point: a code into `names`, or a number (NaN where unknown)."""
    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    slots: tuple[int, ...] = ()
    """Per name its place in `LINES`, or `GREY`; empty before `grouped`."""

    def grouped(self) -> Paint:
        """Only categories that occur, each with its colour; those without one become one."""
        if self.kind == "number":
            return self
        counts = np.bincount(self.values.astype(np.int64), minlength=len(self.names)).tolist()
        slots = slots_of(self.by, self.names, counts)
        some = [i for i, count in enumerate(counts) if count]
        kept = sorted((i for i in some if slots[i] != GREY), key=lambda i: slots[i])
        rest = [i for i in some if slots[i] == GREY]
        place = np.full(len(self.names), len(kept), dtype=np.int64)
        place[kept] = np.arange(len(kept))
        names = [self.names[i] for i in kept]
        sizes = [int(counts[i]) for i in kept]
        colours = [slots[i] for i in kept]
        if rest:
            names.append(self.names[rest[0]] if len(rest) == 1 else f"{len(rest):,} others")
            sizes.append(sum(counts[i] for i in rest))
            colours.append(GREY)
        codes = place[self.values.astype(np.int64)]
        return Paint(
            self.by, self.caption, "category", codes, tuple(names), tuple(sizes), tuple(colours),
        )  # fmt: skip


@dataclass(frozen=True)
class Sheet:
    """A map, ready to be drawn."""

    title: str
    said: tuple[str, ...]
    """Sentences under the title: how good the picture is, how the points were chosen, what of the
    variance it shows, what it is blind to, and the warnings."""
    foot: str
    """Where it comes from: the provenance line."""
    places: Floats
    """n × dims, clipped to the border: where the points are drawn."""
    kinds: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int32]
    """The token's id, the position in the prompt, or the text's number from 0."""
    outside: Bools
    """Points that lie further out than they are drawn."""
    ranges: tuple[tuple[float, float], ...]
    axis_titles: tuple[str, ...]
    label: Callable[[int], str]
    """The visible form of a point."""
    words: Bools
    """Points whose label is a whole word; some of them get a label in a picture."""
    paint: Paint | None

    @property
    def dims(self) -> int:
        """2 or 3."""
        return int(self.places.shape[1])

    def of_kind(self, name: str) -> npt.NDArray[np.int64]:
        """The indices of the points of a kind, in their order."""
        return np.flatnonzero(self.kinds == KINDS.index(name))

    @property
    def path(self) -> npt.NDArray[np.int64]:
        """The prompt's tokens in reading order."""
        return self.of_kind("prompt")


def provenance(map: Map) -> str:
    """The line that stands in every export: what decides the numbers, readable by people."""
    model, options = map.model, map.options
    revision = "" if model.revision == "local" else f" at {model.revision}"
    frame = "" if options.vocabulary == "alone" else f"frame {options.frame}, "
    projection = PROJECTIONS[options.projection].provenance(options)
    versions = ", ".join(f"{name} {one}" for name, one in map.versions.items())
    calibration = ""
    if options.calibration is not None:
        named = options.calibration
        calibration = f"{options.side} calibration {named.label} ({named.fingerprint}), "
    return (
        f"Lexiscope {version()} · model {model.name}{revision} ({model.fingerprint}) on "
        f"{model.device} in {model.dtype} · layer {map.layer}, {options.state} states, "
        f"{calibration}{options.preprocessing} · {frame}{projection}, {options.dims}-D, seed "
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


def paint_of(colour: Colour) -> Paint:
    """An engine's colour, for a drawing."""
    if colour.values is not None:
        return Paint(colour.by, colour.caption, "number", np.asarray(colour.values))
    codes = np.asarray(colour.codes)
    counts = np.bincount(codes, minlength=len(colour.names)).tolist()
    return Paint(colour.by, colour.caption, "category", codes, colour.names, tuple(counts))


def class_colours(paint: Paint, colours: Theme) -> tuple[str, ...]:
    """One colour per category of a paint that was grouped; what has none of its own is grey."""
    return tuple(
        _EDGE[colours.surface == DARK.surface] if slot == GREY else colours.lines[LINES[slot]]
        for slot in paint.slots
    )


def spread_out(places: Floats, candidates: npt.NDArray[np.int64], cells: int) -> Sequence[int]:
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
