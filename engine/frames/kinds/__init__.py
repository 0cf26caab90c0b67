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


def key_of(name: str, alpha: float | None = None) -> str:
    """A frame with its dial in one word, ``dial:0.25``: what frames are asked for by.

    Raises:
        OptionError: an unknown name, an α out of range or of a frame that has none.
    """
    kind = kind_of(name)
    if alpha is None:
        return name
    if not kind.dialled:
        dials = ", ".join(one.name for one in FRAMES.values() if one.dialled)
        raise OptionError(
            f"alpha belongs to the frame {dials}; got alpha {alpha:g} with the frame {name!r}."
        )
    low, high = ALPHAS
    if not low <= alpha <= high:
        raise OptionError(f"alpha must be from {low:g} to {high:g}; got {alpha:g}.")
    return f"{name}:{float(alpha)!r}"


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
    kind, dial = kind_of(key), key.partition(":")[2]
    try:
        alpha = float(dial) if dial else ALPHA
    except ValueError:
        raise OptionError(f"alpha must be a number; got {dial[:40]!r}.") from None
    key_of(kind.name, alpha if dial else None)
    return kind.build(replace(source, alpha=alpha))
