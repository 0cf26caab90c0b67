"""The bases of a space as maps need them: their moments, their shared axes, their places.

:mod:`engine.maps.axes` holds the mathematics; here it meets a model's bases, none of which is
written out: their moments say all that a fit needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.errors import NonFiniteError
from engine.frames.frame import Frame
from engine.maps.arrays import Doubles, Floats, Longs
from engine.maps.axes import Axes, principal_axes
from engine.maps.options import MapOptions
from engine.maps.points import Space
from engine.maps.preprocessing import (
    PREPROCESSINGS,
    Moments,
    Treatment,
    moments_of_bases,
    treat_bases,
    treated_moments,
)
from engine.progress import Check
from engine.reading.read import Reading, read

_BLOCK = 8192
_PLACED = 1024
"""Rows that are placed at once: they stay in the processor's cache for all axes."""


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
            if PREPROCESSINGS[preprocessing].unit:
                treatment = treat_bases(None, preprocessing)
                moments = moments_of_bases(chosen, unit=True, check=check)
            else:
                if frame not in self._raw:
                    self._raw[frame] = moments_of_bases(chosen, unit=False, check=check)
                treatment = treat_bases(self._raw[frame], preprocessing)
                moments = treated_moments(self._raw[frame], treatment)
            self._grounds[key] = Ground(treatment, moments)
        return self._grounds[key]

    def treatment(self, frame: str, preprocessing: str, check: Check) -> Treatment:
        """What is done to the bases of a frame; no moments of theirs where none are needed."""
        if PREPROCESSINGS[preprocessing].centred:
            return self.bases(frame, preprocessing, check).treatment
        return treat_bases(None, preprocessing)

    def shared(self, frame: str, preprocessing: str, dims: int, check: Check) -> Axes:
        """Frame A: principal axes of all bases of a frame, the same for everything."""
        key = (frame, preprocessing, dims)
        if key not in self._shared:
            ground = self.bases(frame, preprocessing, check)
            self._shared[key] = principal_axes(ground.moments, dims)
        return self._shared[key]

    def place_bases(
        self, options: MapOptions, ids: Longs, axes: Sequence[Axes], check: Check
    ) -> list[Floats]:
        """Coordinates of some bases (n × dims) on each of some axes, without writing them out and
        in one pass over the rows.

        y_i = ((M·x_i·f − o)·s / ‖·‖ − c)·D + t: M, the scales s and the directions D become one
        d × dims matrix. Each axes' product is one by itself, so its bits do not depend on what
        else is placed.
        """
        frame = self.space.frame(options.frame_key)
        treatment = self.bases(options.frame_key, options.preprocessing, check).treatment
        maps = [_affine(frame, treatment, one) for one in axes]
        found = [np.empty((len(ids), one.dims), dtype=np.float32) for one in axes]
        whole = len(ids) == frame.size
        lengths = frame.norms.cpu() if treatment.unit else None
        for first in range(0, len(ids), _PLACED):
            check()
            some = ids[first : first + _PLACED]
            stop = first + len(some)
            block = frame.block(first, stop) if whole else frame.gather(torch.from_numpy(some))
            rows = block.cpu().double()
            if lengths is not None:
                norms = lengths[torch.from_numpy(some)].double().numpy()[:, None]
                norms = np.where(norms > 0, norms, 1.0)
            for (matrix, start, rest), out in zip(maps, found, strict=True):
                y: Doubles = (rows @ matrix).numpy() - start
                if lengths is not None:
                    y /= norms
                out[first:stop] = y + rest
        if not all(np.isfinite(out).all() for out in found):
            raise NonFiniteError(
                f"some bases of the frame {options.frame_words!r} hold NaN or infinity, so they"
                " have no place on a map."
            )
        return found

    def tokens(self, frame: str, preprocessing: str, words: Sequence[str], check: Check) -> Doubles:
        """The bases of some tokens after preprocessing (n × d)."""
        ids = [self.space.find_token(w) for w in words]
        vectors: Doubles = self.space.frame(frame).vectors(ids).numpy()
        return self.bases(frame, preprocessing, check).treatment.exact(vectors)


def _affine(
    frame: Frame, treatment: Treatment, axes: Axes
) -> tuple[torch.Tensor, Doubles, Doubles]:
    """What a row is multiplied by (d × dims), what is taken off before it is divided by its length,
    and what is added after that (dims each)."""
    directions: Doubles = axes.directions
    if treatment.factor is not None:
        directions = directions * treatment.factor[:, None]
    start = np.zeros(axes.dims)
    if treatment.offset is not None:
        start = treatment.offset @ directions
    matrix = torch.from_numpy(np.ascontiguousarray(directions))
    if frame.transform is not None:
        matrix = frame.transform @ matrix
    return matrix * frame.factor, start, axes.offset - axes.centre @ axes.directions


def basis_vectors(frame: Frame, ids: Longs, check: Check) -> Floats:
    """Vectors of a frame, float32 (n × d): float64 where they are computed."""
    out, start = np.empty((len(ids), frame.width), dtype=np.float32), 0
    for block in basis_blocks(frame, ids, check):
        out[start : start + len(block)] = block
        start += len(block)
    return out


def basis_blocks(frame: Frame, ids: Longs, check: Check) -> Iterator[Floats]:
    """The same, a block at a time."""
    for start in range(0, len(ids), _BLOCK):
        check()
        some = torch.from_numpy(ids[start : start + _BLOCK])
        yield frame.vectors(some).numpy().astype(np.float32)


def first_bases(
    frame: Frame, states: torch.Tensor, geometry: str, k: int, check: Check, *, head: bool = False
) -> Reading:
    """The k bases of a frame that come first for each state.

    Args:
        states: of points (m × d), moved to the frame's origin as they are taken.
        geometry: by which they are read.
        head: the states are at the model's own origin, as its head reads them.
    """
    with torch.no_grad():
        return read(
            frame,
            states.to(frame.device, torch.float32),
            geometries=(geometry,),
            k=k,
            vectors=not head,
            check=check,
        )[geometry]
