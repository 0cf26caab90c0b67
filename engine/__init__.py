"""Lexiscope's engine: vocabulary-defined semantics of a language model's latent space.

Usable from a notebook; knows no web. See :func:`engine.load`.

The names here are fetched when they are first asked for: whoever wants only a part that needs no
model, such as the reader of labelled files, does not wait for torch and holds no memory for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.frames.kinds import FRAMES
    from engine.generation.options import GenerateOptions
    from engine.loading import load
    from engine.model.language_model import Limits
    from engine.reading.geometries import GEOMETRIES
    from engine.space import LatentSpace
    from engine.trace.options import STATES, TraceOptions
    from engine.trace.result import Trace

_PLACES = {
    "FRAMES": "engine.frames.kinds",
    "GEOMETRIES": "engine.reading.geometries",
    "GenerateOptions": "engine.generation.options",
    "STATES": "engine.trace.options",
    "LatentSpace": "engine.space",
    "Limits": "engine.model.language_model",
    "Trace": "engine.trace.result",
    "TraceOptions": "engine.trace.options",
    "load": "engine.loading",
}

__all__ = [
    "FRAMES",
    "GEOMETRIES",
    "STATES",
    "GenerateOptions",
    "LatentSpace",
    "Limits",
    "Trace",
    "TraceOptions",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = found
    return found
