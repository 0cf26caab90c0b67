"""What reads a model best, as curves over the layers: the places of the dial, a fitted lens.

Pure: results of the engine go in, a Plotly figure comes out.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from app.figures.theme import ABOVE, DASHES, SYMBOLS, axis, base_layout, theme, unified
from engine.lenses.kind import Lens
from engine.trace.dial import DialCurve

SHOWN = (0.0, 0.1, 0.3, 0.5, 1.0, None)
"""Places of the dial that are drawn; the table holds all. None is the control."""


def place(alpha: float | None, ridge: float | None = None) -> str:
    """A place of the dial, with the frame that stands there."""
    if ridge is not None:
        return f"α {alpha:g}, ridge {ridge:g}"
    known = {None: "random (control)", 0.0: "α 0, head rows", 0.5: "α ½, tight frame",
             1.0: "α 1, semantic bases"}  # fmt: skip
    return known.get(alpha) or f"α {alpha:g}"


def dial(curve: DialCurve, *, dark: bool = False) -> go.Figure:
    """Share of positions at which a place of the dial names the model's own next token."""
    rows = [row for row in curve.rows if row.alpha in SHOWN and row.ridge is None]
    lines = [(place(row.alpha), [100 * share for share in row.agreement]) for row in rows]
    return _over_layers(lines, "model's own next token named (%)", "%{y:.1f} %", dark)


def lens(found: Lens, *, dark: bool = False) -> go.Figure:
    """How far each layer's reading is from the model's end, with and without the lens."""
    lines = [
        ("no lens", [row.kl_none for row in found.rows]),
        (f"{found.name} lens", [row.kl for row in found.rows]),
        ("another layer's map (control)", [row.kl_shuffled for row in found.rows]),
    ]
    # The last layer is the model itself: its 0 has no place on a logarithmic axis.
    shown = [(name, [x if x > 1e-3 else None for x in values]) for name, values in lines]
    figure = _over_layers(shown, "KL to the model (nats)", "%{y:.2f}", dark)
    figure.update_yaxes(type="log", rangemode="normal")
    return figure


def _over_layers(
    lines: Sequence[tuple[str, Sequence[float | None]]], title: str, hover: str, dark: bool
) -> go.Figure:
    colours = theme(dark)
    figure = go.Figure()
    for i, (name, values) in enumerate(lines):
        n = i % len(colours.lines)
        figure.add_trace(
            go.Scatter(
                x=list(range(len(values))),
                y=list(values),
                name=name,
                mode="lines+markers",
                line={"color": colours.lines[n], "width": 2, "dash": DASHES[n]},
                marker={"size": 6, "symbol": SYMBOLS[n], "color": colours.lines[n]},
                hovertemplate=hover,
                meta={"role": "line", "line": n},
            )
        )
    figure.update_layout(
        base_layout(
            colours,
            height=340,
            showlegend=True,
            legend=ABOVE,
            margin={"l": 60, "r": 16, "t": 64, "b": 48},
            meta={"kind": "readings"},
            **unified(colours),
            xaxis=axis(colours, "layer"),
            yaxis=axis(colours, title, rangemode="tozero"),
        )
    )
    return figure
