"""A map as a picture for print and slides: PNG and SVG by Matplotlib.

A picture stands alone: its title says what is drawn, the sentences under it how true it is, the
foot where it comes from. Labels are placed so that none covers another. Text is drawn as it is,
never read as mathematics, and an SVG holds outlines, so it looks the same everywhere. Beyond some
thousand points an SVG holds the cloud as an embedded picture; the labels stay sharp.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from app.figures.theme import Theme, theme
from app.maps.files.drawing import (
    Drawing,
    class_colours,
    provenance,
    spread_out,
    whole_words,
)
from app.maps.files.embed import with_numbers_png, with_numbers_svg
from app.maps.files.fonts import drawable, families, shown, width_of, wrapped
from app.maps.files.scales import STEPS, UNKNOWN, Scale, ramp, stepped
from engine.maps import KINDS

Format = Literal["svg", "png"]
WIDTHS, HEIGHTS = (400, 2400), (300, 1800)
"""Least and most pixels that may be asked for."""
_VECTORS = 3_000
"""Up to this many points of the cloud an SVG holds each as a shape."""
_SCALE = 2
"""Pixels of a PNG per pixel asked for: sharp on paper and on dense screens."""
_PLACES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8))
_RADII = (9.0, 17.0, 28.0, 42.0, 58.0)
"""Distances of a label from its point, in pixels; beyond the first a thin line leads there."""
# Matplotlib's settings and fonts are the process's; one picture at a time keeps them right.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Look:
    """How a picture is drawn."""

    format: Format = "svg"
    width: int = 1200
    """In pixels; a PNG has twice as many, for sharpness."""
    height: int = 800
    dark: bool = False


def draw(drawing: Drawing, look: Look, data: bytes = b"") -> bytes:
    """The picture as the bytes of a file.

    Args:
        look: format, size and colours.
        data: the map's numbers as text; they travel inside the file, so that it can be verified.
    """
    import matplotlib as mpl

    settings: Any = {
        "font.family": list(families()),
        "svg.fonttype": "path",
        "svg.hashsalt": "lexiscope",  # the same picture gives the same bytes
        "path.simplify": False,
        "axes.unicode_minus": True,
    }
    # It would say at each start which fallback font has no bold cut.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with _LOCK, mpl.rc_context(settings):
        body = _Picture(drawing, look).save()
    embed = with_numbers_svg if look.format == "svg" else with_numbers_png
    return embed(body, drawing, data)


class _Picture:
    """One picture in the making; pixels count from the lower left corner."""

    def __init__(self, drawing: Drawing, look: Look) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.map, self.look = drawing.map, look
        self.said, self.paint = drawing.said, drawing.paint
        if self.paint is not None and not self.paint.names:
            self.steps, self.scales = stepped(self.paint.values, drawing.map.points.kind)
        self.places, self.outside = drawing.map.border.clipped, drawing.map.border.outside
        self.in_prompt = drawing.map.points.kind == KINDS.index("prompt")
        self.path = np.flatnonzero(self.in_prompt)
        self.colours: Theme = theme(look.dark)
        self.figure = Figure((look.width / 100, look.height / 100), dpi=100)
        self.figure.set_facecolor(self.colours.surface)
        # Only measures and places; the file is drawn by `save`.
        self.canvas = FigureCanvasAgg(self.figure)
        self.taken: list[tuple[float, float, float, float]] = []

    def save(self) -> bytes:
        bottom = self._foot()
        top = self._head()
        left, right = 58, self.look.width - (196 if self._has_legend() else 28)
        axes = self._axes(left, bottom + 46, right, top - 14)
        self._legend(right + 22, top - 18)
        self._cloud(axes)
        if self.map.dims == 3:
            canvas: Any = self.canvas
            canvas.draw()  # the point of view is settled only now, and labels need it
        self._path(axes)
        self._words(axes)
        out = io.BytesIO()
        more: dict[str, Any] = {"metadata": {"Date": None}} if self.look.format == "svg" else {}
        dpi = 100 * _SCALE if self.look.format == "png" else 200
        self.figure.savefig(
            out, format=self.look.format, dpi=dpi, facecolor=self.colours.surface, **more
        )
        return out.getvalue()

    # Text around the map

    def _text(self, x: float, y: float, text: str, size: float, colour: str, **more: Any) -> None:
        self.figure.text(
            x / self.look.width,
            y / self.look.height,
            drawable(text),
            fontsize=size * 0.72,  # a point is 1/72 inch and a pixel here 1/100
            color=colour,
            parse_math=False,
            **more,
        )

    def _head(self) -> float:
        """The title and what is said of the map; returns the height that is left under it."""
        y = self.look.height - 22.0
        room = self.look.width - 56
        for line in wrapped(self.map.title, 17, room, most=2):
            self._text(28, y, line, 17, self.colours.ink, va="top", weight="bold")
            y -= 24
        y -= 3
        for n, sentence in enumerate(self.said):
            colour = self.colours.ink if n == 0 else self.colours.muted
            for line in wrapped(sentence, 12.5, room, most=2):
                self._text(28, y, line, 12.5, colour, va="top")
                y -= 17.5
        return y

    def _foot(self) -> float:
        """The provenance line; returns the height of its upper edge."""
        lines = wrapped(provenance(self.map), 9.5, self.look.width - 56, most=3)
        y = 14 + 13.0 * (len(lines) - 1)
        upper = y + 14
        for line in lines:
            self._text(28, y, line, 9.5, self.colours.muted, va="baseline")
            y -= 13
        return upper

    # The map

    def _axes(self, left: float, bottom: float, right: float, top: float) -> Any:
        width, height = self.look.width, self.look.height
        bottom = min(bottom, top - 60)  # a low picture with many sentences still has a map
        box = (left / width, bottom / height, (right - left) / width, (top - bottom) / height)
        flat = self.map.dims == 2
        axes: Any = self.figure.add_axes(box, projection=None if flat else "3d")
        axes.set_facecolor(self.colours.surface)
        axes.tick_params(colors=self.colours.muted, labelsize=7.5, length=0, pad=4 if flat else 0)
        names = [drawable(one) for one in self.map.axis_names]
        style = {"color": self.colours.muted, "fontsize": 8.5, "parse_math": False}
        axes.set_xlabel(names[0], labelpad=5 if flat else 2, **style)
        axes.set_ylabel(names[1], labelpad=4 if flat else 2, **style)
        if flat:
            for spine in axes.spines.values():
                spine.set_color(self.colours.rule)
            axes.grid(color=self.colours.rule, linewidth=0.6)
            axes.set_axisbelow(True)
        else:
            axes.set_zlabel(names[2], labelpad=2, **style)
            for one in (axes.xaxis, axes.yaxis, axes.zaxis):
                one.set_pane_color(self.colours.surface)
                one.line.set_color(self.colours.rule)
                one._axinfo["grid"].update(color=self.colours.rule, linewidth=0.6)
            axes.view_init(elev=22, azim=-58)
        room = (right - left, top - bottom)
        ranges = _same_scale(self.map.border.range, room) if flat else self.map.border.range
        setters = (axes.set_xlim, axes.set_ylim, *(() if flat else (axes.set_zlim,)))
        for limit, (low, high) in zip(setters, ranges, strict=True):
            limit(low, high)
        return axes

    def _points(self, axes: Any, index: Any, **style: Any) -> None:
        places = self.places[index]
        axes.scatter(*(places[:, i] for i in range(self.map.dims)), linewidths=0, **style)

    def _cloud(self, axes: Any) -> None:
        """Everything but the prompt's tokens; rare categories and far points come on top."""
        colours = self.colours
        cloud = np.flatnonzero(~self.in_prompt)
        size = float(np.clip(30_000 / max(len(cloud), 1), 3.0, 26.0))
        style: dict[str, Any] = {
            "s": size,
            "alpha": float(np.clip(3_000 / max(len(cloud), 1), 0.35, 0.85)),
            "rasterized": len(cloud) > _VECTORS,
        }
        inside = cloud[~self.outside[cloud]]
        border = cloud[self.outside[cloud]]
        if self.paint is None:
            self._points(axes, inside, color=colours.lines[0], **style)
        elif self.paint.names:
            by_class = class_colours(self.paint, colours)
            # The rarest come last, so that no crowd covers them.
            for code in np.argsort(-np.asarray(self.paint.counts), kind="stable").tolist():
                these = inside[self.paint.values[inside] == code]
                self._points(axes, these, color=by_class[code], **style)
        else:
            unknown = self.steps[inside] == UNKNOWN
            self._points(axes, inside[unknown], color=colours.rule, **style)
            known = inside[~unknown]
            if len(known):
                self._points(
                    axes, known, c=self.steps[known], cmap=ramp(colours), vmin=-0.5,
                    vmax=STEPS - 0.5, **style,
                )  # fmt: skip
        if len(border):
            places = self.places[border]
            axes.scatter(
                *(places[:, i] for i in range(self.map.dims)), marker="D", s=max(size, 16),
                facecolors="none", edgecolors=colours.muted, linewidths=0.9, clip_on=False,
            )  # fmt: skip

    def _path(self, axes: Any) -> None:
        """The prompt's tokens, joined in reading order, with their texts."""
        colours, path = self.colours, self.path
        if len(path) == 0:
            return
        places = self.places[path]
        columns = [places[:, i] for i in range(self.map.dims)]
        # From pale to strong, so that the order of reading shows.
        for n in range(len(path) - 1):
            axes.plot(
                *(c[n : n + 2] for c in columns), color=colours.mark, linewidth=1.3,
                alpha=0.3 + 0.6 * (n + 1) / (len(path) - 1), zorder=5, solid_capstyle="round",
            )  # fmt: skip
        out = self.outside[path]
        for marker, these in (("o", ~out), ("D", out)):
            if these.any():
                axes.scatter(
                    *(c[these] for c in columns), marker=marker, s=34, color=colours.mark,
                    edgecolors=colours.surface, linewidths=1.1, zorder=6, clip_on=False,
                )  # fmt: skip
        pixels = self._pixels(axes, places)
        self.taken += [(x - 4, y - 4, x + 4, y + 4) for x, y in pixels]
        for n, (index, place) in enumerate(zip(path, pixels, strict=True)):
            weight = "bold" if n == len(path) - 1 else "medium"
            self._label(
                axes, shown(self.map.points.label(int(index))), place, 11.5, colours.ink, weight, 7
            )

    def _words(self, axes: Any) -> None:
        """A few words spread over the cloud, so that a reader knows where they are."""
        chosen = np.flatnonzero(whole_words(self.map) & ~self.outside)
        pixels = self._pixels(axes, self.places[chosen])
        flat = np.full((len(self.places), 2), np.nan, dtype=np.float32)
        flat[chosen] = pixels
        for index in spread_out(flat, chosen, 7):
            place = (float(flat[index, 0]), float(flat[index, 1]))
            text = shown(self.map.points.label(int(index)))
            self._label(axes, text, place, 10, self.colours.muted, "normal", 4, near=True)

    def _pixels(self, axes: Any, places: Any) -> Any:
        if len(places) == 0:
            return np.empty((0, 2))
        if self.map.dims == 3:
            from mpl_toolkits.mplot3d import proj3d

            x, y, _ = proj3d.proj_transform(*places.T, axes.get_proj())
            places = np.stack([x, y], 1)
        return axes.transData.transform(places)

    def _label(
        self, axes: Any, text: str, place: Sequence[float], size: float, colour: str, weight: str,
        order: int, *, near: bool = False,
    ) -> None:  # fmt: skip
        """A text beside its point where nothing stands yet; none where there is no room."""
        from matplotlib.patheffects import withStroke

        text = drawable(text if len(text) <= 22 else text[:21] + "…")
        wide, high = width_of(text, size) + 2, size * 1.12
        frame = axes.bbox
        for radius in _RADII[:1] if near else _RADII:
            for right, up in _PLACES:
                x = place[0] + right * radius + wide * (right / abs(right) - 1 if right else -1) / 2
                y = place[1] + up * radius - high / 2
                box = (x, y, x + wide, y + high)
                inside = frame.x0 < x and x + wide < frame.x1 and frame.y0 < y < frame.y1 - high
                if not inside or any(_overlap(box, other) for other in self.taken):
                    continue
                self.taken.append(box)
                if radius > _RADII[1]:
                    end = (min(max(place[0], x), x + wide), min(max(place[1], y), y + high))
                    axes.annotate(
                        "", end, place, xycoords="figure pixels", textcoords="figure pixels",
                        arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.7},
                        annotation_clip=False, zorder=order,
                    )  # fmt: skip
                halo = [withStroke(linewidth=2.6, foreground=self.colours.surface)]
                self.figure.text(
                    (x + 1) / self.look.width, (y + high * 0.2) / self.look.height, text,
                    fontsize=size * 0.72, color=colour, weight=weight, parse_math=False,
                    path_effects=halo, zorder=order,
                )  # fmt: skip
                return

    # The legend

    def _has_legend(self) -> bool:
        return self.paint is not None or len(self.path) > 0

    def _legend(self, x: float, y: float) -> None:
        from matplotlib.lines import Line2D

        def sign(at: float, colour: str, marker: str, hollow: bool = False) -> None:
            self.figure.add_artist(
                Line2D(
                    [(x + 6) / self.look.width], [(at + 4) / self.look.height], marker=marker,
                    markersize=5, linestyle="none", markeredgewidth=0.9,
                    markerfacecolor="none" if hollow else colour,
                    markeredgecolor=colour if hollow else "none",
                )
            )  # fmt: skip

        if self.paint is not None:
            for line in wrapped(self.paint.caption, 10.5, 160, most=5):
                self._text(x, y, line, 10.5, self.colours.muted)
                y -= 14
            y -= 8
            for scale in () if self.paint.names else self.scales:
                y = self._scale(x, y, scale)
            both = zip(
                self.paint.names, self.paint.counts, class_colours(self.paint, self.colours),
                strict=False,
            )  # fmt: skip
            for name, count, colour in both:
                sign(y, colour, "o")
                shown = name if len(name) <= 18 else name[:17] + "…"
                self._text(x + 17, y, shown, 11.5, self.colours.ink)
                self._text(
                    self.look.width - 28, y, f"{count:,}", 10.5,
                    self.colours.muted, ha="right",
                )  # fmt: skip
                y -= 19
            y -= 8
        if len(self.path):
            sign(y, self.colours.mark, "o")
            self._text(x + 17, y, "tokens of the prompt,", 11.5, self.colours.ink)
            y -= 15
            self._text(x + 17, y, "joined in reading order", 11.5, self.colours.ink)
            y -= 21
        far = int(self.outside.sum())
        if far:
            sign(y, self.colours.muted, "D", hollow=True)
            self._text(x + 17, y, "lies further out; drawn", 11.5, self.colours.ink)
            y -= 15
            self._text(x + 17, y, f"at the border ({far:,})", 11.5, self.colours.ink)

    def _scale(self, x: float, y: float, scale: Scale) -> float:
        """A strip of colour with its ends; returns where to go on."""
        if len(self.scales) > 1:
            self._text(x, y, scale.name, 10.5, self.colours.ink, weight="bold")
            y -= 16
        box = (x / self.look.width, (y - 4) / self.look.height, 150 / self.look.width,
            10 / self.look.height)  # fmt: skip
        strip: Any = self.figure.add_axes(box)
        strip.imshow(np.arange(STEPS)[None], aspect="auto", cmap=ramp(self.colours))
        strip.set_axis_off()
        self._text(x, y - 20, f"{scale.low:.4g}", 10.5, self.colours.ink)
        self._text(x + 150, y - 20, f"{scale.high:.4g}", 10.5, self.colours.ink, ha="right")
        if not scale.ranked:
            return y - 46
        self._text(x, y - 35, f"by rank: half below {scale.middle:.4g}", 10.5, self.colours.muted)
        return y - 61


def _same_scale(
    ranges: Sequence[Sequence[float]], room: tuple[float, float]
) -> tuple[tuple[float, float], ...]:
    """The ranges widened about their middle, so that a unit is as long across as it is up."""
    unit = max((high - low) / size for (low, high), size in zip(ranges, room, strict=True)) or 1.0
    half = [unit * size / 2 for size in room]
    middle = [(low + high) / 2 for low, high in ranges]
    return tuple((m - h, m + h) for m, h in zip(middle, half, strict=True))


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
