"""What a trace gives: every cell by every geometry, and the same as JSON and as flat rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.json_number import number, plain
from engine.model.vocabulary import Token
from engine.reading.temperature import Temperature
from engine.trace.options import TraceOptions

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ModelInfo:
    """Which model an answer is about."""

    name: str
    revision: str
    fingerprint: str
    device: str
    dtype: str


@dataclass(frozen=True)
class Cost:
    """What a run needs: seconds and bytes of peak memory, foretold and measured."""

    predicted_seconds: float
    predicted_bytes: int
    seconds: float | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class GeometryReading:
    """All cells read by one geometry on one frame."""

    top_ids: Ints
    """layer × position × k, nearest first; −1 where the state is not finite."""
    top_scores: Floats
    """layer × position × k; larger is nearer."""
    top_probabilities: Floats
    """layer × position × k, softmax(score/T) over the whole vocabulary."""
    entropy: Floats
    """layer × position, nats."""
    final_rank: Ints
    """layer × position: rank of the model's final answer, from 1; 0 where not finite."""
    final_score: Floats
    """layer × position."""
    final_probability: Floats
    """layer × position."""


@dataclass(frozen=True)
class Crossing:
    """The semantic region of a position changed between two layers that were read."""

    position: int
    layer: int
    """The layer where the new region is entered."""
    from_id: int
    to_id: int


@dataclass(frozen=True)
class LayerIsotropy:
    """Isotropy of one layer's states over the prompt, and near bases."""

    layer: int
    raw: float
    centred: float
    spectral: float
    near_raw: float
    """Mean over positions: isotropy of the k nearest bases, raw."""
    near_centred: float
    """The same, centred on their own mean."""


@dataclass(frozen=True)
class Trace:
    """A prompt through the layers. Arrays are layer × position, in the order of those fields."""

    model: ModelInfo
    options: TraceOptions
    tokens: tuple[Token, ...]
    """All of the prompt's."""
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    temperatures: dict[str, Temperature]
    """By geometry, on the chosen frame."""
    readings: dict[str, GeometryReading]
    """By geometry, on the chosen frame."""
    final_ids: Ints
    """The model's own next token (position); −1 where its last layer is not finite."""
    final_probabilities: Floats
    """Its probability by the model itself (position)."""
    divergence: Floats
    """KL(the model's final distribution ‖ this layer read by the model's own head), nats."""
    border: Floats
    """Distance to the border of the semantic region: radians for cosine, else a length."""
    border_ids: Ints
    """The region beyond that border."""
    crossings: tuple[Crossing, ...]
    target_similarity: Floats
    """Cosine to the output basis of the final answer, in [−1, 1]."""
    deviation: Floats
    """D_l in [0, 2]: our reconstruction."""
    gain: Floats
    """D_(l−1) − D_l, between neighbouring layers of the model; NaN at layer 0. Ours."""
    alignment: Floats
    """Cosine of factual and virtual step; NaN at layer 0. Ours."""
    state_norm: Floats
    isotropy: tuple[LayerIsotropy, ...]
    finite: Bools
    regions: Ints
    """Semantic region, layer × position: the nearest token of the whole vocabulary by the chosen
    geometry, also where words only are listed; −1 where the state is not finite."""
    default_pins: tuple[int, ...]
    """Tokens that are top at any layer of the last position read, most layers first."""
    token_info: dict[int, Token]
    cost: Cost
    warnings: tuple[str, ...]

    @property
    def geometry(self) -> str:
        """The chosen geometry."""
        return self.options.geometry

    @property
    def frame(self) -> str:
        """The chosen frame."""
        return self.options.frame

    @property
    def temperature(self) -> float:
        """T of the chosen geometry's probabilities."""
        return self.temperatures[self.options.geometry].value

    @property
    def chosen(self) -> GeometryReading:
        """The reading by the chosen geometry."""
        return self.readings[self.options.geometry]

    @property
    def top_ids(self) -> Ints:
        """layer × position × k by the chosen geometry."""
        return self.chosen.top_ids

    @property
    def top_scores(self) -> Floats:
        """layer × position × k by the chosen geometry."""
        return self.chosen.top_scores

    @property
    def top_probabilities(self) -> Floats:
        """layer × position × k by the chosen geometry."""
        return self.chosen.top_probabilities

    @property
    def entropy(self) -> Floats:
        """Nats, by the chosen geometry."""
        return self.chosen.entropy

    @property
    def final_rank(self) -> Ints:
        """Rank of the model's final answer by the chosen geometry."""
        return self.chosen.final_rank

    @property
    def final_probability(self) -> Floats:
        """Probability of the model's final answer by the chosen geometry."""
        return self.chosen.final_probability

    @property
    def agrees(self) -> Bools:
        """Whether the nearest token of the whole vocabulary is the model's final answer."""
        same: Bools = (self.regions == self.final_ids[None, :]) & (self.regions >= 0)
        return same

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract (docs/api.md): numbers that are not finite are None."""
        cells = [
            self._cell(i, j) for i in range(len(self.layers)) for j in range(len(self.positions))
        ]
        return {
            "model": self.model.name,
            "geometry": self.geometry,
            "frame": self.frame,
            "tokens": [t.to_dict() for t in self.tokens],
            "layers": list(self.layers),
            "positions": list(self.positions),
            "cells": cells,
            "final": [
                {
                    "position": p,
                    "id": int(i) if i >= 0 else None,
                    "text": self.token_info[int(i)].text,
                    "probability": number(q),
                }
                for p, i, q in zip(
                    self.positions, self.final_ids, self.final_probabilities, strict=True
                )
            ],
            "crossings": [asdict(c) for c in self.crossings],
            "isotropy": plain(self.isotropy),
            "default_pins": [{"id": i, "text": self.token_info[i].text} for i in self.default_pins],
            "temperature": self.temperature,
            "temperatures": plain(self.temperatures),
            "options": self.options.to_dict(),
            "provenance": asdict(self.model),
            "warnings": list(self.warnings),
        }

    def _cell(self, i: int, j: int) -> dict[str, Any]:
        """One layer (i of those read) at one position (j) for JSON."""
        listed = zip(
            self.top_ids[i, j], self.top_scores[i, j], self.top_probabilities[i, j], strict=True
        )
        found: dict[str, Any] = plain(
            {
                "layer": self.layers[i],
                "position": self.positions[j],
                "top": [
                    {"id": t, "text": self.token_info[int(t)].text, "score": s, "probability": p}
                    for t, s, p in listed
                    if t >= 0
                ],
                "entropy": self.entropy[i, j],
                "final_rank": int(self.final_rank[i, j]) or None,
                "agrees": self.agrees[i, j],
                "probability": self.final_probability[i, j],
                "divergence": self.divergence[i, j],
                "border": self.border[i, j],
                "region": self.regions[i, j] if self.regions[i, j] >= 0 else None,
                "target_similarity": self.target_similarity[i, j],
                "deviation": self.deviation[i, j],
                "gain": self.gain[i, j],
                "alignment": self.alignment[i, j],
                "norm": self.state_norm[i, j],
                "finite": self.finite[i, j],
            }
        )
        return found

    def rows(self) -> Iterator[dict[str, Any]]:
        """Flat rows, one per listed token: for CSV and data frames."""
        for i, layer in enumerate(self.layers):
            for j, position in enumerate(self.positions):
                for n, token in enumerate(self.top_ids[i, j]):
                    if token < 0:
                        continue
                    yield {
                        "layer": layer,
                        "position": position,
                        "token": self.tokens[position].text,
                        "rank": n + 1,
                        "id": int(token),
                        "text": self.token_info[int(token)].text,
                        "score": number(self.top_scores[i, j, n]),
                        "probability": number(self.top_probabilities[i, j, n]),
                        "entropy": number(self.entropy[i, j]),
                        "final_rank": int(self.final_rank[i, j]) or None,
                    }
