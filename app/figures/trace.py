"""A trace as a grid of layers × tokens: a reading's first token in every cell.

Pure: a result of the engine goes in, a Plotly figure comes out. Usable from a notebook. Layers run
upward, from the embedding at the bottom to what the head reads on top, and every position keeps
its own column, however often a token occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.figures.theme import (
    COLUMN_WIDTHS,
    ROW_HEIGHTS,
    Theme,
    axis,
    base_layout,
    colourscale,
    layer_label,
    plot_text,
    text_colours,
    theme,
)
from engine.reading.geometries import GEOMETRIES
from engine.trace.result import Bools, Floats, Trace

MARGIN = {"l": 58, "r": 84, "t": 43, "b": 56}
"""Room around the cells of the grid, in pixels; figures.js places its row labels by it."""
COLOURS = {
    "rank": "rank of the model's answer",
    "probability": "probability",
    "entropy": "entropy",
    "kl": "KL to the final prediction",
    "agreement": "agreement with the model",
    "deviation": "deviation from the virtual path",
    "border": "distance to the border",
}
"""What the cells can be coloured by, and what it is called on a switch."""


def grid(
    trace: Trace,
    colour: str = "rank",
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
    agree_y, agree_x = np.nonzero(finite & trace.agrees[:, columns])
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
                x=(agree_x + 0.41).tolist(),
                y=(agree_y + 0.31).tolist(),
                xaxis="x2",
                mode="markers",
                marker={"size": letters(rows) / 2, "color": colours.mark}
                | {"line": {"width": 1, "color": colours.surface}},
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
            height=cells_height(rows) + MARGIN["t"] + MARGIN["b"],
            width=width * _column_width(trace, columns) + MARGIN["l"] + MARGIN["r"],
            margin=MARGIN | {"autoexpand": False},
            annotations=[
                aside("↑ what the model predicts next", 1, 24, colours),
                aside("↑ the prompt: token and position", 0, -42, colours),
            ],
            xaxis=axis(
                colours,
                "",
                **column,
                # the prompt's tokens, each with its position below
                ticktext=[
                    f"{plot_text(trace.tokens[p].piece or trace.tokens[p].label, 11)}<br>{p}"
                    for p in positions
                ],
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
    meta: dict[str, Any] = {"kind": "grid", "layers": list(trace.layers)}
    meta |= {"positions": list(positions), "colour": colour}
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


def _shown(plane: Plane, columns: slice, finite: Bools) -> Floats:
    return np.where(finite, plane.z[:, columns], np.nan).astype(np.float32)


def _stops(plane: Plane, colours: Theme) -> tuple[str, ...]:
    stops = colours.sequential if plane.scale == "sequential" else colours.diverging
    return stops[::-1] if plane.reverse else stops


def cells_height(rows: int) -> int:
    """Height of all cells together: few layers are drawn taller, for the colour bar's sake."""
    least, most = ROW_HEIGHTS
    return rows * max(least, min(most, 480 // rows))


def letters(rows: int) -> float:
    """Size of the letters in a cell, in pixels."""
    return min(12.5, cells_height(rows) / rows - 4)


def _colourbar(plane: Plane, colours: Theme, rows: int) -> dict[str, Any]:
    bar: dict[str, Any] = {
        "title": {
            # A title that is longer than its bar would be cut; the caption says it as well.
            "text": plane.title if 6 * len(plane.title) < cells_height(rows) else "",
            "side": "right",
            "font": {"size": 11.5, "color": colours.muted},
        },
        "thickness": 10,
        "outlinewidth": 0,
        "ypad": 0,
        "lenmode": "pixels",
        "len": cells_height(rows),
        "x": 1.0,
        "xpad": 12,
        "tickfont": {"size": 11, "color": colours.muted},
        "tickmode": "auto",
        "nticks": 5,
    }
    if plane.ticks:
        values, texts = zip(*plane.ticks, strict=True)
        bar |= {"tickmode": "array", "tickvals": values, "ticktext": texts}
    return bar


def _texts(trace: Trace, plane: Plane, columns: slice, finite: Bools, colours: Theme) -> go.Scatter:
    """Each cell's first token, in whichever of two colours can be read on the cell."""
    ys, xs = np.nonzero(finite)
    ids = trace.top_ids[:, columns, 0]
    values = (plane.z[:, columns][ys, xs] - plane.low) / (plane.high - plane.low)
    return go.Scatter(
        x=xs.tolist(),
        y=ys.tolist(),
        mode="text",
        text=[plot_text(trace.token_info[int(i)].label, 11) for i in ids[ys, xs]],
        textfont={
            "size": letters(len(trace.layers)),
            "color": text_colours(values, _stops(plane, colours)),
        },
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


def aside(text: str, y: int, shift: int, colours: Theme) -> dict[str, Any]:
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


def _hover_texts(trace: Trace, columns: slice, finite: Bools) -> list[list[str]]:
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
    trace: Trace, positions: Sequence[int], selected: tuple[int, int] | None, colours: Theme
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


@dataclass(frozen=True)
class Plane:
    """One quantity over layers and positions, with all that its colour bar needs."""

    key: str
    title: str
    """Name and unit."""
    reads: str
    """One sentence: what deep colour means here."""
    z: Floats
    """(layer, position); NaN where there is nothing to show."""
    high: float
    low: float = 0.0
    reverse: bool = False
    """Whether small values are the settled ones and get the deep colour."""
    scale: str = "sequential"
    ticks: tuple[tuple[float, str], ...] = ()


def planes(trace: Trace) -> dict[str, Plane]:
    """Every quantity that can colour the grid."""
    shown = trace.finite
    geometry = GEOMETRIES[trace.geometry]
    share = _top(trace.top_probabilities[..., 0], shown)
    # A round number not below it: small probabilities still show their differences.
    surest = next((bound for bound in (0.05, 0.1, 0.2, 0.5) if share <= bound), 1.0)
    rank = np.log10(np.maximum(trace.final_rank, 1).astype(np.float32))
    made = (
        Plane(
            "probability",
            "probability of the cell's first token",
            "Strong colour: sure of its first token.",
            trace.top_probabilities[..., 0],
            surest,
        ),
        Plane(
            "entropy",
            "entropy (nats)",
            "Strong colour: decided, few tokens share the probability.",
            trace.entropy,
            _top(trace.entropy, shown),
            reverse=True,
        ),
        Plane(
            "rank",
            "rank of the model's answer",
            "Strong colour: the model's answer already stands near the top; 1 is first.",
            rank,
            max(1.0, _top(rank, shown)),
            reverse=True,
            ticks=tuple((float(i), f"{10**i:,}") for i in range(7)),
        ),
        Plane(
            "kl",
            "KL to the final prediction (nats)",
            "Strong colour: read by the model's own head, this layer already predicts what the "
            "last one will.",
            trace.divergence,
            _top(trace.divergence, shown),
            reverse=True,
        ),
        Plane(
            "agreement",
            "first token = the model's answer",
            "Strong colour: names the very token that the model predicts in the end.",
            trace.agrees.astype(np.float32),
            1.0,
            ticks=((0.0, "differs"), (1.0, "agrees")),
        ),
        Plane(
            "deviation",
            "deviation from the virtual path (0–2)",
            "Strong colour: on the straight path from the token to the model's answer; 1 is a "
            "right angle. Our reconstruction.",
            trace.deviation,
            max(1.0, _top(trace.deviation, shown)),
            reverse=True,
        ),
        Plane(
            "border",
            "distance to the region's border"
            + (f" ({geometry.borders.unit})" if geometry.borders else ""),
            "Strong colour: well inside the region of its token; pale: close to the next one."
            if geometry.borders
            else geometry.no_border,
            trace.border,
            _top(trace.border, shown),
        ),
    )
    return {plane.key: plane for plane in made}


def _top(values: Floats, shown: Bools) -> float:
    """The largest shown value, never 0, so that the colour bar has a length."""
    kept = values[shown & np.isfinite(values)]
    return float(kept.max()) if kept.size and kept.max() > 0 else 1.0
