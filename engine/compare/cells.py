"""The cells of two sides beside each other: what :mod:`engine.compare.two_models` says of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.compare.alignment import Pairs
from engine.compare.shared import Shared
from engine.compare.side import Side
from engine.progress import Check, no_check
from engine.trace.result import Floats, Ints

_BLOCK: Final = 2**22
"""Scores of a block of cells; about ten temporaries of this size are alive at once."""


def cells_of(
    sides: tuple[Side, Side],
    layers: Sequence[tuple[int, int]],
    pairs: Pairs,
    shared: Shared,
    k: int,
    check: Check = no_check,
) -> dict[str, Any]:
    """All that cells give, layer × pair; `by_chance` by layer.

    Args:
        sides: either model's.
        layers: indices of the layers that stand beside each other.
        pairs: of positions.
        shared: the tokens compared.
        k: listed and overlapped.
        check: called between blocks of cells; raises to stop.
    """
    width = max(side.vocabulary.size for side in sides)
    most = max(2, _BLOCK // width)
    columns = [pairs[n : n + most] for n in range(0, len(pairs), most)]
    step = max(1, most // len(pairs))
    rows = []
    for start in range(0, len(layers), step):
        blocks = []
        for some in columns:
            check()
            blocks.append(_block(sides, layers[start : start + step], some, shared, k))
        row = {name: np.concatenate([one[name] for one in blocks], 1) for name in blocks[0]}
        rows.append(row)
    out = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    out["by_chance"] = np.array([mean_of(one) for one in out["by_chance"]], np.float32)
    return out


def _block(
    sides: tuple[Side, Side],
    layers: Sequence[tuple[int, int]],
    pairs: Pairs,
    shared: Shared,
    k: int,
) -> dict[str, Any]:
    """A few layers at a few pairs."""
    shape = len(layers), len(pairs)
    cells = [[(at[n], pair[n]) for at in layers for pair in pairs] for n in (0, 1)]
    own = [side.logits(some) for side, some in zip(sides, cells, strict=True)]
    finite = np.logical_and(
        *(
            side.finite[tuple(zip(*some, strict=True))]
            for side, some in zip(sides, cells, strict=True)
        )
    )
    logs = [shared_logs(z, ids, shared.whole) for z, ids in zip(own, shared.rows, strict=True)]
    left = [1 - _mass(z, ids, shared.whole) for z, ids in zip(own, shared.rows, strict=True)]
    p, q = (one.exp() for one in logs)
    kl = torch.where(p > 0, p * (logs[0] - logs[1]), 0.0).sum(1).clamp_min(0)
    neighbours = q.reshape(*shape, -1).roll(1, 1).flatten(0, 1)
    count = min(k, len(shared))
    tops = [one.topk(count).indices for one in logs]
    both = (tops[0].unsqueeze(2) == tops[1].unsqueeze(1)).any(2)
    best = [z.topk(min(k, z.shape[1])) for z in own]
    agree = tops[0][:, 0] == tops[1][:, 0]
    # A first token that the other does not have agrees with none.
    for ids, top, said in zip(shared.rows, tops, best, strict=True):
        agree &= ids.to(top.device)[top[:, 0]] == said.indices[:, 0]
    chances = [top.values - z.logsumexp(1, keepdim=True) for z, top in zip(own, best, strict=True)]

    def shaped(values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(*shape, *values.shape[1:])

    def floats(values: Tensor) -> Floats:
        out = values.detach().float().cpu().numpy()
        kept = np.where(finite.reshape(-1, *(1,) * (out.ndim - 1)), out, np.nan)
        return shaped(kept.astype(np.float32))

    def ids_of(values: Tensor) -> Ints:
        return shaped(np.where(finite[:, None], values.cpu().numpy(), -1))

    nowhere = np.full(shape, np.nan, np.float32)
    ranks = np.where(finite, _ranks(sides, own, cells, shared), 0)  # reading × whose × cell
    return {
        "finite": shaped(finite),
        "kl": floats(kl),
        "js": floats(_js(p, q)),
        "by_chance": floats(_js(p, neighbours)) if len(pairs) > 1 else nowhere,
        "overlap": floats(both.float().mean(1)),
        "agreement": shaped(agree.cpu().numpy() & finite),
        "left_out": np.stack([floats(one) for one in left], 2),
        "first_ids": ids_of(best[0].indices),
        "other_ids": ids_of(best[1].indices),
        "first_tops": floats(chances[0].exp()),
        "other_tops": floats(chances[1].exp()),
        "ranks": shaped(ranks.transpose(2, 0, 1)),
    }


def shared_logs(z: Tensor, ids: Tensor, whole: bool) -> Tensor:
    """Log-probabilities over the shared tokens."""
    taken = z if whole else z[:, ids.to(z.device)]
    return taken - taken.logsumexp(1, keepdim=True)


def _mass(z: Tensor, ids: Tensor, whole: bool) -> Tensor:
    """Probability of the shared tokens in the whole vocabulary."""
    if whole:
        return torch.ones(len(z))
    return (z[:, ids.to(z.device)].logsumexp(1) - z.logsumexp(1)).exp().clamp_max(1)


def _js(p: Tensor, q: Tensor) -> Tensor:
    """Of every row; 0 to the last bit where p is q."""
    middle = (p + q) / 2
    sums = [torch.where(one > 0, one * (one / middle).log(), 0.0).sum(1) for one in (p, q)]
    return ((sums[0] + sums[1]) / 2).clamp(0, math.log(2))


def _ranks(
    sides: tuple[Side, Side], own: list[Tensor], cells: list[list[tuple[int, int]]], shared: Shared
) -> Ints:
    """reading × whose answer × cell."""
    translated = {
        (0, 1): dict(zip(shared.first.tolist(), shared.other.tolist(), strict=True)),
        (1, 0): dict(zip(shared.other.tolist(), shared.first.tolist(), strict=True)),
    }
    out = np.zeros((2, 2, len(cells[0])), np.int64)
    for whose in (0, 1):
        answers = [sides[whose].answers[n] for _, n in cells[whose]]
        for reading in (0, 1):
            ids = [
                id if whose == reading else translated[whose, reading].get(id, -1) for id in answers
            ]
            wanted = torch.tensor(ids, device=own[reading].device).unsqueeze(1)
            held = own[reading].gather(1, wanted.clamp_min(0))
            rank = 1 + (own[reading] > held).sum(1)
            out[reading, whose] = np.where(np.array(ids) >= 0, rank.cpu().numpy(), 0)
    return out


def mean_of(values: Floats) -> float:
    """Of what is finite; NaN where nothing is."""
    held = values[np.isfinite(values)]
    return float(held.mean()) if len(held) else math.nan
