"""The engine's steps of a calibration in a row, and the folder that is kept of it.

Every step runs on the device thread, as background work of a job. A saved folder holds
``calibration/`` as the engine writes it and, beside it, plain JSON: ``run.json`` (what was asked
for, the settings, the task with its report, the learning curve) and ``comparison.json``. With a
comparison ``moved.safetensors`` holds the test states that it was measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from app.calibrate.asking import MOVED, save_moved
from app.web import export
from engine import LatentSpace
from engine.calibration.evidence.ablation import ablate
from engine.calibration.evidence.comparison import compare_before_after
from engine.calibration.evidence.comparison_result import Comparison
from engine.calibration.evidence.evaluation import evaluate
from engine.calibration.evidence.parts import READING, TRAINING, calibration_parts
from engine.calibration.evidence.protocol import MethodSettings
from engine.calibration.evidence.repeated import Splits, repeat_splits
from engine.calibration.evidence.untaught_words import Words
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tasks import Task
from engine.calibration.training.artifact import save
from engine.calibration.training.calibrated import Calibration
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.checkpoints import NOTHING, Checkpoints
from engine.progress import Progress, Steps, named, relabelled
from engine.schedule import Schedule

T = TypeVar("T")
FOLDER = "calibration"
"""Where in a saved folder the engine's own artifact lies."""


@dataclass(frozen=True)
class Order:
    """What is to be calibrated; from it, a job can be started again."""

    set: str
    """The label set's id."""
    name: str
    """What the result is called."""
    spec: TaskSpec
    options: CalibrationOptions
    compare: bool = True
    """Whether before and after are compared at the end, with the controls."""
    untaught: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label → words that are not taught, to read by in the comparison; none: some are proposed."""
    splits: int = 1
    """Splits of the rows that all is repeated on, the first included."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what was left out stays so, since defaults depend on the model."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Order:
        """From `to_dict`."""
        return cls(
            set=str(plain["set"]),
            name=str(plain["name"]),
            spec=TaskSpec.from_dict(plain["spec"]),
            options=CalibrationOptions.from_dict(plain["options"]),
            compare=bool(plain["compare"]),
            untaught={k: tuple(words) for k, words in plain.get("untaught", {}).items()},
            splits=int(plain.get("splits", 1)),
        )


@dataclass(frozen=True)
class Made:
    """What a calibration's steps give."""

    task: Task
    calibration: Calibration
    comparison: Comparison | None
    splits: Splits | None = None


def calibration_steps(
    space: LatentSpace,
    task: Task,
    options: CalibrationOptions,
    states: Path,
    compare: bool,
    kept: Checkpoints = NOTHING,
    untaught: Words | None = None,
    draw: Callable[[int], Task] | None = None,
    seeds: Sequence[int] = (),
) -> Steps[Made]:
    """States, training, and the comparison where it is wanted and there are rows to test.

    With seeds all is repeated on the rows as `draw` splits them by each.

    Each part goes on from what is kept of it, with the same numbers as without an interruption.
    """
    compare = compare and task.size("test") > 0
    seeds = seeds if compare and draw is not None else ()
    plan = Schedule(calibration_parts(space, task, options, compare=compare, splits=seeds))
    parts = 2 + compare + bool(seeds)

    def work() -> Steps[Made]:
        made = yield from _first(space, task, options, states, compare, kept, untaught, parts)
        splits = None
        if seeds and draw is not None:
            repeated = repeat_splits(
                space, draw, options, seeds, untaught=untaught, cache_dir=states, kept=kept
            )
            splits = yield from _part(parts, parts, repeated, curve=False)
        yield Progress(1, 1, "saving")
        return replace(made, splits=splits)

    return (yield from plan.follow(work()))


def _first(
    space: LatentSpace,
    task: Task,
    options: CalibrationOptions,
    states: Path,
    compare: bool,
    kept: Checkpoints,
    untaught: Words | None,
    parts: int,
) -> Steps[Made]:
    """On the split that was asked for."""
    # The comparison reads every layer: taken at once, no text goes through the model twice.
    layers = range(space.model.blocks + 1) if compare else (options.layer,)
    reading = task_states(space, task, layers=layers, cache_dir=states)
    found = yield from _part(1, parts, named(READING, reading), curve=False)
    training = calibrate(
        space, found.only(options.layer), task, options, checkpoint=kept.of("training")
    )
    calibration = yield from _part(2, parts, named(TRAINING, training))
    comparison = None
    if compare:
        compared = compare_before_after(
            space,
            task,
            found,
            calibration,
            seed=options.seed,
            cache_dir=states,
            untaught=untaught,
            kept=kept,
        )
        # The controls are trained as well; theirs is not the curve that the page shows.
        controls = relabelled(
            compared,
            lambda step: (
                replace(step, note="training the controls") if step.note == "training" else step
            ),
        )
        comparison = yield from _part(3, parts, controls, curve=False)
    return Made(task, calibration, comparison)


def _part(number: int, parts: int, steps: Steps[T], *, curve: bool = True) -> Steps[T]:
    """The same steps, saying which part of the whole they are; without figures if so wanted."""

    def tell(step: Progress) -> Progress:
        note = f"part {number} of {parts}: {step.note}"
        return replace(step, note=note, values=step.values if curve else {})

    return relabelled(steps, tell)


def competitor_steps(
    space: LatentSpace,
    task: Task,
    options: CalibrationOptions,
    states: Path,
    *,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    kept: Checkpoints = NOTHING,
) -> Steps[Mapping[str, Any]]:
    """The table of methods on the same rows."""
    found = yield from evaluate(
        space, [task], methods, seeds, settings=MethodSettings(calibration=options),
        cache_dir=states, kept=kept,
    )  # fmt: skip
    return found.to_dict()


def ablation_steps(
    space: LatentSpace,
    task: Task,
    options: CalibrationOptions,
    states: Path,
    *,
    seeds: tuple[int, ...],
    layers: tuple[int, ...] = (),
    kept: Checkpoints = NOTHING,
) -> Steps[Mapping[str, Any]]:
    """Basis × similarity × loss × inference × layer, on the same states."""
    every = (*layers, options.layer)
    found = yield from task_states(space, task, layers=every, cache_dir=states)
    base = replace(options, target="module")
    ablation = yield from ablate(
        space, task, found, base=base, layers=layers, seeds=seeds, kept=kept
    )
    return ablation.to_dict()


def write_calibration(made: Made, order: Order, set_name: str, folder: Path) -> Mapping[str, Any]:
    """The files of a saved calibration; gives its summary."""
    calibration, task = made.calibration, made.task
    save(calibration, folder / FOLDER)
    options = calibration.options
    run = {
        "order": order.to_dict(),
        "settings": options.to_dict(),
        "task": {**task.to_dict(), "report": asdict(task.report)},
        "history": [dict(epoch.__dict__) for epoch in calibration.history],
        "facts": {
            "best_epoch": calibration.best_epoch,
            "seconds": calibration.seconds,
            "trained_weights": calibration.trained_weights,
            "stored_bytes": calibration.stored_bytes,
            "versions": export.versions(),
        },
    }
    (folder / "run.json").write_bytes(export.dumps(run))
    sentence, before, after = "It was trained; nothing was compared.", None, None
    baseline: dict[str, Any] = {"accuracy_baseline": None, "baseline": ""}
    if made.comparison is not None:
        found = made.comparison
        repeated = None if made.splits is None else made.splits.to_dict()
        document = {**found.to_dict(), "splits": repeated}
        (folder / "comparison.json").write_bytes(export.dumps(document))
        save_moved(found.moved, task.labels["test"], found.plane, folder / MOVED)
        before, after = (one.report.accuracy.value for one in (found.before, found.after))
        sentence = found.sentence
        best = found.baseline
        baseline = {"accuracy_baseline": best.accuracy.value, "baseline": best.title}
    if made.splits is not None:  # what one split says is not what is listed
        several = made.splits
        sentence, after = several.sentence, several.after.value
        baseline = {"accuracy_baseline": several.untrained.value, "baseline": several.baseline}
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "name": order.name,
        "set_id": order.set,
        "set_name": set_name,
        "model_name": calibration.model_name,
        "model_fingerprint": calibration.model,
        "method": f"{options.target}, loss {options.loss}, read by {options.inference}, "
        f"bases {options.frame}, seed {options.seed}",
        "changed": changed(order),
        "accuracy_before": before,
        "accuracy_after": after,
        **baseline,
        "kept_its_start": calibration.kept_its_start,
        "sentence": sentence,
        "bytes": size,
    }


def changed(order: Order) -> dict[str, Any]:
    """What was asked for that is not the default, and how many texts at most."""
    usual = asdict(CalibrationOptions())
    asked = asdict(order.options)
    found = {key: value for key, value in asked.items() if value != usual[key]}
    return found if order.spec.train is None else {**found, "train": order.spec.train}
