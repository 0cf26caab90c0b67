"""The atlas of the open model, laid out by itself while nobody wants the device.

Taking the points is background work of the device thread, step by step; the rest runs in UMAP's own
process, on one of the machine's cores. A job, or another model that is being opened, ends the
process: layouts run one at a time, and a job's would wait for this one. What was kept by then (the
layout, each further seed) is not laid out again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from app.jobs.spare import SpareTime
from app.model.open_model import Opened
from engine.maps import MapMaker, MapNotReady, UmapProblem
from engine.maps.atlas import OPTIONS
from engine.progress import Steps

Points = Steps[Callable[[], UmapProblem]]


class BackgroundAtlas(SpareTime):
    """Lays out all bases of whichever model is open, unless that is kept or ships."""

    what = "atlas"

    def _work(self, opened: Opened) -> None:
        while self._lay_out(opened):
            self._wait()

    def _lay_out(self, opened: Opened) -> bool:
        """As far as nothing comes between; whether there was something to do."""
        begun = self._on_device(partial(self._begin, opened))
        if begun is None:
            return False
        maker, points = begun
        make = None
        try:
            while make is None:
                self._wait()
                make = self._on_device(partial(self._step, opened, points))
        finally:
            self._on_device(points.close)
        steps = maker.reduce(make())
        try:
            for self.progress in steps:
                other = self._explorer.models.current is not opened
                if other or self._closing.is_set() or self._barred():
                    break
        finally:
            steps.close()  # and so the process, if it is at work
            self.progress = None
        return True

    def _begin(self, opened: Opened) -> tuple[MapMaker, Points] | None:
        """The steps that take its points; None where nothing is to be laid out."""
        maker = self._explorer.models.owned(opened).maps
        try:
            drawn = maker.map(OPTIONS)
        except MapNotReady:
            pass
        else:
            if drawn.atlas or drawn.noise_floor is not None:
                return None
        return maker, maker.umap_points(OPTIONS)

    def _step(self, opened: Opened, points: Points) -> Callable[[], UmapProblem] | None:
        """One step; after the last one what makes the problem."""
        self._explorer.models.owned(opened)
        try:
            self.progress = next(points)
        except StopIteration as stop:
            made: Callable[[], UmapProblem] = stop.value
            return made
        return None
