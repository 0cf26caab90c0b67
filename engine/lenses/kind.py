"""What a lens is: a way to bring the state of a middle layer to where the model's head reads.

A lens is one frozen :class:`LensKind`; trace, pages, API and command line iterate over them. Where
it must be fitted to a model first, :class:`Lens` is the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from engine.checkpoints import tensor_digest
from engine.explanation import Explanation
from engine.json_number import Plain
from engine.model.language_model import LanguageModel
from engine.progress import Steps


@dataclass(frozen=True)
class LensRow(Plain):
    """One layer of a lens against the model's own end, on held-out positions, head × product."""

    layer: int
    kl_none: float
    """Mean KL(model ‖ the state through the final norm alone), nats."""
    kl: float
    """Mean KL(model ‖ the state through the lens)."""
    kl_shuffled: float
    """The control: through the map of another layer."""
    top1_none: float
    """How often the first token is the model's own answer, in [0, 1]."""
    top1: float
    top1_shuffled: float


@dataclass(frozen=True)
class Lens:
    """An affine map per layer, from the state past the final norm to the last layer's."""

    name: str
    model: str
    """The fingerprint of the weights it was fitted to."""
    maps: Tensor
    """A_l of layers 0 to L − 1: layer × d × d, half precision, x ↦ x·A_l + b_l."""
    offsets: Tensor
    """b_l: layer × d, float32."""
    rows: tuple[LensRow, ...]
    """Held-out figures per layer."""
    positions: int
    """It was fitted on."""
    held_out: int
    """Positions of the figures."""
    text: str
    """What it was fitted on, in words."""
    seconds: float

    @cached_property
    def digest(self) -> str:
        """A name for its numbers (BLAKE2b): lenses of one model may be fitted on several texts."""
        return tensor_digest(self.maps, self.offsets)

    @property
    def bytes(self) -> int:
        """Of its numbers."""
        return self.maps.nbytes + self.offsets.nbytes

    def through(self, layer: int, states: Tensor) -> Tensor:
        """States of a layer (… × d, past the final norm) where the head reads; the last as it is.

        Args:
            layer: 0 to L.
            states: of that layer.
        """
        if layer >= len(self.maps):
            return states
        matrix = self.maps[layer].to(states.device, torch.float32)
        out: Tensor = states.float() @ matrix + self.offsets[layer].to(states.device)
        return out

    def over(self, layers: Sequence[int], states: Tensor) -> Tensor:
        """The same for many layers at once (layer × … × d)."""
        return torch.stack(
            [self.through(layer, one) for layer, one in zip(layers, states, strict=True)]
        )


class Fit(Protocol):
    """Fits a lens."""

    def __call__(self, model: LanguageModel, *, text: str | None = None) -> Steps[Lens]:
        """On a text that is brought; None: on what the model writes itself."""


@dataclass(frozen=True, kw_only=True)
class LensKind:
    """One way to read a middle layer."""

    name: str
    """In addresses, files and options."""
    title: str
    """On the pages."""
    what: str
    """What is done, in a sentence."""
    formula: str
    fit: Fit | None = None
    """Fits it to a model; None where there is nothing to fit."""
    explanation: Explanation | None = None
    """For the Method page."""
