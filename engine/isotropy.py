"""How evenly a set of vectors points: 1 for a ball, 0 for a narrow cone.

The paper leans on latent space being *locally isotropic* (Cai et al. 2021: a cone as a whole,
even inside its clusters once they are centred), so it is measured: for a layer's states, and near
bases for the neighbourhood of each state or token. Two readings of the same word:

* mean cosine: 1 − mean pairwise cosine, clipped to [0, 1]; of raw vectors and of vectors minus
  their mean. A cone around one direction reads 0 raw and 1 centred.
* spectral: participation ratio of the covariance, (Σλ)²/Σλ², divided by what n draws of an
  isotropic Gaussian give on average, n·d/(n + d) with n − 1 for n; clipped to 1. It falls when a
  few directions hold most of the variance.

Knows nothing about tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Isotropy:
    """Each in [0, 1]; NaN where there are fewer than two finite vectors."""

    raw: float
    """1 − mean pairwise cosine."""
    centred: float
    """The same after the mean is taken off."""
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
    centred = x - x.mean(0)
    return Isotropy(float(spread(x)), float(spread(centred)), _spectral(centred))


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


def _spectral(centred: Tensor) -> float:
    n, d = centred.shape
    small = centred @ centred.T if n <= d else centred.T @ centred
    trace, square = float(small.diagonal().sum()), float(small.square().sum())
    if square <= 0:
        return float("nan")
    expected = (n - 1) * d / (n - 1 + d)
    return min(trace**2 / square / expected, 1.0)
