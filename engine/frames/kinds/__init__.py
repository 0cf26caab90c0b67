"""The kinds of frames, in the order of every list: one value each, in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import torch

from engine.errors import NonFiniteError, OptionError
from engine.frames.frame import Frame
from engine.frames.kinds.head import HEAD
from engine.frames.kinds.input import INPUT
from engine.frames.kinds.kind import FrameKind, Source
from engine.frames.kinds.output import OUTPUT
from engine.frames.kinds.random import RANDOM
from engine.frames.kinds.tight import TIGHT

FRAMES: Final[Mapping[str, FrameKind]] = MappingProxyType(
    {one.name: one for one in (OUTPUT, INPUT, HEAD, TIGHT, RANDOM)}
)
"""By name."""

if TYPE_CHECKING:
    FrameName = str
else:
    FrameName = Literal[tuple(FRAMES)]
    """For models of questions: the names, and no other."""


def build_frame(name: str, source: Source) -> Frame:
    """One of a model's frames.

    Args:
        name: one of :data:`FRAMES`.
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
    if name not in FRAMES:
        raise OptionError(f"frame must be one of {', '.join(FRAMES)}; got {name[:40]!r}.")
    return FRAMES[name].build(source)
