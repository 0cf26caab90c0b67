"""How a formula is explained on the Method page: what it means, where it comes from, its code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PAPER: Final = "arXiv 2401.16184"


@dataclass(frozen=True)
class Explanation:
    """One formula in words."""

    key: str
    """Its place on the Method page."""
    title: str
    meaning: str
    source: str
    ours: bool
    """Whether it is our reconstruction or derivation, not the paper's."""
    code: tuple[tuple[str, str], ...]
    """(module of the engine, name in it)."""
