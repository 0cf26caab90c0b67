"""What semantic bases are for, as curves: along the dial, over doses, and by words not taught.

Pure: results of the engine go in, a Plotly figure comes out. Usable from a notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import plotly.graph_objects as go

from app.figures.theme import ABOVE, DASHES, SYMBOLS, Theme, axis, base_layout, theme
from engine.interventions.doses import Dose, Doses, Interval
from engine.trace.dial import DialCurve, DialRow
from engine.uses.words import Words

NAMES: Final = {
    "output": "semantic bases",
    "tight": "tight frame",
    "dial:0.1": "α 0.1",
    "head": "head rows",
    "random": "random (control)",
}
"""A frame → its line."""
_LINES: Final = {name: n for n, name in enumerate(NAMES)}
_GAP: Final = 0.04
"""Between two panels, as a share of the width."""
_PANEL: Final = 200
"""The least width of a panel, in pixels."""


def _line(
    colours: Theme, n: int, x: Sequence[float], found: Sequence[Interval], **more: Any
) -> go.Scatter:
    """Means with their intervals as a line."""
    scale = more.pop("scale", 1.0)
    values = [scale * one.value for one in found]
    return go.Scatter(
        x=list(x),
        y=values,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [scale * one.high - value for one, value in zip(found, values, strict=True)],
            "arrayminus": [
                value - scale * one.low for one, value in zip(found, values, strict=True)
            ],
            "thickness": 1.2,
            "width": 3,
        },
        mode="lines+markers",
        line={"color": colours.lines[n], "width": 2, "dash": DASHES[n]},
        marker={"size": 7, "symbol": SYMBOLS[n], "color": colours.lines[n]},
        meta={"role": "line", "line": n},
        **more,
    )


def dial(curve: DialCurve, of: Callable[[DialRow], Interval], what: str, *, dark: bool = False,
         ) -> go.Figure:  # fmt: skip
    """One share at every place of the dial, beside random vectors.

    Args:
        curve: what was measured.
        of: a row's share and its interval.
        what: is shared, for the axis, in per cent.
        dark: colours for a dark page.
    """
    colours = theme(dark)
    rows = sorted(
        (row for row in curve.rows if row.alpha is not None and row.ridge is None),
        key=lambda row: row.alpha or 0.0,
    )
    places = [row.alpha or 0.0 for row in rows]
    chance = of(curve.at(None))
    hover = "α %{x:g}: %{y:.1f} %<extra>%{fullData.name}</extra>"
    ends = [places[0], places[-1]]
    figure = go.Figure(
        [
            _line(colours, 0, places, [of(row) for row in rows], name="the dial", scale=100,
                  hovertemplate=hover),
            _line(colours, 4, ends, [chance, chance], name=NAMES["random"], scale=100,
                  hovertemplate=hover),
        ]
    )  # fmt: skip
    ticks = {0.0: "0<br>head rows", 0.5: "½<br>tight frame", 1.0: "1<br>semantic bases"}
    figure.update_layout(
        base_layout(
            colours,
            height=320,
            showlegend=True,
            legend=ABOVE,
            margin={"l": 60, "r": 24, "t": 48, "b": 56},
            meta={"kind": "readings"},
            xaxis=axis(colours, "place of the dial α", tickvals=list(ticks),
                       ticktext=list(ticks.values())),
            yaxis=axis(colours, what, rangemode="tozero"),
        )
    )  # fmt: skip
    return figure


def doses(found: Doses, of: Callable[[Dose], Interval], what: str, *, scale: float = 1.0,
          dark: bool = False) -> go.Figure:  # fmt: skip
    """One figure over the dose, a line for each frame, a panel for each layer.

    Args:
        found: what was measured.
        of: the figure of a push.
        what: it is, for the axis.
        scale: what it is multiplied by.
        dark: colours for a dark page.
    """
    colours, count = theme(dark), len(found.layers)
    figure = go.Figure()
    width = (1 - _GAP * (count - 1)) / count
    layout: dict[str, Any] = {}
    for place, layer in enumerate(found.layers):
        end = "" if place == 0 else str(place + 1)
        for frame, name in NAMES.items():
            rows = [one for one in found.pushes if (one.frame, one.layer) == (frame, layer)]
            figure.add_trace(
                _line(colours, _LINES[frame], [one.dose or 0.0 for one in rows],
                      [of(one) for one in rows], name=name, scale=scale, legendgroup=frame,
                      showlegend=place == 0, xaxis=f"x{end}", yaxis=f"y{end}",
                      hovertemplate="dose %{x:g}: %{y:.3g}<extra>%{fullData.name}</extra>")
            )  # fmt: skip
        start = place * (width + _GAP)
        layout[f"xaxis{end}"] = axis(
            colours, f"dose at layer {layer}", domain=[start, start + width], anchor=f"y{end}",
            tickvals=sorted({one.dose for one in found.pushes}),
        )  # fmt: skip
        layout[f"yaxis{end}"] = axis(
            colours, what if place == 0 else "", rangemode="tozero", anchor=f"x{end}",
            **({} if place == 0 else {"matches": "y", "showticklabels": False}),
        )  # fmt: skip
    figure.update_layout(
        base_layout(
            colours,
            height=360,
            showlegend=True,
            legend=ABOVE,
            margin={"l": 60, "r": 16, "t": 64, "b": 52},
            width=_PANEL * count,
            meta={"kind": "panels"},
            **layout,
        )
    )
    return figure


def words(found: Words, *, dark: bool = False) -> go.Figure:
    """Accuracy by taught and by untaught words, a row for each frame."""
    colours = theme(dark)
    figure = go.Figure()
    titles = [NAMES[one.frame] for one in found.frames]
    for n, (name, values) in enumerate(
        (
            ("words that were taught", [one.taught for one in found.frames]),
            ("words that were not", [one.untaught for one in found.frames]),
        )
    ):
        figure.add_trace(
            go.Scatter(
                x=[100 * one.value for one in values],
                y=titles,
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * (one.high - one.value) for one in values],
                    "arrayminus": [100 * (one.value - one.low) for one in values],
                    "thickness": 1.2,
                    "width": 3,
                },
                name=name,
                mode="markers",
                line={"color": colours.lines[n]},
                marker={"size": 10, "symbol": SYMBOLS[n], "color": colours.lines[n]},
                hovertemplate="%{y}: %{x:.1f} %<extra>%{fullData.name}</extra>",
                meta={"role": "line", "line": n},
            )
        )
    figure.add_vline(x=100 * found.chance, line={"color": colours.muted, "dash": "dot"})
    figure.update_layout(
        base_layout(
            colours,
            height=250,
            showlegend=True,
            legend=ABOVE,
            margin={"l": 130, "r": 24, "t": 48, "b": 48},
            meta={"kind": "readings"},
            xaxis=axis(colours, "test texts told apart (%); dotted: always the larger class"),
            yaxis=axis(colours, "", autorange="reversed", type="category"),
        )
    )
    return figure
