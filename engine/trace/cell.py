"""One position in full: a state's lists, region, history and resolution, and tokens over layers.

Knows nothing about the model's forward pass; it reads what a trace holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import LayerError
from engine.frames.frame import Frame
from engine.json_number import number, plain
from engine.lenses.kind import Lens
from engine.model.language_model import LanguageModel, States
from engine.model.vocabulary import Token, with_token
from engine.progress import Check, no_check
from engine.reading.geometries import GEOMETRIES
from engine.reading.read import read
from engine.reading.similarity import resolve
from engine.trace.compute import NOBODY, Frames, not_finite
from engine.trace.options import prepare
from engine.trace.result import Floats, Ints, Trace


@dataclass(frozen=True)
class ListedToken:
    """A token in a list of nearest ones."""

    token: Token
    rank: int
    score: float
    probability: float
    distance: float | None = None
    """‖r − b_i‖, where it was asked for."""
    cosine: float | None = None


@dataclass(frozen=True)
class Share:
    """What one token accounts for in r = Σ z_i s_i."""

    token: Token
    logit: float
    signed: float
    parseval: float


@dataclass(frozen=True)
class HistoryStep:
    """The region of a position at one layer."""

    layer: int
    token: Token
    border: float
    crossed: bool


@dataclass(frozen=True)
class Cell:
    """Everything about one state."""

    layer: int
    position: int
    token: Token
    """The prompt's token at that position."""
    final: Token
    """The model's final answer there."""
    final_probability_by_model: float
    geometry: str
    frame: str
    temperature: float
    tables: dict[str, tuple[ListedToken, ...]]
    """The k nearest by each geometry on the chosen frame."""
    nearest: tuple[ListedToken, ...]
    """Nearest bases by the chosen geometry, with distance and cosine."""
    history: tuple[HistoryStep, ...]
    shares: tuple[Share, ...]
    """The largest by |signed share|."""
    share_sums: tuple[float, float]
    """Σ signed, Σ Parseval: both 1."""
    resolution_error: float
    region: Token
    border: float
    border_to: Token
    norm: float
    entropy: float
    final_rank: int
    target_similarity: float
    deviation: float
    gain: float
    alignment: float
    divergence: float
    finite: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON: numbers that are not finite are None."""
        out: dict[str, Any] = plain(self)
        out["final"]["probability"] = out.pop("final_probability_by_model")
        out["tables"] = {g: _rows(listed) for g, listed in self.tables.items()}
        out |= {name: _rows(getattr(self, name)) for name in ("nearest", "history", "shares")}
        out["share_sums"] = dict(zip(("signed", "parseval"), out["share_sums"], strict=True))
        out["final_rank"] = self.final_rank or None
        return out


def _rows(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [with_token(row, "id", "text") for row in rows]


def compute_cell(
    model: LanguageModel,
    frames: Frames,
    trace: Trace,
    states: States,
    layer: int,
    position: int,
    *,
    lens: Lens | None = None,
    check: Check = no_check,
) -> Cell:
    """One state in full. `trace` is of that layer and position (among others).

    Raises:
        LayerError: the cell is not among what was read.
    """
    if layer not in trace.layers:
        raise LayerError(
            f"layer {layer} is not among those read"
            f" ({trace.layers[0]} to {trace.layers[-1]}); choose one of them."
        )
    _check_position(trace, position)
    i, j = trace.layers.index(layer), trace.positions.index(position)
    options = trace.options
    frame = frames(options.frame_key)
    asked = replace(options, layers=str(layer), positions=None)
    got = prepare(model, states, asked, lens=lens, check=check)
    state = got.states[0, position]
    texts = model.vocabulary_texts
    finite = bool(trace.finite[i, j])

    def entries(geometry: str) -> tuple[ListedToken, ...]:
        reading = trace.readings[geometry]
        return tuple(
            ListedToken(
                texts.token(int(t)),
                n + 1,
                float(reading.top_scores[i, j, n]),
                float(reading.top_probabilities[i, j, n]),
            )
            for n, t in enumerate(reading.top_ids[i, j])
            if t >= 0
        )

    nearest: tuple[ListedToken, ...] = ()
    shares: tuple[Share, ...] = ()
    sums, error = (float("nan"), float("nan")), float("nan")
    if finite:
        nearest = _with_distances(frame, state, entries(options.geometry), options.centred)
        whole = state
        if options.centred:  # what is resolved is the state itself, not its distance from others
            plain = replace(asked, centred=False)
            whole = prepare(model, states, plain, lens=lens, check=check).states[0, position]
        found = resolve(frames("output"), frames("head"), frames("tight"), whole)
        largest = found.signed.abs().topk(min(options.k, len(found.signed))).indices.tolist()
        shares = tuple(
            Share(
                texts.token(t),
                float(found.logits[t]),
                float(found.signed[t]),
                float(found.parseval[t]),
            )
            for t in largest
        )
        sums = (float(found.signed.double().sum()), float(found.parseval.double().sum()))
        error = found.error
    history = []
    for n, read_layer in enumerate(trace.layers):
        token = int(trace.regions[n, j])
        if token < 0:
            continue
        crossed = n > 0 and int(trace.regions[n - 1, j]) not in (token, -1)
        history.append(
            HistoryStep(read_layer, texts.token(token), float(trace.border[n, j]), crossed)
        )
    region, beyond = int(trace.regions[i, j]), int(trace.border_ids[i, j])
    return Cell(
        layer=layer,
        position=position,
        token=trace.tokens[position],
        final=trace.token_info[int(trace.final_ids[j])],
        final_probability_by_model=float(trace.final_probabilities[j]),
        geometry=options.geometry,
        frame=options.frame,
        temperature=trace.temperature,
        tables={g: entries(g) for g in GEOMETRIES},
        nearest=nearest,
        history=tuple(history),
        shares=shares,
        share_sums=sums,
        resolution_error=error,
        region=texts.token(region) if region >= 0 else NOBODY,
        border=float(trace.border[i, j]),
        border_to=texts.token(beyond) if beyond >= 0 else NOBODY,
        norm=float(trace.state_norm[i, j]),
        entropy=float(trace.entropy[i, j]),
        final_rank=int(trace.final_rank[i, j]),
        target_similarity=float(trace.target_similarity[i, j]),
        deviation=float(trace.deviation[i, j]),
        gain=float(trace.gain[i, j]),
        alignment=float(trace.alignment[i, j]),
        divergence=float(trace.divergence[i, j]),
        finite=finite,
    )


def _with_distances(
    frame: Frame, state: Tensor, entries: tuple[ListedToken, ...], centred: bool
) -> tuple[ListedToken, ...]:
    """The same entries with ‖r − b_i‖ and cos(r, b_i), in float64."""
    if not entries:
        return entries
    placed = state.unsqueeze(0) if centred else frame.place(state.unsqueeze(0))
    r = placed.cpu().double()
    b = frame.vectors([e.token.id for e in entries])
    if centred:
        b = b - frame.mean
    distance = (b - r).norm(dim=1)
    cosine = (b * r).sum(1) / (b.norm(dim=1) * r.norm()).clamp_min(1e-300)
    return tuple(
        replace(e, distance=float(x), cosine=float(c))
        for e, x, c in zip(entries, distance, cosine, strict=True)
    )


def _check_position(trace: Trace, position: int) -> None:
    if position not in trace.positions:
        raise LayerError(
            f"position {position} is not among those read"
            f" ({trace.positions[0]} to {trace.positions[-1]}); choose one of them."
        )


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
    lens: Lens | None = None,
    check: Check = no_check,
) -> Curves:
    """Score, probability and exact rank of chosen tokens at every layer read, at one position."""
    _check_position(trace, position)
    options = trace.options
    got = prepare(model, states, replace(options, positions=None), lens=lens, check=check)
    flat = got.states[:, position]
    finite = got.finite[:, position].cpu().numpy()
    targets = torch.tensor([list(ids)], device=flat.device).repeat(len(flat), 1)
    reading = read(
        frames(options.frame_key),
        flat,
        geometries=(options.geometry,),
        k=1,
        temperatures={options.geometry: trace.temperature},
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
