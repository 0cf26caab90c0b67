"""A map: points, coordinates, and everything a reader must know to trust it or not.

This module holds the result and its words; :mod:`engine.maps.maker` makes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from engine.json_number import number, plain
from engine.maps.arrays import Floats
from engine.maps.axes import Axes
from engine.maps.border import Border
from engine.maps.options import MapOptions
from engine.maps.points import BASIS, KINDS, MapPoints
from engine.maps.preprocessing import PREPROCESSINGS
from engine.maps.projections import PROJECTIONS
from engine.trace.result import ModelInfo

LISTED: Final = 200
"""Points at the border that are listed in a header."""
_AXIS: Final = ("x", "y", "z")


@dataclass(frozen=True)
class Map:
    """Points of a latent space in two or three dimensions."""

    options: MapOptions
    model: ModelInfo
    layers: int
    """L, the number of blocks: layers go from 0 to L."""
    layer: int
    """Of the states, from 0."""
    points: MapPoints
    coordinates: Floats
    """n × dims, far points where they are; in units of the preprocessed vectors (UMAP: none). NaN
    for a state that is not finite: it is not drawn, and a warning says so."""
    border: Border
    """The same as drawn: far points at the border."""
    variance_shown: float | None
    """Share in [0, 1] of the variance of `variance_of` that the axes show; None for UMAP and where
    the points do not vary."""
    variance_of: str
    variance_of_bases: float | None
    """The same of all bases of the frame; None where no basis is on the map."""
    title: str
    how_chosen: str
    """``8,192 of 8,192 tokens: all; 7 tokens of the prompt``."""
    blind_to: str
    axis_names: tuple[str, ...]
    warnings: tuple[str, ...]
    versions: dict[str, str]
    fingerprint: str
    """Of settings, model and versions: the same map has the same fingerprint."""
    noise_floor: float | None = None
    """UMAP only: median distance of a point from itself between two seeds, in RMS map radii, the
    median over all pairs of them; None until all seeds are done."""
    noise_floors: tuple[float, ...] = ()
    """The same of each pair of seeds."""
    atlas: str = ""
    """The digest of the shipped atlas whose places these are; empty where they are not one's."""
    axes: Axes | None = field(default=None, repr=False)
    """The affine map behind the coordinates; None for UMAP."""

    @property
    def n(self) -> int:
        """Points, those at the border included."""
        return len(self.points)

    @property
    def heading(self) -> str:
        """The title in a few plain words, short enough for a heading."""
        o = self.options
        where = PROJECTIONS[o.projection].heading(o)
        parts = [where, PREPROCESSINGS[o.preprocessing].heading]
        if not (self.points.kind != BASIS).any():
            return " · ".join([where[:1].upper() + where[1:], *parts[1:]])
        if o.state == "raw":
            parts.insert(0, "before the final norm")
        if o.calibration is not None:
            moment = "after" if "after the calibration" in self.title else "before"
            parts.insert(0, f"{moment} the calibration “{o.calibration.label}”")
        return " · ".join([f"Layer {self.layer} of {self.layers}", *parts])

    @property
    def dims(self) -> int:
        """2 or 3."""
        return int(self.coordinates.shape[1])

    def header(self) -> dict[str, Any]:
        """The JSON contract without the lists that have a value per point."""
        return {
            "format": "lexiscope-map",
            "options": self.options.to_dict(),
            "model": asdict(self.model),
            "layers": self.layers,
            "layer": self.layer,
            "n": self.n,
            "dims": self.dims,
            "kinds": [[name, count] for name, count in self.points.kinds],
            "title": self.title,
            "how_chosen": self.how_chosen,
            "blind_to": self.blind_to,
            "axis_names": list(self.axis_names),
            "variance_shown": plain(self.variance_shown),
            "variance_of": self.variance_of,
            "variance_of_bases": plain(self.variance_of_bases),
            "noise_floor": plain(self.noise_floor),
            "noise_floors": [number(one) for one in self.noise_floors],
            "range": self.border.range,
            "range_shared_by_layers": self.border.shared,
            "outside": self.border.count,
            "border": [self.border_row(int(i)) for i in self.border.indices[:LISTED]],
            "warnings": list(self.warnings),
            "versions": dict(self.versions),
            "fingerprint": self.fingerprint,
            **({"atlas": self.atlas} if self.atlas else {}),
        }

    def border_row(self, i: int) -> dict[str, Any]:
        """A point at the border: what it is and where it would be."""
        return {
            "index": i,
            "kind": KINDS[self.points.kind[i]],
            "id": self.points.id(i),
            "label": self.points.label(i),
            "coordinates": [number(x) for x in self.coordinates[i]],
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract (docs/api.md): :meth:`header` and a list per column."""
        out = self.header()
        out["kind"] = self.points.kind.tolist()
        out["row"] = self.points.row.tolist()
        out["label"] = self.points.labels()
        out["coordinates"] = self._places()
        out["is_outside"] = self.border.outside.tolist()
        return out

    def _places(self) -> list[list[float | None]]:
        """All coordinates for JSON; None for a state that is not finite."""
        places: list[list[float | None]] = self.coordinates.tolist()
        for i in np.flatnonzero(~np.isfinite(self.coordinates).all(axis=1)):
            places[i] = [None] * self.dims
        return places

    def row(self, i: int) -> dict[str, Any]:
        """One point as a row of a table."""
        out: dict[str, Any] = {**asdict(self.points.point(i)), "group": self.points.group(i)}
        for name, value in zip(_AXIS, self.coordinates[i], strict=False):
            out[name] = number(value)
        out["outside"] = bool(self.border.outside[i])
        return out

    def rows(self) -> Iterator[dict[str, Any]]:
        """All points as rows of a table."""
        for i in range(self.n):
            yield self.row(i)


def make_title(
    options: MapOptions, layer: int, layers: int, *, states: bool, calibrated: bool = False
) -> str:
    """Layer, preprocessing and projection in one line."""
    projection = PROJECTIONS[options.projection].words(options)
    words = f"{projection}; {PREPROCESSINGS[options.preprocessing].words}"
    if not states:
        return f"{options.frame_words.capitalize()} bases: {words}"
    past = "past the final norm" if options.state == "normed" else "before the final norm"
    if options.lens != "none":
        past += f", through the {options.lens} lens"
    if options.calibration is not None:
        moment = "after" if calibrated else "before"
        past += f", {moment} the calibration “{options.calibration.label}”"
    return f"Layer {layer} of {layers}, {past}: {words}"
