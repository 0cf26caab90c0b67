"""Chosen tokens over the layers: score, probability and exact rank at one position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import LayerError
from engine.json_number import number
from engine.model.language_model import LanguageModel, States
from engine.model.vocabulary import Token
from engine.progress import Check, no_check
from engine.reading.read import read
from engine.trace.compute import Frames, not_finite
from engine.trace.result import Floats, Ints, Trace
from engine.trace.states import prepare


@dataclass(frozen=True)
class Curves:
    """Chosen tokens over the layers at one position, by the chosen geometry and frame."""

    position: int
    layers: tuple[int, ...]
    tokens: tuple[Token, ...]
    scores: Floats
    """token × layer."""
    probabilities: Floats
    """token × layer."""
    ranks: Ints
    """token × layer, from 1; 0 where the state is not finite."""
    geometry: str
    frame: str
    temperature: float
    warnings: tuple[str, ...] = ()
    """Which layers are not finite, where there are any."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "position": self.position,
            "layers": list(self.layers),
            "geometry": self.geometry,
            "frame": self.frame,
            "temperature": self.temperature,
            "tokens": [
                token.to_dict()
                | {
                    "scores": [number(x) for x in self.scores[n]],
                    "probabilities": [number(x) for x in self.probabilities[n]],
                    "ranks": [int(x) or None for x in self.ranks[n]],
                }
                for n, token in enumerate(self.tokens)
            ],
            "warnings": list(self.warnings),
        }


def compute_curves(
    model: LanguageModel,
    frames: Frames,
    trace: Trace,
    states: States,
    ids: Sequence[int],
    position: int,
    *,
    check: Check = no_check,
) -> Curves:
    """Score, probability and exact rank of chosen tokens at every layer read, at one position."""
    if position not in trace.positions:
        raise LayerError(
            f"position {position} is not among those read"
            f" ({trace.positions[0]} to {trace.positions[-1]}); choose one of them."
        )
    options = trace.options
    got = prepare(model, states, replace(options, positions=None), check=check)
    flat = got.states[:, position]
    finite = got.finite[:, position].cpu().numpy()
    targets = torch.tensor([list(ids)], device=flat.device).repeat(len(flat), 1)
    reading = read(
        frames(options.frame),
        flat,
        geometries=(options.geometry,),
        k=1,
        temperatures=options.temperatures,
        targets=targets,
        centred=options.centred,
        budget_bytes=model.limits.reading_bytes,
        check=check,
    )[options.geometry]

    def floats(values: Tensor) -> Floats:
        out = values.detach().float().cpu().numpy().T
        return np.where(finite[None, :], out, np.nan).astype(np.float32)

    return Curves(
        position=position,
        layers=trace.layers,
        tokens=tuple(model.vocabulary_texts.token(i) for i in ids),
        scores=floats(reading.target_scores),
        probabilities=floats(reading.target_probabilities),
        ranks=np.where(finite[None, :], reading.ranks.cpu().numpy().T, 0),
        geometry=options.geometry,
        frame=options.frame,
        temperature=trace.temperature,
        warnings=tuple(not_finite(trace.layers, finite[:, None])),
    )
