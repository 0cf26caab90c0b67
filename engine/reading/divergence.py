"""How far what a layer says is from what the model says at its end."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.frames.frame import Frame
from engine.progress import Check, no_check
from engine.reading.read import tiling


def divergence(
    frame: Frame,
    states: Tensor,
    reference: Tensor,
    *,
    budget_bytes: int = 256 * 2**20,
    check: Check = no_check,
) -> Tensor:
    """KL(p ‖ q_l) in nats between the model's final distribution and each layer's own.

    p is softmax of the frame's matrix product for the reference state (the last layer), q_l the
    same for the states of layer l; use the frame `head`, whose product is the model's logits.
    At least 0; 0 for the reference itself.

    Args:
        frame: the frame `head`.
        states: layers × tokens × d.
        reference: tokens × d, the states that the head reads.

    Returns:
        layers × tokens.
    """
    layers, tokens, d = states.shape
    v = frame.size
    chunk, tile = tiling(tokens * (layers + 1), v, d, budget_bytes, frame.device)
    step = max(1, tile // (layers + 1))
    bias = None if frame.bias is None else frame.bias.detach().float()
    out: list[Tensor] = []
    for first in range(0, tokens, step):
        part = torch.cat([states[:, first : first + step], reference[None, first : first + step]])
        width = part.shape[1]
        rows = frame.queries(part.reshape(-1, d))  # (layer token, d), the reference last
        peak = torch.full((layers + 1, width), -torch.inf, device=rows.device)
        mass = torch.zeros_like(peak)
        cross = torch.zeros_like(peak)  # Σ exp(x_ref − peak_ref)·x_l, for every l
        for start in range(0, v, chunk):
            check()
            product = rows @ frame.block(start, min(start + chunk, v)).T
            if bias is not None:
                product = product + bias[start : start + chunk]
            if frame.finish is not None:
                product = frame.finish(product)
            logits = product.view(layers + 1, width, -1)
            top = torch.maximum(peak, logits.amax(2))
            fade = (peak - top).exp()
            weights = (logits[-1] - top[-1].unsqueeze(1)).exp()
            # Per token a small product layers × chunk · chunk: no block of products.
            energy = torch.bmm(logits.transpose(0, 1), weights.unsqueeze(2)).squeeze(2).T
            cross = cross * fade[-1] + energy
            mass = mass * fade + logits.sub_(top.unsqueeze(2)).exp_().sum(2)
            peak = top
        log_partition = peak + mass.log()
        mean = cross / mass[-1]  # E_p[x_l]
        out.append((mean[-1] - log_partition[-1]) - (mean[:-1] - log_partition[:-1]))
    return torch.cat(out, 1).clamp_min(0)
