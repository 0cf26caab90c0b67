"""Draws maps: from a scene to places, axes, window and words.

A :class:`Drawer` keeps what the next layer needs again: places of bases, and windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray

from engine.errors import NonFiniteError, OptionError
from engine.maps.arrays import Floats
from engine.maps.atlas import STATES_NOTE, find_atlas, is_atlas, with_states
from engine.maps.axes import Axes, variance_of_moments, variance_shown
from engine.maps.border import Border, Window, draw_border, join, window
from engine.maps.frames import first_bases
from engine.maps.options import SIDES, MapNotReady, MapOptions, versions
from engine.maps.points import ALONE, has_place
from engine.maps.preprocessing import PREPROCESSINGS, treat_states
from engine.maps.projections import PROJECTIONS, Fitting, Layout
from engine.maps.reduction import UmapCache, UmapResult
from engine.maps.result import Map, make_title
from engine.maps.scenes import KEPT, Scene, Scenes
from engine.maps.selection import how_selected
from engine.model.vocabulary import visible
from engine.progress import Check, no_check
from engine.trace.compute import model_info

_PLACES = 32 * 2**20
"""Bytes of places of bases that are kept."""


class Drawer:
    """Draws the maps of one space.

    Args:
        scenes: of that space.
        umap_cache: where finished UMAP layouts are looked for.
        shipped: whether an atlas that ships stands in for a layout that is not kept.
    """

    def __init__(self, scenes: Scenes, umap_cache: UmapCache, *, shipped: bool = True) -> None:
        self._scenes = scenes
        self._space = scenes.space
        self._umap_cache = umap_cache
        self._shipped = shipped
        self._windows: LRUCache[tuple[Any, ...], Window] = LRUCache(KEPT)
        self._placed: LRUCache[tuple[Any, ...], Floats] = LRUCache(
            _PLACES, getsizeof=lambda places: places.nbytes
        )

    def draw(self, scene: Scene, check: Check) -> Map:
        """The map of this scene.

        Raises:
            MapNotReady: a job, and its layout is not kept yet.
        """
        o = scene.options
        layout = PROJECTIONS[o.projection].layout
        if layout is not None:
            return self._draw_layout(scene, layout, check)
        coordinates, axes, notes, seen = self._place(scene, check)
        window_, shared = self._window(scene, coordinates, check)
        shown, of = self._variance(scene, seen, axes, check)
        of_bases = None
        if len(scene.points) > scene.states:
            ground = self._scenes.landscape.bases(o.frame_key, o.preprocessing, check)
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

    def layout(self, scene: Scene, check: Check) -> UmapResult | None:
        """The finished layout of a scene; None where there is none yet. On an atlas a state stands
        where its nearest basis does."""
        name = self._scenes.fingerprint(scene)
        result = self._umap_cache.get(name, (len(scene.points), scene.options.dims))
        if result is not None or not self._shipped:
            return result
        model = self._space.model
        if not is_atlas(scene.options, model.width):
            return None
        atlas = find_atlas(model.fingerprint)
        if atlas is None or not scene.states:
            return None if atlas is None else atlas.result
        states = self._scenes.states(scene, check)
        placed = has_place(states)
        nearest = np.zeros(len(states), dtype=np.int64)
        if placed.any():
            frame = self._space.frame(scene.options.frame_key)
            found = first_bases(frame, torch.from_numpy(states[placed]), "cosine", 1, check)
            nearest[placed] = found.ids[:, 0].cpu().numpy()
        return with_states(atlas.result, nearest, placed)

    def _draw_layout(self, scene: Scene, layout: Layout, check: Check) -> Map:
        o = scene.options
        result = self.layout(scene, check)
        if result is None:
            raise MapNotReady(
                f"this {PROJECTIONS[o.projection].title} map is not made yet; start its job and"
                " look again when it is done."
            )
        xy = result.coordinates
        border = draw_border(xy, _window_of(xy, scene.points.kind), shared=False)
        notes = layout.notes(o, result, self._space.model.width)
        if result.atlas and scene.states:
            notes.append(STATES_NOTE)
        return self._finish(
            scene,
            xy,
            border,
            notes,
            variance_of="",
            noise_floor=result.noise_floor,
            noise_floors=result.noise_floors,
            atlas=result.atlas,
        )

    def _finish(
        self, scene: Scene, coordinates: Floats, border: Border, notes: list[str], **more: Any
    ) -> Map:
        o, model = scene.options, self._space.model
        given: dict[str, Any] = {"variance_shown": None, "variance_of_bases": None, "axes": None}
        given |= more
        axes, projection = given["axes"], PROJECTIONS[o.projection]
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
                calibrated=self._scenes.is_calibrated(scene),
            ),
            how_chosen=self._how_chosen(scene),
            blind_to=projection.blind_to(o, axes),
            axis_names=projection.axis_names(o, axes),
            warnings=tuple(notes),
            versions=versions(o),
            fingerprint=self._scenes.fingerprint(scene),
            **given,
        )

    def _how_chosen(self, scene: Scene) -> str:
        o = scene.options
        parts = []
        if o.vocabulary != "none":
            parts.append(how_selected(self._space, o, len(scene.ids)))
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
        calibrator = self._scenes.calibrator(scene.options)
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
        axes, notes, seen = self._fit(scene, check)
        if 0 < scene.states < 20 and PREPROCESSINGS[o.preprocessing].scaled:
            notes.append(
                f"The states are standardised by the spread of only {scene.states}; read with care."
            )
        bases = self._bases(scene, [axes], check)[0]
        return _on(axes, bases, seen), axes, notes, seen

    def _fit(self, scene: Scene, check: Check) -> tuple[Axes, list[str], Floats]:
        """The axes, warnings about them, and the states after preprocessing."""
        o = scene.options
        seen, fitted = self._scenes.seen(scene, check)
        if scene.states == len(scene.points) and not has_place(seen).any():
            raise NonFiniteError(
                f"every state of this map holds NaN or infinity at layer {o.layer}, so none has a"
                " place; choose a lower layer or other text."
            )
        fit = PROJECTIONS[o.projection].fit
        assert fit is not None
        axes, notes = fit(self._fitting(scene, fitted, check))
        return axes, list(notes), seen

    def _bases(self, scene: Scene, axes: Sequence[Axes], check: Check) -> list[Floats]:
        """Coordinates of the bases of a scene on each of some axes; none where it has none."""
        if len(scene.points) == scene.states:
            return [np.empty((0, one.dims), dtype=np.float32) for one in axes]
        o = scene.options
        keys = [
            (
                o.frame_key,
                o.preprocessing,
                one.directions.tobytes(),
                one.centre.tobytes(),
                one.offset.tobytes(),
                scene.ids.tobytes(),
            )
            for one in axes
        ]
        found = {key: self._placed[key] for key in keys if key in self._placed}
        missing = {key: one for key, one in zip(keys, axes, strict=True) if key not in found}
        if missing:
            given = list(missing.values())
            placed = self._scenes.landscape.place_bases(o, scene.ids, given, check)
            found |= zip(missing, placed, strict=True)
            for key, places in zip(missing, placed, strict=True):
                with suppress(ValueError):  # larger than all that may be kept
                    self._placed[key] = places
        return [found[key] for key in keys]

    def _fitting(self, scene: Scene, states: Floats, check: Check) -> Fitting:
        """What the fit of a projection may ask of a scene.

        Args:
            states: after preprocessing, before any calibration; tokens alone come first.
        """
        o, scenes = scene.options, self._scenes
        frame = o.frame_key, o.preprocessing
        count = int((scene.points.kind == ALONE).sum())

        def selected() -> Floats:
            bases = scenes.parts(scene, check)[0][: len(scene.ids)]
            return scenes.landscape.bases(*frame, check).treatment.apply(bases)

        def alone() -> tuple[Floats, Floats]:
            here = states[:count]
            if not count:
                return here, here
            top = replace(o, layer=self._space.model.blocks, calibration=None)
            last = scenes.states(replace(scene, options=top), check)
            there = treat_states(last, top.preprocessing).apply(last)[:count]
            both = has_place(here) & has_place(there)
            return here[both], there[both]

        return Fitting(
            options=o,
            shared=lambda: scenes.landscape.shared(*frame, o.dims, check),
            moments=lambda: scenes.landscape.bases(*frame, check).moments,
            selected=selected,
            alone=alone,
            others=lambda: states[count:][has_place(states[count:])],
            tokens=lambda words: scenes.landscape.tokens(*frame, words, check),
        )

    def _sound(self, scene: Scene) -> int:
        """States that are finite; they were read already."""
        return int(has_place(self._scenes.states(scene, no_check)).sum())

    def _variance(
        self, scene: Scene, seen: Floats, axes: Axes, check: Check
    ) -> tuple[float | None, str]:
        o = scene.options
        if len(seen) and not has_place(seen).all():
            seen = seen[has_place(seen)]
            if len(seen) < 2:
                return None, "the states that are finite"
        if scene.states >= 2:
            kind = "calibrated states" if self._scenes.is_calibrated(scene) else "states"
            words = f"the {len(seen):,} {kind} of layer {o.layer}"
            return variance_shown(seen, axes), words
        count = len(scene.ids)
        if count == self._space.model.vocabulary:
            ground = self._scenes.landscape.bases(o.frame_key, o.preprocessing, check)
            return variance_of_moments(ground.moments, axes), f"the {count:,} bases"
        return variance_shown(
            self._scenes.treated(scene, check), axes
        ), f"the {len(scene.points):,} points"

    def _window(self, scene: Scene, coordinates: Floats, check: Check) -> tuple[Window, bool]:
        """The window of this map: joined over all layers where their states can be held."""
        o = scene.options
        count = scene.states - len(scene.points.prompt)
        joined = not count or self._scenes.store.all_layers(count)
        # Before and after a calibration are laid side by side: one window for both.
        whole = replace(o, side="after")
        key = (replace(whole, layer=0) if joined else whole, scene.ids.tobytes())
        if key not in self._windows:
            found = [_window_of(coordinates, scene.points.kind)]
            others: list[tuple[Axes, Floats]] = []
            for other in self._beside(scene, joined=joined):
                # A layer that has no map of its own has no window either.
                with suppress(OptionError, NonFiniteError):
                    axes, _, seen = self._fit(replace(scene, options=other), check)
                    others.append((axes, seen))
            still = not PROJECTIONS[o.projection].bases_move
            moving = len(scene.points) - scene.states if still else 0
            bases = [np.empty((0, o.dims), dtype=np.float32)] * len(others)
            if others and not still:
                bases = self._bases(scene, [axes for axes, _ in others], check)
            for (axes, seen), at in zip(others, bases, strict=True):
                placed = _on(axes, at, seen)
                if has_place(placed).any():
                    found.append(_window_of(placed, scene.points.kind[moving:]))
            self._windows[key] = join(found)
        return self._windows[key], joined

    def _beside(self, scene: Scene, *, joined: bool) -> Iterator[MapOptions]:
        """The other layers and sides whose states the window must hold as well."""
        if not scene.states:
            return
        o = scene.options
        layers = range(self._space.model.blocks + 1) if joined else (scene.layer,)
        calibrator = self._scenes.calibrator(o)
        for number in layers:
            both = calibrator is not None and calibrator.covers(number)
            for side in SIDES if both else (o.side,):
                if (number, side) != (scene.layer, o.side):
                    yield replace(o, layer=number, side=side)


def _on(axes: Axes, bases: Floats, states: Floats) -> Floats:
    """Coordinates of all points, of bases that are placed and of states to be (n × dims)."""
    if not len(states):
        return bases
    placed = axes.place(states).astype(np.float32)
    return np.ascontiguousarray(np.concatenate([bases, placed]))


def _window_of(coordinates: Floats, kind: NDArray[np.uint8]) -> Window:
    """The window of the points that have a place."""
    placed = has_place(coordinates)
    return window(coordinates[placed], kind[placed])


def _counted(number: int, one: str) -> str:
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"
