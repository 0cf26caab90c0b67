"""The page of two models: one text through both, beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse
from pydantic import Field
from starlette.responses import RedirectResponse, Response

from app.compare.models_question import ModelsQuery, ModelsQuestion
from app.compare.models_reading import (
    compared_with_best,
    frames_compared,
    on_one_map,
    opened_beside,
)
from app.figures.theme import FRAMES, GEOMETRIES, LENSES, layer_label, payload
from app.figures.two_models import (
    MEASURES,
    alike,
    difference,
    measures,
    one_map,
    race,
    reading,
    values_of,
)
from app.method.terms import TERMS, Term
from app.model.choice import REFRESH_S, ModelName
from app.model.explorer import Explorer, ExplorerDep
from app.model.open_model import Opened
from app.trace.panels import Panel
from app.trace.presets import Preset, preset_choices, reading_words
from app.trace.question import BOS
from app.web.problems import Conflict, NotFound
from app.web.questions import FormQuestion, PromptText, ask
from app.web.rendering import link, render, render_text
from app.web.words import Choice, choices, number
from engine.compare import ModelComparison
from engine.errors import InputError, OptionError

router = APIRouter(include_in_schema=False)
PATH = "/compare/models"
COLUMNS = 64
"""Pairs that a page draws at most: the last ones."""


@dataclass(frozen=True)
class SecondModel:
    """What ``compare/_second.html`` shows."""

    open: str | None
    choices: tuple[Choice, ...]
    progress: str
    """What is being done; empty where no model is being opened."""
    problem: str
    watch_href: str
    refresh_s: int


@dataclass(frozen=True)
class ModelsPage:
    """What ``compare/models.html`` shows."""

    query: ModelsQuery
    second: SecondModel
    presets: tuple[Choice, ...]
    switches: Mapping[str, tuple[Choice, ...]]
    result: Panel | None
    problem: str | None
    terms: Mapping[str, Term]


class SecondOrder(FormQuestion):
    """Which model is to stand beside the open one, and the text to come back with."""

    name: ModelName
    prompt: Annotated[PromptText, Field(description="Kept for the page.")] = ""


@router.get(PATH, response_class=HTMLResponse)
async def models_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """The page, or its result; a mistake is a sentence where the result would stand."""
    query, mistake = ask(ModelsQuery, request)
    second = explorer.models.second.opened
    if not query.beside and second is not None:
        query = query.model_copy(update={"beside": second.entry})
    found: ModelComparison | None = None
    best: Preset | None = None
    problem = mistake
    colours = MEASURES
    try:
        if mistake is not None:
            raise OptionError(mistake)
        if query.beside and query.prompt:
            beside = opened_beside(explorer, query.beside)
            answer = await explorer.ask(
                request, compared_with_best, explorer.models, beside, query.prompt, query.options()
            )
            found, best = answer
            colours = measures(answer[0])
            if query.colour not in colours:
                query = query.model_copy(update={"colour": "js"})
    except (InputError, NotFound, Conflict) as error:
        problem = str(error)
    context = ModelsPage(
        query=query,
        second=second_model(request, explorer, query),
        presets=preset_choices(best, query, partial(_link, request, query)),
        switches={
            "geometry": choices(GEOMETRIES, query.geometry),
            "frame": choices(FRAMES, query.frame),
            "lens": choices(LENSES, query.lens),
            "colour": choices((measures(found) if found is not None else {}).items(), query.colour),
            "bos": choices(BOS, query.bos),
        },
        result=panel(request, query, found) if found is not None else None,
        problem=problem,
        terms=TERMS,
    )
    status = 422 if problem else 200
    return render(
        request, "compare/models.html", context, fragment="compare/_models.html", status=status
    )


@router.get(f"{PATH}/second", response_class=HTMLResponse)
async def second_panel(request: Request, explorer: ExplorerDep) -> Response:
    """The choice of the second model alone: shown while one is being opened. When that is done,
    htmx is told to load the page anew."""
    query, _ = ask(ModelsQuery, request)
    context = {"second": second_model(request, explorer, query), "query": query}
    body = render_text(request, "compare/_second.html", context, is_fragment=True)
    headers = {"HX-Refresh": "true"} if explorer.models.opening is None else {}
    return HTMLResponse(body, headers=headers)


@router.post(f"{PATH}/second")
async def open_second(
    request: Request, form: Annotated[SecondOrder, Form()], explorer: ExplorerDep
) -> Response:
    """Begin to open a model beside the open one; the page shows how far it is."""
    await explorer.models.open_beside(form.name)
    to = {"beside": form.name} | ({"prompt": form.prompt} if form.prompt else {})
    return RedirectResponse(link(request, PATH, **to), 303)


@router.post(f"{PATH}/close")
async def close_second(request: Request, explorer: ExplorerDep) -> Response:
    """Let the second model go."""
    await explorer.models.close_beside()
    return RedirectResponse(link(request, PATH), 303)


@router.get(f"{PATH}/frames", response_class=HTMLResponse)
async def frames_panel(request: Request, explorer: ExplorerDep) -> Response:
    """The two frames turned onto each other: asked for by itself, since it takes seconds."""
    query, mistake = ask(ModelsQuery, request)
    if mistake is not None:
        raise OptionError(mistake)
    beside = opened_beside(explorer, query.beside)
    found = await explorer.ask(
        request, frames_compared, explorer.models, beside, query.options().frame_key
    )
    context = {"found": found, "query": query, "terms": TERMS}
    return HTMLResponse(render_text(request, "compare/_frames.html", context, is_fragment=True))


@router.get(f"{PATH}/map", response_class=HTMLResponse)
async def map_panel(request: Request, explorer: ExplorerDep) -> Response:
    """Both models' words, and the text's way, on one map: asked for by itself as well."""
    query, mistake = ask(ModelsQuery, request)
    if mistake is not None:
        raise OptionError(mistake)
    found = await explorer.ask(
        request, on_one_map, explorer.models, opened_beside(explorer, query.beside),
        query.prompt, query.options(),
    )  # fmt: skip
    context = {"found": found, "figure": payload(one_map(found))}
    return HTMLResponse(render_text(request, "compare/_one_map.html", context, is_fragment=True))


def second_model(request: Request, explorer: Explorer, query: ModelsQuery) -> SecondModel:
    """Which models may stand beside the open one, and how far an opening is."""
    models = explorer.models
    opening, failed, second = models.opening, models.failed, models.second.opened
    own = models.current
    rows = [
        (entry.name, f"{entry.name} (the open one)" if _is(own, entry.name) else entry.name)
        for entry in models.catalogue.entries.values()
        if not entry.ready or _is(own, entry.name)
    ]
    chosen = query.beside or (second.entry if second is not None else "")
    return SecondModel(
        open=second.entry if second is not None else None,
        choices=choices(rows, chosen),
        progress=models.progress if opening is not None else "",
        problem=f"{failed.name} could not be opened: {failed.sentence}" if failed else "",
        watch_href=link(request, f"{PATH}/second", beside=chosen or None),
        refresh_s=REFRESH_S if opening is not None else 0,
    )


def _is(opened: Opened | None, name: str) -> bool:
    return opened is not None and opened.entry == name


def _link(request: Request, query: ModelsQuery, path: str = PATH, **changes: Any) -> str:
    """A link that keeps the state of the page but for the changes; defaults are left out."""
    fields = ModelsQuery.model_fields
    state = query.model_dump(exclude_defaults=True) | changes
    state = {key: value for key, value in state.items() if value != fields[key].default}
    state |= {
        key: f"{state[key]:g}" for key in ("alpha", "ridge") if isinstance(state.get(key), float)
    }
    return link(request, path, **{key: value for key, value in state.items() if value is not None})


def panel(request: Request, query: ModelsQuery, found: ModelComparison) -> Panel:
    """The result as ``compare/_models.html`` shows it."""
    count = len(found.pairs)
    drawn = found.at(slice(max(0, count - COLUMNS), count))
    values = values_of(drawn, query.colour)
    own = query.model_dump(include=set(ModelsQuestion.model_fields), exclude_defaults=True)
    tokens = [side.tokens for side in found.sides]
    return {
        "sentence": found.sentence,
        "reading": reading_words(query),
        "vocabulary": found.shared.sentence,
        "names": found.names,
        "same_width": found.cosine is not None,
        "window": f"The last {COLUMNS} of {count} pairs." if count > COLUMNS else "",
        "alone": found.alone,
        "difference": payload(difference(drawn, query.colour)),
        "measure": measures(found)[query.colour],
        "grids": [payload(reading(drawn, side)) for side in (0, 1)],
        "race": payload(race(found)),
        "alike": payload(alike(found)) if count >= 4 else None,
        "cka_by_chance": number(found.cka_by_chance, 2),
        "heads": [(tokens[0][a], tokens[1][b]) for a, b in drawn.pairs],
        # (layers, its cells), the top layer first, as in the figure
        "rows": [
            (
                layer_label(a) if a == b else f"{layer_label(a)} / {layer_label(b)}",
                [_cell(drawn, values, y, x) for x in range(len(drawn.pairs))],
            )
            for y, (a, b) in reversed(list(enumerate(drawn.layers)))
        ],
        # by layer: JS over all pairs, the same by chance, and the share that agrees
        "layers": [
            (
                a,
                b,
                number(float(found.js[y].mean()), 3),
                number(float(found.by_chance[y]), 3),
                f"{float(found.agreement[y].mean()):.0%}",
            )
            for y, (a, b) in reversed(list(enumerate(found.layers)))
        ],
        "movers": [(one.token, number(one.first, 3), number(one.other, 3)) for one in found.movers],
        "frames": _link(request, query, f"{PATH}/frames", prompt=""),
        "map": _link(request, query, f"{PATH}/map"),
        "json": link(request, "/api/v1/compare/models", **own),
    }


def _cell(found: ModelComparison, values: Any, y: int, x: int) -> tuple[Any, Any, str]:
    """Both first tokens, and how far apart."""
    tops = [
        side.token_info.get(int(ids[y, x, 0]))
        for side, ids in zip(found.sides, found.top_ids, strict=True)
    ]
    return tops[0], tops[1], number(float(values[y, x]), 3)
