"""Maps as JSON, binary and files, under ``/api/v1/map``; described by OpenAPI.

The map that is meant stands in the query string of every address, so each is a permalink.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from app.jobs.lanes import JobsDep
from app.maps.calibrated import calibration_name, reading_of
from app.maps.files.export import MEDIA, Format
from app.maps.files.picture import Look
from app.maps.inputs import concept_axes, text_set
from app.maps.service import MapService, start_umap
from app.model.explorer import Explorer, ExplorerDep
from app.web import export
from app.web.answers import FaultDocument, described, json_answer
from app.web.questions import LayerNumber, PromptText, Question, ShortText, no_nul
from app.web.rendering import link
from engine.frames.kinds import FrameName
from engine.maps import CalibrationName, MapOptions, TextSet
from engine.trace.options import StateName

ColourName = Annotated[str, Field(max_length=40, pattern=r"^[a-z_ ]+$")]
SEED_CEILING = 2**31 - 2


LongText = Annotated[str, Field(max_length=4_000), AfterValidator(no_nul)]
"""A selection or the tokens of concept axes in a query model."""


class MapQuestion(Question):
    """Which map."""

    vocabulary: Literal["bases", "alone", "none"] = Field("bases", description="The tokens of the "
        "vocabulary: their fixed bases, each token's own state at the layer, or none.")  # fmt: skip
    frame: FrameName = Field("output", description="The vectors that stand for the tokens.")
    select: LongText = Field("all", description="Which tokens: all, ids:1,2, words:cat,dog, "
        "words:NAME=cat,dog;NAME=red,blue, search:TEXT, regex:EXPRESSION, prompt, or near:K to "
        "the prompt's last state.")  # fmt: skip
    prompt: PromptText | None = Field(None, description="Its tokens' states are points.")
    bos: Literal["auto", "yes", "no"] = Field("auto", description="Whether the model's first "
        "token is put before the prompt.")  # fmt: skip
    chat: bool = Field(False, description="Put the prompt into the model's chat template.")
    texts: Annotated[str, Field(max_length=40)] | None = Field(None, description="A text set by "
        "its name or id; each text's last state is a point.")  # fmt: skip
    layer: LayerNumber = Field(-1, description="The layer of the states: 0 is the embedding, "
        "-1 the last.")  # fmt: skip
    state: StateName = Field("normed", description="States after the final norm, or raw.")
    preprocessing: Literal["raw", "centred", "unit", "standardised"] = Field(
        "unit", description="What is done to every point before anything is fitted or placed."
    )
    projection: Literal["shared", "selection", "layer", "umap", "axes"] = Field(
        "shared", description="One linear frame for all layers, of all bases or of the bases on "
        "the map; each layer's own, turned onto the bases; UMAP; or concept "
        "axes.")  # fmt: skip
    dims: int = Field(2, ge=2, le=3, description="2 or 3.")
    seed: int = Field(0, ge=0, le=SEED_CEILING, description="Of UMAP and of every sample.")
    neighbours: int = Field(15, ge=2, le=200, description="UMAP's n_neighbors.")
    min_dist: float = Field(0.1, ge=0, le=1, description="UMAP's min_dist.")
    principal: int = Field(50, ge=2, le=4096, description="UMAP starts from so many principal "
        "axes; at most as many as the model has dimensions.")  # fmt: skip
    axes: LongText | None = Field(None, description="Concept axes, a plus and a minus token for "
        "each dimension: king-queen,man-woman; \\- and \\, are those characters, #262 is an "
        "id.")  # fmt: skip
    calibration: Annotated[str, Field(max_length=40, pattern=r"^[0-9a-f]{0,40}$")] | None = Field(
        None, description="A saved calibration by its id: its states take the place of the "
        "model's.")  # fmt: skip
    side: Literal["before", "after"] = Field("after", description="With a calibration: after it, "
        "or before it in the same window.")  # fmt: skip

    def options(
        self, texts: TextSet | None, calibration: CalibrationName | None = None
    ) -> MapOptions:
        """The engine's options.

        Args:
            texts: the text set that `texts` names.
            calibration: what `calibration` names.
        """
        return MapOptions(
            vocabulary=self.vocabulary,
            frame=self.frame,
            select=self.select or "all",
            prompt=self.prompt or None,
            bos=self.bos,
            chat=self.chat,
            texts=texts,
            layer=self.layer,
            state=self.state,
            preprocessing=self.preprocessing,
            projection=self.projection,
            dims=self.dims,
            seed=self.seed,
            neighbours=self.neighbours,
            min_dist=self.min_dist,
            principal=self.principal,
            axes=concept_axes(self.axes or ""),
            calibration=calibration,
            side=self.side,
        )

    def link_fields(self) -> dict[str, Any]:
        """The fields of the map that are not at their defaults, for a link to the same map."""
        names = MapQuestion.model_fields
        return {
            name: value
            for name, value in self.model_dump(exclude_defaults=True).items()
            if name in names
        }


class MapFileQuestion(MapQuestion):
    """Which map, and as what."""

    format: Format | None = Field(None, description="A file of this kind; left out: JSON.")
    colour: ColourName = Field("class", description="What colours the points of a picture.")
    theme: Literal["light", "dark"] = Field("light", description="Of a picture.")
    width: int = Field(1200, ge=400, le=2400, description="Of a picture, in pixels.")
    height: int = Field(800, ge=300, le=1800, description="Of a picture, in pixels.")


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


async def options_of(request: Request, question: MapQuestion) -> MapOptions:
    """The engine's options for a question; `OptionError` where they cannot be."""
    calibration = await calibration_name(request, question.calibration)
    reading = None
    if calibration is not None and question.texts:
        reading = await reading_of(request, calibration.id)
    return question.options(await text_set(request, question.texts, reading), calibration)


def service(explorer: ExplorerDep) -> MapService:
    """The maps of the loaded model."""
    return MapService(explorer)


Maps = Annotated[MapService, Depends(service)]


@router.get("/map", responses={**_MAP, 200: {"content": _FILES, "description": "The map."}})
async def map_(
    request: Request, query: Annotated[MapFileQuestion, Query()], maps: Maps
) -> Response:
    """The map's points with their coordinates; with a format as a file to keep."""
    options = await options_of(request, query)
    if query.format is None:
        return json_answer(await maps.document(request, options))
    look = None
    if query.format in ("svg", "png"):
        look = Look(query.format, query.width, query.height, query.theme == "dark")
    body = await maps.file(request, options, query.format, query.colour, look)
    return download(body, query.format, options)


def download(body: bytes, format: Format, options: MapOptions) -> Response:
    """A file to keep, under a name that holds nothing of what was typed."""
    stem = export.file_stem("map", options)
    headers = {"Content-Disposition": f'attachment; filename="{stem}.{format}"'}
    return Response(body, headers=headers, media_type=MEDIA[format])


@router.get("/map/points", responses={**_MAP, **_BYTES})
async def points(request: Request, query: Annotated[MapQuestion, Query()], maps: Maps) -> Response:
    """The drawn coordinates: float32, little-endian, point by point; clipped to the border."""
    options = await options_of(request, query)
    found = await maps.points(request, options)
    digest = hashlib.sha256(found.body).hexdigest()[:32]
    headers = {
        "X-Lexiscope-Points": f"{found.n},{found.dims}",
        "X-Lexiscope-Map": found.fingerprint,
    }
    return tagged(request, found.body, digest, "application/octet-stream", headers)


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


@router.get("/map/meta", responses=_MAP)
async def meta(request: Request, query: Annotated[MapQuestion, Query()], maps: Maps) -> Response:
    """Everything about the map but its coordinates."""
    options = await options_of(request, query)
    return json_answer(export.dumps(await maps.meta(request, options)))


@router.get("/map/colour", responses=_MAP)
async def colour(
    request: Request, query: Annotated[MapColourQuestion, Query()], maps: Maps
) -> Response:
    """A colour for every point: a number, or a code and its name."""
    options = await options_of(request, query)
    return json_answer(await maps.colour_json(request, options, query.by))


@router.get("/map/quality", responses=_MAP)
async def quality(request: Request, query: Annotated[MapQuestion, Query()], maps: Maps) -> Response:
    """How true the picture is, one sentence first."""
    options = await options_of(request, query)
    return json_answer(export.document(await maps.quality(request, options)))


@router.get("/map/neighbours", responses=_MAP)
async def neighbours(
    request: Request, query: Annotated[MapNeighboursQuestion, Query()], maps: Maps
) -> Response:
    """A point's nearest in the model's own space, and its nearest bases."""
    options = await options_of(request, query)
    found = await maps.neighbours(request, options, query.index, query.k, query.metric, query.to)
    return json_answer(export.dumps(found))


@router.get("/map/changes", responses=_MAP)
async def changes(
    request: Request, query: Annotated[MapChangesQuestion, Query()], maps: Maps
) -> Response:
    """What moves between two layers, the biggest movers first."""
    options = await options_of(request, query)
    found = await maps.changes(request, options, query.to, query.limit, query.values)
    return json_answer(export.dumps(found))


@router.get("/map/cka", responses=_MAP)
async def cka(request: Request, query: Annotated[MapQuestion, Query()], maps: Maps) -> Response:
    """How alike every two layers are: linear CKA of the states of this map."""
    options = await options_of(request, query)
    return json_answer(export.dumps(await maps.cka(request, options)))


@router.get("/map/search", responses=_MAP)
async def search(
    request: Request, query: Annotated[MapSearchQuestion, Query()], maps: Maps
) -> Response:
    """Points by their text."""
    options = await options_of(request, query)
    found = await maps.search(
        request,
        options,
        query.text or query.regex or "",
        regex=bool(query.regex),
        limit=query.limit,
    )
    return json_answer(export.dumps(found))


@router.post("/map/select", responses={**_MAP, 200: _POINTS})
async def select(
    request: Request, query: Annotated[MapSelectQuestion, Query()], body: Outline, maps: Maps
) -> Response:
    """Points that are drawn inside a polygon; for two dimensions."""
    options = await options_of(request, query)
    if query.format == "csv":
        table = await maps.selected_table(request, options, body.polygon)
        return download(table, "csv", options)
    found = await maps.select(request, options, body.polygon)
    return json_answer(export.dumps(found))


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


def link_path(question: MapQuestion) -> str:
    """The page of this map, without the root path."""
    pairs = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in question.link_fields().items()
    }
    return "/map" + (f"?{urlencode(pairs, quote_via=quote)}" if pairs else "")


@router.get("/vocabulary", responses=described())
async def vocabulary(
    request: Request,
    query: Annotated[VocabularyQuestion, Query()],
    explorer: ExplorerDep,
    maps: Maps,
) -> Response:
    """The label of every token, by id; once per model."""
    body, packed = await _vocabulary(request, explorer, maps)
    name = explorer.facts().fingerprint
    headers = {"Vary": "Accept-Encoding"}
    if query.v == name:
        headers["Cache-Control"] = "private, max-age=31536000, immutable"
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    if "gzip" in request.headers.get("accept-encoding", "").lower():
        headers["Content-Encoding"] = "gzip"
        return tagged(request, packed, f"{digest}-gzip", "application/json", headers)
    return tagged(request, body, digest, "application/json", headers)


async def _vocabulary(
    request: Request, explorer: Explorer, maps: MapService
) -> tuple[bytes, bytes]:
    body = await maps.vocabulary(request)
    return body, await asyncio.to_thread(gzip.compress, body, 6, mtime=0)
