"""The control: seeded normal directions with the lengths of the semantic bases."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch

from engine.frames.decomposition import CHUNK
from engine.frames.frame import Frame
from engine.frames.kinds.kind import FrameKind, Source


def _build(source: Source) -> Frame:
    norms = source.decomposition.basis_norms.float().to(source.device)
    total = torch.zeros_like(source.decomposition.row_mean)
    frame = Frame("random", None, None, norms, total, seed=source.seed)
    for start in range(0, frame.size, CHUNK):
        rows = frame.block(start, min(start + CHUNK, frame.size))
        total = total + rows.cpu().double().sum(0)
    return replace(frame, mean=total / frame.size)


RANDOM: Final = FrameKind(
    name="random",
    title="random (control)",
    phrase="random bases",
    what="The control: directions without meaning, as long as the bases. What it shows is chance.",
    note="The control: seeded random directions with the lengths of the semantic bases. What"
    " it shows is chance.",
    formula="b_i ∼ 𝒩(0, I), scaled to ‖b_i‖ = ‖s_i‖",
    control=True,
    build=_build,
)
