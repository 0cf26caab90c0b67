"""Maps as the async handlers see them: questions in, the engine's values and files out.

Stands on the explorer, so its cache, its queue, its deadlines and its watch on the client hold here
too. The UMAP of a map takes long and is a job; everything else is answered at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy.typing as npt
from starlette.requests import Request

from app.calibrate.sets import Sets
from app.jobs.lanes import Jobs, JobView
from app.maps import answers as map_answers
from app.maps.calibrated import open_saved
from app.maps.files import export as map_export
from app.maps.files.picture import Look
from app.model.explorer import Explorer, client_of
from app.storage.store import Store
from app.web import export
from engine import LatentSpace
from engine.errors import OptionError, TokenError
from engine.maps import (
    Colour,
    Map,
    MapNotReady,
    MapOptions,
    MapStudio,
    Quality,
    UmapProblem,
    UmapResult,
)
from engine.maps.selection import word_groups
from engine.progress import Check, Progress, Steps

T = TypeVar("T")


@dataclass(frozen=True)
class Places:
    """The drawn coordinates of a map as bytes."""

    body: bytes
    """float32, little-endian, n × dims."""
    n: int
    dims: int
    fingerprint: str


class MapService:
    """What pages and the API ask of maps; made per request, holds nothing itself."""

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer

    async def _ask(
        self,
        request: Request,
        call: Callable[..., T],
        options: MapOptions,
        *arguments: Any,
        **keywords: Any,
    ) -> T:
        """An answer about a map; kept answers about a UMAP end where its layout gets further."""
        store = _store(request, options)
        if options.projection == "umap":
            stage = await _stage_now(request, self._explorer, options)
            return await self._explorer.ask(
                request, _at_stage, stage, store, call, options, *arguments, **keywords
            )
        if store is not None:
            return await self._explorer.ask(
                request, _calibrated, store, call, options, *arguments, **keywords
            )
        return await self._explorer.ask(request, call, options, *arguments, **keywords)

    async def map(self, request: Request, options: MapOptions) -> Map:
        """The map itself; `MapNotReady` where its UMAP has not been computed."""
        return await self._ask(request, _view, options)

    async def meta(self, request: Request, options: MapOptions) -> dict[str, Any]:
        """Everything about it but the coordinates."""
        return await self._ask(request, _meta, options)

    async def points(self, request: Request, options: MapOptions) -> Places:
        """The coordinates as they are drawn."""
        return await self._ask(request, _points, options)

    async def quality(self, request: Request, options: MapOptions) -> Quality:
        """How true the picture is."""
        return await self._ask(request, _quality, options)

    async def colour(self, request: Request, options: MapOptions, by: str) -> Colour:
        """A colour per point."""
        return await self._ask(request, _colour, options, by)

    async def colour_json(self, request: Request, options: MapOptions, by: str) -> bytes:
        """The same, packed."""
        return await self._ask(request, _colour_json, options, by)

    async def neighbours(
        self,
        request: Request,
        options: MapOptions,
        index: int,
        k: int = 10,
        metric: str = "cosine",
        to: int | None = None,
    ) -> dict[str, Any]:
        """A point's nearest in the model's own space, and what another layer makes of them."""
        return await self._ask(request, _neighbours, options, index, k, metric, to)

    async def changes(
        self,
        request: Request,
        options: MapOptions,
        to: int | None,
        limit: int = 20,
        values: bool = False,
    ) -> dict[str, Any]:
        """What moves from the map's layer to another one; None: from before its calibration."""
        return await self._ask(request, _changes, options, to, limit, values)

    async def cka(self, request: Request, options: MapOptions) -> dict[str, Any]:
        """How alike the layers are."""
        return await self._ask(request, _cka, options)

    async def search(
        self,
        request: Request,
        options: MapOptions,
        text: str,
        *,
        regex: bool = False,
        limit: int = 100,
    ) -> dict[str, Any]:
        """Points whose text holds these characters or fits this expression."""
        return await self._ask(request, _search, options, text, regex, limit)

    async def select(
        self,
        request: Request,
        options: MapOptions,
        polygon: Sequence[tuple[float, float]],
        limit: int = 2_000,
    ) -> dict[str, Any]:
        """Points that are drawn inside a polygon."""
        return await self._ask(request, _select, options, tuple(polygon), limit)

    async def selected_table(
        self,
        request: Request,
        options: MapOptions,
        polygon: Sequence[tuple[float, float]],
    ) -> bytes:
        """The same points as CSV, all of them."""
        return await self._ask(request, _selected_table, options, tuple(polygon))

    async def document(self, request: Request, options: MapOptions) -> bytes:
        """The map as JSON, the same bytes as on the command line."""
        return await self._ask(request, _document, options)

    async def file(
        self,
        request: Request,
        options: MapOptions,
        format: map_export.Format,
        colour: str | None = "class",
        look: Look | None = None,
    ) -> bytes:
        """The map as a file."""
        return await self._ask(request, _file, options, format, colour, look)

    async def picture(
        self,
        request: Request,
        options: MapOptions,
        look: Look | None = None,
        colour: str | None = "class",
    ) -> bytes:
        """The map as a picture."""
        look = look or Look()
        return await self.file(request, options, look.format, colour, look)

    async def everyday(
        self, request: Request, words: tuple[tuple[str, str], ...]
    ) -> dict[str, list[str]]:
        """Of each group of words those that are single tokens of the model, in their order."""
        return await self._explorer.ask(request, _everyday, words)

    async def vocabulary(self, request: Request) -> bytes:
        """Every token's label as JSON, by id."""
        return await self._explorer.ask(request, _vocabulary)


# UMAP


async def start_umap(
    request: Request, explorer: Explorer, jobs: Jobs, options: MapOptions, href: str = ""
) -> JobView | None:
    """Start the job of a UMAP map, or join the one under way; None where the map is ready.

    Args:
        request: who asks.
        explorer: whose model.
        jobs: where it runs, beside the model's thread.
        options: of a map with the projection ``umap``.
        href: where the result will be, without the root path.
    """
    if options.projection != "umap":
        raise OptionError(
            f"only the projection umap is a job; {options.projection} is drawn at once."
        )
    layer = "the last layer" if options.layer == -1 else f"layer {options.layer}"
    title = f"UMAP of {layer}, {options.neighbours} neighbours, seed {options.seed}"
    stage = await _stage_now(request, explorer, options)
    if stage.drawn:
        return None
    return await jobs.start(
        "umap",
        title,
        partial(_umap_steps, explorer, jobs, options, _store(request, options)),
        partial(_umap_name, stage.name),
        lane="process",
        client=client_of(request),
        href=href,
        key=f"umap {stage.name}",
    )


def _umap_steps(
    explorer: Explorer, jobs: Jobs, options: MapOptions, store: Store | None
) -> Steps[UmapResult]:
    """The points on the model's thread, then the other process; runs on the lane's own thread."""
    studio, problem = yield from jobs.on_device(partial(_umap_problem, explorer, options, store))
    return (yield from studio.reduce(problem))


def _umap_problem(
    explorer: Explorer, options: MapOptions, store: Store | None
) -> Steps[tuple[MapStudio, UmapProblem]]:
    yield Progress(0, 0, "taking the points")
    _open(explorer.owned(), store, options)
    studio = _studio(explorer.owned())
    yield from studio.read_states(options)
    return studio, studio.umap_problem(options)


def _umap_name(fingerprint: str, result: UmapResult) -> str:
    # It lies in the cache already, whole: the result is known by the map's own name.
    return fingerprint


# On the device thread


def _studio(space: LatentSpace) -> MapStudio:
    studio: MapStudio = space.maps
    return studio


def _view(space: LatentSpace, options: MapOptions, *, check: Check) -> Map:
    return _studio(space).map(options, check=check)


def _meta(space: LatentSpace, options: MapOptions, *, check: Check) -> dict[str, Any]:
    drawn = _view(space, options, check=check)
    return map_answers.described(drawn, space.model.blocks + 1)


def _points(space: LatentSpace, options: MapOptions, *, check: Check) -> Places:
    drawn = _view(space, options, check=check)
    return Places(map_answers.places(drawn), drawn.n, drawn.dims, drawn.fingerprint)


def _quality(space: LatentSpace, options: MapOptions, *, check: Check) -> Quality:
    return _studio(space).quality(options, check=check)


def _colour(space: LatentSpace, options: MapOptions, by: str, *, check: Check) -> Colour:
    return _studio(space).colour(options, colour_name(by), check=check)


def colour_name(by: str) -> str:
    """The engine's name of a colour, which in an address may be written with underscores."""
    return by.replace("_", " ")


def _colour_json(space: LatentSpace, options: MapOptions, by: str, *, check: Check) -> bytes:
    return export.dumps(map_answers.coloured(_colour(space, options, by, check=check)))


def _neighbours(
    space: LatentSpace,
    options: MapOptions,
    index: int,
    k: int,
    metric: str,
    to: int | None,
    *,
    check: Check,
) -> dict[str, Any]:
    studio = _studio(space)
    found = studio.neighbours(options, index, k=k, metric=metric, layer_b=to, check=check)
    return map_answers.near(studio.map(options, check=check), found)


def _changes(
    space: LatentSpace,
    options: MapOptions,
    to: int | None,
    limit: int,
    values: bool,
    *,
    check: Check,
) -> dict[str, Any]:
    studio = _studio(space)
    if to is None:
        if options.calibration is None:
            raise OptionError(
                "say which layer is compared (to), or name a calibration to compare before and"
                " after it."
            )
        options = replace(options, side="before")
        other = replace(options, side="after")
        found = studio.changes_between(options, other, check=check)
    else:
        found = studio.changes(options, to, check=check)
    return map_answers.moved(studio.map(options, check=check), found, limit, values)


def _cka(space: LatentSpace, options: MapOptions, *, check: Check) -> dict[str, Any]:
    return map_answers.similarity_of_layers(_studio(space).cka(options, check=check))


def _search(
    space: LatentSpace,
    options: MapOptions,
    text: str,
    regex: bool,
    limit: int,
    *,
    check: Check,
) -> dict[str, Any]:
    studio = _studio(space)
    indices = studio.search(options, text, regex=regex, check=check)
    drawn = studio.map(options, check=check)
    return map_answers.listed(drawn, indices, limit)


def _inside(
    space: LatentSpace,
    options: MapOptions,
    polygon: tuple[tuple[float, float], ...],
    *,
    check: Check,
) -> tuple[Map, npt.NDArray[Any]]:
    indices = _studio(space).inside(options, polygon, check=check)
    return _view(space, options, check=check), indices


def _select(
    space: LatentSpace,
    options: MapOptions,
    polygon: tuple[tuple[float, float], ...],
    limit: int,
    *,
    check: Check,
) -> dict[str, Any]:
    drawn, indices = _inside(space, options, polygon, check=check)
    return map_answers.listed(drawn, indices, limit, "lie inside the outline")


def _selected_table(
    space: LatentSpace,
    options: MapOptions,
    polygon: tuple[tuple[float, float], ...],
    *,
    check: Check,
) -> bytes:
    drawn, indices = _inside(space, options, polygon, check=check)
    return map_export.table(drawn, (map_answers.placed(drawn, int(i)) for i in indices))


def _document(space: LatentSpace, options: MapOptions, *, check: Check) -> bytes:
    return export.document(_studio(space).map(options, check=check))


def _file(
    space: LatentSpace,
    options: MapOptions,
    format: map_export.Format,
    colour: str | None,
    look: Look | None,
    *,
    check: Check,
) -> bytes:
    drawing = drawing_of(space, options, format, colour, check=check)
    check()
    return map_export.write(drawing, format, look)


def drawing_of(
    space: LatentSpace,
    options: MapOptions,
    format: map_export.Format,
    colour: str | None,
    *,
    check: Check,
) -> map_export.Drawing:
    """A map with its colour and its quality where the format shows them.

    Raises:
        MapNotReady: its UMAP has not been computed.
    """
    studio = _studio(space)
    drawn = studio.map(options, check=check)
    if format not in ("html", "svg", "png"):
        return map_export.Drawing(drawn, None, None)
    painted = studio.colour(options, colour_name(colour), check=check) if colour else None
    return map_export.Drawing(drawn, painted, studio.quality(options, check=check))


def _everyday(
    space: LatentSpace, words: tuple[tuple[str, str], ...], *, check: Check
) -> dict[str, list[str]]:
    return {name: [one for one in some.split() if _is_token(space, one)] for name, some in words}


def _is_token(space: LatentSpace, word: str) -> bool:
    try:
        found = list(word_groups(space, word))
    except TokenError:
        return False
    # A text in two pieces may be found by a special name; only the word itself counts.
    return space.vocabulary.texts[found[0]].strip() == word


def _vocabulary(space: LatentSpace, *, check: Check) -> bytes:
    labels = space.vocabulary.labels
    return export.dumps(
        {"fingerprint": space.model.fingerprint, "size": len(labels), "labels": labels}
    )


@dataclass(frozen=True)
class _Stage:
    """How far the layout of a UMAP is."""

    name: str
    """Of the picture."""
    drawn: bool
    complete: bool
    """Whether the second seed is there too."""


async def _stage_now(request: Request, explorer: Explorer, options: MapOptions) -> _Stage:
    store = _store(request, options)

    def stage(space: LatentSpace, *, check: Check) -> _Stage:
        return _stage(space, store, options, check)

    return await explorer.look(request, stage, "map")


def _stage(space: LatentSpace, store: Store | None, options: MapOptions, check: Check) -> _Stage:
    _open(space, store, options)
    studio = _studio(space)
    name = studio.resolve(options).fingerprint(space.model.fingerprint)
    try:
        drawn = studio.map(options, check=check)
    except MapNotReady:
        return _Stage(name, False, False)
    return _Stage(name, True, drawn.noise_floor is not None)


def _at_stage(
    space: LatentSpace,
    stage: _Stage,
    store: Store | None,
    call: Callable[..., T],
    options: MapOptions,
    /,
    *arguments: Any,
    check: Check,
    **keywords: Any,
) -> T:
    """The call itself; the stage only makes a name of its own for the kept answer."""
    _open(space, store, options)
    return call(space, options, *arguments, check=check, **keywords)


def _calibrated(
    space: LatentSpace,
    store: Store,
    call: Callable[..., T],
    options: MapOptions,
    /,
    *arguments: Any,
    check: Check,
    **keywords: Any,
) -> T:
    """The call with the calibration at hand that its options name."""
    _open(space, store, options)
    return call(space, options, *arguments, check=check, **keywords)


def _open(space: LatentSpace, store: Store | None, options: MapOptions) -> None:
    if store is not None and options.calibration is not None:
        open_saved(space, store, options.calibration)


def _store(request: Request, options: MapOptions) -> Store | None:
    """Where the calibration of a map lies; None where it has none."""
    if options.calibration is None:
        return None
    sets: Sets = request.app.state.sets
    return sets.kept()
