"""The Model page: the self-check with its reasons, the model's anatomy, every frame's figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from app.method.terms import TERMS, Term
from app.model.choice import ModelList, model_list
from app.model.cost import CostTable, cost_table
from app.model.explorer import Explorer, ExplorerDep
from app.model.open_model import ModelFacts
from app.web.questions import Question
from app.web.rendering import Page, link, render, render_text
from app.web.words import number
from engine import LatentSpace
from engine.bases.frame_report import FrameReport
from engine.bases.selfcheck import CheckItem
from engine.errors import OptionError
from engine.frames.kinds import FRAMES

router = APIRouter(include_in_schema=False)
PAGE = Page("Model", "/model", router, reference=True)


class ModelQuery(Question):
    """The whole state of the page."""

    figures: bool = False
    costs: bool = False


@dataclass(frozen=True)
class Figure:
    """One figure of a frame."""

    value: str
    small: str = ""


@dataclass(frozen=True)
class FrameColumn:
    """A frame with its figures, in the order of `FIGURES`; none where the model has no such one."""

    key: str
    name: str
    note: str
    missing: str | None
    figures: tuple[Figure, ...]


FIGURES: tuple[tuple[str, str], ...] = (
    ("frame-rank", "rank"),
    ("condition", "condition number"),
    ("bounds", "frame bounds"),
    ("redundancy", "redundancy"),
    ("residual", "residual"),
    ("round-trip", "round trip"),
    ("leverage", "leverage: median, mean, largest"),
)
"""The rows of the table: (term, label)."""


@dataclass(frozen=True)
class FrameTable:
    """The figures of every frame."""

    labels: tuple[tuple[str | None, str], ...]
    """(term or None, label)."""
    columns: tuple[FrameColumn, ...]


@dataclass(frozen=True)
class ModelPage:
    """What ``model/page.html`` shows."""

    ok: bool
    summary: str
    items: tuple[CheckItem, ...]
    facts: tuple[tuple[str, str], ...]
    anatomy: tuple[tuple[str, str], ...]
    choice: ModelList
    """The models that may be opened."""
    frames: FrameTable | None
    frames_href: str
    frames_load: str
    costs: CostTable | None
    costs_href: str
    json: str
    terms: Mapping[str, Term]


@router.get("/model", response_class=HTMLResponse)
async def model_page(
    request: Request, query: Annotated[ModelQuery, Query()], explorer: ExplorerDep
) -> HTMLResponse:
    """The open model; the frames' figures at once where they are asked for.

    Where none is open and there is a choice, the choice alone.
    """
    choice = model_list(request, explorer)
    if explorer.info is None and len(choice.rows) > 1:
        sentence = explorer.failure or explorer.progress
        return render(request, "model/choice.html", {"choice": choice, "sentence": sentence})
    facts, check = explorer.facts(), explorer.checked()
    context = ModelPage(
        ok=check.ok,
        summary=check.summary,
        items=check.items,
        facts=_facts(facts),
        anatomy=facts.anatomy,
        choice=choice,
        frames=await frame_table(request, explorer) if query.figures else None,
        frames_href=link(request, "/model", figures=True) + "#frames",
        frames_load=link(request, "/model/frames"),
        costs=await cost_table(request, explorer) if query.costs else None,
        costs_href=link(request, "/model", costs=True) + "#costs",
        json=link(request, "/api/v1/model"),
        terms=TERMS,
    )
    return render(request, "model/page.html", context)


@router.get("/model/frames", response_class=HTMLResponse)
async def frames_panel(request: Request, explorer: ExplorerDep) -> HTMLResponse:
    """The table of the frames' figures alone, fetched once a page stands."""
    context = {"frames": await frame_table(request, explorer), "terms": TERMS}
    return HTMLResponse(render_text(request, "model/_frames.html", context, is_fragment=True))


async def frame_table(request: Request, explorer: Explorer) -> FrameTable:
    """Every frame's figures; a frame that the model does not have says why."""
    columns = []
    for name, kind in FRAMES.items():
        try:
            report = await explorer.ask(request, LatentSpace.frame_report, name)
        except OptionError as error:
            columns.append(FrameColumn(name, kind.heading, "", str(error), ()))
            continue
        columns.append(FrameColumn(name, kind.heading, report.note, None, tuple(_figures(report))))
    labels = (*FIGURES, (None, "taken apart in"), (None, "held besides the weights"))
    return FrameTable(labels, tuple(columns))


def _figures(report: FrameReport) -> list[Figure]:
    of = "all" if report.round_trip_exact else "a sample of"
    worst = max(report.residuals.items(), key=lambda pair: pair[1], default=("", math.nan))
    return [
        Figure(number(report.rank), f"of {number(report.width)}"),
        Figure(number(report.condition_number)),
        Figure(f"{number(report.lower_bound)} … {number(report.upper_bound)}"),
        Figure(number(report.redundancy)),
        Figure(number(report.residual, 2), worst[0]),
        Figure(
            f"{100 * report.round_trip_rate:.1f} %",
            f"{of} {number(report.round_trip_sample)} tokens",
        ),
        Figure(", ".join(number(report.leverage[key]) for key in ("median", "mean", "max"))),
        Figure(f"{number(report.seconds)} s"),
        Figure(f"{report.bytes / 2**20:.2f} MiB"),
    ]


def _origin(facts: ModelFacts) -> list[tuple[str, str]]:
    """Where it comes from, as far as that is known."""
    origin = facts.origin
    stored = origin.quantization and f"{origin.quantization}, dequantised to float32"
    named = (
        ("package", origin.package), ("file", origin.file), ("numbers stored as", stored),
        ("licence", origin.licence),
    )  # fmt: skip
    return [(name, value) for name, value in named if value is not None]


def _facts(facts: ModelFacts) -> tuple[tuple[str, str], ...]:
    return (
        ("name", facts.name),
        ("revision", facts.revision or "none given"),
        ("fingerprint of the weights", facts.fingerprint),
        ("architecture", f"{facts.architecture}, {facts.kind}"),
        *_origin(facts),
        ("parameters", number(facts.parameters)),
        ("blocks", f"{facts.blocks}, so layers 0 (embedding) to {facts.blocks}"),
        ("width d, what the head reads", number(facts.width)),
        ("vocabulary v, rows of the head", number(facts.vocabulary)),
        ("longest prompt", f"{number(facts.max_tokens)} tokens"),
        ("head and embedding", "one and the same (tied)" if facts.tied else "two of their own"),
        ("start token", "yes" if facts.has_bos else "no"),
        ("chat template", "yes" if facts.has_chat_template else "no"),
        ("runs on", f"{facts.device}, {facts.dtype}"),
    )
