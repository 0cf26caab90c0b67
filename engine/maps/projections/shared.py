"""Principal axes of all bases, fitted once and used for every layer, prompt and text."""

from __future__ import annotations

from engine.maps.axes import Axes
from engine.maps.projections.projection import Fitting, Projection, principal_names, tie_note


def _fit(given: Fitting) -> tuple[Axes, list[str]]:
    axes = given.shared()
    return axes, tie_note(axes)


SHARED = Projection(
    name="shared",
    title="shared",
    help="PCA of the bases, once, for all layers: exact, and movement is movement.",
    brief="One linear frame for all layers, of all bases or of the bases on the map",
    formula="y = (x − b̄)·D, D the eigenvectors of the bases' covariance",
    fit=_fit,
    words=lambda options: f"PCA of the {options.frame_words} bases, one frame for all layers",
    heading=lambda options: f"{options.frame_words} bases, shared axes",
    provenance=lambda options: "shared linear projection",
    axis_names=lambda options, axes: principal_names(axes, "bases"),
    blind_to=lambda options, axes: (
        f"Only {options.dims} directions are drawn. If a layer turned the whole space, it would"
        " look like movement."
    ),
    motion=lambda median, floor: " A change of basis of the whole space would look the same.",
)
