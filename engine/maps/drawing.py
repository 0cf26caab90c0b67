"""Draws maps: from options to points, vectors, axes, window and words.

A :class:`Scene` is what is on a map with every choice made; a :class:`Drawer` keeps what the next
layer needs again: states that were read, vectors of bases, frames, places of bases, windows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import LayerError, NonFiniteError, OptionError
from engine.frames import Check, no_check
from engine.maps.border import Border, Window, draw_border, join, window
from engine.maps.calibrated import Calibrator
from engine.maps.compute import Map, make_axis_names, make_blind_to, make_title
from engine.maps.frames import Landscape
from engine.maps.options import SIDES, MapNotReady, MapOptions, versions
from engine.maps.points import (
    ALONE,
    BASIS,
    Floats,
    Longs,
    MapPoints,
    Space,
    StateStore,
    all_placed,
    basis_vectors,
    check_budget,
    gather_points,
    has_place,
    prompts_of,
    state_vectors,
)
from engine.maps.projection import Axes, variance_of_moments, variance_shown
from engine.maps.reduction import UmapCache
from engine.maps.selection import how_selected, select_tokens, word_groups
from engine.progress import Steps
from engine.trace import model_info
from engine.vocabulary import Token, visible

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


class Drawer:
    """Draws the maps of one space.

    Args:
        space: the model with its frames.
        umap_cache: where finished UMAP layouts are looked for.
        state_bytes: limit of the kept states of tokens alone and of text sets.
        vector_bytes: limit of the vectors of one map, and of those kept.
    """

    def __init__(
        self, space: Space, umap_cache: UmapCache, *, state_bytes: int, vector_bytes: int
    ) -> None:
        self.space = space
        self.umap_cache = umap_cache
        self.landscape = Landscape(space)
        self._store = StateStore(space.model, state_bytes)
        self._state_bytes = state_bytes
        self._calibrators: OrderedDict[str, tuple[Calibrator, StateStore]] = OrderedDict()
        self._vector_bytes = vector_bytes
        self._windows: OrderedDict[tuple[Any, ...], Window] = OrderedDict()
        self._vectors: OrderedDict[tuple[Any, ...], Floats] = OrderedDict()
        self._placed: OrderedDict[tuple[Any, ...], Floats] = OrderedDict()

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

    def use(self, calibrator: Calibrator) -> None:
        """Have a calibration at hand for the maps that name it; the oldest is let go."""
        store = self._store
        if calibrator.model is not None:
            store = StateStore(calibrator.model, self._state_bytes // 4)
        keep(self._calibrators, calibrator.fingerprint, (calibrator, store), CALIBRATORS)

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
            check: raises to stop.
        """
        tokens: tuple[Token, ...] = ()
        last = None
        if options.prompt is not None:
            given = self.space.tokenize(options.prompt, bos=options.bos, chat=options.chat)
            tokens = given.items
        if options.vocabulary != "none" and options.select.startswith("near:"):
            # Of the model's own state: the same tokens before and after a calibration.
            prompt_only = replace(
                options, vocabulary="none", texts=None, calibration=None, projection="shared"
            )
            points = gather_points(self.space, prompt_only, np.empty(0, np.int64), tokens)
            states = state_vectors(
                self.space, prompt_only, points, options.layer, self._store, check
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
        stores = [self._store]
        if self.is_calibrated(scene):
            assert scene.options.calibration is not None
            stores.append(self._calibrators[scene.options.calibration.fingerprint][1])
        for name, prompts in prompts_of(self.space, scene.options, scene.points).values():
            for store in stores:
                yield from store.read(name, prompts, scene.options.layer)

    def fingerprint(self, scene: Scene) -> str:
        """Of the map of this scene."""
        return scene.options.fingerprint(self.space.model.fingerprint)

    def states(self, scene: Scene, check: Check) -> Floats:
        """Vectors of the points that are states, as they are in the model."""
        if not scene.states:
            return np.empty((0, self.space.model.width), dtype=np.float32)
        o = scene.options
        alone = scene.ids.tobytes() if o.vocabulary == "alone" else b""
        key: tuple[Any, ...] = (
            "states", o.layer, o.state, o.frame, o.prompt, o.bos, o.chat, o.texts, alone
        )  # fmt: skip
        if not self.is_calibrated(scene):
            return self._held(
                key,
                lambda: state_vectors(self.space, o, scene.points, o.layer, self._store, check),
            )
        assert o.calibration is not None
        calibrator, store = self._calibrators[o.calibration.fingerprint]
        return self._held(
            (*key, calibrator.fingerprint),
            lambda: state_vectors(self.space, o, scene.points, o.layer, store, check, calibrator),
        )

    def _seen(self, scene: Scene, check: Check) -> tuple[Floats, Floats]:
        """States after preprocessing as they are shown, and as everything is fitted on them.

        The second are those before a calibration; their preprocessing is that of both.
        """
        own = self.states(_before(scene), check)
        treatment = self.landscape.states(own[has_place(own)], scene.options.preprocessing)
        fitted = treatment.apply(own)
        if not self.is_calibrated(scene):
            return fitted, fitted
        return treatment.apply(self.states(scene, check)), fitted

    def parts(self, scene: Scene, check: Check) -> list[Floats]:
        """Vectors of the bases and of the states, as they are in the model; what is not empty."""
        states = self.states(scene, check)
        if scene.states == len(scene.points):
            return [states]
        check_budget(len(scene.points), self.space.model.width, self._vector_bytes)
        frame = self.space.frame(scene.options.frame)
        key = ("bases", scene.options.frame, scene.ids.tobytes())
        bases = self._held(key, lambda: basis_vectors(frame, scene.ids, check))
        return [bases, states] if len(states) else [bases]

    def raw(self, scene: Scene, check: Check) -> Floats:
        """Vectors of all points, as they are in the model (n × d)."""
        parts = self.parts(scene, check)
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def treated(self, scene: Scene, check: Check) -> Floats:
        """Vectors of all points after preprocessing (n × d)."""
        raw = self.raw(scene, check)
        count = len(scene.points) - scene.states
        o = scene.options
        parts = []
        if count:
            treatment = self.landscape.bases(o.frame, o.preprocessing, check).treatment
            parts.append(treatment.apply(raw[:count]))
        if scene.states:
            parts.append(self._seen(scene, check)[0])
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _held(self, key: tuple[Any, ...], make: Callable[[], Floats]) -> Floats:
        found = self._vectors.get(key)
        if found is None:
            found = make()
            self._vectors[key] = found
            held = sum(x.nbytes for x in self._vectors.values())
            while held > self._vector_bytes and len(self._vectors) > 1:
                _, old = self._vectors.popitem(last=False)
                held -= old.nbytes
        self._vectors.move_to_end(key)
        return found

    def draw(self, scene: Scene, check: Check) -> Map:
        """The map of this scene.

        Raises:
            MapNotReady: UMAP, and its layout is not kept yet.
        """
        o = scene.options
        if o.projection == "umap":
            return self._draw_umap(scene)
        coordinates, axes, notes, seen = self._place(scene, check)
        window_, shared = self._window(scene, coordinates, check)
        shown, of = self._variance(scene, seen, axes, check)
        of_bases = None
        if len(scene.points) > scene.states:
            ground = self.landscape.bases(o.frame, o.preprocessing, check)
            of_bases = variance_of_moments(ground.moments, axes)
        return self._finish(
            scene,
            coordinates,
            draw_border(coordinates, window_, shared=shared),
            notes,
            axes=axes,
            variance_shown=shown,
            variance_of=of,
            variance_of_bases=of_bases,
        )

    def _draw_umap(self, scene: Scene) -> Map:
        o = scene.options
        name = self.fingerprint(scene)
        result = self.umap_cache.get(name, (len(scene.points), o.dims))
        if result is None:
            raise MapNotReady(
                "this UMAP map is not made yet; start its job and look again when it is done."
            )
        xy = result.coordinates
        border = draw_border(xy, window(xy, scene.points.kind), shared=False)
        notes = []
        axes = min(o.principal, self.space.model.width)
        if result.variance < 0.9:
            notes.append(
                f"The {axes} principal axes that UMAP starts from hold"
                f" {100 * result.variance:.0f} % of the points' variance; more of them keep more of"
                " the neighbourhoods."
            )
        if len(scene.points) <= o.neighbours:
            notes.append(
                f"UMAP was asked for {o.neighbours} neighbours and took {len(scene.points) - 1},"
                " all that there are."
            )
        return self._finish(
            scene, xy, border, notes, variance_of="", noise_floor=result.noise_floor
        )

    def _finish(
        self, scene: Scene, coordinates: Floats, border: Border, notes: list[str], **more: Any
    ) -> Map:
        o, model = scene.options, self.space.model
        given: dict[str, Any] = {"variance_shown": None, "variance_of_bases": None, "axes": None}
        given |= more
        axes = given["axes"]
        notes = notes + self._calibration_notes(scene)
        missing = scene.states - self._sound(scene)
        if int((~has_place(coordinates)).sum()) > missing:
            raise OptionError(
                "the coordinates of this map are not finite; choose another preprocessing or layer."
            )
        if missing:
            notes.append(
                f"{missing:,} of {_counted(scene.states, 'state')} of layer {o.layer}"
                f" {'holds' if missing == 1 else 'hold'} NaN or infinity: no place is drawn for"
                f" {'it' if missing == 1 else 'them'}, and nothing is fitted on"
                f" {'it' if missing == 1 else 'them'}."
            )
        return Map(
            options=o,
            model=model_info(model),
            layers=model.blocks,
            layer=o.layer,
            points=scene.points,
            coordinates=coordinates,
            border=border,
            title=make_title(
                o,
                o.layer,
                model.blocks,
                states=scene.states > 0,
                calibrated=self.is_calibrated(scene),
            ),
            how_chosen=self._how_chosen(scene),
            blind_to=make_blind_to(o, axes),
            axis_names=make_axis_names(o, axes),
            warnings=tuple(notes),
            versions=versions(umap=o.projection == "umap"),
            fingerprint=self.fingerprint(scene),
            **given,
        )

    def _how_chosen(self, scene: Scene) -> str:
        o = scene.options
        parts = []
        if o.vocabulary != "none":
            parts.append(how_selected(o, len(scene.ids), self.space.model.vocabulary))
        if scene.points.prompt:
            parts.append(f"{_counted(len(scene.points.prompt), 'token')} of the prompt: all")
        if o.texts is not None:
            words = f"{_counted(len(o.texts.texts), 'text')} of {o.texts.name}: all"
            if o.texts.prompts:
                words += ", each at the last position of its prompt"
                if o.texts.template:
                    words += f" “{visible(o.texts.template)}”"
            parts.append(words)
        return "; ".join(parts)

    def _calibration_notes(self, scene: Scene) -> list[str]:
        named = scene.options.calibration
        calibrator = self.calibrator(scene.options)
        if named is None or calibrator is None or not scene.states:
            return []
        notes = [calibrator.note] if calibrator.note else []
        if not calibrator.covers(scene.layer):
            notes.append(
                f"The calibration “{named.label}” works on layer {calibrator.layer}; at layer"
                f" {scene.layer} the states are the model's own."
            )
        return notes

    def _place(self, scene: Scene, check: Check) -> tuple[Floats, Axes, list[str], Floats]:
        """Coordinates of all points, the axes, warnings, and the states after preprocessing."""
        o = scene.options
        seen, fitted = self._seen(scene, check)
        if scene.states == len(scene.points) and not has_place(seen).any():
            raise NonFiniteError(
                f"every state of this map holds NaN or infinity at layer {o.layer}, so none has a"
                " place; choose a lower layer or other text."
            )
        reference = None
        sound = has_place(fitted)
        alone = int((scene.points.kind == ALONE).sum())
        if o.projection == "layer" and o.vocabulary == "alone":
            reference = self._reference(scene, check)
            both = sound[:alone] & has_place(reference)
            reference, sound[:alone] = reference[both], both
        selected = self._selected(scene, check) if o.projection == "selection" else None
        axes, notes = self.landscape.axes(
            o,
            fitted[sound],
            alone=int(sound[:alone].sum()),
            reference=reference,
            selected=selected,
            check=check,
        )
        parts = []
        if len(scene.points) > scene.states:
            key = (
                o.frame,
                o.preprocessing,
                axes.directions.tobytes(),
                axes.centre.tobytes(),
                axes.offset.tobytes(),
                scene.ids.tobytes(),
            )
            bases = self._placed.get(key)
            if bases is None:
                bases = self.landscape.place_bases(o, scene.ids, axes, check)
                keep(self._placed, key, bases, 8)
            parts.append(bases)
        if scene.states:
            parts.append(axes.place(seen).astype(np.float32))
        if 0 < scene.states < 20 and o.preprocessing == "standardised":
            notes.append(
                f"The states are standardised by the spread of only {scene.states}; read with care."
            )
        coordinates = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return np.ascontiguousarray(coordinates), axes, notes, seen

    def _sound(self, scene: Scene) -> int:
        """States that are finite; they were read already."""
        return int(has_place(self.states(scene, no_check)).sum())

    def _selected(self, scene: Scene, check: Check) -> Floats:
        """The bases on the map after preprocessing."""
        o = scene.options
        treatment = self.landscape.bases(o.frame, o.preprocessing, check).treatment
        bases = self.parts(scene, check)[0][: len(scene.ids)]
        return treatment.apply(bases)

    def _reference(self, scene: Scene, check: Check) -> Floats:
        """Treated states of the tokens alone at the last layer: the picture that others turn to."""
        top = replace(scene.options, layer=self.space.model.blocks, calibration=None)
        states = self.states(replace(scene, options=top), check)
        treatment = self.landscape.states(states, top.preprocessing)
        return treatment.apply(states)[: int((scene.points.kind == ALONE).sum())]

    def _variance(
        self, scene: Scene, seen: Floats, axes: Axes, check: Check
    ) -> tuple[float | None, str]:
        o = scene.options
        if len(seen) and not has_place(seen).all():
            seen = seen[has_place(seen)]
            if len(seen) < 2:
                return None, "the states that are finite"
        if scene.states >= 2:
            kind = "calibrated states" if self.is_calibrated(scene) else "states"
            words = f"the {len(seen):,} {kind} of layer {o.layer}"
            return variance_shown(seen, axes), words
        count = len(scene.ids)
        if count == self.space.model.vocabulary:
            ground = self.landscape.bases(o.frame, o.preprocessing, check)
            return variance_of_moments(ground.moments, axes), f"the {count:,} bases"
        return variance_shown(self.treated(scene, check), axes), f"the {len(scene.points):,} points"

    def _window(self, scene: Scene, coordinates: Floats, check: Check) -> tuple[Window, bool]:
        """The window of this map: joined over all layers where their states can be held."""
        o = scene.options
        count = scene.states - len(scene.points.prompt)
        joined = not count or self._store.all_layers(count)
        # Before and after a calibration are laid side by side: one window for both.
        whole = replace(o, side="after")
        key = (replace(whole, layer=0) if joined else whole, scene.ids.tobytes())
        if key not in self._windows:
            found = [_window_of(coordinates, scene.points.kind)]
            # Bases stay where they are but in a frame of the layer's own.
            moving = 0 if o.projection == "layer" else len(scene.points) - scene.states
            for other in self._beside(scene, joined=joined):
                there = replace(scene, options=other)
                try:
                    placed, _, _, _ = self._place(there, check)
                except (OptionError, NonFiniteError):
                    continue  # a layer that has no map of its own has no window either
                if has_place(placed[moving:]).any():
                    found.append(_window_of(placed[moving:], scene.points.kind[moving:]))
            keep(self._windows, key, join(found), KEPT)
        return self._windows[key], joined

    def _beside(self, scene: Scene, *, joined: bool) -> Iterator[MapOptions]:
        """The other layers and sides whose states the window must hold as well."""
        if not scene.states:
            return
        o = scene.options
        layers = range(self.space.model.blocks + 1) if joined else (scene.layer,)
        calibrator = self.calibrator(o)
        for number in layers:
            both = calibrator is not None and calibrator.covers(number)
            for side in SIDES if both else (o.side,):
                if (number, side) != (scene.layer, o.side):
                    yield replace(o, layer=number, side=side)


def _before(scene: Scene) -> Scene:
    """The same without its calibration."""
    if scene.options.calibration is None:
        return scene
    return replace(scene, options=replace(scene.options, calibration=None))


def _window_of(coordinates: Floats, kind: NDArray[np.uint8]) -> Window:
    """The window of the points that have a place."""
    placed = has_place(coordinates)
    return window(coordinates[placed], kind[placed])


def keep(kept: OrderedDict[Any, Any], key: Any, value: Any, limit: int) -> None:
    """Keep a value; the least recently used goes where there are more than `limit`."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > limit:
        kept.popitem(last=False)


def _counted(number: int, one: str) -> str:
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"
