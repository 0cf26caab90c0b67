"""The page Compare: two prompts through the layers, beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from starlette.background import BackgroundTask

from app.compare.question import CompareQuery, CompareQuestion
from app.compare.reading import KINDS, compare, of_runs
from app.figures.compare import MEASURES, difference, race
from app.figures.theme import FRAMES, GEOMETRIES, LENSES, layer_label, payload
from app.figures.trace import grid
from app.method.terms import TERMS, Term
from app.model.explorer import Explorer, ExplorerDep
from app.model.recording import asked, recording, run_of
from app.storage.runs import Runs
from app.storage.store import aside
from app.trace.panels import Panel
from app.trace.presets import Preset, preset_choices, reading_words
from app.trace.question import BOS
from app.web.problems import NotFound
from app.web.questions import ask
from app.web.rendering import Page, link, render
from app.web.words import Choice, choices, number
from engine.compare import PromptComparison
from engine.errors import ArtifactError, InputError, OptionError
from engine.interventions.causal import LONGEST
from engine.model.vocabulary import Token

router = APIRouter(include_in_schema=False)
PAGE = Page("Compare", "/compare", router, takes_prompt=True)
COLUMNS = 64
"""Pairs that a page draws at most: the last ones."""
RUNS = 30
"""Kept runs that either side offers."""
EXAMPLES = (
    ("The capital of France is", "The capital of Italy is"),
    ("He opened the door and shut the", "He opened the window and shut the"),
    ("Monday, Tuesday, Wednesday,", "one, two, three,"),
)
"""Two prompts that differ in a word or two."""
_ASKED = frozenset({"prompt", "other", "run", "other_run"})
_ALIGN = (("tokens", "equal tokens"), ("characters", "equal characters"))


@dataclass(frozen=True)
class ComparePage:
    """What ``compare/page.html`` shows."""

    query: CompareQuery
    examples: tuple[Choice, ...]
    presets: tuple[Choice, ...]
    """Readings that have a name."""
    switches: Mapping[str, tuple[Choice, ...]]
    sides: tuple[tuple[str, tuple[Choice, ...]], ...]
    """(field, kept runs that can stand in the place of its text)."""
    result: Panel | None
    problem: str | None
    terms: Mapping[str, Term]


@router.get("/compare", response_class=HTMLResponse)
async def compare_page(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """The page, or its result; a mistake is a sentence where the result would stand."""
    query, mistake = ask(CompareQuery, request)
    found: PromptComparison | None = None
    best: Preset | None = None
    result, problem, worked = None, mistake, False
    runs: Runs = request.app.state.runs
    try:
        if mistake is not None:
            raise OptionError(mistake)
        worked = not request.query_params.keys() & _ASKED
        if worked:
            query = query.model_copy(
                update=dict(zip(("prompt", "other"), EXAMPLES[0], strict=True))
            )
        query = await aside(partial(of_runs, runs, query))
        # From another page a prompt or a run comes alone.
        if worked or "other" in request.query_params or query.other_run is not None:
            ids = query.run, query.other_run
            found, best = await explorer.ask(
                request,
                compare,
                query.prompt,
                query.other,
                query.options(),
                query.align,
                runs,
                ids,
            )
        if found is not None:
            result = panel(request, query, found, worked=worked)
    except (InputError, ArtifactError, NotFound) as error:
        problem = str(error)
    context = ComparePage(
        query=query,
        examples=tuple(
            Choice(a, f"{a} / {b}", (a, b) == (query.prompt, query.other),
                   href=_link(request, query, prompt=a, other=b, run=None, other_run=None))
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
        sides=await aside(partial(_sides, runs, query)),
        result=result,
        problem=problem,
        terms=TERMS,
    )  # fmt: skip
    status = 422 if problem else 200
    answer = render(
        request, "compare/page.html", context, fragment="compare/_result.html", status=status
    )
    if found is not None and not worked:
        answer.background = _recording(request, explorer, query, found)
    return answer


def _sides(runs: Runs, query: CompareQuery) -> tuple[tuple[str, tuple[Choice, ...]], ...]:
    """For either side the kept runs that can stand in its place."""
    found = [
        one
        for one in runs.all()
        if one.kind in KINDS and not one.problem and (one.has_states or one.kind != "trace")
    ]
    out = []
    for name, chosen in (("run", query.run), ("other_run", query.other_run)):
        shown = [one for n, one in enumerate(found) if n < RUNS or one.id == chosen]
        rows = [
            (one.id, f"{one.prompt[:60]} ({one.reading}, {one.created[:16]})", one.prompt)
            for one in shown
        ]
        out.append((name, choices([("", "the text above"), *rows], chosen or "")))
    return tuple(out)


def _link(request: Request, query: CompareQuery, path: str = "/compare", **changes: Any) -> str:
    """A link that keeps the state of the page but for the changes; defaults are left out."""
    fields = CompareQuery.model_fields
    state = query.model_dump(exclude_defaults=True) | changes
    state = {key: value for key, value in state.items() if value != fields[key].default}
    state |= {
        key: f"{state[key]:g}" for key in ("alpha", "ridge") if isinstance(state.get(key), float)
    }
    return link(request, path, **{key: value for key, value in state.items() if value is not None})


def _recording(
    request: Request, explorer: Explorer, query: CompareQuery, found: PromptComparison
) -> BackgroundTask | None:
    question = asked(query, [*CompareQuestion.model_fields, "run", "other_run"])
    run = run_of(
        explorer.facts(), "compare", question,
        prompt=query.prompt, other=query.other, reading=reading_words(query),
    )  # fmt: skip
    return recording(request, explorer, run, found)


def panel(
    request: Request, query: CompareQuery, found: PromptComparison, *, worked: bool = False
) -> Panel:
    """The result as ``compare/_result.html`` shows it; `worked` where nothing was asked, and the
    first example stands there."""
    count = len(found.pairs)
    shown = slice(max(0, count - COLUMNS), count)
    drawn = found.at(shown)
    own = query.model_dump(include=set(CompareQuestion.model_fields), exclude_defaults=True)
    return {
        "sentence": found.sentence,
        "control": found.control,
        "worked": worked,
        "twin": _twin(request, query, found),
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
        "json": link(request, "/api/v1/compare", **own),
    }


def _twin(request: Request, query: CompareQuery, found: PromptComparison) -> str | None:
    """Where the state is looked for that turns the one answer into the other; None where the
    prompts cannot be twins."""
    first, other = found.tokens
    if len(first) != len(other) or len(first) > LONGEST or query.run or query.other_run:
        return None
    return link(request, "/act", prompt=query.prompt, twin=query.other) + "#causal"


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
