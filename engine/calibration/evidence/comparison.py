"""Before and after one calibration, on the test rows: what it gained, and whether that holds.

*Before* reads the states as the model leaves them by the label bases, with the calibration's own
frame, layer and similarity; *after* reads the calibrated states. What counts is the gain over the
best without training: the model's own answer (its logits), *before*, or the largest class. Beside
it stand thresholds on untrained cosines and a linear probe, both on the same training rows, and
controls trained alike: on shuffled labels, and to random bases. Intervals are 95 % bootstraps over
the test rows; differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.calibration.evidence.baselines import best_untrained, threshold_report
from engine.calibration.evidence.comparison_result import (
    Comparison,
    LayerCurve,
    Side,
    TestRow,
)
from engine.calibration.evidence.controls import CONTROLS, Cells, ControlLine, run_control
from engine.calibration.evidence.left_out import leave_one_out
from engine.calibration.evidence.metrics import (
    ClassificationReport,
    Interval,
    bootstrap_interval,
    classification_report,
    knn_correct,
    own_similarity,
    paired_interval,
)
from engine.calibration.evidence.parts import PROBE
from engine.calibration.evidence.plane import fit_plane
from engine.calibration.evidence.probes import Probe, fit_probe
from engine.calibration.evidence.prompting import label_logits
from engine.calibration.evidence.resampling import Bootstrap
from engine.calibration.evidence.untaught import Moved, measure_untaught
from engine.calibration.evidence.untaught_words import TaskLabels, Words, words_for
from engine.calibration.labelled.tasks import SPLITS, Task
from engine.calibration.training.calibrated import Calibration, Prediction, untrained
from engine.calibration.training.features import TaskStates, task_states
from engine.calibration.training.tuning import calibrated_states
from engine.checkpoints import NOTHING, Checkpoints, tensor_digest
from engine.errors import LexiscopeError
from engine.progress import Progress, Steps, named
from engine.space import LatentSpace

Labels = NDArray[np.int64]
Numbers = NDArray[np.float64]


def compare_before_after(
    space: LatentSpace,
    task: Task,
    states: TaskStates,
    calibration: Calibration,
    *,
    seed: int = 0,
    cache_dir: Path | None = None,
    controls: bool = True,
    layers: bool = True,
    untaught: Words | None = None,
    kept: Checkpoints = NOTHING,
) -> Steps[Comparison]:
    """Measure one calibration.

    Args:
        space: the model; called on the thread that owns it.
        task: with its test rows.
        states: of the task, with the calibrated layer; where they hold all layers, none is read
            again for the curve over them.
        calibration: of this model and task.
        seed: of bootstraps and controls.
        cache_dir: where states of further layers are kept.
        controls: train the controls; they take as long as the calibration did.
        layers: read all layers; texts whose states are not given go through the model once more.
        untaught: label → words that were never taught, to read by; None proposes some.
        kept: where controls and layers are kept, so that none that was measured is measured again.

    Raises:
        ArtifactError: the calibration belongs to another model.
        OptionError: untaught words that cannot be used.
        LexiscopeError: the states belong to another task.
    """
    cells = Cells(kept)
    calibration.check_model(space)
    if states.task != task.fingerprint:
        raise LexiscopeError("these states are of another task; take them anew.")
    truth: Labels = task.labels["test"]
    plain = untrained(space, task, calibration.options)
    layer = calibration.options.layer
    every, states = states, states.only(layer)
    raw = {s: states.at(layer)[s] for s in ("train", "test")}
    moved: dict[str, Tensor] = {}
    for split in ("train", "test"):
        moved[split] = yield from calibrated_states(calibration, space, states, task, split)
        moved[split] = moved[split].cpu()
    said = {
        "before": plain.read_calibrated(raw["test"]),
        "after": calibration.read_calibrated(moved["test"]),
    }
    yield Progress(0, 0, "measuring before and after")
    before = _side(plain, said["before"], raw, task, seed)
    yield Progress(0, 0, "measuring before and after")
    after = _side(calibration, said["after"], moved, task, seed)
    guess = {name: _array(p.predicted) for name, p in said.items()}
    right = {name: (g == truth).astype(float) for name, g in guess.items()}
    drawn = Bootstrap.same_rows(len(truth), seed=seed)
    f1 = {name: drawn.macro_f1([truth], [g], task.classes) for name, g in guess.items()}

    logits = label_logits(space.model, states.last["test"], task.label_tokens)
    own = classification_report(truth, logits.argmax(1), task.classes, seed=seed)
    untrained_right = {
        "logits": (logits.argmax(1) == truth).astype(float),
        "bases": right["before"],
        "largest": (truth == np.bincount(truth).argmax()).astype(float),
    }
    thresholds, thresholds_right = threshold_report(space, task, states, layer, seed=seed)
    yield Progress(0, 0, "measuring before and after")
    probe, probe_report, probe_right = yield from named(PROBE, _probe(task, states, layer, seed))
    lines: list[ControlLine] = []
    after_controls: dict[str, tuple[Tensor, ...]] = {}
    chance = float(np.bincount(truth).max() / len(truth))
    for name in CONTROLS if controls else ():
        line, after_controls[name] = yield from run_control(
            name, space, task, states, calibration, right["after"], chance, seed, cells
        )
        lines.append(line)
    found = Moved(
        raw["test"],
        moved["test"],
        after_controls.get("random-bases", ()),
        after_controls.get("shuffled-labels", ()),
    )
    left_out = None
    if controls:
        left_out = yield from leave_one_out(
            space, task, states, calibration.options, cells, seed=seed
        )
    words = words_for(space, TaskLabels.of(task), untaught)
    yield Progress(0, 0, "reading by untaught words")
    by_words = None
    if words is not None:
        taught = after.report.accuracy.value
        by_words = measure_untaught(
            space, calibration.options, words, found, truth, taught=taught, seed=seed
        )
    curve = None
    if layers:
        here = (probe_report.accuracy, after.report.accuracy)
        curve = yield from _curve(space, task, every, calibration, here, cache_dir, seed, cells)
    plane = fit_plane(raw["test"], moved["test"], plain.centroids.labels.cpu())
    return Comparison(
        task=task,
        before=before,
        after=after,
        baseline=best_untrained(untrained_right, right["after"], seed=seed),
        accuracy_difference=paired_interval(right["after"], right["before"], seed=seed),
        macro_f1_difference=f1["after"].minus(f1["before"]).interval,
        logits=own,
        thresholds=thresholds,
        thresholds_difference=paired_interval(right["after"], thresholds_right, seed=seed),
        probe=probe_report,
        probe_difference=paired_interval(right["after"], probe_right, seed=seed),
        probe_strength=probe.strength,
        controls=tuple(lines),
        untaught=by_words,
        moved=found,
        left_out=left_out,
        layers=curve,
        plane=plane,
        rows=_rows(task, said),
        chance=chance,
        options=calibration.options.to_dict(),
        seconds=cells.seconds,
        warning=calibration.warning,
    )


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()


def _side(
    read_by: Calibration, said: Prediction, states: Mapping[str, Tensor], task: Task, seed: int
) -> Side:
    truth: Labels = task.labels["test"]
    probabilities = _array(said.probabilities).astype(np.float64)
    whole = bool(np.allclose(probabilities.sum(1), 1, atol=1e-3))
    report = classification_report(
        truth,
        _array(said.predicted),
        task.classes,
        probabilities=probabilities if whole else None,
        seed=seed,
    )
    centres = read_by.centroids
    placed = states["test"] if centres.shift is None else states["test"] + centres.shift.cpu()
    own, margin = own_similarity(placed, truth, centres.labels.cpu())
    near = knn_correct(states["train"], task.labels["train"], states["test"], truth)
    return Side(
        report=report,
        own_similarity=bootstrap_interval(own, seed=seed),
        margin=bootstrap_interval(margin, seed=seed),
        knn={k: bootstrap_interval(hits, seed=seed) for k, hits in near.items()},
    )


def _probe(
    task: Task, states: TaskStates, layer: int, seed: int
) -> Steps[tuple[Probe, ClassificationReport, Numbers]]:
    rows = {s: states.at(layer)[s].double().numpy() for s in ("train", "valid", "test")}
    probe = yield from fit_probe(
        rows["train"], task.labels["train"], rows["valid"], task.labels["valid"], task.classes
    )
    predicted = probe.scores(rows["test"]).argmax(1)
    truth: Labels = task.labels["test"]
    report = classification_report(truth, predicted, task.classes, seed=seed)
    return probe, report, (predicted == truth).astype(float)


def _curve(
    space: LatentSpace,
    task: Task,
    every: TaskStates,
    calibration: Calibration,
    here: tuple[Interval, Interval],
    cache_dir: Path | None,
    seed: int,
    cells: Cells,
) -> Steps[LayerCurve]:
    """Readability at every layer; the states of all layers are taken at once.

    `here` is the probe and the calibration at the calibrated layer, measured already: every layer's
    probe chooses from the same values of C as that one.
    """
    numbers = tuple(range(space.model.blocks + 1))
    if not set(numbers) <= set(every.layers):
        every = yield from task_states(space, task, layers=numbers, cache_dir=cache_dir)
    plain = untrained(space, task, replace(calibration.options, target="module"))
    truth: Labels = task.labels["test"]
    calibrated = calibration.options.layer % len(numbers)
    reading, probes = [], []
    for layer in numbers:
        at = every.at(layer)
        said = plain.read_calibrated(at["test"])
        hits = (_array(said.predicted) == truth).astype(float)
        reading.append(bootstrap_interval(hits, seed=seed))
        if layer == calibrated:
            probes.append(here[0])
        else:
            probes.append((yield from _layer_probe(task, every, layer, seed, cells)))
        yield Progress(layer + 1, len(numbers), "reading every layer")
    return LayerCurve(numbers, tuple(reading), tuple(probes), calibrated, here[1])


def _layer_probe(
    task: Task, states: TaskStates, layer: int, seed: int, cells: Cells
) -> Steps[Interval]:
    at = states.at(layer)
    cell = cells.kept.of(
        f"probe of layer {layer}",
        task=task.fingerprint,
        seed=seed,
        states=tensor_digest(*(at[split] for split in SPLITS)),
    )
    held = cells.load(cell)
    if held is not None:
        return Interval(**held.values["accuracy"])
    _, report, _ = yield from named(f"probe of layer {layer}", _probe(task, states, layer, seed))
    found = report.accuracy
    cells.save(cell, {}, {"accuracy": asdict(found)}, f"layer {layer} of the comparison")
    return found


def _rows(task: Task, said: Mapping[str, Prediction]) -> tuple[TestRow, ...]:
    truth: Labels = task.labels["test"]
    guess = {name: _array(p.predicted) for name, p in said.items()}
    sure = {name: _array(p.probabilities) for name, p in said.items()}
    names = task.label_names
    out = []
    for i, true in enumerate(truth):
        old, new = int(guess["before"][i]), int(guess["after"][i])
        flip = None
        if old != new:
            flip = "fixed" if new == true else "broken" if old == true else "changed"
        out.append(
            TestRow(
                index=i,
                line=task.lines["test"][i],
                text=task.texts["test"][i],
                prompt=task.prompts["test"][i],
                label=names[int(true)],
                predicted_before=names[old],
                predicted_after=names[new],
                probability_before=float(sure["before"][i, old]),
                probability_after=float(sure["after"][i, new]),
                flip=flip,
            )
        )
    return tuple(out)
