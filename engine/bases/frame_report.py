"""What kind of frame the vectors of a model are: rank, bounds, residuals, round trip.

Frame theory on one page (docs/method.md §3). Knows nothing about prompts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from engine.frames.decomposition import CHUNK, HeadDecomposition
from engine.frames.decomposition_cache import cached_decomposition
from engine.frames.frame import Frame
from engine.frames.kinds import kind_of
from engine.frames.kinds.kind import without_masks
from engine.json_number import plain
from engine.model.language_model import LanguageModel
from engine.progress import Check, no_check
from engine.reading.read import read

ROUND_TRIP_ALL: Final = 4096
"""Up to this vocabulary the round trip is taken for every token."""
ROUND_TRIP_SAMPLE: Final = 1024
"""Else for this many, evenly spaced."""


@dataclass(frozen=True)
class FrameReport:
    """What kind of frame the v vectors are (frame theory; docs/method.md §3)."""

    frame: str
    rank: int
    width: int
    vocabulary: int
    condition_number: float
    """√(upper bound / lower bound)."""
    residual: float
    """The largest of `residuals`; NaN where no matrix was taken apart, as for the random frame."""
    residuals: dict[str, float]
    """Relative errors of the four Moore–Penrose equations of the matrix behind the frame."""
    lower_bound: float
    """A in A‖r‖² ≤ Σ (b_i·r)² ≤ B‖r‖² for every r that the frame spans."""
    upper_bound: float
    """B."""
    redundancy: float
    """Vectors per dimension spanned, v / rank."""
    round_trip_rate: float
    """How often the largest logit of vector i is token i, in [0, 1]."""
    round_trip_sample: int
    round_trip_exact: bool
    """Whether every token was tried."""
    leverage: dict[str, float]
    """min, median, mean and max over the vocabulary, of the head."""
    bias: dict[str, float] | None
    """Norm of the head bias b, of its shift W⁺b, and the share of b outside what W spans."""
    seconds: float
    """To take the matrix apart; if it came from the disk, what it took then."""
    bytes: int
    """Held for this frame beside the model's own weights."""
    note: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        out: dict[str, Any] = plain(self)
        return out


def compute_frame_report(
    name: str,
    *,
    model: LanguageModel,
    frames: Callable[[str], Frame],
    decomposition: HeadDecomposition,
    cache_dir: Path | None,
    round_trip: bool,
    check: Check = no_check,
) -> FrameReport:
    """What kind of frame it is.

    Args:
        name: of the frame.
        model: whose frame it is.
        frames: gives a frame by its name.
        decomposition: of the model's head.
        cache_dir: where the decomposition of an embedding table is kept.
        round_trip: whether to try how often a vector's largest logit is its own token.
        check: raises to stop.
    """
    kind, frame = kind_of(name), frames(name)
    head = decomposition
    begin = time.perf_counter()
    if kind.spectrum is None:
        values, residuals = _eigenvalues(frame, check), {}
        seconds = time.perf_counter() - begin
    else:
        source = head
        if kind.of_embedding and not model.tied:
            assert frame.rows is not None
            source = cached_decomposition(frame.rows, cache_dir, check=check)
        values, residuals = kind.spectrum(source.kept, frame), source.residuals()
        seconds = source.seconds
    spanned = len(values) > 0  # a head of zeros spans nothing
    lower = float(values.min()) if spanned else 0.0
    upper = float(values.max()) if spanned else 0.0
    rate, sample = float("nan"), 0
    if round_trip:
        rate, sample = _round_trip(model, frames, frame, check)
    leverage = head.leverage
    own = frame.norms.numel() * 4 + frame.mean.numel() * 8
    if frame.transform is not None:
        own += frame.transform.numel() * 8
    if frame.exact_norms is not None:
        own += frame.exact_norms.numel() * 8
    v = model.vocabulary
    return FrameReport(
        frame=name,
        rank=len(values),
        width=model.width,
        vocabulary=v,
        condition_number=(upper / lower) ** 0.5 if lower > 0 else float("inf"),
        residual=max(residuals.values()) if residuals else float("nan"),
        residuals=residuals,
        lower_bound=lower,
        upper_bound=upper,
        redundancy=v / max(len(values), 1),
        round_trip_rate=rate,
        round_trip_sample=sample,
        round_trip_exact=sample == v,
        leverage={
            "min": float(leverage.min()),
            "median": float(leverage.median()),
            "mean": float(leverage.mean()),
            "max": float(leverage.max()),
        },
        bias=_bias_report(model, frames),
        seconds=seconds,
        bytes=own,
        note=kind.note,
    )


def _round_trip(
    model: LanguageModel, frames: Callable[[str], Frame], frame: Frame, check: Check
) -> tuple[float, int]:
    """How often argmax_j w_j·b_i is i: over all tokens, or an evenly spaced sample."""
    v = model.vocabulary
    step = 1 if v <= ROUND_TRIP_ALL else -(-v // ROUND_TRIP_SAMPLE)
    ids = torch.arange(0, v, step)
    bare = replace(frames("head"), bias=None, finish=None)
    hits = 0
    for start in range(0, len(ids), 512):
        some = ids[start : start + 512]
        vectors = frame.vectors(some).to(bare.device, torch.float32)
        found = read(
            bare,
            vectors,
            geometries=("matmul",),
            k=1,
            vectors=True,
            budget_bytes=model.limits.reading_bytes,
            check=check,
        )["matmul"]
        hits += int((found.ids[:, 0].cpu() == some).sum())
    return hits / len(ids), len(ids)


def _bias_report(model: LanguageModel, frames: Callable[[str], Frame]) -> dict[str, float] | None:
    bias = model.anatomy.bias
    shift = frames("output").shift
    if bias is None or shift is None:
        return None
    b = without_masks(bias.detach()).cpu().double()
    weight = model.anatomy.weight.detach()
    square = 0.0
    for start in range(0, len(weight), CHUNK):
        rows = weight[start : start + CHUNK].cpu().double()
        square += float((b[start : start + CHUNK] - rows @ shift).square().sum())
    norm = float(b.norm())
    return {
        "norm": norm,
        "shift": float(shift.norm()),
        "outside": square**0.5 / norm if norm > 0 else 0.0,
    }


def _eigenvalues(frame: Frame, check: Check) -> Tensor:
    """Eigenvalues of Σ b_i b_iᵀ above the cut-off, largest first, from its vectors."""
    total = torch.zeros(frame.width, frame.width, dtype=torch.float64)
    for start in range(0, frame.size, CHUNK):
        check()
        block = frame.vectors(torch.arange(start, min(start + CHUNK, frame.size)))
        total += block.T @ block
    values: Tensor = torch.linalg.eigvalsh(total).flip(0)
    return values[values > frame.width * torch.finfo(torch.float64).eps * values[0]]
