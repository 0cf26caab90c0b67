"""Values as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np


def number(value: Any) -> float | int | None:
    """A plain number for JSON, None where it is not finite."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    out = float(value)
    return out if math.isfinite(out) else None


class Plain:
    """A dataclass whose JSON contract is all of its fields by their names."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        out: dict[str, Any] = plain(self)
        return out


def plain(value: Any) -> Any:
    """Any value for JSON: a dataclass by its fields, an array as lists, each number as above."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, int | float | np.number):
        return number(value)
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(one) for one in value]
    return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
