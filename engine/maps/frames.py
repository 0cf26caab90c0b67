"""The frames of maps: axes fitted on the bases of a space, and axes of one layer turned onto them.

:mod:`engine.maps.projection` holds the mathematics; here it meets a model's bases, none of which
is written out: their moments say all that a fit needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.errors import NonFiniteError, OptionError
from engine.maps.options import MapOptions
from engine.maps.points import Doubles, Floats, Longs, Space
from engine.maps.preprocessing import (
    Moments,
    Treatment,
    moments_of,
    moments_of_bases,
    treat_bases,
    treat_states,
    treated_moments,
)
from engine.maps.projection import (
    Axes,
    concept_axes,
    principal_axes,
    procrustes,
    procrustes_of_moments,
)
from engine.progress import Check

_BLOCK = 8192


@dataclass(frozen=True)
class Ground:
    """All bases of one frame after one preprocessing."""

    treatment: Treatment
    moments: Moments
    """After the treatment."""


class Landscape:
    """Frames of maps of one space; each is fitted once."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._raw: dict[str, Moments] = {}
        self._grounds: dict[tuple[str, str], Ground] = {}
        self._shared: dict[tuple[str, str, int], Axes] = {}

    def bases(self, frame: str, preprocessing: str, check: Check) -> Ground:
        """What is done to the bases of a frame, and their moments afterwards."""
        key = (frame, preprocessing)
        if key not in self._grounds:
            chosen = self.space.frame(frame)
            if preprocessing == "unit":
                treatment = treat_bases(None, preprocessing)
                moments = moments_of_bases(chosen, unit=True, check=check)
            else:
                if frame not in self._raw:
                    self._raw[frame] = moments_of_bases(chosen, unit=False, check=check)
                treatment = treat_bases(self._raw[frame], preprocessing)
                moments = treated_moments(self._raw[frame], treatment)
            self._grounds[key] = Ground(treatment, moments)
        return self._grounds[key]

    def states(self, vectors: Floats, preprocessing: str) -> Treatment:
        """What is done to the states shown."""
        return treat_states(vectors, preprocessing)

    def shared(self, frame: str, preprocessing: str, dims: int, check: Check) -> Axes:
        """Frame A: principal axes of all bases of a frame, the same for everything."""
        key = (frame, preprocessing, dims)
        if key not in self._shared:
            ground = self.bases(frame, preprocessing, check)
            self._shared[key] = principal_axes(ground.moments, dims)
        return self._shared[key]

    def axes(
        self,
        options: MapOptions,
        states: Floats,
        *,
        alone: int,
        reference: Floats | None,
        selected: Floats | None = None,
        check: Check,
    ) -> tuple[Axes, list[str]]:
        """The axes of a map (not of UMAP), and warnings about them.

        Args:
            options: projection, frame, preprocessing, dims.
            states: the states shown, after preprocessing (m × d); tokens alone come first.
            alone: how many of them are tokens alone.
            reference: those tokens at the last layer, after preprocessing.
            selected: the bases on the map, after preprocessing, for the projection ``selection``.
            check: raises to stop.

        Raises:
            OptionError: too few points, or all of them equal.
        """
        dims = options.dims
        if options.projection == "axes":
            return self._concept(options, check), []
        if options.projection == "selection":
            assert selected is not None
            if len(selected) <= dims:
                raise OptionError(
                    f"a frame of the selection needs more than {dims} tokens and there are"
                    f" {len(selected)}; select more, or choose the shared projection."
                )
            chosen = principal_axes(moments_of(selected), dims)
            return chosen, _tie_note(chosen)
        a = self.shared(options.frame, options.preprocessing, dims, check)
        if options.projection == "shared":
            return a, _tie_note(a)
        fitted = states[:alone] if alone else states
        if len(fitted) == 0:
            return a, ["No state is on this map, so the layer's frame is the shared frame."]
        if len(fitted) <= dims:
            raise OptionError(
                f"a frame of this layer needs more than {dims} states and there are"
                f" {len(fitted)}; give more text or choose the shared projection."
            )
        own = principal_axes(moments_of(fitted), dims)
        if reference is not None and alone:
            there = principal_axes(moments_of(reference), dims)
            fit = procrustes(own.place(fitted), there.place(reference))
        else:
            ground = self.bases(options.frame, options.preprocessing, check)
            fit = procrustes_of_moments(ground.moments, own, a)
        notes = _tie_note(own)
        if fit.residual > 0.5:
            what = "tokens" if reference is not None and alone else "bases"
            notes.append(
                f"This layer's axes show the {what} elsewhere"
                f" ({fit.residual:.1f} map radii away), so do not compare places with other layers."
            )
        return own.turned(fit.rotation, fit.offset), notes

    def place_bases(self, options: MapOptions, ids: Longs, axes: Axes, check: Check) -> Floats:
        """Coordinates of some bases (n × dims), without writing them out.

        y_i = ((M·x_i·f − o)·s / ‖·‖ − c)·D + t: M, the scales s and the directions D become one
        d × dims matrix.
        """
        frame = self.space.frame(options.frame)
        treatment = self.bases(options.frame, options.preprocessing, check).treatment
        directions: Doubles = axes.directions
        if treatment.factor is not None:
            directions = directions * treatment.factor[:, None]
        start = np.zeros(axes.dims)
        if treatment.offset is not None:
            start = treatment.offset @ directions
        matrix = torch.from_numpy(np.ascontiguousarray(directions))
        if frame.transform is not None:
            matrix = frame.transform @ matrix
        matrix = matrix * frame.factor
        rest = axes.offset - axes.centre @ axes.directions
        out = np.empty((len(ids), axes.dims), dtype=np.float32)
        whole = len(ids) == frame.size
        for first in range(0, len(ids), _BLOCK):
            check()
            some = ids[first : first + _BLOCK]
            stop = first + len(some)
            rows = frame.block(first, stop) if whole else frame.gather(torch.from_numpy(some))
            y: Doubles = (rows.cpu().double() @ matrix).numpy() - start
            if treatment.unit:
                norms = frame.norms.cpu()[torch.from_numpy(some)].double().numpy()[:, None]
                y /= np.where(norms > 0, norms, 1.0)
            out[first:stop] = y + rest
        if not np.isfinite(out).all():
            raise NonFiniteError(
                f"some bases of the frame {options.frame!r} hold NaN or infinity, so they have no"
                " place on a map."
            )
        return out

    def _concept(self, options: MapOptions, check: Check) -> Axes:
        ground = self.bases(options.frame, options.preprocessing, check)
        plus, minus = (
            self._vectors(options, [pair[i] for pair in options.axes], ground) for i in (0, 1)
        )
        return concept_axes(plus, minus, ground.moments.mean)

    def _vectors(self, options: MapOptions, words: Sequence[str], ground: Ground) -> Doubles:
        ids = [self.space.find_token(w) for w in words]
        vectors: Doubles = self.space.frame(options.frame).vectors(ids).numpy()
        return ground.treatment.exact(vectors)


def _tie_note(axes: Axes) -> list[str]:
    if not axes.tied:
        return []
    return [
        "Two neighbouring principal axes hold nearly the same variance: which of them comes first,"
        " and how they lie, is not to be relied on."
    ]
