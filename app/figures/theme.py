"""Colours, sizes, names and the small helpers that every figure shares.

The colours stand here for notebooks and in `static/css/lexiscope.css` as custom properties for the
page; a test keeps the two equal. A trace says which *role* its colour has (``meta``), so that the
page can repaint it when the reader switches between light and dark without asking the server.

Every sequential scale reads the same way: **the stronger the colour, the more settled the
reading**. Scales are single ramps of lightness, so that they survive every kind of colour
blindness and print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from engine import lenses
from engine.frames import kinds
from engine.reading import geometries
from engine.trace import options

ROW_HEIGHTS = (15, 54)
"""Least and greatest height of a cell of the layer × token grid, in pixels: all layers of a model
shall fit into one screen."""
COLUMN_WIDTHS = (54, 92)
"""Least width of a cell of the grid, in pixels: for the shortest and the longest texts in it."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "triangle-down", "star")
SIGNS = ("●", "■", "◆", "▲", "✖", "✚", "▼", "★")
"""The same symbols as characters, for a legend in text."""
GEOMETRIES = tuple((one.name, one.title, one.what) for one in geometries.GEOMETRIES.values())
FRAMES = tuple((one.name, one.choice) for one in kinds.FRAMES.values())
LENSES = tuple((one.name, one.title, one.what) for one in lenses.LENSES.values())
STATES = tuple((one.name, one.title) for one in options.STATES.values())
LABELS = dict([*((k, v) for k, v, _ in (*GEOMETRIES, *LENSES)), *FRAMES])
"""What figures and pages call geometries, frames, lenses and states."""
DARK_TEXT, LIGHT_TEXT = "#000000", "#ffffff"
"""One of the two is readable on any colour (contrast at least 4.5 : 1)."""


@dataclass(frozen=True)
class Theme:
    """One set of colours."""

    surface: str
    """What a figure stands on."""
    ink: str
    muted: str
    rule: str
    mark: str
    """The outline of the selected cell."""
    sequential: tuple[str, ...]
    """From "open" to "settled"."""
    diverging: tuple[str, ...]
    """Below, at and above a middle that means something."""
    lines: tuple[str, ...]
    """One for each pinned token; dash and symbol differ as well."""


LIGHT = Theme(
    surface="#ffffff",
    ink="#1b2126",
    muted="#58636c",
    rule="#dde1e2",
    mark="#b8430a",
    sequential=("#eff4f2", "#d3e6e2", "#a9d2cf", "#73b7bb", "#3f94a1", "#1a6f83", "#0a4760"),
    diverging=("#0a4760", "#3f94a1", "#c9dedd", "#f4f1ea", "#ecc9a6", "#c97a35", "#7d3c05"),
    lines=(
        "#0b6b74", "#b8430a", "#6948b5", "#8e5c34", "#863f92", "#152863", "#014400", "#4b524a",
    ),
)  # fmt: skip
DARK = Theme(
    surface="#171d22",
    ink="#e6ebee",
    muted="#9fabb4",
    rule="#2d363d",
    mark="#ffb072",
    sequential=("#1e272d", "#1e3c47", "#215668", "#2c7587", "#4a9aa6", "#83c4c3", "#d0f0e2"),
    diverging=("#cdf0fa", "#5fb3c9", "#2b5361", "#2a2d2f", "#63482c", "#d08a45", "#ffe0b8"),
    lines=(
        "#5cc8d0", "#ffa06a", "#a7a0ff", "#fad766", "#c3709b", "#9bc6fb", "#a4bc2f", "#d2d9d1",
    ),
)  # fmt: skip


def theme(dark: bool) -> Theme:
    """The colours for one of the two modes."""
    return DARK if dark else LIGHT


def colourscale(stops: Sequence[str]) -> list[list[object]]:
    """Equally spaced stops, as Plotly writes a scale."""
    last = len(stops) - 1
    return [[i / last, stop] for i, stop in enumerate(stops)]


def text_colours(values: npt.NDArray[np.float32], stops: Sequence[str]) -> list[str]:
    """For each value in [0, 1] the text colour that is readable on a scale's colour there."""
    rgb = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in stops]) / 255
    at = np.nan_to_num(np.clip(values, 0, 1)) * (len(stops) - 1)
    grid = np.arange(len(stops))
    channels = np.stack([np.interp(at, grid, rgb[:, i]) for i in range(3)], axis=-1)
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return [DARK_TEXT if one > 0.179 else LIGHT_TEXT for one in luminance]


def sheet_colours(colours: Theme, page: str) -> dict[str, Any]:
    """A theme for the style of a page that stands alone: with the inks of its scale.

    Args:
        page: further variables of the page's own.
    """
    inks = text_colours(np.linspace(0, 1, 7, dtype=np.float32), colours.sequential)
    plain = {name: getattr(colours, name) for name in colours.__dataclass_fields__}
    return {**plain, "inks": inks, "page": page}


def plot_text(text: str, limit: int | None = None) -> str:
    """Any text, so that Plotly shows exactly these characters.

    Plotly reads labels as a small HTML of its own: a token ``<b>`` would vanish and
    ``<a href=…>`` become a link. Escaped, each shows its own text.

    Args:
        text: what shall be read; controls already drawn (`Token.label`).
        limit: at most so many characters, the last an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def base_layout(colours: Theme, **more: Any) -> dict[str, Any]:
    """What every figure's layout has in common."""
    layout: dict[str, Any] = {
        "template": "none",
        "paper_bgcolor": colours.surface,
        "plot_bgcolor": colours.surface,
        "font": {"family": FONT, "size": 12.5, "color": colours.ink},
        "dragmode": False,
        "hoverlabel": {
            "bgcolor": colours.ink,
            "bordercolor": colours.ink,
            "align": "left",
            "font": {"family": FONT, "size": 12.5, "color": colours.surface},
        },
        "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
    }
    layout.update(more)
    return layout


ABOVE = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
"""A legend's place over the figure, in a row."""


def unified(colours: Theme) -> dict[str, Any]:
    """One label for all lines at the pointer's place."""
    label = {"bgcolor": colours.surface, "font": {"color": colours.ink}}
    return {"hovermode": "x unified", "hoverlabel": label}


def axis(colours: Theme, title: str, **more: Any) -> dict[str, Any]:
    """An axis with its name and unit."""
    out: dict[str, Any] = {
        "title": {"text": title, "standoff": 8, "font": {"color": colours.muted, "size": 12}},
        "gridcolor": colours.rule,
        "zeroline": False,
        "linecolor": colours.rule,
        "tickcolor": colours.rule,
        "tickfont": {"color": colours.muted, "size": 11.5},
        "fixedrange": True,
        "automargin": True,
    }
    out.update(more)
    return out


def payload(figure: go.Figure) -> dict[str, object]:
    """The figure as plain values for ``<script type="application/json">``.

    Arrays travel as base64 of float32, the way Plotly itself writes them.
    """
    return cast(dict[str, object], figure.to_dict())


def layer_label(layer: int) -> str:
    """A layer's name on an axis: its number, and ``emb`` for the embedding."""
    return "emb" if layer == 0 else str(layer)


def score_name(geometry: str) -> str:
    """What a score is, with its unit."""
    return geometries.GEOMETRIES[geometry].score
