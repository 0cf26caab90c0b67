"""What an action does to a model's answer, beside its controls.

The effect is the change of the target's log odds, log p/(1 − p). Ours: it counts as more than
chance where it lies outside of the range of the random controls and of the answer without any
action, widened on either side by its own width, at most by one nat; within that no sentence is made
of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import NonFiniteError
from engine.interventions.action import Action
from engine.interventions.hooks import acting
from engine.interventions.plan import (
    CONTROLS,
    Edits,
    Planned,
    check_patch,
    controls,
    edits_of,
    layers_of,
    other_prompt,
    resolved,
)
from engine.interventions.space import Space
from engine.interventions.written import NOTHING, Writing, Written, write_on
from engine.json_number import plain
from engine.model.ranges import parse_range
from engine.progress import Check, no_check
from engine.reading.similarity import scores

_TOKENS_AT_ONCE: Final = 2048
_MARGIN: Final = 1.0
"""In nats of log odds: a factor of e in the odds."""


@dataclass(frozen=True)
class Answer:
    """A next token."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class Watched:
    """A token whose chances are followed."""

    id: int
    text: str
    rank_before: int
    rank_after: int
    probability_before: float
    probability_after: float


@dataclass(frozen=True)
class Control:
    """The same prompt under a control."""

    kind: str
    """``random``, ``opposite`` (sign) or ``layer`` (another)."""
    what: str
    """In words."""
    probability_after: float
    """Of the target."""
    rank_after: int
    answer: Answer
    kl: float


@dataclass(frozen=True)
class Effect:
    """What an action does to what a prompt is answered with."""

    action: Action
    """With its tokens as ids."""
    prompt: str
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    before: Answer
    after: Answer
    target: Watched
    foil: Watched
    """The answer without the action; where that is the target, the answer with it, or what stood
    second."""
    kl: float
    """KL(before ‖ after) of the next token, in nats."""
    controls: tuple[Control, ...]
    beyond_controls: bool
    moved: NDArray[np.float32] = field(repr=False)
    """layer × position: ‖h′ − h‖/‖h‖."""
    written: Written | None = None
    """None where nothing was to be written."""

    @property
    def turned(self) -> bool:
        """Whether the answer is another one."""
        return self.before.id != self.after.id

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the largest probability of the target under random controls."""
        found = [one.probability_after for one in self.controls if one.kind == "random"]
        return (min(found), max(found)) if found else None

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "prompt": self.prompt,
            "action": self.action.to_dict(),
            "layers": list(self.layers),
            "positions": list(self.positions),
            "before": {"answer": plain(self.before)},
            "after": {"answer": plain(self.after)},
            "target": plain(self.target),
            "foil": plain(self.foil),
            "kl": plain(self.kl),
            "controls": plain(self.controls),
            "beyond_controls": self.beyond_controls,
            "moved": plain(self.moved),
            "written": plain(self.written),
        }


def effect(
    space: Space,
    prompt: str,
    action: Action,
    writing: Writing = NOTHING,
    *,
    check: Check = no_check,
) -> Effect:
    """Read a prompt as it is, under an action, and under the action's controls.

    Args:
        space: called on its thread.
        prompt: any text within the limits.
        action: what is done.
        writing: whether the text goes on as well, each time.
        check: raises to stop.

    Raises:
        PromptError, LayerError, TokenError, OptionError: one sentence each.
        NonFiniteError: a strength that makes states infinite; at which layer.
    """
    tokens = space.tokenize(prompt, **action.settings)
    ids = tokens.ids
    action = resolved(space, action, ids)
    layers = layers_of(space, action)
    positions = parse_range(
        action.places, len(ids), "position", f"this prompt of {len(ids)} tokens"
    )
    if action.source is not None:
        source = space.tokenize(action.source, **action.settings)
        check_patch(action, len(ids), len(source.ids))
    before = space.states(prompt, **action.settings, check=check).raw
    edits = edits_of(space, action, layers, check=check)
    after = before if not edits else run(space, ids, edits, check)
    planned = list(controls(space, action, layers, ids, check))
    beside = last_rows(space, ids, [one.edits for one in planned], check)
    logits = answers(space, torch.cat([before[-1:, -1], after[-1:, -1], beside]))
    if not bool(torch.isfinite(torch.logsumexp(logits[:2], 1)).all()):
        raise NonFiniteError("this model's answer to the prompt is not finite; choose another.")
    found = _effect(space, prompt, action, layers, positions, (before, after), logits, planned)
    if not writing.tokens:
        return found
    return replace(found, written=write_on(space, prompt, action, edits, planned, writing, check))


def run(space: Space, ids: Sequence[int], edits: Edits, check: Check) -> Tensor:
    """The states of a prompt under an action: layer × token × residual width.

    Raises:
        NonFiniteError: they are infinite; at which layer.
    """
    with acting(space.model, [edits]):
        raw = space.model.states(ids, check=check).raw
    broken = (~torch.isfinite(raw).all(-1).all(-1)).nonzero()
    if len(broken):
        raise NonFiniteError(
            f"this change makes the states at layer {int(broken[0])} infinite; choose a smaller"
            " strength."
        )
    return raw


def last_rows(space: Space, ids: Sequence[int], rows: Sequence[Edits], check: Check) -> Tensor:
    """The last layer's state after a prompt under several actions, side by side in one forward pass
    as far as that is short: row × d."""
    at_once = max(1, _TOKENS_AT_ONCE // len(ids))
    found = [torch.empty(0, space.model.anatomy.residual_width, device=_home(space))]
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        with acting(space.model, some):
            last = space.model.last_states([ids] * len(some), [space.model.blocks], check=check)
        found.append(last[:, 0])
    return torch.cat(found)


def _home(space: Space) -> torch.device:
    return space.model.anatomy.weight.device


def answers(space: Space, raw: Tensor) -> Tensor:
    """The model's logits from last-layer states: n × v, float32."""
    return scores(space.frame("head"), space.model.read_out(raw), "matmul").cpu()


def _effect(
    space: Space,
    prompt: str,
    action: Action,
    layers: tuple[int, ...],
    positions: tuple[int, ...],
    states: tuple[Tensor, Tensor],
    logits: Tensor,
    planned: list[Planned],
) -> Effect:
    shares = torch.log_softmax(logits.double(), dim=1)
    before, after = (_answer(space, row) for row in shares[:2])
    target = _target(space, prompt, action, before)
    rival = before.id if before.id != target else after.id
    if rival == target:
        rival = int(shares[0].topk(2).indices[1])
    found = tuple(
        Control(
            one.kind,
            one.what,
            float(row[target].exp()),
            rank(row, target),
            _answer(space, row),
            divergence(shares[0], row),
        )
        for one, row in zip(planned, shares[2:], strict=True)
    )
    old, new = states
    length = old.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    return Effect(
        action=action,
        prompt=prompt,
        layers=layers,
        positions=positions,
        before=before,
        after=after,
        target=_watched(space, shares, target),
        foil=_watched(space, shares, rival),
        kl=divergence(shares[0], shares[1]),
        controls=found,
        beyond_controls=beyond(shares[:2, target], [
            shares[2 + n, target] for n, one in enumerate(found) if one.kind == "random"
        ]),
        moved=((new - old).norm(dim=-1) / length).cpu().numpy().astype(np.float32),
    )  # fmt: skip


def _answer(space: Space, row: Tensor) -> Answer:
    first = int(row.argmax())
    return Answer(first, space.vocabulary.texts[first], float(row[first].exp()))


def _watched(space: Space, shares: Tensor, token: int) -> Watched:
    before, after = shares[0], shares[1]
    return Watched(
        token,
        space.vocabulary.texts[token],
        rank(before, token),
        rank(after, token),
        float(before[token].exp()),
        float(after[token].exp()),
    )


def _target(space: Space, prompt: str, action: Action, before: Answer) -> int:
    """The token that an action is about: named, or steered to, or what the other prompt is
    answered with; else the model's own answer."""
    if action.target is not None:
        return int(action.target)
    if action.kind == "steer" and action.token is not None:
        return int(action.token)
    if action.kind == "patch":
        assert action.source is not None
        raw = space.states(action.source, **action.settings).raw
        return int(answers(space, raw[-1:, -1])[0].argmax())
    if action.kind == "swap":
        ids = space.tokenize(prompt, **action.settings).ids
        other = other_prompt(ids, int(action.token or 0), int(action.foil or 0))
        if other != ids:
            raw = space.model.states(other).raw
            return int(answers(space, raw[-1:, -1])[0].argmax())
    return before.id


def rank(row: Tensor, token: int) -> int:
    """1 + how many tokens are likelier."""
    return 1 + int((row > row[token]).sum())


def divergence(p: Tensor, q: Tensor) -> float:
    """KL(p ‖ q) in nats of two rows of log-probabilities."""
    share = p.exp()
    return max(0.0, float(torch.where(share > 0, share * (p - q), 0.0).sum()))


def beyond(pair: Tensor, beside: Sequence[Tensor]) -> bool:
    """Whether a token's chances changed by more than the random controls change them.

    Args:
        pair: its log-probability before and after.
        beside: under each random control.
    """
    if len(beside) < min(CONTROLS, 2):
        return False
    before, after, *others = (_odds(one) for one in (*pair, *beside))
    low, high = min(before, *others), max(before, *others)
    margin = min(high - low, _MARGIN)
    return after < low - margin or after > high + margin


def _odds(share: Tensor) -> float:
    """log p/(1 − p) of a log-probability, finite for every p."""
    p = float(share)
    rest = -np.expm1(min(p, 0.0))
    return float(np.clip(p - np.log(max(rest, 1e-300)), -700, 700))
