"""Results as text for a terminal."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping
from typing import Final

from engine import Trace
from engine.bases.frame_report import FrameReport
from engine.bases.selfcheck import SelfCheck
from engine.bases.token_basis import TokenBasis
from engine.calibration.evidence.ablation import READINGS
from engine.calibration.evidence.comparison_result import Comparison
from engine.calibration.evidence.evaluation_result import Evaluation
from engine.calibration.evidence.findings import counted, loss_words, percent, points
from engine.calibration.evidence.methods import METHODS
from engine.calibration.evidence.metrics import ClassificationReport, Interval
from engine.calibration.evidence.protocol import Outcome
from engine.calibration.evidence.untaught import Untaught
from engine.calibration.labelled.tasks import Task

_MIB: Final = 2**20


def trace_text(trace: Trace, width: int = 100) -> str:
    """A trace as a table of layers and tokens, the nearest token in each cell; for a terminal."""
    head = (
        f"model {trace.model.name}   geometry {trace.geometry}   frame {trace.frame}   "
        f"temperature {trace.temperature:g}"
    )
    rows = [("layer", [trace.tokens[p].label for p in trace.positions])]
    for i, layer in enumerate(trace.layers):
        tops = [_top_label(trace, i, j) for j in range(len(trace.positions))]
        rows.append((f"{layer:>5}", tops))
    rows.append(("model", [trace.token_info[int(id)].label for id in trace.final_ids]))
    column = 14
    step = max(1, (width - 8) // (column + 1))
    blocks = []
    for start in range(0, len(trace.positions), step):
        parts = ((name, cells[start : start + step]) for name, cells in rows)
        lines = (f"{name}   {' '.join(fit(c, column) for c in cells)}" for name, cells in parts)
        blocks.append("\n".join(line.rstrip() for line in lines))
    notes = [f"note: {warning}" for warning in trace.warnings]
    cost = trace.cost
    if cost.seconds is not None and cost.bytes is not None:
        notes.append(
            f"took {cost.seconds:.2g} s and {cost.bytes / 2**20:.1f} MiB, foretold "
            f"{cost.predicted_seconds:.2g} s and {cost.predicted_bytes / 2**20:.1f} MiB"
        )
    return "\n\n".join([head, *blocks, *(["\n".join(notes)] if notes else [])]) + "\n"


def _top_label(trace: Trace, layer: int, position: int) -> str:
    if not trace.finite[layer, position]:
        return "(not finite)"
    return trace.token_info[int(trace.top_ids[layer, position, 0])].label


def basis_text(basis: TokenBasis) -> str:
    """A token's nearest tokens, for a terminal."""
    lines = [
        f"token {basis.id} {basis.token.label}   frame {basis.frame}   geometry {basis.geometry}",
        f"norm {basis.norm:.6g}   leverage {basis.leverage:.6g}",
        "",
    ]
    lines += [
        f"{rank:>4}  {fit(n.token.label, 24)} {n.token.id:>8}  {float(n.score):.6g}"
        for rank, n in enumerate(basis.neighbours, start=1)
    ]
    return "\n".join(lines) + "\n"


def report_text(report: FrameReport) -> str:
    """The figures of a frame, for a terminal."""
    lines = []
    for name, value in report.to_dict().items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {_short(one)}" for key, one in value.items())
        lines.append(f"{name.replace('_', ' '):<24} {_short(value)}")
    return "\n".join(lines) + "\n"


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "–" if value is None else str(value)


def fit(text: str, width: int) -> str:
    """The text cut or padded to so many columns of a terminal, where some characters take two."""
    used, out = 0, ""
    for c in text:
        size = 2 if unicodedata.east_asian_width(c) in "WF" else int(not unicodedata.combining(c))
        if used + size > width:
            while used + 1 > width:
                used -= 2 if unicodedata.east_asian_width(out[-1]) in "WF" else 1
                out = out[:-1]
            return out + "…" + " " * (width - used - 1)
        out, used = out + c, used + size
    return out + " " * (width - used)


def check_text(found: SelfCheck) -> str:
    """A model's self-check: a line for each thing that was looked at."""
    lines = [
        f"{item.level:<5} {item.name}: {item.value}" + (f" ({item.reason})" * bool(item.reason))
        for item in found.items
    ]
    return "\n".join([*lines, "", found.summary, ""])


def task_lines(task: Task, seed: int) -> list[str]:
    """What was calibrated on: sizes, seed, template, label words."""
    sizes = ", ".join(f"{task.size(s):,} {s}" for s in ("train", "valid", "test"))
    words = ", ".join(f"{t.label} → {'·'.join(t.texts)}" for t in task.label_tokens)
    template = task.spec.template.replace("\n", "\\n")
    return [f"{task.name}: {sizes}; seed {seed}", f"template  {template}", f"labels    {words}"]


def outcome_text(outcome: Outcome, report: ClassificationReport, task: Task, seed: int) -> str:
    """What a method that is no calibration reaches, and costs."""
    title = METHODS[outcome.method].title
    lines = [
        f"{title} is right on {percent(report.accuracy)} of {report.n:,} test texts of"
        f" {task.name}.",
        "",
        *task_lines(task, seed),
        "",
        f"macro-F1         {percent(report.macro_f1)}",
        f"train            {outcome.seconds_train:,.2f} s",
        f"infer            {outcome.seconds_infer:,.2f} s",
        f"peak memory      {outcome.peak_bytes / _MIB:,.1f} MiB",
        f"stored           {outcome.stored_bytes / 1024:,.1f} KiB",
        *outcome.notes,
    ]
    return "\n".join(lines) + "\n"


def comparison_text(found: Comparison, seed: int) -> str:
    """Before and after for a terminal."""
    options = found.options
    how = (
        f"method    target {options['target']}, loss {loss_words(options['loss'])}, read by"
        f" {READINGS[options['inference']]}, bases {options['frame']}"
    )
    lines = [found.sentence, "", *task_lines(found.task, seed), how, ""]
    width = 28
    lines.append(f"{'':{width}}{'accuracy':>26}{'macro-F1':>26}")
    for name, report in (
        ("before, nearest label basis", found.before.report),
        ("before, the model's logits", found.logits),
        ("head cosines, thresholds", found.thresholds),
        ("after" + "*" * bool(found.warning), found.after.report),
        ("linear probe, same rows", found.probe),
    ):
        lines.append(f"{name:{width}}{percent(report.accuracy):>26}{percent(report.macro_f1):>26}")
    for control in found.controls:
        notes = "  at chance" * control.at_chance
        notes += f"  best epoch 0 in {control.kept_start} of {control.runs}" * bool(
            control.kept_start
        )
        lines.append(f"{control.title.lower():{width}}{percent(control.accuracy):>26}{notes}")
    baseline = found.baseline
    lines += [
        f"{'always the largest class':{width}}{f'{100 * found.chance:.1f} %':>26}",
        *textwrap.wrap(f"* {found.warning}" * bool(found.warning), 100),
        "",
        f"{'after − best untrained':{width}}{points(baseline.difference)} ({baseline.title})",
        f"{'after − thresholds':{width}}{points(found.thresholds_difference)}",
        f"{'after − before':{width}}{points(found.accuracy_difference)}",
        f"{'after − probe':{width}}{points(found.probe_difference)}",
    ]
    pairs: tuple[tuple[str, Interval, Interval], ...] = (
        ("cosine to the own basis", found.before.own_similarity, found.after.own_similarity),
        ("margin to the next", found.before.margin, found.after.margin),
    )
    for name, old, new in pairs:
        lines.append(f"{name:{width}}{_cosine(old)} → {_cosine(new)}")
    for k, old in found.before.knn.items():
        new = found.after.knn[k]
        name = "nearest neighbour" if k == 1 else f"{k} nearest neighbours"
        lines.append(f"{name:{width}}{100 * old.value:.1f} % → {100 * new.value:.1f} %")
    if found.layers is not None:
        best = max(
            zip(found.layers.probe, found.layers.layers, strict=True), key=lambda p: p[0].value
        )
        lines.append(f"{'best layer for a probe':{width}}{best[1]} ({percent(best[0])})")
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in found.flips.items())
    lines.append(f"{'answers that changed':{width}}{kinds}")
    if found.untaught is not None:
        lines += ["", *_untaught_lines(found.untaught, width)]
    if found.left_out is not None:
        lines += ["", *textwrap.wrap(found.left_out.sentence, 100)]
        for one in found.left_out.classes:
            figures = f"{one.before:.2f} → {one.after:.2f}, random bases {one.random:.2f}"
            lines.append(f"{f'  {one.label[:24]} left out':{width}}AUROC {figures}")
    return "\n".join(lines) + "\n"


def _untaught_lines(found: Untaught, width: int) -> list[str]:
    """Read by words that were never taught."""
    rows: list[tuple[str, Interval | None]] = [
        ("untaught words, before", found.before),
        ("untaught words, after", found.after),
        ("the same, random bases", found.random),
        ("the same, shuffled labels", found.shuffled),
    ]
    lines = [f"{name:{width}}{percent(part):>26}" for name, part in rows if part is not None]
    for one in found.sets:
        words = ", ".join(one.words)
        lines.append(f"{'':{width}}{100 * one.before:.1f} % → {100 * one.after:.1f} %  {words}")
    said = [textwrap.fill(text, 100) for text in (found.sentence, found.note)]
    return [*"\n".join(said).splitlines(), *lines]


def _cosine(interval: Interval) -> str:
    return f"{interval.value:.3f}".replace("-", "−")


def evaluation_text(found: Evaluation) -> str:
    """The table and the findings for a terminal."""
    names = [t.name for t in found.tasks]
    seeds = ", ".join(map(str, found.seeds))
    facts = [
        f"{t.name}: {t.train:,} train, {t.valid:,} valid, {t.test:,} test;"
        f" {counted(len(found.seeds), 'seed')} ({seeds})"
        for t in found.tasks
    ]
    width = max(len(found.marked(m)) for m in found.methods) + 2
    column = max(8, *(len(n) + 2 for n in names))
    head = "".join(f"{n:>{column}}" for n in names)
    lines = [
        *facts,
        "",
        f"{'accuracy, %':{width}}{head}{'mean':>8}{'95 % interval':>16}{'ARI':>6}{'NMI':>6}"
        f"{'untaught':>10}{'train s':>10}{'infer s':>9}{'peak MiB':>10}{'KiB kept':>10}",
    ]
    for method in found.methods:
        cells = [found.cells.get((method, name)) for name in names]
        row = f"{found.marked(method):{width}}"
        row += "".join(
            f"{'-' if c is None else f'{100 * c.accuracy.value:.1f}':>{column}}" for c in cells
        )
        average = found.averages.get(method)
        own = [c for c in cells if c is not None]
        if average is not None and own:
            low, high = 100 * average.accuracy.low, 100 * average.accuracy.high
            peak = max(c.peak_bytes for c in own) / _MIB
            kept = sum(c.stored_bytes for c in own) / len(own) / 1024
            row += (
                f"{100 * average.accuracy.value:>8.1f}{f'{low:.1f} to {high:.1f}':>16}"
                f"{average.ari:>6.2f}{average.nmi:>6.2f}"
                f"{'-' if average.untaught is None else f'{100 * average.untaught.value:.1f}':>10}"
                f"{average.seconds_train:>10.2f}{average.seconds_infer:>9.2f}"
                f"{peak:>10.0f}{kept:>10.1f}"
            )
        lines.append(row)
    lines.append("")
    lines += [f"- {finding.text}" for finding in found.findings]
    for (method, task), reason in found.left_out.items():
        lines.append(f"- {found.title(method)} did not run on {task}: {reason}")
    return "\n".join(lines) + "\n"
