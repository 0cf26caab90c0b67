"""The kinds of runs that are kept, and how each is drawn again from what was kept alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from starlette.requests import Request

from app.act import page as act
from app.act.reading import ActReading
from app.compare.page import panel as compare_panel
from app.compare.question import CompareQuery
from app.figures.act import causal as causal_figure
from app.figures.theme import layer_label, payload
from app.figures.trace import grid, planes
from app.figures.trace_curves import curves
from app.generate.panels import finished
from app.generate.question import GeneratePageQuery
from app.storage.run import Run, RunKind, Strip
from app.trace.headline import headline
from app.trace.reading import KeptTrace
from app.web.rendering import link
from app.web.words import number, probability
from engine.compare import PromptComparison
from engine.generation.column import Generation
from engine.interventions.causal import CausalMap
from engine.interventions.many import Many
from engine.interventions.sentences import causal_sentence, many_sentence
from engine.model.vocabulary import Token
from engine.trace.cell import Curves
from engine.trace.compute import leaders
from engine.trace.result import Bools, Ints, Trace

COLUMNS: Final = 64
"""Positions that are drawn at most: the last ones."""
_NOWHERE: Final = Request({"type": "http"})
Panel = dict[str, Any]
Draw = Callable[[Request, Run, Any], Panel]


@dataclass(frozen=True)
class Shown(RunKind):
    """A kind with its template."""

    template: str
    draw: Draw
    """What the template shows, by the names that it has there."""


def asks_again(request: Request, run: Run) -> str | None:
    """The address at which the open model is asked the same; None where there is none."""
    path = KINDS[run.kind].path
    return link(request, path, **run.question) if path else None


# What a strip shows


def _trace_strip(found: KeptTrace) -> tuple[Strip, ...]:
    return _column(found.trace)


def _column(trace: Trace) -> tuple[Strip, ...]:
    return _strip(
        trace.top_ids[:, -1, 0], trace.final_rank[:, -1], trace.agrees[:, -1], trace.token_info
    )


def _generation_strip(found: Generation) -> tuple[Strip, ...]:
    last = found.columns[-1]
    ids = last.top_ids[:, 0]
    return _strip(ids, last.final_ranks, ids == last.token.id, last.token_info)


def _strip(ids: Ints, ranks: Ints, agrees: Bools, texts: Mapping[int, Token]) -> tuple[Strip, ...]:
    """First tokens, coloured by the rank of the model's answer, as the grid is at first."""
    return tuple(
        Strip(texts[int(id)].label if id >= 0 else "–", _near(int(rank)), bool(same))
        for id, rank, same in zip(ids, ranks, agrees, strict=True)
    )


def _near(rank: int) -> int:
    """6 for the first rank, one less for each power of ten; 0 where nothing is ranked."""
    return max(0, 6 - math.ceil(math.log10(rank))) if rank > 0 else 0


def _causal_strip(found: CausalMap) -> tuple[Strip, ...]:
    """How much of the contrast each layer of the last position carries."""
    shares = [float(x) for x in found.recovered[:, -1]]
    return tuple(Strip(number(x, 2), max(0, min(6, int(7 * x))) if x == x else 0, False)
                 for x in shares)  # fmt: skip


# What a run shows


def _draw_trace(request: Request, run: Run, found: KeptTrace) -> Panel:
    trace = found.trace
    count = len(trace.positions)
    shown = slice(max(0, count - COLUMNS), count)
    result = {
        "headline": headline(trace, found.finding),
        "control_href": None,
        "exact_href": None,
        "prompt_end": trace.tokens[trace.positions[-1]],
        "reading": run.reading,
        "temperature": number(trace.temperature),
        "temperature_fitted": trace.temperatures[trace.geometry].fitted,
        "warnings": trace.warnings,
    }
    rows = [
        (
            layer_label(trace.layers[y]),
            [_cell(trace, y, x) for x in range(shown.start, shown.stop)],
        )
        for y in reversed(range(len(trace.layers)))
    ]
    return {
        "result": result,
        "look": None,
        "grid": payload(grid(trace, columns=shown)),
        "reads": planes(trace)["rank"].reads,
        "curves": payload(curves(found.curves, leaders=_leading(found))),
        "curves_token": trace.tokens[found.curves.position],
        "heads": [
            (trace.tokens[p], trace.token_info[int(answer)])
            for p, answer in zip(trace.positions[shown], trace.final_ids[shown], strict=True)
        ],
        "rows": rows,
        "window": f"The last {COLUMNS} of {count} positions." if count > COLUMNS else "",
    }


def _leading(found: KeptTrace) -> int | None:
    """How many curves the race is about; None where a person chose the tokens."""
    first = leaders(found.trace, found.curves.position)
    drawn = [token.id for token in found.curves.tokens[: len(first)]]
    return len(first) if drawn == list(first) else None


def _cell(trace: Trace, y: int, x: int) -> tuple[Any, str, bool]:
    id = int(trace.top_ids[y, x, 0])
    if id < 0:
        return None, "not finite", False
    p = probability(float(trace.top_probabilities[y, x, 0]))
    small = f"p {p} · #{number(int(trace.final_rank[y, x]))}"
    return trace.token_info[id], small, bool(trace.agrees[y, x])


def _draw_generation(request: Request, run: Run, found: Generation) -> Panel:
    return {"run": finished(request, _query(GeneratePageQuery, run), found)}


def _draw_act(request: Request, run: Run, found: ActReading) -> Panel:
    return {
        "found": found,
        "where": act.where(found),
        "token": act.token,
        "rows": act.rows(found),
        "figures": act.figures(found),
        "window": act.window(found),
    }


def _draw_compare(request: Request, run: Run, found: PromptComparison) -> Panel:
    query = _query(CompareQuery, run)
    return {"result": compare_panel(request, query, found), "problem": None, "query": query}


def _draw_causal(request: Request, run: Run, found: CausalMap) -> Panel:
    return {
        "sentence": causal_sentence(found),
        "figure": payload(causal_figure(found)),
        "answers": (act.token(found.answers[0]), act.token(found.followed)),
    }


def _draw_many(request: Request, run: Run, found: Many) -> Panel:
    return {"found": found, "sentence": many_sentence(found), "id": run.question["id"][0]}


def _query(kind: Any, run: Run) -> Any:
    return kind.model_validate({name: one[0] for name, one in run.question.items()})


def check_shapes(found: Any) -> None:
    """Refuse arrays of other sizes than the layers, positions and tokens beside them.

    Raises:
        ValueError: one does not fit.
    """
    match found:
        case KeptTrace():
            check_shapes(found.trace)
            check_shapes(found.curves)
        case ActReading():
            sides = (found.before, found.after)
            for one in (*sides, *((found.causal,) if found.causal is not None else ())):
                check_shapes(one)
            if found.cells is not None:
                _fits(found.cells, found.effect.moved.shape)
        case Generation():
            for column in found.columns:
                _fits(column, (len(found.columns[0].entropy),))
        case Trace():
            layers, positions = len(found.layers), len(found.positions)
            _fits(found, (layers, positions), final=(positions,))
            for reading in found.readings.values():
                _fits(reading, (layers, positions))
        case PromptComparison():
            check_shapes(found.first)
            check_shapes(found.other)
            _fits(found, (len(found.layers), len(found.pairs)))
            for curves in found.race:
                check_shapes(curves)
        case Curves():
            _fits(found, (len(found.tokens), len(found.layers)))
        case CausalMap():
            _fits(found, (len(found.layers), len(found.positions)))


def _fits(found: Any, shape: tuple[int, ...], *, final: tuple[int, ...] | None = None) -> None:
    """Whether every array among the fields begins with this shape; `final_ids` and
    `final_probabilities` of a trace with their own."""
    for field in fields(found):
        array = getattr(found, field.name)
        if isinstance(array, np.ndarray):
            own = final if final and field.name in _FINAL else shape
            if array.shape[: len(own)] != own:
                raise ValueError(f"{field.name} is {array.shape}")


_FINAL: Final = ("final_ids", "final_probabilities")


def _kind(
    title: str, path: str, value: type, strip: Callable[[Any], Sequence[Strip]], draw: Draw,
    template: str,
) -> Shown:  # fmt: skip
    def check(run: Run, found: Any) -> object:
        check_shapes(found)
        return draw(_NOWHERE, run, found), strip(found), found.to_dict()

    return Shown(title, path, value, strip, check, f"history/{template}", draw)


KINDS: Final[Mapping[str, Shown]] = MappingProxyType(
    {
        "trace": _kind("Read", "/", KeptTrace, _trace_strip, _draw_trace, "_trace.html"),
        "generate": _kind(
            "Generate", "/generate", Generation, _generation_strip, _draw_generation,
            "_generate.html",
        ),
        "act": _kind(
            "Act", "/act", ActReading, lambda found: _column(found.after), _draw_act, "_act.html"
        ),
        "compare": _kind(
            "Compare", "/compare", PromptComparison, lambda found: _column(found.first),
            _draw_compare, "_compare.html",
        ),
        "causal": _kind("Causal map", "/act", CausalMap, _causal_strip, _draw_causal,
                        "_causal.html"),
        "many": _kind("Many prompts", "", Many, lambda found: (), _draw_many, "_many.html"),
    }
)  # fmt: skip
"""By their names in files."""
