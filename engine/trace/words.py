"""One state in a few words: a non-negative sum of few vectors of a frame, beside what chance gives.

How the sum is found, and what a random vocabulary explains: :mod:`engine.reading.pursuit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from engine.errors import OptionError
from engine.frames.kinds import kind_of
from engine.json_number import plain
from engine.lenses.kind import Lens
from engine.model.language_model import LanguageModel, States
from engine.model.vocabulary import Token, with_token
from engine.progress import Check, no_check
from engine.reading.pursuit import MOST, Floats, pursue
from engine.trace.compute import Frames
from engine.trace.options import TraceOptions, prepare

_BESIDE: Final = ("output", "head")
"""Frames that stand beside the chosen one."""
_NAMED: Final = 4
"""Words that the sentence names at most."""
_COUNT: Final = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
)  # fmt: skip


@dataclass(frozen=True)
class Word:
    """One vector of the sum."""

    token: Token
    weight: float
    """a_i/‖r‖, at least 0: how long its part is beside the state."""
    share: float
    """a_i (b̂_i·r)/‖r‖²: what it accounts for; they sum to the share of the whole sum."""


@dataclass(frozen=True)
class Sum:
    """The state by one frame."""

    frame: str
    words: tuple[Word, ...]
    """In the order in which they were taken; fewer than asked where no more points along it."""
    shares: tuple[float, ...]
    """Of ‖r‖² that the first 1, 2, … words explain, each time with their best weights."""
    cosines: tuple[float, ...]
    """Of the state and those sums."""


@dataclass(frozen=True)
class Chance:
    """What as many words of random vocabularies of the same size and width explain."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class InWords:
    """One state as a non-negative sum of at most k words."""

    layer: int
    position: int
    token: Token
    """The prompt's token at that position."""
    sums: tuple[Sum, ...]
    """The chosen frame's first; none where the state is not finite."""
    random: tuple[Chance, ...]
    """For 1, 2, … words."""
    draws: int
    """Random vocabularies behind that."""

    @property
    def beyond_chance(self) -> bool:
        """Whether the chosen frame explains more than each of the random vocabularies did."""
        return bool(self.sums and self.sums[0].words) and (
            self.sums[0].shares[-1] > self.random[len(self.sums[0].words) - 1].high
        )

    @property
    def sentence(self) -> str:
        """The chosen frame's sum in words; they are named only where it is beyond chance."""
        if not self.sums:
            return "This state holds NaN or infinite numbers, so it is no sum of words."
        first, name = self.sums[0], kind_of(self.sums[0].frame).phrase
        count = len(first.words)
        if not count:
            return f"This state points along none of the {name}, so it is no sum of them."
        chance = self.random[count - 1]
        words, mine, theirs = _words(count), _percent(first.shares[-1]), _percent(chance.mean)
        spread = f"{100 * chance.low:.0f} to {_percent(chance.high)} in {self.draws} draws"
        if not self.beyond_chance:
            return (
                f"By {name} {words} explain {mine} of this state, and {words} of a random"
                f" vocabulary of this size {theirs} ({spread}): no more than chance, so none is"
                " named."
            )
        largest = sorted(first.words, key=lambda word: -word.weight)
        named = [f"{_tenths(one.weight)} “{one.token.label}”" for one in largest[:_NAMED]]
        if count > _NAMED:
            named.append(f"{_COUNT[count - _NAMED]} more")
        listed = named[0] if count == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
        ratio = chance.mean / first.shares[-1]
        return (
            f"In {words} of the {name} this state is {listed}: together {mine} of it; a random"
            f" vocabulary of this size explains {theirs} ({spread}), {ratio:.2f} times as much."
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        out: dict[str, Any] = plain(self)
        out["sums"] = [
            plain(one) | {"words": [with_token(word, "id", "text") for word in one.words]}
            for one in self.sums
        ]
        return out | {"beyond_chance": self.beyond_chance, "sentence": self.sentence}


def _words(count: int) -> str:
    return f"{_COUNT[count]} word{'s' if count != 1 else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _tenths(weight: float) -> str:
    tenths = round(10 * weight)
    if tenths > MOST:
        return f"{weight:.1f} times"
    return f"{_COUNT[tenths]} tenth{'s' if tenths > 1 else ''}" if tenths else "a trace of"


def compute_in_words(
    model: LanguageModel,
    frames: Frames,
    states: States,
    options: TraceOptions,
    layer: int,
    position: int,
    *,
    words: int = MOST,
    chance: Callable[[], Floats],
    lens: Lens | None = None,
    check: Check = no_check,
) -> InWords:
    """One state as a non-negative sum of at most `words` vectors of the chosen frame, and of
    semantic bases and head rows beside it.

    The state is what is read, but never centred: it is the state that is to be explained.

    Args:
        chance: gives what random vocabularies of this model's size explain (draws × words).

    Raises:
        LayerError: a layer or position that is not there.
        OptionError: more words than ten, or none.
    """
    if not isinstance(words, int) or not 1 <= words <= MOST:
        raise OptionError(f"words must be a whole number from 1 to {MOST}; got {words!r:.20}.")
    asked = replace(options, centred=False, layers=str(layer), positions=str(position))
    got = prepare(model, states, asked, lens=lens, check=check)
    texts = model.vocabulary_texts
    sums = []
    for name in dict.fromkeys((options.frame_key, *_BESIDE)) if bool(got.finite) else ():
        found = pursue(frames(name), got.states[0, 0], words, check=check)
        listed = zip(found.ids, found.weights, found.parts, strict=True)
        sums.append(
            Sum(
                frame=name,
                words=tuple(Word(texts.token(i), weight, part) for i, weight, part in listed),
                shares=found.shares,
                cosines=found.cosines,
            )
        )
    drawn = chance()[:, :words]
    spread = zip(drawn.mean(0).tolist(), drawn.min(0).tolist(), drawn.max(0).tolist(), strict=True)
    return InWords(
        layer=got.layers[0],
        position=got.positions[0],
        token=texts.prompt_tokens(states.ids)[got.positions[0]],
        sums=tuple(sums),
        random=tuple(Chance(*one) for one in spread),
        draws=len(drawn),
    )
