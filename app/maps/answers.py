"""The engine's maps as the web's answers: plain values and bytes, nothing computed.

Runs on the device thread, because a map, its labels and its JSON can be large.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from app.maps.files.drawing import KINDS, Paint, packed, slots_of
from engine.json_number import number
from engine.maps import Changes, Cka, Colour, Map, Neighbours

LABELS = 5_000
"""Labels of prompts and texts that the description of a map holds."""
LABEL_LENGTH = 80
BORDER = 200
"""Points at the border that are listed."""
INDICES = 20_000
"""Indices of hits or selected points that an answer lists."""


def point(drawn: Map, index: int) -> dict[str, Any]:
    """One point: what it is and where."""
    points = drawn.points
    return {
        "index": int(index),
        "kind": KINDS[int(points.kind[index])],
        "row": int(points.row[index]),
        "id": points.id(index),
        "text": points.text(index)[:400],
        "label": points.label(index),
    }


def placed(drawn: Map, index: int) -> dict[str, Any]:
    """One point with its true place and whether that lies beyond the border."""
    place = zip("xyz", drawn.coordinates[index].tolist(), strict=False)
    return {
        **point(drawn, index),
        **dict(place),
        "outside": bool(drawn.border.outside[index]),
    }


def described(drawn: Map, layers: int) -> dict[str, Any]:
    """Everything about a map but its coordinates: the JSON of ``/api/v1/map/meta``."""
    border = drawn.border
    return {
        "fingerprint": drawn.fingerprint,
        "title": drawn.title,
        "heading": drawn.heading,
        "how_chosen": drawn.how_chosen,
        "blind_to": drawn.blind_to,
        "warnings": list(drawn.warnings),
        "model": asdict(drawn.model),
        "options": named_texts(drawn.options.to_dict()),
        "n": drawn.n,
        "dims": drawn.dims,
        "layer": drawn.layer,
        "layers": layers,
        "kinds": list(_runs(drawn)),
        "labels": list(_labels(drawn)),
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
            "count": int(border.count),
            "inside": drawn.n - int(border.count),
            "of": drawn.n,
            "sentence": border_sentence(drawn),
            "points": [
                {**placed(drawn, int(i)), "at": border.clipped[int(i)].tolist()}
                for i in border.indices[:BORDER]
            ],
        },
        "versions": dict(drawn.versions),
    }


def named_texts(options: dict[str, Any]) -> dict[str, Any]:
    """The options with a text set's name and size in place of its texts."""
    texts = options.get("texts")
    if isinstance(texts, Mapping):
        options["texts"] = {"name": texts["name"], "count": len(texts["texts"])}
    return options


def border_sentence(drawn: Map) -> str:
    """How many points lie beyond the border; empty where none does."""
    count = int(drawn.border.count)
    if count == 0:
        return ""
    verb = "point lies" if count == 1 else "points lie"
    return (
        f"{count:,} of {drawn.n:,} {verb} further out than the picture reaches and "
        f"{'is' if count == 1 else 'are'} drawn at its border."
    )


def _runs(drawn: Map) -> Iterable[dict[str, Any]]:
    """Points of one kind that follow each other; their rows, unless they count up from 0."""
    for kind, start, stop in _stretches(drawn):
        rows = drawn.points.row[start:stop]
        plain = bool((rows == np.arange(stop - start)).all())
        yield {
            "kind": KINDS[kind],
            "start": start,
            "count": stop - start,
            "rows": None if plain else rows.tolist(),
        }


def _labels(drawn: Map) -> Iterable[dict[str, Any]]:
    """Labels of what no vocabulary names: tokens of the prompt and texts."""
    left = LABELS
    for kind, start, stop in _stretches(drawn):
        count = min(stop - start, left)
        if KINDS[kind] not in ("prompt", "text") or count == 0:
            continue
        left -= count
        some = [drawn.points.label(i)[:LABEL_LENGTH] for i in range(start, start + count)]
        yield {"start": start, "count": count, "labels": some}


def _stretches(drawn: Map) -> Iterable[tuple[int, int, int]]:
    kinds = drawn.points.kind
    edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    for start, stop in pairwise(edges):
        yield int(kinds[start]), start, stop


def places(drawn: Map) -> bytes:
    """The drawn coordinates: float32, little-endian, row by row."""
    return np.ascontiguousarray(drawn.border.clipped, dtype="<f4").tobytes()


def coloured(colour: Colour) -> dict[str, Any]:
    """A colour per point, packed."""
    if colour.values is not None:
        values = np.asarray(colour.values, dtype=np.float32)
        return {
            "by": colour.by,
            "type": "number",
            "dtype": "f4",
            "values": packed(values),
            "range": extent(values),
            "caption": colour.caption,
        }
    codes = np.asarray(colour.codes)
    counts = np.bincount(codes, minlength=len(colour.names)).tolist()
    width = "u1" if len(colour.names) <= 256 else "u2" if len(colour.names) <= 65_536 else "u4"
    return {
        "by": colour.by,
        "type": "category",
        "dtype": width,
        "codes": packed(codes.astype(width)),
        "names": list(colour.names),
        "counts": counts,
        "slots": list(slots_of(colour.by, colour.names, counts)),
        "caption": colour.caption,
    }


def extent(values: npt.NDArray[np.float32]) -> list[float] | None:
    """The smallest and the largest finite value; None where there is none."""
    finite = values[np.isfinite(values)]
    return [float(finite.min()), float(finite.max())] if len(finite) else None


def painted(colour: Colour) -> Paint:
    """The same for a drawing."""
    if colour.values is not None:
        return Paint(colour.by, colour.caption, "number", np.asarray(colour.values))
    codes = np.asarray(colour.codes)
    counts = np.bincount(codes, minlength=len(colour.names)).tolist()
    return Paint(colour.by, colour.caption, "category", codes, colour.names, tuple(counts))


def near(drawn: Map, found: Neighbours) -> dict[str, Any]:
    """A point's neighbours in the model's own space, with what the picture makes of them."""
    plain = found.to_dict()
    seen = _nearest_drawn(drawn, found.index, len(found.neighbours))
    gained, lost, layer = plain.pop("gained"), plain.pop("lost"), plain.pop("layer_b")
    jaccard = plain.pop("jaccard")
    rows = [
        {**point(drawn, one["index"]), **one, "rank": rank, "on_map": one["index"] in seen}
        for rank, one in enumerate(plain.pop("neighbours"), start=1)
    ]
    to = None
    if layer is not None:
        to = {
            "layer": layer,
            "jaccard": jaccard,
            "gained": [{**point(drawn, one["index"]), **one} for one in gained],
            "lost": [{**point(drawn, one["index"]), **one} for one in lost],
        }
    kept = sum(one["on_map"] for one in rows)
    if not np.isfinite(drawn.coordinates[found.index]).all():
        sentence = "This state holds NaN or infinity, so it has no neighbours."
    elif len(rows) == 1:
        sentence = f"This neighbour is {'' if kept else 'not '}the nearest on the map."
    else:
        sentence = (
            f"{kept} of these {len(rows)} neighbours {'is' if kept == 1 else 'are'} among the"
            f" {len(rows)} points that are nearest on the map."
        )
    return {
        **plain,
        "sentence": sentence,
        "point": placed(drawn, found.index),
        "neighbours": rows,
        "to": to,
    }


def _nearest_drawn(drawn: Map, index: int, k: int) -> frozenset[int]:
    """The k points that are nearest on the picture, the point itself left out."""
    away = ((drawn.coordinates - drawn.coordinates[index]) ** 2).sum(1)
    away[np.isnan(away)] = np.inf
    away[index] = np.inf
    k = min(k, len(away) - 1)
    return frozenset(np.argpartition(away, k - 1)[:k].tolist()) if k > 0 else frozenset()


def moved(drawn: Map, found: Changes, limit: int, values: bool) -> dict[str, Any]:
    """Two layers beside each other: movers first, and on request every point's figures."""
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
        "blind_to": drawn.blind_to,
        "movers": [{**point(drawn, one.index), **one.to_dict()} for one in found.movers[:limit]],
    }
    for name in ("displacement", "relative", "jaccard"):
        array = np.asarray(getattr(found, name), dtype=np.float32)
        out[name] = _summary(array)
        if values:
            out[f"{name}_values"] = packed(array)
    return out


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


def similarity_of_layers(found: Cka) -> dict[str, Any]:
    """Linear CKA of every two layers."""
    plain = found.to_dict()
    values = plain.pop("values")
    sentence = f"Linear CKA of {found.of_what}, of every two layers."
    return {**plain, "cka": values, "sentence": sentence}


def listed(
    drawn: Map, indices: npt.NDArray[Any], limit: int, what: str = "found"
) -> dict[str, Any]:
    """Some points of a map as rows."""
    shown = indices[:limit]
    rest = f"; the first {len(shown):,} are listed" if len(shown) < len(indices) else ""
    return {
        "count": len(indices),
        "shown": len(shown),
        "indices": indices[:INDICES].tolist(),
        "rows": [placed(drawn, int(i)) for i in shown],
        "sentence": f"{len(indices):,} of {drawn.n:,} {'point' if drawn.n == 1 else 'points'}"
        f" {what}{rest}.",
    }
