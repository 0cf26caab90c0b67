"""What an action does: its controls as dots, the grid under it, and the causal map.

Pure: results of the engine go in, a Plotly figure comes out. Usable from a notebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from app.figures.theme import (
    SYMBOLS,
    axis,
    base_layout,
    colourscale,
    layer_label,
    plot_text,
    text_colours,
    theme,
)
from engine.interventions.causal import CausalMap
from engine.interventions.effect import Effect
from engine.trace.result import Ints, Trace

Floats = NDArray[np.float32]
KINDS = {"random": "five random", "opposite": "opposite sign", "layer": "another layer"}
_ROWS = (48, 20)
"""Heights of a row in pixels, where there are few and where there are many."""
_COLUMN = 74
"""The least width of a column, in pixels."""
COLUMNS = 12
"""Positions that a grid shows at most: the last ones."""


def controls(found: Effect, *, dark: bool = False) -> go.Figure:
    """The target's probability without the action, with it, and under each control."""
    colours = theme(dark)
    target = found.target
    rows: list[tuple[str, list[float], list[str]]] = [
        ("as it is", [target.probability_before], ["no action"]),
        ("this action", [target.probability_after], ["this action"]),
    ]
    for kind, title in KINDS.items():
        own = [one for one in found.controls if one.kind == kind]
        if own:
            rows.append((title, [c.probability_after for c in own], [c.what for c in own]))
    figure = go.Figure()
    for n, (title, values, names) in enumerate(rows):
        line = 7 if n == 0 else 1 if n == 1 else 0
        figure.add_trace(
            go.Scatter(
                x=values,
                y=[title] * len(values),
                text=[plot_text(name) for name in names],
                mode="markers",
                line={"color": colours.lines[line]},
                marker={"size": 12 if n < 2 else 9, "symbol": SYMBOLS[2 if n == 1 else 0]}
                | {"color": colours.lines[line]},
                hovertemplate="%{text}: %{x:.4f}<extra></extra>",
                showlegend=False,
                meta={"role": "line", "line": line},
            )
        )
    largest = max(max(values) for _, values, _ in rows)
    figure.update_layout(
        base_layout(
            colours,
            height=70 + 34 * len(rows),
            margin={"l": 96, "r": 24, "t": 8, "b": 44},
            meta={"kind": "controls"},
            xaxis=axis(
                colours,
                f"probability of {plot_text(target.text.strip() or target.text, 20)}",
                range=[-0.02 * largest, 1.06 * largest] if largest < 0.5 else [-0.02, 1.02],
            ),
            yaxis=axis(colours, "", autorange="reversed", type="category"),
        )
    )
    return figure


def reading(
    trace: Trace, *, cells: Floats | None = None, what: str = "probability", dark: bool = False
) -> go.Figure:
    """A trace's first tokens; coloured by their probability, or by other numbers of the cells.

    Args:
        trace: what was read.
        cells: layer × position, at least 0; None: the probabilities.
        what: they are, in a word.
        dark: colours for a dark page.
    """
    last = slice(max(0, len(trace.positions) - COLUMNS), None)
    ids = trace.top_ids[:, last, 0]
    z = trace.top_probabilities[:, last, 0] if cells is None else cells[:, last]
    return _grid(
        np.where(trace.finite[:, last], z, np.nan),
        [[_label(trace, int(i)) for i in row] for row in ids],
        trace.layers,
        [(p, trace.tokens[p].piece or trace.tokens[p].label) for p in trace.positions[last]],
        what,
        high=max(0.05, float(np.nanmax(z, initial=0.0))),
        above=[_label(trace, int(i)) for i in trace.final_ids[last]],
        dark=dark,
    )


def ranks(trace: Trace, before: Ints, after: Ints, *, dark: bool = False) -> go.Figure:
    """A token's rank in every cell before → after; strong colour: first afterwards."""
    last = slice(max(0, len(trace.positions) - COLUMNS), None)
    old, new = before[:, last], after[:, last]
    z = 1 - np.log(np.maximum(new, 1)) / np.log(max(2, int(new.max())))
    pairs = zip(old.tolist(), new.tolist(), strict=True)
    texts = [
        [f"{a:,} → {b:,}" if a != b else f"{b:,}" for a, b in zip(*row, strict=True)]
        for row in pairs
    ]
    return _grid(
        np.where(trace.finite[:, last], z, np.nan).astype(np.float32),
        texts,
        trace.layers,
        [(p, trace.tokens[p].piece or trace.tokens[p].label) for p in trace.positions[last]],
        "nearness",
        high=1.0,
        above=[_label(trace, int(i)) for i in trace.final_ids[last]],
        dark=dark,
        cut=22,
    )


def causal(found: CausalMap, *, dark: bool = False) -> go.Figure:
    """The contrast recovered by the twin's state at every layer and position, patched alone."""
    start = max(0, len(found.positions) - COLUMNS)
    z = found.recovered[:, start:]
    texts = [[f"{one:.2f}" if abs(one) >= 0.05 else "" for one in row] for row in z.tolist()]
    columns = []
    for p in found.positions[start:]:
        own, other = found.tokens[p], found.twin_tokens[p]
        both = own.label if own.id == other.id else f"{own.label} ← {other.label}"
        columns.append((p, both))
    return _grid(z, texts, found.layers, columns, "recovered", high=1.0, dark=dark, cut=22)


def _label(trace: Trace, token: int) -> str:
    return trace.token_info[token].label if token >= 0 else ""


def _grid(
    z: Floats,
    texts: list[list[str]],
    layers: Sequence[int],
    columns: Sequence[tuple[int, str]],
    what: str,
    *,
    high: float,
    above: list[str] | None = None,
    dark: bool = False,
    cut: int = 11,
) -> go.Figure:
    """Cells with a text each, layers running upward, the prompt's tokens below."""
    colours = theme(dark)
    height = _ROWS[len(layers) > 8] * len(layers)
    ys, xs = np.nonzero(np.isfinite(z))
    shade = np.clip(z[ys, xs] / high, 0, 1).astype(np.float32)
    hover = [
        [f"<b>{plot_text(texts[y][x], 40)}</b><br>layer {layer}, position {p}"
         f"<br>{what} {z[y, x]:.3f}" for x, (p, _) in enumerate(columns)]
        for y, layer in enumerate(layers)
    ]  # fmt: skip
    figure = go.Figure(
        [
            go.Heatmap(
                x=list(range(len(columns))),
                y=list(range(len(layers))),
                z=np.asarray(z, np.float32),
                zmin=0.0,
                zmax=high,
                colorscale=colourscale(colours.sequential),
                hovertext=hover,
                hoverinfo="text",
                xgap=2,
                ygap=2,
                colorbar={
                    "title": {"text": what, "side": "right",
                              "font": {"size": 11.5, "color": colours.muted}},
                    "thickness": 10, "outlinewidth": 0, "xpad": 8, "nticks": 5,
                    "tickfont": {"size": 11, "color": colours.muted},
                },
                meta={"role": "sequential", "reverse": False, "part": "cells"},
            ),
            go.Scatter(
                x=xs.tolist(),
                y=ys.tolist(),
                mode="text",
                text=[plot_text(texts[y][x], 11) for y, x in zip(ys, xs, strict=True)],
                textfont={"size": 11.5, "color": text_colours(shade, colours.sequential)},
                hoverinfo="skip",
                showlegend=False,
                meta={"part": "texts"},
            ),
        ]
    )  # fmt: skip
    column = {"tickmode": "array", "tickvals": list(range(len(columns))), "showgrid": False}
    column |= {"range": [-0.5, len(columns) - 0.5], "tickangle": 0}
    layout: dict[str, Any] = base_layout(
        colours,
        height=height + 110,
        width=_COLUMN * len(columns) + 130,
        margin={"l": 44, "r": 8, "t": 34 if above else 12, "b": 62},
        meta={"kind": "acted"},
        xaxis=axis(
            colours, "", **column,
            ticktext=[f"{plot_text(text, cut)}<br>{p}" for p, text in columns],
        ),
        yaxis=axis(
            colours, "layer", range=[-0.5, len(layers) - 0.5], tickmode="array", showgrid=False,
            tickvals=list(range(len(layers))), ticktext=[layer_label(one) for one in layers],
        ),
    )  # fmt: skip
    if above:
        figure.data[1].xaxis = "x2"  # an axis without a trace is not drawn
        layout["xaxis2"] = axis(
            colours, "", **column, ticktext=[plot_text(one, 11) for one in above],
            overlaying="x", side="top",
        )  # fmt: skip
    figure.update_layout(layout)
    return figure
