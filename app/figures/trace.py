"""A trace as a grid of layers × tokens: a reading's first token in every cell.

Pure: a result of the engine goes in, a Plotly figure comes out. Usable from a notebook. Layers run
upward, from the embedding at the bottom to what the head reads on top, and every position keeps
its own column, however often a token occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from app.figures.names import layer_label
from app.figures.theme import (
    COLUMN_WIDTHS,
    ROW_HEIGHTS,
    Theme,
    axis,
    base_layout,
    colourscale,
    plot_text,
    text_colours,
    theme,
)
from app.figures.trace_planes import Plane, planes
from engine.trace.result import Trace

Array = npt.NDArray[np.float32]

MARGIN = {"l": 58, "r": 84, "t": 54, "b": 66}
"""Room around the cells of the grid, in pixels; figures.js places its row labels by it."""


def grid(
    trace: Trace,
    colour: str = "probability",
    *,
    dark: bool = False,
    selected: tuple[int, int] | None = None,
    columns: slice = slice(None),
    repaint: bool = False,
) -> go.Figure:
    """The layer × token grid: a reading's first token in every cell.

    A dot marks the cells whose first token is the model's own prediction. Below each column stands
    the prompt's token, above it what the model predicts after it.

    Args:
        trace: what was read.
        colour: one of `COLOURS`.
        dark: colours for a dark page.
        selected: (layer, position) to outline.
        columns: which of the trace's positions are drawn.
        repaint: carry every quantity along (``layout.meta``), so that a page can change the
            colour by itself.
    """
    colours = theme(dark)
    every = planes(trace)
    plane = every[colour]
    positions = trace.positions[columns]
    rows, width = len(trace.layers), len(positions)
    xs, ys = list(range(width)), list(range(rows))
    finite = trace.finite[:, columns]
    agrees = [
        (x, y) for y in ys for x in xs if finite[y, x] and trace.agrees[:, columns][y, x]
    ]  # fmt: skip
    figure = go.Figure(
        [
            go.Heatmap(
                x=xs,
                y=ys,
                z=_shown(plane, columns, finite),
                zmin=plane.low,
                zmax=plane.high,
                colorscale=colourscale(_stops(plane, colours)),
                hovertext=_hover_texts(trace, columns, finite),
                hoverinfo="text",
                hoverongaps=False,
                xgap=2,
                ygap=2,
                colorbar=_colourbar(plane, colours, rows),
                meta={"role": plane.scale, "reverse": plane.reverse, "part": "cells"},
            ),
            _texts(trace, plane, columns, finite, colours),
            go.Scatter(
                x=[x + 0.41 for x, _ in agrees],
                y=[y + 0.31 for _, y in agrees],
                xaxis="x2",
                mode="markers",
                marker={
                    "size": 6,
                    "color": colours.mark,
                    "line": {"width": 1, "color": colours.surface},
                },
                hoverinfo="skip",
                showlegend=False,
                meta={"role": "mark"},
            ),
        ]
    )
    column = {"range": [-0.5, width - 0.5], "tickmode": "array", "tickvals": xs, "showgrid": False}
    figure.update_layout(
        base_layout(
            colours,
            height=_height(rows) + MARGIN["t"] + MARGIN["b"],
            width=width * _column_width(trace, columns) + MARGIN["l"] + MARGIN["r"],
            margin=MARGIN | {"autoexpand": False},
            annotations=[
                _aside("↑ what the model predicts next", 1, 30, colours),
                _aside("↑ the prompt: token and position", 0, -44, colours),
            ],
            xaxis=axis(
                colours,
                "",
                **column,
                ticktext=_column_texts(trace, positions),
                tickangle=0,
                tickfont={"color": colours.ink, "size": 12},
                automargin=False,
            ),
            xaxis2=axis(
                colours,
                "",
                **column,
                ticktext=[
                    plot_text(trace.token_info[int(i)].label, 11) for i in trace.final_ids[columns]
                ],
                overlaying="x",
                side="top",
                tickangle=0,
                automargin=False,
            ),
            yaxis=axis(
                colours,
                "layer",
                range=[-0.5, rows - 0.5],
                tickmode="array",
                tickvals=ys,
                ticktext=[layer_label(layer) for layer in trace.layers],
                showgrid=False,
                automargin=False,
            ),
            shapes=_outline(trace, positions, selected, colours),
        )
    )
    meta: dict[str, Any] = {
        "kind": "grid",
        "layers": list(trace.layers),
        "positions": list(positions),
        "colour": colour,
    }
    if repaint:
        meta["planes"] = {
            key: {
                "z": _shown(p, columns, finite),
                "zmin": p.low,
                "zmax": p.high,
                "role": p.scale,
                "reverse": p.reverse,
                "colorbar": _colourbar(p, colours, rows),
                "reads": p.reads,
            }
            for key, p in every.items()
        }
    figure.update_layout(meta=meta)
    return figure


def _shown(plane: Plane, columns: slice, finite: npt.NDArray[np.bool_]) -> Array:
    return np.where(finite, plane.z[:, columns], np.nan).astype(np.float32)


def _stops(plane: Plane, colours: Theme) -> tuple[str, ...]:
    stops = colours.sequential if plane.scale == "sequential" else colours.diverging
    return stops[::-1] if plane.reverse else stops


def _height(rows: int) -> int:
    """Height of all cells together: few layers are drawn taller, for the colour bar's sake."""
    least, most = ROW_HEIGHTS
    return rows * max(least, min(most, 240 // rows))


def _colourbar(plane: Plane, colours: Theme, rows: int) -> dict[str, Any]:
    bar: dict[str, Any] = {
        "title": {
            # A title that is longer than its bar would be cut; the caption says it as well.
            "text": plane.title if 6 * len(plane.title) < _height(rows) else "",
            "side": "right",
            "font": {"size": 11.5, "color": colours.muted},
        },
        "thickness": 10,
        "outlinewidth": 0,
        "ypad": 0,
        "lenmode": "pixels",
        "len": _height(rows),
        "x": 1.0,
        "xpad": 12,
        "tickfont": {"size": 11, "color": colours.muted},
        "tickmode": "auto",
        "nticks": 5,
    }
    if plane.ticks:
        bar["tickmode"] = "array"
        bar["tickvals"] = [value for value, _ in plane.ticks]
        bar["ticktext"] = [text for _, text in plane.ticks]
    return bar


def _texts(
    trace: Trace,
    plane: Plane,
    columns: slice,
    finite: npt.NDArray[np.bool_],
    colours: Theme,
) -> go.Scatter:
    """Each cell's first token, in whichever of two colours can be read on the cell."""
    ys, xs = np.nonzero(finite)
    ids = trace.top_ids[:, columns, 0]
    values = (plane.z[:, columns][ys, xs] - plane.low) / (plane.high - plane.low)
    return go.Scatter(
        x=xs.tolist(),
        y=ys.tolist(),
        mode="text",
        text=[
            plot_text(trace.token_info[int(ids[y, x])].label, 11)
            for y, x in zip(ys, xs, strict=True)
        ],
        textfont={"size": 12.5, "color": text_colours(values, _stops(plane, colours))},
        hoverinfo="skip",
        showlegend=False,
        meta={"part": "texts"},
    )


def _column_width(trace: Trace, columns: slice) -> int:
    """As much as the longest text in a cell or over a column needs, within limits."""
    ids = np.concatenate([trace.top_ids[:, columns, 0].ravel(), trace.final_ids[columns]])
    shown = [trace.token_info[int(i)].label for i in np.unique(ids) if i >= 0]
    shown += [trace.tokens[p].piece or trace.tokens[p].label for p in trace.positions[columns]]
    least, most = COLUMN_WIDTHS
    return max(least, min(most, 14 + 7 * max(map(len, shown), default=0)))


def _aside(text: str, y: int, shift: int, colours: Theme) -> dict[str, Any]:
    """An axis's name at its left end, where it is seen before the figure is scrolled."""
    return {
        "text": text,
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "y": y,
        "xanchor": "left",
        "yanchor": "bottom" if y else "top",
        "yshift": shift,
        "showarrow": False,
        "font": {"size": 11.5, "color": colours.muted},
    }


def _column_texts(trace: Trace, positions: Sequence[int]) -> list[str]:
    """The prompt's tokens, each with its position below."""
    tokens = trace.tokens
    return [f"{plot_text(tokens[p].piece or tokens[p].label, 11)}<br>{p}" for p in positions]


def _hover_texts(
    trace: Trace, columns: slice, finite: npt.NDArray[np.bool_]
) -> list[list[str]]:  # fmt: skip
    """One text per cell; every line of it is ours but for the escaped tokens."""
    positions = trace.positions[columns]
    offset = range(len(trace.positions))[columns]
    out: list[list[str]] = []
    for y, layer in enumerate(trace.layers):
        row: list[str] = []
        for x, (position, at) in enumerate(zip(positions, offset, strict=True)):
            here = f"layer {layer}, position {position}"
            here += f", after {plot_text(trace.tokens[position].label, 24)}"
            if not finite[y, x]:
                row.append(here + "<br>not finite: no ranking is shown")
                continue
            first = trace.token_info[int(trace.top_ids[y, at, 0])].label
            answer = trace.token_info[int(trace.final_ids[at])].label
            row.append(
                f"<b>{plot_text(first, 40)}</b><br>{here}"
                f"<br>score {trace.top_scores[y, at, 0]:.4f}"
                f"<br>probability {trace.top_probabilities[y, at, 0]:.4f}"
                f"<br>entropy {trace.entropy[y, at]:.3f} nats"
                f"<br>the model's answer {plot_text(answer, 24)}"
                f" has rank {int(trace.final_rank[y, at]):,}"
            )
        out.append(row)
    return out


def _outline(
    trace: Trace,
    positions: Sequence[int],
    selected: tuple[int, int] | None,
    colours: Theme,
) -> list[dict[str, Any]]:
    if selected is None or selected[0] not in trace.layers or selected[1] not in positions:
        return []
    y, x = trace.layers.index(selected[0]), list(positions).index(selected[1])
    return [
        {
            "type": "rect",
            "x0": x - 0.49,
            "x1": x + 0.49,
            "y0": y - 0.47,
            "y1": y + 0.47,
            "line": {"color": colours.mark, "width": 3},
            "fillcolor": "rgba(0,0,0,0)",
        }
    ]
