"""The Trace page: a prompt through the layers, cell by cell.

One view answers the page, its result (a switch was changed) and its detail (a cell was opened):
the same query, the same context, a smaller template. The whole state is the query string; every
link is built by `link_to` from the query it stands on, so none loses a setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from app.calibrate.calibrations import Calibrations, CalibrationsDep
from app.figures.names import FRAMES, GEOMETRIES, LABELS, STATES
from app.method.terms import TERMS, Term
from app.model.explorer import Explorer, ExplorerDep
from app.model.open_model import ModelFacts
from app.trace import calibrated as switched_on
from app.trace.calibrated import CalibrationPanel
from app.trace.examples import EXAMPLES, LOOKED_AT
from app.trace.panels import Panels, agreement
from app.trace.question import TraceQuery, TraceQuestion, link_to
from app.trace.reading import Reading, Switched, predict_cost, read
from app.trace.shown import AgreementPanel, CellPanel, CurvePanel, GridPanel, PathPanel
from app.trace.words import COLOURS
from app.web.pages import Page
from app.web.problems import NotFound, StorageError
from app.web.questions import ask
from app.web.rendering import link, render, render_text
from app.web.words import Choice, choices, probability, seconds, sentence
from engine import LatentSpace
from engine.errors import ArtifactError, InputError, NonFiniteError, OptionError
from engine.model.vocabulary import Token
from engine.trace.cell import Cell
from engine.trace.result import Cost

router = APIRouter(include_in_schema=False)
PAGE = Page("Trace", "/", router)


# ---- what is shown -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExampleChip:
    """An example as a link."""

    label: str
    href: str
    look: str
    current: bool


@dataclass(frozen=True)
class Form:
    """The switches as they stand."""

    prompt: str
    geometries: tuple[Choice, ...]
    frames: tuple[Choice, ...]
    states: tuple[Choice, ...]
    colours: tuple[Choice, ...]
    bos: tuple[Choice, ...]
    centred: bool
    chat: bool
    words_only: bool
    temperature: str
    layers: str
    positions: str
    k: int
    max_k: int
    max_characters: int
    layer_help: str
    has_bos: bool
    has_chat: bool
    calibrations: tuple[Choice, ...]
    """Saved ones that can be switched on; empty where there are none."""
    changed: int
    """How many of the folded settings differ from their defaults."""


@dataclass(frozen=True)
class CostLine:
    """What a run is expected to take, and took."""

    tokens: int
    predicted: str
    measured: str | None


@dataclass(frozen=True)
class Export:
    """The same numbers elsewhere."""

    json: str
    csv: str
    permalink: str
    python: str


@dataclass(frozen=True)
class Result:
    """Everything below the form."""

    answer: Token
    answer_probability: str
    first: Token
    agrees: bool
    prompt_end: Token
    reading: str
    temperature: str
    warnings: tuple[str, ...]
    grid: GridPanel
    cell: CellPanel
    curves: CurvePanel
    path: PathPanel
    agreement: AgreementPanel | None
    agreement_href: str
    agreement_load: str
    export: Export
    calibration: CalibrationPanel | None
    """What a calibration makes of the last layer; None where none is switched on."""
    hidden: tuple[tuple[str, str], ...]
    """State that no visible switch holds, for the form."""


@dataclass(frozen=True)
class TracePage:
    """What ``trace/page.html`` shows."""

    examples: tuple[ExampleChip, ...]
    look: str | None
    form: Form
    cost: CostLine | None
    cost_problem: str | None
    result: Result | None
    problem: str | None
    terms: dict[str, Term]


def _form(
    query: TraceQuery, facts: ModelFacts, explorer: Explorer, calibrations: tuple[Choice, ...]
) -> Form:
    folded = ("state", "centred", "temperature", "layers", "positions", "k", "bos", "chat",
              "words_only")  # fmt: skip
    fields = type(query).model_fields
    return Form(
        prompt=query.prompt,
        geometries=choices(GEOMETRIES, query.geometry),
        frames=choices(FRAMES, query.frame),
        states=choices(STATES, query.state),
        colours=choices(COLOURS, query.colour),
        bos=choices((("auto", "as the model does"), ("yes", "yes"), ("no", "no")), query.bos),
        centred=query.centred,
        chat=query.chat,
        words_only=query.words_only,
        temperature="" if query.temperature is None else f"{query.temperature:g}",
        layers=query.layers or "",
        positions=query.positions or "",
        k=query.k,
        max_k=explorer.settings.max_k,
        max_characters=explorer.settings.max_characters,
        layer_help=f"Layers 0 to {facts.blocks}, as first:end or first:end:step; the end is left"
        " out. Empty: all.",
        has_bos=facts.has_bos,
        has_chat=facts.has_chat_template,
        calibrations=calibrations,
        changed=sum(getattr(query, name) != fields[name].default for name in folded),
    )


# ---- the views -----------------------------------------------------------------------------------


@router.get("/", response_class=HTMLResponse)
async def trace_page(
    request: Request, explorer: ExplorerDep, calibrations: CalibrationsDep
) -> HTMLResponse:
    """The page, its result or its detail; a mistake is a sentence where the result would stand."""
    facts = explorer.facts()
    query, mistake = ask(TraceQuery, request)
    saved = await switched_on.choices(calibrations, query.calibration)
    try:
        if mistake is not None:
            raise OptionError(mistake)
        result, cost = await _result(request, explorer, calibrations, query)
    except InputError as error:
        context = _page(request, query, facts, explorer, saved, problem=str(error))
        return render(
            request, "trace/page.html", context, fragment="trace/_result.html", status=422
        )
    context = _page(request, query, facts, explorer, saved, result=result, cost=cost)
    # A cell that is not there: its neighbour is shown, and only who asked for a page is told so.
    status = 422 if result.cell.note and "hx-request" not in request.headers else 200
    vary = {"Vary": "HX-Request, HX-History-Restore-Request, HX-Boosted, HX-Target"}
    if request.headers.get("hx-target") == "detail":
        body = render_text(request, "trace/_detail.html", context, is_fragment=True)
        return HTMLResponse(body, headers=vary)
    return render(
        request,
        "trace/page.html",
        context,
        fragment="trace/_result.html",
        headers=vary,
        status=status,
    )


@router.get("/trace/agreement", response_class=HTMLResponse)
async def agreement_panel(
    request: Request, query: Annotated[TraceQuery, Query()], explorer: ExplorerDep
) -> HTMLResponse:
    """The agreement panel alone, fetched once the page stands."""
    found = await explorer.ask(request, LatentSpace.agreement, query.prompt, query.options())
    panel = agreement(found, query)
    body = render_text(
        request, "trace/_agreement.html", {"agreement": panel, "terms": TERMS}, is_fragment=True
    )
    return HTMLResponse(body)


@router.get("/cost", response_class=HTMLResponse)
async def cost_line(
    request: Request, query: Annotated[TraceQuery, Query()], explorer: ExplorerDep
) -> HTMLResponse:
    """What a run would take, while the prompt is still being written."""
    line, problem = None, None
    try:
        cost = await explorer.ask(request, predict_cost, query.prompt, query.options())
        foretold = _pair(cost.predicted_seconds, cost.predicted_bytes)
        line = CostLine(cost.tokens, foretold, None)
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


async def _read(
    request: Request, explorer: Explorer, calibrations: Calibrations, query: TraceQuery
) -> tuple[Reading, CalibrationPanel | None]:
    """All that is shown, in one question to the engine; with the panel of a calibration.

    Whatever keeps a calibration from being read is a sentence in its panel.
    """
    asked = partial(
        explorer.ask,
        request,
        read,
        query.prompt,
        query.options(),
        cell=query.place,
        pins=query.pin or None,
        agreement=query.panel == "agreement",
    )
    if query.calibration is None:
        return await asked(), None
    href = link(request, f"/calibrate/{query.calibration}")
    off_href = link_to(request, query, calibration=None)
    try:
        saved = await calibrations.get(query.calibration)
        calibrations.check_model(saved.view)
        found = await asked(switched=Switched(calibrations, query.calibration))
    except (ArtifactError, InputError, NonFiniteError, NotFound, StorageError) as error:
        # Without it: what is wrong with the prompt itself is raised again.
        problem = CalibrationPanel("", href, off_href, sentence(str(error)))
        return await asked(), problem
    assert found.switched is not None
    return found, switched_on.panel(found.switched, saved.view.name, href, off_href)


async def _result(
    request: Request, explorer: Explorer, calibrations: Calibrations, query: TraceQuery
) -> tuple[Result, CostLine]:
    found, switched = await _read(request, explorer, calibrations, query)
    trace, cell = found.trace, found.cell
    layer, position = cell.layer, cell.position
    draw = Panels(
        query,
        trace,
        link=partial(link_to, request, query),
        basis=lambda id: link(request, "/bases", token=f"#{id}"),
    )
    result = Result(
        answer=trace.token_info[int(trace.final_ids[-1])],
        answer_probability=probability(trace.final_probabilities[-1]),
        first=trace.token_info[int(trace.top_ids[-1, -1, 0])],
        agrees=bool(trace.agrees[-1, -1]),
        prompt_end=trace.tokens[trace.positions[-1]],
        reading=f"{LABELS[query.geometry]}, {LABELS[query.frame]}",
        temperature=f"{trace.temperature:g}",
        warnings=trace.warnings,
        grid=draw.grid((layer, position)),
        cell=draw.cell(cell, _note(query, cell), found.curves),
        curves=draw.curves(found.curves, layer),
        path=draw.path(layer, position),
        agreement=None if found.agreement is None else agreement(found.agreement, query),
        agreement_href=link_to(request, query, panel="agreement") + "#agreement",
        agreement_load=link_to(request, query, "/trace/agreement", cell=None, pin=(), start=None),
        export=_export(request, query, explorer),
        calibration=switched,
        hidden=_hidden(query),
    )
    return result, _measured(len(trace.tokens), trace.cost)


def _page(
    request: Request,
    query: TraceQuery,
    facts: ModelFacts,
    explorer: Explorer,
    calibrations: tuple[Choice, ...],
    *,
    result: Result | None = None,
    cost: CostLine | None = None,
    problem: str | None = None,
) -> TracePage:
    known = facts.fingerprint == LOOKED_AT
    examples = tuple(
        ExampleChip(
            e.prompt,
            link_to(
                request, query, prompt=e.prompt, cell=None, pin=(),
                start=None, positions=None,
            ),
            e.look if known else "",
            e.prompt == query.prompt,
        )
        for e in EXAMPLES
    )  # fmt: skip
    look = next((e.look for e in EXAMPLES if known and e.prompt == query.prompt), None)
    form = _form(query, facts, explorer, calibrations)
    return TracePage(examples, look, form, cost, None, result, problem, dict(TERMS))


def _note(query: TraceQuery, cell: Cell) -> str | None:
    """What is said where another cell is shown than the one that was asked for."""
    if query.place in (None, (cell.layer, cell.position)):
        return None
    layer, position = query.place
    return f"Layer {layer}, position {position} is not part of this trace; here is its last cell."


def _hidden(query: TraceQuery) -> tuple[tuple[str, str], ...]:
    pairs = [("pin", str(one)) for one in query.pin]
    if query.cell is not None:
        pairs.append(("cell", query.cell))
    if query.curve != "probability":
        pairs.append(("curve", query.curve))
    return tuple(pairs)


def _export(request: Request, query: TraceQuery, explorer: Explorer) -> Export:
    names = set(TraceQuestion.model_fields) - {"prompt"}
    asked = query.model_dump(include=names, exclude_defaults=True)
    source = "" if explorer.settings.model is None else repr(explorer.settings.model)
    knobs = "".join(f",\n    {name}={value!r}" for name, value in asked.items())
    python = (
        "from engine import load\n"
        "from app.figures.trace import grid\n\n"
        f"space = load({source})\n"
        f"trace = space.trace(\n    {query.prompt!r}{knobs},\n)\n"
        f"grid(trace, {query.colour!r})"
    )
    return Export(
        json=link(request, "/api/v1/trace", prompt=query.prompt, **asked),
        csv=link(request, "/api/v1/trace.csv", prompt=query.prompt, **asked),
        permalink=link(
            request, "/", **(query.model_dump(exclude_defaults=True) | {"prompt": query.prompt})
        ),
        python=python,
    )


def _pair(time: float, memory: float) -> str:
    size = f"{memory / 2**20:.1f} MiB" if memory < 2**30 else f"{memory / 2**30:.2f} GiB"
    return f"{seconds(time)}, {size}"


def _measured(tokens: int, cost: Cost) -> CostLine:
    measured = None
    if cost.seconds is not None and cost.bytes is not None:
        measured = _pair(cost.seconds, cost.bytes)
    return CostLine(tokens, _pair(cost.predicted_seconds, cost.predicted_bytes), measured)
