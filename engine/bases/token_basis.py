"""One token's vector in a frame: its length, its leverage, and its nearest tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from engine.errors import OptionError
from engine.frames.decomposition import HeadDecomposition
from engine.frames.frame import Frame
from engine.frames.isotropy import isotropy
from engine.model.language_model import LanguageModel
from engine.model.vocabulary import Token, with_token
from engine.progress import Check, no_check
from engine.reading.geometries import geometry_of
from engine.reading.read import read

NEIGHBOURHOOD: Final = 32
"""Nearest bases whose isotropy is a token's local isotropy."""


@dataclass(frozen=True)
class Neighbour:
    """A near token."""

    token: Token
    score: float


@dataclass(frozen=True)
class TokenBasis:
    """A token's reference point in one frame."""

    token: Token
    frame: str
    geometry: str
    norm: float
    """‖b_i‖."""
    leverage: float
    """h_ii = w_i·s_i in [0, 1]: how much of its own logit the token's basis keeps."""
    self_logit: float
    """w_i·b_i: the logit that this vector gives its own token."""
    isotropy_raw: float
    """Of the nearest bases, in [0, 1]."""
    isotropy_centred: float
    """The same, centred on their mean."""
    neighbours: tuple[Neighbour, ...]
    """Nearest first, without the token itself."""

    @property
    def id(self) -> int:
        """Its row."""
        return self.token.id

    @property
    def text(self) -> str:
        """Its text."""
        return self.token.text

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        parts = ("id", "text", "label")
        near = [with_token(one, *parts) for one in self.neighbours]
        return with_token(self, *parts) | {"neighbours": near}


def compute_token_basis(
    id: int,
    frame: str,
    *,
    frames: Callable[[str], Frame],
    geometry: str,
    k: int,
    model: LanguageModel,
    decomposition: HeadDecomposition,
    check: Check = no_check,
) -> TokenBasis:
    """A token's vector in a frame, and its nearest tokens there.

    Args:
        id: its row.
        frame: its name.
        frames: gives a frame by its name.
        geometry: by which others are near.
        k: how many neighbours.
        model: whose token it is.
        decomposition: of the model's head.
        check: raises to stop.

    Raises:
        OptionError: an unknown geometry or frame, or k out of range.
    """
    geometry_of(geometry)
    limit = min(model.limits.max_k, model.vocabulary - 1)
    if not 1 <= k <= limit:
        raise OptionError(f"k must be from 1 to {limit}; got {k}.")
    chosen = frames(frame)
    vector = chosen.vectors([id])
    near = max(k, min(NEIGHBOURHOOD, model.vocabulary - 1)) + 1
    with torch.no_grad():
        found = read(
            chosen,
            vector.to(chosen.device, torch.float32),
            geometries=(geometry,),
            k=near,
            vectors=True,
            budget_bytes=model.limits.reading_bytes,
            check=check,
        )[geometry]
    listed = [
        (int(i), float(s))
        for i, s in zip(found.ids[0], found.scores[0], strict=True)
        if int(i) != id
    ]
    around = isotropy(chosen.vectors([i for i, _ in listed[:NEIGHBOURHOOD]]))
    row = model.anatomy.weight[id].detach().cpu().double()
    return TokenBasis(
        token=model.vocabulary_texts.token(id),
        frame=frame,
        geometry=geometry,
        norm=float(vector.norm()),
        leverage=float(decomposition.leverage[id]),
        self_logit=float(vector[0] @ row),
        isotropy_raw=around.raw,
        isotropy_centred=around.centred,
        neighbours=tuple(Neighbour(model.vocabulary_texts.token(i), s) for i, s in listed[:k]),
    )
