"""Which place of the dial reads a model best: agreement over α and layers.

At each layer the state's nearest token by cosine to G^(−α)w_i is compared with the model's own next
token. α = 0 are the head rows, ½ the tight frame, 1 the paper's semantic bases; random vectors
stand beside them as the control, and the ridge sisters (G + λ·λ̄·I)⁻¹w_i for three λ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from scipy.stats import binomtest
from torch import Tensor

from engine.checkpoints import write_text
from engine.frames.frame import Frame
from engine.frames.kinds import key_of
from engine.json_number import Plain
from engine.model.language_model import LanguageModel
from engine.progress import Progress, Steps
from engine.reading.read import read
from engine.trace.fields import FieldWords, by_chance, field_words, over_words, shares_together
from engine.trace.reference import read_reference

ALPHAS: Final = (-0.25, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
RIDGES: Final = (0.01, 0.1, 1.0)
"""Of the ridge sisters, which stand at α = 1."""
POSITIONS: Final = 192
_FORMAT: Final = 3
_RANGES: Final = ("together_interval", "less_head")


@dataclass(frozen=True)
class DialRow(Plain):
    """One place of the dial, or the control."""

    alpha: float | None
    """None: random vectors."""
    agreement: tuple[float, ...]
    """Per layer: share of positions at which the nearest token is the model's own next one."""
    intervals: tuple[tuple[float, float], ...]
    """Wilson's, 95 %."""
    ridge: float | None = None
    """Of a ridge sister; None: the dial itself."""
    together: float | None = None
    """Share of neighbours that are of the same field, among fifty words (`engine.trace.fields`);
    None where the model has too few of them."""
    together_interval: tuple[float, float] | None = None
    """By drawing words, 95 %."""
    less_head: tuple[float, float, float] | None = None
    """That share less the one of head rows, word by word, and its 95 % interval by drawing words
    (0 for the head rows themselves); None where there is no share."""


@dataclass(frozen=True)
class DialCurve(Plain):
    """Agreement over α × layers."""

    model: str
    """The fingerprint of the weights."""
    positions: int
    rows: tuple[DialRow, ...]
    words: int = 0
    """Of the ten fields, those that are one token."""
    chance: float = 0.0
    """What a random order of them gives."""

    @property
    def best(self) -> DialRow:
        """The place that names the model's own next token most often at the last layer."""
        return max(
            (row for row in self.rows if row.alpha is not None), key=lambda row: row.agreement[-1]
        )

    def at(self, alpha: float | None) -> DialRow:
        """The row of that place."""
        return next(row for row in self.rows if (row.alpha, row.ridge) == (alpha, None))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DialCurve:
        """From :meth:`to_dict`; raises KeyError, TypeError and ValueError on anything else."""
        rows = tuple(
            DialRow(
                row["alpha"],
                tuple(map(float, row["agreement"])),
                tuple((float(a), float(b)) for a, b in row["intervals"]),
                row["ridge"],
                row["together"],
                *(None if row[name] is None else tuple(row[name]) for name in _RANGES),
            )
            for row in plain["rows"]
        )
        return cls(plain["model"], int(plain["positions"]), rows, plain["words"], plain["chance"])


def measure_dial(
    model: LanguageModel, frames: Callable[[str], Frame], *, alphas: tuple[float, ...] = ALPHAS
) -> Steps[DialCurve | None]:
    """Measure the curve on a text of ours; None where the model answers nothing finite.

    Args:
        model: called on its thread.
        frames: gives a frame by its key.
        alphas: places of the dial.
    """
    states = yield from read_reference(model, POSITIONS)
    layers, n = states.shape[:2]
    if n == 0:
        return None
    budget = model.limits.reading_bytes
    own = _nearest(frames("head"), states[-1], "matmul", budget)
    yield Progress(0, 1, "agreement over the dial")
    places = [*((alpha, None) for alpha in alphas), *((1.0, ridge) for ridge in RIDGES)]
    words = field_words(model)
    total, done, rows = (len(places) + 1) * layers, 0, []
    for alpha, ridge in [*places, (None, None)]:
        frame = frames("random" if alpha is None else key_of("dial", alpha, ridge))
        hits = []
        yield Progress(done, total, "agreement over the dial")
        for layer in range(layers):
            hits.append(int((_nearest(frame, states[layer], "cosine", budget) == own).sum()))
            done += 1
            yield Progress(done, total, "agreement over the dial")
        bounds = tuple(wilson(hit, n) for hit in hits)
        near = neighbours(frame, frames("head"), words)
        rows.append(DialRow(alpha, tuple(hit / n for hit in hits), bounds, ridge, *near))
    return DialCurve(model.fingerprint, n, tuple(rows), len(words.ids), by_chance(words))


def neighbours(
    frame: Frame, head: Frame, words: FieldWords
) -> tuple[float | None, tuple[float, float] | None, tuple[float, float, float] | None]:
    """The share of neighbours of a word's own field, its interval, and what it is more than by
    head rows, as a :class:`DialRow` holds them."""
    own, beside = (shares_together(one, words) for one in (frame, head))
    if own is None or beside is None:
        return None, None, None
    share, *interval = over_words(own)
    return share, (interval[0], interval[1]), over_words(own - beside)


def _nearest(frame: Frame, states: Tensor, geometry: str, budget: int) -> Tensor:
    with torch.no_grad():
        found = read(frame, states, geometries=(geometry,), k=1, budget_bytes=budget)
    return found[geometry].ids[:, 0]


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n."""
    found = binomtest(hits, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def load_curve(folder: Path | None, model: str) -> DialCurve | None:
    """A curve that was kept; None where there is none, or it is damaged."""
    if folder is None:
        return None
    try:
        given = json.loads(_path(folder, model).read_text("utf-8"))
        if given.pop("format") != _FORMAT or given["model"] != model:
            return None
        return DialCurve.from_dict(given)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def keep_curve(curve: DialCurve, folder: Path) -> None:
    """Keep a curve: whole, or not at all; raises OSError."""
    write_text(_path(folder, curve.model), json.dumps({"format": _FORMAT, **asdict(curve)}))


def _path(folder: Path, model: str) -> Path:
    return folder / f"dial-{model}.json"
