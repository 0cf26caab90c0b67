"""Two prompts beside each other: where their readings differ, and the race of both answers.

Pure: a result of the engine goes in, a Plotly figure comes out. Usable from a notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

from app.figures.theme import (
    ABOVE,
    DASHES,
    SYMBOLS,
    axis,
    base_layout,
    colourscale,
    layer_label,
    plot_text,
    text_colours,
    theme,
    unified,
)
from app.figures.trace import MARGIN, aside, cells_height, letters
from engine.compare import PromptComparison
from engine.model.vocabulary import Token
from engine.trace.result import Floats

MEASURES = {
    "divergence": "KL between the two readings (nats)",
    "rank_in_other": "rank of the prompt's answer in the other's reading",
    "rank_in_first": "rank of the other's answer in the prompt's reading",
}
"""What the cells of the difference can be coloured by."""
_WIDTH = 136


def difference(
    found: PromptComparison, colour: str = "divergence", *, dark: bool = False
) -> go.Figure:
    """The layer × pair grid of two prompts: both first tokens in every cell, or one where they
    are the same.

    Args:
        found: the two prompts.
        colour: one of `MEASURES`; strong colour is where the two are far apart.
        dark: colours for a dark page.
    """
    cells = [(y, x) for y in range(len(found.layers)) for x in range(len(found.pairs))]
    return cells_grid(
        np.asarray(getattr(found, colour), np.float32),
        "ranks" if colour != "divergence" else "nats",
        texts={(y, x): _cell(found, y, x) for y, x in cells},
        hovers={(y, x): _hover(found, y, x) for y, x in cells},
        columns=[heading(found.tokens[0][a], found.tokens[1][b]) for a, b in found.pairs],
        layers=[layer_label(layer) for layer in found.layers],
        about="↑ the prompt's token, and the other's",
        meta={"layers": list(found.layers), "positions": [pair[0] for pair in found.pairs]},
        dark=dark,
    )


SCALES: Final[Mapping[str, tuple[Callable[[Any], Any], list[float]]]] = {
    "ranks": (np.log10, [10.0**i for i in range(7)]),
    "nats": (np.sqrt, [0, 0.1, 0.5, 1, 2, 5, 10, 20, 40]),
    "js": (np.sqrt, [0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.69]),
    "share": (np.asarray, [0, 0.25, 0.5, 0.75, 1]),
}
"""How values are drawn, and what the bar names: a rank by its logarithm, a divergence by its root,
so that small differences are seen beside large ones."""


def cells_grid(
    values: Floats,
    scale: str,
    *,
    texts: Mapping[tuple[int, int], str],
    hovers: Mapping[tuple[int, int], str],
    columns: Sequence[str],
    layers: Sequence[str],
    about: str,
    meta: Mapping[str, Any],
    high: float | None = None,
    low: float = 0.0,
    dark: bool = False,
) -> go.Figure:
    """A layer × pair grid with a word in every cell.

    Args:
        values: layer × pair; NaN where nothing is compared.
        scale: one of `SCALES`.
        texts: of each cell, safe for Plotly.
        hovers: the same.
        columns: their headings.
        layers: of the rows, the lowest first.
        about: what the headings are.
        meta: besides the figure's kind.
        high: the value of the strongest colour; None: the largest.
        low: of the weakest.
        dark: colours for a dark page.
    """
    colours = theme(dark)
    drawn, marks = SCALES[scale]
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where((values > 0) | (scale != "ranks"), drawn(values), np.nan)
        floor = float(drawn(low)) if scale != "ranks" else 0.0
    values = values.astype(np.float32)
    top = float(np.nanmax(values)) if np.isfinite(values).any() else floor
    top = float(drawn(high)) if high is not None else top
    top = top if top > floor else floor + 1.0
    rows, width = values.shape
    xs, ys = list(range(width)), list(range(rows))
    shown_y, shown_x = np.nonzero(np.isfinite(values))
    height = cells_height(rows)
    bar: dict[str, Any] = {
        "title": {"text": "", "side": "right", "font": {"size": 11.5, "color": colours.muted}},
        "thickness": 10, "outlinewidth": 0, "ypad": 0, "lenmode": "pixels", "len": height,
        "x": 1.0, "xpad": 12, "tickfont": {"size": 11, "color": colours.muted},
        "tickmode": "array", "ticktext": [f"{mark:,g}" for mark in marks],
        "tickvals": [float(drawn(mark)) for mark in marks],
    }  # fmt: skip
    strength = (values[shown_y, shown_x] - floor) / (top - floor)
    figure = go.Figure(
        [
            go.Heatmap(
                x=xs, y=ys, z=values, zmin=floor, zmax=top,
                colorscale=colourscale(colours.sequential),
                hovertext=[[hovers[y, x] for x in xs] for y in ys],
                hoverinfo="text", hoverongaps=False, xgap=2, ygap=2, colorbar=bar,
                meta={"role": "sequential", "reverse": False, "part": "cells"},
            ),
            go.Scatter(
                x=shown_x.tolist(), y=shown_y.tolist(), mode="text",
                text=[texts[int(y), int(x)] for y, x in zip(shown_y, shown_x, strict=True)],
                textfont={
                    "size": letters(rows),
                    "color": text_colours(strength.clip(0, 1), colours.sequential),
                },
                hoverinfo="skip", showlegend=False, meta={"part": "texts"},
            ),
        ]
    )  # fmt: skip
    column = {"range": [-0.5, width - 0.5], "tickmode": "array", "tickvals": xs, "showgrid": False}
    figure.update_layout(
        base_layout(
            colours,
            height=height + MARGIN["t"] + MARGIN["b"],
            width=width * _WIDTH + MARGIN["l"] + MARGIN["r"],
            margin=MARGIN | {"autoexpand": False},
            annotations=[aside(about, 0, -44, colours)],
            xaxis=axis(colours, "", **column, ticktext=list(columns), tickangle=0,
                       automargin=False, tickfont={"color": colours.ink, "size": 12}),
            yaxis=axis(
                colours, "layer", range=[-0.5, rows - 0.5], tickmode="array", tickvals=ys,
                ticktext=list(layers), showgrid=False, automargin=False,
            ),
            meta={"kind": "grid", **meta},
        )
    )  # fmt: skip
    return figure


def heading(first: Token, other: Token) -> str:
    """Of a column: one token, or both where they differ."""
    shown = [plot_text(one.label, 11) for one in (first, other)]
    return shown[0] if first.text == other.text else "<br>".join(shown)


def race(found: PromptComparison, *, dark: bool = False) -> go.Figure:
    """Both answers after the last pair over the layers, by either prompt: four curves, or two."""
    colours = theme(dark)
    figure = go.Figure()
    for side, (name, curves) in enumerate(zip(("prompt", "other"), found.race, strict=True)):
        for n, token in enumerate(curves.tokens):
            figure.add_trace(
                go.Scatter(
                    x=list(curves.layers),
                    y=np.asarray(curves.probabilities[n], np.float32),
                    mode="lines+markers",
                    name=f"{plot_text(token.label, 18)}, {name}",
                    line={"color": colours.lines[n], "width": 2, "dash": DASHES[side]},
                    marker={"size": 7, "symbol": SYMBOLS[side], "color": colours.lines[n]},
                    hovertemplate="%{y:.4g}",
                    meta={"role": "line", "line": n},
                )
            )
    layers = list(found.layers)
    ticks = layers[:: max(1, len(layers) // 12)]
    figure.update_layout(
        base_layout(
            colours,
            height=340,
            **unified(colours),
            showlegend=True,
            legend=ABOVE | {"font": {"color": colours.ink}},
            margin={"l": 60, "r": 16, "t": 64, "b": 48},
            xaxis=axis(colours, "layer", tickmode="array", tickvals=ticks,
                       ticktext=[layer_label(layer) for layer in ticks]),
            yaxis=axis(colours, "probability", rangemode="tozero"),
            meta={"kind": "curves"},
        )
    )  # fmt: skip
    return figure


def _tops(found: PromptComparison, y: int, x: int) -> list[str]:
    sides = (found.first, found.other)
    return [one.token_info[int(one.top_ids[y, x, 0])].label for one in sides]


def _cell(found: PromptComparison, y: int, x: int) -> str:
    first, other = _tops(found, y, x)
    if first == other:
        return plot_text(first, 11)
    return f"{plot_text(first, 9)} | {plot_text(other, 9)}"


def _hover(found: PromptComparison, y: int, x: int) -> str:
    (a, b), value = found.pairs[x], float(found.divergence[y, x])
    where = f"layer {found.layers[y]}, positions {a} and {b}"
    if not np.isfinite(value):
        return f"{where}<br>not finite: nothing is compared"
    first, other = _tops(found, y, x)
    answers = [
        plot_text(one.token_info[int(one.final_ids[x])].label, 24)
        for one in (found.first, found.other)
    ]
    return (
        f"<b>{plot_text(first, 40)}</b> and <b>{plot_text(other, 40)}</b><br>{where}"
        f"<br>KL {value:.4f} nats"
        f"<br>{answers[0]}, the prompt's answer, has rank {int(found.rank_in_other[y, x]):,} there"
        f"<br>{answers[1]}, the other's answer, has rank {int(found.rank_in_first[y, x]):,} here"
    )
