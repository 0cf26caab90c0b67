"""How far one reading's distribution over the vocabulary is from another's."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.frames.frame import Frame
from engine.progress import Check, no_check
from engine.reading.geometries import geometry_of
from engine.reading.similarity import columns_of, prepare_rows, products, tiling


@torch.no_grad()
def divergence_of_readings(
    frame: Frame,
    first: Tensor,
    other: Tensor,
    *,
    geometry: str,
    temperature: float,
    centred: bool = False,
    budget_bytes: int = 256 * 2**20,
    check: Check = no_check,
) -> Tensor:
    """KL(p ‖ q) in nats of each pair of states, p and q the softmax of their scores over T.

    At least 0, and 0 for a state beside itself. One pass over the vocabulary, with running maxima.

    Args:
        frame: b_1 … b_v.
        first: n × d, what p is read from.
        other: n × d, what q is read from.
        geometry: by its name.
        temperature: T.
        centred: as for a reading.
        budget_bytes: an upper limit for the temporaries.
        check: called once per chunk; raises to stop.

    Returns:
        n, float64 on the CPU.
    """
    measure = geometry_of(geometry)
    columns = columns_of(frame, centred=centred)
    chunk, tile = tiling(2 * len(first), frame.size, frame.width, budget_bytes, frame.device)
    step = max(1, tile // 2)
    out = []
    for at in range(0, len(first), step):
        rows = [
            prepare_rows(frame, states[at : at + step], centred=centred)
            for states in (first, other)
        ]
        n = len(rows[0].queries)
        low = torch.full((n, 1), -torch.inf, device=frame.device)
        peaks = [low, low]
        masses = [torch.zeros((n, 1), device=frame.device) for _ in rows]
        cross = torch.zeros((n, 1), device=frame.device)  # Σ exp(x − peak)·(x − y)
        for start in range(0, frame.size, chunk):
            check()
            part = slice(start, min(start + chunk, frame.size))
            block, own = frame.block(part.start, part.stop), columns.at(part)
            x, y = (measure.scores(products(r, block), r, own) / temperature for r in rows)
            tops = [
                torch.maximum(peak, z.amax(1, keepdim=True))
                for peak, z in zip(peaks, (x, y), strict=True)
            ]
            fades = [(peak - top).exp() for peak, top in zip(peaks, tops, strict=True)]
            weights = [(z - top).exp() for z, top in zip((x, y), tops, strict=True)]
            apart = torch.where(weights[0] > 0, x - y, 0.0)
            cross = cross * fades[0] + (weights[0] * apart).sum(1, keepdim=True)
            masses = [
                mass * fade + weight.sum(1, keepdim=True)
                for mass, fade, weight in zip(masses, fades, weights, strict=True)
            ]
            peaks = tops
        partition = [peak + mass.log() for peak, mass in zip(peaks, masses, strict=True)]
        out.append((cross / masses[0] - partition[0] + partition[1]).squeeze(1))
    found = torch.cat(out) if out else torch.zeros(0)
    return found.double().cpu().clamp_min(0)
