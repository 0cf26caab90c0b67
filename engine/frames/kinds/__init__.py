"""The kinds of frames, in the order of every list: one value each, in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import torch

from engine.errors import NonFiniteError, OptionError
from engine.frames.frame import Frame
from engine.frames.kinds.dial import DIAL
from engine.frames.kinds.head import HEAD
from engine.frames.kinds.input import INPUT
from engine.frames.kinds.kind import FrameKind, Source
from engine.frames.kinds.output import OUTPUT
from engine.frames.kinds.random import RANDOM
from engine.frames.kinds.tight import TIGHT

FRAMES: Final[Mapping[str, FrameKind]] = MappingProxyType(
    {one.name: one for one in (OUTPUT, INPUT, HEAD, TIGHT, DIAL, RANDOM)}
)
"""By name."""

if TYPE_CHECKING:
    FrameName = str
else:
    FrameName = Literal[tuple(FRAMES)]
    """For models of questions: the names, and no other."""


ALPHA: Final = 0.1
"""Where a dial stands if nobody says otherwise."""
ALPHAS: Final = (-0.5, 1.0)
"""Where it may stand."""
RIDGES: Final = (0.0, 100.0)
"""How large its ridge may be, in units of the mean eigenvalue."""


def key_of(name: str, alpha: float | None = None, ridge: float | None = None) -> str:
    """A frame with its dial in one word, ``dial:0.25``: what frames are asked for by.

    With a ridge it is ``dial:1.0:0.01``; a ridge without α stands at the semantic bases, α = 1.

    Raises:
        OptionError: an unknown name, an α or a ridge out of range or of a frame that has none.
    """
    kind = kind_of(name)
    given = [("alpha", alpha, ALPHAS), ("ridge", ridge, RIDGES)]
    for what, value, (low, high) in given:
        if value is None:
            continue
        if not kind.dialled:
            dials = ", ".join(one.name for one in FRAMES.values() if one.dialled)
            raise OptionError(
                f"{what} belongs to the frame {dials}; got {what} {value:g} with the frame"
                f" {name!r}."
            )
        if not low <= value <= high:
            raise OptionError(f"{what} must be from {low:g} to {high:g}; got {value:g}.")
    if ridge:
        return f"{name}:{1.0 if alpha is None else float(alpha)!r}:{float(ridge)!r}"
    return name if alpha is None else f"{name}:{float(alpha)!r}"


def dial_words(key: str) -> str:
    """Where the dial of a frame's key stands, ``α 1, ridge 0.01``; empty for other frames."""
    if not kind_of(key).dialled:
        return ""
    _, alpha, ridge = _parts(key)
    return f"α {ALPHA if alpha is None else alpha:g}" + (f", ridge {ridge:g}" if ridge else "")


def _parts(key: str) -> tuple[str, float | None, float | None]:
    """A key's name, α and ridge."""
    name, *numbers = key.split(":")
    try:
        alpha, ridge = [*map(float, numbers), None, None][: max(2, len(numbers))]
    except ValueError:
        raise OptionError(f"alpha and ridge must be numbers; got {key[:40]!r}.") from None
    return name, alpha, ridge


def kind_of(key: str) -> FrameKind:
    """The kind of a frame by its name or by its key.

    Raises:
        OptionError: there is none.
    """
    name = key.partition(":")[0]
    if name not in FRAMES:
        raise OptionError(f"frame must be one of {', '.join(FRAMES)}; got {key[:40]!r}.")
    return FRAMES[name]


def build_frame(key: str, source: Source) -> Frame:
    """One of a model's frames.

    Args:
        key: one of :data:`FRAMES`, or :func:`key_of` one with its dial.
        source: what the model's frames are made of.

    Raises:
        OptionError: an unknown name, or a frame that this model does not have.
        NonFiniteError: a bias of NaN or plus infinity.
    """
    bias = source.bias
    if bias is not None and not bool((torch.isfinite(bias) | torch.isneginf(bias)).all()):
        raise NonFiniteError(
            "the bias of this model's head holds NaN or plus infinity, so its logits are no"
            " numbers; load a sound checkpoint."
        )
    kind, (name, alpha, ridge) = kind_of(key), _parts(key)
    key_of(name, alpha, ridge)
    place = ALPHA if alpha is None else alpha
    return kind.build(replace(source, alpha=place, ridge=ridge or 0.0))
