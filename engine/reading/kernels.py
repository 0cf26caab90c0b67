"""The passes over a block of scores that torch would make one by one, compiled into one (CPU).

A block of 2 MiB that torch reads and writes a dozen times is read here while it lies in the
registers: the best, the counts and the sums of a row together. Imported when the first large
reading comes, since Numba takes a moment and some memory (:mod:`engine.reading.fused`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

_FAST: Final = {"reassoc", "contract", "nsz", "nnan"}
"""Sums in any order, which lets a row be read by the lane; infinities stay what they are."""
_SEGMENT: Final = 64
"""Columns whose maximum decides whether one of them can be among the k best."""
_F: Final = np.float32
_LOG2E: Final = _F(1.4426950408889634)
_LOWEST: Final = _F(-126.0)
_POWER: Final = tuple(_F(np.log(2) ** i / np.prod(range(1, i + 1))) for i in range(7))
_P0, _P1, _P2, _P3, _P4, _P5, _P6 = _POWER
_HALF: Final = _F(0.5)
_BIAS: Final = np.int32(127)
_MANTISSA: Final = np.int32(23)


def _compiled(**more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Machine code of a function, kept beside its source or in the user's cache where it can be."""

    def make(work: Callable[..., Any]) -> Callable[..., Any]:
        given = {"fastmath": _FAST, "nogil": True, "error_model": "numpy"} | more
        try:
            out: Callable[..., Any] = numba.njit(cache=True, **given)(work)
        except RuntimeError:  # nowhere to keep it
            out = numba.njit(**given)(work)
        return out

    return make


@intrinsic  # type: ignore[untyped-decorator]
def _as_float(_: Any, bits: Any) -> Any:
    """The float32 of these 32 bits."""

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.bitcast(given[0], context.get_value_type(types.float32))

    return types.float32(types.int32), make


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _exp(x: Any) -> Any:
    """exp of x ≤ 0: 2ⁿ·2ᶠ, the second by its series to f⁶ (|f| ≤ ½: 2·10⁻⁷).

    Of x far below 0 the rounding of x·log₂e is larger, |x|·10⁻⁷, of a number that is that small.
    """
    y = x * _LOG2E
    y = _LOWEST if y < _LOWEST else y
    n = np.int32(y - _HALF)
    f = y - _F(n)
    p = _P6 * f + _P5
    p = p * f + _P4
    p = p * f + _P3
    p = p * f + _P2
    p = p * f + _P1
    p = p * f + _P0
    return p * _as_float(np.int32((n + _BIAS) << _MANTISSA))


@_compiled()
def take(
    block: Any, start: int, cold: Any, crest: Any, mass: Any, moment: Any, low: Any, high: Any,
    targets: Any, above: Any, surely: Any, perhaps: Any, close: Any, noted: Any, best: Any,
    ids: Any, allowed: Any, first: int, last: int,
) -> int:  # fmt: skip
    """Carry rows `first` to `last` on by one block; the sums and counts of `Running` by its names.

    Args:
        block: bare scores (n × c) of the tokens from `start` on.
        cold: score/T over bare score (n).
        crest, mass, moment: the running softmax (n).
        low, high: about each target's score (n × m).
        targets: token ids (n × m).
        above: how many tokens are above `high`, the target not among them (n × m).
        surely, perhaps: how many of the block are above `high` and above `low`, where those between
            find no room in `close` and nothing was counted; else 0; written (n × m).
        close: tokens between `low` and `high` (n × m × room).
        noted: how many there are (n × m).
        best, ids: the k best so far, the best first (n × k).
        allowed: what may stand among them (c), or nothing at all for everything.

    Returns:
        How many pairs of a row and a target were not counted.
    """
    left = 0
    width = block.shape[1]
    k = best.shape[1]
    masked = allowed.shape[0] > 0
    for i in range(first, last):
        row = block[i]
        top = row[0]
        least = best[i, k - 1]
        for begin in range(0, width, _SEGMENT):
            end = min(begin + _SEGMENT, width)
            part = row[begin:end]
            largest = part[0]
            for j in range(part.shape[0]):
                x = part[j]
                largest = x if x > largest else largest
            top = largest if largest > top else top
            if largest > least:
                for j in range(begin, end):
                    x = row[j]
                    if x > least and (not masked or allowed[j]):
                        place = k - 1
                        while place > 0 and best[i, place - 1] < x:
                            best[i, place] = best[i, place - 1]
                            ids[i, place] = ids[i, place - 1]
                            place -= 1
                        best[i, place] = x
                        ids[i, place] = start + j
                        least = best[i, k - 1]
        for q in range(targets.shape[1]):
            under, over = low[i, q], high[i, q]
            many, more = np.int32(0), np.int32(0)
            for j in range(width):
                many += np.int32(row[j] > over)
                more += np.int32(row[j] > under)
            own = targets[i, q] - start
            if 0 <= own < width:
                many -= np.int32(row[own] > over)
                more -= np.int32(row[own] > under)
            surely[i, q], perhaps[i, q] = 0, 0
            held = noted[i, q]
            if held + more - many > close.shape[2]:
                surely[i, q], perhaps[i, q] = many, more
                left += 1
                continue
            above[i, q] += many
            if more > many:
                for j in range(width):
                    if under < row[j] <= over and j != own:
                        close[i, q, held] = start + j
                        held += 1
                noted[i, q] = held
        warmth, old = cold[i], crest[i]
        now = max(old, top)
        total, energy = _F(0), _F(0)
        for j in range(width):
            e = (row[j] - now) * warmth
            w = _exp(e)
            total += w
            energy += w * e
        if old > -np.inf:
            # Where the maximum rises, e falls: Σ exp(e − s)(e − s) from the sums at hand.
            step = (old - now) * warmth
            fade = np.exp(step)
            moment[i] = fade * (moment[i] + step * mass[i]) + energy
            mass[i] = mass[i] * fade + total
        else:
            moment[i], mass[i] = energy, total
        crest[i] = now
    return left


@_compiled()
def diverge(block: Any, peak: Any, mass: Any, cross: Any, first: int, last: int) -> None:
    """Carry the running sums of a KL on by one block, at positions `first` to `last`.

    Args:
        block: logits, layer × position × c; the last layer is the reference p.
        peak, mass: of each layer's softmax (layer × position).
        cross: Σ exp(x_ref − peak_ref)·x_l over the tokens (layer × position).
    """
    layers, _, width = block.shape
    weights = np.empty(width, np.float32)
    for t in range(first, last):
        fade = _F(0)
        for back in range(layers):
            at = layers - 1 - back  # the reference first: the others need its weights
            row = block[at, t]
            old = peak[at, t]
            now = old
            for j in range(width):
                x = row[j]
                now = x if x > now else now
            total, energy = _F(0), _F(0)
            if back == 0:
                fade = np.exp(old - now) if old > -np.inf else _F(0)
                for j in range(width):
                    w = _exp(row[j] - now)
                    weights[j] = w
                    total += w
                    energy += w * row[j]
            else:
                for j in range(width):
                    total += _exp(row[j] - now)
                    energy += weights[j] * row[j]
            own = np.exp(old - now) if old > -np.inf else _F(0)
            mass[at, t] = mass[at, t] * own + total
            cross[at, t] = cross[at, t] * fade + energy
            peak[at, t] = now
