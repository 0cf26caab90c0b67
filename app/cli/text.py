"""Calibrations and evaluations as text for a terminal."""

from __future__ import annotations

from typing import Final

from engine.calibration.evidence.ablation import READINGS
from engine.calibration.evidence.comparison_result import Comparison
from engine.calibration.evidence.evaluation_result import Evaluation
from engine.calibration.evidence.findings import counted, loss_words, percent, points
from engine.calibration.evidence.metrics import Interval
from engine.calibration.labelled.tasks import Task

_MIB: Final = 2**20


def task_lines(task: Task, seed: int) -> list[str]:
    """What was calibrated on: sizes, seed, template, label words."""
    sizes = ", ".join(f"{task.size(s):,} {s}" for s in ("train", "valid", "test"))
    words = ", ".join(f"{t.label} → {'·'.join(t.texts)}" for t in task.label_tokens)
    template = task.spec.template.replace("\n", "\\n")
    return [f"{task.name}: {sizes}; seed {seed}", f"template  {template}", f"labels    {words}"]


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
        ("after", found.after.report),
        ("linear probe, same rows", found.probe),
    ):
        lines.append(f"{name:{width}}{percent(report.accuracy):>26}{percent(report.macro_f1):>26}")
    for control in found.controls:
        chance = "" if not control.at_chance else "  at chance"
        lines.append(f"{control.title.lower():{width}}{percent(control.accuracy):>26}{chance}")
    lines += [
        "",
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
    return "\n".join(lines) + "\n"


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
    width = max(len(found.title(m)) for m in found.methods) + 2
    column = max(8, *(len(n) + 2 for n in names))
    head = "".join(f"{n:>{column}}" for n in names)
    lines = [
        *facts,
        "",
        f"{'accuracy, %':{width}}{head}{'mean':>8}{'95 % interval':>16}{'train s':>10}"
        f"{'infer s':>9}{'peak MiB':>10}{'KiB kept':>10}",
    ]
    for method in found.methods:
        cells = [found.cells.get((method, name)) for name in names]
        row = f"{found.title(method):{width}}"
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
                f"{average.seconds_train:>10.2f}{average.seconds_infer:>9.2f}"
                f"{peak:>10.0f}{kept:>10.1f}"
            )
        lines.append(row)
    lines.append("")
    lines += [f"- {finding.text}" for finding in found.findings]
    for (method, task), reason in found.left_out.items():
        lines.append(f"- {found.title(method)} did not run on {task}: {reason}")
    return "\n".join(lines) + "\n"
