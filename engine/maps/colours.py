"""What a point is coloured by: a number or a class for each, and what it means.

Where a figure does not apply to a point (the leverage of a text) it is NaN, or the class ``—``.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from engine.errors import OptionError, shorten
from engine.json_number import plain
from engine.maps.arrays import Floats, Ints, Longs
from engine.maps.options import MapOptions
from engine.maps.points import BASIS, KINDS, PROMPT, MapPoints, Space
from engine.maps.quality import Distortion
from engine.model.vocabulary import Vocabulary
from engine.progress import Check
from engine.reading.read import read

COLOURS: Final = (
    "kind",
    "class",
    "norm",
    "leverage",
    "token id",
    "position",
    "label",
    "prediction",
    "nearest",
    "distortion",
)
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
class Colour:
    """A number or a class per point."""

    by: str
    values: Floats | None
    """A number per point, NaN where it does not apply (n); None where there are classes."""
    codes: Ints | None
    """Index into `names` (n); None where there are numbers."""
    names: tuple[str, ...]
    caption: str
    """What it means, with its unit."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        out: dict[str, Any] = plain(self)
        return out


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


def colour_points(
    by: str,
    points: MapPoints,
    *,
    space: Space,
    options: MapOptions,
    vectors: Callable[[], Floats],
    distortion: Callable[[], Distortion],
    check: Check,
) -> Colour:
    """The colour of every point of a map.

    Args:
        by: one of :data:`COLOURS`.
        points: of the map.
        space: for what is known of its tokens.
        options: of the map.
        vectors: gives the points' vectors before preprocessing (n × d).
        distortion: gives how wrong the map is about each.
        check: raises to stop.

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
    if by == "kind":
        return Colour(by, None, points.kind.astype(np.int32), KINDS, "What the point is.")
    if by == "class":
        return _classes(points, space.vocabulary)
    if by == "norm":
        norms = np.linalg.norm(vectors().astype(np.float64), axis=1).astype(np.float32)
        return Colour(by, norms, None, (), "Length of the vector before preprocessing.")
    if by == "leverage":
        return _of_token(
            by,
            points,
            space.decomposition.leverage.numpy(),
            "Leverage of the token in the head, in [0, 1]: how much of its own logit its basis"
            " keeps.",
        )
    if by == "token id":
        ids = points.ids()
        values = np.where(ids >= 0, ids, np.nan).astype(np.float32)
        caption = (
            "Row of the vocabulary. How often tokens occur is not known here; in many tokenizers"
            " ids grow as tokens get rarer."
        )
        return Colour(by, values, None, (), caption)
    if by == "position":
        inside = points.kind == PROMPT
        values = np.where(inside, points.row, np.nan).astype(np.float32)
        return Colour(by, values, None, (), "Position in the prompt, from 0.")
    if by == "label":
        groups = [points.group(i) or NONE for i in range(len(points))]
        return _named(by, groups, "Label of the text or the word, as it was given.", limit=None)
    if by == "distortion":
        found = distortion()
        caption = (
            f"Share of the point's {found.k} nearest in the model that are not among its"
            f" {found.k} nearest on the map, 0 to 1; {found.looked_at:,} of {len(points):,} points"
            " were looked at."
        )
        return Colour(by, found.value, None, (), caption)
    return _read(by, points, space, options, vectors(), check)


def _classes(points: MapPoints, vocabulary: Vocabulary) -> Colour:
    names = (*CLASSES, "text")
    place = {name: i for i, name in enumerate(names)}
    codes = np.full(len(points), place["text"], dtype=np.int32)
    ids = points.ids()
    for id in np.unique(ids[ids >= 0]):
        codes[ids == id] = place[token_class(vocabulary, int(id))] if len(ids) < 2000 else 0
    if len(ids) >= 2000:
        table = np.array([place[token_class(vocabulary, i)] for i in range(vocabulary.size)])
        codes = np.where(ids >= 0, table[np.maximum(ids, 0)], place["text"]).astype(np.int32)
    return Colour("class", None, codes, names, "What kind of token it is, by its text.")


def _of_token(by: str, points: MapPoints, table: Any, caption: str) -> Colour:
    ids: Longs = points.ids()
    values = np.where(ids >= 0, table[np.maximum(ids, 0)], np.nan).astype(np.float32)
    return Colour(by, values, None, (), caption)


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


def _read(
    by: str,
    points: MapPoints,
    space: Space,
    options: MapOptions,
    vectors: Floats,
    check: Check,
) -> Colour:
    """The token that each state says: by the model's head, or its nearest basis."""
    states = np.flatnonzero(points.kind != BASIS)
    given = [NONE] * len(points)
    head = by == "prediction"
    frame = space.frame("head" if head else options.frame)
    x = torch.from_numpy(vectors[states])
    if head and options.state == "raw":
        raise OptionError(
            "the head reads states past the final norm; choose state normed to colour by"
            " prediction."
        )
    if len(states):
        moved = space.frame(options.frame).shift
        if head and moved is not None:
            x = (x.double() - moved.cpu()).float()  # back from the frame's origin to the model's
        geometry = "matmul" if head else "cosine"
        with torch.no_grad():
            found = read(
                frame,
                x.to(frame.device),
                geometries=(geometry,),
                k=1,
                vectors=not head,
                check=check,
            )[geometry]
        for i, id in zip(states.tolist(), found.ids[:, 0].tolist(), strict=True):
            given[i] = space.vocabulary.labels[id]
    caption = (
        "The next token by the model's own head, read at this layer (logit lens)."
        if head
        else f"The basis of the frame {options.frame!r} nearest by cosine."
    )
    return _named(by, given, caption, limit=_NAMED)
