"""The Bases page's figure: how a token's neighbours fall off in every frame.

Pure: results of the engine go in, a Plotly figure comes out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.figures.theme import (
    ABOVE,
    DASHES,
    SYMBOLS,
    axis,
    base_layout,
    plot_text,
    score_name,
    theme,
)
from engine.bases.token_basis import TokenBasis


def neighbours(bases: Sequence[TokenBasis], *, dark: bool = False) -> go.Figure:
    """Score against rank of the nearest tokens, one line per frame.

    A line that drops steeply and then runs flat has a few close neighbours; a flat one stands
    alone. The random frame shows what chance looks like.

    Args:
        bases: the same token in several frames, by one geometry.
        dark: colours for a dark page.
    """
    colours = theme(dark)
    figure = go.Figure()
    for i, basis in enumerate(bases):
        n = i % len(colours.lines)
        figure.add_trace(
            go.Scatter(
                x=list(range(1, len(basis.neighbours) + 1)),
                y=np.asarray([hit.score for hit in basis.neighbours], dtype=np.float32),
                text=[plot_text(hit.token.label, 24) for hit in basis.neighbours],
                name=basis.frame,
                mode="lines+markers",
                line={"color": colours.lines[n], "width": 2, "dash": DASHES[n]},
                marker={"size": 7, "symbol": SYMBOLS[n], "color": colours.lines[n]},
                hovertemplate="<b>%{text}</b><br>%{y:.4f}",
                meta={"role": "line", "line": n},
            )
        )
    geometry = bases[0].geometry if bases else "cosine"
    figure.update_layout(
        base_layout(
            colours,
            height=320,
            showlegend=True,
            legend=ABOVE,
            margin={"l": 60, "r": 16, "t": 36, "b": 48},
            xaxis=axis(colours, "neighbour (1 is nearest)", dtick=1),
            yaxis=axis(colours, score_name(geometry)),
            meta={"kind": "neighbours"},
        )
    )
    return figure
