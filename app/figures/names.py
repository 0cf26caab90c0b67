"""What figures and pages call layers, scores and distances: one name each, with its unit."""

from __future__ import annotations

from engine.reading.geometries import GEOMETRIES


def layer_label(layer: int) -> str:
    """A layer's name on an axis: its number, and ``emb`` for the embedding."""
    return "emb" if layer == 0 else str(layer)


def score_name(geometry: str) -> str:
    """What a score is, with its unit."""
    return GEOMETRIES[geometry].score
