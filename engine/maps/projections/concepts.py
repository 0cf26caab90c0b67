"""Concept axes: each is the basis of one token minus that of another."""

from __future__ import annotations

from engine.errors import OptionError
from engine.maps.axes import Axes, concept_axes
from engine.maps.projections.projection import Fitting, Projection, Settings


def _check(options: Settings) -> None:
    if len(options.axes) != options.dims:
        raise OptionError(
            f"the projection 'axes' needs one pair of tokens per dimension: {options.dims};"
            f" got {len(options.axes)}."
        )


def _fit(given: Fitting) -> tuple[Axes, list[str]]:
    mean = given.moments().mean
    plus, minus = (given.tokens([pair[i] for pair in given.options.axes]) for i in (0, 1))
    return concept_axes(plus, minus, mean), []


def _names(options: Settings, axes: Axes | None = None) -> tuple[str, ...]:
    return tuple(f"{a} − {b}" for a, b in options.axes)


def _blind_to(options: Settings, axes: Axes | None) -> str:
    text = f"Blind to every direction but these {options.dims} differences of tokens."
    if axes is not None:
        cosine = float(axes.directions[:, 0] @ axes.directions[:, 1])
        text += f" The first two axes are drawn at right angles; their cosine is {cosine:.2f}."
    return text


AXES = Projection(
    name="axes",
    title="by axes",
    help="Each axis is one token minus another.",
    brief="or concept axes",
    formula="y_j = (x − b̄)·a_j, a_j = (b₊ − b₋) / ‖b₊ − b₋‖",
    fit=_fit,
    words=lambda options: "; ".join(_names(options)),
    heading=lambda options: ", ".join(_names(options)),
    provenance=lambda options: "concept axes",
    axis_names=_names,
    blind_to=_blind_to,
    check=_check,
    beside=False,
)
