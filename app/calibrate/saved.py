"""A saved calibration: its page before and after, its figures as files, what can be run on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.datastructures import QueryParams
from starlette.responses import Response

from app.calibrate import result, standings, tables
from app.calibrate.asking import document
from app.calibrate.calibrations import CalibrationsDep
from app.calibrate.texts import OwnDot
from app.calibrate.views import Saved
from app.calibrate.words import when
from app.model.explorer import ExplorerDep
from app.web import export
from app.web.answers import csv_answer
from app.web.problems import NotFound
from app.web.rendering import link, render
from app.web.words import sentence, size
from engine.calibration.evidence.own_text import OwnText
from engine.errors import InputError

router = APIRouter(include_in_schema=False)

SavedId = Annotated[str, Path(pattern=r"^[0-9a-f]{24}$")]


async def sent_form(request: Request) -> QueryParams:
    """The fields of a form that was sent; an empty one counts."""
    return QueryParams(parse_qsl((await request.body()).decode("utf-8", "replace"), True))


@dataclass(frozen=True)
class Asking:
    """The box in which a calibration is asked by any words, and what it said."""

    action: str | None
    """None where another model is open."""
    words: str
    """What stands in it."""
    problem: str = ""
    """Why there is no answer."""
    measured: standings.ByWords | None = None
    nearest: standings.Nearest | None = None


@dataclass(frozen=True)
class Trying:
    """The box for a sentence of one's own."""

    action: str | None
    """None where another model is open, or there is no map."""
    text: str
    problem: str = ""
    dot: OwnDot | None = None


@dataclass(frozen=True)
class ResultPage:
    """What ``calibrate/result.html`` shows."""

    id: str
    name: str
    made: str
    foreign: str | None
    """A sentence where it belongs to another model."""
    story: result.Story | None
    asked: Asking
    tried: Trying
    learning: result.Learning | None
    methods: tables.Competitors | None
    ablation: tables.AblationTable | None
    facts: tuple[tuple[str, str], ...]
    trace_action: str | None
    trace_prompt: str
    files_href: str
    """The same figures elsewhere: as a ZIP with the weights, as JSON, as CSV."""
    json_href: str
    rows_href: str | None
    ablation_href: str | None
    delete_action: str
    compare_action: str | None
    ablation_action: str | None


@router.get("/calibrate/{id}", response_class=HTMLResponse)
async def result_page(
    request: Request,
    explorer: ExplorerDep,
    calibrations: CalibrationsDep,
    id: SavedId,
    words: Annotated[str, Query(max_length=2000)] = "",
    text: Annotated[str, Query(max_length=2000)] = "",
) -> HTMLResponse:
    """A saved calibration, before and after; with `words` it is asked by them, with `text` a
    sentence of one's own is put on its map."""
    facts = explorer.facts()
    saved = await calibrations.get(id)
    asked: Mapping[str, Any] = {}
    own: OwnText | str = ""
    if text.strip():
        try:
            own = await calibrations.own_text(request, id, text)
        except InputError as error:
            own = str(error)
    if words.strip():
        try:
            asked = document(await calibrations.words(request, id, words))
        except InputError as error:
            asked = {"problem": str(error)}
    page = result_of(request, saved, facts.name, words, asked, text, own)
    return render(request, "calibrate/result.html", page)


def result_of(
    request: Request,
    saved: Saved,
    loaded: str,
    words: str = "",
    asked: Mapping[str, Any] = MappingProxyType({}),
    text: str = "",
    placed: OwnText | str = "",
) -> ResultPage:
    """A saved calibration as its page shows it, with what it was asked and what it said; `placed`
    is what came of a text of one's own, or why nothing did."""
    view, compared = saved.view, saved.comparison

    def trace(prompt: str) -> str | None:
        # A prompt too long for an address is not linked.
        if not view.usable or len(prompt) > 2_000:
            return None
        return link(request, "/", prompt=prompt, calibration=view.id)

    made = f"Made on {when(view.created)} with {view.model_name}."
    foreign = None
    if not view.usable:
        foreign = (
            f"It belongs to {view.model_name}; this server runs {loaded}. Its figures can be read"
            " here; to use it, serve the model that it was made with."
        )
    rows = compared["rows"] if compared else []
    seconds = float(saved.facts.get("seconds") or 0.0)
    target, loss = str(saved.settings.get("target")), str(saved.settings.get("loss"))
    own = {"module": f"calibration-{loss}", "head": "head-only"}.get(target, target)
    base = f"/calibrate/{view.id}"
    names = [str(name) for name in compared["task"]["label_names"]] if compared else []
    told = result.story(compared, trace) if compared else None
    proposed = told.untaught.given if told and told.untaught else ""
    asking = Asking(
        link(request, base) if view.usable and compared else None,
        words or proposed,
        str(asked.get("problem", "")),
        standings.by_words(asked["measured"], names) if asked.get("measured") else None,
        standings.nearest_words(asked["nearest"]) if asked.get("nearest") else None,
    )
    mapped = told.map if told else None
    trying = Trying(
        link(request, base) if view.usable and mapped else None,
        text,
        sentence(placed) if isinstance(placed, str) and placed else "",
        mapped.own(placed) if mapped and isinstance(placed, OwnText) else None,
    )
    return ResultPage(
        id=view.id,
        name=view.name,
        made=made,
        foreign=foreign,
        story=told,
        asked=asking,
        tried=trying,
        learning=result.learning(saved.history, saved.facts.get("best_epoch"), seconds),
        methods=tables.competitors(saved.competitors, own) if saved.competitors else None,
        ablation=tables.ablation(saved.ablation) if saved.ablation else None,
        facts=tables.facts(saved.settings, saved.task["spec"], _more_facts(saved)),
        trace_action=link(request, "/") if view.usable else None,
        trace_prompt=str(rows[0]["prompt"]) if rows else "",
        files_href=link(request, f"/api/v1/calibrations/{view.id}/files"),
        json_href=link(request, f"/api/v1/calibrations/{view.id}"),
        rows_href=link(request, f"{base}/rows.csv") if compared else None,
        ablation_href=link(request, f"{base}/ablation.csv") if saved.ablation else None,
        delete_action=link(request, f"{base}/delete"),
        compare_action=link(request, f"{base}/competitors") if view.usable else None,
        ablation_action=link(request, f"{base}/ablation") if view.usable else None,
    )


def _more_facts(saved: Saved) -> tuple[tuple[str, str], ...]:
    view, facts = saved.view, saved.facts
    weights = facts.get("trained_weights")
    sizes = saved.task.get("sizes", {})
    lines = [
        ("Texts", f"{view.set_name}: {sizes.get('train')} to learn from, {sizes.get('valid')} to"
         f" stop by, {sizes.get('test')} to test"),
        ("Model", f"{view.model_name}, fingerprint {view.model_fingerprint[:12]}"),
    ]  # fmt: skip
    if weights is not None:
        lines.append(("Trained weights", f"{int(weights):,}"))
    lines.append(("On the disk", size(view.bytes)))
    return tuple(lines)


@router.get("/calibrate/{id}/rows.csv")
async def rows_csv(calibrations: CalibrationsDep, id: SavedId) -> Response:
    """Each test text with its reading before and after."""
    saved = await calibrations.get(id)
    if not saved.comparison:
        raise NotFound("This calibration was saved without a comparison.")
    note = _note("test texts", saved)
    return csv_answer(export.table(note, saved.comparison["rows"]), export.file_stem("rows", id))


@router.get("/calibrate/{id}/ablation.csv")
async def ablation_csv(calibrations: CalibrationsDep, id: SavedId) -> Response:
    """The ablation as a table."""
    saved = await calibrations.get(id)
    if not saved.ablation:
        raise NotFound("This calibration has no ablation yet; run it on its page.")
    note = _note("ablation", saved)
    rows = [_flat(row) for row in saved.ablation["rows"]]
    return csv_answer(export.table(note, rows), export.file_stem("ablation", id))


def _note(what: str, saved: Saved) -> str:
    """Where the numbers come from: calibration, model, label set, time, versions."""
    view = saved.view
    versions = saved.facts.get("versions")
    return (
        f"Lexiscope, {what} of calibration {view.name} ({view.id}), made {view.created}, model "
        f"{view.model_name} ({view.model_fingerprint}), label set {view.set_name} "
        f"({view.set_id}), task {saved.task.get('fingerprint', '')}. "
        f"{export.version_words(versions if isinstance(versions, Mapping) else {})}"
    )


def _flat(row: Mapping[str, Any]) -> dict[str, object]:
    """An interval becomes three columns."""
    out: dict[str, object] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            out.update({f"{key}_{part}": one for part, one in value.items()})
        else:
            out[key] = value
    return out


@router.post("/calibrate/{id}/delete")
async def delete(request: Request, calibrations: CalibrationsDep, id: SavedId) -> Response:
    """Delete a saved calibration with its reports."""
    await calibrations.delete(id)
    return RedirectResponse(link(request, "/calibrate"), 303)


@router.post("/calibrate/{id}/competitors")
async def competitors(request: Request, calibrations: CalibrationsDep, id: SavedId) -> Response:
    """Queue the table of competitors and go to its job."""
    form = await sent_form(request)
    seeds = form.get("seeds") or "1"
    number = int(seeds) if seeds.isascii() and seeds.isdigit() and len(seeds) < 4 else 0
    job = await calibrations.start_comparison(request, id, form.get("methods") or "fast", number)
    return RedirectResponse(link(request, f"/jobs/{job.id}"), 303)


@router.post("/calibrate/{id}/ablation")
async def ablation(request: Request, calibrations: CalibrationsDep, id: SavedId) -> Response:
    """Queue the ablation and go to its job."""
    form = await sent_form(request)
    layers = (form.get("layers") or "")[:40]
    job = await calibrations.start_ablation(request, id, layers=layers)
    return RedirectResponse(link(request, f"/jobs/{job.id}"), 303)
