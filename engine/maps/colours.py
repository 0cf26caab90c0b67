"""What a point is coloured by: a number or a class for each, and what it means.

Where a figure does not apply to a point (the leverage of a text) it is NaN, or the class ``—``.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from engine.errors import OptionError, shorten
from engine.frames.frame import Frame
from engine.json_number import Plain
from engine.maps.arrays import Floats, Ints, Longs
from engine.maps.frames import first_bases
from engine.maps.options import MapOptions
from engine.maps.points import BASIS, KINDS, PROMPT, MapPoints, Space
from engine.maps.quality import Distortion
from engine.model.vocabulary import Vocabulary
from engine.progress import Check

NONE: Final = "—"
_NAMED: Final = 19
"""Classes with a name of their own where there may be thousands; the rest are `other`."""
CLASSES: Final = (
    "word",
    "word piece",
    "number",
    "punctuation",
    "space",
    "byte",
    "control",
    "special",
    "other",
)


@dataclass(frozen=True)
class Colour(Plain):
    """A number or a class per point."""

    by: str
    values: Floats | None
    """A number per point, NaN where it does not apply (n); None where there are classes."""
    codes: Ints | None
    """Index into `names` (n); None where there are numbers."""
    names: tuple[str, ...]
    caption: str
    """What it means, with its unit."""


def token_class(vocabulary: Vocabulary, id: int) -> str:
    """One of :data:`CLASSES` for a token.

    ``word`` starts a word (a space stands in front, or the tokenizer marks only continuations);
    ``word piece`` goes on with one.
    """
    text = vocabulary.texts[id]
    if vocabulary.is_special(id):
        return "special"
    if text.startswith("<0x") and text.endswith(">"):
        return "byte"
    if text.startswith("<row "):
        return "other"
    bare = text.strip()
    if not bare:
        return "space" if text and not any(_control(c) for c in text) else "control"
    if all(_control(c) for c in bare):
        return "control"
    if vocabulary.is_word(id):
        if all(c.isdigit() for c in bare):
            return "number"
        marked = bare.startswith("##")
        begins = text[:1].isspace() or (_marks_pieces(vocabulary) and not marked)
        return "word" if begins else "word piece"
    if not any(c.isalnum() for c in bare):
        return "punctuation"
    return "other"


def _control(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") and c not in "\n\r\t"


def _marks_pieces(vocabulary: Vocabulary) -> bool:
    """Whether the tokenizer marks the pieces that go on (``##ing``), not those that begin."""
    return vocabulary._style == "wordpiece"


@dataclass(frozen=True, eq=False, kw_only=True)
class Coloured:
    """The points of a map, and what may be asked of them for a colour."""

    points: MapPoints
    space: Space
    """For what is known of its tokens."""
    options: MapOptions
    vectors: Callable[[], Floats]
    """Gives the points' vectors before preprocessing (n × d)."""
    distortion: Callable[[], Distortion]
    """Gives how wrong the map is about each."""
    check: Check


@dataclass(frozen=True, kw_only=True)
class Colouring:
    """A way to colour the points of a map."""

    name: str
    title: str = ""
    """On the switch of the page; empty: it does not stand there."""
    place: int = 0
    """There, among the others."""
    paint: Callable[[Coloured], Colour]


def _numbers(by: str, values: Any, caption: str) -> Colour:
    return Colour(by, np.asarray(values).astype(np.float32), None, (), caption)


def _kinds(given: Coloured) -> Colour:
    codes = given.points.kind.astype(np.int32)
    return Colour("kind", None, codes, KINDS, "What the point is.")


def _classes(given: Coloured) -> Colour:
    vocabulary, ids = given.space.vocabulary, given.points.ids()
    names = (*CLASSES, "text")
    place = {name: i for i, name in enumerate(names)}
    codes = np.full(len(ids), place["text"], dtype=np.int32)
    # A few points ask for their own tokens; many share a table of the whole vocabulary.
    if len(ids) < 2000:
        for id in np.unique(ids[ids >= 0]):
            codes[ids == id] = place[token_class(vocabulary, int(id))]
    else:
        table = np.array([place[token_class(vocabulary, i)] for i in range(vocabulary.size)])
        codes = np.where(ids >= 0, table[np.maximum(ids, 0)], place["text"]).astype(np.int32)
    return Colour("class", None, codes, names, "What kind of token it is, by its text.")


def _norms(given: Coloured) -> Colour:
    norms = np.linalg.norm(given.vectors().astype(np.float64), axis=1)
    return _numbers("norm", norms, "Length of the vector before preprocessing.")


def _leverages(given: Coloured) -> Colour:
    ids: Longs = given.points.ids()
    table = given.space.decomposition.leverage.numpy()
    caption = (
        "Leverage of the token in the head, in [0, 1]: how much of its own logit its basis keeps."
    )
    return _numbers("leverage", np.where(ids >= 0, table[np.maximum(ids, 0)], np.nan), caption)


def _token_ids(given: Coloured) -> Colour:
    ids = given.points.ids()
    caption = (
        "Row of the vocabulary. How often tokens occur is not known here; in many tokenizers"
        " ids grow as tokens get rarer."
    )
    return _numbers("token id", np.where(ids >= 0, ids, np.nan), caption)


def _positions(given: Coloured) -> Colour:
    inside = given.points.kind == PROMPT
    values = np.where(inside, given.points.row, np.nan)
    return _numbers("position", values, "Position in the prompt, from 0.")


def _labels(given: Coloured) -> Colour:
    groups = [given.points.group(i) or NONE for i in range(len(given.points))]
    return _named("label", groups, "Label of the text or the word, as it was given.", limit=None)


def _distortions(given: Coloured) -> Colour:
    found = given.distortion()
    caption = (
        f"Share of the point's {found.k} nearest in the model that are not among its"
        f" {found.k} nearest on the map, 0 to 1; {found.looked_at:,} of {len(given.points):,}"
        " points were looked at."
    )
    return _numbers("distortion", found.value, caption)


def _predictions(given: Coloured) -> Colour:
    if given.options.state == "raw":
        raise OptionError(
            "the head reads states past the final norm; choose state normed to colour by"
            " prediction."
        )
    return _said(
        "prediction",
        given,
        given.space.frame("head"),
        "The next token by the model's own head, read at this layer (logit lens).",
        head=True,
    )


def _nearest(given: Coloured) -> Colour:
    caption = f"The basis of the frame {given.options.frame_words!r} nearest by cosine."
    return _said("nearest", given, given.space.frame(given.options.frame_key), caption)


def _named(by: str, given: Sequence[str], caption: str, *, limit: int | None) -> Colour:
    counts = Counter(given)
    order = sorted(counts, key=lambda name: (name == NONE, -counts[name], name))
    if limit is not None and len(order) > limit + (NONE in counts) + 1:
        kept = [name for name in order if name != NONE][:limit]
        order = [*kept, "other"] + ([NONE] if NONE in counts else [])
        caption += f" The {limit} most frequent have a colour of their own."
    place = {name: i for i, name in enumerate(order)}
    codes = np.array([place.get(name, place.get("other", 0)) for name in given], dtype=np.int32)
    return Colour(by, None, codes, tuple(order), caption)


def _said(by: str, given: Coloured, frame: Frame, caption: str, *, head: bool = False) -> Colour:
    """The token that each state says: by the model's head, or its nearest basis."""
    states = np.flatnonzero(given.points.kind != BASIS)
    words = [NONE] * len(given.points)
    x = torch.from_numpy(given.vectors()[states])
    if len(states):
        moved = given.space.frame(given.options.frame_key).shift
        if head and moved is not None:
            x = (x.double() - moved.cpu()).float()  # back from the frame's origin to the model's
        geometry = "matmul" if head else "cosine"
        found = first_bases(frame, x, geometry, 1, given.check, head=head)
        for i, id in zip(states.tolist(), found.ids[:, 0].tolist(), strict=True):
            words[i] = given.space.vocabulary.labels[id]
    return _named(by, words, caption, limit=_NAMED)


COLOURS: Final[Mapping[str, Colouring]] = {
    one.name: one
    for one in (
        Colouring(name="kind", title="kind of point", place=7, paint=_kinds),
        Colouring(name="class", title="kind of token", place=1, paint=_classes),
        Colouring(name="norm", title="length", place=2, paint=_norms),
        Colouring(name="leverage", title="leverage", place=3, paint=_leverages),
        Colouring(name="token id", title="token id", place=8, paint=_token_ids),
        Colouring(name="position", paint=_positions),
        Colouring(name="label", title="label", place=5, paint=_labels),
        Colouring(name="prediction", title="nearest basis", place=4, paint=_predictions),
        Colouring(name="nearest", paint=_nearest),
        Colouring(
            name="distortion", title="distortion of this picture", place=6, paint=_distortions
        ),
    )
}
"""By name; a new one is a function above and its place here."""


def colour_of(by: str) -> Colouring:
    """A colouring by its name.

    Raises:
        OptionError: another name; word frequency is not among them, as no corpus comes along.
    """
    if by == "frequency":
        raise OptionError(
            "how often tokens occur is not known: no corpus comes with the model; colour by token"
            " id instead, which in many tokenizers grows as tokens get rarer."
        )
    if by not in COLOURS:
        raise OptionError(f"colour must be one of {', '.join(COLOURS)}; got {shorten(str(by))!r}.")
    return COLOURS[by]
