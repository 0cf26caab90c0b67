"""Static files: ours, and Plotly.js and htmx out of the installed wheels.

The URL's ``v`` is the content's hash, so a browser may keep what it got with the right one for
ever. Anything else is asked for anew and answered 304 where it has not changed.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.web import assets

router = APIRouter(include_in_schema=False)


@router.get("/static/{name:path}")
async def static(
    name: str,
    v: Annotated[str, Query(max_length=64)] = "",
    accept_encoding: Annotated[str, Header(max_length=1000)] = "",
    if_none_match: Annotated[str, Header(max_length=1000)] = "",
) -> Response:
    """One file of the catalogue; a name is looked up there and never becomes a path."""
    asset = assets.catalogue().get(name)
    if asset is None:
        raise HTTPException(404)
    # The first call of a file reads and compresses it, which must not hold up the loop.
    content = await asyncio.to_thread(asset.content)
    packed = content.compressed is not None and _takes_gzip(accept_encoding)
    tag = f'"{content.digest}{"-gzip" if packed else ""}"'
    lasting = v == content.digest
    headers = {
        "ETag": tag,
        "Vary": "Accept-Encoding",
        "Cache-Control": "public, max-age=31536000, immutable" if lasting else "no-cache",
    }
    if tag in [given.strip().removeprefix("W/") for given in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    body = content.compressed if packed else content.body
    return Response(body, headers=headers, media_type=asset.media_type)


def _takes_gzip(accepted: str) -> bool:
    for part in accepted.lower().split(","):
        name, _, parameters = part.partition(";")
        if name.strip() in ("gzip", "*"):
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
