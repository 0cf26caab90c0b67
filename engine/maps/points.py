"""The points of a map: which they are, and their vectors in the model's own space.

Bases come first, in the order of their ids, then each token's own state, then the prompt's tokens,
then the texts. A point is known by its kind and row at every layer, so that two maps can be laid
over each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import NonFiniteError, OptionError, PromptError, shorten
from engine.frames.decomposition import HeadDecomposition
from engine.frames.frame import Frame
from engine.lenses.kind import Lens
from engine.maps.arrays import Bools, Floats, Ints, Longs
from engine.maps.calibrated import Calibrator
from engine.maps.options import MapOptions, TextSet
from engine.model.language_model import LanguageModel, States
from engine.model.prompts import Tokens
from engine.model.texts import text_states
from engine.model.vocabulary import Token, Vocabulary, visible
from engine.progress import Check, Steps, no_check

KINDS: Final = ("basis", "alone", "prompt", "text")
"""What a point is; :attr:`MapPoints.kind` counts from 0 in this order."""
BASIS, ALONE, PROMPT, TEXT = range(4)
_LABEL: Final = 60
"""Characters of a text that stand in its label."""
_BLOCK: Final = 4096


class Space(Protocol):
    """What a map needs of a latent space."""

    model: LanguageModel
    seed: int
    decomposition: HeadDecomposition

    @property
    def vocabulary(self) -> Vocabulary:
        """Token texts."""

    def frame(self, name: str) -> Frame:
        """Bases by the name of their frame."""

    def tokenize(self, prompt: str, *, bos: str = "auto", chat: bool = False) -> Tokens:
        """Token ids and texts of a prompt."""

    def states(
        self, prompt: str, *, bos: str = "auto", chat: bool = False, check: Check = no_check
    ) -> States:
        """Hidden states of a prompt before the final norm."""

    def lens(self, name: str) -> Lens | None:
        """A lens that was fitted to the model; None is no lens."""

    def find_token(self, token: int | str) -> int:
        """A row of the vocabulary from its id or text."""


@dataclass(frozen=True)
class Point:
    """What one point of a map is; not where."""

    index: int
    """On the map, from 0."""
    kind: str
    """One of :data:`KINDS`."""
    row: int
    """Token id of a basis or a token alone, position in the prompt, or row of the text set."""
    id: int | None
    """Of its token; None of a text."""
    text: str
    """True text: of its token, or the whole text."""
    label: str
    """A visible form of it, short."""


@dataclass(frozen=True)
class Run:
    """Points of one kind that follow each other."""

    kind: str
    start: int
    """Index of the first."""
    count: int


@dataclass(frozen=True)
class MapPoints:
    """Which points a map has, in order; nothing about where they are."""

    kind: NDArray[np.uint8]
    """Index into :data:`KINDS` (n)."""
    row: Ints
    """Token id of a basis or a token alone, position in the prompt, or row of the text set (n)."""
    vocabulary: Vocabulary
    prompt: tuple[Token, ...] = ()
    """The prompt's tokens."""
    texts: tuple[str, ...] = ()
    text_labels: tuple[str, ...] = ()
    token_labels: Mapping[int, str] = field(default_factory=dict)
    """Group of a selected word by its token id, where the selection names groups."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def kinds(self) -> tuple[tuple[str, int], ...]:
        """How many of which kind, in order: ``(("basis", 8192), ("prompt", 7))``."""
        counts = np.bincount(self.kind, minlength=len(KINDS))
        return tuple((name, int(c)) for name, c in zip(KINDS, counts, strict=True) if c)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The points as stretches of one kind, in order."""
        edges = [0, *(np.flatnonzero(np.diff(self.kind)) + 1).tolist(), len(self)]
        return tuple(Run(KINDS[self.kind[a]], a, b - a) for a, b in pairwise(edges))

    def point(self, i: int) -> Point:
        """What the point at an index is."""
        kind, row = KINDS[self.kind[i]], int(self.row[i])
        return Point(int(i), kind, row, self.id(i), self.text(i), self.label(i))

    def id(self, i: int) -> int | None:
        """Token id of a point; None of a text."""
        kind, row = int(self.kind[i]), int(self.row[i])
        if kind == TEXT:
            return None
        return self.prompt[row].id if kind == PROMPT else row

    def ids(self) -> Longs:
        """Token ids of all points; −1 for texts (n)."""
        out: Longs = self.row.astype(np.int64)
        if self.prompt:
            tokens = np.array([t.id for t in self.prompt], dtype=np.int64)
            inside = self.kind == PROMPT
            out[inside] = tokens[self.row[inside]]
        out[self.kind == TEXT] = -1
        return out

    def text(self, i: int) -> str:
        """The true text of a point: of its token, or the whole text."""
        kind, row = int(self.kind[i]), int(self.row[i])
        if kind == TEXT:
            return self.texts[row]
        return self.prompt[row].text if kind == PROMPT else self.vocabulary.texts[row]

    def label(self, i: int) -> str:
        """A visible form of it, short; nothing in it is a control or bidirectional mark."""
        kind, row = int(self.kind[i]), int(self.row[i])
        if kind == TEXT:
            text = self.texts[row]
            return visible(text[:_LABEL]) + ("…" if len(text) > _LABEL else "")
        return self.prompt[row].label if kind == PROMPT else self.vocabulary.labels[row]

    def group(self, i: int) -> str:
        """The label that a text set or a selection of words gives a point; empty where none."""
        kind, row = int(self.kind[i]), int(self.row[i])
        if kind in (BASIS, ALONE):
            return self.token_labels.get(row, "")
        return self.text_labels[row] if kind == TEXT and self.text_labels else ""

    def labels(self) -> list[str]:
        """All labels (n)."""
        return [self.label(i) for i in range(len(self))]


def gather_points(
    space: Space, options: MapOptions, ids: Longs, tokens: tuple[Token, ...]
) -> MapPoints:
    """The points of a map from its settings and its selected token ids.

    Raises:
        OptionError: no point is left.
    """
    kinds: list[tuple[int, Longs]] = []
    if options.vocabulary == "bases":
        kinds.append((BASIS, ids))
    elif options.vocabulary == "alone":
        kinds.append((ALONE, ids))
    kinds.append((PROMPT, np.arange(len(tokens))))
    texts = options.texts
    kinds.append((TEXT, np.arange(len(texts.texts) if texts else 0)))
    kind = np.concatenate([np.full(len(rows), k, dtype=np.uint8) for k, rows in kinds])
    row = np.concatenate([rows for _, rows in kinds]).astype(np.int32)
    if len(row) == 0:
        raise OptionError(
            "no token of the vocabulary fits this selection, so the map has no point; choose"
            " another selection or all."
        )
    return MapPoints(
        kind,
        row,
        space.vocabulary,
        tokens,
        texts.texts if texts else (),
        texts.labels if texts else (),
    )


class StateStore:
    """The states of tokens alone and of text sets, kept for the layer slider.

    Args:
        limit_bytes: of what is kept. Where all layers of a set fit into half of it they are read
            at once; else each layer for itself.
    """

    def __init__(self, model: LanguageModel, limit_bytes: int) -> None:
        self.model = model
        self.limit_bytes = limit_bytes
        self._kept: dict[tuple[Any, ...], Floats] = {}
        self.passes = 0
        """How often texts went through the model."""

    def all_layers(self, count: int) -> bool:
        """Whether the states of so many texts at every layer may be kept."""
        model = self.model
        need = 4 * count * (model.blocks + 1) * model.anatomy.residual_width
        budget = model.limits.memory_budget_mib * 2**20
        return need <= min(self.limit_bytes // 2, budget)

    def raw(self, key: str, prompts: Sequence[Sequence[int]], layer: int, check: Check) -> Floats:
        """Last-position states of some prompts before the final norm: n × residual width.

        Args:
            key: a name for these prompts, the same only where they are the same.
            prompts: token ids.
            layer: from 0.
        """
        check()
        for _ in self.read(key, prompts, layer):
            check()
        return self._kept[key, layer]

    def read(self, key: str, prompts: Sequence[Sequence[int]], layer: int) -> Steps[None]:
        """The same work as `raw`, one step a batch; what is kept already takes none."""
        if (key, layer) in self._kept:
            return
        every = self.all_layers(len(prompts))
        layers = None if every else [layer]
        states = yield from text_states(self.model, prompts, layers=layers)
        self.passes += 1
        self._make_room(states.raw.numel() * 4)
        for place, number in enumerate(states.layers):
            self._kept[key, number] = states.raw[:, place].cpu().numpy()

    def _make_room(self, size: int) -> None:
        held = sum(a.nbytes for a in self._kept.values())
        for name in list(self._kept):  # oldest first
            if held + size <= self.limit_bytes:
                return
            held -= self._kept.pop(name).nbytes


def alone_prompts(space: Space, ids: Longs, bos: str) -> list[list[int]]:
    """Each token as a whole prompt, after the begin-of-text token where one is used.

    `bos` ``auto`` asks the tokenizer whether it puts that token in front by itself.
    """
    begin = space.model.tokenizer.bos_token_id
    if bos == "no" or begin is None:
        if bos == "yes":
            space.tokenize("a", bos=bos)  # raises: this model has no such token
        return [[int(i)] for i in ids]
    if bos == "auto":
        first = space.tokenize("a", bos="auto")
        if not first.added_bos:
            return [[int(i)] for i in ids]
    return [[int(begin), int(i)] for i in ids]


def prompts_of(
    space: Space, options: MapOptions, points: MapPoints
) -> dict[str, tuple[str, Sequence[Sequence[int]]]]:
    """The prompts whose last states are points of a map: for tokens ``alone``, for ``texts``.

    Returns:
        Of each that the map has, a name for these prompts and their token ids.
    """
    found: dict[str, tuple[str, Sequence[Sequence[int]]]] = {}
    alone = points.row[points.kind == ALONE].astype(np.int64)
    if len(alone):
        name = f"alone {options.bos} {_digest(alone.tobytes())}"
        found["alone"] = name, alone_prompts(space, alone, options.bos)
    if options.texts is not None:
        ids = _text_ids(space, options, options.texts)
        found["texts"] = f"texts {_digest(repr(ids).encode())}", ids
    return found


def state_vectors(
    space: Space,
    options: MapOptions,
    points: MapPoints,
    layer: int,
    store: StateStore,
    check: Check,
    calibrator: Calibrator | None = None,
) -> Floats:
    """Vectors of the points that are states, in their order (m × d), moved to the frame's origin.

    A state that holds NaN or infinity anywhere is NaN as a whole: it has no place on a map.

    Args:
        options: which, and how they are read.
        layer: from 0.
        store: of the model whose states are taken: the calibrator's own where it has one.
        calibrator: what is done to the states past the final norm.

    Raises:
        OptionError: raw states of another width than the bases.
        PromptError: a text of the set is longer than the model reads; the message names it.
    """
    model = store.model
    parts: list[torch.Tensor] = []
    sets = prompts_of(space, options, points)
    if "alone" in sets:
        parts.append(torch.from_numpy(store.raw(*sets["alone"], layer, check)))
    if points.prompt:
        assert options.prompt is not None
        if model is space.model:
            states = space.states(options.prompt, bos=options.bos, chat=options.chat, check=check)
        else:
            states = model.states([token.id for token in points.prompt], check=check)
        parts.append(states.raw[layer].cpu())
    if "texts" in sets:
        parts.append(torch.from_numpy(store.raw(*sets["texts"], layer, check)))
    if not parts:
        return np.empty((0, model.width), dtype=np.float32)
    check()
    raw = torch.cat(parts)
    home = model.anatomy.weight.device
    if options.state == "normed":
        taken = [model.read_out(raw[s : s + _BLOCK].to(home)) for s in range(0, len(raw), _BLOCK)]
        lens = space.lens(options.lens)
        if lens is not None:
            taken = [lens.through(layer, one) for one in taken]
        if calibrator is not None:
            taken = [calibrator.apply(one).to(home) for one in taken]
        vectors = torch.cat(taken)
    elif raw.shape[1] != model.width:
        raise OptionError(
            f"raw states of this model have {raw.shape[1]} dimensions and its bases"
            f" {model.width}; choose state normed."
        )
    else:
        vectors = raw.to(home)
    placed = space.frame(options.frame_key).place(vectors).float().cpu().numpy()
    out: Floats = np.array(placed, dtype=np.float32, order="C")
    out[~has_place(out)] = np.nan
    return out


def has_place(vectors: Floats) -> Bools:
    """Which vectors are finite, so that they have a place on a map (n)."""
    out: Bools = np.asarray(np.isfinite(vectors).all(axis=1))
    return out


def all_placed(vectors: Floats, layer: int, what: str) -> None:
    """Refuse work that needs every point where some are NaN.

    Args:
        vectors: of the points (n × d).
        layer: of the states.
        what: the work, as the subject of the sentence.

    Raises:
        NonFiniteError: some are not finite.
    """
    missing = int((~has_place(vectors)).sum())
    if missing:
        raise NonFiniteError(
            f"{what} needs every point, and {missing:,} of {len(vectors):,} hold NaN or infinity at"
            f" layer {layer}; choose a lower layer or other text."
        )


def _text_ids(space: Space, options: MapOptions, texts: TextSet) -> list[tuple[int, ...]]:
    out = []
    for number, text in enumerate(texts.read, start=1):
        try:
            out.append(space.tokenize(text, bos=options.bos, chat=options.chat).ids)
        except PromptError as error:
            shown = visible(texts.texts[number - 1][:_LABEL])
            raise PromptError(
                f"text {number:,} of {len(texts.texts):,} in {shorten(texts.name)!r}"
                f" (“{shown}…”) cannot be read: {error}"
            ) from None
    return out


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
