"""No lens: the state through the model's own final norm, as the paper reads it."""

from __future__ import annotations

from typing import Final

from engine.lenses.kind import LensKind

NONE: Final = LensKind(
    name="none",
    title="none",
    what="Every layer's state goes through the model's final norm and is read as if it were the "
    "last: the paper's way.",
    formula="norm(h_l)",
)
