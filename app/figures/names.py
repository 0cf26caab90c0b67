"""What figures and pages call layers, scores and distances: one name each, with its unit."""

from __future__ import annotations

from engine.frames import kinds
from engine.reading import geometries
from engine.trace import options

GEOMETRIES = tuple((one.name, one.title, one.what) for one in geometries.GEOMETRIES.values())
FRAMES = tuple((one.name, one.choice) for one in kinds.FRAMES.values())
STATES = tuple((one.name, one.title) for one in options.STATES.values())
LABELS = dict([*((k, v) for k, v, _ in GEOMETRIES), *FRAMES])


def layer_label(layer: int) -> str:
    """A layer's name on an axis: its number, and ``emb`` for the embedding."""
    return "emb" if layer == 0 else str(layer)


def score_name(geometry: str) -> str:
    """What a score is, with its unit."""
    return geometries.GEOMETRIES[geometry].score
