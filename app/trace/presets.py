"""Readings that have a name: the most faithful one of the open model, the paper's, the controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from app.trace.question import TraceQuery
from engine import LatentSpace
from engine.progress import Check

SETTINGS: Final = ("geometry", "frame", "alpha", "ridge", "lens")
"""What a reading is made of; the rest of a question says what is shown of it."""


@dataclass(frozen=True)
class Preset:
    """A reading that has a name."""

    title: str
    what: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings that are not the defaults."""

    def settings(self) -> dict[str, Any]:
        """All settings of the reading."""
        fields = TraceQuery.model_fields
        return {name: self.changes.get(name, fields[name].default) for name in SETTINGS}

    def chosen(self, query: TraceQuery) -> bool:
        """Whether a question reads so."""
        return all(getattr(query, name) == value for name, value in self.settings().items())


PAPER: Final = Preset("the paper's", "By cosine to the semantic bases, without a lens.")
LOGIT: Final = Preset(
    "logit lens",
    "Each layer through the model's own norm and head.",
    {"geometry": "matmul", "frame": "head"},
)
CONTROL: Final = Preset(
    "random control", "By cosine to random directions: what this shows is chance.",
    {"frame": "random"},
)  # fmt: skip


def faithful(space: LatentSpace, *, check: Check) -> Preset | None:
    """The reading that agrees best with this model, as far as that was measured; else None.

    With the linear lens the last layer is the model's own and every layer below is brought there;
    without it, the place of the dial that names the model's own next token most often.
    """
    check()
    lens = space.known_lens("linear")
    if lens is not None and lens.rows:
        middle = lens.rows[2 * (len(lens.rows) - 1) // 3]
        if middle.kl < min(middle.kl_none, middle.kl_shuffled):
            return Preset(
                "most faithful here",
                "Through the linear lens by the model's own head: of all readings measured on this"
                f" model the nearest to it, {middle.kl:.2f} nats away at layer {middle.layer}"
                f" where no lens is {middle.kl_none:.2f}.",
                {"geometry": "matmul", "frame": "head", "lens": "linear"},
            )
    curve = space.dial()
    if curve is None or curve.best.intervals[-1][0] <= curve.at(None).intervals[-1][1]:
        return None
    best = curve.best
    place = f"α {best.alpha:g}" + (f", ridge {best.ridge:g}," if best.ridge is not None else "")
    return Preset(
        "most faithful here",
        f"By cosine at {place} of the dial: it names this model's own next token at"
        f" {100 * best.agreement[-1]:.0f} % of {curve.positions} positions.",
        {"frame": "dial", "alpha": best.alpha, "ridge": best.ridge},
    )
