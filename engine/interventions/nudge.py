"""The smallest change of the last state that turns the answer into a chosen token. DERIVED; ours.

The head reads r, the last state past the final norm: z = W·r + b. The change

    Δ = δ·u / ((w_t − w_a)·u),   u = s_t − s_a,

moves the contrast z_t − z_a by exactly δ and has, of all changes that do, the smallest sum of
squared changes of all logits, ΔᵀGΔ = ‖WΔ‖². With w in place of s it is the shortest instead, and
moves the rest more. Along either, z_j + δ·m_j with m = W·u/((w_t − w_a)·u); the token comes first
from δ* = max_j (z_j − z_t)/(m_t − m_j) on, over the tokens above it, unless another rises faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from engine.errors import OptionError
from engine.interventions.plan import token_of
from engine.interventions.space import Space
from engine.json_number import Plain
from engine.progress import Check, no_check

WAYS: Final = ("output", "tight", "head")
"""Frames whose vectors the change is made of."""
_MARGIN: Final = 1e-3
"""Logits by which the token comes before the next one."""


@dataclass(frozen=True)
class Way(Plain):
    """The change along one frame's vectors."""

    frame: str
    delta: float | None
    """How far the contrast is moved; None where no size of it brings the token first."""
    size: float
    """‖Δ‖ as a share of ‖r‖; for a contrast that moves by 1 where `delta` is None."""
    others: float
    """The sum of squared changes of all other logits, of the same change."""
    others_each: float
    """The same for a contrast that moves by 1: where the ways can be compared."""
    first: bool
    """Whether the token is first afterwards, of the whole vocabulary."""


@dataclass(frozen=True)
class Nudge(Plain):
    """The smallest change that turns an answer, along three frames."""

    target: int
    target_text: str
    answer: int
    answer_text: str
    gap: float
    """z_a − z_t as it is."""
    ways: tuple[Way, ...]


def nudge(
    space: Space,
    prompt: str,
    token: int | str,
    *,
    bos: str = "auto",
    chat: bool = False,
    check: Check = no_check,
) -> Nudge:
    """What it takes to turn the answer after a prompt into a token.

    Args:
        space: called on its thread.
        prompt: any text within the limits.
        token: the answer that is wanted.
        bos: as for a trace.
        chat: the same.
        check: raises to stop.

    Raises:
        TokenError: no such token, or several.
        OptionError: it is the answer already.
    """
    ids = space.tokenize(prompt, bos=bos, chat=chat).ids
    target = token_of(space, token, ids)
    raw = space.states(prompt, bos=bos, chat=chat, check=check).raw
    state = space.model.read_out(raw[-1:, -1])[0].cpu().double()
    logits = products(space, state) + bias(space)
    answer = int(logits.argmax())
    texts = space.vocabulary.texts
    if answer == target:
        raise OptionError(f"{texts[target].strip()[:40]!r} is the answer already; choose another.")
    return Nudge(
        target,
        texts[target],
        answer,
        texts[answer],
        float(logits[answer] - logits[target]),
        tuple(_way(space, frame, state, logits, target, answer) for frame in WAYS),
    )


def along(space: Space, frame: str, target: int, answer: int) -> Tensor:
    """Δ for δ = 1: the change that moves the contrast by one; float64 (d)."""
    u = space.frame(frame).vectors([target, answer])
    u = u[0] - u[1]
    rows = space.frame("head").vectors([target, answer])
    return u / float((rows[0] - rows[1]) @ u)


def products(space: Space, vector: Tensor) -> Tensor:
    """W·x in float64, by blocks of rows (v)."""
    weight = space.model.anatomy.weight
    parts = [
        weight[start : start + _ROWS].detach().cpu().double() @ vector
        for start in range(0, len(weight), _ROWS)
    ]
    return torch.cat(parts)


def bias(space: Space) -> Tensor:
    """The head's bias in float64, or zeros (v)."""
    own = space.model.anatomy.bias
    size = space.model.vocabulary
    return torch.zeros(size, dtype=torch.float64) if own is None else own.detach().cpu().double()


_ROWS: Final = 8192


def _way(space: Space, frame: str, state: Tensor, logits: Tensor, target: int, answer: int) -> Way:
    step = along(space, frame, target, answer)
    rates = products(space, step)
    delta = _least(logits, rates, target)
    size = 1.0 if delta is None else delta
    others = rates.square()
    others[[target, answer]] = 0
    each = float(others.sum())
    after = logits + size * rates
    return Way(
        frame,
        delta,
        abs(size) * float(step.norm() / state.norm()),
        size**2 * each,
        each,
        delta is not None and int(after.argmax()) == target,
    )


def _least(logits: Tensor, rates: Tensor, target: int) -> float | None:
    """The least δ from which on a token is first; None where another rises as fast."""
    ahead, gain = logits - logits[target], rates[target] - rates
    ahead = torch.where(torch.isfinite(ahead), ahead, -torch.inf) + _MARGIN
    ahead[target] = -torch.inf
    above = ahead > 0
    if not bool((gain[above] > 0).all()):
        return None
    least = float((ahead[above] / gain[above]).max()) if bool(above.any()) else 0.0
    # Those that rise faster must not have passed it by then.
    faster = (gain < 0) & ~above
    if bool(faster.any()) and float((ahead[faster] / gain[faster]).min()) < least:
        return None
    return least
