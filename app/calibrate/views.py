"""A saved calibration: as it stands in a list, and with everything that was kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.calibrate.work import Order


@dataclass(frozen=True)
class SavedView:
    """A saved calibration as it stands in a list."""

    id: str
    name: str
    created: str
    set_id: str = ""
    set_name: str = ""
    model_name: str = ""
    model_fingerprint: str = ""
    usable: bool = False
    """Whether it belongs to the loaded model."""
    method: str = ""
    """What was trained, and how, in a line."""
    changed: Mapping[str, Any] | None = None
    """The settings that are not the default ones; None where that was not written down."""
    accuracy_before: float | None = None
    """Of the nearest label basis, untrained."""
    accuracy_after: float | None = None
    accuracy_baseline: float | None = None
    """The best that is reached without training, which a gain is measured against."""
    baseline: str = ""
    """Which reading that is."""
    kept_its_start: bool = False
    """Whether no epoch of the training was better than its start."""
    sentence: str = ""
    """What happened, in one plain sentence."""
    bytes: int = 0
    """On the disk."""
    damaged: bool = False
    """Whether what was written down about it cannot be read; then it can only be deleted."""


@dataclass(frozen=True)
class Saved:
    """A saved calibration with everything that was kept of it."""

    view: SavedView
    order: Order
    """What was asked for."""
    settings: Mapping[str, Any]
    """The engine's settings, defaults written out."""
    task: Mapping[str, Any]
    """What identifies the task, and its report."""
    history: tuple[Mapping[str, Any], ...]
    """The learning curve, epoch by epoch."""
    facts: Mapping[str, Any]
    """Best epoch, seconds, trained weights, stored bytes, versions."""
    comparison: Mapping[str, Any] | None
    competitors: Mapping[str, Any] | None
    """The latest table of methods, or None."""
    ablation: Mapping[str, Any] | None
    """The latest ablation, or None."""

    def to_dict(self) -> dict[str, object]:
        """As it stands in the JSON."""
        kept = {name: value for name, value in vars(self).items() if name != "view"}
        return {**vars(self.view), **kept, "order": self.order.to_dict()}
