"""What is done to a model's states: one action, checked, at some layers and positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import LayerError, OptionError, shorten
from engine.frames.kinds import key_of
from engine.json_number import Plain
from engine.model.prompts import BOS

KINDS: Final = ("steer", "swap", "ablate", "zero", "scale", "patch")
PARTS: Final = ("block", "attention", "mlp")
WHEN: Final = ("prompt", "generated", "both")
DOSE: Final = 0.3
FACTOR: Final = 0.5
LARGEST: Final = 1e30


@dataclass(frozen=True, kw_only=True)
class Action(Plain):
    """One intervention.

    Raises:
        OptionError: an unknown kind, or one without what it needs; the sentence says which.
    """

    kind: str
    """One of :data:`KINDS`."""
    token: int | str | None = None
    """Steer towards it, swap it, or take its direction out."""
    foil: int | str | None = None
    """Steer away from it, or swap it with the token."""
    texts: tuple[str, ...] = ()
    """Instead of a token: the mean state after these texts, at each layer."""
    texts_from: tuple[str, ...] = ()
    """Less the mean state after these."""
    random: int | None = None
    """Instead of a token: a direction of this seed."""
    part: str = "block"
    """What is scaled or zeroed, one of :data:`PARTS`."""
    factor: float = FACTOR
    """What `scale` multiplies by."""
    source: str | None = None
    """The prompt whose states `patch` puts in."""
    layers: str | None = None
    """As a trace writes them; None is five sixths of the way up (:func:`default_layer`)."""
    positions: str | None = None
    """Of the prompt, as a trace writes them; None is the last one, for a swap all (``:``)."""
    when: str = "prompt"
    """One of :data:`WHEN`: at the prompt's positions, at those generated after it, or at both."""
    dose: float = DOSE
    """Of `steer`: in lengths of the state, or in the units of the states where `absolute`."""
    absolute: bool = False
    frame: str = "output"
    """The frame that gives a token its direction."""
    alpha: float | None = None
    ridge: float | None = None
    bos: str = "auto"
    chat: bool = False
    target: int | str | None = None
    """The token whose probability is watched; None: what the action is about."""

    def __post_init__(self) -> None:
        _one_of("action", self.kind, KINDS)
        _one_of("part", self.part, PARTS)
        _one_of("when", self.when, WHEN)
        _one_of("bos", self.bos, BOS)
        key_of(self.frame, self.alpha, self.ridge)
        for name in ("dose", "factor"):
            value = getattr(self, name)
            if not math.isfinite(value) or abs(value) > LARGEST:
                raise OptionError(
                    f"{name} must be a finite number of at most 1e30 in size; got {value}."
                )
        directions = (self.token is not None) + bool(self.texts) + (self.random is not None)
        if self.kind in ("steer", "ablate") and directions != 1:
            raise OptionError(
                f"{self.kind} needs one direction: a token, texts, or the seed of a random one."
            )
        if self.kind == "swap" and (self.token is None or self.foil is None):
            raise OptionError("swap needs two tokens; name both.")
        if self.kind == "patch" and self.source is None:
            raise OptionError("patch needs the prompt whose states are put in; give one.")
        if self.texts_from and not self.texts:
            raise OptionError("texts to move away from need texts to move towards; give both.")

    @property
    def frame_key(self) -> str:
        """The frame with its dial."""
        return key_of(self.frame, self.alpha, self.ridge)

    @property
    def places(self) -> str:
        """Its positions, written out."""
        return self.positions or (":" if self.kind == "swap" else "-1")

    @property
    def settings(self) -> dict[str, Any]:
        """How a prompt is tokenized."""
        return {"bos": self.bos, "chat": self.chat}


def default_layer(blocks: int) -> int:
    """Five sixths of the way up: where answers are about to be said, and can still be turned."""
    return max(1, round(5 * blocks / 6))


def chosen_layers(action: Action, numbers: tuple[int, ...], blocks: int) -> tuple[int, ...]:
    """The layers of an action, where it can be done.

    Args:
        action: what is done.
        numbers: its layers as the model numbers them.
        blocks: L.

    Raises:
        LayerError: a block, or a part of one, at layer 0, where none is.
        OptionError: a swap at two layers, which would undo itself.
    """
    if action.kind == "swap" and len(numbers) > 1:
        raise OptionError(
            f"a swap at two layers undoes itself at the second; choose one layer, not"
            f" {len(numbers)}."
        )
    if action.kind in ("zero", "scale") and 0 in numbers:
        raise LayerError(
            f"layer 0 is the embedding and has no block to {action.kind}; choose from 1 to"
            f" {blocks}."
        )
    return numbers


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"{what} must be one of {', '.join(allowed)}; got {shorten(value)!r}.")
