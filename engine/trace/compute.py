"""A prompt through the layers: what every hidden state says, by every geometry.

One forward pass gives the states (:mod:`engine.model.language_model`); everything here reads
them. The target of a position is the model's own next token there (its *final answer*), and every
rank, similarity and deviation is measured against it.

What the paper gives is computed by its formulas. The transition quantities of the follow-up on
layer freezing (arXiv 2406.11753: virtual and factual transition, deviation, gain) are named there
without formulas; those here are **our reconstruction** and say so:

* virtual state at layer l: v_l = (1 − l/L)·ê + (l/L)·ŝ, from the unit input basis ê of the current
  token to the unit output basis ŝ of the target (the interpolation is that of arXiv 2312.05356);
* deviation D_l = 1 − cos(h_l, v_l) in [0, 2]; gain_l = D_(l−1) − D_l, so gains add up to D_0 − D_L;
* alignment: cosine of the factual step h_l − h_(l−1) with the virtual step v_l − v_(l−1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from engine.frames.frame import Frame
from engine.frames.isotropy import isotropy, spread, spread_about_mean
from engine.lenses.kind import Lens
from engine.model.language_model import LanguageModel, States
from engine.model.prompts import Tokens
from engine.model.vocabulary import Token
from engine.progress import Check, no_check
from engine.reading.geometries import GEOMETRIES
from engine.reading.geometries.geometry import Geometry
from engine.reading.read import Reading, read
from engine.reading.regions import borders
from engine.reading.similarity import divergence
from engine.reading.temperature import Temperature
from engine.trace.options import Prepared, TraceOptions, final_answers, prepare
from engine.trace.result import (
    Bools,
    Cost,
    Crossing,
    Floats,
    GeometryReading,
    Ints,
    LayerIsotropy,
    ModelInfo,
    Trace,
)

NOBODY: Final = Token(-1, "", "—")
"""Stands where there is no token: the answer or region of a state that is not finite."""
NEAR: Final = 32
"""Nearest tokens that are looked at first for the border of a region."""
Frames = Callable[[str], Frame]
"""Gives a frame by its key (:func:`engine.frames.kinds.key_of`)."""


@dataclass(frozen=True)
class Said:
    """What the model's own head says of the states, whatever frame they are read on."""

    final_ids: Tensor
    """The model's own next token at each position."""
    final_probabilities: Tensor
    divergence: Tensor
    """KL from it to each layer read by the head, layer × position."""


@dataclass(frozen=True)
class Read:
    """What a prompt's states say on one frame by every geometry: all that needs the vocabulary."""

    got: Prepared
    said: Said
    near: Mapping[str, Reading]
    """By geometry: the nearest tokens that may be listed."""
    whole: Mapping[str, Reading]
    """By geometry: the nearest of the whole vocabulary; `near` where all may be listed."""
    steps: Mapping[str, Tensor]

    @property
    def bytes(self) -> int:
        """Memory held, roughly."""
        held = [self.got.states, self.got.reading, self.got.before, self.got.last]
        for reading in (*self.near.values(), *self.whole.values()):
            held += [reading.ids, reading.scores, reading.probabilities]
        return sum({id(one): one.nbytes for one in held}.values())


def read_states(
    model: LanguageModel,
    frames: Frames,
    tokens: Tokens,
    states: States,
    options: TraceOptions,
    *,
    temperatures: Mapping[str, Temperature],
    lens: Lens | None = None,
    said: Said | None = None,
    check: Check = no_check,
) -> Read:
    """Read the states of a prompt by every geometry; the model does not run.

    The chosen geometry plays no part in it.

    Args:
        model: whose states they are.
        frames: gives a frame by its key.
        tokens: the prompt.
        states: of that prompt.
        options: what to read.
        temperatures: by geometry, on the chosen frame.
        lens: the fitted lens of the options; None reads without.
        said: what the head says of these states, where that is known from another frame.
        check: called between chunks of the vocabulary; raises to stop.
    """
    budget = model.limits.reading_bytes
    got = prepare(model, states, options, lens=lens, check=check)
    n_layers, _, d = got.states.shape
    head, frame = frames("head"), frames(options.frame_key)
    if said is None:
        answer = final_answers(head, got.last, budget_bytes=budget, check=check)
        kl = divergence(head, got.reading, got.last, budget_bytes=budget, check=check)
        said = Said(*answer, kl)
    final_ids = said.final_ids
    flat = got.states.reshape(-1, d)
    allowed = words_mask(model, head.device) if options.words_only else None
    near = read(
        frame,
        flat,
        k=min(max(options.k, NEAR), frame.size),
        temperatures={name: one.value for name, one in temperatures.items()},
        targets=final_ids.repeat(n_layers).unsqueeze(1),
        centred=options.centred,
        allowed=allowed,
        budget_bytes=budget,
        check=check,
    )
    whole = near
    if allowed is not None:
        k = min(NEAR, frame.size)
        whole = read(frame, flat, k=k, centred=options.centred, budget_bytes=budget, check=check)
    check()
    steps = transitions(model, frames, tokens, got, final_ids, centred=options.centred)
    return Read(got, said, near, whole, steps)


def compute_trace(
    model: LanguageModel,
    frames: Frames,
    tokens: Tokens,
    found: Read,
    options: TraceOptions,
    *,
    temperatures: Mapping[str, Temperature],
    cost: Cost,
    check: Check = no_check,
) -> Trace:
    """What was read, by the chosen geometry: regions, their borders, crossings, and the rest.

    Args:
        model: whose states they are.
        frames: gives a frame by its key.
        tokens: the prompt.
        found: its states, read with these options (by whatever geometry).
        options: what to read.
        temperatures: by geometry, on the chosen frame.
        cost: foretold; the caller puts the measured part in.
        check: called between chunks of the vocabulary; raises to stop.
    """
    budget = model.limits.reading_bytes
    got, near, steps, said = found.got, found.near, found.steps, found.said
    final_ids, final_probabilities, kl = said.final_ids, said.final_probabilities, said.divergence
    n_layers, n_positions, d = got.states.shape
    frame, output = frames(options.frame_key), frames("output")
    flat = got.states.reshape(-1, d)
    listed = min(options.k, frame.size)
    shape = (n_layers, n_positions)
    finite = got.finite.cpu().numpy()
    answered = got.answered.cpu().numpy()
    readings = {g: _arrays(r.nearest(listed), shape, finite, answered) for g, r in near.items()}
    nearest = found.whole[options.geometry]
    regions = nearest.ids[:, 0]
    geometry = GEOMETRIES[options.geometry]
    wall, beyond = torch.full(regions.shape, torch.nan), torch.full_like(regions, -1)
    if geometry.borders is not None:
        wall, beyond = borders(
            frame,
            flat,
            regions,
            geometry.name,
            near=nearest,
            centred=options.centred,
            budget_bytes=budget,
            check=check,
        )
    check()
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
        temperatures=dict(temperatures),
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
        warnings=_warnings(model, got, output, finite, geometry),
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


def default_pins(tops: Ints, leaders: Sequence[int] = ()) -> tuple[int, ...]:
    """All tokens that are top at any layer, those of most layers first, later ones before earlier.

    No more than there are layers, so none is left out.

    Args:
        tops: the top token of each layer; −1 where there is none.
        leaders: tokens that stand before them, whether top anywhere or not.
    """
    count: dict[int, tuple[int, int]] = {}
    for layer, token in enumerate(tops.tolist()):
        if token >= 0:
            count[token] = (count.get(token, (0, 0))[0] + 1, layer)
    won = sorted(count, key=lambda t: (-count[t][0], -count[t][1]))
    return tuple(dict.fromkeys([*leaders, *won]))


def leaders(trace: Trace, position: int) -> tuple[int, ...]:
    """At a position of a trace: the model's answer, and the two nearest others at the last layer
    read."""
    column = trace.positions.index(position)
    answer = int(trace.final_ids[column])
    nearest = [int(i) for i in trace.top_ids[-1, column] if i >= 0 and i != answer]
    return (*((answer,) if answer >= 0 else ()), *nearest[:2])


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


def _warnings(
    model: LanguageModel, got: Prepared, output: Frame, finite: Bools, geometry: Geometry
) -> tuple[str, ...]:
    out = not_finite(got.layers, finite)
    if geometry.borders is None:
        out.append(geometry.no_border)
    if model.anatomy.kind == "masked":
        out.append(
            "This is a masked model: a position's answer is the token it puts at that very place,"
            " not the next one."
        )
    if model.anatomy.kind == "bidirectional":
        out.append(
            "This model reads the whole prompt at every position, so what it says at one already"
            " knows the tokens behind it."
        )
    if output.shift is not None:
        out.append(
            "The head has a bias b: readings on the output and tight frames take the state r + W⁺b"
            " (Method, head bias)."
        )
    return tuple(out)
