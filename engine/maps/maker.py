"""Makes maps of one latent space and keeps what is asked for again.

Layer by layer only the states are placed anew: bases, frames and states that were read are kept
within stated limits. A maker belongs to the thread of its model; :meth:`MapMaker.reduce` alone
may be driven by any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from cachetools import LRUCache

from engine.errors import NonFiniteError, OptionError
from engine.maps.arrays import Floats, Longs
from engine.maps.calibrated import Calibrator
from engine.maps.changes import Changes, measure_changes
from engine.maps.colours import Colour, Coloured, colour_of
from engine.maps.drawing import Drawer
from engine.maps.frames import first_bases
from engine.maps.named_regions import Region, regions_of
from engine.maps.neighbours import (
    Cka,
    NearBasis,
    Neighbours,
    check_metric,
    cka_matrices,
    near_point,
)
from engine.maps.options import MapOptions
from engine.maps.points import (
    BASIS,
    MapPoints,
    Space,
    all_placed,
    gather_points,
    has_place,
)
from engine.maps.projections import PROJECTIONS, SHARED
from engine.maps.quality import QUERIES, Distortion, Quality, distortion, measure_quality
from engine.maps.reduction import UmapCache, UmapResult, reduce
from engine.maps.result import Map
from engine.maps.scenes import KEPT, Scene, Scenes
from engine.maps.selection import find_expression, find_text, inside_polygon
from engine.maps.umap_process import UmapProblem, UmapProcess
from engine.progress import Check, Steps, drain, no_check

_FEW: Final = 8
"""Comparisons of whole maps that are kept."""
_CKA_TOKENS: Final = 1024
_CKA_LEAST: Final = 64
_CKA_DROPPED: Final = 3
MAX_NEIGHBOURS: Final = 200


class MapMaker:
    """Maps of one space.

    Args:
        cache_dir: where UMAP layouts are kept; None keeps them in memory.
        state_bytes: limit of the kept states of tokens alone and of text sets.
        vector_bytes: limit of the vectors of one map, and of those kept.
    """

    def __init__(
        self,
        space: Space,
        *,
        cache_dir: Path | None = None,
        state_bytes: int = 256 * 2**20,
        vector_bytes: int = 1024 * 2**20,
    ) -> None:
        self.space = space
        self.cache_dir = cache_dir
        self.umap_process = UmapProcess(cache_dir)
        self._scenes = Scenes(space, state_bytes=state_bytes, vector_bytes=vector_bytes)
        self._begin(UmapCache(cache_dir))

    def _begin(self, layouts: UmapCache, *, shipped: bool = True) -> None:
        self.umap_cache = layouts
        self._drawer = Drawer(self._scenes, self.umap_cache, shipped=shipped)
        self._maps: LRUCache[MapOptions, Map] = LRUCache(KEPT)
        self._qualities: LRUCache[tuple[MapOptions, bool], Quality] = LRUCache(KEPT)
        self._distortions: LRUCache[MapOptions, Distortion] = LRUCache(KEPT)
        self._changes: LRUCache[tuple[MapOptions, MapOptions, int], Changes] = LRUCache(_FEW)
        self._ckas: LRUCache[MapOptions, Cka] = LRUCache(_FEW)

    def forget(self) -> None:
        """Draw everything anew: what vectors are made of has changed, such as a lens."""
        self._scenes.forget()
        self._begin(self.umap_cache)

    @property
    def layouts(self) -> int:
        """How often a layout was kept; what was said of the map of a job before holds for one of
        them. Any thread may ask."""
        return self.umap_cache.version

    def close(self) -> None:
        """End the process that runs UMAP, if it is there."""
        self.umap_process.close()

    def use(self, calibrator: Calibrator) -> None:
        """Have a calibration at hand for the maps that name it by its fingerprint."""
        self._scenes.use(calibrator)

    def knows(self, fingerprint: str) -> bool:
        """Whether the calibration of this fingerprint is at hand."""
        return self._scenes.knows(fingerprint)

    # --- maps ---

    def resolve(self, options: MapOptions) -> MapOptions:
        """The options as they are drawn: the layer counted from 0, no more axes than dimensions.

        Raises:
            LayerError: a layer that this model does not have.
        """
        return self._scenes.resolve(options)

    def fingerprint(self, options: MapOptions) -> str:
        """The name of the map of these options, which need not be drawn."""
        return self._scenes.fingerprint_of(self.resolve(options))

    def map(self, options: MapOptions, *, check: Check = no_check) -> Map:
        """The map of these options.

        Args:
            options: what is on it and how it is drawn.

        Raises:
            MapNotReady: UMAP, and its layout is not kept yet: run :meth:`umap_problem` and
                :meth:`reduce` (or :meth:`umap`) first.
            OptionError, LayerError, PromptError, TokenError, NonFiniteError: one sentence each.
        """
        options = self.resolve(options)
        found = self._maps.get(options)
        # The map of a job is looked up anew while seeds of its noise floor are missing.
        is_job = PROJECTIONS[options.projection].is_job
        if found is not None and not (is_job and found.noise_floor is None):
            return found
        drawn = self._drawer.draw(self._scenes.scene(options, check), check)
        self._maps[options] = drawn
        return drawn

    def umap_problem(self, options: MapOptions, *, check: Check = no_check) -> UmapProblem:
        """What UMAP is to lay out."""
        return drain(self.umap_points(options, check=check))()

    def umap_points(
        self, options: MapOptions, *, check: Check = no_check
    ) -> Steps[Callable[[], UmapProblem]]:
        """The part of the work that needs the model, in small steps: states are read and vectors
        written out. What it gives makes the problem of them, on any thread."""
        options = self.resolve(options)
        layout = PROJECTIONS[options.projection].layout
        if layout is None:
            raise OptionError(
                f"the projection of this map is {options.projection!r}; choose umap to run UMAP."
            )
        scene = self._scenes.scene(options, check)
        yield from self._scenes.read(scene)
        vectors = yield from self._scenes.treating(scene, check)
        all_placed(vectors, options.layer, "UMAP")
        return partial(layout.problem, vectors, options, self._scenes.fingerprint(scene))

    def reduce(self, problem: UmapProblem, *, floor: bool = True) -> Steps[UmapResult]:
        """Run UMAP in its process; any thread may drive this, and closing it ends the process."""
        return reduce(problem, self.umap_cache, self.umap_process, floor=floor)

    def umap(
        self, options: MapOptions, *, floor: bool = True, check: Check = no_check
    ) -> Steps[Map]:
        """Both parts and the map, in one thread; a layout that ships is not made again."""
        kept = self._drawer.layout(self._scenes.scene(self.resolve(options), check), check)
        if kept is not None and kept.atlas:
            return self.map(options, check=check)
        problem = self.umap_problem(options, check=check)
        yield from self.reduce(problem, floor=floor)
        return self.map(options, check=check)

    def anew(self, *, shipped: bool = False) -> MapMaker:
        """The same states, and no map or layout kept: for who checks one.

        Args:
            shipped: whether an atlas that ships may stand in for a layout.
        """
        other = copy(self)
        other._begin(UmapCache(None), shipped=shipped)
        return other

    def draft(self, options: MapOptions) -> Floats | None:
        """Where the points of a layout under way were lately (n × dims); None where none is."""
        return self.umap_cache.draft(self.fingerprint(options))

    def regions(self, options: MapOptions, *, check: Check = no_check) -> tuple[Region, ...]:
        """The named regions of a layout; of another picture there are none."""
        scene = self._scenes.scene(self.resolve(options), check)
        if PROJECTIONS[options.projection].layout is None:
            return ()
        result = self._drawer.layout(scene, check)
        return () if result is None else regions_of(result, scene.points)

    def points(self, options: MapOptions, *, check: Check = no_check) -> MapPoints:
        """Which points a map has, without drawing it."""
        return self._scenes.scene(self.resolve(options), check).points

    def vectors(self, options: MapOptions, *, check: Check = no_check) -> Floats:
        """The points of a map in the model, after preprocessing (n × d)."""
        return self._scenes.treated(self._scenes.scene(self.resolve(options), check), check)

    # --- evidence ---

    def quality(
        self, options: MapOptions, exact: bool = False, *, check: Check = no_check
    ) -> Quality:
        """How true the map is: see :mod:`engine.maps.quality`.

        Args:
            exact: every point is asked for its neighbours, however many there are: n²·d products.
        """
        options = self.resolve(options)
        key = options, exact
        if key not in self._qualities:
            drawn = self.map(options, check=check)
            placed = has_place(drawn.coordinates)
            scene = self._scenes.scene(options, check)
            self._qualities[key] = measure_quality(
                self._scenes.cloud(scene, check),
                drawn.coordinates[placed],
                seed=options.seed,
                queries=drawn.n if exact else QUERIES,
                check=check,
            )
        return self._qualities[key]

    def distortion(self, options: MapOptions, *, check: Check = no_check) -> Distortion:
        """How wrong the map is about each point."""
        options = self.resolve(options)
        if options not in self._distortions:
            vectors, coordinates = self._both(options, check)
            all_placed(vectors, options.layer, "the error of each point")
            self._distortions[options] = distortion(
                vectors, coordinates, seed=options.seed, check=check
            )
        return self._distortions[options]

    def neighbours(
        self,
        options: MapOptions,
        index: int,
        *,
        k: int = 10,
        metric: str = "cosine",
        layer_b: int | None = None,
        check: Check = no_check,
    ) -> Neighbours:
        """The neighbourhood of one point in the model's own space, before any preprocessing.

        Args:
            k: neighbours listed, 1 to 200.
            metric: ``cosine`` or ``l2``.
            layer_b: another layer: who is gained and lost there.
        """
        check_metric(metric)
        options = self.resolve(options)
        scene = self._scenes.scene(options, check)
        points = scene.points
        if not 0 <= index < len(points):
            raise OptionError(
                f"index must be in [0, {len(points) - 1}] for this map of {len(points):,} points;"
                f" got {index}."
            )
        if not 1 <= k <= MAX_NEIGHBOURS:
            raise OptionError(f"k must be from 1 to {MAX_NEIGHBOURS}; got {k}.")
        parts = self._scenes.parts(scene, check)
        near = near_point(parts, points, index, k, metric, check)
        count = len(parts[0])
        vector = parts[0][index] if index < count else parts[1][index - count]
        bases = self._near_bases(scene, vector, index, k, metric, check)
        out = Neighbours(index, points.label(index), options.layer, metric, k, near, bases)
        if layer_b is None:
            return out
        other = self.resolve(replace(options, layer=layer_b))
        there_parts = self._scenes.parts(replace(scene, options=other), check)
        there = near_point(there_parts, points, index, k, metric, check)
        before, after = {n.index for n in near}, {n.index for n in there}
        union = len(before | after)
        return replace(
            out,
            layer_b=other.layer,
            gained=tuple(n for n in there if n.index not in before),
            lost=tuple(n for n in near if n.index not in after),
            jaccard=len(before & after) / union if union else None,
        )

    def changes(
        self, options: MapOptions, other: MapOptions, *, k: int = 15, check: Check = no_check
    ) -> Changes:
        """What differs between two maps of the same points: two layers, two sides of a calibration.

        Raises:
            MapNotReady: UMAP, and one of the two layouts is not kept yet.
            OptionError: the points are not the same.
        """
        options, other = self.resolve(options), self.resolve(other)
        key = (options, other, k)
        kept = self._changes.get(key)
        # Before UMAP's further seeds are there, the noise floor is not known: look again.
        is_job = PROJECTIONS[options.projection].is_job
        if kept is None or (is_job and kept.noise_floor is None):
            scene = self._scenes.scene(options, check)
            # near:K chooses by the layer: the tokens of the first stay.
            there = replace(scene, options=other)
            if replace(other, layer=options.layer, side=options.side) != options:
                there = self._scenes.scene(other, check)
            maps = self._drawer.draw(scene, check), self._drawer.draw(there, check)
            vectors = self._scenes.treated(scene, check), self._scenes.treated(there, check)
            for one, drawn in zip(vectors, maps, strict=True):
                all_placed(one, drawn.layer, "comparing two maps")
            self._changes[key] = measure_changes(maps, vectors, k=k, check=check)
        return self._changes[key]

    def cka(self, options: MapOptions, *, check: Check = no_check) -> Cka:
        """Linear CKA between all layers, of the map's states where it has enough of them.

        With fewer than 64 states, figures would be high by chance: then of 1,024 tokens evenly
        spaced over the vocabulary, each alone as the prompt.
        """
        # Of the model's own states, whatever calibration is switched on.
        options = replace(
            options, layer=0, projection=SHARED.name, axes=(), calibration=None, lens="none"
        )
        options = self.resolve(options)
        if options not in self._ckas:
            self._ckas[options] = self._cka(options, check)
        return self._ckas[options]

    def colour(self, options: MapOptions, by: str, *, check: Check = no_check) -> Colour:
        """A value or a class per point: see :mod:`engine.maps.colours`."""
        options = self.resolve(options)
        scene = self._scenes.scene(options, check)
        given = Coloured(
            points=scene.points,
            space=self.space,
            options=options,
            vectors=lambda: self._scenes.raw(scene, check),
            distortion=lambda: self.distortion(options, check=check),
            check=check,
        )
        return colour_of(by).paint(given)

    def search(
        self, options: MapOptions, text: str, *, regex: bool = False, check: Check = no_check
    ) -> Longs:
        """Indices of the points whose text holds a piece of text or matches an expression."""
        points = self._scenes.scene(self.resolve(options), check).points
        texts = [points.text(i) for i in range(len(points))]
        return find_expression(texts, text, check=check) if regex else find_text(texts, text)

    def inside(
        self,
        options: MapOptions,
        polygon: Sequence[Sequence[float]],
        *,
        check: Check = no_check,
    ) -> Longs:
        """Indices of the points inside a polygon, where they are drawn."""
        drawn = self.map(options, check=check)
        if drawn.dims != 2:
            raise OptionError("a polygon selects on a map of 2 dimensions; set dims to 2.")
        return inside_polygon(drawn.border.clipped, polygon)

    # --- inside ---

    def _both(self, options: MapOptions, check: Check) -> tuple[Floats, Floats]:
        """The points of a map in the model, after preprocessing, and on the picture."""
        return self.vectors(options, check=check), self.map(options, check=check).coordinates

    def _near_bases(
        self, scene: Scene, vector: Floats, index: int, k: int, metric: str, check: Check
    ) -> tuple[NearBasis, ...]:
        if not np.isfinite(vector).all():
            return ()
        frame = self.space.frame(scene.options.frame_key)
        itself = int(scene.points.row[index]) if scene.points.kind[index] == BASIS else None
        k_and_itself = min(k + 1, frame.size)
        found = first_bases(frame, torch.tensor(vector)[None], metric, k_and_itself, check)
        pairs = zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True)
        labels = self.space.vocabulary.labels
        listed = [NearBasis(i, labels[i], s) for i, s in pairs if i != itself]
        return tuple(listed[:k])

    def _cka(self, options: MapOptions, check: Check) -> Cka:
        scene = self._scenes.scene(options, check)
        if scene.states >= _CKA_LEAST:
            what = f"the {scene.states:,} states of this map"
            note = ""
        else:
            v = self.space.model.vocabulary
            ids = np.unique(np.linspace(0, v - 1, min(_CKA_TOKENS, v)).astype(np.int64))
            note = (
                f"This map has {scene.states} states; with so few every two layers look alike by"
                f" chance, so {len(ids):,} tokens are taken instead, each alone as the prompt."
            )
            alone = replace(
                options,
                vocabulary="alone",
                select="ids:" + ",".join(str(i) for i in ids[:1]),
                prompt=None,
                texts=None,
            )
            points = gather_points(self.space, alone, ids, ())
            scene = Scene(alone, points, ids)
            what = f"{len(ids):,} tokens, evenly spaced over the vocabulary, each alone"
        layers = tuple(range(self.space.model.blocks + 1))
        stacks = [
            self._scenes.states(replace(scene, options=replace(scene.options, layer=i)), check)
            for i in layers
        ]
        placed = np.logical_and.reduce([has_place(x) for x in stacks])
        if not placed.any():
            raise NonFiniteError(
                "no state of these is finite at every layer, so the layers cannot be compared;"
                " choose other text."
            )
        if not placed.all():
            stacks = [x[placed] for x in stacks]
            left = int((~placed).sum())
            note = f"{note} {left:,} that are not finite at every layer are left out.".strip()
        dropped = min(_CKA_DROPPED, stacks[0].shape[1] - 1)
        values, without = cka_matrices(stacks, dropped, check)
        return Cka(layers, values, without, dropped, len(stacks[0]), what, note)
