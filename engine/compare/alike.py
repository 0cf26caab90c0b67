"""How alike the states of two models are, whatever their widths.

Linear CKA of few states in many dimensions is near 1 whatever they are. The debiased form puts the
unbiased estimate of HSIC (Song et al. 2012, eq. 5) in the place of the biased one: its expectation
for unrelated states is 0. With K, L the n × n products of centred states and zero diagonals,

    HSIC = (tr KL + (1ᵀK1)(1ᵀL1) / ((n−1)(n−2)) − 2·1ᵀKL1 / (n−2)) / (n(n−3)),
    CKA = HSIC(K, L) / √(HSIC(K, K)·HSIC(L, L)).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.progress import Check, no_check

Doubles = NDArray[np.float64]
_MOST: Final = 256
"""States compared: the last ones. A layer's products then take half a megabyte."""
_SHUFFLES: Final = 5


def debiased_cka(
    first: Doubles, other: Doubles, *, seed: int = 0, check: Check = no_check
) -> tuple[Doubles, float]:
    """Debiased linear CKA of every layer of one model with every layer of another.

    Args:
        first: layer × n × d.
        other: layer × n × e, the same n.
        seed: of the shuffles.
        check: raises to stop.

    Returns:
        (layer × layer, at most 1 and near 0 for unrelated states; the mean of the same over
        shuffled states of the other). NaN below four states, and where a layer does not vary.
    """
    n = first.shape[1]
    if n < 4:
        return np.full((len(first), len(other)), np.nan), float("nan")
    grams, others = (_grams(one[:, -_MOST:], check) for one in (first, other))
    own = [np.array([_hsic(g, g[None])[0] for g in one]) for one in (grams, others)]

    def values(its: Doubles) -> Doubles:
        out = np.empty((len(grams), len(its)))
        for i, gram in enumerate(grams):
            check()
            with np.errstate(invalid="ignore", divide="ignore"):
                out[i] = _hsic(gram, its) / np.sqrt(own[0][i] * own[1])
        return out

    draw = np.random.default_rng(seed)
    shuffled = []
    for _ in range(_SHUFFLES):
        order = draw.permutation(others.shape[1])
        shuffled.append(np.nanmean(values(others[:, order][:, :, order])))
    return values(others), float(np.mean(shuffled))


def _grams(states: Doubles, check: Check) -> Doubles:
    out = []
    for one in states:
        check()
        centred = one - one.mean(0)
        gram = centred @ centred.T
        np.fill_diagonal(gram, 0.0)
        out.append(gram)
    return np.stack(out)


def _hsic(gram: Doubles, others: Doubles) -> Doubles:
    """The unbiased estimate for one K and several L; both have zero diagonals."""
    n = len(gram)
    sums, its = gram.sum(0), others.sum(1)
    value: Doubles = (
        np.einsum("ij,lij->l", gram, others)
        + sums.sum() * its.sum(1) / ((n - 1) * (n - 2))
        - 2 * (its @ sums) / (n - 2)
    ) / (n * (n - 3))
    return value
