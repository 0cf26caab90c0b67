"""Two models on one text: where they differ, what either reads, the race, and which layers match.

Pure: a result of the engine goes in, a Plotly figure comes out. Usable from a notebook.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.figures.compare import cells_grid, heading
from app.figures.theme import (
    ABOVE,
    DASHES,
    SYMBOLS,
    axis,
    base_layout,
    colourscale,
    layer_label,
    plot_text,
    theme,
    unified,
)
from engine.compare import ModelComparison
from engine.compare.one_map import OneMap
from engine.trace.result import Floats, Ints

MEASURES = {
    "js": "Jensen–Shannon divergence (nats, ln 2 = 0.69 at most)",
    "kl": "KL(first ‖ other) (nats)",
    "overlap": "share of the most likely tokens that only one has",
    "cosine": "1 − cosine of the two states",
    "rank_in_other": "rank of the first model's answer in the other's reading",
    "rank_in_first": "rank of the other's answer in the first model's reading",
}
"""What the cells of the difference can be coloured by."""
_SCALES = {"js": "js", "kl": "nats", "overlap": "share", "cosine": "share"}


def measures(found: ModelComparison) -> dict[str, str]:
    """Those that these two models have."""
    return {k: v for k, v in MEASURES.items() if k != "cosine" or found.cosine is not None}


def values_of(found: ModelComparison, colour: str) -> Floats:
    """Of the difference, layer × pair; larger is further apart."""
    if colour == "overlap":
        return 1 - found.overlap
    if colour == "cosine":
        assert found.cosine is not None
        return 1 - found.cosine
    if colour.startswith("rank"):
        reading, whose = (1, 0) if colour == "rank_in_other" else (0, 1)
        ranks: Ints = found.ranks[reading, whose]
        return np.where(ranks > 0, ranks, np.nan).astype(np.float32)
    values: Floats = getattr(found, colour)
    return values


def difference(found: ModelComparison, colour: str = "js", *, dark: bool = False) -> go.Figure:
    """The layer × pair grid of two models: both first tokens in every cell, or one where they are
    the same.

    Args:
        found: the two models.
        colour: one of `MEASURES`; strong colour is where the two are far apart.
        dark: colours for a dark page.
    """
    return cells_grid(
        values_of(found, colour),
        _SCALES.get(colour, "ranks"),
        texts=_cells(found, lambda y, x: _both(found, y, x)),
        hovers=_cells(found, lambda y, x: _hover(found, y, x)),
        high={"js": float(np.log(2)), "overlap": 1.0}.get(colour),
        **_frame(found, None),
        dark=dark,
    )


def reading(found: ModelComparison, side: int, *, dark: bool = False) -> go.Figure:
    """What one of the two reads: its first token, coloured by the probability of it."""

    def text(y: int, x: int) -> str:
        return plot_text(_top(found, side, y, x), 11)

    def hover(y: int, x: int) -> str:
        p = float(found.top_probabilities[side][y, x, 0])
        return f"<b>{plot_text(_top(found, side, y, x), 40)}</b> {p:.3f}<br>{_where(found, y, x)}"

    return cells_grid(
        found.top_probabilities[side][..., 0],
        "share",
        texts=_cells(found, text),
        hovers=_cells(found, hover),
        high=1.0,
        **_frame(found, side),
        dark=dark,
    )


def race(found: ModelComparison, *, dark: bool = False) -> go.Figure:
    """Ranks of both answers after the last pair over the layers, by either model."""
    colours = theme(dark)
    figure = go.Figure()
    layers = [own for own, _ in found.layers]
    answers = found.answers
    same = answers[0] is not None and answers[1] is not None and answers[0].text == answers[1].text
    for side, name in enumerate(found.names):
        for whose, token in enumerate(answers):
            ranks = found.ranks[side, whose, :, -1]
            if token is None or (same and whose == 1) or not ranks.any():
                continue
            figure.add_trace(
                go.Scatter(
                    x=layers,
                    y=np.where(ranks > 0, ranks, np.nan).astype(np.float32),
                    mode="lines+markers",
                    name=f"{plot_text(token.label, 18)}, {plot_text(name, 24)}",
                    line={"color": colours.lines[whose], "width": 2, "dash": DASHES[side]},
                    marker={"size": 7, "symbol": SYMBOLS[side], "color": colours.lines[whose]},
                    hovertemplate="%{y:,}",
                    meta={"role": "line", "line": whose},
                )
            )
    ticks = layers[:: max(1, len(layers) // 12)]
    figure.update_layout(
        base_layout(
            colours,
            height=340,
            **unified(colours),
            showlegend=True,
            legend=ABOVE | {"font": {"color": colours.ink}},
            margin={"l": 60, "r": 16, "t": 64, "b": 48},
            xaxis=axis(colours, f"layer of {plot_text(found.names[0], 30)}", tickmode="array",
                       tickvals=ticks, ticktext=[layer_label(layer) for layer in ticks]),
            yaxis=axis(colours, "rank", type="log", autorange="reversed", tickmode="array",
                       tickvals=[10**n for n in range(7)],
                       ticktext=[f"{10**n:,}" for n in range(7)]),
            meta={"kind": "curves"},
        )
    )  # fmt: skip
    return figure


def alike(found: ModelComparison, *, dark: bool = False) -> go.Figure:
    """Debiased CKA of every layer of the one with every layer of the other."""
    colours = theme(dark)
    own, its = ([pair[n] for pair in found.layers] for n in (0, 1))
    names = [plot_text(name, 30) for name in found.names]
    hover = [
        [f"layer {a} and layer {b}<br>CKA {found.cka[i, j]:.3f}" for j, b in enumerate(its)]
        for i, a in enumerate(own)
    ]
    figure = go.Figure(
        go.Heatmap(
            x=list(range(len(its))), y=list(range(len(own))), z=found.cka.astype(np.float32),
            zmin=0.0, zmax=1.0, colorscale=colourscale(colours.sequential), hovertext=hover,
            hoverinfo="text", hoverongaps=False,
            colorbar={"thickness": 10, "outlinewidth": 0,
                      "tickfont": {"size": 11, "color": colours.muted}},
            meta={"role": "sequential", "reverse": False, "part": "cells"},
        )
    )  # fmt: skip

    def layers(numbers: list[int]) -> dict[str, Any]:
        step = max(1, len(numbers) // 10)
        at = list(range(0, len(numbers), step))
        shown = [layer_label(numbers[n]) for n in at]
        return {"tickmode": "array", "tickvals": at, "ticktext": shown, "showgrid": False}

    figure.update_layout(
        base_layout(
            colours,
            height=420,
            margin={"l": 64, "r": 16, "t": 24, "b": 56},
            xaxis=axis(colours, f"layer of {names[1]}", **layers(its)),
            yaxis=axis(colours, f"layer of {names[0]}", **layers(own)),
            meta={"kind": "alike"},
        )
    )
    return figure


def one_map(found: OneMap, *, dark: bool = False) -> go.Figure:
    """The words of both models, and a text's way through the layers of either, on one map."""
    colours = theme(dark)
    figure = go.Figure()
    labels = [plot_text(token.label, 24) for token in found.words]
    for side, name in enumerate(found.names):
        place = found.places[side].astype(np.float32)
        figure.add_trace(
            go.Scatter(
                x=place[:, 0], y=place[:, 1], mode="markers", text=labels,
                name=f"words, {plot_text(name, 24)}",
                marker={"size": 4, "symbol": SYMBOLS[side], "color": colours.lines[side],
                        "opacity": 0.45},
                hovertemplate="%{text}<extra></extra>", meta={"role": "line", "line": side},
            )
        )  # fmt: skip
    for side, name in enumerate(found.names):
        path = found.paths[side].astype(np.float32)
        if not len(path):
            continue
        figure.add_trace(
            go.Scatter(
                x=path[:, 0], y=path[:, 1], mode="lines+markers",
                text=[f"layer {layer}" for layer in found.layers[side]],
                name=f"the text, {plot_text(name, 24)}",
                line={"color": colours.lines[side], "width": 2, "dash": DASHES[side]},
                marker={"size": 7, "symbol": SYMBOLS[side], "color": colours.lines[side]},
                hovertemplate="%{text}<extra></extra>", meta={"role": "line", "line": side},
            )
        )  # fmt: skip
    bare = {"showgrid": False, "zeroline": False, "showticklabels": False}
    figure.update_layout(
        base_layout(
            colours,
            height=460,
            showlegend=True,
            legend=ABOVE | {"font": {"color": colours.ink}},
            margin={"l": 16, "r": 16, "t": 72, "b": 16},
            xaxis=axis(colours, "", **bare),
            yaxis=axis(colours, "", **bare, scaleanchor="x"),
            meta={"kind": "one-map"},
        )
    )
    return figure


def _cells(found: ModelComparison, draw: Any) -> dict[tuple[int, int], str]:
    rows, columns = found.js.shape
    return {(y, x): draw(y, x) for y in range(rows) for x in range(columns)}


def _frame(found: ModelComparison, side: int | None) -> dict[str, Any]:
    tokens = [one.tokens for one in found.sides]
    return {
        "columns": [
            heading(tokens[0][a], tokens[1][b])
            if side is None
            else plot_text(tokens[side][(a, b)[side]].label, 11)
            for a, b in found.pairs
        ],
        "layers": [layer_label(pair[side or 0]) for pair in found.layers],
        "about": "↑ the token that both have read to",
        "meta": {
            "layers": [a for a, _ in found.layers],
            "positions": [a for a, _ in found.pairs],
        },
    }


def _top(found: ModelComparison, side: int, y: int, x: int) -> str:
    id = int(found.top_ids[side][y, x, 0])
    return found.sides[side].token_info[id].label if id >= 0 else "–"


def _both(found: ModelComparison, y: int, x: int) -> str:
    first, other = (_top(found, side, y, x) for side in (0, 1))
    if first == other:
        return plot_text(first, 11)
    return f"{plot_text(first, 9)} | {plot_text(other, 9)}"


def _where(found: ModelComparison, y: int, x: int) -> str:
    (a, b), (p, q) = found.layers[y], found.pairs[x]
    return f"layer {a} and layer {b}, positions {p} and {q}"


def _hover(found: ModelComparison, y: int, x: int) -> str:
    if not np.isfinite(found.js[y, x]):
        return f"{_where(found, y, x)}<br>not finite: nothing is compared"
    first, other = (plot_text(_top(found, side, y, x), 40) for side in (0, 1))
    told = [
        f"<b>{first}</b> and <b>{other}</b>",
        _where(found, y, x),
        f"JS {found.js[y, x]:.4f}, KL {found.kl[y, x]:.4f} nats",
        f"{found.overlap[y, x]:.0%} of the {found.k} most likely tokens are the same",
    ]
    if found.cosine is not None:
        told.append(f"cosine of the states {found.cosine[y, x]:.3f}")
    return "<br>".join(told)
