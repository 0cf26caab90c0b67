"""The page Uses: what semantic bases are for on the open model, question by question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from starlette.responses import RedirectResponse, Response

from app.figures import uses as figures
from app.figures.readings import place
from app.figures.theme import payload
from app.jobs.lanes import JobsDep
from app.method.terms import TERMS, Term
from app.model.explorer import ExplorerDep
from app.uses.work import KIND, Known, known, start
from app.web.rendering import Page, link, render
from app.web.words import seconds
from engine.interventions.doses import Dose, Doses, Interval
from engine.trace.dial import DialCurve, DialRow
from engine.uses.findings import Finding
from engine.uses.shipped import Made
from engine.uses.words import Words

router = APIRouter(include_in_schema=False)
PAGE = Page("Uses", "/uses", router, reference=True)


@dataclass(frozen=True)
class Table:
    """Numbers as rows of a table, each row's title first."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Card:
    """One question."""

    finding: Finding
    good: bool
    """Whether the bases are good for it."""
    figure: dict[str, Any] | None
    table: Table | None
    caption: str


@dataclass(frozen=True)
class UsesPage:
    """What ``uses/page.html`` shows."""

    cards: tuple[Card, ...]
    lacking: tuple[str, ...]
    missing: bool
    made: tuple[str, str] | None
    """Of what came with the program: the date, and what it was measured on."""
    takes: str
    start_action: str
    under_way: str | None
    json: str
    terms: Mapping[str, Term]


@router.get("/uses", response_class=HTMLResponse)
async def uses_page(request: Request, explorer: ExplorerDep, jobs: JobsDep) -> HTMLResponse:
    """What is known of the open model's bases, and a button for the rest."""
    found = await explorer.look(request, known, KIND)
    running = [job.id for job in jobs.list() if job.kind == KIND and not job.finished]
    context = UsesPage(
        cards=tuple(_card(one, found) for one in found.findings if one.verdict),
        lacking=tuple(found.uses.lacking.values()),
        missing=bool(found.uses.missing),
        made=None if found.uses.made is None else _made(found.uses.made),
        takes=seconds(found.seconds),
        start_action=link(request, "/uses/measure"),
        under_way=link(request, f"/jobs/{running[0]}") if running else None,
        json=link(request, "/api/v1/uses"),
        terms=TERMS,
    )
    return render(request, "uses/page.html", context)


@router.post("/uses/measure")
async def measure(
    request: Request, explorer: ExplorerDep, jobs: JobsDep, again: bool = False
) -> Response:
    """Begin to measure what is not known yet, or all; the job's page shows how far it is."""
    job = await start(request, explorer, jobs, again=again)
    return RedirectResponse(link(request, f"/jobs/{job.id}"), 303)


def _made(made: Made) -> tuple[str, str]:
    versions = ", ".join(f"{name} {one}" for name, one in made.versions.items())
    return made.date, f"{made.device}, {made.dtype}, {seconds(made.seconds)}; {versions}"


def _card(finding: Finding, found: Known) -> Card:
    uses = found.uses
    good = finding.verdict.startswith(("better", "yes"))
    shown: tuple[Any, Table | None, str] = None, None, ""
    if finding.key in ("read", "name") and uses.dial is not None:
        shown = _dial(uses.dial, finding.key)
    elif finding.key in ("act", "spare") and uses.doses is not None:
        shown = _doses(uses.doses, finding.key)
    elif finding.key == "swap" and uses.doses is not None:
        shown = None, _swaps(uses.doses), "The same facts, at every position of the prompt."
    elif uses.words is not None:
        shown = _words(uses.words)
    figure, table, caption = shown
    return Card(finding, good, figure, table, caption)


def _dial(curve: DialCurve, key: str) -> tuple[Any, Table, str]:
    def agreement(row: DialRow) -> Interval:
        return Interval(row.agreement[-1], *row.intervals[-1])

    def together(row: DialRow) -> Interval:
        return Interval(row.together or 0.0, *(row.together_interval or (0.0, 0.0)))

    of, what = (
        (agreement, "next tokens named (%)")
        if key == "read"
        else (together, "nearest of the same field (%)")
    )
    rows = tuple((place(row.alpha, row.ridge), _share(of(row))) for row in curve.rows)
    caption = (
        f"{curve.positions} positions of a text of ours; Wilson's 95 % intervals."
        if key == "read"
        else f"{curve.words} words; 95 % intervals by drawing words."
    )
    return payload(figures.dial(curve, of, what)), Table(("place", what), rows), caption


def _doses(found: Doses, key: str) -> tuple[Any, Table, str]:
    if key == "act":
        figure = figures.doses(found, lambda one: one.share, "answers turned (%)", scale=100)
    else:
        figure = figures.doses(found, lambda one: one.rest, "KL of the rest (nats)")
    titles = ("along", "layer", "dose", "answers turned", "probability of the target",
              "contrast, nats", "KL of the rest, nats")  # fmt: skip
    rows = tuple(_row(one) for one in found.pushes)
    caption = _facts(found) if key == "act" else "The same pushes over the same facts."
    return payload(figure), Table(titles, rows), caption


def _swaps(found: Doses) -> Table:
    titles = ("along", "layer", "answers turned", "probability of the target", "contrast, nats",
              "KL of the rest, nats")  # fmt: skip
    rows = (_row(one) for one in found.swaps)
    return Table(titles, tuple((*row[:2], *row[3:]) for row in rows))


def _row(one: Dose) -> tuple[str, ...]:
    dose = "" if one.dose is None else f"{one.dose:g}"
    return (
        figures.NAMES[one.frame],
        str(one.layer),
        dose,
        _share(one.share),
        f"{one.probability:.3f}",
        f"{one.contrast:+.2f}".replace("-", "−"),
        f"{one.rest.value:.3f} ({one.rest.low:.3f} to {one.rest.high:.3f})",
    )


def _facts(found: Doses) -> str:
    why = "; ".join(f"{count}: {reason}" for reason, count in found.skipped.items())
    skipped = f", {found.facts - found.used} skipped ({why})" if why else ""
    return (
        f"{found.used} of {found.facts} facts{skipped}. Last position, towards the target and away"
        " from the model's answer; shares with Wilson's 95 % interval, means by drawing prompts."
    )


def _words(found: Words) -> tuple[Any, Table, str]:
    rows = tuple(
        (
            figures.NAMES[one.frame],
            _share(one.taught),
            _share(one.untaught),
            "" if one.less is None else _share(one.less),
        )
        for one in found.frames
    )
    titles = ("calibrated to", "by taught words", "by untaught words", "bases less this, paired")
    said = ", ".join("/".join(one) for one in found.words)
    caption = (
        f"One training each on {found.train} texts; words proposed by the bases' own neighbours:"
        f" {said}. 95 % intervals by drawing texts and sets of words."
    )
    return payload(figures.words(found)), Table(titles, rows), caption


def _share(one: Interval) -> str:
    shown = f"{100 * one.value:.1f}\u00a0% ({100 * one.low:.1f} to {100 * one.high:.1f})"
    return shown.replace("-", "−")
