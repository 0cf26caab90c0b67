"""The numbers of every page as JSON and CSV, under ``/api/v1``; described by OpenAPI.

Each answer is written by `app.web.export`, as the command line's ``--json`` is, so the bytes agree.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.model.explorer import Explorer, limits_of, token_reference
from app.settings import K_CEILING, TOKEN_CEILING
from app.trace.cost import predict_cost
from app.web import export
from app.web.dependencies import ExplorerDep, PromptText, RangeText, ShortText
from engine import LatentSpace, TraceOptions

Geometry = Literal["cosine", "l2", "matmul"]
Frame = Literal["output", "input", "head", "tight", "random"]
State = Literal["normed", "raw"]
LayerNumber = Annotated[int, Field(ge=-1, le=10_000)]
IdList = Annotated[str, Field(max_length=320, pattern=r"^[0-9]{1,9}(,[0-9]{1,9}){0,31}$")]


# What is asked


class Question(BaseModel):
    """What all questions have in common: nothing unknown, nothing endless."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TraceQuestion(Question):
    """A prompt and how to read it."""

    prompt: PromptText = Field(description="The text to trace.")
    geometry: Geometry = Field("cosine", description="How nearness is measured.")
    frame: Frame = Field("output", description="The vectors that stand for the tokens.")
    state: State = Field("normed", description="Read states after the final norm, or raw.")
    centred: bool = Field(False, description="Take the layer's mean over the prompt "
        "off each state, and the mean basis off each basis.")  # fmt: skip
    temperature: float | None = Field(None, ge=1e-3, le=1e4, description="Of the probabilities; "
        "left out: the geometry's own.")  # fmt: skip
    k: int = Field(10, ge=1, le=K_CEILING, description="Nearest tokens per cell.")
    layers: RangeText | None = Field(None, description="Which layers: 0:6, 0:12:2, 3; left out: "
        "all.")  # fmt: skip
    positions: RangeText | None = Field(None, description="Which positions, written like layers.")
    bos: Literal["auto", "yes", "no"] = Field("auto", description="Whether the model's first "
        "token is put before the prompt.")  # fmt: skip
    chat: bool = Field(False, description="Put the prompt into the model's chat template.")
    words_only: bool = Field(False, description="List words and word pieces only; "
        "probabilities and ranks stay those of the whole vocabulary.")  # fmt: skip

    def options(self) -> TraceOptions:
        """The engine's options."""
        return TraceOptions(
            geometry=self.geometry,
            frame=self.frame,
            state=self.state,
            centred=self.centred,
            temperature=self.temperature,
            k=self.k,
            layers=self.layers or None,
            positions=self.positions or None,
            bos=self.bos,
            chat=self.chat,
            words_only=self.words_only,
        )


class CellQuestion(TraceQuestion):
    """A prompt, how to read it, and one cell of the grid."""

    layer: LayerNumber = Field(description="The layer: 0 is the embedding, -1 the last.")
    position: Annotated[int, Field(ge=-1, le=TOKEN_CEILING)] = Field(
        -1, description="The token's place in the prompt, from 0; -1: the last."
    )


class CurvesQuestion(TraceQuestion):
    """A prompt, how to read it, and the tokens to follow."""

    ids: IdList | None = Field(None, description="Token ids, separated by commas, at most 32; "
        "left out: those that are nearest at any layer.")  # fmt: skip

    position: Annotated[int, Field(ge=-1, le=TOKEN_CEILING)] = Field(
        -1, description="The token's place in the prompt, from 0; -1: the last."
    )

    def pins(self) -> tuple[int, ...] | None:
        """The ids, each once, in their order."""
        if self.ids is None:
            return None
        return tuple(dict.fromkeys(int(one) for one in self.ids.split(",")))


class BasesQuestion(Question):
    """A token and where to look for its neighbours."""

    token: ShortText = Field(description="The token's text, or #262 for an id.")
    frame: Frame = Field("output", description="The vectors that stand for the tokens.")
    geometry: Geometry = Field("cosine", description="How nearness is measured.")
    k: int = Field(10, ge=1, le=K_CEILING, description="How many neighbours.")

    def reference(self) -> int | str:
        """The token as the engine takes it."""
        return token_reference(self.token)

    def reading(self) -> dict[str, Any]:
        """The rest, as the engine's keywords."""
        return {"frame": self.frame, "geometry": self.geometry, "k": self.k}


class SearchQuestion(Question):
    """Part of a token's text."""

    search: ShortText = Field(description="Characters that the token holds.")
    limit: int = Field(20, ge=1, le=200, description="How many tokens at most.")


# What is answered: the contract; further fields may stand beside these


class Document(BaseModel):
    """An answer; further fields may be added, these stay."""

    model_config = ConfigDict(extra="allow")


class TokenDocument(Document):
    """A token."""

    id: int
    text: str


class TopDocument(TokenDocument):
    """A token with how near it is."""

    score: float | None
    probability: float | None


class CellOfTrace(Document):
    """One layer at one position."""

    layer: int
    position: int
    top: list[TopDocument]
    entropy: float | None
    final_rank: int | None


class TraceDocument(Document):
    """A prompt through the layers."""

    model: Any
    geometry: Geometry
    frame: Frame
    tokens: list[TokenDocument]
    layers: list[int]
    cells: list[CellOfTrace]


class NeighbourDocument(TokenDocument):
    """A neighbour of a token."""

    score: float | None


class BasesDocument(TokenDocument):
    """A token's basis."""

    norm: float | None
    leverage: float | None
    neighbours: list[NeighbourDocument]


class FrameDocument(Document):
    """The figures of a frame."""

    rank: int
    condition_number: float | None
    residual: float | None
    round_trip_rate: float | None
    vocabulary: int
    width: int


class CheckDocument(Document):
    """The self-check."""

    ok: bool


class Fault(BaseModel):
    """What went wrong."""

    sentence: str = Field(description="One sentence for people.")
    status: int
    id: str | None = Field(description="Under this id the server's log knows the request.")


class FaultDocument(BaseModel):
    """The answer of every request that failed."""

    error: Fault


_FAULTS: dict[int, str] = {
    400: "The request could not be understood.",
    401: "A token is asked for.",
    403: "A write from another site.",
    404: "No such model, or nothing at this address.",
    405: "This address does not take that method.",
    408: "The body took too long to arrive.",
    409: "A UMAP that is not computed yet, or something saved that is damaged or another model's.",
    413: "The body is too large, or the answer would need more memory than allowed.",
    415: "The body is compressed, or not of the type that is needed.",
    422: "A value cannot be used; the sentence says which and why.",
    500: "An error of the server; the id stands in its log.",
    503: "The model is busy or being loaded; Retry-After says when to try again.",
    504: "It took longer than allowed and was stopped.",
    507: "The server's disk is full, or its data folder cannot be written.",
}


def described(
    model: type[BaseModel] | None = None, csv: bool = False, status: int = 200
) -> dict[int | str, Any]:
    """What an address answers, faults included, for OpenAPI."""
    faults: dict[int | str, Any] = {
        status: {"model": FaultDocument, "description": text} for status, text in _FAULTS.items()
    }
    if csv:
        return {200: {"content": {"text/csv": {}}, "description": "A table."}, **faults}
    if status == 204:
        return {status: {"description": "Done."}, **faults}
    return {status: {"model": model or Document}, **faults}


def json_answer(body: bytes) -> Response:
    """JSON that `app.web.export` wrote."""
    return Response(body, media_type="application/json")


def _writer(explorer: Explorer, prompt: str | None = None) -> export.Document:
    return export.Document(export.Source.of(explorer.facts(), prompt))


def _csv(body: bytes, stem: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{stem}.csv"'}
    return Response(body, headers=headers, media_type="text/csv; charset=utf-8")


router = APIRouter(prefix="/api/v1", tags=["api"])


@router.get("/trace", responses=described(TraceDocument))
async def trace(
    request: Request, query: Annotated[TraceQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """A prompt through all layers: the nearest tokens of each cell, and what is known of it."""
    return json_answer(
        await explorer.document(
            request,
            _writer(explorer, query.prompt),
            LatentSpace.trace,
            query.prompt,
            query.options(),
        )
    )


@router.post("/trace", responses=described(TraceDocument))
async def trace_post(request: Request, query: TraceQuestion, explorer: ExplorerDep) -> Response:
    """The same, with the question as JSON in the body."""
    return json_answer(
        await explorer.document(
            request,
            _writer(explorer, query.prompt),
            LatentSpace.trace,
            query.prompt,
            query.options(),
        )
    )


@router.get("/trace.csv", responses=described(csv=True))
async def trace_csv(
    request: Request, query: Annotated[TraceQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """A trace as a table: one row per layer, position and rank."""
    options = query.options()
    write = export.TraceTable(export.Source.of(explorer.facts(), query.prompt))
    body = await explorer.document(request, write, LatentSpace.trace, query.prompt, options)
    return _csv(body, export.file_stem("trace", query.prompt, options))


@router.get("/cell", responses=described())
async def cell(
    request: Request, query: Annotated[CellQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """One cell in detail: every geometry, the nearest bases, its history and its token shares."""
    place = (query.prompt, query.layer, query.position, query.options())
    write = _writer(explorer, query.prompt)
    return json_answer(await explorer.document(request, write, LatentSpace.cell, *place))


@router.get("/agreement", responses=described())
async def agreement(
    request: Request, query: Annotated[TraceQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """How far each geometry and frame agrees with the model's own prediction, layer by layer."""
    asked = (query.prompt, query.options())
    write = _writer(explorer, query.prompt)
    return json_answer(await explorer.document(request, write, LatentSpace.agreement, *asked))


@router.get("/curves", responses=described())
async def curves(
    request: Request, query: Annotated[CurvesQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """Tokens over the layers: score, probability and rank."""
    asked = (query.prompt, query.pins(), query.options())
    write = _writer(explorer, query.prompt)
    body = await explorer.document(
        request, write, LatentSpace.curves, *asked, position=query.position
    )
    return json_answer(body)


@router.get("/cost", responses=described())
async def cost(
    request: Request, query: Annotated[TraceQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """What a trace would cost in seconds and bytes, without running it."""
    asked = (query.prompt, query.options())
    return json_answer(await explorer.document(request, export.forecast, predict_cost, *asked))


@router.get("/bases", responses=described(BasesDocument))
async def bases(
    request: Request, query: Annotated[BasesQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """A token's basis and its nearest tokens."""
    body = await explorer.document(
        request, _writer(explorer), LatentSpace.bases, query.reference(), **query.reading()
    )
    return json_answer(body)


@router.get("/bases.csv", responses=described(csv=True))
async def bases_csv(
    request: Request, query: Annotated[BasesQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """A token's nearest tokens as a table."""
    token, reading = query.reference(), query.reading()
    write = export.BasesTable(export.Source.of(explorer.facts()))
    body = await explorer.document(request, write, LatentSpace.bases, token, **reading)
    return _csv(body, export.file_stem("bases", token, *reading.values()))


@router.get("/frames/{frame}", responses=described(FrameDocument))
async def frame(
    request: Request,
    frame: Annotated[Frame, Path(description="Which frame.")],
    explorer: ExplorerDep,
) -> Response:
    """The figures of a frame: rank, condition, residuals, bounds, leverage, round trip."""
    write = _writer(explorer)
    return json_answer(await explorer.document(request, write, LatentSpace.frame_report, frame))


@router.get("/tokens", responses=described())
async def tokens(
    request: Request, query: Annotated[SearchQuestion, Query()], explorer: ExplorerDep
) -> Response:
    """Tokens whose text holds these characters."""
    body = await explorer.document(
        request, export.hits, LatentSpace.search, query.search, limit=query.limit
    )
    return json_answer(body)


@router.get("/check", responses=described(CheckDocument))
async def check(explorer: ExplorerDep) -> Response:
    """The self-check of the loaded model."""
    return json_answer(export.document(explorer.checked()))


@router.get("/model", responses=described())
async def model(explorer: ExplorerDep) -> Response:
    """The loaded model, this server's limits and the versions behind the numbers."""
    facts = explorer.facts()
    body = {
        **facts.to_dict(),
        "limits": asdict(limits_of(explorer.settings)),
        "versions": export.versions(),
    }
    return json_answer(export.dumps(body))
