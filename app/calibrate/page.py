"""The Calibrate pages: labelled texts in, a calibrated space out, before and after side by side.

``/calibrate`` holds steps 1 to 3 in one form, whose state is the query string; Run sends the same
fields as a POST and leads to the job's page, and that one to the page of what was saved
(`app.calibrate.saved`). All of it works by links and forms alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.responses import Response

from app.calibrate.calibrations import KINDS, Calibrations, CalibrationsDep
from app.calibrate.form import (
    CalibrateQuery,
    SetCard,
    SettingsForm,
    columns_form,
    options_of,
    settings_form,
    spec_of,
)
from app.calibrate.preview import LeftOut, Preview, left_out, preview
from app.calibrate.saved import SavedId, sent_form
from app.calibrate.sets import SetView
from app.calibrate.tables import changed_words
from app.calibrate.views import SavedView
from app.calibrate.words import share, thin, when
from app.calibrate.work import Order
from app.method.terms import TERMS, Term
from app.storage.store import aside
from app.web.problems import NotFound
from app.web.questions import ask_params
from app.web.rendering import Page, link, render
from app.web.words import Choice, sentence
from engine.errors import InputError, OptionError

router = APIRouter(include_in_schema=False)
PAGE = Page("Teach", "/calibrate", router)


_NOTES = 8
"""Notes on a set that its view shows."""


@dataclass(frozen=True)
class SavedLine:
    """A saved calibration, in the list beside the form."""

    name: str
    gain: str
    settings: str
    """What differs from the default ones."""
    text: str
    href: str
    delete_action: str | None = None
    """Where a damaged one is deleted; it has no page of its own."""


@dataclass(frozen=True)
class CalibratePage:
    """What ``calibrate/page.html`` shows."""

    sets: tuple[SetCard, ...]
    left_out: LeftOut | None
    shown: str
    title: str
    """What was typed as the calibration's name."""
    usual_title: str
    """What it is called where nothing was typed."""
    columns: tuple[tuple[Choice, ...], tuple[Choice, ...]] | None
    """Which may be the text, which the label; None where the set cannot be read."""
    template: str
    preview: Preview | None
    settings: SettingsForm
    problem: str | None
    upload_open: bool
    upload_action: str
    run_action: str
    can_run: bool
    waiting: str
    jobs: tuple[tuple[str, str, str], ...]
    """Those under way: title, what it does, its page."""
    saved: tuple[SavedLine, ...]
    nothing_saved: str
    terms: Mapping[str, Term]


@router.get("/calibrate", response_class=HTMLResponse)
async def calibrate_page(request: Request, calibrations: CalibrationsDep) -> HTMLResponse:
    """The form with what the model would read; a mistake is a sentence between the steps."""
    calibrations.explorer.facts()
    query, mistake = ask_params(CalibrateQuery, request.query_params)
    page = await _page(request, calibrations, query, problem=mistake)
    # A form that is still being filled in is no error: htmx swaps it as it stands.
    status = 200 if page.problem is None or "hx-request" in request.headers else 422
    return render(request, "calibrate/page.html", page, status=status)


@router.post("/calibrate/run")
async def run(request: Request, calibrations: CalibrationsDep) -> Response:
    """Queue the calibration that the form describes and go to its job."""
    calibrations.explorer.facts()
    query, mistake = ask_params(CalibrateQuery, await sent_form(request))
    try:
        if mistake is not None:
            raise OptionError(mistake)
        if "set" not in query.model_fields_set:
            raise OptionError(
                "the form arrived without a set of labelled texts, so nothing was started; choose"
                " one below and run it again."
            )
        table = await aside(partial(calibrations.sets.table, query.set))
        spec = spec_of(query, table)
        order = Order(query.set, query.title or "", spec, options_of(query), splits=query.splits)
        job = await calibrations.start(request, order, query.words)
    except InputError as error:
        page = await _page(request, calibrations, query, problem=str(error))
        return render(request, "calibrate/page.html", page, status=422)
    return RedirectResponse(link(request, f"/jobs/{job.id}"), 303)


@router.post("/calibrate/sets")
async def upload(request: Request, calibrations: CalibrationsDep) -> Response:
    """Keep a file of labelled texts and show what the model would read of it."""
    calibrations.explorer.facts()
    try:
        view = await calibrations.sets.receive(request)
    except InputError as error:
        query = CalibrateQuery.model_validate({})
        page = await _page(request, calibrations, query, problem=str(error), upload_open=True)
        return render(request, "calibrate/page.html", page, status=422)
    return RedirectResponse(link(request, "/calibrate", set=view.id), 303)


@router.post("/calibrate/sets/{id}/delete")
async def delete_set(request: Request, calibrations: CalibrationsDep, id: SavedId) -> Response:
    """Delete an uploaded set."""
    await aside(partial(calibrations.sets.delete, id))
    return RedirectResponse(link(request, "/calibrate"), 303)


async def _page(
    request: Request,
    calibrations: Calibrations,
    query: CalibrateQuery,
    *,
    problem: str | None = None,
    upload_open: bool = False,
) -> CalibratePage:
    sets = calibrations.sets
    views = await aside(sets.all)
    chosen = next((view for view in views if view.id == query.set), None)
    columns, seen, template, bad = None, None, query.template or "", None
    try:
        table = await aside(partial(sets.table, query.set))
        count = 0 if chosen is None else chosen.problem_count
        bad = left_out(table, count, (), "")
        spec = spec_of(query, table)
        bad = await aside(partial(left_out, table, count, spec.text_columns, spec.label_column))
        columns, template = columns_form(spec, table), spec.template
        options_of(query).validate()
        seen = preview(await calibrations.task(request, query.set, spec))
    except (InputError, NotFound) as error:
        problem = problem or str(error)
    active = tuple(
        (
            job.title,
            "waits for another" if job.state == "queued" else job.note or "running",
            link(request, f"/jobs/{job.id}"),
        )
        for job in await aside(calibrations.jobs.list)
        if job.kind in KINDS and not job.finished
    )
    saved = await calibrations.list()
    return CalibratePage(
        sets=tuple(_card(request, view, query.set) for view in views),
        left_out=bad,
        shown=query.set,
        title=query.title or "",
        usual_title="" if chosen is None else chosen.name,
        columns=columns,
        template=template,
        preview=seen,
        settings=settings_form(query),
        problem=None if problem is None else sentence(problem),
        upload_open=upload_open,
        upload_action=link(request, "/calibrate/sets"),
        run_action=link(request, "/calibrate/run"),
        can_run=seen is not None and not sets.unavailable,
        waiting=sets.unavailable or "It can run once the texts above can be read.",
        jobs=active,
        saved=tuple(_saved_line(request, one) for one in saved),
        nothing_saved=sets.unavailable or "None yet. What you run is kept here.",
        terms=TERMS,
    )


def _card(request: Request, view: SetView, chosen: str) -> SetCard:
    rows = thin(view.rows) + (" texts" if view.rows != 1 else " text")
    what = "written for Lexiscope" if view.example else "uploaded"
    if view.separator:
        what += f", columns separated by {view.separator}s"
    if view.problem_count:
        left = view.problem_count
        what += f", {thin(left)} row{'s' if left != 1 else ''} left out"
    action = None if view.example else link(request, f"/calibrate/sets/{view.id}/delete")
    notes = [str(one["text"]) for one in view.notes]
    if len(notes) > _NOTES:
        notes = [*notes[:_NOTES], "There are more such notes."]
    return SetCard(view.id, view.name, f"{rows}, {what}", view.id == chosen, action, tuple(notes))


def _saved_line(request: Request, view: SavedView) -> SavedLine:
    gain = "not compared"
    if view.accuracy_before is not None and view.accuracy_after is not None:
        gain = f"{share(view.accuracy_before)} → {share(view.accuracy_after)}"
        if view.accuracy_baseline is not None:
            gain = f"{share(view.accuracy_after)}; {view.baseline} {share(view.accuracy_baseline)}"
        if view.kept_its_start:
            gain += ", not trained: best epoch 0"
    if view.damaged:
        there = link(request, f"/calibrate/{view.id}")
        return SavedLine(view.name, "", view.sentence, when(view.created), there, f"{there}/delete")
    model = "" if view.usable else f", {view.model_name}"
    return SavedLine(
        view.name,
        gain,
        view.method if view.changed is None else changed_words(view.changed),
        f"{when(view.created)}{model}",
        link(request, f"/calibrate/{view.id}"),
    )
