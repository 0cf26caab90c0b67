"""What a model of some size would need here: its semantic bases, and a trace of a prompt.

Nothing of such a model is loaded. This machine does what the bases and a trace are made of at a few
growing widths, and the sizes asked for follow from what the largest took:

* Bases: the Gram matrix and the coordinates of all rows, v·d² each, and the eigenvectors, d³, in
  float64.
* Trace: products in float32. 2·P·n operations for a pass of n tokens, P = 12·L·d² parameters of L
  blocks (attention, and an MLP of four times the width), and 2·(L + 1)·n·v·d for the states of all
  layers against a frame, and as many against the head.
* Memory is counted from what is held at once.

A power law fitted to each part over the width says whether it grows as counted; small matrices
reach less of a processor's speed than large ones, so an exponent below the counted one is usual.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from scipy.stats import linregress

from engine.errors import OptionError
from engine.frames.decomposition import HeadDecomposition, decompose, gram, square_norms
from engine.json_number import Plain
from engine.progress import Check, no_check

WIDTHS: Final = (256, 512, 1024)
"""At which each part is done."""
_ROWS: Final = 8192
_STATES: Final = 128
_REPEATS: Final = 3
"""Of which the fastest counts: what else the machine does only ever slows it."""
EXAMPLES: Final = {
    "1 B": (2048, 128_256, 16),
    "8 B": (4096, 128_256, 32),
    "70 B": (8192, 256_000, 80),
}
"""Width, vocabulary and layers of models of about that many parameters."""
LARGEST: Final = 2**20
"""Of each number that is asked for."""


@dataclass(frozen=True)
class Law(Plain):
    """How one part grows with the width d, as measured here."""

    part: str
    counted: float
    """The exponent of its operations."""
    exponent: float
    """Of seconds ∝ d^exponent, least squares in logarithms."""
    r_squared: float
    """Share of the variance of log seconds that it explains."""
    seconds_per_unit: float
    """At the largest width; a unit is a row × d², a d³, or a floating-point operation."""


@dataclass(frozen=True)
class Rates(Plain):
    """What this machine took."""

    gram: Law
    eigenvectors: Law
    coordinates: Law
    product: Law


@dataclass(frozen=True)
class Needs(Plain):
    """What a model of this size would need here."""

    width: int
    vocabulary: int
    layers: int
    tokens: int
    weights_bytes: int
    """Of the blocks, and of one matrix for head and embedding, in float32."""
    bases_seconds: float
    bases_bytes: int
    """At once while the head is taken apart, beside the weights."""
    kept_bytes: int
    """Of that, for as long as the model is open."""
    forward_seconds: float
    """One pass of that many tokens."""
    reading_seconds: float
    """Every layer and position against a frame, and against the head."""
    states_bytes: int
    """Hidden states of all layers, before and after the final norm, in float32."""


Clock = Callable[[], float]


def measure(*, clock: Clock = time.perf_counter, check: Check = no_check) -> Rates:
    """Time this machine: some two seconds of two idle cores.

    Args:
        clock: seconds.
        check: called before each part; raises to stop.
    """
    took: dict[str, list[float]] = {name: [] for name in Rates.__dataclass_fields__}
    for d in WIDTHS:
        seed = torch.Generator().manual_seed(0)
        rows = torch.randn(_ROWS, d, generator=seed)
        states = torch.randn(_STATES, d, generator=seed)
        square = gram(rows)
        head = _any_head(d)
        parts: dict[str, Callable[[], Any]] = {
            "gram": partial(gram, rows),
            "eigenvectors": partial(torch.linalg.eigh, square),
            "coordinates": partial(square_norms, rows, head, [-1.0, -2.0]),
            "product": partial(torch.mm, states, rows.T),
        }
        for name, work in parts.items():
            took[name].append(min(_timed(work, clock, check) for _ in range(_REPEATS)))
    d = WIDTHS[-1]
    units = {
        "gram": (2.0, _ROWS * d**2),
        "eigenvectors": (3.0, d**3),
        "coordinates": (2.0, _ROWS * d**2),
        "product": (1.0, 2 * _STATES * _ROWS * d),
    }
    return Rates(**{name: _law(name, took[name], *units[name]) for name in took})


def needs(rates: Rates, *, width: int, vocabulary: int, layers: int, tokens: int) -> Needs:
    """What a model of this size would need on the machine that was timed.

    Args:
        rates: of :func:`measure`.
        width: d, what the head reads.
        vocabulary: v, rows of the head.
        layers: L, blocks.
        tokens: n, of the prompt.

    Raises:
        OptionError: a number that no model has.
    """
    asked = {"width": width, "vocabulary": vocabulary, "layers": layers, "tokens": tokens}
    for name, value in asked.items():
        if not 1 <= value <= LARGEST:
            raise OptionError(f"{name} must be in [1, {LARGEST:,}]; got {value:,}.")
    d, v, n = width, vocabulary, tokens
    blocks = 12 * layers * d * d
    step = min(v, 4096)
    return Needs(
        **asked,
        weights_bytes=4 * (blocks + v * d),
        bases_seconds=v * d**2 * (rates.gram.seconds_per_unit + rates.coordinates.seconds_per_unit)
        + d**3 * rates.eigenvectors.seconds_per_unit,
        # G, its eigenvectors and the room of `eigh`; or, later, G and the eigenvectors in both
        # orders, a block of rows, its square and its coordinates, and six numbers a row.
        bases_bytes=8 * max(4 * d * d, 3 * d * d + 3 * step * d + 6 * v),
        kept_bytes=8 * (d * d + 3 * v + 2 * d),
        forward_seconds=2 * blocks * n * rates.product.seconds_per_unit,
        reading_seconds=4 * (layers + 1) * n * v * d * rates.product.seconds_per_unit,
        states_bytes=2 * 4 * (layers + 1) * n * d,
    )


def _timed(work: Callable[[], Any], clock: Clock, check: Check) -> float:
    check()
    begin = clock()
    work()
    return clock() - begin


def _law(part: str, seconds: list[float], counted: float, units: int) -> Law:
    line = linregress(np.log(WIDTHS), np.log(seconds))
    return Law(part, counted, float(line.slope), float(line.rvalue) ** 2, seconds[-1] / units)


def _any_head(d: int) -> HeadDecomposition:
    """One whose eigenvectors are as wide as asked for; their values do not matter to the time."""
    return decompose(torch.eye(d))
