"""Maps as JSON, binary and files, under ``/api/v1/map``; described by OpenAPI.

The map that is meant stands in the query string of every address, so each is a permalink.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from app.jobs.lanes import JobsDep
from app.maps import answers, documents
from app.maps.answers import draft_of, inside, motion, neighbourhood
from app.maps.files.export import MEDIA, Format, file_of
from app.maps.files.picture import HEIGHTS, WIDTHS, Look
from app.maps.question import ColourName, MapQuestion, link_path, options_of
from app.maps.turn import answer, document, start_umap
from app.model.explorer import ExplorerDep
from app.web import export
from app.web.answers import FaultDocument, described, file_answer, json_answer
from app.web.questions import LayerNumber, Question, ShortText
from app.web.rendering import link
from engine.maps import MapMaker, MapOptions

SELECTED = 2_000
"""Rows of a selection that an answer lists."""


class MapFileQuestion(MapQuestion):
    """Which map, and as what."""

    format: Format | None = Field(None, description="A file of this kind; left out: JSON.")
    colour: ColourName = Field("class", description="What colours the points of a picture.")
    theme: Literal["light", "dark"] = Field("light", description="Of a picture.")
    width: int = Field(1200, ge=WIDTHS[0], le=WIDTHS[1], description="Of a picture, in pixels.")
    height: int = Field(800, ge=HEIGHTS[0], le=HEIGHTS[1], description="Of a picture, in pixels.")


class MapColourQuestion(MapQuestion):
    """Which map, and what colours it."""

    by: ColourName = Field(description="What colours the points.")


class MapNeighboursQuestion(MapQuestion):
    """Which map, and which of its points."""

    index: int = Field(ge=0, le=10_000_000, description="The point's number on the map, from 0.")
    k: int = Field(10, ge=1, le=100, description="How many neighbours.")
    metric: Literal["cosine", "l2"] = Field("cosine", description="How nearness is measured.")
    to: LayerNumber | None = Field(None, description="A second layer: gained and lost there.")


class MapChangesQuestion(MapQuestion):
    """Which map, and the layer it is compared with."""

    to: LayerNumber | None = Field(None, description="The other layer; left out with a "
        "calibration: from before it to after it.")  # fmt: skip
    limit: int = Field(20, ge=1, le=20, description="How many movers.")
    values: bool = Field(False, description="Every point's figures as well.")


class MapQualityQuestion(MapQuestion):
    """Which map, and whether every point is looked at."""

    exact: bool = Field(False, description="Every point asked for its neighbours, however many: "
        "of a whole vocabulary a minute or more, at most the server's deadline.")  # fmt: skip


class MapSearchQuestion(MapQuestion):
    """Which map, and what is looked for on it."""

    text: ShortText | None = Field(None, description="Characters that the point's text holds.")
    regex: ShortText | None = Field(None, description="A regular expression that fits it.")
    limit: int = Field(100, ge=1, le=500, description="How many points at most as rows.")

    @model_validator(mode="after")
    def _one(self) -> MapSearchQuestion:
        if bool(self.text) == bool(self.regex):
            raise ValueError("give either text or regex")
        return self


class MapSelectQuestion(MapQuestion):
    """Which map, and as what the selected points come."""

    format: Literal["json", "csv"] = Field("json", description="JSON, or a table.")


class VocabularyQuestion(Question):
    """Which vocabulary."""

    v: Annotated[str, Field(max_length=80)] = Field("", description="The model's fingerprint: with "
        "the right one the answer may be kept for ever.")  # fmt: skip


Coordinate = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


class Outline(BaseModel):
    """A polygon on the map."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    polygon: list[tuple[Coordinate, Coordinate]] = Field(
        min_length=3, max_length=500, description="Its corners; the last is joined to the first."
    )


router = APIRouter(prefix="/api/v1", tags=["maps"])
_MAP = {
    **described(),
    409: {
        "model": FaultDocument,
        "description": "The UMAP of this map is not computed yet; POST /api/v1/map/umap.",
    },
}


_FILES: dict[str, Any] = {kind.partition(";")[0]: {} for kind in MEDIA.values()}
_BYTES: dict[int | str, Any] = {
    200: {"content": {"application/octet-stream": {}}, "description": "float32, little-endian."}
}
_POINTS: dict[str, Any] = {
    "content": {"application/json": {}, "text/csv": {}},
    "description": "The points inside.",
}


@router.get("/map", responses={**_MAP, 200: {"content": _FILES, "description": "The map."}})
async def map_(request: Request, query: Annotated[MapFileQuestion, Query()]) -> Response:
    """The map's points with their coordinates; with a format as a file to keep."""
    options = await options_of(request, query)
    if query.format is None:
        return json_answer(await document(request, export.document, MapMaker.map, options))
    look = None
    if query.format in ("svg", "png"):
        look = Look(query.format, query.width, query.height, query.theme == "dark")
    body = await answer(request, file_of, options, query.format, query.colour, look)
    return _download(body, query.format, options)


def _download(body: bytes, format: Format, options: MapOptions) -> Response:
    """A file to keep, under a name that holds nothing of what was typed."""
    return file_answer(body, f"{export.file_stem('map', options)}.{format}", MEDIA[format])


@router.get("/map/points", responses={**_MAP, **_BYTES})
async def points(request: Request, query: Annotated[MapQuestion, Query()]) -> Response:
    """The drawn coordinates: float32, little-endian, point by point; clipped to the border."""
    drawn = await answer(request, MapMaker.map, await options_of(request, query))
    body = np.ascontiguousarray(drawn.border.clipped, dtype="<f4").tobytes()
    digest = hashlib.sha256(body).hexdigest()[:32]
    headers = {
        "X-Lexiscope-Points": f"{drawn.n},{drawn.dims}",
        "X-Lexiscope-Map": drawn.fingerprint,
    }
    return tagged(request, body, digest, "application/octet-stream", headers)


def tagged(
    request: Request, body: bytes, digest: str, media_type: str, headers: dict[str, str]
) -> Response:
    """An answer with a tag, or 304 where the browser has it."""
    tag = f'"{digest}"'
    headers = {"Cache-Control": "private, no-cache", **headers, "ETag": tag}
    asked = request.headers.get("if-none-match", "")
    if tag in [one.strip().removeprefix("W/") for one in asked.split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


async def _json(
    request: Request, question: MapQuestion, writer: Any, call: Any, *arguments: Any
) -> Response:
    """What a question about a map is answered, as JSON."""
    options = await options_of(request, question)
    return json_answer(await document(request, writer, call, options, *arguments))


@router.get("/map/meta", responses=_MAP)
async def meta(request: Request, query: Annotated[MapQuestion, Query()]) -> Response:
    """Everything about the map but its coordinates."""
    return await _json(request, query, documents.write_map, MapMaker.map)


@router.get("/map/regions", responses=_MAP)
async def regions(request: Request, query: Annotated[MapQuestion, Query()]) -> Response:
    """The named regions of a UMAP: dense parts at several levels, coarse ones first."""
    return await _json(request, query, documents.write_regions, MapMaker.regions)


@router.get("/map/draft", responses={**described(), **_BYTES})
async def draft(
    request: Request, query: Annotated[MapQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """Where the points of a UMAP under way were lately: float32, little-endian, point by point;
    empty where none is."""
    options = await options_of(request, query)
    places = await explorer.look(request, partial(draft_of, options=options), "map draft")
    if places is None:
        places = np.zeros((0, options.dims), dtype=np.float32)
    headers = {
        "Cache-Control": "no-store",
        "X-Lexiscope-Points": ",".join(map(str, places.shape)),
    }
    body = np.ascontiguousarray(places, dtype="<f4").tobytes()
    return Response(body, headers=headers, media_type="application/octet-stream")


@router.get("/map/colour", responses=_MAP)
async def colour(request: Request, query: Annotated[MapColourQuestion, Query()]) -> Response:
    """A colour for every point: a number, or a code and its name."""
    by = query.by.replace("_", " ")  # as its name may be written in an address
    return await _json(request, query, documents.write_colour, MapMaker.colour, by)


@router.get("/map/quality", responses=_MAP)
async def quality(request: Request, query: Annotated[MapQualityQuestion, Query()]) -> Response:
    """How true the picture is, one sentence first."""
    return await _json(request, query, export.document, MapMaker.quality, query.exact)


@router.get("/map/neighbours", responses=_MAP)
async def neighbours(
    request: Request, query: Annotated[MapNeighboursQuestion, Query()]
) -> Response:
    """A point's nearest in the model's own space, and its nearest bases."""
    asked = query.index, query.k, query.metric, query.to
    return await _json(request, query, documents.write_neighbours, neighbourhood, *asked)


@router.get("/map/changes", responses=_MAP)
async def changes(request: Request, query: Annotated[MapChangesQuestion, Query()]) -> Response:
    """What moves between two layers, the biggest movers first."""
    writer = documents.WriteChanges(query.limit, query.values)
    return await _json(request, query, writer, motion, query.to)


@router.get("/map/cka", responses=_MAP)
async def cka(request: Request, query: Annotated[MapQuestion, Query()]) -> Response:
    """How alike every two layers are: linear CKA of the states of this map."""
    return await _json(request, query, documents.write_cka, MapMaker.cka)


@router.get("/map/search", responses=_MAP)
async def search(request: Request, query: Annotated[MapSearchQuestion, Query()]) -> Response:
    """Points by their text."""
    asked = query.text or query.regex or "", bool(query.regex)
    return await _json(request, query, documents.WritePoints(query.limit), answers.search, *asked)


@router.post("/map/select", responses={**_MAP, 200: _POINTS})
async def select(
    request: Request, query: Annotated[MapSelectQuestion, Query()], body: Outline
) -> Response:
    """Points that are drawn inside a polygon; for two dimensions."""
    polygon = tuple(body.polygon)
    if query.format == "csv":
        return await selected_table(request, query, polygon)
    return await _json(request, query, documents.WritePoints(SELECTED), inside, polygon)


async def selected_table(
    request: Request, question: MapQuestion, polygon: tuple[tuple[float, float], ...]
) -> Response:
    """The points inside a polygon as CSV, all of them."""
    options = await options_of(request, question)
    body = await document(request, documents.write_table, inside, options, polygon)
    return _download(body, "csv", options)


@router.post("/map/umap", responses={**_MAP, 202: {"description": "A job was started."}})
async def umap(
    request: Request,
    query: Annotated[MapQuestion, Query()],
    explorer: ExplorerDep,
    jobs: JobsDep,
) -> Response:
    """Compute the UMAP of this map as a job, or join the one under way."""
    options = await options_of(request, query)
    job = await start_umap(request, explorer, jobs, options, link_path(query))
    if job is None:
        return json_answer(export.dumps({"ready": True}))
    body = export.dumps({"ready": False, "job": job.to_dict()})
    place = link(request, f"/api/v1/jobs/{job.id}")
    return Response(body, 202, {"Location": place}, media_type="application/json")


@router.get("/vocabulary", responses=described())
async def vocabulary(
    request: Request, query: Annotated[VocabularyQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """The label of every token, by id; once per model."""
    body = await explorer.ask(request, documents.write_vocabulary)
    packed = await asyncio.to_thread(gzip.compress, body, 6, mtime=0)
    name = explorer.facts().fingerprint
    headers = {"Vary": "Accept-Encoding"}
    if query.v == name:
        headers["Cache-Control"] = "private, max-age=31536000, immutable"
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    if "gzip" in request.headers.get("accept-encoding", "").lower():
        headers["Content-Encoding"] = "gzip"
        return tagged(request, packed, f"{digest}-gzip", "application/json", headers)
    return tagged(request, body, digest, "application/json", headers)
