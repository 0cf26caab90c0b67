"""What the Trace page offers to choose from, and its numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.figures.names import layer_label
from app.web.rendering import number
from engine.frames import kinds
from engine.reading import geometries
from engine.trace import options

MAX_PINS = 8


@dataclass(frozen=True)
class Choice:
    """One of a few values of a switch, as a form field or as a link."""

    value: str
    label: str
    chosen: bool
    help: str = ""
    href: str = ""


GEOMETRIES = tuple((one.name, one.title, one.what) for one in geometries.GEOMETRIES.values())
STATES = tuple((one.name, one.title) for one in options.STATES.values())
FRAMES = tuple((one.name, one.choice) for one in kinds.FRAMES.values())
COLOURS = (
    ("probability", "probability"),
    ("entropy", "entropy"),
    ("rank", "rank of the model's answer"),
    ("kl", "KL to the final prediction"),
    ("agreement", "agreement with the model"),
    ("deviation", "deviation from the virtual path"),
    ("border", "distance to the border"),
)
LABELS = dict([*((k, v) for k, v, _ in GEOMETRIES), *FRAMES])


def probability(value: float) -> str:
    """A probability: three decimals, and never a bare 0 for what is only small."""
    value = float(value)
    if value != value:
        return "–"
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A number that may be negative, with a real minus sign."""
    return number(value if value is None else float(value), digits).replace("-", "−")


def sentence(text: str) -> str:
    """Text that stands in the middle of sentences elsewhere, as the beginning of one."""
    return text[:1].upper() + text[1:]


def layer_span(layers: Sequence[int]) -> str:
    """Layers in a row: the first and the last of them."""
    first, last = layer_label(layers[0]), layer_label(layers[-1])
    return first if first == last else f"{first}–{last}"
