"""The job of a map that takes long: its points on the model's thread, then its own process."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request

from app.jobs.job import JobView
from app.jobs.lanes import Jobs
from app.maps.calibrated import open_saved
from app.maps.turn import store_of
from app.model.explorer import Explorer, client_of
from app.storage.store import Store
from engine import LatentSpace
from engine.errors import OptionError
from engine.maps import PROJECTIONS, MapMaker, MapNotReady, MapOptions, UmapProblem, UmapResult
from engine.progress import Check, Progress, Steps


async def start_umap(
    request: Request, explorer: Explorer, jobs: Jobs, options: MapOptions, href: str = ""
) -> JobView | None:
    """Start the job of a map, or join the one under way; None where the map is ready.

    Args:
        request: who asks.
        explorer: whose model.
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
        return space.maps.resolve(options).fingerprint(space.model.fingerprint)
    return None


def _steps(
    explorer: Explorer, jobs: Jobs, options: MapOptions, store: Store | None
) -> Steps[UmapResult]:
    """Runs on the lane's own thread."""
    maker, problem = yield from jobs.on_device(partial(_problem, explorer, options, store))
    return (yield from maker.reduce(problem))


def _problem(
    explorer: Explorer, options: MapOptions, store: Store | None
) -> Steps[tuple[MapMaker, UmapProblem]]:
    yield Progress(0, 0, "taking the points")
    space = explorer.owned()
    open_saved(space, store, options.calibration)
    yield from space.maps.read_states(options)
    return space.maps, space.maps.umap_problem(options)
