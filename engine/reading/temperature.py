"""The temperature at which a reading's probabilities come nearest to the model's own.

A cosine lies between −1 and 1 whatever the model, so a softmax of cosines at T = 1 is all but flat:
which T makes scores comparable with logits belongs to the model, the frame and the geometry. Here
it is measured: over reference states r of the last layer, with p(r) the model's own next-token
distribution and q_T(r) = softmax(score(r) / T),

    T* = argmin_T mean_r KL(p(r) ‖ q_T(r)).

In β = 1/T that mean is β·(−E_p[score]) + log Σ exp(β·score) + const: convex, for its second
derivative is a variance. Its slope is E_q[score] − E_p[score], so T* is where the reading expects
the score that the model gives it; found by Brent's method.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from scipy.optimize import brentq
from torch import Tensor

from engine.frames.frame import Frame
from engine.progress import Check, no_check
from engine.reading.geometries import GEOMETRIES
from engine.reading.similarity import scores

COLDEST: Final = 1e-3
HOTTEST: Final = 1e4
"""Between these a temperature may lie."""


@dataclass(frozen=True)
class Temperature:
    """How hot a reading is read."""

    value: float
    """T."""
    kl: float = math.nan
    """Mean KL(model ‖ reading at T) over the reference states, nats."""
    kl_at_one: float = math.nan
    """The same at T = 1."""
    fitted: bool = True
    """Whether it was measured on this model."""


@torch.no_grad()
def fit_temperatures(
    frame: Frame,
    states: Tensor,
    model_log_probabilities: Tensor,
    *,
    geometries: Iterable[str] = GEOMETRIES,
    check: Check = no_check,
) -> dict[str, Temperature]:
    """The best temperature of each geometry on a frame.

    Args:
        frame: b_1 … b_v.
        states: n × d, the last layer's, as the head reads them.
        model_log_probabilities: log p, n × v, of the model itself after those states; −∞ for what
            it never says.
        geometries: which.
        check: called between evaluations; raises to stop.

    Returns:
        By geometry. Where even the coldest or hottest allowed temperature would have to be passed
        (of random vectors the best reading is the flat one), that bound.
    """
    out = {}
    for name in geometries:
        values = scores(frame, states, name)
        best = fit_scale(values, model_log_probabilities, check=check)
        out[name] = Temperature(
            best,
            _divergence(values, model_log_probabilities, best),
            _divergence(values, model_log_probabilities, 1.0),
        )
    return out


@torch.no_grad()
def fit_scale(values: Tensor, log_p: Tensor, *, check: Check = no_check) -> float:
    """T at which softmax(values / T) comes nearest to p, on the mean over the rows.

    Args:
        values: scores, n × v.
        log_p: log p, n × v.
        check: called between evaluations; raises to stop.
    """
    values = values - values.amax(1, keepdim=True)  # a row's own constant is in no softmax
    expected = (log_p.exp() * values).sum(1).double().mean()

    def slope(log_beta: float) -> float:
        check()
        q = torch.softmax(values * math.exp(log_beta), 1)
        return float((q * values).sum(1).double().mean() - expected)

    hot, cold = -math.log(HOTTEST), -math.log(COLDEST)  # log β
    if slope(hot) >= 0:
        return HOTTEST
    if slope(cold) <= 0:
        return COLDEST
    return math.exp(-float(brentq(slope, hot, cold, xtol=1e-5)))


def _divergence(values: Tensor, log_p: Tensor, temperature: float) -> float:
    """Mean KL(p ‖ softmax(values / T)), nats."""
    p = log_p.exp()
    gap = log_p - torch.log_softmax(values / temperature, 1)
    return max(0.0, float(torch.where(p > 0, p * gap, 0.0).sum(1).double().mean()))
