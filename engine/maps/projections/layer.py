"""Principal axes of this layer's own points, then turned onto the bases: its shape, no movement."""

from __future__ import annotations

from engine.errors import OptionError
from engine.maps.axes import Axes, principal_axes_of, procrustes, procrustes_of_moments
from engine.maps.projections.projection import Fitting, Projection, Settings, tie_note


def _fit(given: Fitting) -> tuple[Axes, list[str]]:
    dims = given.options.dims
    own, there = given.alone()
    shared = given.shared()
    fitted = own if len(own) else given.others()
    if len(fitted) == 0:
        return shared, ["No state is on this map, so the layer's frame is the shared frame."]
    if len(fitted) <= dims:
        raise OptionError(
            f"a frame of this layer needs more than {dims} states and there are"
            f" {len(fitted)}; give more text or choose the shared projection."
        )
    axes = principal_axes_of(fitted, dims)
    if len(own):
        reference = principal_axes_of(there, dims)
        fit = procrustes(axes.place(own), reference.place(there))
    else:
        fit = procrustes_of_moments(given.moments(), axes, shared)
    notes = tie_note(axes)
    if fit.residual > 0.5:
        what = "tokens" if len(own) else "bases"
        notes.append(
            f"This layer's axes show the {what} elsewhere"
            f" ({fit.residual:.1f} map radii away), so do not compare places with other layers."
        )
    return axes.turned(fit.rotation, fit.offset), notes


def _blind_to(options: Settings, axes: Axes | None) -> str:
    return (
        "Blind to motion of the whole: each layer has its own axes, turned onto the bases, so"
        " only its shape can be compared. Blind to every direction but these"
        f" {options.dims}."
    )


LAYER = Projection(
    name="layer",
    title="per layer",
    help="PCA of each layer, turned onto the bases: its shape, no movement.",
    brief="each layer's own, turned onto the bases",
    formula="y = (x − x̄)·D·R + t, D the eigenvectors of the layer's covariance, R and t by"
    " orthogonal Procrustes",
    fit=_fit,
    words=lambda options: f"PCA of this layer, turned onto the {options.frame_words} bases",
    heading=lambda options: f"own axes, turned onto the {options.frame_words} bases",
    provenance=lambda options: "per-layer PCA with Procrustes",
    # The axes were turned: no single one of them is a principal axis any more.
    axis_names=lambda options, axes: tuple(f"turned PC {i + 1}" for i in range(options.dims)),
    blind_to=_blind_to,
    bases_move=True,
)
