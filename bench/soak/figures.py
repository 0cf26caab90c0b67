"""Figures of many requests."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not pass; nan where there is none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True)
class Record:
    """What the clients of one run wrote down."""

    lines: tuple[dict[str, Any], ...]
    seconds: float

    @classmethod
    def read(cls, path: Path) -> Record:
        """From the file that the clients wrote."""
        lines = tuple(json.loads(line) for line in path.read_text().splitlines())
        times = [line["at"] for line in lines]
        return cls(lines, max(times) - min(times) if times else 0.0)

    def ms(self, what: str, status: int = 200) -> list[float]:
        """Milliseconds of the requests with this status."""
        return [x["ms"] for x in self.lines if x["what"] == what and x["status"] == status]

    def statuses(self, what: str) -> Counter[int]:
        """How often each status came; 0 is no answer."""
        return Counter(x["status"] for x in self.lines if x["what"] == what)

    def problems(self) -> list[str]:
        """What was wrong, in words."""
        return [x["problem"] for x in self.lines if x.get("problem")]

    def most(self, field: str) -> float:
        """The largest value of a figure that was looked at."""
        return max((x[field] for x in self.lines if field in x), default=math.nan)
