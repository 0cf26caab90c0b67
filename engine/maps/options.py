"""What is on a map, and how it is drawn: every setting of it, checked, in one frozen value.

Knows nothing about models: a layer, token or selection is checked against one where the map is
made.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from engine.errors import OptionError, shorten
from engine.frames.kinds import FRAMES, dial_words, key_of
from engine.json_number import plain
from engine.lenses import LENSES
from engine.maps.preprocessing import PREPROCESSINGS
from engine.maps.projections import PROJECTIONS
from engine.model.prompts import BOS
from engine.trace.options import STATES

VOCABULARIES: Final = ("bases", "alone", "none")
SIDES: Final = ("before", "after")
SELECTIONS: Final = ("all", "ids", "words", "search", "regex", "prompt", "near")
"""Each but ``all`` and ``prompt`` is followed by a colon and what it needs."""
MAX_SELECT: Final = 4000
"""Characters of a selection."""
MAX_TEXTS: Final = 20_000
_LATER: Final = ("alpha", "ridge", "lens")
FORMAT: Final = "1"
"""Of maps: part of every fingerprint, raised when the same settings would draw another picture."""


class MapNotReady(OptionError):
    """The map takes long and is not kept yet: run its job first."""


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """Texts whose last-position states are points of a map.

    Raises:
        OptionError: no texts, too many, or labels that are not one per text.
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    """One per text, or none at all."""
    prompts: tuple[str, ...] = ()
    """What the model reads in place of each text, such as the text in a prompt template whose last
    position is where the label would be said; one per text, or none at all."""
    template: str = ""
    """How the prompts were made, for the words about the map."""

    def __post_init__(self) -> None:
        if not self.texts:
            raise OptionError(f"the text set {shorten(self.name)!r} is empty; give some texts.")
        if len(self.texts) > MAX_TEXTS:
            raise OptionError(
                f"a map takes at most {MAX_TEXTS:,} texts; {shorten(self.name)!r} has"
                f" {len(self.texts):,}."
            )
        for what, given in (("labels", self.labels), ("prompts", self.prompts)):
            if given and len(given) != len(self.texts):
                raise OptionError(
                    f"{what} must be one per text or none; {shorten(self.name)!r} has"
                    f" {len(self.texts):,} texts and {len(given):,} {what}."
                )

    @property
    def read(self) -> tuple[str, ...]:
        """What the model reads: the prompts, or else the texts."""
        return self.prompts or self.texts


@dataclass(frozen=True, kw_only=True)
class CalibrationName:
    """A saved calibration that a map is drawn with; the calibration itself is handed to the maker
    (:class:`engine.maps.calibrated.Calibrator`)."""

    fingerprint: str
    """Of its weights and settings: part of the map's own."""
    name: str = ""
    """What people call it."""
    id: str = ""
    """Where it is found; says nothing about what it does."""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            raise OptionError("a calibration on a map is known by its fingerprint; give it.")

    @property
    def label(self) -> str:
        """Short, for a title."""
        return shorten(self.name or self.id or self.fingerprint[:12], 40)


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """What is on a map, and how it is drawn.

    Raises:
        OptionError: a value outside its range; the message names it and what is allowed.
    """

    vocabulary: str = "bases"
    """``bases``: the vectors of `frame`, the same at every layer; ``alone``: each token's own state
    at the layer where it is the whole prompt (after the begin-of-text token where the tokenizer
    puts one); ``none``."""
    frame: str = "output"
    """One of :data:`engine.frames.kinds.FRAMES`: which vectors the bases are."""
    alpha: float | None = None
    """Where the dial stands, −½ to 1, for the frame ``dial``; None is its default."""
    ridge: float | None = None
    """λ beside it, 0 to 100 mean eigenvalues; None is none, and α is 1 where λ stands alone."""
    select: str = "all"
    """Which tokens of the vocabulary: ``all``, ``ids:1,2``, ``words:cat,dog`` (each as it stands in
    running text, after a space, where that is a token; in groups that points are coloured by:
    ``words:animals=cat,dog;colours=red,blue``), ``search:TEXT``,
    ``regex:EXPRESSION``, ``prompt`` (the prompt's own tokens), ``near:K`` (the K bases nearest by
    cosine to the prompt's last state at the layer)."""
    prompt: str | None = None
    """Its tokens' states are points."""
    bos: str = "auto"
    """Begin-of-text token: ``auto`` as the tokenizer does, ``yes``, ``no``."""
    chat: bool = False
    """Write the prompt as a user's turn by the model's chat template."""
    texts: TextSet | None = None
    """Their last-position states are points."""
    layer: int = -1
    """Of the states; 0 is the embedding, −1 the last."""
    state: str = "normed"
    """``normed``: past the final norm, as the head reads; ``raw``: as it leaves the block."""
    lens: str = "none"
    """One of :data:`engine.lenses.LENSES`: what brings the states of a middle layer to where the
    head reads."""
    preprocessing: str = "unit"
    """One of :data:`engine.maps.preprocessing.PREPROCESSINGS`: applied to every point before
    anything is fitted or placed."""
    projection: str = "shared"
    """One of :data:`engine.maps.projections.PROJECTIONS`; ``axes`` takes `axes` below."""
    dims: int = 2
    """2 or 3."""
    seed: int = 0
    """Of UMAP and of every sample."""
    neighbours: int = 15
    """UMAP's n_neighbors, 2 to 200."""
    min_dist: float = 0.1
    """UMAP's min_dist, 0 to 1."""
    principal: int = 4096
    """UMAP starts from so many principal axes, 2 to 4096; at most as many as there are dimensions,
    so that by default it starts from all. Fewer cost less and lose neighbourhoods: of SmolLM2's
    bases, of whose variance 50 axes hold 24 %, all keep 3.5 of 15 neighbours and 50 keep 0.5."""
    axes: tuple[tuple[str, str], ...] = ()
    """For the projection ``axes``: (plus token, minus token) per dimension."""
    calibration: CalibrationName | None = None
    """A calibration whose λ takes the place of the states of its layer. Frames, preprocessing and
    ``near:K`` are those of the states before it: nothing is fitted on what it made, but by UMAP."""
    side: str = "after"
    """With a calibration: ``after``, or ``before`` in the same window, to be laid beside it."""

    def __post_init__(self) -> None:
        _one_of("vocabulary", self.vocabulary, VOCABULARIES)
        _one_of("frame", self.frame, FRAMES)
        _number("alpha", self.alpha)
        _number("ridge", self.ridge)
        key_of(self.frame, self.alpha, self.ridge)
        _one_of("lens", self.lens, LENSES)
        _one_of("bos", self.bos, BOS)
        _one_of("state", self.state, STATES)
        _one_of("preprocessing", self.preprocessing, PREPROCESSINGS)
        _one_of("projection", self.projection, PROJECTIONS)
        _whole("dims", self.dims, 2, 3)
        _whole("layer", self.layer, -10_000, 10_000)
        _whole("seed", self.seed, 0, 2**31 - 2)
        _whole("neighbours", self.neighbours, 2, 200)
        _whole("principal", self.principal, 2, 4096)
        if (
            isinstance(self.min_dist, bool)
            or not isinstance(self.min_dist, int | float)
            or not (math.isfinite(self.min_dist) and 0 <= self.min_dist <= 1)
        ):
            raise OptionError(f"min_dist must be from 0 to 1; got {self.min_dist!r:.20}.")
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise OptionError(f"prompt must be text; got {self.prompt!r:.40}.")
        if not isinstance(self.texts, TextSet | None):
            raise OptionError("texts must be a text set with its texts and labels.")
        if not isinstance(self.calibration, CalibrationName | None):
            raise OptionError("calibration must be the name of one, with its fingerprint.")
        if not isinstance(self.chat, bool):
            raise OptionError(f"chat must be true or false; got {self.chat!r:.20}.")
        self._check_selection()
        self._check_axes()
        _one_of("side", self.side, SIDES)
        if self.calibration is None:
            object.__setattr__(self, "side", "after")
        elif self.state == "raw":
            raise OptionError(
                "a calibration reads states past the final norm; choose state normed, or no"
                " calibration."
            )
        if self.lens != "none" and (self.state == "raw" or self.calibration is not None):
            other = "raw states" if self.state == "raw" else "a calibration"
            raise OptionError(
                f"the lens {self.lens!r} takes the model's own states past the final norm, and"
                f" {other} would be something else; choose one of the two."
            )
        if self.vocabulary == "none" and self.prompt is None and self.texts is None:
            raise OptionError(
                "the map is empty: vocabulary is 'none' and there is neither a prompt nor a text"
                " set; choose vocabulary bases, type a prompt or choose texts."
            )

    @property
    def frame_key(self) -> str:
        """The frame with its dial."""
        return key_of(self.frame, self.alpha, self.ridge)

    @property
    def frame_words(self) -> str:
        """The same for people: ``dial (α 0.25)``."""
        place = dial_words(self.frame_key)
        return f"{self.frame} ({place})" if place else self.frame

    def _check_selection(self) -> None:
        if not isinstance(self.select, str) or len(self.select) > MAX_SELECT:
            raise OptionError(f"select must be text of at most {MAX_SELECT:,} characters.")
        head, colon, rest = self.select.partition(":")
        _one_of("select", head, SELECTIONS)
        bare = head in ("all", "prompt")
        if bare == bool(colon) or (not bare and not rest):
            form = head if bare else f"{head}:…"
            raise OptionError(
                f"select must have the form {form!r}; got {shorten(self.select)!r} (the forms are"
                " all, prompt, ids:1,2, words:cat,dog, search:TEXT, regex:EXPRESSION, near:K)."
            )
        if self.vocabulary != "none" and head in ("prompt", "near") and not self.prompt:
            raise OptionError(
                f"select {head!r} is about a prompt and there is none; type one or choose all."
            )
        if head == "near" and not (rest.isdecimal() and len(rest) < 8 and int(rest) > 0):
            raise OptionError(f"near:K takes a whole number from 1; got {shorten(self.select)!r}.")

    def _check_axes(self) -> None:
        try:
            pairs = tuple((str(a), str(b)) for a, b in self.axes)
        except (TypeError, ValueError):
            raise OptionError(
                "axes must be pairs of tokens, such as (('king', 'queen'), ('man', 'woman'))."
            ) from None
        object.__setattr__(self, "axes", pairs)
        PROJECTIONS[self.projection].check(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, for JSON; :meth:`from_dict` turns it back."""
        out: dict[str, Any] = plain(self)
        for name in _LATER:  # left out where they say nothing: a map keeps its fingerprint
            if out[name] == getattr(type(self), name):
                del out[name]
        if self.texts is not None and not self.texts.prompts:
            del out["texts"]["prompts"], out["texts"]["template"]
        return out

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> MapOptions:
        """Options from what :meth:`to_dict` gave.

        Raises:
            OptionError: a name that is no option, or a value outside its range.
        """
        known = {f.name for f in fields(cls)}
        unknown = [str(n) for n in given if n not in known]
        if unknown:
            raise OptionError(
                f"{shorten(unknown[0])!r} is no option of a map; they are"
                f" {', '.join(sorted(known))}."
            )
        values = dict(given)
        try:
            if isinstance(values.get("texts"), Mapping):
                texts = values["texts"]
                values["texts"] = TextSet(
                    name=str(texts["name"]),
                    texts=tuple(str(t) for t in texts["texts"]),
                    labels=tuple(str(t) for t in texts.get("labels") or ()),
                    prompts=tuple(str(t) for t in texts.get("prompts") or ()),
                    template=str(texts.get("template") or ""),
                )
            if isinstance(values.get("calibration"), Mapping):
                named = values["calibration"]
                values["calibration"] = CalibrationName(
                    fingerprint=str(named["fingerprint"]),
                    name=str(named.get("name") or ""),
                    id=str(named.get("id") or ""),
                )
            if "axes" in values:
                values["axes"] = tuple(tuple(pair) for pair in values["axes"] or ())
        except (KeyError, TypeError) as error:
            raise OptionError(
                f"texts, axes or calibration of this map cannot be read ({error})."
            ) from None
        return cls(**values)

    def fingerprint(self, model: str, lens: str = "") -> str:
        """A name for the picture: every setting, the model's weights and the versions (BLAKE2b).

        Args:
            model: fingerprint of the model.
            lens: digest of the lens; empty where there is none.
        """
        options = self.to_dict()
        if self.calibration is not None:  # whatever it is called and wherever it lies
            options["calibration"] = self.calibration.fingerprint
        plain = {"options": options, "model": model, "versions": versions(self)}
        if lens:
            plain["lens"] = lens
        text = json.dumps(plain, sort_keys=True, ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def versions(options: MapOptions) -> dict[str, str]:
    """What draws a map: the map format and the packages whose version may move a coordinate."""
    names = ("numpy", "scipy", "torch", *PROJECTIONS[options.projection].packages)
    return {"maps": FORMAT} | {name: _version(name) for name in names}


@cache
def _version(name: str) -> str:
    # Reading a package's description takes milliseconds, and every map asks.
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _one_of(what: str, value: object, allowed: Collection[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise OptionError(
            f"{what} must be one of {', '.join(allowed)}; got {shorten(str(value))!r}."
        )


def _number(what: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise OptionError(f"{what} must be a number; got {value!r:.20}.")


def _whole(what: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise OptionError(f"{what} must be a whole number from {low} to {high}; got {value!r:.20}.")
