"""How often each geometry on each frame says what the model itself says, layer by layer.

The random frame stands beside the others as the control. Disagreement is a finding: the paper's
claim that similarity may take the place of the matrix product is measured here, not assumed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import OptionError
from engine.frames.frame import Frame
from engine.frames.kinds import FRAMES
from engine.json_number import plain
from engine.lenses.kind import Lens
from engine.model.language_model import LanguageModel, States
from engine.progress import Check, no_check
from engine.reading.geometries import GEOMETRIES
from engine.reading.read import read
from engine.reading.similarity import scores
from engine.trace.compute import Frames, model_info, not_finite
from engine.trace.options import TraceOptions, prepare
from engine.trace.result import Floats, ModelInfo


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


@dataclass(frozen=True)
class Agreement:
    """Every geometry on every frame against the model's own predictions."""

    model: ModelInfo
    layers: tuple[int, ...]
    positions: tuple[int, ...]
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
    budget = model.limits.reading_bytes
    got = prepare(model, states, options, lens=lens, check=check)
    n_layers, n_positions, d = got.states.shape
    k = min(options.k, model.vocabulary)
    head = frames("head")
    own = read(head, got.last, geometries=("matmul",), k=k, budget_bytes=budget, check=check)[
        "matmul"
    ]
    targets = own.ids[:, :1].repeat(n_layers, 1)
    flat = got.states.reshape(-1, d)
    shape = (n_layers, n_positions)
    stride = max(1, model.vocabulary // 512)
    sample = torch.arange(0, model.vocabulary, stride, device=flat.device)[:1024]
    own_ranks = _ranks(scores(head, got.last, "matmul", ids=sample))  # (position, m)
    finite = got.finite & got.answered  # without an answer there is nothing to agree with

    def mean(values: Tensor) -> Floats:
        kept = torch.where(finite, values.float(), torch.nan)
        return kept.nanmean(1).cpu().numpy().astype(np.float32)

    def row(geometry: str, frame: str, ids: Tensor, ranks: Tensor, some: Tensor) -> AgreementRow:
        first = (ids[:, :1] == targets).view(shape)
        listed = (ids.view(*shape, k, 1) == own.ids.view(1, n_positions, 1, k)).any(-1)
        rho = _correlation(_ranks(some).view(*shape, -1), own_ranks)
        median = torch.where(finite, ranks.view(shape).float(), torch.nan).nanmedian(1).values
        return AgreementRow(
            geometry,
            frame,
            FRAMES[frame].control,
            mean(first),
            mean(listed.float().mean(-1)),
            mean(rho),
            median.cpu().numpy().astype(np.float32),
        )

    rows = []
    for name in FRAMES:
        try:
            frame = frames(name)
        except OptionError:
            continue
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
            found = readings[geometry]
            rows.append(row(geometry, name, found.ids, found.ranks[:, 0], some))
    output = frames("output")
    placed = flat if options.centred else output.place(flat)
    ids, ranks, some = _largest_shares(output, head, placed, targets, sample, k, budget, check)
    rows.append(row("share", "output", ids, ranks, some))
    said = tuple(not_finite(got.layers, got.finite.cpu().numpy()))
    return Agreement(
        model_info(model), got.layers, got.positions, k, len(sample), tuple(rows), said
    )


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
