"""A trace as figures: the layer × token grid, curves of tokens, the path through the layers.

Pure: a result of the engine goes in, a Plotly figure comes out. Usable from a notebook. Layers run
upward, from the embedding at the bottom to what the head reads on top, and every position keeps
its own column, however often a token occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from app.figures.theme import (
    COLUMN_WIDTHS,
    DASHES,
    ROW_HEIGHTS,
    SYMBOLS,
    Theme,
    axis,
    base_layout,
    colourscale,
    plot_text,
    text_colours,
    theme,
)
from engine.curves import Curves
from engine.trace import Trace

Array = npt.NDArray[np.float32]

MARGIN = {"l": 58, "r": 84, "t": 54, "b": 66}
"""Room around the cells of the grid, in pixels; figures.js places its row labels by it."""

COLOURS = ("probability", "entropy", "rank", "kl", "agreement", "deviation", "border")
"""What the cells of the grid can be coloured by."""


@dataclass(frozen=True)
class Plane:
    """One quantity over layers and positions, with all that its colour bar needs."""

    key: str
    title: str
    """Name and unit."""
    reads: str
    """One sentence: what deep colour means here."""
    z: Array
    """(layer, position); NaN where there is nothing to show."""
    low: float
    high: float
    reverse: bool = False
    """Whether small values are the settled ones and get the deep colour."""
    scale: str = "sequential"
    ticks: tuple[tuple[float, str], ...] = ()


def planes(trace: Trace) -> dict[str, Plane]:
    """Every quantity that can colour the grid."""
    shown = trace.finite
    rank = np.log10(np.maximum(trace.final_rank, 1).astype(np.float32))
    made = (
        Plane(
            "probability",
            "probability of the cell's first token",
            "Strong colour: sure of its first token.",
            trace.top_probabilities[..., 0],
            0.0,
            _round_up(_top(trace.top_probabilities[..., 0], shown)),
        ),
        Plane(
            "entropy",
            "entropy (nats)",
            "Strong colour: decided, few tokens share the probability.",
            trace.entropy,
            0.0,
            _top(trace.entropy, shown),
            reverse=True,
        ),
        Plane(
            "rank",
            "rank of the model's answer",
            "Strong colour: the model's answer already stands near the top; 1 is first.",
            rank,
            0.0,
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
            0.0,
            _top(trace.divergence, shown),
            reverse=True,
        ),
        Plane(
            "agreement",
            "first token = the model's answer",
            "Strong colour: names the very token that the model predicts in the end.",
            trace.agrees.astype(np.float32),
            0.0,
            1.0,
            ticks=((0.0, "differs"), (1.0, "agrees")),
        ),
        Plane(
            "deviation",
            "deviation from the virtual path (0–2)",
            "Strong colour: on the straight path from the token to the model's answer; 1 is a "
            "right angle. Our reconstruction.",
            trace.deviation,
            0.0,
            max(1.0, _top(trace.deviation, shown)),
            reverse=True,
        ),
        Plane(
            "border",
            f"distance to the region's border ({border_unit(trace.geometry)})",
            "Strong colour: well inside the region of its token; pale: close to the next one.",
            trace.border,
            0.0,
            _top(trace.border, shown),
        ),
    )
    return {plane.key: plane for plane in made}


def border_unit(geometry: str) -> str:
    """The unit of the distance to a region's border."""
    return "radians" if geometry == "cosine" else "length in the state's space"


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


MEASURES = {
    "probability": "probability",
    "score": "score",
    "rank": "rank (1 is nearest)",
}
"""What a curve can show."""


def curves(
    curves: Curves,
    measure: str = "probability",
    *,
    geometry: str = "cosine",
    dark: bool = False,
    selected: int | None = None,
    legend: bool = True,
) -> go.Figure:
    """Chosen tokens over the layers at one position.

    Args:
        curves: the tokens' scores, probabilities and ranks.
        measure: ``probability``, ``score`` or ``rank`` (drawn downward on a logarithmic scale).
        geometry: what the score is, for the axis title.
        dark: colours for a dark page.
        selected: a layer to mark.
        legend: name the tokens above the figure; a page that lists them itself does not.
    """
    colours = theme(dark)
    values: Array = {
        "probability": curves.probabilities,
        "score": curves.scores,
        # 0 stands for "not finite" and has no place on a logarithmic axis.
        "rank": np.where(curves.ranks > 0, curves.ranks, np.nan).astype(np.float32),
    }[measure]
    figure = go.Figure()
    for i, token in enumerate(curves.tokens):
        n = i % len(colours.lines)
        name = plot_text(token.label, 18)
        figure.add_trace(
            go.Scatter(
                x=list(curves.layers),
                y=np.asarray(values[i], dtype=np.float32),
                mode="lines+markers",
                name=name,
                line={"color": colours.lines[n], "width": 2, "dash": DASHES[n]},
                marker={"size": 7, "symbol": SYMBOLS[n], "color": colours.lines[n]},
                hovertemplate="%{y:.4g}" if measure != "rank" else "%{y:,}",
                meta={"role": "line", "line": n},
            )
        )
    title = f"{score_name(geometry)}" if measure == "score" else MEASURES[measure]
    figure.update_layout(
        base_layout(
            colours,
            height=340,
            hovermode="x unified",
            hoverlabel={"bgcolor": colours.surface, "font": {"color": colours.ink}},
            showlegend=legend,
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            margin={"l": 60, "r": 16, "t": 64 if legend else 16, "b": 48},
            xaxis=_layer_axis(colours, curves.layers),
            yaxis=axis(
                colours,
                title,
                **(
                    {
                        "type": "log",
                        "autorange": "reversed",
                        "dtick": 1,
                        "exponentformat": "none",
                        "separatethousands": True,
                    }
                    if measure == "rank"
                    else {"rangemode": "tozero" if measure == "probability" else "normal"}
                ),
            ),
            shapes=_layer_mark(selected, colours),
            meta={"kind": "curves"},
        )
    )
    return figure


def transitions(
    trace: Trace,
    position: int,
    *,
    dark: bool = False,
    selected: int | None = None,
) -> go.Figure:
    """One position's way to the answer: similarity, alignment, deviation and gain per layer.

    Deviation, gain and alignment are our reconstruction of the transition traces of the paper's
    authors; their own formulas are not public.

    Args:
        trace: what was read.
        position: one of the trace's positions.
        dark: colours for a dark page.
        selected: a layer to mark.
    """
    colours = theme(dark)
    at = trace.positions.index(position)
    layers = list(trace.layers)
    figure = go.Figure(
        [
            _line(
                layers, trace.target_similarity[:, at], "similarity to the answer's basis", 0, "y"
            ),
            _line(layers, trace.alignment[:, at], "alignment of the step", 2, "y"),
            _line(layers, trace.deviation[:, at], "deviation", 1, "y2"),
            go.Bar(
                x=layers,
                y=_floats(trace.gain[:, at]),
                name="gain",
                yaxis="y3",
                width=0.6,
                marker={"color": colours.lines[5]},
                hovertemplate="gain %{y:.3f}<extra></extra>",
                meta={"role": "bar", "line": 5},
            ),
        ]
    )
    figure.for_each_trace(lambda t: _repaint_line(t, colours))
    figure.update_layout(
        base_layout(
            colours,
            height=430,
            hovermode="x",
            showlegend=True,
            legend={
                "orientation": "h",
                "y": 1.02,
                "yanchor": "bottom",
                "x": 0,
                "font": {"color": colours.ink},
            },
            margin={"l": 60, "r": 16, "t": 36, "b": 48},
            xaxis=_layer_axis(colours, trace.layers) | {"anchor": "y3"},
            yaxis=axis(colours, "cosine (−1…1)", domain=[0.60, 1.0]),
            yaxis2=axis(colours, "deviation (0…2)", domain=[0.30, 0.54], rangemode="tozero"),
            yaxis3=axis(
                colours, "gain", domain=[0.0, 0.24], zeroline=True, zerolinecolor=colours.muted
            ),
            shapes=_layer_mark(selected, colours),
            meta={"kind": "transitions"},
        )
    )
    return figure


def isotropy(trace: Trace, *, dark: bool = False) -> go.Figure:
    """How evenly the prompt's states fill the directions around them, per layer: 1 is evenly."""
    colours = theme(dark)
    layers = [entry.layer for entry in trace.isotropy]
    figure = go.Figure(
        [
            _line(layers, [e.raw for e in trace.isotropy], "as they are", 1, "y"),
            _line(layers, [e.centred for e in trace.isotropy], "centred", 0, "y"),
            _line(layers, [e.spectral for e in trace.isotropy], "spectral", 2, "y"),
        ]
    )
    figure.for_each_trace(lambda t: _repaint_line(t, colours))
    figure.update_layout(
        base_layout(
            colours,
            height=300,
            hovermode="x unified",
            hoverlabel={"bgcolor": colours.surface, "font": {"color": colours.ink}},
            showlegend=True,
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            margin={"l": 60, "r": 16, "t": 36, "b": 48},
            xaxis=_layer_axis(colours, layers),
            yaxis=axis(colours, "isotropy (0…1)", range=[-0.02, 1.05]),
            meta={"kind": "isotropy"},
        )
    )
    return figure


def layer_label(layer: int) -> str:
    """A layer's name on an axis: its number, and ``emb`` for the embedding."""
    return "emb" if layer == 0 else str(layer)


def score_name(geometry: str) -> str:
    """What a score is, with its unit."""
    return {
        "cosine": "cosine (−1…1)",
        "l2": "minus squared distance",
        "matmul": "inner product (logit)",
    }[geometry]


def _line(
    layers: Sequence[int], values: Sequence[float] | Array, name: str, line: int, yaxis: str
) -> go.Scatter:
    return go.Scatter(
        x=list(layers),
        y=_floats(values),
        yaxis=yaxis,
        name=name,
        mode="lines+markers",
        line={"width": 2, "dash": DASHES[line]},
        marker={"size": 6, "symbol": SYMBOLS[line]},
        hovertemplate=name + " %{y:.3f}<extra></extra>",
        meta={"role": "line", "line": line},
    )


def _repaint_line(trace: Any, colours: Theme) -> None:
    colour = colours.lines[trace.meta["line"]]
    if trace.meta["role"] == "line":
        trace.line.color = colour
    trace.marker.color = colour


def _floats(values: Sequence[float] | Array) -> Array:
    return np.asarray(values, dtype=np.float32)


def _layer_axis(colours: Theme, layers: Sequence[int]) -> dict[str, Any]:
    step = max(1, len(layers) // 12)
    ticks = list(layers)[::step]
    return axis(
        colours,
        "layer",
        tickmode="array",
        tickvals=ticks,
        ticktext=[layer_label(layer) for layer in ticks],
        showgrid=True,
        range=[min(layers) - 0.4, max(layers) + 0.4],
    )


def _layer_mark(layer: int | None, colours: Theme) -> list[dict[str, Any]]:
    if layer is None:
        return []
    return [
        {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": layer,
            "x1": layer,
            "y0": 0,
            "y1": 1,
            "layer": "below",
            "line": {"color": colours.mark, "width": 1.5, "dash": "dot"},
        }
    ]


def _top(values: npt.NDArray[Any], shown: npt.NDArray[np.bool_]) -> float:
    """The largest shown value, never 0, so that the colour bar has a length."""
    kept = values[shown & np.isfinite(values)]
    return float(kept.max()) if kept.size and kept.max() > 0 else 1.0


def _round_up(share: float) -> float:
    """A round number not below a share: small probabilities still show their differences."""
    return next(bound for bound in (0.05, 0.1, 0.2, 0.5, 1.0) if share <= bound or bound == 1.0)


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
