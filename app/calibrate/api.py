"""Label sets and calibrations as JSON: upload, look, start, list, reopen, export, delete, read."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from app.calibrate.asking import document
from app.calibrate.calibrations import SEEDS_AT_MOST, CalibrationsDep
from app.calibrate.question import CalibrationQuestion, WordsText
from app.calibrate.sets import SetsDep
from app.calibrate.work import Order
from app.jobs.api import Id, JobDocument, job_answer
from app.settings import K_CEILING
from app.storage.store import aside
from app.web import export
from app.web.answers import Document, described, json_answer
from app.web.questions import PromptText, Question, RangeText, ShortText
from engine.calibration.labelled.tasks import SPLITS, Task

router = APIRouter(prefix="/api/v1", tags=["calibration"])
SAMPLE = 20
"""Rows of a set, and prompts of a task, that an answer shows."""
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "At most LEXISCOPE_UPLOAD_LIMIT bytes.",
                        },
                        "pasted": {
                            "type": "string",
                            "maxLength": 100_000,
                            "description": "Rows as text, the first names the columns; no file.",
                        },
                        "name": {"type": "string", "maxLength": 400},
                    },
                }
            }
        },
    }
}
_STARTED = described(JobDocument, status=202)
_ZIP: dict[int | str, Any] = {
    **described(),
    200: {"content": {"application/zip": {}}, "description": "The files."},
}


class CompetitorsQuestion(Question):
    """Which methods a saved calibration is compared with."""

    methods: ShortText = Field("fast", description="fast, all, or names with commas.")
    seeds: int = Field(1, ge=1, le=SEEDS_AT_MOST, description="How often, with other seeds.")


class AblationQuestion(Question):
    """How often each variant of the method is trained."""

    seeds: int = Field(3, ge=1, le=SEEDS_AT_MOST, description="How often, with other seeds.")
    layers: RangeText = Field("", description="Further layers besides its own, at most six, each "
        "with everything: 0:24:8; left out: none.")  # fmt: skip


class ReadingQuestion(Question):
    """A prompt to read before and after a calibration."""

    prompt: PromptText = Field(description="The text.")
    k: int = Field(5, ge=0, le=K_CEILING, description="Nearest tokens per position and side.")
    bos: Literal["auto", "yes", "no"] = Field("auto", description="Whether the model's first "
        "token is put before the prompt.")  # fmt: skip
    chat: bool = Field(False, description="Put the prompt into the model's chat template.")


class WordsQuestion(Question):
    """Words to ask a calibration by."""

    words: WordsText = Field(description="label = word, word for each label, one on a line or "
        "between semicolons; or from 2 to 20 words with commas.")  # fmt: skip


class TextQuestion(Question):
    """A text of one's own."""

    text: PromptText = Field(description="The text; it is put into the calibration's template.")


class SetDocument(Document):
    """A label set."""

    id: str
    name: str
    example: bool
    rows: int
    columns: list[str]
    problem_count: int


class SetsDocument(Document):
    """All label sets."""

    sets: list[SetDocument]


class CalibrationDocument(Document):
    """A saved calibration."""

    id: str
    name: str
    model_name: str
    usable: bool
    sentence: str
    accuracy_before: float | None
    accuracy_after: float | None
    accuracy_baseline: float | None
    baseline: str


class CalibrationsDocument(Document):
    """All saved calibrations."""

    calibrations: list[CalibrationDocument]


class ReadingsDocument(Document):
    """A prompt before and after a calibration."""

    prompt: str
    layer: int
    labels: list[str]
    positions: list[Any]


class WordsDocument(Document):
    """Test texts read by any words."""

    measured: dict[str, Any] | None
    nearest: dict[str, Any] | None


class TextDocument(Document):
    """A text before and after a calibration."""

    text: str
    prompt: str
    labels: list[str]
    before: dict[str, Any]
    after: dict[str, Any]


# Label sets


@router.get("/sets", responses=described(SetsDocument))
async def sets_list(sets: SetsDep) -> Response:
    """The example sets and what was uploaded."""
    return json_answer(export.dumps({"sets": await aside(sets.all)}))


@router.post(
    "/sets", status_code=201, responses=described(SetDocument, status=201), openapi_extra=_UPLOAD
)
async def sets_add(request: Request, sets: SetsDep) -> Response:
    """Upload a labelled file (CSV, TSV, JSON lines, Parquet), as multipart/form-data."""
    return json_answer(export.dumps(await sets.receive(request)), 201)


@router.get("/sets/{id}", responses=described(SetDocument))
async def sets_one(id: Id, sets: SetsDep) -> Response:
    """One set with its first rows."""
    view = await aside(partial(sets.get, id))
    table = await aside(partial(sets.table, id))
    sample = [{"line": row.line, "values": dict(row.values)} for row in table.rows[:SAMPLE]]
    return json_answer(export.dumps({**vars(view), "sample": sample}))


@router.delete("/sets/{id}", status_code=204, responses=described(status=204))
async def sets_delete(id: Id, sets: SetsDep) -> Response:
    """Delete an uploaded set; calibrations that were made from it stay."""
    await aside(partial(sets.delete, id))
    return Response(status_code=204)


# Calibrations


@router.post("/calibrations/task", responses=described())
async def calibration_task(
    request: Request, query: CalibrationQuestion, calibrations: CalibrationsDep
) -> Response:
    """What a calibration would read: prompts, label tokens, balance, duplicates; nothing runs."""
    query.options().validate()
    task = await calibrations.task(request, query.set, query.spec())
    return json_answer(export.dumps(await aside(partial(task_document, task))))


@router.post("/calibrations", status_code=202, responses=_STARTED)
async def calibration_start(
    request: Request, query: CalibrationQuestion, calibrations: CalibrationsDep
) -> Response:
    """Queue a calibration; the job's result is the id of a saved one."""
    order = Order(
        query.set, query.name, query.spec(), query.options(), query.compare, query.untaught,
        query.splits,
    )  # fmt: skip
    view = await calibrations.start(request, order, query.label_words)
    return job_answer(request, view, 202)


@router.get("/calibrations", responses=described(CalibrationsDocument))
async def calibrations_list(calibrations: CalibrationsDep) -> Response:
    """All saved calibrations, the newest first."""
    return json_answer(export.dumps({"calibrations": await calibrations.list()}))


@router.get("/calibrations/{id}", responses=described(CalibrationDocument))
async def calibration_one(id: Id, calibrations: CalibrationsDep) -> Response:
    """One of them: settings, task, learning curve, comparison, and its reports where there are."""
    saved = await calibrations.get(id)
    return json_answer(export.dumps(saved.to_dict()))


@router.delete("/calibrations/{id}", status_code=204, responses=described(status=204))
async def calibration_delete(id: Id, calibrations: CalibrationsDep) -> Response:
    """Delete it with its reports."""
    await calibrations.delete(id)
    return Response(status_code=204)


@router.get("/calibrations/{id}/files", responses=_ZIP)
async def calibration_files(id: Id, calibrations: CalibrationsDep) -> Response:
    """All its files in a ZIP: weights as safetensors, the rest as JSON, each with its SHA-256."""
    path = await calibrations.archive(id)
    return FileResponse(
        path,
        media_type="application/zip",
        filename=f"lexiscope-calibration-{id[:12]}.zip",
        background=BackgroundTask(path.unlink, missing_ok=True),
    )


@router.post("/calibrations/{id}/competitors", status_code=202, responses=_STARTED)
async def calibration_competitors(
    request: Request, id: Id, query: CompetitorsQuestion, calibrations: CalibrationsDep
) -> Response:
    """Queue the table of competing methods on the same rows."""
    view = await calibrations.start_comparison(request, id, query.methods, query.seeds)
    return job_answer(request, view, 202)


@router.post("/calibrations/{id}/ablation", status_code=202, responses=_STARTED)
async def calibration_ablation(
    request: Request, id: Id, query: AblationQuestion, calibrations: CalibrationsDep
) -> Response:
    """Queue the ablation: basis × similarity × loss × inference, and layers."""
    view = await calibrations.start_ablation(request, id, query.seeds, query.layers)
    return job_answer(request, view, 202)


@router.get("/calibrations/{id}/trace", responses=described(ReadingsDocument))
async def calibration_trace(
    request: Request,
    id: Id,
    query: Annotated[ReadingQuestion, Query()],
    calibrations: CalibrationsDep,
) -> Response:
    """A prompt with the calibration switched on: each position before and after."""
    found = await calibrations.readings(
        request, id, query.prompt, k=query.k, bos=query.bos, chat=query.chat
    )
    return json_answer(export.dumps(await aside(found.to_dict)))


@router.get("/calibrations/{id}/words", responses=described(WordsDocument))
async def calibration_words(
    request: Request,
    id: Id,
    query: Annotated[WordsQuestion, Query()],
    calibrations: CalibrationsDep,
) -> Response:
    """The calibration's test texts read by any words: accuracy, or which word is nearest."""
    found = await calibrations.words(request, id, query.words)
    return json_answer(export.dumps(document(found)))


@router.get("/calibrations/{id}/text", responses=described(TextDocument))
async def calibration_text(
    request: Request, id: Id, query: Annotated[TextQuestion, Query()], calibrations: CalibrationsDep
) -> Response:
    """A text of your own before and after the calibration, and where it stands on its map."""
    found = await calibrations.own_text(request, id, query.text)
    return json_answer(export.dumps(found.to_dict()))


def task_document(task: Task) -> dict[str, Any]:
    """What a task says of itself before anything runs, with its first prompts."""
    return {
        **task.to_dict(),
        "report": asdict(task.report),
        "prompts": [
            {
                "prompt": prompt,
                "label": task.label_names[int(label)],
                "line": line,
                "tokens": len(ids),
            }
            for prompt, label, line, ids in zip(
                task.prompts["train"][:SAMPLE],
                task.labels["train"][:SAMPLE],
                task.lines["train"][:SAMPLE],
                task.ids["train"][:SAMPLE],
                strict=True,
            )
        ],
        "splits": list(SPLITS),
    }
