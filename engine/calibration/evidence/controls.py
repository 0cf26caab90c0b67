"""Controls of a calibration: the same training with something taken away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.calibration.evidence.metrics import Interval
from engine.calibration.evidence.resampling import Bootstrap
from engine.calibration.labelled.tasks import SPLITS, Task, shuffled_labels
from engine.calibration.training.calibrated import Calibration
from engine.calibration.training.features import TaskStates
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.calibration.training.tuning import calibrated_states
from engine.checkpoints import Checkpoint, Checkpoints, Kept, tensor_digest
from engine.progress import Steps, named
from engine.space import LatentSpace

Numbers = NDArray[np.float64]

CONTROLS: Final = {
    "shuffled-labels": "Trained on shuffled labels",
    "random-bases": "Trained to random bases",
}
SHUFFLES: Final = 5
"""Trainings on shuffled labels that are averaged."""


@dataclass(frozen=True)
class ControlLine:
    """The same training with something taken away."""

    name: str
    title: str
    accuracy: Interval
    difference: Interval
    """Calibration minus the control, paired."""
    at_chance: bool
    """Whether its interval reaches down to always guessing the largest class."""
    runs: int
    """Trainings that are averaged."""
    kept_start: int = 0
    """Of them, those in which no epoch lowered the validation loss: the start was measured."""


def runs_of(options: CalibrationOptions) -> dict[str, int]:
    """How often each control is trained."""
    several = SHUFFLES if options.kind in ("module", "head") else 1  # layers take too long
    return {name: several if name == "shuffled-labels" else 1 for name in CONTROLS}


class Cells:
    """What of a comparison was measured already, and the seconds that it took in all."""

    def __init__(self, kept: Checkpoints) -> None:
        """Begin to count."""
        self.kept = kept
        self._begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        """In all, with those before an interruption."""
        return time.perf_counter() - self._begin

    def training(
        self,
        name: str,
        states: TaskStates,
        task: Task,
        options: CalibrationOptions,
        make: Callable[[], Steps[Kept]],
        place: str,
    ) -> Steps[Kept]:
        """What a training gave: kept, or made now and kept.

        Args:
            name: of the part.
            states: it is trained on, at the options' layer.
            task: whose labels it learns.
            options: of the training.
            make: does it.
            place: how far the work is with it, in words.
        """
        cell = self.kept.of(
            name,
            model=states.model,
            task=task.fingerprint,
            options=options.to_dict(),
            states=tensor_digest(*(states.at(options.layer)[split] for split in SPLITS)),
        )
        held = self.load(cell)
        if held is None:
            held = yield from named(name, make())
            self.save(cell, held.tensors, held.values, place)
        return held

    def load(self, cell: Checkpoint) -> Kept | None:
        """What was kept of a part, if it was."""
        held = cell.load()
        if held is not None:  # what was spent before an interruption counts
            self._begin -= max(0.0, held.values["seconds"] - self.seconds)
        return held

    def save(
        self, cell: Checkpoint, tensors: Mapping[str, Tensor], values: Mapping[str, Any], place: str
    ) -> None:
        """Keep a part."""
        cell.save(tensors, {**values, "seconds": self.seconds}, place=place)


def run_control(
    name: str,
    space: LatentSpace,
    task: Task,
    states: TaskStates,
    calibration: Calibration,
    right: Numbers,
    chance: float,
    seed: int,
    cells: Cells,
) -> Steps[tuple[ControlLine, tuple[Tensor, ...]]]:
    """Train a control: to other bases, or several times on labels shuffled anew.

    Gives its line, and the test states (n × d) after each of its trainings.

    One shuffle may map a whole cluster to its own label or to another by luck, so what counts is
    the mean over several.
    """
    options = calibration.options
    given: list[Task] = [task]
    if name == "shuffled-labels":
        given = [shuffled_labels(task, seed + i) for i in range(runs_of(options)[name])]
        # Early stopping may give the start back, and the identity is the untrained reading.
        options = replace(options, start="random")
    elif options.kind == "head":  # its centroids are made of the head's rows: none are random
        options = replace(options, target="module", frame="random")
    else:
        options = replace(options, frame="random")
    runs, kept_start = [], 0
    moved: list[Tensor] = []
    for place, one in enumerate(given):
        shared = replace(states, task=one.fingerprint)
        own = replace(options, seed=options.seed + place)
        make = partial(_train, space, shared, one, own, cells.kept.of("training of a control"))
        words = f"control {place + 1} of {len(given)}"
        found = yield from cells.training(f"control {name} {place}", shared, one, own, make, words)
        kept_start += bool(found.values["kept_start"])
        moved.append(found.tensors["states"])
        runs.append(found.tensors["answer"].numpy() == task.labels["test"])
    drawn = Bootstrap.same_rows(len(right), len(runs), seed=seed)
    own_draws = drawn.accuracy(runs)
    line = ControlLine(
        name=name,
        title=CONTROLS[name],
        accuracy=own_draws.interval,
        difference=drawn.accuracy([right.astype(bool)] * len(runs)).minus(own_draws).interval,
        at_chance=own_draws.interval.low <= chance,
        runs=len(runs),
        kept_start=kept_start,
    )
    return line, tuple(moved)


def _train(
    space: LatentSpace,
    states: TaskStates,
    task: Task,
    options: CalibrationOptions,
    checkpoint: Checkpoint,
) -> Steps[Kept]:
    """The answers for the test rows, and their states, after a training."""
    trained = yield from calibrate(space, states, task, options, checkpoint=checkpoint)
    after = (yield from calibrated_states(trained, space, states, task)).cpu()
    checkpoint.remove()
    return Kept(
        {"answer": trained.read_calibrated(after).predicted.cpu(), "states": after},
        {"kept_start": trained.kept_its_start},
    )
