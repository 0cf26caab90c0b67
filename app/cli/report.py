"""An evaluation as one HTML page that stands alone, and as CSV.

No script, no font, no picture from elsewhere: style and drawings are in the page, so it can be sent
by mail, printed, and opened without a network. Light and dark follow the reader's system. What is
said is made here; ``report/page.html`` writes it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.figures.report import Bar, accuracy_and_time, means_with_intervals
from app.figures.theme import DARK, LIGHT, sheet_colours
from app.web import export
from app.web.rendering import environment
from engine.calibration.evidence.evaluation_result import Cell, Evaluation
from engine.calibration.evidence.findings import OURS, counted, signed
from engine.calibration.evidence.methods import METHODS
from engine.calibration.evidence.metrics import Interval
from engine.calibration.evidence.protocol import KINDS, Kind

_LINES: Final[dict[Kind, int]] = {
    "model": 7,
    "retrieval": 5,
    "trained": 2,
    "calibration": 0,
    "control": 3,
}
"""Kind of method → which of the theme's line colours."""
_LIGHT: Final = "--paper:#f7f7f4;--good:#19703a;--bad:#b02318;--wash:#f0f1ed;"
_DARK: Final = "--paper:#0f1316;--good:#62d08c;--bad:#ff8d80;--wash:#12171b;"


@dataclass(frozen=True)
class Figure:
    """A figure with its interval, in a cell of a table."""

    text: str
    range: str
    style: str
    """The cell's classes."""
    bold: bool = True


@dataclass(frozen=True)
class MethodRow:
    """A method in the table; None stands for a data set that it did not run on."""

    title: str
    source: str
    cells: tuple[Figure | None, ...]
    mean: Figure | None
    numbers: tuple[str, ...]
    """F1, ARI, NMI, by untaught words, seconds, memory and storage over all data sets; empty where
    there is no mean."""


def report_html(found: Evaluation) -> str:
    """The page."""
    title = f"Calibration and its competitors: {found.model['name']}"
    processor = found.settings.get("clock") == "processor"
    bars = {method: _bar(found, method) for method in found.methods if method in found.averages}
    by_kind = [bars[m] for kind in KINDS for m in _best_first(found, kind)]
    notes = tuple(_notes(found))
    return environment().get_template("report/page.html").render(
        title=title,
        names=", ".join(task.name for task in found.tasks),
        sentence=found.sentence,
        facts=_facts(found),
        cards=tuple(_cards(found)),
        clock="They are processor time of this process." if processor else "They are on the clock.",
        means=means_with_intervals(by_kind, float(np.mean([t.chance for t in found.tasks]))),
        tasks=[
            (task.name, f"{len(task.label_names)} classes, chance {100 * task.chance:.0f}")
            for task in found.tasks
        ],
        groups=tuple(_groups(found)),
        times=accuracy_and_time(list(bars.values())),
        differences=tuple(_pairs(found)),
        # Verdicts belong to goals that were set for this project's own bench: a reader has others.
        findings=[one.text for one in found.findings],
        notes=notes,
        notes_count=counted(len(notes), "note"),
        provenance=_provenance(found),
        light=sheet_colours(LIGHT, _LIGHT),
        dark=sheet_colours(DARK, _DARK),
    )  # fmt: skip


def evaluation_csv(found: Evaluation) -> bytes:
    """One row per method and task, and one per method for the average."""
    return export.table(f"{found.sentence} {_provenance(found)}", found.rows())


def _bar(found: Evaluation, method: str) -> Bar:
    average, mean = found.averages[method], found.averages[method].accuracy
    return Bar(
        METHODS[method].title,
        _LINES[METHODS[method].kind],
        mean.value,
        mean.low,
        mean.high,
        average.seconds,
        named=method == OURS,
    )


def _best_first(found: Evaluation, kind: Kind) -> list[str]:
    own = [m for m in found.methods if METHODS[m].kind == kind and m in found.averages]
    return sorted(own, key=lambda m: -found.averages[m].accuracy.value)


def _facts(found: Evaluation) -> str:
    model, task = found.model, found.tasks[0]
    same = len({(t.train, t.valid, t.test) for t in found.tasks}) == 1
    rows = (
        f"{task.train:,} rows to train, {task.valid:,} to choose, {task.test:,} to test"
        if same
        else "sizes below"
    )
    return (
        f"{model['parameters']:,} parameters, d = {model['width']}, v = {model['vocabulary']:,} · "
        f"{counted(len(found.tasks), 'data set')} · {rows} · {counted(len(found.seeds), 'seed')}"
    )


def _cards(found: Evaluation) -> Iterator[tuple[str, str, str, str]]:
    """The figures at the head of the page: name, value, range, tone."""
    if OURS in found.averages:
        mean = found.averages[OURS].accuracy
        span = f"{100 * mean.low:.1f} to {100 * mean.high:.1f}"
        yield "calibration", f"{100 * mean.value:.1f} %", span, ""
    pairs = {(d.first, d.second): d.mean for d in found.differences}
    for other, words in (("knn-prompting", "kNN prompting"), ("linear-probe", "linear probe")):
        gain = pairs.get((OURS, other))
        if gain is not None:
            name = f"points, calibration minus {words}"
            yield name, signed(gain.value), _signed_range(gain), _tone(gain) or "even"
    if {OURS, "knn-prompting"} <= found.averages.keys():
        ours, theirs = (found.averages[m].seconds for m in (OURS, "knn-prompting"))
        if theirs > 0:
            words = f"{ours:,.1f} s against {theirs:,.1f} s"
            tone = "good" if ours <= theirs / 2 else "bad"
            yield "of kNN prompting's time", f"× {ours / theirs:.2f}", words, tone


def _signed_range(interval: Interval) -> str:
    return f"{signed(interval.low)} to {signed(interval.high)}"


def _tone(gain: Interval) -> str:
    return "good" if gain.low > 0 else "bad" if gain.high < 0 else ""


def _groups(found: Evaluation) -> Iterator[tuple[str, int, tuple[MethodRow, ...]]]:
    """Methods of one kind: its name, its line colour, the rows."""
    best: dict[str, float] = {}
    for (_, task), cell in found.cells.items():
        best[task] = max(cell.accuracy.value, best.get(task, 0.0))
    for kind, words in KINDS.items():
        members = [m for m in found.methods if METHODS[m].kind == kind]
        if members:
            rows = tuple(_method_row(found, method, best) for method in members)
            yield words, _LINES[kind], rows


def _method_row(found: Evaluation, method: str, best: Mapping[str, float]) -> MethodRow:
    cells = [found.cells.get((method, task.name)) for task in found.tasks]
    average = found.averages.get(method)
    own = [cell for cell in cells if cell is not None]
    mean = None
    numbers: tuple[str, ...] = ()
    if average is not None and own:
        span = f"{100 * average.accuracy.low:.1f}–{100 * average.accuracy.high:.1f}"
        mean = Figure(f"{100 * average.accuracy.value:.1f}", span, "n mean")
        numbers = (
            f"{100 * average.macro_f1.value:.1f}",
            f"{average.ari:.2f}".replace("-", "−"),
            f"{average.nmi:.2f}",
            "" if average.untaught is None else f"{100 * average.untaught.value:.1f}",
            f"{average.seconds_train:,.1f}",
            f"{average.seconds_infer:,.1f}",
            f"{max(c.peak_bytes for c in own) / 2**20:,.0f}",
            f"{sum(c.stored_bytes for c in own) / len(own) / 1024:,.1f}",
        )
    shown = tuple(
        None if cell is None else _cell(cell, task.chance, best[task.name])
        for task, cell in zip(found.tasks, cells, strict=True)
    )
    return MethodRow(found.marked(method), METHODS[method].source, shown, mean, numbers)


def _cell(cell: Cell, chance: float, best: float) -> Figure:
    """The stronger the colour, the further above chance; the best of its column is underlined."""
    value = cell.accuracy.value
    step = min(6, int(7 * max(0.0, (value - chance) / max(1e-9, 1 - chance))))
    top = " best" if value >= best - 1e-12 else ""
    span = f"{100 * cell.accuracy.low:.0f}–{100 * cell.accuracy.high:.0f}"
    return Figure(f"{100 * value:.1f}", span, f"n s{step}{top}")


def _pairs(
    found: Evaluation,
) -> Iterator[tuple[str, str, Figure, tuple[Figure | None, ...]]]:
    """Two methods and their difference: on the mean, and on each data set."""

    def shown(gain: Interval) -> Figure:
        tone = _tone(gain)
        return Figure(signed(gain.value), _signed_range(gain), f"n {tone}".strip(), bool(tone))

    for one in found.differences:
        gaps = [one.per_task.get(task.name) for task in found.tasks]
        cells = tuple(None if gap is None else shown(gap) for gap in gaps)
        yield found.title(one.first), found.title(one.second), shown(one.mean), cells


def _notes(found: Evaluation) -> Iterator[tuple[str, str]]:
    """The lines under the tables: about what, and what."""
    for task in found.tasks:
        words = ", ".join(
            f"{a} → “{b}”" for a, b in zip(task.label_names, task.label_words, strict=True)
        )
        yield (
            task.name,
            f": {task.train:,} train, {task.valid:,} validation, {task.test:,} test rows,"
            f" {task.median_tokens:.0f} tokens in the median prompt; {words}.",
        )
    for method in found.methods:
        cells = [found.cells.get((method, task.name)) for task in found.tasks]
        said = list(dict.fromkeys(note for cell in cells if cell for note in cell.notes))
        if said:
            more = " …" if len(said) > 3 else ""
            yield found.title(method), f": {' '.join(said[:3])}{more}"
    for (method, task_name), reason in found.left_out.items():
        yield found.title(method), f" did not run on {task_name}: {reason}"


def _provenance(found: Evaluation) -> str:
    versions = ", ".join(f"{n} {v}" for n, v in found.versions.items())
    return (
        f"Model {found.model['name']}, fingerprint {found.model['fingerprint'][:12]}, on"
        f" {found.model['device']} in {found.model['dtype']}; seeds"
        f" {', '.join(map(str, found.seeds))}; {versions}. Intervals: 95 % bootstrap over seeds"
        " and test rows."
    )
