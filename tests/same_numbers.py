"""Answers of two processes, or of weights that lie in two places, compared number by number.

A processor's kernels go by how memory is aligned, so the same weights at another address give
other last digits. Bits are promised only where one process with one set of weights answers twice;
everywhere else an answer is the same where each of its numbers is within `ROUNDING`.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch

ROUNDING = 1e-4
"""Of a number's size, or of 1 where that is more: what float32 sums lose, with room for many in a
row. What is wrong (a layer, a seed, a bias left out) moves numbers a hundred times as far."""

_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


def assert_same(found: Any, wanted: Any, where: str = "answer") -> None:
    """Assert that two answers agree: floats and tensors to `ROUNDING`, all else exactly.

    Args:
        found: nested dicts, lists and tuples of plain values and tensors.
        wanted: the same.
        where: what the failure calls the outermost.
    """
    if isinstance(wanted, dict):
        assert isinstance(found, dict), where
        assert found.keys() == wanted.keys(), where
        for name, value in wanted.items():
            assert_same(found[name], value, f"{where}.{name}")
    elif isinstance(wanted, list | tuple):
        assert isinstance(found, list | tuple), where
        assert len(found) == len(wanted), where
        for n, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_same(one, other, f"{where}[{n}]")
    elif isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(
            found, wanted, rtol=ROUNDING, atol=ROUNDING, equal_nan=True,
            msg=lambda message: f"{where}: {message}",
        )  # fmt: skip
    elif isinstance(wanted, float):
        both_nan = isinstance(found, float) and math.isnan(found) and math.isnan(wanted)
        close = both_nan or math.isclose(found, wanted, rel_tol=ROUNDING, abs_tol=ROUNDING)
        assert close, f"{where}: {found!r} is not {wanted!r}"
    else:
        assert found == wanted, where


def same_text(found: bytes, wanted: bytes) -> bool:
    """Whether two documents agree: to the byte, but for the rounding of what has a point."""
    pieces, others = (_NUMBER.split(text.decode()) for text in (found, wanted))
    return len(pieces) == len(others) and all(map(_same_piece, pieces, others))


def assert_same_text(found: bytes, wanted: bytes) -> None:
    """Assert what `same_text` tells, and show the first piece that differs."""
    pieces, others = (_NUMBER.split(text.decode()) for text in (found, wanted))
    for one, other in zip(pieces, others, strict=True):
        assert _same_piece(one, other), f"{one!r} is not {other!r}"


def _same_piece(one: str, other: str) -> bool:
    if one == other:
        return True
    fraction = _NUMBER.fullmatch(one) and _NUMBER.fullmatch(other) and set(one + other) & set(".e")
    return bool(fraction) and math.isclose(
        float(one), float(other), rel_tol=ROUNDING, abs_tol=ROUNDING
    )
