"""The Trace page: a prompt through the layers, cell by cell.

One view answers the page, its result (a switch was changed) and its detail (a cell was opened):
the same query, the same context, a smaller template. The whole state is the query string; every
link is built by `link_to` from the query it stands on, so none loses a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from starlette.background import BackgroundTask

from app.calibrate.calibrations import Calibrations, CalibrationsDep
from app.figures.calibrate import label_colour
from app.figures.theme import FRAMES, GEOMETRIES, LENSES, STATES
from app.figures.trace import COLOURS
from app.method.terms import TERMS, Term
from app.model.explorer import Explorer, ExplorerDep
from app.model.recording import asked, recording, run_of
from app.trace import fragments
from app.trace.contexts import banks, texts_of
from app.trace.headline import headline
from app.trace.panels import Panel, Panels, agreement
from app.trace.presets import (
    CONTROL,
    LOGIT,
    PAPER,
    Preset,
    faithful,
    preset_choices,
    reading_words,
)
from app.trace.question import (
    BOS,
    Example,
    TraceQuery,
    TraceQuestion,
    examples_of,
    link_to,
)
from app.trace.reading import KeptTrace, Reading, Switched, predict_cost, read
from app.trace.word_panels import contexts, in_words
from app.web.problems import NotFound, StorageError
from app.web.questions import ReadingQuestion, ask, undialled
from app.web.rendering import Page, as_text, link, render, render_text
from app.web.words import Choice, choices, number, seconds, sentence
from engine.errors import ArtifactError, InputError, NonFiniteError, OptionError
from engine.trace.bank import BUILT_IN
from engine.trace.cell import Cell
from engine.trace.compute import leaders
from engine.trace.result import Cost

if TYPE_CHECKING:
    from engine.calibration.training.readings import Readings

router = APIRouter(include_in_schema=False)
router.include_router(fragments.router)
PAGE = Page("Read", "/", router, takes_prompt=True)
STRIP = 40
"""Positions that a switched-on calibration's strip shows: the last ones of the prompt."""
_FOLDED = ("alpha", "ridge", "state", "centred", "temperature", "layers", "positions", "k", "bos",
           "chat", "words_only")  # fmt: skip


# ---- what is shown -------------------------------------------------------------------------------


@dataclass(frozen=True)
class CostLine:
    """What a run is expected to take, and took."""

    tokens: int
    predicted: str
    measured: str | None = None


@dataclass(frozen=True)
class TracePage:
    """What ``trace/page.html`` shows."""

    query: TraceQuery
    """The settings as they stand."""
    examples: tuple[Choice, ...]
    presets: tuple[Choice, ...]
    """Readings that have a name."""
    measure_href: str | None
    """Where the most faithful reading is found; None where it is known."""
    look: str | None
    """What to look at in the example that is shown."""
    switches: Mapping[str, tuple[Choice, ...]]
    """By field of the query; ``calibration`` is empty where none can be switched on."""
    changed: int
    """How many of the folded settings differ from their defaults."""
    cost: CostLine | None
    cost_problem: str | None
    result: Panel | None
    """Everything below the form."""
    problem: str | None
    terms: Mapping[str, Term]


# ---- the views -----------------------------------------------------------------------------------


@router.get("/", response_class=HTMLResponse)
async def trace_page(
    request: Request, explorer: ExplorerDep, calibrations: CalibrationsDep
) -> HTMLResponse:
    """The page, its result or its detail; a mistake is a sentence where the result would stand."""
    query, mistake = ask(TraceQuery, request)
    examples = examples_of(explorer.facts().fingerprint)
    if not request.query_params:  # nothing is asked yet: the best that can be shown
        best = await explorer.look(request, faithful, "readings")
        first = {"prompt": examples[0].prompt} | (best.settings() if best is not None else {})
        query = query.model_copy(update=first)
    show = partial(_page, request, query, examples)
    saved = await _calibrations(calibrations, query.calibration)
    try:
        if mistake is not None:
            raise OptionError(mistake)
        result, cost, best, found = await _result(request, explorer, calibrations, query)
    except InputError as error:
        context = show(saved, problem=str(error))
        return render(
            request, "trace/page.html", context, fragment="trace/_result.html", status=422
        )
    context = show(saved, result=result, cost=cost, best=best)
    # A cell that is not there: its neighbour is shown, and only who asked for a page is told so.
    status = 422 if result["note"] and "hx-request" not in request.headers else 200
    vary = {"Vary": "HX-Request, HX-History-Restore-Request, HX-Boosted, HX-Target"}
    if request.headers.get("hx-target") == "detail":
        body = render_text(request, "trace/_detail.html", context, is_fragment=True)
        return HTMLResponse(body, headers=vary)
    answer = render(
        request,
        "trace/page.html",
        context,
        fragment="trace/_result.html",
        headers=vary,
        status=status,
    )
    if request.query_params:
        answer.background = _recording(request, explorer, query, found)
    return answer


@router.get("/cost", response_class=HTMLResponse)
async def cost_line(
    request: Request, query: Annotated[TraceQuery, Query()], explorer: ExplorerDep
) -> HTMLResponse:
    """What a run would take, while the prompt is still being written."""
    line, problem = None, None
    try:
        cost = await explorer.ask(request, predict_cost, query.prompt, query.options())
        line = CostLine(cost.tokens, _pair(cost.predicted_seconds, cost.predicted_bytes))
    except InputError as error:
        problem = str(error)
    context = {
        "cost": line,
        "cost_problem": problem,
        "terms": TERMS,
        "back": link_to(request, query),
    }
    status = 422 if problem else 200
    return render(request, "trace/cost.html", context, fragment="trace/_cost.html", status=status)


# ---- from results to what is shown ---------------------------------------------------------------


async def _calibrations(calibrations: Calibrations, chosen: str | None) -> tuple[Choice, ...]:
    """The calibrations that can be switched on, with "none" first; empty where there are none."""
    saved = [one for one in await calibrations.list() if one.usable or one.id == chosen]
    if not saved:
        return ()
    return choices((("", "none"), *[(one.id, one.name) for one in saved]), chosen or "")


async def _read(
    request: Request, explorer: Explorer, calibrations: Calibrations, query: TraceQuery
) -> tuple[Reading, Panel | None]:
    """All that is shown, in one question to the engine; with the panel of a calibration.

    Whatever keeps a calibration from being read is a sentence in its panel.
    """
    bank = None
    if query.panel == "contexts":
        bank = await texts_of(request.app.state.sets, query.bank)
    asked = partial(
        explorer.ask,
        request,
        read,
        query.prompt,
        query.options(),
        cell=query.place,
        pins=query.pin or None,
        panel=query.panel,
        bank=bank,
    )
    if query.calibration is None:
        return await asked(), None
    links = {
        "href": link(request, f"/calibrate/{query.calibration}"),
        "off_href": link_to(request, query, calibration=None),
    }
    try:
        saved = await calibrations.get(query.calibration)
        calibrations.check_model(saved.view)
        found = await asked(switched=Switched(calibrations, query.calibration))
    except (ArtifactError, InputError, NonFiniteError, NotFound, StorageError) as error:
        # Without it: what is wrong with the prompt itself is raised again.
        return await asked(), {**links, "name": "", "problem": sentence(str(error))}
    assert found.switched is not None
    return found, {**links, "name": saved.view.name, **_switched(found.switched)}


def _switched(found: Readings) -> Panel:
    """The last layer before and after a calibration.

    A panel of its own above the trace, for the trace itself stays the model's: a calibration moves
    states behind the last layer and changes nothing in the model.
    """
    strip, count = found.positions[-STRIP:], len(found.positions)
    return {
        "problem": None,
        "last": found.positions[-1],
        "strip": strip,
        "strip_note": f"The last {len(strip)} of {count} positions." if count > len(strip) else "",
        "caution": found.caution,
        "colours": {label: label_colour(i) for i, label in enumerate(found.labels)},
    }


async def _result(
    request: Request, explorer: Explorer, calibrations: Calibrations, query: TraceQuery
) -> tuple[Panel, CostLine, Preset | None, Reading]:
    found, switched = await _read(request, explorer, calibrations, query)
    trace, cell = found.trace, found.cell
    draw = Panels(
        query,
        trace,
        link=partial(link_to, request, query),
        basis=lambda id: link(request, "/bases", token=f"#{id}"),
    )
    result = {
        "headline": headline(trace, found.finding),
        "exact_href": None if LOGIT.chosen(query) else link_to(request, query, **LOGIT.settings()),
        "control_href": link_to(request, query, **CONTROL.settings()),
        "prompt_end": trace.tokens[trace.positions[-1]],
        "colours": choices(COLOURS.items(), query.colour),
        "reading": reading_words(query),
        "temperature": number(trace.temperature),
        "temperature_fitted": trace.temperatures[query.geometry].fitted,
        "warnings": trace.warnings,
        "note": _note(query, cell),
        "grid": draw.grid((cell.layer, cell.position)),
        "cell": cell,
        "about": draw.cell(cell),
        "pin": partial(draw.pin, position=cell.position),
        "curves": draw.curves(found.curves, cell.layer),
        "path": draw.path(cell.layer, cell.position),
        "agreement": found.agreement and agreement(found.agreement, query),
        "agreement_href": link_to(request, query, panel="agreement") + "#agreement",
        "agreement_load": link_to(
            request, query, "/trace/agreement", cell=None, pin=(), start=None
        ),
        "go_on": _go_on(query) if explorer.facts().kind == "causal" else (),
        "words": found.words
        and in_words(
            found.words,
            query,
            partial(link_to, request, query),
            leaders(trace, cell.position),
        ),
        "contexts": found.contexts
        and contexts(request, found.contexts, query, await banks(request.app.state.sets)),
        "contexts_href": link_to(request, query, panel="contexts") + "#contexts",
        "contexts_load": link_to(
            request, query, "/trace/contexts", cell=f"{cell.layer},{cell.position}", start=None
        ),
        "words_href": link_to(request, query, panel="words") + "#words",
        "words_load": link_to(
            request, query, "/trace/words", cell=f"{cell.layer},{cell.position}", start=None
        ),
        "export": _export(request, query, explorer),
        "calibration": switched,
        "hidden": _hidden(query),
        "act_href": link(
            request,
            "/act",
            prompt=query.prompt,
            layers=cell.layer,
            positions=cell.position,
            **query.model_dump(include={"bos", "chat"}, exclude_defaults=True),
        ),
    }
    return result, _measured(len(trace.tokens), trace.cost), found.best, found


def _recording(
    request: Request, explorer: Explorer, query: TraceQuery, found: Reading
) -> BackgroundTask | None:
    """What keeps the run; which cell is open, and what it is coloured by, makes no other run."""
    question = asked(undialled(query), TraceQuestion.model_fields)
    facts = explorer.facts()
    run = run_of(facts, "trace", question, prompt=query.prompt, reading=reading_words(query))
    value = KeptTrace(found.trace, found.finding, found.curves)
    tokens = {"bos": query.bos, "chat": query.chat}
    return recording(request, explorer, run, value, tokens=tokens)


def _page(
    request: Request,
    query: TraceQuery,
    known: tuple[Example, ...],
    calibrations: tuple[Choice, ...],
    *,
    best: Preset | None = None,
    result: Panel | None = None,
    cost: CostLine | None = None,
    problem: str | None = None,
) -> TracePage:
    """The whole page; `known` are the examples for the open model, `best` its best reading."""
    away: dict[str, Any] = {"cell": None, "pin": (), "start": None, "positions": None}
    paper = PAPER.chosen(query)  # what is said of an example is read by that
    examples = tuple(
        Choice(
            one.prompt,
            one.kind,
            one.prompt == query.prompt,
            one.look if paper else "",
            link_to(request, query, prompt=one.prompt, **away),
        )
        for one in known
    )
    fields = type(query).model_fields
    return TracePage(
        query=query,
        examples=examples,
        presets=preset_choices(best, query, partial(link_to, request, query)),
        measure_href=link(request, "/readings") if best is None else None,
        look=next((one.help for one in examples if one.chosen), None),
        switches={
            "geometry": choices(GEOMETRIES, query.geometry),
            "frame": choices(FRAMES, query.frame),
            "lens": choices(LENSES, query.lens),
            "state": choices(STATES, query.state),
            "bos": choices(BOS, query.bos),
            "calibration": calibrations,
        },
        changed=sum([getattr(query, name) != fields[name].default for name in _FOLDED]),
        cost=cost,
        cost_problem=None,
        result=result,
        problem=problem,
        terms=TERMS,
    )


def _note(query: TraceQuery, cell: Cell) -> str | None:
    """What is said where another cell is shown than the one that was asked for."""
    if query.place in (None, (cell.layer, cell.position)):
        return None
    layer, position = query.place
    return f"Layer {layer}, position {position} is not part of this trace; here is its last cell."


def _go_on(query: TraceQuery) -> tuple[tuple[str, str], ...]:
    """What the page Generate is asked with: the prompt and its reading, but for what a text under
    way does not have."""
    given = {"prompt": query.prompt}
    for name, field in ReadingQuestion.model_fields.items():
        value = getattr(query, name)
        if name in ("geometry", "frame") or (name != "k" and value != field.default):
            given[name] = as_text(value)
    return tuple(given.items())


def _hidden(query: TraceQuery) -> list[tuple[str, object]]:
    """State that no visible switch holds, for the form."""
    pairs: list[tuple[str, object]] = [("pin", one) for one in query.pin]
    if query.cell is not None:
        pairs.append(("cell", query.cell))
    if query.bank != BUILT_IN:
        pairs.append(("bank", query.bank))
    if query.curve != "rank":
        pairs.append(("curve", query.curve))
    return pairs


def _export(request: Request, query: TraceQuery, explorer: Explorer) -> dict[str, str]:
    """The same numbers elsewhere."""
    names = set(TraceQuestion.model_fields) - {"prompt"}
    asked = query.model_dump(include=names, exclude_defaults=True)
    source = "" if explorer.settings.model is None else repr(explorer.settings.model)
    knobs = "".join([f",\n    {name}={value!r}" for name, value in asked.items()])
    state: dict[str, Any] = query.model_dump(exclude_defaults=True) | {"prompt": query.prompt}
    return {
        "json": link(request, "/api/v1/trace", prompt=query.prompt, **asked),
        **{
            one: link(request, f"/api/v1/trace.{one}", prompt=query.prompt, **asked)
            for one in ("csv", "npz", "html")
        },
        "permalink": link(request, "/", **state),
        "python": "from engine import load\n"
        "from app.figures.trace import grid\n\n"
        f"space = load({source})\n"
        f"trace = space.trace(\n    {query.prompt!r}{knobs},\n)\n"
        f"grid(trace, {query.colour!r})",
    }


def _pair(time: float, memory: float) -> str:
    size = f"{memory / 2**20:.1f} MiB" if memory < 2**30 else f"{memory / 2**30:.2f} GiB"
    return f"{seconds(time)}, {size}"


def _measured(tokens: int, cost: Cost) -> CostLine:
    measured = None
    if cost.seconds is not None and cost.bytes is not None:
        measured = _pair(cost.seconds, cost.bytes)
    return CostLine(tokens, _pair(cost.predicted_seconds, cost.predicted_bytes), measured)
