"""A prompt through the layers: what every hidden state says, by every geometry.

One forward pass gives the states (:mod:`engine.models`); everything here reads them. The target
of a position is the model's own next token there (its *final answer*), and every rank, similarity
and deviation is measured against it.

What the paper gives is computed by its formulas. The transition quantities of the follow-up on
layer freezing (arXiv 2406.11753: virtual and factual transition, deviation, gain) are named there
without formulas; those here are **our reconstruction** and say so:

* virtual state at layer l: v_l = (1 − l/L)·ê + (l/L)·ŝ, from the unit input basis ê of the current
  token to the unit output basis ŝ of the target (the interpolation is that of arXiv 2312.05356);
* deviation D_l = 1 − cos(h_l, v_l) in [0, 2]; gain_l = D_(l−1) − D_l, so gains add up to D_0 − D_L;
* alignment: cosine of the factual step h_l − h_(l−1) with the virtual step v_l − v_(l−1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import OptionError, shorten
from engine.frames import FRAMES, Check, Frame, no_check
from engine.isotropy import isotropy, spread, spread_about_mean
from engine.models import BOS, LanguageModel, States, Tokens, parse_range
from engine.regions import borders
from engine.similarity import DEFAULT_TEMPERATURE, GEOMETRIES, Reading, divergence, read
from engine.vocabulary import Token

STATES: Final = ("normed", "raw")
NOBODY: Final = Token(-1, "", "—")
"""Stands where there is no token: the answer or region of a state that is not finite."""
NEAR: Final = 32
"""Nearest tokens that are looked at first for the border of a region."""
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Frames = Callable[[str], Frame]


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """What to read, and how.

    Raises:
        OptionError: a value outside its range; the message names it and what is allowed.
    """

    geometry: str = "cosine"
    """``cosine``, ``l2`` or ``matmul``."""
    frame: str = "output"
    """``output`` (semantic bases), ``input``, ``head``, ``tight`` or ``random``."""
    state: str = "normed"
    """``normed``: past the final norm, as the head reads; ``raw``: as it leaves the block."""
    centred: bool = False
    """Each state minus the layer's mean over the prompt, each basis minus the mean basis."""
    temperature: float | None = None
    """Of the chosen geometry's probabilities; None is the default of that geometry."""
    k: int = 10
    """Tokens listed per cell, 1 to 50."""
    layers: str | None = None
    """``0:6``, ``0:12:2``, ``3``, ``-1``; None is all."""
    positions: str | None = None
    """The same for tokens of the prompt."""
    bos: str = "auto"
    """Begin-of-text token: ``auto`` as the tokenizer does, ``yes``, ``no``."""
    chat: bool = False
    """Write the prompt as a user's turn by the model's chat template."""
    words_only: bool = False
    """List words only; probabilities stay those of the whole vocabulary."""

    def __post_init__(self) -> None:
        _one_of("geometry", self.geometry, GEOMETRIES)
        _one_of("frame", self.frame, FRAMES)
        _one_of("state", self.state, STATES)
        _one_of("bos", self.bos, BOS)
        for name in ("layers", "positions"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise OptionError(f"{name} must be text such as '0:6' or '3'; got {value!r:.40}.")
        if not isinstance(self.k, int) or not 1 <= self.k <= 50:
            raise OptionError(f"k must be a whole number from 1 to 50; got {self.k!r:.20}.")
        t = self.temperature
        if t is not None and not (math.isfinite(t) and 1e-3 <= t <= 1e4):
            raise OptionError(f"temperature must be from 0.001 to 10000; got {t}.")

    @property
    def temperatures(self) -> dict[str, float]:
        """T per geometry: the chosen one's may be set, the others keep their default."""
        out = dict(DEFAULT_TEMPERATURE)
        if self.temperature is not None:
            out[self.geometry] = self.temperature
        return out

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON contract."""
        return asdict(self)


def _one_of(what: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise OptionError(
            f"{what} must be one of {', '.join(allowed)}; got {shorten(str(value))!r}."
        )


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
    """Isotropy of one layer's states over the prompt, and near bases (engine/isotropy.py)."""

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
    temperature: float
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
    """Tokens that are top at any layer of the last position read, most layers first; at most 16."""
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
        cells = []
        for i, layer in enumerate(self.layers):
            for j, position in enumerate(self.positions):
                top = [
                    {
                        "id": int(t),
                        "text": self.token_info[int(t)].text,
                        "score": number(s),
                        "probability": number(p),
                    }
                    for t, s, p in zip(
                        self.top_ids[i, j],
                        self.top_scores[i, j],
                        self.top_probabilities[i, j],
                        strict=True,
                    )
                    if t >= 0
                ]
                rank = int(self.final_rank[i, j])
                region = int(self.regions[i, j])
                cells.append(
                    {
                        "layer": layer,
                        "position": position,
                        "top": top,
                        "entropy": number(self.entropy[i, j]),
                        "final_rank": rank if rank > 0 else None,
                        "agrees": bool(self.agrees[i, j]),
                        "probability": number(self.final_probability[i, j]),
                        "divergence": number(self.divergence[i, j]),
                        "border": number(self.border[i, j]),
                        "region": region if region >= 0 else None,
                        "target_similarity": number(self.target_similarity[i, j]),
                        "deviation": number(self.deviation[i, j]),
                        "gain": number(self.gain[i, j]),
                        "alignment": number(self.alignment[i, j]),
                        "norm": number(self.state_norm[i, j]),
                        "finite": bool(self.finite[i, j]),
                    }
                )
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
            "isotropy": [{k: number(v) for k, v in asdict(i).items()} for i in self.isotropy],
            "default_pins": [{"id": i, "text": self.token_info[i].text} for i in self.default_pins],
            "temperature": self.temperature,
            "options": self.options.to_dict(),
            "provenance": asdict(self.model),
            "warnings": list(self.warnings),
        }

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


def number(value: Any) -> float | int | None:
    """A plain number for JSON, None where it is not finite."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    out = float(value)
    return out if math.isfinite(out) else None


# --- states as they are read ----------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """The states that were asked for, placed where frames read them."""

    layers: tuple[int, ...]
    positions: tuple[int, ...]
    states: Tensor
    """layer × position × d, normed or raw, centred or not."""
    reading: Tensor
    """layer × position × d: past the final norm, never centred; what the head would read."""
    last: Tensor
    """position × d: what the head does read."""
    finite: Tensor
    """layer × position."""
    answered: Tensor
    """position: whether the model's last layer is finite, so that it has an answer there."""
    before: Tensor
    """layer × position × d: `states` of the model's layer just below, for steps and gains."""


def prepare(
    model: LanguageModel, states: States, options: TraceOptions, *, check: Check = no_check
) -> Prepared:
    """Choose layers and positions, take the final norm or not, centre or not.

    Raises:
        LayerError: a layer or position that is not there.
        OptionError: raw states of another width than the head, or centring of one token.
    """
    layers = model.layer_numbers(options.layers)
    tokens = len(states.ids)
    positions = parse_range(
        options.positions, tokens, "position", f"this prompt of {tokens} tokens"
    )
    anatomy = model.anatomy
    if options.state == "raw" and anatomy.residual_width != model.width:
        raise OptionError(
            f"raw states of this model have {anatomy.residual_width} dimensions and its head reads"
            f" {model.width}; choose state normed."
        )
    if options.centred and tokens < 2:
        raise OptionError(
            "centring takes the mean over the prompt's tokens off each state, so it needs at least"
            " two tokens; lengthen the prompt or switch 'centred' off."
        )
    chosen = list(layers)
    # Layer −1 is not there; the step into layer 0 is never shown, so any stand-in serves.
    below = [max(layer - 1, 0) for layer in layers]
    wanted = sorted({*chosen, *below, model.blocks})
    check()
    raw = states.raw[wanted]
    read_out = model.read_out(raw)
    place = {layer: i for i, layer in enumerate(wanted)}
    at = [place[layer] for layer in chosen]
    under = [place[layer] for layer in below]
    used = read_out if options.state == "normed" else raw
    finite = torch.isfinite(used).all(-1) & torch.isfinite(read_out).all(-1)
    clean = torch.where(finite.unsqueeze(-1), used, 0.0)
    if options.centred:
        counts = finite.sum(1).clamp_min(1).unsqueeze(-1)
        mean = clean.sum(1) / counts
        clean = torch.where(finite.unsqueeze(-1), clean - mean.unsqueeze(1), 0.0)
    safe = torch.where(finite.unsqueeze(-1), read_out, 0.0)
    pick = list(positions)
    return Prepared(
        layers=layers,
        positions=positions,
        states=clean[at][:, pick],
        reading=safe[at][:, pick],
        last=safe[place[model.blocks]][pick],
        finite=finite[at][:, pick],
        answered=finite[place[model.blocks]][pick],
        before=clean[under][:, pick],
    )


def final_answers(
    head: Frame, last: Tensor, *, budget_bytes: int, check: Check = no_check
) -> tuple[Tensor, Tensor]:
    """The model's own next token at each position, and its probability."""
    top = read(head, last, geometries=("matmul",), k=1, budget_bytes=budget_bytes, check=check)[
        "matmul"
    ]
    return top.ids[:, 0], top.probabilities[:, 0]


# --- the trace ------------------------------------------------------------------------------------


def compute_trace(
    model: LanguageModel,
    frames: Frames,
    tokens: Tokens,
    states: States,
    options: TraceOptions,
    *,
    cost: Cost,
    check: Check = no_check,
) -> Trace:
    """Read the states of a prompt; the model does not run.

    Args:
        model: whose states they are.
        frames: gives a frame by its name.
        tokens: the prompt.
        states: of that prompt.
        options: what to read.
        cost: foretold; the caller puts the measured part in.
        check: called between chunks of the vocabulary; raises to stop.
    """
    budget = model.limits.memory_budget_mib * 2**20 // 2
    got = prepare(model, states, options, check=check)
    n_layers, n_positions, d = got.states.shape
    head, frame, output = frames("head"), frames(options.frame), frames("output")
    final_ids, final_probabilities = final_answers(head, got.last, budget_bytes=budget, check=check)
    targets = final_ids.repeat(n_layers).unsqueeze(1)
    flat = got.states.reshape(-1, d)
    allowed = words_mask(model, head.device) if options.words_only else None
    listed = min(options.k, frame.size)
    near = read(
        frame,
        flat,
        k=min(max(listed, NEAR), frame.size),
        temperatures=options.temperatures,
        targets=targets,
        centred=options.centred,
        allowed=allowed,
        budget_bytes=budget,
        check=check,
    )
    shape = (n_layers, n_positions)
    finite = got.finite.cpu().numpy()
    answered = got.answered.cpu().numpy()
    readings = {g: _arrays(r.nearest(listed), shape, finite, answered) for g, r in near.items()}
    nearest = near[options.geometry]
    if allowed is not None:
        nearest = read(
            frame,
            flat,
            geometries=(options.geometry,),
            k=min(NEAR, frame.size),
            centred=options.centred,
            budget_bytes=budget,
            check=check,
        )[options.geometry]
    regions = nearest.ids[:, 0]
    wall, beyond = borders(
        frame,
        flat,
        regions,
        options.geometry,
        near=nearest,
        centred=options.centred,
        budget_bytes=budget,
        check=check,
    )
    kl = divergence(head, got.reading, got.last, budget_bytes=budget, check=check)
    check()
    steps = transitions(model, frames, tokens, got, final_ids, centred=options.centred)
    region_grid = regions.view(shape).cpu().numpy()
    beyond_grid = beyond.view(shape).cpu().numpy()
    crossings = find_crossings(region_grid, got.layers, got.positions, finite)
    chosen = readings[options.geometry]
    pins = default_pins(chosen.top_ids[:, -1, 0])
    info = {
        int(i): model.vocabulary_texts.token(int(i))
        for i in np.unique(
            np.concatenate(
                [r.top_ids.ravel() for r in readings.values()]
                + [final_ids.cpu().numpy(), region_grid.ravel(), beyond_grid.ravel()]
            )
        )
        if i >= 0
    }
    if not answered.all():
        info[-1] = NOBODY

    def hide(values: Tensor, *, answer: bool = False) -> Floats:
        out = values.detach().float().cpu().numpy().astype(np.float32)
        shown = finite & answered[None, :] if answer else finite
        return np.where(shown, out, np.nan).astype(np.float32)

    return Trace(
        model=model_info(model),
        options=options,
        tokens=tokens.items,
        layers=got.layers,
        positions=got.positions,
        temperature=options.temperatures[options.geometry],
        readings=readings,
        final_ids=np.where(answered, final_ids.cpu().numpy(), -1),
        final_probabilities=np.where(
            answered, final_probabilities.float().cpu().numpy(), np.nan
        ).astype(np.float32),
        divergence=hide(kl, answer=True),
        border=hide(wall.view(shape)),
        border_ids=np.where(finite, beyond_grid, -1),
        crossings=crossings,
        target_similarity=hide(steps["similarity"], answer=True),
        deviation=hide(steps["deviation"], answer=True),
        gain=hide(steps["gain"], answer=True),
        alignment=hide(steps["alignment"], answer=True),
        state_norm=hide(got.states.norm(dim=-1)),
        isotropy=_layer_isotropy(got, frame, chosen.top_ids, budget),
        finite=finite,
        regions=np.where(finite, region_grid, -1),
        default_pins=pins,
        token_info=info,
        cost=cost,
        warnings=_warnings(model, got, output, finite),
    )


def model_info(model: LanguageModel) -> ModelInfo:
    """Which model an answer is about."""
    return ModelInfo(model.name, model.revision, model.fingerprint, model.device, model.dtype)


def words_mask(model: LanguageModel, device: torch.device) -> Tensor:
    """True for tokens that are words or parts of words (v)."""
    return torch.tensor(model.vocabulary_texts.words, device=device)


def _arrays(
    reading: Reading, shape: tuple[int, int], finite: Bools, answered: Bools
) -> GeometryReading:
    def floats(values: Tensor, *more: int, shown: Bools = finite) -> Floats:
        out = values.detach().float().cpu().numpy().reshape(*shape, *more)
        mask = shown if not more else shown[..., None]
        return np.where(mask, out, np.nan).astype(np.float32)

    k = reading.ids.shape[1]
    ids = reading.ids.cpu().numpy().reshape(*shape, k)
    scores = floats(reading.scores, k)
    listed = finite[..., None] & np.isfinite(scores)
    both = finite & answered[None, :]
    return GeometryReading(
        top_ids=np.where(listed, ids, -1),
        top_scores=scores,
        top_probabilities=floats(reading.probabilities, k),
        entropy=floats(reading.entropy),
        final_rank=np.where(both, reading.ranks.cpu().numpy().reshape(shape), 0),
        final_score=floats(reading.target_scores[:, 0], shown=both),
        final_probability=floats(reading.target_probabilities[:, 0], shown=both),
    )


def transitions(
    model: LanguageModel,
    frames: Frames,
    tokens: Tokens,
    got: Prepared,
    targets: Tensor,
    *,
    centred: bool = False,
) -> dict[str, Tensor]:
    """Similarity to the target, deviation, gain and alignment (the formulas stand on top).

    Args:
        targets: token id per position read.
        centred: the states had their mean taken off, so a head bias does not move them.

    Returns:
        `similarity`, `deviation`, `gain`, `alignment`: each layer × position, float32.
    """
    output = frames("output")
    device = got.states.device

    def unit(x: Tensor) -> Tensor:
        out: Tensor = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        return out

    s = unit(output.vectors(targets)).to(device, torch.float32)  # (position, d)
    placed = got.states if centred else output.place(got.states)
    similarity = (unit(placed) * s).sum(-1)
    start = _input_vectors(model, [tokens.ids[p] for p in got.positions])
    nan = torch.full_like(similarity, float("nan"))
    if start is None:
        return {"similarity": similarity, "deviation": nan, "gain": nan, "alignment": nan}
    e = unit(start).to(device, torch.float32)
    depth = torch.tensor(got.layers, device=device, dtype=torch.float32)[:, None, None]
    total = float(model.blocks)
    share, below = depth / total, (depth - 1).clamp_min(0) / total
    virtual = (1 - share) * e + share * s
    virtual_below = (1 - below) * e + below * s

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = (unit(a) * unit(b)).sum(-1).clamp(-1, 1)
        return out

    deviation = 1 - cosine(got.states, virtual)
    deviation_below = 1 - cosine(got.before, virtual_below)
    alignment = cosine(got.states - got.before, virtual - virtual_below)
    first = (depth[..., 0] == 0).expand_as(deviation)
    return {
        "similarity": similarity,
        "deviation": deviation,
        "gain": torch.where(first, nan, deviation_below - deviation),
        "alignment": torch.where(first, nan, alignment),
    }


def _input_vectors(model: LanguageModel, ids: Sequence[int]) -> Tensor | None:
    """Input bases of some tokens (n × d, float64), None where their width is not the head's."""
    rows = model.anatomy.embedding_rows
    if rows.shape[1] != model.width:
        return None
    picked: Tensor = rows[torch.tensor(list(ids), device=rows.device)]
    return picked.detach().cpu().double() * model.anatomy.embedding_scale


def find_crossings(
    regions: Ints, layers: Sequence[int], positions: Sequence[int], finite: Bools
) -> tuple[Crossing, ...]:
    """Where the semantic region of a position changes from one layer read to the next."""
    out = []
    for j, position in enumerate(positions):
        for i in range(1, len(layers)):
            a, b = int(regions[i - 1, j]), int(regions[i, j])
            if a != b and finite[i, j] and finite[i - 1, j]:
                out.append(Crossing(position, layers[i], a, b))
    return tuple(out)


def default_pins(tops: Ints, limit: int = 16) -> tuple[int, ...]:
    """Tokens that are top at any layer, those of most layers first, later layers breaking ties."""
    count: dict[int, tuple[int, int]] = {}
    for layer, token in enumerate(tops.tolist()):
        if token >= 0:
            count[token] = (count.get(token, (0, 0))[0] + 1, layer)
    ranked = sorted(count, key=lambda t: (-count[t][0], -count[t][1]))
    kept = ranked[:limit]
    last = next((t for t in reversed(tops.tolist()) if t >= 0), None)
    if last is not None and last not in kept:
        kept[-1] = last
    return tuple(kept)


def _layer_isotropy(
    got: Prepared, frame: Frame, top_ids: Ints, budget_bytes: int
) -> tuple[LayerIsotropy, ...]:
    """Isotropy of each layer's states, and of the bases nearest to each of them.

    The bases are taken once for all layers where they fit into half the budget, else by slices.
    """
    unique = np.unique(top_ids[top_ids >= 0])
    vectors = None
    if 20 * len(unique) * frame.width <= budget_bytes // 2:
        vectors = frame.vectors(torch.from_numpy(unique)).float()
    step = max(1, budget_bytes // (40 * top_ids.shape[2] * frame.width))
    out = []
    for i, layer in enumerate(got.layers):
        whole = isotropy(got.states[i][got.finite[i]].cpu())
        full = (top_ids[i] >= 0).all(1)  # positions with a whole list
        raw = centred = float("nan")
        if full.any() and top_ids.shape[2] > 1:
            listed = top_ids[i][full]
            both = []
            for first in range(0, len(listed), step):
                ids = listed[first : first + step]
                names, there = unique, vectors
                if there is None:
                    names = np.unique(ids)
                    there = frame.vectors(torch.from_numpy(names)).float()
                near = there[torch.from_numpy(np.searchsorted(names, ids))]
                both.append(torch.stack([spread(near), spread_about_mean(near)]))
            raw, centred = torch.cat(both, 1).nanmean(1).tolist()
        out.append(LayerIsotropy(layer, whole.raw, whole.centred, whole.spectral, raw, centred))
    return tuple(out)


def not_finite(layers: Sequence[int], finite: Bools) -> list[str]:
    """What is to be said of states that are not finite (layer × position); nothing where none is.

    A state that is not finite makes what is computed from it so, and layers above mostly are.
    """
    bad = [layer for layer, row in zip(layers, finite, strict=True) if not row.all()]
    if not bad:
        return []
    if bad == list(layers)[-len(bad) :]:
        where = f"from layer {bad[0]} on"
    else:
        where = f"at layer{'s' if len(bad) > 1 else ''} {', '.join(map(str, bad))}"
    count = int((~finite).sum())
    return [
        f"Not finite {where}: {count} of {finite.size} states hold NaN or infinity and are shown"
        " without a ranking."
    ]


def _warnings(model: LanguageModel, got: Prepared, output: Frame, finite: Bools) -> tuple[str, ...]:
    out = not_finite(got.layers, finite)
    if model.anatomy.kind == "masked":
        out.append(
            "This is a masked model: a position's answer is the token it puts at that very place,"
            " not the next one."
        )
    if output.shift is not None:
        out.append(
            "The head has a bias b: readings on the output and tight frames take the state r + W⁺b"
            " (Method, head bias)."
        )
    return tuple(out)


def with_cost(trace: Trace, cost: Cost) -> Trace:
    """The same trace with the measured cost."""
    return replace(trace, cost=cost)
