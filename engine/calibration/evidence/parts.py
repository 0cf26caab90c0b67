"""A calibration in parts, as `engine.schedule` foretells their time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from engine.calibration.evidence.controls import runs_of
from engine.calibration.evidence.left_out import taken_out
from engine.calibration.labelled.tasks import SPLITS, Task
from engine.calibration.training.options import CalibrationOptions
from engine.schedule import Part
from engine.space import LatentSpace

READING: Final = "reading"
TRAINING: Final = "training"
PROBE: Final = "probe"
_MODULE: Final = 33 / 8
"""Weights of the clustering module for each squared unit of the width."""


def calibration_parts(
    space: LatentSpace,
    task: Task,
    options: CalibrationOptions,
    *,
    compare: bool,
    splits: Sequence[int] = (),
) -> Iterator[Part]:
    """The parts of a calibration, in their order; the unit of their cost is a multiplication.

    Args:
        space: the model.
        task: its texts.
        options: of the calibration.
        compare: whether before and after are compared with the controls.
        splits: seeds of the splits that it is repeated on.
    """
    model, tokens = space.model, {s: sum(map(len, task.ids[s])) for s in SPLITS}
    yield Part(READING, READING, model.parameters * sum(tokens.values()), may_be_kept=True)
    learned = {"module": _MODULE * model.width**2, "head": task.classes * model.width}
    if options.kind in learned:  # forwards and backwards over cached states
        epoch = 3 * learned[options.kind] * task.size("train")
    else:
        epoch = 3 * model.parameters * tokens["train"]
    training = options.used_epochs * epoch
    yield Part(TRAINING, TRAINING, training, stops_early=True)
    if not compare:
        return
    one = 100 * task.classes * model.width * task.size("train")  # some hundred steps of L-BFGS
    yield Part(PROBE, PROBE, one)
    for name, count in runs_of(options).items():
        for place in range(count):
            yield Part(f"control {name} {place}", TRAINING, training, stops_early=True)
    for left in taken_out(task, options):
        for frame in (options.frame, "random"):
            share = 1 - 1 / task.classes
            yield Part(
                f"class {left} left out, bases {frame}", TRAINING, training * share,
                stops_early=True,
            )  # fmt: skip
    for layer in range(model.blocks + 1):
        if layer == options.layer % (model.blocks + 1):  # the first one
            continue
        yield Part(f"probe of layer {layer}", PROBE, one)
    for seed in splits:
        for name in ("own", "random"):
            yield Part(f"split {seed}, bases {name}", TRAINING, training, stops_early=True)
