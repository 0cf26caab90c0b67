"""A state as a non-negative sum of a few vectors of a frame, and what chance gives.

r ≈ Σ_{i∈K} a_i b̂_i with a_i ≥ 0, |K| ≤ k and b̂_i = b_i/‖b_i‖: non-negative orthogonal matching
pursuit (Bruckstein, Elad, Zibulevsky 2008). Each step takes the vector that points most along what
is not explained yet, then finds the best weights of all that were taken (non-negative least
squares; Lawson & Hanson 1974).

With many more vectors than dimensions a random frame explains much by luck (the best of v has a
cosine of about √(2 ln v / d)), so a share says something only beside :func:`by_chance`.

Knows nothing about token texts, layers or prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from engine.frames.frame import Frame
from engine.progress import Check, no_check
from engine.reading.similarity import scores

MOST: Final = 10
"""Vectors of a sum at most."""
DRAWS: Final = 19
"""Random vocabularies: what exceeds them all does so by luck once in twenty times."""
_DECIDED: Final = 16
"""Nearest vectors by float32 among which float64 decides."""
_NOTHING: Final = 1e-6
"""A residue or a cosine that is only rounding, relative to the state."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pursuit:
    """A state r (placed in the frame) as a sum of a few vectors of a frame."""

    ids: tuple[int, ...]
    """The tokens in the order in which they were taken; fewer than k where nothing was left, or
    nothing more points along it."""
    weights: tuple[float, ...]
    """a_i/‖r‖ of the whole sum, at least 0."""
    parts: tuple[float, ...]
    """a_i (b̂_i·r)/‖r‖²: what each accounts for; they sum to the last share."""
    shares: tuple[float, ...]
    """1 − ‖r − Σ a_i b̂_i‖²/‖r‖² after each step, in [0, 1]."""
    cosines: tuple[float, ...]
    """cos(r, Σ a_i b̂_i) after each step: the root of the share, for the residue is orthogonal to
    the sum."""


@torch.no_grad()
def pursue(frame: Frame, state: Tensor, k: int = MOST, *, check: Check = no_check) -> Pursuit:
    """Write one state as a non-negative sum of at most k vectors of a frame.

    Args:
        frame: b_1 … b_v; tokens whose vector is zero are never taken.
        state: d, finite, on the frame's device.
        k: how many at most.
        check: called before each pass over the vocabulary; raises to stop.
    """
    placed = frame.place(state.unsqueeze(0))[0].cpu().double()
    norm = float(placed.norm())
    r = (placed / norm).numpy() if norm > 0 else placed.numpy()
    residue, taken = r, np.empty((len(r), 0))
    ids: list[int] = []
    weights: Floats = np.empty(0)
    shares: list[float] = []
    while len(ids) < k and np.linalg.norm(residue) > _NOTHING:
        check()
        asked = torch.from_numpy(residue).to(frame.device, torch.float32).unsqueeze(0)
        near = scores(frame, asked, vectors=True)[0].topk(min(_DECIDED, frame.size)).indices
        vectors = frame.vectors(near).numpy()
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
        along = unit @ residue
        best = int(along.argmax())
        token = int(near[best])
        if along[best] <= _NOTHING * np.linalg.norm(residue) or token in ids:
            break
        ids.append(token)
        taken = np.column_stack([taken, unit[best]])
        weights, residue = _fit(taken, r)
        shares.append(_share(residue))
    return Pursuit(
        ids=tuple(ids),
        weights=tuple(weights.tolist()),
        parts=tuple((weights * (r @ taken)).tolist()),
        shares=tuple(shares),
        cosines=tuple(share**0.5 for share in shares),
    )


def by_chance(
    size: int,
    width: int,
    k: int = MOST,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    check: Check = no_check,
) -> Floats:
    """The shares of the same pursuit in random vocabularies: v even directions in d dimensions.

    Their law does not depend on the state, nor on the vectors' lengths, so it is a model's and not
    a cell's. And it is drawn without drawing the vectors: a pursuit sees of a vector only its
    coordinates in the few directions that the state and the vectors taken before it span, which for
    even directions are normal numbers, beside a χ² for the rest of its length.

    Args:
        size: v.
        width: d.
        k: how many vectors are taken.
        draws: how many vocabularies.
        seed: of the draws.
        check: called before each vocabulary; raises to stop.

    Returns:
        draws × k, in [0, 1], not falling along k.
    """
    shares = np.ones((draws, k))
    seen = min(k + 1, width)
    for n, source in enumerate(np.random.default_rng(seed).spawn(draws)):
        check()
        parts = np.zeros((size, k + 1), np.float32)
        parts[:, :seen] = source.standard_normal((size, seen), np.float32)
        rest = source.chisquare(width - seen, size) if width > seen else 0.0
        lengths = np.sqrt(np.square(parts).sum(1) + rest)
        target = np.eye(1, k + 1)[0]  # the state itself is the first direction
        residue, taken = target, np.empty((k + 1, 0))
        for step in range(k):
            best = int((parts @ residue.astype(np.float32) / lengths).argmax())
            if np.linalg.norm(residue) <= _NOTHING or residue @ parts[best] <= 0:
                shares[n, step:] = _share(residue)
                break
            # What is left of its length is, by definition, the next direction.
            known = float(np.square(parts[best, : step + 1]).sum())
            parts[best, step + 1 :] = 0.0
            parts[best, step + 1] = max(float(lengths[best]) ** 2 - known, 0.0) ** 0.5
            taken = np.column_stack([taken, parts[best] / lengths[best]])
            residue = _fit(taken, target)[1]
            shares[n, step] = _share(residue)
    return shares


def _fit(taken: Any, target: Any) -> tuple[Floats, Floats]:
    """The non-negative weights of the taken directions that come nearest, and what is left."""
    weights, _ = nnls(taken, target)
    return weights, target - taken @ weights


def _share(residue: Any) -> float:
    return min(max(1.0 - float(residue @ residue), 0.0), 1.0)
