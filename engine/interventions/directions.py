"""Directions of unit length in a model's states: a token's, a difference of two, of texts, random.

A token's direction is its vector in a frame: its semantic basis, its head row, its input row, or
any place of the dial between them. They live where the head reads, so a model whose blocks have
another width has none of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.errors import OptionError
from engine.interventions.action import Action
from engine.interventions.space import Space
from engine.progress import Check, no_check


def directions(
    space: Space, action: Action, layers: Sequence[int], *, check: Check = no_check
) -> list[Tensor]:
    """The direction of an action at each of its layers, float64 on the CPU (residual width).

    Raises:
        TokenError: no such token, or several.
        PromptError: a text that cannot be read.
        OptionError: a direction of length 0, or a token's in a model whose blocks are of another
            width than its head.
    """
    if action.random is not None:
        return [random_direction(space, action.random)] * len(layers)
    if action.texts:
        means = mean_state(space, action.texts, layers, check)
        if action.texts_from:
            means = means - mean_state(space, action.texts_from, layers, check)
        return [unit(row, "the texts") for row in means]
    assert action.token is not None
    token = space.find_token(action.token)
    foil = None if action.foil is None else space.find_token(action.foil)
    found = token_direction(space, action.frame_key, token, foil)
    return [found] * len(layers)


def token_direction(space: Space, frame: str, token: int, foil: int | None = None) -> Tensor:
    """b_t, or b_t − b_f, at unit length; float64 (d)."""
    vectors = vectors_of(space, frame, [token] if foil is None else [token, foil])
    along = vectors[0] if foil is None else vectors[0] - vectors[1]
    return unit(along, "these tokens")


def vectors_of(space: Space, frame: str, ids: Sequence[int]) -> Tensor:
    """Tokens' vectors in a frame where the blocks are as wide as the head; n × d, float64."""
    anatomy = space.model.anatomy
    if anatomy.residual_width != space.model.width:
        raise OptionError(
            f"this model's blocks pass on {anatomy.residual_width} numbers and its head reads"
            f" {space.model.width}, so a token has no direction between the blocks; use texts."
        )
    return space.frame(frame).vectors(ids)


def mirror(space: Space, frame: str, token: int, foil: int) -> Tensor:
    """n = (â − b̂)/‖â − b̂‖: the normal of the mirror that exchanges two tokens' directions."""
    a, b = (unit(row, "a token") for row in vectors_of(space, frame, [token, foil]))
    return unit(a - b, "a token and itself")


def random_direction(space: Space, seed: int) -> Tensor:
    """Evenly distributed over all directions; the same for the same seed."""
    generator = torch.Generator().manual_seed(0x5EED0000 + seed)
    width = space.model.anatomy.residual_width
    return unit(torch.randn(width, generator=generator, dtype=torch.float64), "chance")


def mean_state(space: Space, texts: Sequence[str], layers: Sequence[int], check: Check) -> Tensor:
    """The mean state after each of some texts, layer × residual width, float64 on the CPU."""
    total = torch.zeros(len(layers), space.model.anatomy.residual_width, dtype=torch.float64)
    for text in texts:
        raw = space.states(text, check=check).raw
        total += raw[list(layers), -1].cpu().double()
    return total / len(texts)


def unit(vector: Tensor, whose: str) -> Tensor:
    """The vector at length 1."""
    length = float(vector.norm())
    if not length > 0 or length == float("inf"):
        raise OptionError(f"the direction of {whose} has no length; choose another.")
    return vector / length
