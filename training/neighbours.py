"""Semantic neighbours: do the bases of everyday words lie near those of their own field?

Ten fields of everyday words were written down before any neighbour was looked at. From each, the
first five words that are one token (after a space) are asked; a word is *found* if among its five
nearest other tokens by cosine, of the whole vocabulary, at least one is another word of its field.
The random frame is the control. Knows nothing about training or text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

from engine.calibration.evidence.metrics import Interval, bootstrap_interval
from engine.frames.kinds import FRAMES
from engine.reading.read import read
from engine.space import LatentSpace

NEAREST: Final = 5
"""Tokens looked at beside each word."""
ASKED: Final = 5
"""Words asked of each field."""

_LISTS: Final = """
animals: dog horse bird fish lion cat cow sheep wolf bear rabbit mouse snake pig goat bee elephant
  tiger monkey fox deer chicken duck
colours: red green blue white black yellow brown grey gray pink purple orange golden scarlet crimson
  violet silver
numbers: three five seven ten twenty one two four six eight nine eleven twelve fifteen thirty forty
  fifty hundred thousand million
months: January April June September December February March May July August October November
countries: France Germany England Italy China Spain Russia India Japan America Mexico Canada Ireland
  Scotland Greece Egypt Australia Austria Poland Britain Brazil
verbs of motion: walk run climb jump ride swim fly crawl march rush hurry wander travel leap dance
  go come move drive sail fall step
feelings: love fear anger joy sorrow hate hope pride shame grief happiness sadness pleasure pain
  despair delight jealousy pity disgust surprise rage terror
food: bread meat milk butter cheese fruit rice sugar salt soup cake egg wine beer coffee tea bacon
  potatoes corn wheat honey
family: mother brother daughter uncle wife father sister son aunt husband cousin grandmother
  grandfather nephew niece parents children child baby widow
body: hand head foot arm eye face leg knee finger shoulder neck nose mouth ear heart chest skin bone
  tongue throat lips hair feet
"""

FIELDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        name: tuple(words.split())
        for name, words in re.findall(r"^(\w[\w ]*): ((?:.|\n )+)", _LISTS, re.M)
    }
)
"""Field → its words, those to be asked first."""


@dataclass(frozen=True)
class Asked:
    """One word in one frame."""

    field: str
    word: str
    nearest: tuple[str, ...]
    """Texts of the five nearest tokens, nearest first."""
    found: bool
    """Whether one of them is another word of the field."""


@dataclass(frozen=True)
class FrameNeighbours:
    """All words in one frame."""

    frame: str
    words: tuple[Asked, ...]
    share: Interval
    """Of the words, those found; 95 % bootstrap interval over the words."""

    def by_field(self) -> dict[str, tuple[int, int]]:
        """Field → words found, words asked."""
        counts: dict[str, tuple[int, int]] = {}
        for row in self.words:
            found, asked = counts.get(row.field, (0, 0))
            counts[row.field] = (found + row.found, asked + 1)
        return counts

    def to_dict(self) -> dict[str, Any]:
        """For the report's JSON."""
        return {
            "share": asdict(self.share),
            "by_field": {name: list(pair) for name, pair in self.by_field().items()},
            "words": [
                {"field": w.field, "word": w.word, "nearest": list(w.nearest), "found": w.found}
                for w in self.words
            ],
        }


def chosen_words(
    space: LatentSpace, fields: Mapping[str, tuple[str, ...]] = FIELDS, asked: int = ASKED
) -> list[tuple[str, str, int]]:
    """Field, word and token id of each word that is asked.

    The first words of each list that are one token, after a space or, where the vocabulary has no
    such token, without; a tokenizer decides this, no neighbour does.
    """
    tokens = _tokens(space)
    chosen = []
    for name, words in fields.items():
        whole = [(name, word, tokens[word]) for word in words if word in tokens]
        chosen += whole[:asked]
    return chosen


def neighbours(
    space: LatentSpace,
    frames: Iterable[str] = FRAMES,
    fields: Mapping[str, tuple[str, ...]] = FIELDS,
) -> dict[str, FrameNeighbours]:
    """The words' nearest tokens in each frame.

    Raises:
        ValueError: no word of any field is one token of this model.
    """
    chosen = chosen_words(space, fields)
    if not chosen:
        raise ValueError(
            "None of the everyday words is a single token of this model; its vocabulary of"
            f" {space.model.vocabulary} tokens is too small for this measure."
        )
    texts = space.vocabulary.texts
    ids = [token for _, _, token in chosen]
    result = {}
    for name in frames:
        frame = space.frame(name)
        found = read(
            frame,
            frame.vectors(ids).to(frame.device).float(),
            geometries=("cosine",),
            k=min(NEAREST + 1, frame.size),
            vectors=True,
        )["cosine"]
        rows = []
        for (field, word, own), near in zip(chosen, found.ids.tolist(), strict=True):
            nearest = tuple(texts[i] for i in near if i != own)[:NEAREST]
            hit = any(belongs(text, word, fields[field]) for text in nearest)
            rows.append(Asked(field, word, nearest, hit))
        share = bootstrap_interval([float(row.found) for row in rows])
        result[name] = FrameNeighbours(name, tuple(rows), share)
    return result


def belongs(text: str, word: str, field: tuple[str, ...]) -> bool:
    """Whether a token's text is another word of the field, letter case and a final s aside.

    The word itself in another case, or its plural, is no other word.
    """
    own = word.lower().removesuffix("s")
    other = text.strip().lower().removesuffix("s")
    return other != own and other in {name.lower().removesuffix("s") for name in field}


def _tokens(space: LatentSpace) -> dict[str, int]:
    """Word → token; of the two forms the one after a space."""
    tokens: dict[str, int] = {}
    for marked in (False, True):
        for i, text in enumerate(space.vocabulary.texts):
            if text.startswith(" ") is marked:
                tokens[text.removeprefix(" ")] = i
    return tokens
