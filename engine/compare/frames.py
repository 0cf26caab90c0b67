"""The reference frames of two models beside each other: no text, the weights alone.

The vectors a_i and b_i of the m tokens that both vocabularies have, centred, are laid on each other
by the orthogonal map (and factor) that brings them nearest (Procrustes; Schönemann 1966). With
C = Σ a_i b_iᵀ and the nuclear norm ‖C‖_*, what is left is

    distance = √(1 − ‖C‖_*² / (Σ‖a_i‖² Σ‖b_i‖²)),

0 where one frame is the other turned and scaled, at most 1. Widths may differ: the map is then a
turn into the wider space. Beside it the same with the pairs shuffled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from engine.bases.drift import interface_drift
from engine.compare.shared import FEWEST, SharedCount, shared_vocabulary
from engine.errors import OptionError
from engine.frames.decomposition import CHUNK
from engine.frames.frame import Frame
from engine.json_number import number
from engine.model.vocabulary import Token
from engine.progress import Check, no_check
from engine.space import LatentSpace

MOVERS: Final = 20


@dataclass(frozen=True)
class MovedBasis:
    """A token whose vector is elsewhere in the other model."""

    token: Token
    cosine: float
    """Of its two vectors after the turn."""


@dataclass(frozen=True)
class FramesApart:
    """How far the frames of two models are from each other."""

    names: tuple[str, str]
    frame: str
    shared: SharedCount
    distance: float
    """In [0, 1]; see the module."""
    by_chance: float
    """The same with the pairs shuffled."""
    cosine: float | None
    """Mean cosine of the pairs as they lie, uncentred and not turned; None for other widths."""
    cosine_turned: float
    """Mean cosine of the centred pairs after the turn."""
    movers: tuple[MovedBasis, ...]
    """The least cosines after the turn first."""
    drift: tuple[float | None, float | None]
    """Interface drift of either model's embedding (:mod:`engine.bases.drift`); None where the
    embedding has another width than the head."""

    @property
    def sentence(self) -> str:
        """How far apart they are, beside chance."""
        a, b = self.names
        told = (
            f"Turned onto each other, the {self.shared.shared:,} shared vectors of {a} and {b}"
            f" keep a distance of {self.distance:.3f} (0: the same figure, 1: unrelated); the same"
            f" tokens paired at random {self.by_chance:.3f}."
        )
        if self.distance >= self.by_chance:
            told += " So the two frames have no more in common than chance."
        return told

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "frame": self.frame,
            "shared": self.shared.shared,
            "distance": number(self.distance),
            "distance_by_chance": number(self.by_chance),
            "cosine": number(self.cosine) if self.cosine is not None else None,
            "cosine_turned": number(self.cosine_turned),
            "movers": [{"token": m.token.to_dict(), "cosine": m.cosine} for m in self.movers],
            "drift": [None if one is None else number(one) for one in self.drift],
            "sentence": self.sentence,
        }


def compare_frames(
    first: LatentSpace,
    other: LatentSpace,
    frame: str = "output",
    *,
    fewest: int = FEWEST,
    seed: int = 0,
    check: Check = no_check,
) -> FramesApart:
    """Lay the frames of two models on each other.

    Args:
        first: a model; called on its thread.
        other: another, on the same thread.
        frame: by its name, or with its dial as ``dial:0.25``.
        fewest: tokens that both vocabularies must have.
        seed: of the shuffled pairs.
        check: raises to stop.

    Raises:
        OptionError: too few shared tokens; a frame that a model does not have, or a random one.
    """
    if frame == "random":
        raise OptionError(
            "frame must be one that a model has of its own; got 'random', which is drawn."
        )
    shared = shared_vocabulary(first.vocabulary, other.vocabulary, fewest=fewest)
    frames = [space.frame(frame) for space in (first, other)]
    ids = (shared.first, shared.other)
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(shared), generator=draw)
    means = [_mean(one, rows, check) for one, rows in zip(frames, ids, strict=True)]
    spans = zip(frames, means, strict=True)
    sizes, moments, plain = _moments(list(spans), ids, order, check)
    left, right = (torch.linalg.svd(one, full_matrices=False) for one in moments)
    cosines = _turned(frames, means, ids, left[0] @ left[2], check)
    least = torch.argsort(cosines)[:MOVERS].tolist()
    return FramesApart(
        names=(first.model.name, other.model.name),
        frame=frame,
        shared=shared.count,
        distance=_distance(left[1], sizes),
        by_chance=_distance(right[1], sizes),
        cosine=plain,
        cosine_turned=float(cosines.mean()),
        movers=tuple(
            MovedBasis(first.vocabulary.token(int(shared.first[n])), float(cosines[n]))
            for n in least
            if float(cosines[n]) < 1 - 1e-6
        ),
        drift=(_drift(first, check), _drift(other, check)),
    )


def _drift(space: LatentSpace, check: Check) -> float | None:
    if space.model.anatomy.embedding_rows.shape[1] != space.model.width:
        return None
    return interface_drift(space.frame("input"), space.frame("head"), check=check)


def _chunks(ids: Tensor) -> list[Tensor]:
    return [ids[n : n + CHUNK] for n in range(0, len(ids), CHUNK)]


def _mean(frame: Frame, ids: Tensor, check: Check) -> Tensor:
    total = torch.zeros(frame.width, dtype=torch.float64)
    for part in _chunks(ids):
        check()
        total += frame.vectors(part).sum(0)
    return total / len(ids)


def _moments(
    spans: list[tuple[Frame, Tensor]], ids: tuple[Tensor, Tensor], order: Tensor, check: Check
) -> tuple[tuple[float, float], tuple[Tensor, Tensor], float | None]:
    """(Σ‖a‖², Σ‖b‖²), Σ a bᵀ in pairs and shuffled, and the mean cosine as they lie."""
    (first, mean), (other, its) = spans
    shape = first.width, other.width
    paired, by_chance = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
    squares, cosines = [0.0, 0.0], 0.0
    parts = zip(_chunks(ids[0]), _chunks(ids[1]), _chunks(ids[1][order]), strict=True)
    for own, same, shuffled in parts:
        check()
        a, b = first.vectors(own), other.vectors(same)
        if first.width == other.width:
            cosines += float(torch.nn.functional.cosine_similarity(a, b).sum())
        a, b = a - mean, b - its
        paired += a.T @ b
        by_chance += a.T @ (other.vectors(shuffled) - its)
        squares = [squares[0] + float(a.square().sum()), squares[1] + float(b.square().sum())]
    plain = cosines / len(ids[0]) if first.width == other.width else None
    return (squares[0], squares[1]), (paired, by_chance), plain


def _distance(values: Tensor, sizes: tuple[float, float]) -> float:
    product = sizes[0] * sizes[1]
    share = float(values.sum()) ** 2 / product if product > 0 else 0.0
    # Below this the difference from 1 is rounding: a frame beside itself is at 0.
    return math.sqrt(max(0.0, 1 - share)) if 1 - share > 1e-12 else 0.0


def _turned(
    frames: list[Frame],
    means: list[Tensor],
    ids: tuple[Tensor, Tensor],
    turn: Tensor,
    check: Check,
) -> Tensor:
    """Cosine of each pair, the second turned onto the first."""
    out = []
    for own, same in zip(_chunks(ids[0]), _chunks(ids[1]), strict=True):
        check()
        a = frames[0].vectors(own) - means[0]
        b = (frames[1].vectors(same) - means[1]) @ turn.T
        out.append(torch.nn.functional.cosine_similarity(a, b))
    return torch.cat(out)
