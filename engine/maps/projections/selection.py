"""Principal axes of the bases on the map alone: the best plane for a few words."""

from __future__ import annotations

from dataclasses import replace

from engine.errors import OptionError
from engine.maps.axes import Axes, principal_axes_of
from engine.maps.projections.projection import Fitting, Settings, principal_names, tie_note
from engine.maps.projections.shared import SHARED


def _check(options: Settings) -> None:
    if options.vocabulary != "bases":
        raise OptionError(
            "the projection 'selection' is fitted on the bases on the map and there are none;"
            " choose vocabulary bases."
        )


def _fit(given: Fitting) -> tuple[Axes, list[str]]:
    selected, dims = given.selected(), given.options.dims
    if len(selected) <= dims:
        raise OptionError(
            f"a frame of the selection needs more than {dims} tokens and there are"
            f" {len(selected)}; select more, or choose the shared projection."
        )
    axes = principal_axes_of(selected, dims)
    return axes, tie_note(axes)


SELECTION = replace(
    SHARED,
    name="selection",
    title="selection",
    help="PCA of the selected bases alone: the best plane for a few words.",
    brief="",
    formula="y = (x − s̄)·D, D the eigenvectors of the selected bases' covariance",
    fit=_fit,
    words=lambda options: f"PCA of the {options.frame_words} bases shown, one frame for all layers",
    heading=lambda options: f"{options.frame_words} bases, axes of those shown",
    provenance=lambda options: "PCA of the selected bases",
    axis_names=lambda options, axes: principal_names(axes, "bases shown"),
    check=_check,
)
