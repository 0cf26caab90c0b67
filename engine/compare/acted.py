"""What an action changes in every cell of a trace: the reading, and the rank of a token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.compare.divergence import divergence_of_readings
from engine.interventions.action import Action
from engine.progress import Check, no_check
from engine.reading.read import read
from engine.space import LatentSpace
from engine.trace.options import TraceOptions, prepare
from engine.trace.result import Floats, Ints


@dataclass(frozen=True)
class ActedCells:
    """Cells before and after an action, layer × position."""

    divergence: Floats
    """KL(before ‖ after) of the readings, nats."""
    rank_before: Ints
    """Of the token, from 1."""
    rank_after: Ints


def acted_cells(
    space: LatentSpace,
    prompt: str,
    action: Action,
    token: int,
    options: TraceOptions,
    *,
    check: Check = no_check,
) -> ActedCells:
    """Read every state of a prompt as it is and under an action.

    Args:
        space: called on its thread.
        prompt: any text within the limits.
        action: what is done.
        token: whose ranks are wanted.
        options: how states are read.
        check: raises to stop.

    Raises:
        LayerError, TokenError, OptionError: as for the action.
    """

    def states() -> Tensor:
        raw = space.states(prompt, bos=options.bos, chat=options.chat, check=check)
        return prepare(space.model, raw, options, check=check).states

    before = states()
    with space.act(action, check=check):
        after = states()
    frame, geometry = space.frame(options.frame_key), options.geometry
    temperature = space.temperatures(options.frame_key, check=check)[geometry].value
    shape, budget = before.shape[:2], space.model.limits.reading_bytes
    pair = [one.flatten(0, 1) for one in (before, after)]
    apart = divergence_of_readings(
        frame, *pair, geometry=geometry, temperature=temperature, budget_bytes=budget, check=check
    )

    def ranks(rows: Tensor) -> Ints:
        targets = torch.full((len(rows), 1), token, device=rows.device)
        with torch.no_grad():
            found = read(frame, rows, geometries=(geometry,), k=1, targets=targets,
                         budget_bytes=budget, check=check)[geometry]  # fmt: skip
        out: Ints = found.ranks.cpu().numpy().reshape(shape)
        return out

    return ActedCells(apart.reshape(shape).float().numpy(), *map(ranks, pair))
