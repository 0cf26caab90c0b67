"""A calibration as maps see it: what takes the place of the states of a layer.

The package of calibrations stands above this one, so it is handed in: a maker is given a
:class:`Calibrator` and maps name it by its fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from engine.model.language_model import LanguageModel


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibrator:
    """λ of one model, or a tuned model in its place."""

    fingerprint: str
    """Of its weights and settings."""
    layer: int
    """Whose states it was trained on, from 0."""
    apply: Callable[[Tensor], Tensor]
    """Calibrated states of states past the final norm: m × d → m × d."""
    model: LanguageModel | None = None
    """Where layers were tuned: the tuned model, whose states are taken in place of the model's own,
    at every layer."""
    note: str = ""
    """What a reader of the map must know of it; empty: nothing."""

    def covers(self, layer: int) -> bool:
        """Whether the states of a layer, from 0, are others under it."""
        return self.model is not None or layer == self.layer
