"""Calibration: train the clustering module, the head's rows or the model's layers by one objective.

The objective is one of the clustering losses (`engine.calibration.training.losses`): states of
each label go to their label's fixed basis, by the loop of `engine.calibration.training.epochs`. The
same seed on the same machine and thread count gives the same bits on a CPU, also where it was
interrupted.

Nothing here changes the model: module and head rows are of our own, and layers are tuned on a copy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from engine.calibration.labelled.tasks import Task
from engine.calibration.training.calibrated import Calibration, untrained
from engine.calibration.training.epochs import Learner, fit_temperature, measured, train_epochs
from engine.calibration.training.features import TaskStates
from engine.calibration.training.losses import Centroids, clustering_loss
from engine.calibration.training.module import CalibrationModule
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.tuning import tune_model
from engine.checkpoints import NOTHING, Checkpoint, tensor_digest
from engine.errors import LexiscopeError, OptionError
from engine.frames.frame import Frame
from engine.progress import Steps
from engine.space import LatentSpace


def calibrate(
    space: LatentSpace,
    states: TaskStates,
    task: Task,
    options: CalibrationOptions | None = None,
    *,
    checkpoint: Checkpoint | None = None,
) -> Steps[Calibration]:
    """Train a calibration. One step is one batch, or as many as fit 0.1 s.

    Each step's `values` hold ``epoch``, ``train_loss``, ``valid_loss`` and ``valid_accuracy`` of
    the last whole epoch.

    Args:
        space: model and bases; called on the thread that owns it.
        states: of this task by this model, with the layer that is calibrated.
        task: labels and label tokens.
        options: settings.
        checkpoint: where the training keeps its state, and from where it goes on; the result is
            the same as without an interruption, on the CPU bit for bit. None keeps nothing.

    Raises:
        OptionError: settings that cannot be run.
        NonFiniteError: the loss became NaN or infinite.
        LexiscopeError: states of another task or model.
    """
    options = options or CalibrationOptions()
    options.validate()
    options = options.for_width(space.model.width, _basis_length(space, task, options))
    if states.model != space.model.fingerprint or states.task != task.fingerprint:
        raise LexiscopeError("these states are of another task or model; take them anew.")
    place = (checkpoint or NOTHING.of("training")).keyed(
        model=states.model, task=states.task, options=options.to_dict()
    )
    if options.kind in ("layers", "lora"):
        return (yield from tune_model(space, task, options, place))
    begin = time.perf_counter()
    result = untrained(space, task, options)
    device = result.centroids.labels.device
    at = states.at(options.layer)
    rows = {
        s: (at[s].to(device), torch.from_numpy(task.labels[s]).to(device))
        for s in ("train", "valid")
    }
    learner: _ModuleLearner | _HeadLearner
    if options.kind == "module":
        learner = _ModuleLearner(result, rows["train"][0])
    else:
        learner = _HeadLearner(result, space, task)
    place = place.keyed(rows=tensor_digest(*(t for pair in rows.values() for t in pair)))
    losses, judge = _objective(learner, options, rows)
    trained = Learner(learner.parameters, losses, judge, learner.generators)
    best = yield from train_epochs(trained, options, task.size("train"), place, begin)
    result.history, result.best_epoch = tuple(best.history), best.epoch
    learner.finish()
    valid, own = rows["valid"]
    fit_temperature(result, result.apply(valid), own)
    result.seconds = best.seconds
    return result


def _basis_length(space: LatentSpace, task: Task, options: CalibrationOptions) -> float:
    """mean‖M·w_y‖/‖M‖_F over the labels, which any scale of the head's matrix scales alike."""
    if options.kind != "head":
        return 1.0
    frame = space.frame(options.frame)
    rows = frame.gather([token.id_used for token in task.label_tokens]).cpu().double()
    matrix = torch.eye(frame.width) if frame.transform is None else frame.transform
    matrix = matrix.cpu().double()
    return float((rows @ matrix).norm(dim=1).mean() / matrix.norm())


Rows = Mapping[str, tuple[Tensor, Tensor]]
"""States and labels of the training and the validation rows."""


def _objective(
    learner: _ModuleLearner | _HeadLearner, options: CalibrationOptions, rows: Rows
) -> tuple[
    Callable[[Tensor], Iterator[tuple[int, Tensor]]],
    Callable[[str, int], Steps[tuple[float, float]]],
]:
    """The loss of a batch of cached states, and the figures of a split."""
    states, labels = rows["train"]

    def losses(chosen: Tensor) -> Iterator[tuple[int, Tensor]]:
        index = chosen.to(states.device)
        moved, centres = learner.outputs(states[index], training=True)
        own, temperature = labels[index], options.used_temperature
        yield len(index), clustering_loss(options.loss, moved, own, centres, temperature)

    def judge(split: str, done: int) -> Steps[tuple[float, float]]:
        some, own = rows[split]
        if not len(own):
            return math.nan, math.nan
        with torch.no_grad():
            moved, centres = learner.outputs(some, training=False)
        yield from ()
        return measured(options, moved, own, centres)

    return losses, judge


class _ModuleLearner:
    """λ on fixed centroids."""

    def __init__(self, result: Calibration, train: Tensor) -> None:
        options = result.options
        centre = spread = None
        if options.standardise:
            centre = train.mean(0)
            spread = train.std(0, correction=0)
            # A channel that never moves is left as it is.
            spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
        module = CalibrationModule(
            train.shape[1],
            pooling=options.pooling,
            start=options.start,
            dropout=options.dropout,
            centre=centre,
            spread=spread,
            seed=options.seed,
        ).to(train.device)
        result.module = module
        result.trained_weights = sum(p.numel() for p in module.parameters())
        self.result, self.module = result, module
        self.parameters = list(module.parameters())
        self.generators = {"dropout": module.draws}

    def outputs(self, states: Tensor, *, training: bool) -> tuple[Tensor, Centroids]:
        self.module.train(training)
        return self.module(states), self.result.centroids

    def finish(self) -> None:
        self.module.eval()
        self.module.requires_grad_(False)


class _HeadLearner:
    """The head's rows of the label tokens, from which the centroids are made anew each step.

    b_i = M·w_i with the frame's M as it is for the untrained head: with ``output`` it is G⁻¹, with
    ``head`` the identity. Rows of other tokens have no part in the loss over the labels; over the
    vocabulary the whole matrix is trained.
    """

    def __init__(self, result: Calibration, space: LatentSpace, task: Task) -> None:
        options = result.options
        frame: Frame = space.frame(options.frame)
        anatomy = space.model.anatomy
        self.result, self.frame = result, frame
        self.whole = options.centroids == "vocabulary"
        if any(t.mean for t in task.label_tokens):
            raise OptionError(
                "training the head's rows needs one token per label; use the rule first for label"
                " words."
            )
        ids = list(result.centroids.ids)
        rows = anatomy.weight.detach().float()
        self.rows = nn.Parameter(rows.clone() if self.whole else rows[ids].clone())
        self.transform = (
            None if frame.transform is None else frame.transform.float().to(self.rows.device)
        )
        self.parameters = [self.rows]
        self.generators: dict[str, torch.Generator] = {}
        result.trained_weights = self.rows.numel()

    def outputs(self, states: Tensor, *, training: bool) -> tuple[Tensor, Centroids]:
        del training
        bases = self.rows if self.transform is None else self.rows @ self.transform
        # The matrix product of the tight frame is with its own vectors, else with the head's rows.
        product = bases if self.frame.name == "tight" else self.rows
        base = self.result.centroids
        if self.whole:
            return states, base.with_matrix(bases, product)
        return states, base.with_rows(bases, product)

    @torch.no_grad()
    def finish(self) -> None:
        rows = self.rows.detach()
        _, made = self.outputs(rows[:0], training=False)
        self.result.centroids = made.detached()
        self.result.tuned = {"head.weight" if self.whole else "head.rows": rows.cpu().clone()}
