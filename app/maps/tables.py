"""The tables under the maps: what moved between two layers, and which layers are alike.

Finished here, down to the text of every number, as everything that a template shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.maps.panels import LinkTo, Name, name_of
from app.web.words import number

SHADES = 7
"""Of the heat tables, as in the style sheet."""


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
    warnings: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    rows: tuple[MoverRow, ...] = ()


@dataclass(frozen=True)
class HeatCell:
    """Two layers."""

    text: str
    shade: str
    href: str
    help: str


@dataclass(frozen=True)
class HeatRow:
    """One layer against all."""

    layer: int
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class HeatTable:
    """CKA of every two layers."""

    name: str
    rows: tuple[HeatRow, ...]


@dataclass(frozen=True)
class LayersPanel:
    """How alike the layers are; with `load`: where to ask for it."""

    load: str = ""
    href: str = ""
    problem: str = ""
    sentence: str = ""
    layers: tuple[int, ...] = ()
    tables: tuple[HeatTable, ...] = ()


def changes_panel(found: Mapping[str, Any], link: LinkTo, between: str) -> ChangesPanel:
    """What moved between two layers."""
    moving, n = found["moving"], found["n"]
    facts = [
        ("points that can move", f"{number(moving)} of {number(n)}"),
        ("moved, median", f"{number(found['median'])} map radii"),
        ("relative to neighbours, median", f"{number(found['median_relative'])} map radii"),
        (f"common among {found['k']} nearest, median Jaccard", number(found["median_jaccard"], 2)),
    ]
    if found["noise_floor"] is not None:
        facts.append(("noise floor: another seed", f"{number(found['noise_floor'])} map radii"))
    rows = tuple(
        MoverRow(
            name_of(one),
            link(point=one["index"], of="a"),
            number(one["displacement"]),
            number(one.get("relative")),
            _names(one.get("gained", ())),
            _names(one.get("lost", ())),
        )
        for one in found["movers"]
    )
    warnings = tuple(str(one) for one in found.get("warnings", ()))
    return ChangesPanel(
        between,
        sentence=str(found["sentence"]),
        warnings=warnings,
        facts=tuple(facts),
        rows=rows,
    )


def _names(given: Sequence[Any]) -> tuple[Name, ...]:
    some = given[:6]
    return tuple(name_of(one) if isinstance(one, Mapping) else Name(str(one)) for one in some)


def layers_panel(found: Mapping[str, Any], link: LinkTo) -> LayersPanel:
    """CKA as tables whose cells lead to their two layers."""
    layers = tuple(int(layer) for layer in found["layers"])
    tables = [_heat("all dimensions", layers, found["cka"], link)]
    if found.get("without") is not None and found.get("dropped"):
        dropped = found["dropped"]
        count = dropped if isinstance(dropped, int) else len(dropped)
        plural = "dimension" if count == 1 else f"{count} dimensions"
        name = f"without the {plural} of largest variance"
        tables.append(_heat(name, layers, found["without"], link))
    return LayersPanel(sentence=str(found["sentence"]), layers=layers, tables=tuple(tables))


def _heat(name: str, layers: Sequence[int], values: Any, link: LinkTo) -> HeatTable:
    known = [value for row in values for value in row if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    wide = high - low or 1.0
    rows = []
    for i, a in enumerate(layers):
        cells = []
        for j, b in enumerate(layers):
            value = values[i][j]
            shade = (
                "" if value is None else f"h{min(int((value - low) / wide * SHADES), SHADES - 1)}"
            )
            text = "–" if value is None else f"{value:.2f}"
            cells.append(
                HeatCell(text, shade, link(layer=a, compare=f"layer:{b}"), f"layers {a} and {b}")
            )
        rows.append(HeatRow(a, tuple(cells)))
    return HeatTable(name, tuple(rows))
