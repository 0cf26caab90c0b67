"""Two prompts beside each other: where their readings differ, and the race of both answers.

Pure: a result of the engine goes in, a Plotly figure comes out. Usable from a notebook.
"""

from __future__ import annotations

from typing import Any

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
    colours = theme(dark)
    values = np.asarray(getattr(found, colour), np.float32)
    ranked = colour != "divergence"
    # A rank by its logarithm, a divergence by its root: small differences are seen beside large.
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(values > 0, np.log10(values), np.nan) if ranked else np.sqrt(values)
    values = values.astype(np.float32)
    high = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    high = high if high > 0 else 1.0
    rows, width = values.shape
    xs, ys = list(range(width)), list(range(rows))
    shown_y, shown_x = np.nonzero(np.isfinite(values))
    height = cells_height(rows)
    marks = [10.0**i for i in range(7)] if ranked else [0, 0.1, 0.5, 1, 2, 5, 10, 20, 40]
    bar: dict[str, Any] = {
        "title": {"text": "", "side": "right", "font": {"size": 11.5, "color": colours.muted}},
        "thickness": 10, "outlinewidth": 0, "ypad": 0, "lenmode": "pixels", "len": height,
        "x": 1.0, "xpad": 12, "tickfont": {"size": 11, "color": colours.muted},
        "tickmode": "array", "ticktext": [f"{mark:,g}" for mark in marks],
        "tickvals": (np.log10(marks) if ranked else np.sqrt(marks)).tolist(),
    }  # fmt: skip
    texts = [_cell(found, int(y), int(x)) for y, x in zip(shown_y, shown_x, strict=True)]
    figure = go.Figure(
        [
            go.Heatmap(
                x=xs, y=ys, z=values, zmin=0.0, zmax=high,
                colorscale=colourscale(colours.sequential),
                hovertext=[[_hover(found, y, x) for x in xs] for y in ys],
                hoverinfo="text", hoverongaps=False, xgap=2, ygap=2, colorbar=bar,
                meta={"role": "sequential", "reverse": False, "part": "cells"},
            ),
            go.Scatter(
                x=shown_x.tolist(), y=shown_y.tolist(), mode="text", text=texts,
                textfont={
                    "size": letters(rows),
                    "color": text_colours(values[shown_y, shown_x] / high, colours.sequential),
                },
                hoverinfo="skip", showlegend=False, meta={"part": "texts"},
            ),
        ]
    )  # fmt: skip
    column = {"range": [-0.5, width - 0.5], "tickmode": "array", "tickvals": xs, "showgrid": False}
    named = [
        "<br>".join(plot_text(own[p].label, 11) for own, p in zip(found.tokens, pair, strict=True))
        if found.tokens[0][pair[0]].id != found.tokens[1][pair[1]].id
        else plot_text(found.tokens[0][pair[0]].label, 11)
        for pair in found.pairs
    ]
    figure.update_layout(
        base_layout(
            colours,
            height=height + MARGIN["t"] + MARGIN["b"],
            width=width * _WIDTH + MARGIN["l"] + MARGIN["r"],
            margin=MARGIN | {"autoexpand": False},
            annotations=[aside("↑ the prompt's token, and the other's", 0, -44, colours)],
            xaxis=axis(colours, "", **column, ticktext=named, tickangle=0, automargin=False,
                       tickfont={"color": colours.ink, "size": 12}),
            yaxis=axis(
                colours, "layer", range=[-0.5, rows - 0.5], tickmode="array", tickvals=ys,
                ticktext=[layer_label(layer) for layer in found.layers], showgrid=False,
                automargin=False,
            ),
            meta={
                "kind": "grid",
                "layers": list(found.layers),
                "positions": [pair[0] for pair in found.pairs],
            },
        )
    )  # fmt: skip
    return figure


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
