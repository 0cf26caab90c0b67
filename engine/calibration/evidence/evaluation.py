"""Methods × data sets × seeds on one model: the paper's kind of table.

Each seed draws the split, the demonstrations and every first value anew. Intervals are bootstraps
of two levels: seeds are drawn with replacement, and so are the distinct test rows of all seeds
together, for seeds that draw from one file share rows; of a difference between two methods both
sides take the same draws. A method that cannot run for a model or a task
is left out of that cell with its sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch

from engine.calibration.evidence.evaluation_result import (
    Average,
    Cell,
    Difference,
    Evaluation,
    Run,
    TaskLine,
)
from engine.calibration.evidence.findings import draw_conclusions
from engine.calibration.evidence.methods import METHODS, methods_named, run_method
from engine.calibration.evidence.metrics import (
    adjusted_rand,
    expected_calibration_error,
    macro_f1,
    normalized_mutual_information,
)
from engine.calibration.evidence.protocol import Method, MethodContext, MethodSettings, timed
from engine.calibration.evidence.resampling import Bootstrap, Draws
from engine.calibration.evidence.untaught_words import TaskLabels, words_for
from engine.calibration.labelled.tasks import SPLITS, Task
from engine.calibration.training.artifact import versions
from engine.calibration.training.features import TaskStates, task_states
from engine.checkpoints import NOTHING, Checkpoint, Checkpoints, Kept
from engine.errors import LexiscopeError, OptionError
from engine.model.texts import text_states
from engine.progress import Steps, as_part
from engine.space import LatentSpace

TaskSource = Task | Callable[[int], Task]
"""A task, the same for all seeds, or one that is drawn by the seed."""
COMPARED: Final = (
    ("calibration-sm", "knn-prompting"),
    ("calibration-sm", "linear-probe"),
    ("calibration-sm", "zero-shot"),
    ("calibration-sm", "zero-shot-cosine"),
    ("calibration-sm", "head-thresholds"),
    ("calibration-sm", "lora"),
    ("calibration-sm", "ia3"),
    ("calibration-sm", "random-bases"),
    ("calibration-sm", "head-rows"),
    ("calibration-sm-gt", "calibration-sm"),
    ("calibration-sm-gt", "knn-prompting"),
    ("calibration-sm-gt", "linear-probe"),
)
"""Pairs whose difference is reported, first minus second."""
BEFORE: Final = "Its times were measured before the work was interrupted."
_LIBRARIES: Final = ("lexiscope", "torch", "transformers", "scikit-learn", "peft", "numpy")
_KEPT: Final = (
    *("seconds_train", "seconds_infer", "peak_bytes", "stored_bytes", "settings", "notes"),
)
"""What of an outcome a run holds besides its answers."""
RATE_TEXTS: Final = 64
"""Texts that are read anew to know the model's speed where all states were on the disk."""


def evaluate(
    space: LatentSpace,
    tasks: Sequence[TaskSource],
    methods: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    *,
    settings: MethodSettings | None = None,
    cache_dir: Path | None = None,
    kept: Checkpoints = NOTHING,
) -> Steps[Evaluation]:
    """Run methods on tasks with seeds.

    Args:
        space: the model; called on the thread that owns it.
        tasks: each with a name of its own.
        methods: names, or ``all`` or ``fast`` as one of them.
        seeds: each draws split, demonstrations and first values.
        settings: of the methods.
        cache_dir: where states are kept; None keeps none.
        kept: where runs are kept, so that none that has ended is done again.

    Raises:
        OptionError: no task, method or seed, or an unknown method.
    """
    if not tasks or not seeds:
        raise OptionError("an evaluation needs at least one task and one seed; give them.")
    chosen = methods_named(",".join(m.name for word in methods for m in methods_named(word)))
    given = settings or MethodSettings()
    seeds = tuple(dict.fromkeys(int(s) for s in seeds))
    runs: dict[tuple[str, str], list[Run]] = {}
    left_out: dict[tuple[str, str], str] = {}
    lines: list[TaskLine] = []
    total, done = len(tasks) * len(seeds) * (len(chosen) + 1), 0
    for source in tasks:
        for place, seed in enumerate(seeds, start=1):
            task = source(seed) if callable(source) else source
            if place == 1:
                lines.append(_task_line(task, [line.name for line in lines]))
            draw = task.spec.seed, task.fingerprint
            lines[-1] = replace(lines[-1], draws=(*lines[-1].draws, draw))
            where = f"{task.name}, seed {place} of {len(seeds)}"
            cells = {
                method.name: kept.of(
                    f"{method.name}, seed {seed}, task {task.fingerprint[:12]}",
                    model=space.model.fingerprint,
                    task=task.fingerprint,
                    settings=given.to_dict(),
                )
                for method in chosen
            }
            held = {name: cell.load() for name, cell in cells.items()}
            context: MethodContext | None = None
            if any(held[m.name] is None and (m.name, task.name) not in left_out for m in chosen):
                steps = prepare(space, task, seed=seed, settings=given, cache_dir=cache_dir)
                context = yield from as_part(steps, done, total, f"{where}: reading the texts")
            done += 1
            for method in chosen:
                key = (method.name, task.name)
                if key not in left_out:
                    found = held[method.name]
                    if found is None:
                        assert context is not None
                        running = _run_of(method, context, cells[method.name], seed)
                        found = yield from as_part(running, done, total, f"{where}: {method.title}")
                    else:
                        found = _measured_before(found)
                    if "left_out" in found.values:
                        left_out[key] = found.values["left_out"]
                        runs.pop(key, None)
                    else:
                        runs.setdefault(key, []).append(_run(found, task, seed))
                done += 1
    return summarise(
        model_line(space), lines, [m.name for m in chosen], seeds, runs, left_out, given
    )


def prepare(
    space: LatentSpace,
    task: Task,
    *,
    seed: int,
    settings: MethodSettings,
    cache_dir: Path | None = None,
) -> Steps[MethodContext]:
    """States of a task's prompts, and how long the model takes for them.

    Where the states come from the disk, the model's speed is taken from a sample that is read anew:
    every method is charged with reading its texts.
    """
    layer = settings.calibration.layer
    states, spent = yield from timed(
        task_states(
            space, task, layers=(layer,), cache_dir=cache_dir, batch_tokens=settings.batch_tokens
        ),
        settings.clock,
    )
    seconds = yield from reading_seconds(space, task, states, spent, settings)
    return MethodContext(
        space=space,
        task=task,
        states=states,
        seed=seed,
        settings=settings,
        state_seconds=MappingProxyType(seconds),
        words=words_for(space, TaskLabels.of(task), settings.untaught),
    )


def reading_seconds(
    space: LatentSpace, task: Task, states: TaskStates, spent: float, settings: MethodSettings
) -> Steps[dict[str, float]]:
    """Seconds to read each split through the model, found states counted as if read."""
    tokens = {s: sum(states.lengths[s]) for s in SPLITS}
    whole = sum(tokens.values())
    if states.cached == 0:
        rate = spent / whole
    else:
        ids = [i for s in SPLITS for i in task.ids[s]]
        step = max(1, len(ids) // RATE_TEXTS)
        sample = ids[::step][:RATE_TEXTS]
        _, needed = yield from timed(
            text_states(space.model, sample, layers=(-1,), batch_tokens=settings.batch_tokens),
            settings.clock,
        )
        rate = needed / sum(len(i) for i in sample)
    return {s: rate * n for s, n in tokens.items()}


def _task_line(task: Task, taken: Sequence[str]) -> TaskLine:
    if task.name in taken:
        raise OptionError(f"two tasks are named {task.name!r}; give each a name of its own.")
    counts = np.bincount(task.labels["test"], minlength=task.classes)
    return TaskLine(
        name=task.name,
        label_names=task.label_names,
        label_words=task.label_words,
        train=task.size("train"),
        valid=task.size("valid"),
        test=task.size("test"),
        median_tokens=float(np.median([len(i) for i in task.ids["test"]])),
        chance=float(counts.max() / counts.sum()),
        spec=task.spec.to_dict(),
    )


def _run_of(method: Method, context: MethodContext, cell: Checkpoint, seed: int) -> Steps[Kept]:
    """Run one method, and keep what it gave or why it could not be run."""
    task = context.task
    try:
        outcome = yield from run_method(method, context)
    except LexiscopeError as error:
        found = Kept({}, {"left_out": str(error)})
    else:
        truth, ece = task.labels["test"], None
        if outcome.probabilities is not None:
            ece = expected_calibration_error(outcome.probabilities, truth)
        answers = {"predicted": outcome.predicted, "untaught": outcome.untaught}
        found = Kept(
            {name: torch.from_numpy(own) for name, own in answers.items() if own is not None},
            {"ece": ece, **{name: getattr(outcome, name) for name in _KEPT}},
        )
    place = f"{method.title}, seed {seed}"
    cell.save(found.tensors, found.values, place=place)
    return found


def _measured_before(found: Kept) -> Kept:
    if "left_out" in found.values:
        return found
    notes = [*found.values["notes"], BEFORE]
    return Kept(found.tensors, {**found.values, "notes": notes})


def _run(found: Kept, task: Task, seed: int) -> Run:
    truth, predicted = task.labels["test"], found.tensors["predicted"].numpy()
    values, by_words = dict(found.values), found.tensors.get("untaught")
    return Run(
        seed=seed,
        accuracy=float(np.mean(predicted == truth)),
        macro_f1=macro_f1(truth, predicted, task.classes),
        ari=adjusted_rand(truth, predicted),
        nmi=normalized_mutual_information(truth, predicted),
        notes=tuple(values.pop("notes")),
        truth=truth,
        predicted=predicted,
        rows=task.row_keys("test"),
        classes=task.classes,
        untaught=None if by_words is None else by_words.numpy(),
        **values,
    )


def summarise(
    model: Mapping[str, Any],
    tasks: Sequence[TaskLine],
    methods: Sequence[str],
    seeds: Sequence[int],
    runs: Mapping[tuple[str, str], Sequence[Run]],
    left_out: Mapping[tuple[str, str], str],
    settings: MethodSettings,
) -> Evaluation:
    """Runs → cells, averages, differences and findings."""
    cells: dict[tuple[str, str], Cell] = {}
    draws: dict[tuple[str, str], tuple[Draws, Draws]] = {}
    untaught: dict[tuple[str, str], Draws] = {}
    drawn: dict[str, Bootstrap] = {}  # of each task, the same for all methods
    place = {t.name: i for i, t in enumerate(tasks)}  # tasks draw from seeds of their own
    for (method, task), own in runs.items():
        if task not in drawn:
            drawn[task] = Bootstrap([r.rows for r in own], seed=place[task])
        truth, predicted = [r.truth for r in own], [r.predicted for r in own]
        both = (
            drawn[task].accuracy([r.right for r in own]),
            drawn[task].macro_f1(truth, predicted, own[0].classes),
        )
        draws[method, task] = both
        by_words = _by_words(own, seed=place[task])
        if by_words is not None:
            untaught[method, task] = by_words
        cells[method, task] = _cell(own, *both, by_words)
    names = [t.name for t in tasks]
    whole = [m for m in methods if all((m, t) in cells for t in names)]
    averages = {
        m: Average(
            accuracy=Draws.mean([draws[m, t][0] for t in names]).interval,
            macro_f1=Draws.mean([draws[m, t][1] for t in names]).interval,
            seconds_train=sum(cells[m, t].seconds_train for t in names),
            seconds_infer=sum(cells[m, t].seconds_infer for t in names),
            ari=float(np.mean([cells[m, t].ari for t in names])),
            nmi=float(np.mean([cells[m, t].nmi for t in names])),
            tasks=len(names),
            untaught=Draws.mean([untaught[m, t] for t in names]).interval
            if all((m, t) in untaught for t in names)
            else None,
        )
        for m in whole
    }
    differences = []
    for first, second in COMPARED:
        if first not in methods or second not in methods:
            continue
        shared = [t for t in names if (first, t) in cells and (second, t) in cells]
        if not shared:
            continue
        parts = {t: draws[first, t][0].minus(draws[second, t][0]) for t in shared}
        differences.append(
            Difference(
                first,
                second,
                Draws.mean(list(parts.values())).interval,
                {t: part.interval for t, part in parts.items()},
            )
        )
    titles = {m: METHODS[m].title for m in methods}
    chance = {t.name: t.chance for t in tasks}
    found = draw_conclusions(titles, cells, averages, differences, chance)
    return Evaluation(
        model=MappingProxyType(dict(model)),
        tasks=tuple(tasks),
        methods=tuple(methods),
        seeds=tuple(seeds),
        cells=MappingProxyType(cells),
        left_out=MappingProxyType(dict(left_out)),
        averages=MappingProxyType(averages),
        differences=tuple(differences),
        findings=found,
        settings=MappingProxyType(settings.to_dict()),
        versions=MappingProxyType(versions(_LIBRARIES)),
    )


def _by_words(runs: Sequence[Run], *, seed: int) -> Draws | None:
    """Accuracy by untaught words: each set of each seed is drawn as a run of its own."""
    told = [(run, said) for run in runs if run.untaught is not None for said in run.untaught]
    if not told:
        return None
    drawn = Bootstrap([run.rows for run, _ in told], seed=seed)
    return drawn.accuracy([said == run.truth for run, said in told])


def _cell(runs: Sequence[Run], right: Draws, f1: Draws, untaught: Draws | None) -> Cell:
    def mean(name: str) -> float:
        return float(np.mean([getattr(r, name) for r in runs]))

    known = [r.ece for r in runs if r.ece is not None]
    return Cell(
        accuracy=right.interval,
        macro_f1=f1.interval,
        ece=float(np.mean(known)) if known else None,
        seconds_train=mean("seconds_train"),
        seconds_infer=mean("seconds_infer"),
        peak_bytes=mean("peak_bytes"),
        stored_bytes=mean("stored_bytes"),
        ari=mean("ari"),
        nmi=mean("nmi"),
        per_seed=tuple(runs),
        untaught=None if untaught is None else untaught.interval,
    )


def model_line(space: LatentSpace) -> dict[str, Any]:
    """What is said of a model beside its figures."""
    model = space.model
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "parameters": model.parameters,
        "width": model.width,
        "vocabulary": model.vocabulary,
        "blocks": model.blocks,
        "dtype": model.dtype,
        "device": model.device,
    }
