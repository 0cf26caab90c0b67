"""The page Readings: which reading of the open model is faithful to it, measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from starlette.responses import RedirectResponse, Response

from app.figures.readings import dial, lens, place
from app.figures.theme import LABELS, payload
from app.jobs.lanes import JobsDep
from app.model.explorer import ExplorerDep
from app.readings.background import BackgroundLens
from app.readings.work import Measured, measured, start
from app.web.rendering import Page, link, render
from app.web.words import number
from engine.frames.kinds import dial_words, kind_of
from engine.lenses.kind import Lens
from engine.reading.geometries import GEOMETRIES
from engine.trace.dial import DialCurve, DialRow
from engine.trace.fields import FIELDS

router = APIRouter(include_in_schema=False)
PAGE = Page("Readings", "/readings", router, reference=True)


@dataclass(frozen=True)
class DialCard:
    """What is shown of the dial."""

    sentence: str
    figure: dict[str, Any]
    table: tuple[tuple[str, tuple[str, ...]], ...]
    """(place, shares at the layers of `layers`)."""
    layers: tuple[int, ...]
    fields: str
    """What the last column says, in a sentence; empty where it is not there."""


@dataclass(frozen=True)
class LensCard:
    """What is shown of a lens."""

    title: str
    sentence: str
    figure: dict[str, Any]
    table: tuple[tuple[str, ...], ...]
    """layer, KL without, with and by another layer's map, top-1 the same."""


@dataclass(frozen=True)
class ReadingsPage:
    """What ``readings/page.html`` shows."""

    complete: bool
    start_action: str
    under_way: str | None
    """Where the job is followed, while one measures this model."""
    fitting: str | None
    """How far the lens is that is fitted by itself; None where none is."""
    temperatures: tuple[tuple[str, tuple[str, ...]], ...]
    """(frame, "T, KL" per geometry)."""
    geometries: tuple[str, ...]
    dial: DialCard | None
    lenses: tuple[LensCard, ...]
    json: str


@router.get("/readings", response_class=HTMLResponse)
async def readings_page(request: Request, explorer: ExplorerDep, jobs: JobsDep) -> HTMLResponse:
    """What is known of the open model's readings, and a button for the rest."""
    found = await explorer.look(request, measured, "readings")
    running = [job.id for job in jobs.list() if job.kind == "readings" and not job.finished]
    context = ReadingsPage(
        complete=found.complete,
        start_action=link(request, "/readings/measure"),
        under_way=link(request, f"/jobs/{running[0]}") if running else None,
        fitting=_fitting(request.app.state.lens),
        temperatures=_temperatures(found),
        geometries=tuple(one.title for one in GEOMETRIES.values()),
        dial=_dial(found.dial) if found.dial is not None else None,
        lenses=tuple(_lens(one) for one in found.lenses.values()),
        json=link(request, "/api/v1/readings"),
    )
    return render(request, "readings/page.html", context)


@router.post("/readings/measure")
async def measure(request: Request, explorer: ExplorerDep, jobs: JobsDep) -> Response:
    """Begin to measure what is not known yet; the job's page shows how far it is."""
    job = await start(request, explorer, jobs)
    return RedirectResponse(link(request, f"/jobs/{job.id}"), 303)


def _fitting(lens: BackgroundLens | None) -> str | None:
    step = None if lens is None else lens.progress
    if step is None:
        return None
    return f"{step.note}, {100 * (step.share or 0.0):.0f}\u00a0%"


def _temperatures(found: Measured) -> tuple[tuple[str, tuple[str, ...]], ...]:
    rows = []
    for key, by_geometry in found.temperatures.items():
        place = dial_words(key)
        title = kind_of(key).heading + (f", {place}" if place else "")
        cells = tuple(
            f"{number(one.value)} (KL {number(one.kl)}, at 1: {number(one.kl_at_one)})"
            if one.fitted
            else f"{number(one.value)} (not measured)"
            for one in (by_geometry[g] for g in GEOMETRIES)
        )
        rows.append((title, cells))
    return tuple(rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def _dial(curve: DialCurve) -> DialCard:
    last = len(curve.rows[0].agreement) - 1
    layers = tuple(sorted({0, last // 3, 2 * last // 3, (9 * last) // 10, last}))
    table = tuple(
        (
            place(row.alpha, row.ridge),
            (*(_percent(row.agreement[layer]) for layer in layers), *_together(row)),
        )
        for row in curve.rows
    )
    return DialCard(
        dial_sentence(curve), payload(dial(curve)), table, layers, fields_sentence(curve)
    )


def _together(row: DialRow) -> tuple[str, ...]:
    if row.together is None or row.together_interval is None:
        return ()
    return (_interval(row.together, row.together_interval),)


def fields_sentence(curve: DialCurve) -> str:
    """Where words of one field lie together best, beside random vectors."""
    known = [(row.together, row) for row in curve.rows if row.together is not None]
    if not known or curve.at(None).together is None:
        return ""
    best = max(((share, row) for share, row in known if row.alpha is not None), key=lambda p: p[0])
    return (
        f"Among {curve.words} words of {len(FIELDS)} fields (animals, colours, months …), the"
        f" nearest by cosine are of the same field most often at"
        f" {place(best[1].alpha, best[1].ridge)}: {_percent(best[0])}; at the semantic bases"
        f" {_percent(curve.at(1.0).together or 0.0)}, at head rows"
        f" {_percent(curve.at(0.0).together or 0.0)}, by random vectors"
        f" {_percent(curve.at(None).together or 0.0)} (chance {_percent(curve.chance)})."
    )


def dial_sentence(curve: DialCurve) -> str:
    """Where the model is read best; withheld where chance does as well."""
    best, bases, control = curve.best, curve.at(1.0), curve.at(None)
    assert best.alpha is not None
    if best.intervals[-1][0] <= control.intervals[-1][1]:
        return (
            f"Over {curve.positions} positions no place of the dial names this model's next token"
            " more often than random vectors do, so nothing is said of which is best."
        )
    said = (
        f"By cosine, {place(best.alpha, best.ridge)} names this model's own next token most often"
        f" at the last layer: {_interval(best.agreement[-1], best.intervals[-1])} of"
        f" {curve.positions} positions; random vectors: {_percent(control.agreement[-1])}."
    )
    if best.intervals[-1][0] > bases.intervals[-1][1]:
        said += (
            f" The semantic bases do so at {_interval(bases.agreement[-1], bases.intervals[-1])}:"
            " as next words they read worse; as names of neighbours, see Bases."
        )
    return said


def _interval(share: float, bounds: tuple[float, float]) -> str:
    return f"{_percent(share)} ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"


def _lens(found: Lens) -> LensCard:
    rows = found.rows
    table = tuple(
        (
            str(row.layer),
            *(number(kl, 3) for kl in (row.kl_none, row.kl, row.kl_shuffled)),
            *(_percent(top) for top in (row.top1_none, row.top1, row.top1_shuffled)),
        )
        for row in rows
    )
    return LensCard(f"The {LABELS[found.name]} lens", lens_sentence(found),
                    payload(lens(found)), table)  # fmt: skip


def lens_sentence(found: Lens) -> str:
    """What the lens gains in the middle; withheld where another layer's map does as well."""
    middle = found.rows[2 * (len(found.rows) - 1) // 3]
    fitted = (
        f"Fitted on {found.positions:,} positions of {found.text} in {found.seconds:.0f} s,"
        f" measured on {found.held_out} others"
    )
    if not found.held_out or middle.kl >= min(middle.kl_none, middle.kl_shuffled):
        return f"{fitted}: at layer {middle.layer} it gains nothing over its controls."
    return (
        f"{fitted}: at layer {middle.layer} the KL to the model falls from"
        f" {middle.kl_none:.2f} to {middle.kl:.2f} nats (another layer's map:"
        f" {middle.kl_shuffled:.2f}), and the model's own next token comes first at"
        f" {_percent(middle.top1)} instead of {_percent(middle.top1_none)}."
    )
