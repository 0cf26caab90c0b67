"""Readings that have a name: the most faithful one of the open model, the paper's, the controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from app.figures.theme import LABELS
from app.trace.question import TraceQuestion
from app.web.questions import ReadingQuestion
from app.web.words import Choice
from engine import LatentSpace
from engine.frames.kinds import dial_words
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
        fields = ReadingQuestion.model_fields
        return {name: self.changes.get(name, fields[name].default) for name in SETTINGS}

    def chosen(self, query: ReadingQuestion) -> bool:
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


def preset_choices(
    best: Preset | None, query: ReadingQuestion, link: Callable[..., str]
) -> tuple[Choice, ...]:
    """The readings that have a name as links that read so.

    Args:
        best: the most faithful one, where it was measured.
        query: how it is read now.
        link: makes a link of the page that keeps its state but for the keywords.
    """
    return tuple(
        Choice(one.title, one.title, one.chosen(query), one.what, link(**one.settings()))
        for one in (best, PAPER, LOGIT, CONTROL)
        if one is not None
    )


def reading_words(query: TraceQuestion) -> str:
    """By what the states are read, in words."""
    frame = LABELS[query.frame]
    place = dial_words(query.options().frame_key)
    if place:
        frame = f"{frame} at {place}"
    lens = "" if query.lens == "none" else f", {LABELS[query.lens]} lens"
    return f"{LABELS[query.geometry]}, {frame}{lens}"


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
