"""A question about maps takes one turn in the queue before the model, and here is where.

Stands on the explorer, so its cache, its queue, its deadlines and its watch on the client hold here
too. What is asked is a method of :class:`engine.maps.MapMaker`, or a function that takes the maker
first, then a map's options, hashable arguments, and last a check.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request

from app.calibrate.sets import Sets
from app.jobs.job import JobView
from app.jobs.lanes import Jobs
from app.maps.calibrated import open_saved
from app.model.explorer import Explorer
from app.storage.store import Store
from app.web.head import client_of
from engine import LatentSpace
from engine.errors import OptionError
from engine.maps import PROJECTIONS, MapMaker, MapNotReady, MapOptions, UmapProblem, UmapResult
from engine.progress import Check, Progress, Steps

T = TypeVar("T")


async def answer(
    request: Request, call: Callable[..., T], options: MapOptions, *arguments: Any
) -> T:
    """The answer of `call`, as above, to a question about a map; `arguments` are more of it."""
    explorer: Explorer = request.app.state.explorer
    return await explorer.ask(request, _at_hand, *_named(request, call, options, arguments))


async def document(
    request: Request,
    writer: Callable[[T], bytes],
    call: Callable[..., T],
    options: MapOptions,
    *arguments: Any,
) -> bytes:
    """The same written out on the device thread, because a map and its JSON can be large."""
    explorer: Explorer = request.app.state.explorer
    named = _named(request, call, options, arguments)
    return await explorer.document(request, writer, _at_hand, *named)


def _named(
    request: Request, call: Callable[..., Any], options: MapOptions, arguments: tuple[Any, ...]
) -> tuple[Any, ...]:
    """What `_at_hand` takes, which is the name of the kept answer as well.

    A kept answer about the map of a job ends where any layout gets further.
    """
    maps = [one for one in (options, *arguments) if isinstance(one, MapOptions)]
    space = request.app.state.explorer.models.space
    layouts = None
    if space is not None and any(PROJECTIONS[one.projection].is_job for one in maps):
        layouts = space.maps.layouts
    return (layouts, store_of(request, options), call, options, *arguments)


def _at_hand(
    space: LatentSpace,
    layouts: int | None,
    store: Store | None,
    call: Callable[..., T],
    options: MapOptions,
    *arguments: Any,
    check: Check,
) -> T:
    """The call with the calibration at hand that its options name."""
    open_saved(space, store, options.calibration)
    return call(space.maps, options, *arguments, check=check)


def store_of(request: Request, options: MapOptions) -> Store | None:
    """Where the calibration of a map lies; None where it has none."""
    if options.calibration is None:
        return None
    sets: Sets = request.app.state.sets
    return sets.kept()


# --- the job of a map that takes long: its points here, then a process of its own


async def start_umap(
    request: Request, explorer: Explorer, jobs: Jobs, options: MapOptions, href: str = ""
) -> JobView | None:
    """Start the job of a map, or join the one under way; None where the map is ready.

    Args:
        jobs: where it runs, beside the model's thread.
        options: of a map whose projection is a job.
        href: where the result will be, without the root path.
    """
    layout = PROJECTIONS[options.projection].layout
    if layout is None:
        slow = ", ".join(name for name, one in PROJECTIONS.items() if one.is_job)
        raise OptionError(
            f"only the projection {slow} is a job; {options.projection} is drawn at once."
        )
    store = store_of(request, options)
    title = layout.title(
        options, "the last layer" if options.layer == -1 else f"layer {options.layer}"
    )
    name = await explorer.look(request, partial(_missing, store=store, options=options), "map")
    if name is None:
        return None
    return await jobs.start(
        "umap",
        title,
        partial(_steps, explorer, jobs, options, store),
        # It lies in the cache already, whole: the result is known by the map's own name.
        lambda result: result.fingerprint,
        lane="process",
        client=client_of(request),
        href=href,
        key=f"umap {name}",
    )


def _missing(
    space: LatentSpace, *, store: Store | None, options: MapOptions, check: Check
) -> str | None:
    """The name of the map where its layout is not kept yet."""
    open_saved(space, store, options.calibration)
    try:
        space.maps.map(options, check=check)
    except MapNotReady:
        return space.maps.fingerprint(options)
    return None


def _steps(
    explorer: Explorer, jobs: Jobs, options: MapOptions, store: Store | None
) -> Steps[UmapResult]:
    """Runs on the lane's own thread."""
    maker, make = yield from jobs.on_device(partial(_points, explorer, options, store))
    yield Progress(0, 0, "finding the principal axes")
    return (yield from maker.reduce(make()))


def _points(
    explorer: Explorer, options: MapOptions, store: Store | None
) -> Steps[tuple[MapMaker, Callable[[], UmapProblem]]]:
    yield Progress(0, 0, "taking the points")
    space = explorer.owned()
    open_saved(space, store, options.calibration)
    return space.maps, (yield from space.maps.umap_points(options))
