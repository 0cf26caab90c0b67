"""The tables under the maps: what moved between two layers, and which layers are alike.

Finished here, down to the text of every number, as everything that a template shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from fastapi import Request

from app.maps.panels import LinkTo, Name, name_of
from app.maps.question import MapQuery
from app.web.rendering import link
from app.web.words import number
from engine.maps import Changes, Cka
from engine.maps.arrays import Doubles

SHADES = 7
"""Of the heat tables, as in the style sheet."""
MOVERS = 15


@dataclass(frozen=True)
class MoverRow:
    """A point that moved far."""

    token: Name
    href: str
    moved: str
    relative: str
    gained: tuple[Name, ...]
    lost: tuple[Name, ...]


@dataclass(frozen=True)
class ChangesPanel:
    """What moved between two layers; with `load`: where to ask for it."""

    between: str
    load: str = ""
    href: str = ""
    problem: str = ""
    sentence: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    rows: tuple[MoverRow, ...] = ()


@dataclass(frozen=True)
class HeatCell:
    """Two layers."""

    text: str
    shade: str
    href: str
    help: str


HeatTable = tuple[str, tuple[tuple[int, tuple[HeatCell, ...]], ...]]
"""CKA of every two layers: its name, and each layer with its cells against all."""


@dataclass(frozen=True)
class LayersPanel:
    """How alike the layers are; with `load`: where to ask for it."""

    load: str = ""
    href: str = ""
    problem: str = ""
    sentence: str = ""
    layers: tuple[int, ...] = ()
    tables: tuple[HeatTable, ...] = ()


def between(query: MapQuery) -> str:
    """What is compared, in words; empty where nothing is."""
    if query.compared_calibration is not None:
        return "between before and after the calibration"
    if query.compared_layer is not None:
        return f"between this layer and layer {query.compared_layer}"
    return ""


def changes_part(
    request: Request, query: MapQuery, found: Changes | str | None, to: LinkTo
) -> ChangesPanel | None:
    """What moved between the two layers, why that cannot be said, or where to ask for it."""
    words = between(query)
    if not words:
        return None
    if isinstance(found, str):
        return ChangesPanel(words, problem=found)
    if found is None:
        state = query.model_copy(update={"compare": None}).question().link_fields()
        load = link(request, "/map/changes", **state, compare=query.compare)
        return ChangesPanel(words, load=load, href=to(panel="changes") + "#changes")
    facts = [
        ("points that can move", f"{number(found.moving)} of {number(found.n)}"),
        ("moved, median", f"{number(found.median)} map radii"),
        ("relative to neighbours, median", f"{number(found.median_relative)} map radii"),
        (f"common among {found.k} nearest, median Jaccard", number(found.median_jaccard, 2)),
    ]
    if found.noise_floor is not None:
        facts.append(("noise floor: another seed", f"{number(found.noise_floor)} map radii"))
    if found.noise_ratio is not None:
        ratio, pairs = found.noise_ratio, found.noise_pairs
        spread = f" ({number(ratio.low, 2)} to {number(ratio.high, 2)} in {pairs} pairs of seeds)"
        words = number(ratio.value, 2) + (spread if pairs > 1 else "")
        facts.append(("moved, in noise floors (about 1 is no motion)", words))
    rows = tuple(
        MoverRow(
            name_of(one.label),
            to(point=one.index, of="a"),
            number(one.displacement),
            number(one.relative),
            tuple(map(Name, one.gained)),
            tuple(map(Name, one.lost)),
        )
        for one in found.movers[:MOVERS]
    )
    return ChangesPanel(words, sentence=found.sentence, facts=tuple(facts), rows=rows)


def layers_part(
    request: Request, query: MapQuery, found: Cka | str | None, to: LinkTo
) -> LayersPanel:
    """How alike the layers are, in tables whose cells lead to their two layers; why that cannot be
    said, or where to ask for it."""
    if isinstance(found, str):
        return LayersPanel(problem=found)
    if found is None:
        load = link(request, "/map/layers", **query.question().link_fields())
        return LayersPanel(load=load, href=to(panel="layers") + "#layers")
    to = partial(to, panel=None)
    tables = [_heat("all dimensions", found.layers, found.values, to)]
    if found.dropped:
        plural = "dimension" if found.dropped == 1 else f"{found.dropped} dimensions"
        name = f"without the {plural} of largest variance"
        tables.append(_heat(name, found.layers, found.without, to))
    return LayersPanel(sentence=found.sentence, layers=found.layers, tables=tuple(tables))


def _heat(name: str, layers: Sequence[int], values: Doubles, to: LinkTo) -> HeatTable:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    wide = high - low or 1.0
    rows = []
    for i, a in enumerate(layers):
        cells = []
        for j, b in enumerate(layers):
            value = float(values[i, j])
            gap = not math.isfinite(value)
            shade = "" if gap else f"h{min(int((value - low) / wide * SHADES), SHADES - 1)}"
            href = to(layer=a, compare=f"layer:{b}")
            text = "–" if gap else f"{value:.2f}"
            cells.append(HeatCell(text, shade, href, f"layers {a} and {b}"))
        rows.append((a, tuple(cells)))
    return name, tuple(rows)
