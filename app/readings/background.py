"""The linear lens of the open model, fitted by itself while nobody wants the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from app.jobs.lanes import Jobs
from app.jobs.spare import SpareTime
from app.model.explorer import Explorer
from app.model.open_model import Opened
from engine.lenses.kind import Lens
from engine.progress import Progress, Steps

NAME: Final = "linear"


@dataclass(frozen=True)
class _Fit:
    """A fit that was begun."""

    opened: Opened
    steps: Steps[Lens]


class BackgroundLens(SpareTime):
    """Fits the lens of whichever model is open, in steps on the device thread.

    Args:
        forget: called on any thread once the lens is known: answers of before do not know it.
    """

    what = "lens"

    def __init__(
        self, explorer: Explorer, jobs: Jobs, patience_s: float, forget: Callable[[], object]
    ) -> None:
        super().__init__(explorer, jobs, patience_s)
        self._forget = forget

    def _work(self, opened: Opened) -> None:
        fit = self._on_device(partial(self._begin, opened))
        if fit is None:
            return
        try:
            while True:
                self._wait()
                self.progress = self._on_device(partial(self._step, fit))
                if self.progress is None:
                    self._forget()
                    return
        finally:
            self._on_device(fit.steps.close)

    def _begin(self, opened: Opened) -> _Fit | None:
        """The steps, where the model has no lens yet and writes text to fit it on."""
        space = self._explorer.models.owned(opened)
        if space.known_lens(NAME) is not None or space.model.anatomy.kind != "causal":
            return None
        return _Fit(opened, space.fit_lens(NAME))

    def _step(self, fit: _Fit) -> Progress | None:
        """One step; None where the lens is known, by this fit or by a job meanwhile."""
        space = self._explorer.models.owned(fit.opened)
        if space.known_lens(NAME) is not None:
            return None
        try:
            return next(fit.steps)
        except StopIteration:
            return None
