"""A question about maps takes one turn in the queue before the model, and here is where.

Stands on the explorer, so its cache, its queue, its deadlines and its watch on the client hold here
too. What is asked is a method of :class:`engine.maps.MapMaker`, or a function that takes the maker
first, then a map's options, hashable arguments, and last a check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request

from app.calibrate.sets import Sets
from app.maps.calibrated import open_saved
from app.model.explorer import Explorer
from app.storage.store import Store
from engine import LatentSpace
from engine.maps import PROJECTIONS, MapOptions
from engine.progress import Check

T = TypeVar("T")


async def answer(
    request: Request, call: Callable[..., T], options: MapOptions, *arguments: Any
) -> T:
    """The answer to a question about a map.

    Args:
        request: who asks.
        call: method of the maker or function, as above.
        options: of the map.
        arguments: more of what `call` takes.
    """
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
