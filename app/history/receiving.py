"""A file of runs that is sent, read under the limits of uploads."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request

from app.calibrate.sets import Sets
from app.storage.run import RunView
from app.storage.runs import Runs
from app.storage.store import aside, storage_error
from app.web.head import client_of
from app.web.uploads import check_type, uploaded


async def receive(request: Request, runs: Runs, sets: Sets) -> tuple[RunView, ...]:
    """Keep the runs of a multipart form's file.

    Raises:
        OptionError: it holds none, or is damaged; and as `app.web.uploads.uploaded` does.
        QueueFull: as many uploads are on their way, from this client or in all, as may be.
        StorageError: they cannot be kept.
    """
    check_type(request)
    with sets.arrival(client_of(request)):
        try:
            async with uploaded(request) as (file, _):
                body = await file.read()
        except OSError as error:
            raise storage_error(error) from error
        return await aside(partial(runs.add, body))
