"""How evenly a set of vectors points: 1 for a ball, 0 for a narrow cone.

The paper leans on latent space being *locally isotropic* (Cai et al. 2021: a cone as a whole,
even inside its clusters once they are centred), so it is measured: for a layer's states, and near
bases for the neighbourhood of each state or token. Three readings of the same word:

* raw: 1 − mean pairwise cosine, clipped to [0, 1]. A cone around one direction reads 0.
* centred: of the vectors minus their mean, 1 − mean pairwise |cosine|, divided by what uniform
  directions in d dimensions give on average, 1 − Γ(d/2)/(√π·Γ((d+1)/2)); clipped to 1. A line
  reads 0. Signed cosines would say nothing here: they cancel once the mean is off, whatever the
  shape. A ball-shaped cone reads 0 raw and 1 centred.
* spectral: participation ratio of the covariance, (Σλ)²/Σλ², divided by what n draws of an
  isotropic Gaussian give on average, n·d/(n + d) with n − 1 for n; clipped to 1. It falls when a
  few directions hold most of the variance.

Knows nothing about tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Isotropy:
    """Each in [0, 1]; NaN where there are too few finite vectors: two, and three once centred."""

    raw: float
    """1 − mean pairwise cosine."""
    centred: float
    """Mean |cosine| of the vectors minus their mean, against uniform directions."""
    spectral: float
    """Participation ratio of the covariance against an isotropic Gaussian's."""


def isotropy(vectors: Tensor) -> Isotropy:
    """Isotropy of a set of vectors.

    Args:
        vectors: n × d.
    """
    x = vectors.detach().double()
    if len(x) < 2 or not bool(torch.isfinite(x).all()):
        return Isotropy(float("nan"), float("nan"), float("nan"))
    return Isotropy(float(spread(x)), float(spread_about_mean(x)), _spectral(x - x.mean(0)))


def spread(x: Tensor) -> Tensor:
    """1 − mean pairwise cosine of each set, in [0, 1]: ... × n × d → ...

    ‖Σ x̂‖² counts each pair twice and each vector with itself once. Zero vectors have no direction
    and are left out; NaN where fewer than two are left.
    """
    norms = x.norm(dim=-1, keepdim=True)
    kept = norms > 1e-12 * norms.amax(-2, keepdim=True)
    unit = torch.where(kept, x / norms.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
    n = kept.sum((-2, -1)).to(x.dtype)
    cosine = (unit.sum(-2).square().sum(-1) - n) / (n * (n - 1))
    return torch.where(n >= 2, (1 - cosine).clamp(0, 1), torch.nan)


def spread_about_mean(x: Tensor) -> Tensor:
    """The centred reading of each set, in [0, 1]: ... × n × d → ...

    NaN where fewer than three vectors are off the mean, or in one dimension, where every direction
    is the same line.
    """
    y = x - x.mean(-2, keepdim=True)
    d = x.shape[-1]
    if d < 2 or x.shape[-2] < 3:
        return torch.full(x.shape[:-2], torch.nan, dtype=x.dtype, device=x.device)
    norms = y.norm(dim=-1, keepdim=True)
    kept = norms > 1e-6 * x.norm(dim=-1, keepdim=True).amax(-2, keepdim=True)
    unit = torch.where(kept, y / norms.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
    n = kept.sum((-2, -1)).to(x.dtype)
    cosine = ((unit @ unit.mT).abs().sum((-2, -1)) - n) / (n * (n - 1))
    uniform = math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
    return torch.where(n >= 3, ((1 - cosine) / (1 - uniform)).clamp(0, 1), torch.nan)


def _spectral(centred: Tensor) -> float:
    n, d = centred.shape
    small = centred @ centred.T if n <= d else centred.T @ centred
    trace, square = float(small.diagonal().sum()), float(small.square().sum())
    if square <= 0:
        return float("nan")
    expected = (n - 1) * d / (n - 1 + d)
    return min(trace**2 / square / expected, 1.0)
