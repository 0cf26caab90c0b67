"""What can colour the cells of a trace's grid: quantities over layers and positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.reading.geometries import GEOMETRIES
from engine.trace.result import Trace

Array = npt.NDArray[np.float32]

COLOURS = ("probability", "entropy", "rank", "kl", "agreement", "deviation", "border")
"""What the cells of the grid can be coloured by."""


@dataclass(frozen=True)
class Plane:
    """One quantity over layers and positions, with all that its colour bar needs."""

    key: str
    title: str
    """Name and unit."""
    reads: str
    """One sentence: what deep colour means here."""
    z: Array
    """(layer, position); NaN where there is nothing to show."""
    low: float
    high: float
    reverse: bool = False
    """Whether small values are the settled ones and get the deep colour."""
    scale: str = "sequential"
    ticks: tuple[tuple[float, str], ...] = ()


def planes(trace: Trace) -> dict[str, Plane]:
    """Every quantity that can colour the grid."""
    shown = trace.finite
    geometry = GEOMETRIES[trace.geometry]
    rank = np.log10(np.maximum(trace.final_rank, 1).astype(np.float32))
    made = (
        Plane(
            "probability",
            "probability of the cell's first token",
            "Strong colour: sure of its first token.",
            trace.top_probabilities[..., 0],
            0.0,
            _round_up(_top(trace.top_probabilities[..., 0], shown)),
        ),
        Plane(
            "entropy",
            "entropy (nats)",
            "Strong colour: decided, few tokens share the probability.",
            trace.entropy,
            0.0,
            _top(trace.entropy, shown),
            reverse=True,
        ),
        Plane(
            "rank",
            "rank of the model's answer",
            "Strong colour: the model's answer already stands near the top; 1 is first.",
            rank,
            0.0,
            max(1.0, _top(rank, shown)),
            reverse=True,
            ticks=tuple((float(i), f"{10**i:,}") for i in range(7)),
        ),
        Plane(
            "kl",
            "KL to the final prediction (nats)",
            "Strong colour: read by the model's own head, this layer already predicts what the "
            "last one will.",
            trace.divergence,
            0.0,
            _top(trace.divergence, shown),
            reverse=True,
        ),
        Plane(
            "agreement",
            "first token = the model's answer",
            "Strong colour: names the very token that the model predicts in the end.",
            trace.agrees.astype(np.float32),
            0.0,
            1.0,
            ticks=((0.0, "differs"), (1.0, "agrees")),
        ),
        Plane(
            "deviation",
            "deviation from the virtual path (0–2)",
            "Strong colour: on the straight path from the token to the model's answer; 1 is a "
            "right angle. Our reconstruction.",
            trace.deviation,
            0.0,
            max(1.0, _top(trace.deviation, shown)),
            reverse=True,
        ),
        Plane(
            "border",
            "distance to the region's border"
            + (f" ({geometry.borders.unit})" if geometry.borders else ""),
            "Strong colour: well inside the region of its token; pale: close to the next one."
            if geometry.borders
            else geometry.no_border,
            trace.border,
            0.0,
            _top(trace.border, shown),
        ),
    )
    return {plane.key: plane for plane in made}


def _top(values: npt.NDArray[Any], shown: npt.NDArray[np.bool_]) -> float:
    """The largest shown value, never 0, so that the colour bar has a length."""
    kept = values[shown & np.isfinite(values)]
    return float(kept.max()) if kept.size and kept.max() > 0 else 1.0


def _round_up(share: float) -> float:
    """A round number not below a share: small probabilities still show their differences."""
    return next(bound for bound in (0.05, 0.1, 0.2, 0.5, 1.0) if share <= bound or bound == 1.0)
