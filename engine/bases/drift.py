"""How far what goes into a model is from what comes out, in the vocabulary's own terms.

M = Σ_i b_i w_iᵀ (d × d) says where a state ends up that is read by the head and written again with
the vectors of a frame. With α = tr M / d the **interface drift** is ‖M/α − I‖_F / √d: 0 where
writing undoes reading up to one factor (pseudo-inverse tying, arXiv 2602.04556, for the embedding).
For the semantic bases M = W⁺W, so it is 0 wherever the head has full rank.
"""

from __future__ import annotations

import math

import torch

from engine.frames.decomposition import CHUNK
from engine.frames.frame import Frame
from engine.progress import Check, no_check


def interface_drift(frame: Frame, head: Frame, *, check: Check = no_check) -> float | None:
    """The interface drift of a frame against the head's rows.

    Args:
        frame: b_1 … b_v, of the head's width.
        head: w_1 … w_v.
        check: called once per chunk of the vocabulary; raises to stop.

    Returns:
        0 or more, without a unit; None where α is 0, so that nothing can be scaled to I.
    """
    d = head.width
    moment = torch.zeros(d, d, dtype=torch.float64)
    for start in range(0, head.size, CHUNK):
        check()
        ids = range(start, min(start + CHUNK, head.size))
        moment += frame.vectors(ids).T @ head.vectors(ids)
    scale = float(moment.trace()) / d
    if abs(scale) <= torch.finfo(torch.float64).tiny:
        return None
    return float((moment / scale - torch.eye(d, dtype=torch.float64)).norm()) / math.sqrt(d)
