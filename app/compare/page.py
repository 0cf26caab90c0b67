"""The page Compare: two prompts through the layers, beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.compare.question import CompareQuery, CompareQuestion
from app.figures.compare import MEASURES, difference, race
from app.figures.theme import FRAMES, GEOMETRIES, LENSES, layer_label, payload
from app.figures.trace import grid
from app.method.terms import TERMS, Term
from app.model.explorer import ExplorerDep
from app.trace.panels import Panel
from app.trace.presets import Preset, faithful, preset_choices, reading_words
from app.trace.question import BOS
from app.web.questions import ask
from app.web.rendering import Page, link, render
from app.web.words import Choice, choices, number
from engine import LatentSpace, TraceOptions
from engine.compare import PromptComparison, compare_prompts
from engine.compare.alignment import AlignmentName
from engine.errors import InputError, OptionError
from engine.model.vocabulary import Token
from engine.progress import Check

router = APIRouter(include_in_schema=False)
PAGE = Page("Compare", "/compare", router, takes_prompt=True)
COLUMNS = 64
"""Pairs that a page draws at most: the last ones."""
EXAMPLES = (
    ("The capital of France is", "The capital of Italy is"),
    ("He opened the door and shut the", "He opened the window and shut the"),
    ("Monday, Tuesday, Wednesday,", "one, two, three,"),
)
"""Two prompts that differ in a word or two."""
_ALIGN = (("tokens", "equal tokens"), ("characters", "equal characters"))


@dataclass(frozen=True)
class ComparePage:
    """What ``compare/page.html`` shows."""

    query: CompareQuery
    examples: tuple[Choice, ...]
    presets: tuple[Choice, ...]
    """Readings that have a name."""
    switches: Mapping[str, tuple[Choice, ...]]
    result: Panel | None
    problem: str | None
    terms: Mapping[str, Term]


def compared(
    space: LatentSpace,
    prompt: str,
    other: str,
    options: TraceOptions,
    by: AlignmentName,
    *,
    check: Check,
) -> tuple[PromptComparison, Preset | None]:
    """Both prompts beside each other, and the reading most faithful to the model where that was
    measured."""
    found = compare_prompts(space, prompt, other, options, by=by, check=check)
    return found, faithful(space, check=check)


@router.get("/compare", response_class=HTMLResponse)
async def compare_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """The page, or its result; a mistake is a sentence where the result would stand."""
    query, mistake = ask(CompareQuery, request)
    result, problem, best = None, mistake, None
    try:
        if mistake is not None:
            raise OptionError(mistake)
        if "other" in request.query_params:  # from another page a prompt comes alone
            found, best = await explorer.ask(
                request, compared, query.prompt, query.other, query.options(), query.align
            )
            result = _result(request, query, found)
    except InputError as error:
        problem = str(error)
    context = ComparePage(
        query=query,
        examples=tuple(
            Choice(a, f"{a} / {b}", (a, b) == (query.prompt, query.other),
                   href=_link(request, query, prompt=a, other=b))
            for a, b in EXAMPLES
        ),
        presets=preset_choices(best, query, partial(_link, request, query)),
        switches={
            "geometry": choices(GEOMETRIES, query.geometry),
            "frame": choices(FRAMES, query.frame),
            "lens": choices(LENSES, query.lens),
            "align": choices(_ALIGN, query.align),
            "colour": choices(MEASURES.items(), query.colour),
            "bos": choices(BOS, query.bos),
        },
        result=result,
        problem=problem,
        terms=TERMS,
    )  # fmt: skip
    status = 422 if problem else 200
    return render(
        request, "compare/page.html", context, fragment="compare/_result.html", status=status
    )


def _link(request: Request, query: CompareQuery, path: str = "/compare", **changes: Any) -> str:
    """A link that keeps the state of the page but for the changes; defaults are left out."""
    fields = CompareQuery.model_fields
    state = query.model_dump(exclude_defaults=True) | changes
    state = {key: value for key, value in state.items() if value != fields[key].default}
    state |= {
        key: f"{state[key]:g}" for key in ("alpha", "ridge") if isinstance(state.get(key), float)
    }
    return link(request, path, **{key: value for key, value in state.items() if value is not None})


def _result(request: Request, query: CompareQuery, found: PromptComparison) -> Panel:
    count = len(found.pairs)
    shown = slice(max(0, count - COLUMNS), count)
    drawn = found.at(shown)
    asked = query.model_dump(include=set(CompareQuestion.model_fields), exclude_defaults=True)
    return {
        "sentence": found.sentence,
        "reading": reading_words(query),
        "window": f"The last {COLUMNS} of {count} pairs." if count > COLUMNS else "",
        "alone": found.alone,
        "warnings": (*found.first.warnings, *found.other.warnings),
        "difference": payload(difference(drawn, query.colour)),
        "measure": MEASURES[query.colour],
        "grids": [payload(grid(one)) for one in (drawn.first, drawn.other)],
        "traces": [_trace(request, query, text) for text in (query.prompt, query.other)],
        "race": payload(race(found)),
        "heads": [(found.tokens[0][a], found.tokens[1][b]) for a, b in drawn.pairs],
        # (layer, its cells), the top layer first, as in the figure
        "rows": [
            (layer_label(found.layers[y]), [_cell(drawn, y, x) for x in range(len(drawn.pairs))])
            for y in reversed(range(len(found.layers)))
        ],
        "json": link(request, "/api/v1/compare", **asked),
    }


def _cell(found: PromptComparison, y: int, x: int) -> tuple[Token, Token, str, str]:
    """Both first tokens, how far apart, and the ranks of the answers on the other side."""
    first, other = (one.token_info[int(one.top_ids[y, x, 0])] for one in (found.first, found.other))
    ranks = [int(rank[y, x]) or None for rank in (found.rank_in_other, found.rank_in_first)]
    return first, other, number(float(found.divergence[y, x]), 3), " · ".join(map(number, ranks))


def _trace(request: Request, query: CompareQuery, text: str) -> str:
    """The link to one prompt's own trace."""
    names = ("geometry", "frame", "alpha", "lens", "state", "centred", "bos", "chat")
    kept = query.model_dump(include=set(names), exclude_defaults=True)
    return link(request, "/", prompt=text, **kept)
