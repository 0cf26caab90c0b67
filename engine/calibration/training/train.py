"""Calibration: train the clustering module, the head's rows or the model's layers by one objective.

The objective is one of the clustering losses (`engine.calibration.training.losses`): states of
each label go to their label's fixed basis. AdamW; the learning rate falls to zero by a half cosine
over the epochs; the state with the lowest validation loss is kept. The same seed on the same
machine and thread count gives the same bits on a CPU, also where it was interrupted.

Nothing here changes the model: module and head rows are of our own, and layers are tuned on a copy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from engine.calibration.labelled.tasks import Task
from engine.calibration.training.calibrated import (
    Calibration,
    Epoch,
    Prediction,
    predict_from,
    untrained,
)
from engine.calibration.training.features import TaskStates
from engine.calibration.training.losses import Centroids, clustering_loss
from engine.calibration.training.module import CalibrationModule
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.resuming import Keeper, Position, Resumable
from engine.checkpoints import NOTHING, Checkpoint, tensor_digest
from engine.errors import LexiscopeError, NonFiniteError, OptionError
from engine.frames.frame import Frame
from engine.progress import Progress, Steps
from engine.space import LatentSpace

_STEP_SECONDS: Final = 0.1
"""Batches go on without a pause for so long."""
_FIT_ROWS: Final = 40
"""Validation rows from which a reading temperature is fitted."""


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
    options = options.for_width(space.model.width)
    if states.model != space.model.fingerprint or states.task != task.fingerprint:
        raise LexiscopeError("these states are of another task or model; take them anew.")
    place = (checkpoint or NOTHING.of("training")).keyed(
        model=states.model, task=states.task, options=options.to_dict()
    )
    if options.kind in ("layers", "lora"):
        from engine.calibration.training.tuning import tune_model

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
    keeper = yield from _fit(learner, rows, result, begin, place)
    learner.finish()
    valid, own = rows["valid"]
    fit_temperature(result, result.apply(valid), own)
    result.seconds = keeper.seconds
    return result


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

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters())

    def outputs(self, states: Tensor, *, training: bool) -> tuple[Tensor, Centroids]:
        self.module.train(training)
        return self.module(states), self.result.centroids

    @property
    def generators(self) -> dict[str, torch.Generator]:
        return {"dropout": self.module.draws}

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
        result.trained_weights = self.rows.numel()

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.rows]

    @property
    def generators(self) -> dict[str, torch.Generator]:
        return {}

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


Rows = Mapping[str, tuple[Tensor, Tensor]]


def _fit(
    learner: _ModuleLearner | _HeadLearner,
    rows: Rows,
    result: Calibration,
    begin: float,
    checkpoint: Checkpoint,
) -> Steps[Keeper]:
    """AdamW over the cached states; the best state by validation loss is left in the learner."""
    options = result.options
    states, labels = rows["train"]
    valid, valid_labels = rows["valid"]
    n, batch = len(states), options.used_batch
    parameters = learner.parameters
    matrices = [p for p in parameters if p.dim() > 1 and options.kind == "module"]
    others = [p for p in parameters if not any(p is m for m in matrices)]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=options.used_rate,
    )
    per_epoch = math.ceil(n / batch)
    total = options.used_epochs * per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, falling(total))
    order = torch.Generator().manual_seed(options.seed)
    training = Resumable(
        checkpoint, parameters, optimiser, schedule, {"order": order, **learner.generators}
    )

    def loss_of(some: Tensor, own: Tensor, *, training: bool) -> Tensor:
        calibrated, centres = learner.outputs(some, training=training)
        return clustering_loss(options.loss, calibrated, own, centres, options.used_temperature)

    def judge() -> tuple[float, float]:
        if not len(valid):
            return math.nan, math.nan
        with torch.no_grad():
            calibrated, centres = learner.outputs(valid, training=False)
            loss = clustering_loss(
                options.loss, calibrated, valid_labels, centres, options.used_temperature
            )
            right = centres.scores(calibrated, options.inference).argmax(1) == valid_labels
            return float(loss), float(right.float().mean())

    found = training.load(options.patience)
    if found is None:
        with torch.no_grad():
            first = float(loss_of(states, labels, training=False))
        found = Keeper(parameters, options.patience, first, *judge(), begin), Position()
    keeper, at = found
    last_yield = time.perf_counter()
    with checkpoint.on_close(lambda: training.save(keeper, at, total)):
        if at.done:
            yield Progress(at.done, total, "training", keeper.values)
        for epoch in range(at.epoch, options.used_epochs + 1):
            if keeper.stop:
                break
            if at.order is None:
                at = replace(at, order=torch.randperm(n, generator=order))
            assert at.order is not None
            shuffled = at.order.to(states.device)
            for start in range(at.start, n, batch):
                index = shuffled[start : start + batch]
                loss = loss_of(states[index], labels[index], training=True)
                value = float(loss.detach())
                check_loss(value, epoch)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                end = start + len(index)
                summed = at.loss + value * len(index)
                at = replace(at, start=end, done=at.done + 1, loss=summed)
                if time.perf_counter() - last_yield > _STEP_SECONDS:
                    if checkpoint.due:
                        training.save(keeper, at, total)
                    yield Progress(at.done, total, "training", keeper.values)
                    last_yield = time.perf_counter()
            keeper.take(epoch, at.loss / n, *judge())
            at = Position(epoch + 1, done=at.done)
            if checkpoint.due:
                training.save(keeper, at, total)
            yield Progress(at.done, total, "training", keeper.values)
            last_yield = time.perf_counter()
        training.save(keeper, at, total)
        keeper.restore()
    result.history, result.best_epoch = tuple(keeper.history), keeper.best
    yield Progress(total, total, "training", keeper.values)
    return keeper


def falling(total: int) -> Callable[[int], float]:
    """Half a cosine from 1 to 0 over `total` steps."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))


def check_loss(value: float, epoch: int) -> None:
    """Refuse a loss that is no number.

    Raises:
        NonFiniteError: NaN or infinite.
    """
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the loss became {value} in epoch {epoch}; lower the learning rate or raise the"
            " temperature."
        )


def fit_temperature(result: Calibration, states: Tensor, labels: Tensor) -> None:
    """The T for probabilities that makes the validation rows' labels most likely.

    Guo et al. 2017. It changes no answer. Found on a grid of 161 values over four orders of
    magnitude around the start: steps of 6 %, and the same on every machine.

    Args:
        result: the calibration, whose `reading_temperature` is set.
        states: calibrated states of the validation rows, n × d.
        labels: theirs (n).
    """
    options = result.options
    if options.loss == options.inference == "mm":
        result.reading_temperature = options.used_temperature * result.centroids.kappa
    if len(states) < _FIT_ROWS or options.inference_over == "vocabulary":
        return
    with torch.no_grad():
        scores = result.centroids.scores(states, options.inference).cpu().double()
        grid = result.reading_temperature * torch.logspace(-2, 2, 161, dtype=torch.float64)
        losses = [
            float(nn.functional.cross_entropy(scores / t, labels.cpu())) for t in grid.tolist()
        ]
    result.reading_temperature = float(grid[int(np.argmin(losses))])


__all__ = [
    "Calibration",
    "CalibrationOptions",
    "Epoch",
    "Keeper",
    "Prediction",
    "calibrate",
    "fit_temperature",
    "predict_from",
    "untrained",
]
