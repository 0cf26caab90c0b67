"""The k nearest tokens, entropy and exact ranks of states, in one pass over the vocabulary.

:func:`read` runs over the vocabulary in chunks of scores (:mod:`engine.reading.similarity`) and
keeps what was asked only. It is differentiable with respect to the states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from engine.frames.frame import Frame
from engine.progress import Check, no_check
from engine.reading.exact import Exact, grain
from engine.reading.fused import Fused, worth_it
from engine.reading.geometries import GEOMETRIES, geometry_of
from engine.reading.geometries.geometry import Columns, Geometry, Rows
from engine.reading.running import Running, Scratch
from engine.reading.similarity import columns_of, prepare_rows, products, tiling


@dataclass(frozen=True)
class Reading:
    """What n states say in one geometry on one frame."""

    ids: Tensor
    """The k nearest tokens, nearest first (n × k)."""
    scores: Tensor
    """Their scores (n × k)."""
    log_partition: Tensor
    """log Σ_i exp(score_i / T) over the whole vocabulary (n)."""
    entropy: Tensor
    """Of softmax(score / T), in nats, in [0, log v] (n)."""
    target_scores: Tensor
    """Scores of the tokens that were asked for (n × m)."""
    ranks: Tensor
    """1 + the number of tokens with a larger score than the target's (n × m)."""
    probabilities: Tensor
    """Of the k nearest tokens, softmax(score / T) over the whole vocabulary (n × k)."""
    target_probabilities: Tensor
    """Of the tokens that were asked for (n × m)."""
    temperature: float

    def nearest(self, k: int) -> Reading:
        """The same with the first k of the list."""
        return replace(
            self,
            ids=self.ids[:, :k],
            scores=self.scores[:, :k],
            probabilities=self.probabilities[:, :k],
        )


def read(
    frame: Frame,
    states: Tensor,
    *,
    geometries: Iterable[str] = GEOMETRIES,
    k: int = 10,
    temperatures: Mapping[str, float] | None = None,
    targets: Tensor | None = None,
    centred: bool = False,
    allowed: Tensor | None = None,
    vectors: bool = False,
    distribution: Tensor | None = None,
    budget_bytes: int = 256 * 2**20,
    check: Check = no_check,
) -> dict[str, Reading]:
    """The k nearest tokens, entropy and exact ranks of n states, in one pass over the vocabulary.

    One product with the frame's rows serves all geometries.

    Args:
        frame: b_1 … b_v.
        states: n × d on the frame's device.
        geometries: by which, by their names.
        k: how many nearest tokens; at most v.
        temperatures: T per geometry; what is missing is the geometry's own.
        targets: token ids whose ranks and scores are wanted (n × m).
        centred: subtract the mean basis from each basis.
        allowed: True for tokens that may stand among the k nearest (v); probabilities, entropy
            and ranks stay those of the whole vocabulary.
        vectors: the states are vectors of the frame itself, so a head bias does not move them.
        distribution: room for softmax(score / T) over the whole vocabulary (n × v), which is
            written there; for one geometry only.
        budget_bytes: an upper limit for the temporaries of this call, whatever v and n.
        check: called once per chunk; raises to stop.

    Returns:
        A reading per geometry. Equal scores come in no promised order.
    """
    chosen = [geometry_of(name) for name in geometries]
    n, v = len(states), frame.size
    k = min(k, v)
    temps = {g.name: (temperatures or {}).get(g.name, g.temperature) for g in chosen}
    chunk, tile = tiling(n, v, frame.width, budget_bytes, frame.device)
    parts: list[dict[str, Reading]] = []
    for first in range(0, max(n, 1), tile):
        some = slice(first, min(first + tile, n))
        wanted = None if targets is None else targets[some]
        parts.append(
            _read_tile(
                frame,
                prepare_rows(frame, states[some], centred=centred, vectors=vectors),
                Exact(frame, states[some], centred, vectors),
                chosen,
                k,
                temps,
                wanted,
                centred,
                allowed,
                None if distribution is None else distribution[some],
                chunk,
                check,
            )
        )
    if len(parts) == 1:
        return parts[0]
    return {g.name: joined([p[g.name] for p in parts]) for g in chosen}


def joined(parts: list[Reading]) -> Reading:
    """Readings of several sets of states, one after the other, as one."""
    whole = {
        one.name: torch.cat([getattr(part, one.name) for part in parts])
        for one in fields(Reading)
        if one.name != "temperature"
    }
    return Reading(**whole, temperature=parts[0].temperature)


def _read_tile(
    frame: Frame,
    rows: Rows,
    exact: Exact,
    geometries: list[Geometry],
    k: int,
    temperatures: Mapping[str, float],
    targets: Tensor | None,
    centred: bool,
    allowed: Tensor | None,
    whole: Tensor | None,
    chunk: int,
    check: Check,
) -> dict[str, Reading]:
    n, v = len(rows.queries), frame.size
    device = frame.device
    columns = columns_of(frame, centred=centred)
    if targets is None:
        targets = torch.empty((n, 0), dtype=torch.long, device=device)
    wanted, grains = _target_scores(frame, geometries, rows, targets, columns)
    graph = torch.is_grad_enabled() and rows.queries.requires_grad
    fused = worth_it(n * v, rows.queries)
    scratch = Scratch(n, chunk, device, reuse=not graph)
    running: list[Running] = []
    for geometry, own, fine in zip(geometries, wanted, grains, strict=True):
        gain, _ = geometry.row_part(rows)
        cold = 1.0 / temperatures[geometry.name]
        warmth = cold if gain is None else gain * cold
        kind = Fused if fused else Running
        running.append(kind(n, k, targets, own.detach(), fine, warmth, scratch))
    for start in range(0, v, chunk):
        check()
        stop = min(start + chunk, v)
        dots = products(rows, frame.block(start, stop), scratch.block(2, n, stop - start))
        hidden = None if allowed is None else ~allowed[start:stop]
        part = columns.at(slice(start, stop))
        for geometry, state in zip(geometries, running, strict=True):
            block = geometry.bare(dots, part, scratch.block(3, n, stop - start))
            if whole is not None:
                whole[:, start:stop] = block
            state.take(block, start, hidden)
    for geometry, state in zip(geometries, running, strict=True):
        state.settle(geometry, exact)
        if whole is not None:
            warmth = torch.as_tensor(state.cold, device=device)
            whole.sub_(state.crest).mul_(warmth).sub_(state.mass.log()).exp_()
    return {
        g.name: _finish(state, own, temperatures[g.name], g.row_part(rows))
        for g, state, own in zip(geometries, running, wanted, strict=True)
    }


def _target_scores(
    frame: Frame, geometries: list[Geometry], rows: Rows, targets: Tensor, columns: Columns
) -> tuple[list[Tensor], list[Tensor]]:
    """Bare scores of the targets (n × m), by one small product with the distinct ones; and within
    what of them float32 cannot tell scores apart."""
    if targets.numel() == 0:
        none = [torch.zeros(targets.shape, device=targets.device)] * len(geometries)
        return none, none
    unique, place = torch.unique(targets, return_inverse=True)
    vectors = frame.gather(unique).float()
    dots = products(rows, vectors)
    part = columns.at(unique)
    own = [g.bare(dots, part, None).gather(1, place) for g in geometries]
    fine = [
        grain(g, rows, vectors, place, one.detach(), part)
        for g, one in zip(geometries, own, strict=True)
    ]
    return own, fine


def _finish(
    running: Running,
    wanted: Tensor,
    temperature: float,
    row_part: tuple[Tensor | None, Tensor | None],
) -> Reading:
    log_mass = running.mass.log()
    log_partition = running.crest * running.cold + log_mass
    entropy = log_mass - running.moment / running.mass
    ranks = 1 + running.above
    best = running.best
    ids = torch.where(best > -torch.inf, running.ids, -1)  # fewer allowed tokens than places
    # Probabilities from bare scores: ‖r‖² may be too large to be added and taken off again.
    probabilities = ((best - running.crest) * running.cold - log_mass).exp()
    target_probabilities = ((wanted - running.crest) * running.cold - log_mass).exp()
    gain, lift = row_part
    if gain is not None:
        best, wanted = best * gain, wanted * gain
    if lift is not None:
        best, wanted = best + lift, wanted + lift
        log_partition = log_partition + lift / temperature
    return Reading(
        ids=ids,
        scores=best,
        log_partition=log_partition.squeeze(1),
        entropy=entropy.squeeze(1).clamp_min(0),
        target_scores=wanted,
        ranks=ranks,
        probabilities=probabilities,
        target_probabilities=target_probabilities,
        temperature=temperature,
    )
