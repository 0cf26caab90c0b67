"""What is on a map with every choice made, and the vectors of its points.

A :class:`Scene` is the choices; :class:`Scenes` makes them for one space and keeps what the
next layer of the same map needs again: states that were read, vectors, calibrations. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from cachetools import LRUCache

from engine.errors import BudgetExceeded, LayerError, OptionError
from engine.maps.arrays import Floats, Longs
from engine.maps.calibrated import Calibrator
from engine.maps.clouds import Cloud, UnitBases, Written
from engine.maps.frames import Landscape, basis_blocks, basis_vectors
from engine.maps.options import MapOptions
from engine.maps.points import (
    BASIS,
    MapPoints,
    Space,
    StateStore,
    all_placed,
    gather_points,
    has_place,
    prompts_of,
    state_vectors,
)
from engine.maps.preprocessing import PREPROCESSINGS, Treatment, treat_states
from engine.maps.projections import SHARED
from engine.maps.quality import EXACT
from engine.maps.selection import select_tokens, word_groups
from engine.model.vocabulary import Token
from engine.progress import Check, Progress, Steps

KEPT: Final = 48
"""Maps, windows and the like that are kept."""
CALIBRATORS: Final = 2
"""Calibrations at hand; a tuned model among them is as large as the model."""


@dataclass(frozen=True)
class Scene:
    """What is on a map, with every choice made."""

    options: MapOptions
    """With the layer counted from 0."""
    points: MapPoints
    ids: Longs
    """Selected tokens (m)."""

    @property
    def layer(self) -> int:
        """From 0."""
        return self.options.layer

    @property
    def states(self) -> int:
        """Points that are states."""
        return int((self.points.kind != BASIS).sum())


class Scenes:
    """Makes the scenes of one space and gives the vectors of their points.

    Args:
        state_bytes: limit of the kept states of tokens alone and of text sets.
        vector_bytes: limit of the vectors of one map, and of those kept.
    """

    def __init__(self, space: Space, *, state_bytes: int, vector_bytes: int) -> None:
        self.space = space
        self.landscape = Landscape(space)
        self.store = StateStore(space.model, state_bytes)
        """The model's own states of tokens alone and of text sets."""
        self._state_bytes = state_bytes
        self._calibrators: LRUCache[str, tuple[Calibrator, StateStore]] = LRUCache(CALIBRATORS)
        self._vector_bytes = vector_bytes
        self._vectors: LRUCache[tuple[Any, ...], Floats] = LRUCache(
            vector_bytes, getsizeof=lambda vectors: vectors.nbytes
        )

    def resolve(self, options: MapOptions) -> MapOptions:
        """The options with the layer counted from 0 and no more axes than dimensions.

        Raises:
            LayerError: a layer that this model does not have.
        """
        count = self.space.model.blocks + 1
        if not -count <= options.layer < count:
            raise LayerError(
                f"layer must be in [0, {count - 1}] for this {count - 1}-layer model; got"
                f" {options.layer}."
            )
        axes = min(options.principal, self.space.model.width)
        return replace(options, layer=options.layer % count, principal=max(2, axes))

    def forget(self) -> None:
        """Let go of vectors; states that were read stay."""
        self._vectors.clear()

    def use(self, calibrator: Calibrator) -> None:
        """Have a calibration at hand for the maps that name it; the oldest is let go."""
        store = self.store
        if calibrator.model is not None:
            store = StateStore(calibrator.model, self._state_bytes // 4)
        self._calibrators[calibrator.fingerprint] = calibrator, store

    def knows(self, fingerprint: str) -> bool:
        """Whether the calibration of this fingerprint is at hand."""
        return fingerprint in self._calibrators

    def calibrator(self, options: MapOptions) -> Calibrator | None:
        """The calibration that these options name.

        Raises:
            OptionError: it is not at hand.
        """
        if options.calibration is None:
            return None
        if not self.knows(options.calibration.fingerprint):
            raise OptionError(
                f"the calibration {options.calibration.label!r} of this map is not open; open it,"
                " or draw the map without a calibration."
            )
        return self._calibrators[options.calibration.fingerprint][0]

    def is_calibrated(self, scene: Scene) -> bool:
        """Whether the states of this map are others than the model's own."""
        if scene.options.calibration is None or scene.options.side == "before":
            return False
        calibrator = self.calibrator(scene.options)
        return calibrator is not None and calibrator.covers(scene.layer)

    def scene(self, options: MapOptions, check: Check) -> Scene:
        """Every choice of these options made: which tokens, which points.

        Args:
            options: with the layer counted from 0.
        """
        tokens: tuple[Token, ...] = ()
        last = None
        if options.prompt is not None:
            given = self.space.tokenize(options.prompt, bos=options.bos, chat=options.chat)
            tokens = given.items
        if options.vocabulary != "none" and options.select.startswith("near:"):
            # Of the model's own state: the same tokens before and after a calibration.
            prompt_only = replace(
                options, vocabulary="none", texts=None, calibration=None, projection=SHARED.name
            )
            points = gather_points(self.space, prompt_only, np.empty(0, np.int64), tokens)
            states = state_vectors(
                self.space, prompt_only, points, options.layer, self.store, check
            )
            all_placed(states[-1:], options.layer, "choosing the tokens that are near the prompt")
            last = torch.from_numpy(states[-1])
        ids = select_tokens(self.space, options, tokens, last, check)
        points = gather_points(self.space, options, ids, tokens)
        head, _, rest = options.select.partition(":")
        if head == "words" and options.vocabulary != "none":
            points = replace(points, token_labels=word_groups(self.space, rest))
        return Scene(options, points, ids)

    def read(self, scene: Scene) -> Steps[None]:
        """Take the states that a map needs through the model, one step a batch."""
        stores = [self.store]
        if self.is_calibrated(scene):
            assert scene.options.calibration is not None
            stores.append(self._calibrators[scene.options.calibration.fingerprint][1])
        for name, prompts in prompts_of(self.space, scene.options, scene.points).values():
            for store in stores:
                yield from store.read(name, prompts, scene.options.layer)

    def fingerprint(self, scene: Scene) -> str:
        """Of the map of this scene."""
        return self.fingerprint_of(scene.options)

    def fingerprint_of(self, options: MapOptions) -> str:
        """Of the map of these options, with the layer counted from 0."""
        lens = self.space.lens(options.lens)
        return options.fingerprint(self.space.model.fingerprint, lens.digest if lens else "")

    def states(self, scene: Scene, check: Check) -> Floats:
        """Vectors of the points that are states, as they are in the model."""
        if not scene.states:
            return np.empty((0, self.space.model.width), dtype=np.float32)
        o = scene.options
        alone = scene.ids.tobytes() if o.vocabulary == "alone" else b""
        key: tuple[Any, ...] = (
            "states", o.layer, o.state, o.frame_key, o.lens, o.prompt, o.bos, o.chat, o.texts, alone
        )  # fmt: skip
        calibrator, store = None, self.store
        if self.is_calibrated(scene):
            assert o.calibration is not None
            calibrator, store = self._calibrators[o.calibration.fingerprint]
            key = (*key, calibrator.fingerprint)
        return self._held(
            key,
            lambda: state_vectors(self.space, o, scene.points, o.layer, store, check, calibrator),
        )

    def seen(self, scene: Scene, check: Check) -> tuple[Floats, Floats]:
        """States after preprocessing as they are shown, and as everything is fitted on them.

        The second are those before a calibration; their preprocessing is that of both.
        """
        own = self.states(_before(scene), check)
        treatment = treat_states(own[has_place(own)], scene.options.preprocessing)
        fitted = treatment.apply(own)
        if not self.is_calibrated(scene):
            return fitted, fitted
        return treatment.apply(self.states(scene, check)), fitted

    def parts(self, scene: Scene, check: Check) -> list[Floats]:
        """Vectors of the bases and of the states, as they are in the model; what is not empty."""
        states = self.states(scene, check)
        if scene.states == len(scene.points):
            return [states]
        _check_budget(len(scene.points), self.space.model.width, self._vector_bytes)
        frame = self.space.frame(scene.options.frame_key)
        key = ("bases", scene.options.frame_key, scene.ids.tobytes())
        bases = self._held(key, lambda: basis_vectors(frame, scene.ids, check))
        return [bases, states] if len(states) else [bases]

    def raw(self, scene: Scene, check: Check) -> Floats:
        """Vectors of all points, as they are in the model (n × d)."""
        parts = self.parts(scene, check)
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def treated(self, scene: Scene, check: Check) -> Floats:
        """Vectors of all points after preprocessing (n × d)."""
        count = len(scene.points) - scene.states
        if not count:
            return self.seen(scene, check)[0]
        out, treatment = self._room(scene, check)
        treatment.apply(self.parts(scene, check)[0], out[:count])
        if scene.states:
            out[count:] = self.seen(scene, check)[0]
        return out

    def treating(self, scene: Scene, check: Check) -> Steps[Floats]:
        """The same, a block of bases at a time; their bare vectors are not kept."""
        if not len(scene.ids) or scene.states == len(scene.points):
            return self.treated(scene, check)
        out, treatment = self._room(scene, check)
        frame, done = self.space.frame(scene.options.frame_key), 0
        for block in basis_blocks(frame, scene.ids, check):
            treatment.apply(block, out[done : done + len(block)])
            done += len(block)
            yield Progress(done, len(scene.ids), "taking the points")
        if scene.states:
            out[done:] = self.seen(scene, check)[0]
        return out

    def _room(self, scene: Scene, check: Check) -> tuple[Floats, Treatment]:
        """Room for the vectors of a scene (n × d), and what is done to its bases."""
        n, d = len(scene.points), self.space.model.width
        _check_budget(n, d, self._vector_bytes)
        o = scene.options
        treatment = self.landscape.treatment(o.frame_key, o.preprocessing, check)
        return np.empty((n, d), dtype=np.float32), treatment

    def cloud(self, scene: Scene, check: Check) -> Cloud:
        """The points that have a place, after preprocessing, as their distances need them: many
        bases of length 1 are not written out."""
        o = scene.options
        frame = self.space.frame(o.frame_key)
        plain = PREPROCESSINGS[o.preprocessing].unit and frame.rows is not None
        if not plain or len(scene.ids) <= EXACT or scene.states == len(scene.points):
            vectors = self.treated(scene, check)
            placed = has_place(vectors)
            return Written(vectors if placed.all() else vectors[placed])
        states = self.seen(scene, check)[0]
        return UnitBases(self.landscape, frame, o, scene.ids, states[has_place(states)])

    def _held(self, key: tuple[Any, ...], make: Callable[[], Floats]) -> Floats:
        found = self._vectors.get(key)
        if found is None:
            found = make()
            with suppress(ValueError):  # larger than all that may be kept
                self._vectors[key] = found
        return found


def _before(scene: Scene) -> Scene:
    """The same without its calibration."""
    if scene.options.calibration is None:
        return scene
    return replace(scene, options=replace(scene.options, calibration=None))


def _check_budget(n: int, d: int, limit_bytes: int) -> None:
    """Refuse vectors that would not fit before they are made."""
    need = 4 * n * d
    if need > limit_bytes:
        raise BudgetExceeded(
            f"the vectors of {n:,} points need {need / 2**20:,.0f} MiB and the budget is"
            f" {limit_bytes / 2**20:,.0f} MiB; select fewer tokens."
        )
