"""How often each geometry on each frame says what the model itself says, layer by layer.

The random frame stands beside the others as the control. Disagreement is a finding: the paper's
claim that similarity may take the place of the matrix product is measured here, not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from engine.errors import OptionError
from engine.frames.frame import Frame
from engine.frames.kinds import FRAMES
from engine.json_number import plain
from engine.lenses.kind import Lens
from engine.model.language_model import LanguageModel, States
from engine.model.texts import text_states
from engine.progress import Check, Progress, Steps, as_part, drain, no_check
from engine.reading.geometries import GEOMETRIES
from engine.reading.read import read
from engine.reading.similarity import scores
from engine.trace.compute import Frames, model_info, not_finite
from engine.trace.dial import wilson
from engine.trace.options import STATES, Prepared, TraceOptions, prepare, prepare_texts
from engine.trace.result import Floats, ModelInfo

_AT_ONCE: Final = 4
"""Texts of a step."""


@dataclass(frozen=True)
class AgreementRow:
    """One reading against the model's own final answers, per layer."""

    geometry: str
    """A geometry, or ``share`` for the largest z_i(s_i·r)."""
    frame: str
    control: bool
    top1: Floats
    """Share of positions whose first token is the model's final answer (layer)."""
    overlap: Floats
    """Mean share of the k nearest that are among the k nearest by the model's own head (layer)."""
    rank_correlation: Floats
    """Spearman's ρ with the model's own final scores over a sample of tokens (layer); mean over
    positions."""
    final_rank: Floats
    """Median rank of the final answer (layer)."""
    top1_interval: Floats
    """Wilson's 95 % interval of `top1` (layer × 2), as if the positions were independent."""


@dataclass(frozen=True)
class Agreement:
    """Every geometry on every frame against the model's own predictions."""

    model: ModelInfo
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    """Of the prompt; of a set of texts their numbers, each read at its last position."""
    k: int
    sampled_tokens: int
    """Tokens in the rank correlation, evenly spaced over the vocabulary."""
    rows: tuple[AgreementRow, ...]
    warnings: tuple[str, ...] = ()
    """Which layers are not finite, where there are any; they are left out of the means."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        out: dict[str, Any] = plain(self)
        warnings = out.pop("warnings")
        out["model"] = self.model.name
        return out | {"provenance": asdict(self.model), "warnings": warnings}


@dataclass(frozen=True)
class _Counted:
    """One reading at some positions; all layer × position."""

    control: bool
    first: Tensor
    overlap: Tensor
    correlation: Tensor
    rank: Tensor


_Parts = dict[tuple[str, str], _Counted]
"""By geometry and frame."""


def compute_agreement(
    model: LanguageModel,
    frames: Frames,
    states: States,
    options: TraceOptions,
    *,
    lens: Lens | None = None,
    check: Check = no_check,
) -> Agreement:
    """Top-1 agreement, top-k overlap and rank correlation of each geometry on each frame.

    The model's own prediction is the last layer read by its own head. Frames of another size than
    the head (an embedding table of its own width) are left out.
    """
    got = prepare(model, states, options, lens=lens, check=check)
    found = drain(_count(model, frames, got, options, check))
    said = tuple(not_finite(got.layers, got.finite.cpu().numpy()))
    return _agreement(model, got.layers, got.positions, options, [found], [got], said)


def agreement_over(
    model: LanguageModel,
    frames: Frames,
    texts: Sequence[Sequence[int]],
    options: TraceOptions,
    *,
    lens: Lens | None = None,
) -> Steps[Agreement]:
    """The same over many texts, each read at its last position; one step is a frame and a few.

    Args:
        model: called on its thread.
        frames: gives a frame by its key.
        texts: token ids of each.
        options: `layers`, `k` and the lens's name; states are read past the final norm, and there
            is no prompt whose mean could be taken off them.

    Raises:
        OptionError: centred or raw states.
        PromptError: no text, or one that is empty or too long; counted from 1.
        LayerError: a layer that is not there.
        BudgetExceeded: the states would not fit the memory budget.
    """
    if options.centred or not STATES[options.state].past_norm:
        raise OptionError(
            "agreement over a set reads states past the final norm, not centred; leave both out."
        )
    layers = model.layer_numbers(options.layers)
    wanted = tuple(dict.fromkeys([*layers, model.blocks]))
    taken = yield from text_states(model, texts, layers=wanted)
    parts: list[_Parts] = []
    prepared: list[Prepared] = []
    for start in range(0, len(texts), _AT_ONCE):
        raw = taken.raw[start : start + _AT_ONCE].transpose(0, 1)
        got = prepare_texts(model, raw, wanted, layers, lens=lens)
        steps = _count(model, frames, got, options, no_check)
        note = f"{start:,} of {len(texts):,} texts compared"
        parts.append((yield from as_part(steps, start, len(texts), note)))
        prepared.append(got)
    finite = torch.cat([got.finite for got in prepared], 1).cpu().numpy()
    numbers = tuple(range(len(texts)))
    return _agreement(
        model, layers, numbers, options, parts, prepared, tuple(not_finite(layers, finite))
    )


def _agreement(
    model: LanguageModel,
    layers: tuple[int, ...],
    positions: tuple[int, ...],
    options: TraceOptions,
    parts: Sequence[_Parts],
    prepared: Sequence[Prepared],
    said: tuple[str, ...],
) -> Agreement:
    """Means over all positions whose state and answer are finite."""
    # Without an answer there is nothing to agree with.
    finite = torch.cat([got.finite & got.answered for got in prepared], 1)

    def mean(values: Sequence[Tensor]) -> Floats:
        kept = torch.where(finite, torch.cat(list(values), 1).float(), torch.nan)
        return kept.nanmean(1).cpu().numpy().astype(np.float32)

    rows = []
    for geometry, name in parts[0]:
        own = [part[geometry, name] for part in parts]
        ranks = torch.where(finite, torch.cat([one.rank for one in own], 1).float(), torch.nan)
        hits = (torch.cat([one.first for one in own], 1) & finite).sum(1)
        rows.append(
            AgreementRow(
                geometry,
                name,
                own[0].control,
                mean([one.first for one in own]),
                mean([one.overlap for one in own]),
                mean([one.correlation for one in own]),
                ranks.nanmedian(1).values.cpu().numpy().astype(np.float32),
                _intervals(hits.cpu().tolist(), finite.sum(1).cpu().tolist()),
            )
        )
    k = min(options.k, model.vocabulary)
    return Agreement(
        model_info(model), layers, positions, k, len(_sample(model)), tuple(rows), said
    )


def _intervals(hits: list[int], counts: list[int]) -> Floats:
    bounds = [
        wilson(hit, n) if n else (np.nan, np.nan) for hit, n in zip(hits, counts, strict=True)
    ]
    return np.array(bounds, dtype=np.float32).reshape(-1, 2)


def _sample(model: LanguageModel) -> Tensor:
    """Tokens of the rank correlation."""
    stride = max(1, model.vocabulary // 512)
    return torch.arange(0, model.vocabulary, stride)[:1024]


def _count(
    model: LanguageModel, frames: Frames, got: Prepared, options: TraceOptions, check: Check
) -> Steps[_Parts]:
    """Every reading at these positions, one step a frame."""
    budget = model.limits.reading_bytes
    n_layers, n_positions, d = got.states.shape
    k = min(options.k, model.vocabulary)
    head = frames("head")
    own = read(head, got.last, geometries=("matmul",), k=k, budget_bytes=budget, check=check)[
        "matmul"
    ]
    targets = own.ids[:, :1].repeat(n_layers, 1)
    flat = got.states.reshape(-1, d)
    shape = (n_layers, n_positions)
    sample = _sample(model).to(flat.device)
    own_ranks = _ranks(scores(head, got.last, "matmul", ids=sample))  # (position, m)

    def counted(frame: str, ids: Tensor, ranks: Tensor, some: Tensor) -> _Counted:
        listed = (ids.view(*shape, k, 1) == own.ids.view(1, n_positions, 1, k)).any(-1)
        return _Counted(
            FRAMES[frame].control,
            (ids[:, :1] == targets).view(shape),
            listed.float().mean(-1),
            _correlation(_ranks(some).view(*shape, -1), own_ranks),
            ranks.view(shape),
        )

    found: _Parts = {}
    for done, name in enumerate(FRAMES):
        try:
            frame = frames(name)
        except OptionError:
            continue
        with torch.no_grad():
            readings = read(
                frame,
                flat,
                k=k,
                targets=targets,
                centred=options.centred,
                budget_bytes=budget,
                check=check,
            )
            for geometry in GEOMETRIES:
                some = scores(frame, flat, geometry, ids=sample, centred=options.centred)
                one = readings[geometry]
                found[geometry, name] = counted(name, one.ids, one.ranks[:, 0], some)
        yield Progress(done + 1, len(FRAMES) + 1, f"frame {name}")
    output = frames("output")
    with torch.no_grad():
        placed = flat if options.centred else output.place(flat)
        ids, ranks, some = _largest_shares(output, head, placed, targets, sample, k, budget, check)
    found["share", "output"] = counted("output", ids, ranks, some)
    return found


def _largest_shares(
    output: Frame,
    head: Frame,
    placed: Tensor,
    targets: Tensor,
    sample: Tensor,
    k: int,
    budget: int,
    check: Check,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k tokens with the largest z_i·(s_i·r), the target's rank, and a sample's values."""
    query = output.queries(placed)
    n, v = len(placed), output.size
    step = max(256, min(4096, budget // (24 * max(n, 1))))
    best = torch.full((n, k), -torch.inf, device=placed.device)
    ids = torch.full((n, k), -1, dtype=torch.long, device=placed.device)
    chosen = head.rows
    assert chosen is not None

    def share(block: Tensor) -> Tensor:
        return (placed @ block.T) * (query @ block.T)

    unique, place = torch.unique(targets[:, 0], return_inverse=True)
    wanted = share(chosen[unique].detach().float()).gather(1, place[:, None])
    above = torch.zeros(n, dtype=torch.long, device=placed.device)
    for start in range(0, v, step):
        check()
        stop = min(start + step, v)
        values = share(head.block(start, stop))
        inside = (targets[:, 0] >= start) & (targets[:, 0] < stop)
        own = values.clone()
        rows = inside.nonzero().squeeze(1)
        own[rows, targets[rows, 0] - start] = -torch.inf
        above += (own > wanted).sum(1)
        merged = torch.cat([best, values], 1)
        merged_ids = torch.cat([ids, torch.arange(start, stop, device=ids.device).expand(n, -1)], 1)
        best, order = merged.topk(k, dim=1)
        ids = merged_ids.gather(1, order)
    return ids, 1 + above, share(chosen[sample].detach().float())


def _ranks(values: Tensor) -> Tensor:
    """Ranks along the last axis, 0 for the smallest (ties in order of position)."""
    return values.argsort(-1).argsort(-1).float()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation along the last axis; of ranks it is Spearman's ρ."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    out: Tensor = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp_min(1e-12)
    return out
