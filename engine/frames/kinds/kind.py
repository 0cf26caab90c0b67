"""What a kind of frame is: a way to give every token of a vocabulary a vector.

A kind is one frozen :class:`FrameKind`; readings, reports, pages, API and command line iterate over
them and know none by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.explanation import Explanation
from engine.frames.decomposition import CHUNK, HeadDecomposition
from engine.frames.frame import Frame


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a model's frames are made of."""

    weight: Tensor
    """The head W, v × d."""
    embedding: Tensor
    """The embedding table, rows as wide as the head for the frame `input`."""
    decomposition: HeadDecomposition
    """Of this head."""
    embedding_scale: float = 1.0
    """The factor that the model puts on embedding rows."""
    bias: Tensor | None = None
    """The head's (v); −∞ for tokens that the model never says."""
    finish: Callable[[Tensor], Tensor] | None = None
    """Product → logits, for the frame `head`."""
    seed: int = 0
    """Of the random frame."""
    alpha: float = 0.0
    """Of the dial."""
    ridge: float = 0.0
    """Of the dial, in units of the mean eigenvalue."""

    @property
    def device(self) -> torch.device:
        """Where the head lies."""
        return self.weight.device

    def shift(self) -> Tensor | None:
        """c = W⁺b: what moves states where the head has a bias; float64 (d)."""
        if self.bias is None:
            return None
        return self.decomposition.power(-1.0) @ _product_with_rows(
            self.weight, without_masks(self.bias)
        )


@dataclass(frozen=True, kw_only=True)
class FrameKind:
    """One way to choose a reference vector per token."""

    name: str
    """In addresses, files and options."""
    title: str
    """On the pages."""
    side: str = ""
    """Of the model, where frames of the other side stand beside it under a title like its own."""
    phrase: str
    """In the middle of a sentence."""
    what: str
    """What the vectors are, for people."""
    note: str
    """The same in the words of frame theory, for the report."""
    formula: str
    """b_i."""
    control: bool = False
    """Whether what it shows is chance."""
    build: Callable[[Source], Frame]
    """Makes the frame of a model.

    Raises:
        OptionError: this model has none.
    """
    spectrum: Callable[[Tensor, Frame], Tensor] | None = None
    """The eigenvalues of Σ b_i b_iᵀ from those of the matrix that is taken apart (largest first);
    None where they must be found from the vectors themselves."""
    dialled: bool = False
    """Whether it is a family with a number α of its own."""
    of_embedding: bool = False
    """Whether the matrix that is taken apart is the embedding table instead of the head."""
    explanation: Explanation | None = None
    """For the Method page; None where another kind's says it all."""

    @property
    def heading(self) -> str:
        """The title where other frames stand beside it."""
        return f"{self.title} ({self.side})" if self.side else self.title

    @property
    def choice(self) -> str:
        """The title on a switch."""
        return f"{self.title} ({self.side} side)" if self.side else self.title


def without_masks(bias: Tensor) -> Tensor:
    """A head's bias with 0 for −∞: a token that is never said moves no state."""
    return bias.masked_fill(torch.isneginf(bias), 0.0)


def _product_with_rows(weight: Tensor, vector: Tensor) -> Tensor:
    """Wᵀ·vector in float64 (d), by blocks of rows."""
    total = torch.zeros(weight.shape[1], dtype=torch.float64)
    for start in range(0, len(weight), CHUNK):
        rows = weight[start : start + CHUNK].detach().cpu().double()
        total += vector[start : start + CHUNK].detach().cpu().double() @ rows
    return total
