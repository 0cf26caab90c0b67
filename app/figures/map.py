"""The Map page's figure: the points of a latent space in two or three dimensions.

Pure: a map goes in, a Plotly figure comes out. On the page the
figure travels without its points: positions come as float32 by themselves, so that a map of 30 000
points is not a megabyte of text, and a flat map's dots are drawn on a canvas under it
(static/js/map-cloud.js), because Plotly's own WebGL dots need ``eval``, which the page forbids. For
a notebook, ask for the points as well: then Plotly draws everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from app.figures.theme import Theme, axis, base_layout, plot_text, theme
from engine.maps import KINDS, PROJECTIONS, Map

HEIGHT = 640
"""Pixels of the picture."""
LIMIT_3D = 50_000
"""Points of a picture in three dimensions at most; in two there is no such limit."""
SPIKE_DISTANCE, HOVER_DISTANCE = 20, 8
"""Pixels. Plotly's own values search all points on every move of the pointer and freeze the page
where one point lies far out."""
PARTS = ("points", "texts", "border", "spokes", "lit", "halo", "path", "names")
"""The traces, the lowest first: vocabulary, text states, points beyond the border, lines to true
neighbours, what was found, the prompt's states (twice, for a light edge), and names."""
BORDER = 200
"""Points beyond the border that are marked."""
ON_CANVAS = ("points", "texts", "lit")
"""What the page's script draws itself on a flat map."""
BULK, ROOM = (0.01, 0.99), 0.06
"""Quantiles that a layout's first view is fitted to, and the room around as a share."""
PAD, PAD_OF_FEW, FEW = 0.01, 0.05, 160
"""Room around the points as a share of their range; more where few points all have names."""


def size_of(points: int) -> float:
    """The diameter of a point in pixels: the more there are, the smaller each."""
    return float(np.clip(560 / max(points, 1) ** 0.5, 2.4, 9.0))


def opacity_of(points: int) -> float:
    """How dense one point is drawn, so that a crowd is darker than its edge and still no blot."""
    return float(np.clip(2.6 / max(points, 1) ** 0.165, 0.34, 0.92))


def figure(drawn: Map, *, points: bool = False, dark: bool = False) -> go.Figure:
    """A map.

    Args:
        points: whether the points are put in; else a figure for the script that fetches them.
        dark: colours for a dark page.
    """
    colours = theme(dark)
    flat = drawn.dims == 2
    runs = {name: _run(drawn, kinds) for name, kinds in _PARTS_OF.items()}
    count = sum(len(run) for run in runs.values())
    out = go.Figure()
    for part in PARTS:
        if flat and not points and part in ON_CANVAS:
            continue
        out.add_trace(_trace(part, colours, flat, count, len(runs.get(part, ()))))
    if points:
        _place(out, drawn, runs)
    layout = _layout(drawn, colours, flat)
    layout["meta"]["dots"] = _dots(count, len(runs["points"]))
    out.update_layout(layout)
    return out


def _dots(count: int, own: int) -> dict[str, dict[str, object]]:
    """How the page draws its dots: diameters in pixels."""
    size = size_of(count)
    return {
        "points": {"size": size, "opacity": opacity_of(own), "shape": "disc"},
        "texts": {"size": max(size * 1.9, 9.0), "opacity": 0.92, "shape": "diamond"},
        "lit": {"size": max(size + 7, 12.0), "opacity": 1.0, "shape": "ring"},
        "crowd": {"size": size + 1.5, "opacity": 0.9, "shape": "mark"},
    }


_PARTS_OF = {"points": ("basis", "alone"), "path": ("prompt",), "texts": ("text",)}


def _run(drawn: Map, kinds: Sequence[str]) -> npt.NDArray[np.intp]:
    """The indices of the points of some kinds."""
    return np.flatnonzero(np.isin(drawn.points.kind, [KINDS.index(kind) for kind in kinds]))


def _trace(part: str, colours: Theme, flat: bool, count: int, own: int) -> Any:
    """One part without its points."""
    dots = go.Scattergl if flat and part != "border" else go.Scatter if flat else go.Scatter3d
    drawn = go.Scatter if flat else go.Scatter3d
    empty: dict[str, Any] = {"x": [], "y": []} if flat else {"x": [], "y": [], "z": []}
    # What is under the pointer of a flat map is looked up by the page, not by Plotly.
    seen = not flat and part in ("points", "texts", "path")
    common: dict[str, Any] = {"hoverinfo": "none" if seen else "skip", "showlegend": False, **empty}
    size = size_of(count) * (1.0 if flat else 0.6)
    if part == "points":
        marker = {"size": size, "opacity": opacity_of(own), "color": colours.lines[0],
                  "line": {"width": 0}}  # fmt: skip
        return dots(mode="markers", marker=marker, meta={"part": part}, **common)
    if part == "texts":
        edge = {"width": 0.8 if flat else 0, "color": colours.surface}
        marker = {"size": max(size * 1.7, 5.5), "opacity": 0.9, "symbol": "diamond",
                  "color": colours.lines[5], "line": edge}  # fmt: skip
        return dots(mode="markers", marker=marker, meta={"part": part}, **common)
    if part == "border":
        marker = {"size": 11, "symbol": "diamond-open", "color": colours.mark}
        return dots(mode="markers", marker=marker, meta={"part": part, "role": "mark"}, **common)
    if part == "lit":
        marker = {"size": max(size + 5, 9), "symbol": "circle-open", "color": colours.mark,
                  "line": {"width": 1.6, "color": colours.mark}}  # fmt: skip
        return dots(mode="markers", marker=marker, meta={"part": part}, **common)
    if part == "spokes":
        line = {"width": 1.2 if flat else 2, "color": colours.ink, "dash": "dot"}
        return drawn(mode="lines", line=line, opacity=0.75, meta={"part": part}, **common)
    if part == "halo":
        line = {"width": 6 if flat else 1, "color": colours.surface}
        return drawn(mode="lines", line=line, opacity=0.85 if flat else 0, meta={"part": part},
                     **common)  # fmt: skip
    font = {"size": 11.5, "color": colours.ink}
    if part == "path":
        marker = {"size": 10 if flat else 5, "color": colours.mark,
                  "line": {"width": 1.6, "color": colours.surface}}  # fmt: skip
        # Plotly pales what an outline leaves out; here the server's answer is lit instead.
        keep = {"unselected": {"marker": {"opacity": 1}}} if flat else {}
        return drawn(mode="lines+markers+text", **keep, text=[], textposition="top center",
                     textfont={**font, "size": 13}, marker=marker,
                     line={"width": 2 if flat else 4, "color": colours.mark},
                     meta={"part": part}, **common)  # fmt: skip
    # Unseen dots as large as those on the canvas keep the names above them.
    room = {"size": size_of(count) + 1, "opacity": 0, "color": colours.ink}
    return drawn(mode="markers+text" if flat else "text", text=[], textposition="top center",
                 textfont=font, marker=room if flat else None, meta={"part": part},
                 **common)  # fmt: skip


def _place(out: go.Figure, drawn: Map, runs: Mapping[str, npt.NDArray[np.intp]]) -> None:
    """Put the points in."""
    border = drawn.border.indices[:BORDER]
    rows: dict[str, npt.NDArray[Any]] = {**runs, "halo": runs["path"], "border": border}
    for trace in out.data:
        part = trace.meta["part"]
        if part not in rows:
            continue
        at = drawn.border.clipped[rows[part]]
        trace.update({name: at[:, i] for i, name in enumerate("xyz"[: at.shape[1]])})
        if part == "path":
            trace.text = [plot_text(drawn.points.label(i), 16) for i in rows[part].tolist()]


def padded(low: float, high: float, pad: float = PAD) -> list[float]:
    """A range with some room around it; one point has room as well."""
    room = (high - low) * pad or max(abs(high), 1.0) * pad
    return [low - room, high + room]


def _bulk(drawn: Map) -> list[list[float]]:
    """What is seen of a layout at first: a few far groups would leave little room for the rest;
    who zooms out sees them."""
    if drawn.n < FEW:
        return drawn.border.range
    first, last = np.quantile(drawn.border.clipped.astype(np.float64), BULK, axis=0)
    room = ROOM * (last - first)
    pairs = zip(first - room, last + room, drawn.border.range, strict=True)
    return [[max(float(a), low), min(float(b), high)] for a, b, (low, high) in pairs]


def _short(title: str) -> str:
    """An axis title that is not cut off where it runs along a turned axis."""
    name, bracket, share = title.partition(" (")
    return f"{name} ({share.partition(' of ')[0]})" if bracket else name


def _layout(drawn: Map, colours: Theme, flat: bool) -> dict[str, Any]:
    titles = [plot_text(title, 70) for title in drawn.axis_names]
    pad = PAD_OF_FEW if drawn.n <= FEW else PAD
    layout = PROJECTIONS[drawn.options.projection].layout is not None
    limits = _bulk(drawn) if layout else drawn.border.range
    ranges = [padded(low, high, pad) for low, high in limits]
    common: dict[str, Any] = {
        "height": HEIGHT,
        "showlegend": False,
        "hovermode": "closest",
        "spikedistance": SPIKE_DISTANCE,
        "hoverdistance": HOVER_DISTANCE,
        "uirevision": "map",
        "meta": {"kind": "map", "dims": drawn.dims},
    }
    if not flat:
        side = {
            "showbackground": False, "gridcolor": colours.rule, "zeroline": False,
            "showticklabels": False, "showspikes": False, "linecolor": colours.rule,
        }  # fmt: skip
        scene: dict[str, Any] = {
            f"{name}axis": {**side, "range": pair, "title": {
                "text": _short(title), "font": {"size": 11, "color": colours.muted}}}
            for name, title, pair in zip("xyz", titles, ranges, strict=True)
        }  # fmt: skip
        scene |= {"aspectmode": "cube", "dragmode": "orbit",
                  "camera": {"eye": {"x": 1.45, "y": 1.45, "z": 0.9}}}  # fmt: skip
        return base_layout(colours, **common, scene=scene, margin={"l": 0, "r": 0, "t": 0, "b": 0})
    quiet = {
        "fixedrange": False, "showgrid": False, "nticks": 6, "showspikes": False, "mirror": True,
        "showline": True, "automargin": False, "ticks": "", "zeroline": True,
        "zerolinecolor": colours.rule, "zerolinewidth": 1,
    }  # fmt: skip
    xaxis = axis(colours, titles[0], **quiet, range=ranges[0])
    # One unit is as long upwards as sideways: distances on the picture are those of the projection.
    yaxis = axis(colours, titles[1], **quiet, range=ranges[1], scaleanchor="x", scaleratio=1)
    for one in (xaxis, yaxis):
        one["tickfont"]["size"] = 10
        one["title"]["standoff"] = 4
        one["visible"] = not layout  # they mean nothing there
    margin = {"l": 46, "r": 8, "t": 8, "b": 40}
    if layout:
        margin = dict.fromkeys(margin, 0)
    return base_layout(
        colours, **common, xaxis=xaxis, yaxis=yaxis, margin=margin, dragmode="pan",
        newselection={"line": {"color": colours.mark, "width": 1.5, "dash": "solid"}},
        activeselection={"fillcolor": colours.mark, "opacity": 0.08},
    )  # fmt: skip
