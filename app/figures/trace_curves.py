"""A trace as curves: chosen tokens over the layers, one position's path, the isotropy per layer.

Pure: a result of the engine goes in, a Plotly figure comes out. Usable from a notebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.figures.theme import (
    ABOVE,
    DASHES,
    SYMBOLS,
    Theme,
    axis,
    base_layout,
    layer_label,
    plot_text,
    score_name,
    theme,
    unified,
)
from engine.trace.cell import Curves
from engine.trace.result import Floats, Trace

MEASURES = {
    "rank": "rank (1 is nearest)",
    "probability": "probability",
    "score": "score",
}
"""What a curve can show."""


def curves(
    curves: Curves,
    measure: str = "rank",
    *,
    dark: bool = False,
    selected: int | None = None,
    legend: bool = True,
    leaders: int | None = None,
) -> go.Figure:
    """Chosen tokens over the layers at one position.

    Args:
        curves: the tokens' scores, probabilities and ranks.
        measure: ``probability``, ``score`` or ``rank`` (drawn downward on a logarithmic scale).
        dark: colours for a dark page.
        selected: a layer to mark.
        legend: name the tokens above the figure; a page that lists them itself does not.
        leaders: how many of the first tokens the race is about; the others are drawn behind them,
            thin. None: all of them.
    """
    colours = theme(dark)
    values: Floats = {
        "probability": curves.probabilities,
        "score": curves.scores,
        # 0 stands for "not finite" and has no place on a logarithmic axis.
        "rank": np.where(curves.ranks > 0, curves.ranks, np.nan).astype(np.float32),
    }[measure]
    figure = go.Figure()
    for i, token in enumerate(curves.tokens):
        n = i % len(colours.lines)
        name = plot_text(token.label, 18)
        behind = leaders is not None and i >= leaders
        colour = colours.muted if behind else colours.lines[n]
        line = {"color": colour, "width": 2.6, "dash": DASHES[n]}
        figure.add_trace(
            go.Scatter(
                x=list(curves.layers),
                y=np.asarray(values[i], dtype=np.float32),
                mode="lines+markers",
                name=name,
                line={"color": colour, "width": 1} if behind else line,
                marker={"size": 3 if behind else 7, "symbol": SYMBOLS[n], "color": colour},
                opacity=0.4 if behind else 1,
                hovertemplate="%{y:.4g}" if measure != "rank" else "%{y:,}",
                meta={"role": "behind"} if behind else {"role": "line", "line": n},
            )
        )
    title = score_name(curves.geometry) if measure == "score" else MEASURES[measure]
    figure.update_layout(
        base_layout(
            colours,
            height=340,
            **unified(colours),
            showlegend=legend,
            legend=ABOVE,
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
    line = partial(_line, layers)
    figure = go.Figure(
        [
            line(trace.target_similarity[:, at], "similarity to the answer's basis", 0),
            line(trace.alignment[:, at], "alignment of the step", 2),
            line(trace.deviation[:, at], "deviation", 1, "y2"),
            go.Bar(
                x=layers,
                y=np.asarray(trace.gain[:, at], dtype=np.float32),
                name="gain",
                yaxis="y3",
                width=0.6,
                marker={"color": colours.lines[5]},
                hovertemplate="gain %{y:.3f}<extra></extra>",
                meta={"role": "bar", "line": 5},
            ),
        ]
    )
    for one in figure.select_traces({"type": "scatter"}):
        one.line.color = one.marker.color = colours.lines[one.meta["line"]]
    figure.update_layout(
        base_layout(
            colours,
            height=430,
            hovermode="x",
            showlegend=True,
            legend=ABOVE | {"font": {"color": colours.ink}},
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
            _line(layers, [e.raw for e in trace.isotropy], "as they are", 1),
            _line(layers, [e.centred for e in trace.isotropy], "centred", 0),
            _line(layers, [e.spectral for e in trace.isotropy], "spectral", 2),
        ]
    )
    for one in figure.select_traces({"type": "scatter"}):
        one.line.color = one.marker.color = colours.lines[one.meta["line"]]
    figure.update_layout(
        base_layout(
            colours,
            height=300,
            **unified(colours),
            showlegend=True,
            legend=ABOVE,
            margin={"l": 60, "r": 16, "t": 36, "b": 48},
            xaxis=_layer_axis(colours, layers),
            yaxis=axis(colours, "isotropy (0…1)", range=[-0.02, 1.05]),
            meta={"kind": "isotropy"},
        )
    )
    return figure


def _line(
    layers: Sequence[int],
    values: Sequence[float] | Floats,
    name: str,
    line: int,
    yaxis: str = "y",
) -> go.Scatter:
    return go.Scatter(
        x=list(layers),
        y=np.asarray(values, dtype=np.float32),
        yaxis=yaxis,
        name=name,
        mode="lines+markers",
        line={"width": 2, "dash": DASHES[line]},
        marker={"size": 6, "symbol": SYMBOLS[line]},
        hovertemplate=name + " %{y:.3f}<extra></extra>",
        meta={"role": "line", "line": line},
    )


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
