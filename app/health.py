"""Whether the server lives, and whether it is ready; nothing here waits for or touches anything."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.jobs.lanes import JobsDep
from app.model.explorer import Explorer, ExplorerDep
from app.storage.disk import FreeDisk
from app.web.export import dumps
from app.web.metrics import CONTENT_TYPE, Metrics
from app.web.security import KNOWN

router = APIRouter(include_in_schema=False)
_STRANGER = "The server cannot answer questions at the moment."


@router.get("/livez")
@router.get("/health")
async def livez() -> Response:
    """200 whenever the event loop turns."""
    return Response(dumps({"status": "alive"}), media_type="application/json")


@router.get("/readyz")
@router.get("/ready")
async def readyz(request: Request, explorer: ExplorerDep, jobs: JobsDep) -> Response:
    """200 when a request would be taken and answered, else 503 with the reason.

    Whoever has not shown the token of a server that has one learns only whether it is ready.
    """
    disk: FreeDisk = request.app.state.disk
    reason = not_ready(explorer, disk)
    body: dict[str, object] = {"ready": reason is None}
    if request.scope["state"].get(KNOWN):
        opening = explorer.models.opening
        body |= {
            "reason": reason,
            "state": explorer.state,
            "progress": explorer.progress,
            # The first load is no change of models.
            "switching": None if opening is None or explorer.info is None else opening.name,
            "running": explorer.device.running,
            "waiting": explorer.device.waiting,
            "places": explorer.device.places,
            "jobs": jobs.under_way,
            "free_disk_bytes": disk.free,
        }
    else:
        body["reason"] = None if reason is None else _STRANGER
    headers = {} if reason is None else {"Retry-After": "2"}
    return Response(dumps(body), 200 if reason is None else 503, headers, "application/json")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The process's figures in Prometheus' text format; behind the token where there is one."""
    figures: Metrics = request.app.state.metrics
    return Response(figures.text(), media_type=CONTENT_TYPE)


def not_ready(explorer: Explorer, disk: FreeDisk) -> str | None:
    """Why a request would not be answered now, in one sentence, or None."""
    device = explorer.device
    if explorer.state == "loading":
        return explorer.progress
    if explorer.state == "failed":
        return explorer.failure
    if not device.alive:
        return "The computing thread has stopped; restart the server."
    if device.heartbeat_age_s > explorer.settings.heartbeat_limit_s:
        return "The computing thread gives no sign of life."
    if device.waiting >= device.places:
        return "Every place in the queue is taken."
    return disk.shortage
