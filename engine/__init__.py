"""Lexiscope's engine: vocabulary-defined semantics of a language model's latent space.

Usable from a notebook; knows no web. See :func:`engine.load`.
"""

from engine.frames import FRAMES
from engine.models import Limits
from engine.similarity import GEOMETRIES
from engine.space import LatentSpace, load
from engine.trace import STATES, Trace, TraceOptions

__all__ = [
    "FRAMES",
    "GEOMETRIES",
    "STATES",
    "LatentSpace",
    "Limits",
    "Trace",
    "TraceOptions",
    "load",
]
