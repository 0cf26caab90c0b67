"""The frame operator of a head, taken apart: G = WᵀW by its eigenvalues and eigenvectors.

G is accumulated in float64 whatever the weights' dtype and taken apart by `eigh`; directions whose
eigenvalue is below d·ε₆₄·λ_max are cut off, which gives the true Moore–Penrose pseudo-inverse of a
rank-deficient head (derived in docs/method.md, checked against `torch.linalg.pinv` in the tests).

Notation as in :mod:`engine.frames.frame`. Knows nothing about files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from engine.errors import NonFiniteError
from engine.progress import Check, no_check

CHUNK: Final = 8192
"""Rows of the head that are taken at a time."""
_GRAM_ROWS: Final = 4096
_GRAM_PARTS: Final = 4


@dataclass(frozen=True)
class HeadDecomposition:
    """The frame operator G = WᵀW of a head, taken apart. All float64, on the CPU.

    Memory d² + 3v numbers.
    """

    eigenvalues: Tensor
    """λ, largest first (d)."""
    eigenvectors: Tensor
    """U, a column per eigenvalue (d × d)."""
    rank: int
    leverage: Tensor
    """h_ii = w_i·s_i in [0, 1], summing to the rank; also s_i's own logit and ‖t_i‖² (v)."""
    basis_norms: Tensor
    """‖s_i‖ (v)."""
    row_norms: Tensor
    """‖w_i‖ (v)."""
    row_mean: Tensor
    """The mean row of the head (d)."""
    seconds: float
    """What it took to compute; from the disk, what it took then."""
    from_cache: bool = False

    @property
    def kept(self) -> Tensor:
        """The eigenvalues above the cut-off."""
        return self.eigenvalues[: self.rank]

    def ridged(self, ridge: float) -> Tensor:
        """λ + ridge·λ̄ of the kept eigenvalues, λ̄ the mean of all d."""
        return self.kept + ridge * self.eigenvalues.clamp_min(0).mean()

    def power(self, exponent: float, ridge: float = 0.0) -> Tensor:
        """(G + ridge·λ̄·I) to a (negative) power on G's range, zero off it: d × d, symmetric."""
        basis = self.eigenvectors[:, : self.rank]
        return (basis * self.ridged(ridge) ** exponent) @ basis.T

    @property
    def condition_number(self) -> float:
        """σ_max / σ_min of W on its range: the square root of the ratio of the frame bounds."""
        return float((self.kept[0] / self.kept[-1]).sqrt()) if self.rank else math.inf

    def residuals(self) -> dict[str, float]:
        """Relative errors of the four Moore–Penrose equations for A = W, A⁺ = G⁺Wᵀ.

        Each Frobenius norm over v × d or v × v is written as a trace over d × d:
        ‖W·D‖² = tr(Dᵀ·G·D), with G put together again from its parts.
        """
        g = (self.eigenvectors * self.eigenvalues.clamp_min(0)) @ self.eigenvectors.T
        inverse = self.power(-1.0)
        p = inverse @ g
        eye = torch.eye(len(p), dtype=p.dtype)

        def norm(d: Tensor) -> float:  # ‖W·D‖_F
            return math.sqrt(max(float(((d.T @ g) * d.T).sum()), 0.0))

        def ratio(a: float, b: float) -> float:
            return a / b if b > 0 else 0.0

        skew = inverse - inverse.T
        return {
            "A A⁺ A = A": ratio(norm(p - eye), norm(eye)),
            "A⁺ A A⁺ = A⁺": ratio(norm((p @ inverse - inverse).T), norm(inverse.T)),
            "(A A⁺)ᵀ = A A⁺": ratio(float((g @ skew).norm()), float(p.norm())),
            "(A⁺ A)ᵀ = A⁺ A": ratio(float((p - p.T).norm()), float(p.norm())),
        }


def gram(weight: Tensor, *, check: Check = no_check) -> Tensor:
    """G = WᵀW in float64: d × d, on the CPU.

    On the CPU each block of rows goes through BLAS `dsyrk`, which fills one triangle and so does
    half the work of a general product; so do blocks from Apple's MPS, which has no float64. On CUDA
    it is a float64 product.
    """
    v, d = weight.shape
    if weight.device.type == "cuda":
        total = torch.zeros(d, d, dtype=torch.float64, device=weight.device)
        for start in range(0, v, CHUNK):
            check()
            block = weight[start : start + CHUNK].detach().double()
            total += block.T @ block
        return total.cpu()
    out = torch.zeros(d, d, dtype=torch.float64)
    room = torch.empty(min(v, _GRAM_ROWS), d, dtype=torch.float64)
    cuts = [d * i // _GRAM_PARTS for i in range(_GRAM_PARTS + 1)]
    for start in range(0, v, _GRAM_ROWS):
        check()
        rows = weight[start : start + _GRAM_ROWS].detach()
        block = room[: len(rows)].copy_(rows)
        for first, last in pairwise(cuts):  # of each band of rows of G, the part from the diagonal
            out[first:last, first:].addmm_(block[:, first:last].T, block[:, first:])
    return torch.triu(out) + torch.triu(out, 1).T


@torch.no_grad()
def decompose(weight: Tensor, *, check: Check = no_check) -> HeadDecomposition:
    """Take the frame operator of a head apart.

    Args:
        weight: W, v × d, any floating dtype and device.
        check: called between blocks of rows; raises to stop.

    Raises:
        NonFiniteError: the head holds NaN or infinity.
    """
    begin = time.perf_counter()
    v, d = weight.shape
    operator = gram(weight, check=check)
    if not bool(torch.isfinite(operator).all()):
        raise NonFiniteError(
            "the head of this model holds NaN or infinite weights, so it has no semantic bases;"
            " load a sound checkpoint."
        )
    check()
    eigenvalues, eigenvectors = torch.linalg.eigh(operator)
    eigenvalues, eigenvectors = eigenvalues.flip(0), eigenvectors.flip(1)
    floor = d * torch.finfo(torch.float64).eps * float(eigenvalues[0].clamp_min(0))
    rank = int((eigenvalues > floor).sum())
    kept = eigenvalues[:rank]
    rows = torch.empty(v, dtype=torch.float64)
    mean = torch.zeros(d, dtype=torch.float64)
    squares = torch.empty(v, 2, dtype=torch.float64)
    weights = torch.stack([1 / kept, 1 / kept**2], dim=1)  # (rank, 2)
    for start, block, parts in _rotated(weight, eigenvectors[:, :rank], check):
        rows[start : start + len(block)] = torch.linalg.vecdot(block, block).cpu()
        mean += block.sum(0).cpu()
        squares[start : start + len(block)] = (parts.square_() @ weights.to(parts.device)).cpu()
    return HeadDecomposition(
        eigenvalues=eigenvalues.contiguous(),
        eigenvectors=eigenvectors.contiguous(),
        rank=rank,
        leverage=squares[:, 0].contiguous(),
        basis_norms=squares[:, 1].sqrt(),
        row_norms=rows.sqrt(),
        row_mean=mean / v,
        seconds=time.perf_counter() - begin,
    )


def _rotated(weight: Tensor, basis: Tensor, check: Check) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Blocks of rows of W in float64 with their coordinates W·U: (first row, c × d, c × rank).

    Both are rooms that the next block uses again.
    """
    v, d = weight.shape
    rank = basis.shape[1]
    where = weight.device if weight.device.type == "cuda" else torch.device("cpu")
    basis = basis.to(where).contiguous()
    step = CHUNK if where.type == "cuda" else _GRAM_ROWS
    room = torch.empty(2, min(v, step), d, dtype=torch.float64, device=where)
    for start in range(0, v, step):
        check()
        source = weight[start : start + step].detach()
        block = room[0, : len(source)].copy_(source)
        parts = room[1].view(-1)[: len(block) * rank].view(len(block), rank)
        yield start, block, torch.mm(block, basis, out=parts)


@torch.no_grad()
def square_norms(
    weight: Tensor,
    head: HeadDecomposition,
    powers: Sequence[float],
    *,
    ridge: float = 0.0,
    check: Check = no_check,
) -> Tensor:
    """w_i·G^p·w_i for some powers p on the head's range: ‖G^(p/2)·w_i‖² of every row.

    One pass over the head serves all powers: Σ_j λ_j^p (u_j·w_i)².

    Args:
        weight: W, v × d.
        head: its decomposition.
        powers: p (m); −1 gives the leverage, −2 the squared lengths of the semantic bases.
        ridge: of :meth:`HeadDecomposition.ridged`, in place of λ.
        check: called between blocks of rows; raises to stop.

    Returns:
        v × m, float64, on the CPU.
    """
    out = torch.empty(len(weight), len(powers), dtype=torch.float64)
    weights = torch.stack([head.ridged(ridge) ** p for p in powers], dim=1)
    for start, block, parts in _rotated(weight, head.eigenvectors[:, : head.rank], check):
        out[start : start + len(block)] = (parts.square_() @ weights.to(parts.device)).cpu()
    return out
