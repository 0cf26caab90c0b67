"""What a trace reads, and how: every setting of it, checked, and the states that it chooses."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import torch
from torch import Tensor

from engine.errors import OptionError, shorten
from engine.frames.frame import Frame
from engine.frames.kinds import FRAMES, key_of
from engine.lenses import LENSES
from engine.lenses.kind import Lens
from engine.model.language_model import LanguageModel, States
from engine.model.prompts import BOS
from engine.model.ranges import parse_range
from engine.progress import Check, no_check
from engine.reading.geometries import GEOMETRIES
from engine.reading.read import read

Options = TypeVar("Options", bound="DataclassInstance")


@dataclass(frozen=True)
class StateKind:
    """Where a state is taken: past the final norm or before it."""

    name: str
    """In addresses, files and options."""
    title: str
    """On the pages."""
    what: str
    past_norm: bool
    """Whether it is what the head would read."""


STATES: Final[Mapping[str, StateKind]] = MappingProxyType(
    {
        one.name: one
        for one in (
            StateKind("normed", "final-normed", "past the final norm, as the head reads", True),
            StateKind("raw", "raw", "as it leaves the block", False),
        )
    }
)
"""By name."""

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    StateName = str
else:
    StateName = Literal[tuple(STATES)]
    """For models of questions: the names, and no other."""


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """What to read, and how.

    Raises:
        OptionError: a value outside its range; the message names it and what is allowed.
    """

    geometry: str = "cosine"
    """One of :data:`engine.reading.geometries.GEOMETRIES`."""
    frame: str = "output"
    """One of :data:`engine.frames.kinds.FRAMES`."""
    alpha: float | None = None
    """Where the dial stands, −½ to 1, for the frame ``dial``; None is its default."""
    ridge: float | None = None
    """λ beside it, 0 to 100 mean eigenvalues; None is none, and α is 1 where λ stands alone."""
    lens: str = "none"
    """One of :data:`engine.lenses.LENSES`: what brings a middle layer to where the head reads."""
    state: str = "normed"
    """One of :data:`STATES`."""
    centred: bool = False
    """Each state minus the layer's mean over the prompt, each basis minus the mean basis."""
    temperature: float | None = None
    """Of the chosen geometry's probabilities; None is the one that fits this model best."""
    k: int = 10
    """Tokens listed per cell, 1 to 50."""
    layers: str | None = None
    """``0:6``, ``0:12:2``, ``3``, ``-1``; None is all."""
    positions: str | None = None
    """The same for tokens of the prompt."""
    bos: str = "auto"
    """Begin-of-text token: ``auto`` as the tokenizer does, ``yes``, ``no``."""
    chat: bool = False
    """Write the prompt as a user's turn by the model's chat template."""
    words_only: bool = False
    """List words only; probabilities stay those of the whole vocabulary."""

    def __post_init__(self) -> None:
        _one_of("geometry", self.geometry, GEOMETRIES)
        _one_of("frame", self.frame, FRAMES)
        key_of(self.frame, self.alpha, self.ridge)
        _one_of("lens", self.lens, LENSES)
        _one_of("state", self.state, STATES)
        if self.lens != "none" and not STATES[self.state].past_norm:
            raise OptionError(
                f"the lens {self.lens!r} starts past the final norm; read state normed, or lens"
                " none."
            )
        _one_of("bos", self.bos, BOS)
        for name in ("layers", "positions"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise OptionError(f"{name} must be text such as '0:6' or '3'; got {value!r:.40}.")
        if not isinstance(self.k, int) or not 1 <= self.k <= 50:
            raise OptionError(f"k must be a whole number from 1 to 50; got {self.k!r:.20}.")
        t = self.temperature
        if t is not None and not (math.isfinite(t) and 1e-3 <= t <= 1e4):
            raise OptionError(f"temperature must be from 0.001 to 10000; got {t}.")

    @property
    def frame_key(self) -> str:
        """The frame with its dial."""
        return key_of(self.frame, self.alpha, self.ridge)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON contract."""
        return asdict(self)


def with_settings(
    options: Options | None, settings: dict[str, Any], kind: type[Options]
) -> Options:
    """Options with some of their fields set, or made of these.

    Raises:
        OptionError: an unknown field, or a value outside its range.
    """
    try:
        return kind(**settings) if options is None else replace(options, **settings)
    except TypeError as error:
        names = ", ".join(one.name for one in fields(kind))
        raise OptionError(f"{error}; the options are {names}.") from None


def _one_of(what: str, value: object, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise OptionError(
            f"{what} must be one of {', '.join(allowed)}; got {shorten(str(value))!r}."
        )


@dataclass(frozen=True)
class Prepared:
    """The states that were asked for, placed where frames read them."""

    layers: tuple[int, ...]
    positions: tuple[int, ...]
    states: Tensor
    """layer × position × d, normed or raw, centred or not."""
    reading: Tensor
    """layer × position × d: past the final norm and the lens, never centred; what the head would
    read."""
    last: Tensor
    """position × d: what the head does read."""
    finite: Tensor
    """layer × position."""
    answered: Tensor
    """position: whether the model's last layer is finite, so that it has an answer there."""
    before: Tensor
    """layer × position × d: `states` of the model's layer just below, for steps and gains."""


def prepare(
    model: LanguageModel,
    states: States,
    options: TraceOptions,
    *,
    lens: Lens | None = None,
    check: Check = no_check,
) -> Prepared:
    """Choose layers and positions, take the final norm and the lens or not, centre or not.

    Raises:
        LayerError: a layer or position that is not there.
        OptionError: raw states of another width than the head, or centring of one token.
    """
    layers = model.layer_numbers(options.layers)
    tokens = len(states.ids)
    positions = parse_range(
        options.positions, tokens, "position", f"this prompt of {tokens} tokens"
    )
    anatomy = model.anatomy
    past_norm = STATES[options.state].past_norm
    if not past_norm and anatomy.residual_width != model.width:
        raise OptionError(
            f"raw states of this model have {anatomy.residual_width} dimensions and its head reads"
            f" {model.width}; choose state normed."
        )
    if options.centred and tokens < 2:
        raise OptionError(
            "centring takes the mean over the prompt's tokens off each state, so it needs at least"
            " two tokens; lengthen the prompt or switch 'centred' off."
        )
    chosen = list(layers)
    # Layer −1 is not there; the step into layer 0 is never shown, so any stand-in serves.
    below = [max(layer - 1, 0) for layer in layers]
    wanted = sorted({*chosen, *below, model.blocks})
    check()
    raw = states.raw[wanted]
    read_out = model.read_out(raw)
    if lens is not None:
        read_out = lens.over(wanted, read_out)
    place = {layer: i for i, layer in enumerate(wanted)}
    at = [place[layer] for layer in chosen]
    under = [place[layer] for layer in below]
    used = read_out if past_norm else raw
    finite = torch.isfinite(used).all(-1) & torch.isfinite(read_out).all(-1)
    clean = torch.where(finite.unsqueeze(-1), used, 0.0)
    if options.centred:
        counts = finite.sum(1).clamp_min(1).unsqueeze(-1)
        mean = clean.sum(1) / counts
        clean = torch.where(finite.unsqueeze(-1), clean - mean.unsqueeze(1), 0.0)
    safe = torch.where(finite.unsqueeze(-1), read_out, 0.0)
    pick = list(positions)
    return Prepared(
        layers=layers,
        positions=positions,
        states=clean[at][:, pick],
        reading=safe[at][:, pick],
        last=safe[place[model.blocks]][pick],
        finite=finite[at][:, pick],
        answered=finite[place[model.blocks]][pick],
        before=clean[under][:, pick],
    )


def prepare_texts(
    model: LanguageModel,
    raw: Tensor,
    wanted: tuple[int, ...],
    layers: tuple[int, ...],
    *,
    lens: Lens | None = None,
) -> Prepared:
    """The last states of some texts, as if they were the positions of one prompt.

    Args:
        raw: layer × text × residual width, of the layers `wanted`, the last among them.
        layers: that are read.
    """
    read_out = model.read_out(raw)
    if lens is not None:
        read_out = lens.over(wanted, read_out)
    finite = torch.isfinite(read_out).all(-1)
    safe = torch.where(finite.unsqueeze(-1), read_out, 0.0)
    at = [wanted.index(layer) for layer in layers]
    last = wanted.index(model.blocks)
    return Prepared(
        layers=layers,
        positions=tuple(range(raw.shape[1])),
        states=safe[at],
        reading=safe[at],
        last=safe[last],
        finite=finite[at],
        answered=finite[last],
        before=safe[at],
    )


def final_answers(
    head: Frame, last: Tensor, *, budget_bytes: int, check: Check = no_check
) -> tuple[Tensor, Tensor]:
    """The model's own next token at each position, and its probability."""
    top = read(head, last, geometries=("matmul",), k=1, budget_bytes=budget_bytes, check=check)[
        "matmul"
    ]
    return top.ids[:, 0], top.probabilities[:, 0]
