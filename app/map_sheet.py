"""What every drawing of a map needs, in plain values; pictures and the stand-alone page share it.

Knows the engine's map and no drawing library. A sheet is complete: who draws it asks nothing more.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from app import version
from app.figures.theme import Theme

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
KINDS = ("basis", "alone", "prompt", "text")
"""What a point can be, by its number in ``kinds``."""
KIND_NAMES = {
    "basis": "tokens (bases)",
    "alone": "tokens (each alone as the prompt)",
    "prompt": "tokens of the prompt",
    "text": "texts (last position)",
}
OTHERS = "the rest"
MOST_CATEGORIES = 8
"""Colours that can be told apart; smaller categories share one."""


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
    unit: str = ""

    def grouped(self, limit: int = MOST_CATEGORIES) -> Paint:
        """At most `limit` categories, largest first; the rest become one."""
        if self.kind == "number":
            return self
        counts = np.bincount(self.values.astype(np.int64), minlength=len(self.names))
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] > 0]
        kept = order if len(order) <= limit else order[: limit - 1]
        place = np.full(len(self.names), len(kept), dtype=np.int64)
        place[kept] = np.arange(len(kept))
        names = [self.names[i] for i in kept]
        sizes = [int(counts[i]) for i in kept]
        if len(order) > len(kept):
            names.append(f"{OTHERS} ({len(order) - len(kept)} kinds)")
            sizes.append(int(counts.sum()) - sum(sizes))
        codes = place[self.values.astype(np.int64)]
        return Paint(
            self.by, self.caption, "category", codes, tuple(names), tuple(sizes), self.unit
        )


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


def provenance(map: Any) -> str:
    """The line that stands in every export: what decides the numbers, readable by people."""
    model, options = map.model, map.options
    revision = "" if model.revision == "local" else f" at {model.revision}"
    frame = "" if options.vocabulary == "alone" else f"frame {options.frame}, "
    projection = {
        "shared": "shared linear projection",
        "layer": "per-layer PCA with Procrustes",
        "umap": f"UMAP ({options.neighbours} neighbours, minimum distance {options.min_dist:g})",
        "axes": "concept axes",
    }[options.projection]
    versions = ", ".join(f"{name} {one}" for name, one in map.versions.items())
    return (
        f"Lexiscope {version()} · model {model.name}{revision} ({model.fingerprint}) on "
        f"{model.device} in {model.dtype} · layer {layer_of(map)}, {options.state} states, "
        f"{options.preprocessing} · {frame}{projection}, {options.dims}-D, seed {options.seed} · "
        f"{versions} · map {map.fingerprint}"
    )


def layer_of(map: Any) -> int:
    """The layer's number from 0."""
    layer: int = map.layer
    return layer


def class_colours(paint: Paint, colours: Theme) -> tuple[str, ...]:
    """One colour per category; the rest is grey, and orange is left to the prompt's tokens."""
    free = [one for one in colours.lines if one != colours.lines[1]]
    return tuple(
        colours.muted if name.startswith(OTHERS) else free[i % len(free)]
        for i, name in enumerate(paint.names)
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
