"""Values as JSON can hold them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def number(value: Any) -> float | int | None:
    """A plain number for JSON, None where it is not finite."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    out = float(value)
    return out if math.isfinite(out) else None
