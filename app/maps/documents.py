"""Answers about maps as JSON; here alone the engine's values become plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.figures.map import BORDER
from app.maps.answers import Found, Neighbourhood
from app.maps.files import export
from app.maps.files.drawing import border_sentence, packed, slots_of
from app.web.export import dumps
from engine import LatentSpace
from engine.json_number import number
from engine.maps import Changes, Cka, Colour, Map, Near
from engine.maps.named_regions import Region
from engine.maps.quality import Estimate
from engine.progress import Check

LABELS = 5_000
"""Labels of prompts and texts that the description of a map holds."""
LABEL_LENGTH = 80
INDICES = 20_000
"""Indices of hits or selected points that an answer lists."""
_TEXT = 400
"""Characters of a point's text that an answer holds."""


def _point(drawn: Map, index: int) -> dict[str, Any]:
    """One point: what it is."""
    plain = asdict(drawn.points.point(index))
    return {**plain, "text": plain["text"][:_TEXT]}


def _row(drawn: Map, index: int) -> dict[str, Any]:
    """One point with its true place and whether that lies beyond the border."""
    place = zip("xyz", drawn.coordinates[index].tolist(), strict=False)
    outside = bool(drawn.border.outside[index])
    return {**_point(drawn, index), **dict(place), "outside": outside}


def rows_of(drawn: Map, indices: Iterable[int]) -> Iterable[dict[str, Any]]:
    """Some points as rows of a table."""
    return (_row(drawn, int(i)) for i in indices)


def write_map(drawn: Map) -> bytes:
    """Everything about a map but its coordinates."""
    border = drawn.border
    return dumps(
        {
            "fingerprint": drawn.fingerprint,
            "title": drawn.title,
            "heading": drawn.heading,
            "how_chosen": drawn.how_chosen,
            "blind_to": drawn.blind_to,
            "warnings": list(drawn.warnings),
            "model": asdict(drawn.model),
            "options": _named_texts(drawn.options.to_dict()),
            "n": drawn.n,
            "dims": drawn.dims,
            "layer": drawn.layer,
            "layers": drawn.layers + 1,
            "kinds": kinds_of(drawn),
            "labels": labels_of(drawn),
            "variance_shown": drawn.variance_shown,
            "variance_of": drawn.variance_of,
            "variance_of_bases": drawn.variance_of_bases,
            "noise_floor": drawn.noise_floor,
            "axes": {
                "titles": list(drawn.axis_names),
                "ranges": border.range,
                "over": "all layers" if border.shared else "this layer",
            },
            "border": {
                "count": border.count,
                "inside": drawn.n - border.count,
                "of": drawn.n,
                "sentence": border_sentence(drawn),
                "points": border_points(drawn),
            },
            "versions": dict(drawn.versions),
        }
    )


def _named_texts(options: dict[str, Any]) -> dict[str, Any]:
    """The options with a text set's name and size in place of its texts."""
    texts = options.get("texts")
    if isinstance(texts, Mapping):
        options["texts"] = {"name": texts["name"], "count": len(texts["texts"])}
    return options


def kinds_of(drawn: Map) -> list[dict[str, Any]]:
    """Points of one kind that follow each other; their rows, unless they count up from 0."""
    out = []
    for run in drawn.points.runs:
        rows = drawn.points.row[run.start : run.start + run.count]
        plain = bool((rows == np.arange(run.count)).all())
        out.append({**asdict(run), "rows": None if plain else rows.tolist()})
    return out


def labels_of(drawn: Map) -> list[dict[str, Any]]:
    """Labels of what no vocabulary names, prompt tokens and texts: the first of them."""
    left, out = LABELS, []
    for run in drawn.points.runs:
        count = min(run.count, left)
        if run.kind not in ("prompt", "text") or count == 0:
            continue
        left -= count
        some = range(run.start, run.start + count)
        labels = [drawn.points.label(i)[:LABEL_LENGTH] for i in some]
        out.append({"start": run.start, "count": count, "labels": labels})
    return out


def border_points(drawn: Map) -> list[dict[str, Any]]:
    """The first points at the border, with their true places and where they are drawn."""
    at = drawn.border.clipped
    some = drawn.border.indices[:BORDER].tolist()
    return [{**_row(drawn, i), "at": at[i].tolist()} for i in some]


def write_regions(found: tuple[Region, ...]) -> bytes:
    """The named regions of a layout."""
    return dumps({"regions": [one.to_dict() for one in found]})


def write_colour(colour: Colour) -> bytes:
    """A colour per point, packed."""
    if colour.values is not None:
        values = np.asarray(colour.values, dtype=np.float32)
        return dumps(
            {
                "by": colour.by,
                "type": "number",
                "dtype": "f4",
                "values": packed(values),
                "range": _extent(values),
                "caption": colour.caption,
            }
        )
    codes = np.asarray(colour.codes)
    counts = np.bincount(codes, minlength=len(colour.names)).tolist()
    width = "u1" if len(colour.names) <= 256 else "u2" if len(colour.names) <= 65_536 else "u4"
    return dumps(
        {
            "by": colour.by,
            "type": "category",
            "dtype": width,
            "codes": packed(codes.astype(width)),
            "names": list(colour.names),
            "counts": counts,
            "slots": list(slots_of(colour.by, colour.names, counts)),
            "caption": colour.caption,
        }
    )


def _extent(values: npt.NDArray[np.float32]) -> list[float] | None:
    """The smallest and the largest finite value; None where there is none."""
    finite = values[np.isfinite(values)]
    return [float(finite.min()), float(finite.max())] if len(finite) else None


def write_neighbours(answer: Neighbourhood) -> bytes:
    """A point's neighbours in the model's own space."""
    drawn, found = answer.map, answer.found

    def rows(some: Iterable[Near]) -> list[dict[str, Any]]:
        return [{**_point(drawn, one.index), "distance": number(one.distance)} for one in some]

    to = None
    if found.layer_b is not None:
        to = {
            "layer": found.layer_b,
            "jaccard": None if found.jaccard is None else number(found.jaccard),
            "gained": rows(found.gained),
            "lost": rows(found.lost),
        }
    neighbours = [
        {**row, "rank": rank, "on_map": row["index"] in answer.on_map}
        for rank, row in enumerate(rows(found.neighbours), start=1)
    ]
    return dumps(
        {
            "index": found.index,
            "label": found.label,
            "layer": found.layer,
            "metric": found.metric,
            "k": found.k,
            "bases": [{**asdict(one), "score": number(one.score)} for one in found.bases],
            "sentence": answer.sentence,
            "point": _row(drawn, found.index),
            "neighbours": neighbours,
            "to": to,
        }
    )


@dataclass(frozen=True)
class WriteChanges:
    """Writes what moved between two maps: movers first, and on request every point's figures."""

    limit: int
    """Of the movers."""
    values: bool
    """Whether every point's figures are wanted."""

    def __call__(self, answer: tuple[Map, Changes]) -> bytes:
        """The JSON."""
        drawn, found = answer
        floor = found.noise_floor
        out: dict[str, Any] = {
            "layer": found.layers[0],
            "to": found.layers[1],
            "sentence": found.sentence,
            "n": found.n,
            "moving": found.moving,
            "k": found.k,
            "unit": "map radii",
            "radius": number(found.radius),
            "median": number(found.median),
            "median_relative": number(found.median_relative),
            "median_jaccard": number(found.median_jaccard),
            "noise_floor": None if floor is None else number(floor),
            "noise_ratio": None if found.noise_ratio is None else number(found.noise_ratio.value),
            "noise_range": _range(found.noise_ratio),
            "noise_pairs": found.noise_pairs,
            "blind_to": drawn.blind_to,
            "movers": [
                {**_point(drawn, one.index), **one.to_dict()} for one in found.movers[: self.limit]
            ],
        }
        for name in ("displacement", "relative", "jaccard"):
            array = np.asarray(getattr(found, name), dtype=np.float32)
            out[name] = _summary(array)
            if self.values:
                out[f"{name}_values"] = packed(array)
        return dumps(out)


def _range(ratio: Estimate | None) -> list[float | None] | None:
    return None if ratio is None else [number(ratio.low), number(ratio.high)]


def _summary(array: npt.NDArray[np.float32]) -> dict[str, float] | None:
    finite = array[np.isfinite(array)].astype(np.float64)
    if len(finite) == 0:
        return None
    return {
        "mean": float(finite.mean()),
        "median": float(np.median(finite)),
        "max": float(finite.max()),
        "taken": len(finite),
    }


def write_cka(found: Cka) -> bytes:
    """Linear CKA of every two layers."""
    plain = found.to_dict()
    values = plain.pop("values")
    return dumps({**plain, "cka": values, "sentence": found.sentence})


@dataclass(frozen=True)
class WritePoints:
    """Writes some points of a map as rows."""

    limit: int

    def __call__(self, found: Found) -> bytes:
        """The JSON."""
        shown = found.indices[: self.limit]
        return dumps(
            {
                "count": len(found.indices),
                "shown": len(shown),
                "indices": found.indices[:INDICES].tolist(),
                "rows": list(rows_of(found.map, shown)),
                "sentence": found.sentence(self.limit),
            }
        )


def write_table(found: Found) -> bytes:
    """Some points of a map as CSV, all of them."""
    return export.table(found.map, rows_of(found.map, found.indices))


def write_vocabulary(space: LatentSpace, *, check: Check) -> bytes:
    """Every token's label, by id."""
    labels = space.vocabulary.labels
    return dumps({"fingerprint": space.model.fingerprint, "size": len(labels), "labels": labels})
