"""What the Trace page offers to choose from, and its layers as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from app.figures.names import layer_label

MAX_PINS = 8


COLOURS = (
    ("probability", "probability"),
    ("entropy", "entropy"),
    ("rank", "rank of the model's answer"),
    ("kl", "KL to the final prediction"),
    ("agreement", "agreement with the model"),
    ("deviation", "deviation from the virtual path"),
    ("border", "distance to the border"),
)


def layer_span(layers: Sequence[int]) -> str:
    """Layers in a row: the first and the last of them."""
    first, last = layer_label(layers[0]), layer_label(layers[-1])
    return first if first == last else f"{first}–{last}"
