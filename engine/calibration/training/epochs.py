"""The loop that every calibration is trained by, whatever it trains.

AdamW; the learning rate falls to zero by a half cosine over the epochs; the parameters with the
lowest validation loss are kept; it goes on from a checkpoint with the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from engine.calibration.training.calibrated import Calibration
from engine.calibration.training.losses import Centroids, clustering_loss
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.resuming import BestSoFar, Position, Resumable
from engine.checkpoints import Checkpoint
from engine.errors import NonFiniteError
from engine.progress import Progress, Steps

_STEP_SECONDS: Final = 0.1
"""Batches go on without a pause for so long."""
_FIT_ROWS: Final = 40
"""Validation rows from which a reading temperature is fitted."""


@dataclass(frozen=True)
class Learner:
    """What is trained, and by what."""

    parameters: list[nn.Parameter]
    losses: Callable[[Tensor], Iterator[tuple[int, Tensor]]]
    """Of a batch of training rows, part by part: how many rows, and their mean loss."""
    judge: Callable[[str, int], Steps[tuple[float, float]]]
    """Loss and accuracy of a whole split; takes the steps done so far, for its progress."""
    generators: Mapping[str, torch.Generator] = field(default_factory=dict)
    """That the losses draw from, by name; each part of a batch is drawn in one step then."""
    by_text: bool = False
    """Whether texts are counted and each part is a step of its own, instead of whole batches."""
    most_norm: float | None = None
    """Largest norm of a step's gradient."""


def train_epochs(
    learner: Learner, options: CalibrationOptions, rows: int, checkpoint: Checkpoint, begin: float
) -> Steps[BestSoFar]:
    """Train; the parameters are left as they were after the best epoch.

    Args:
        learner: what is trained.
        options: settings.
        rows: training rows.
        checkpoint: keyed by everything that the training depends on.
        begin: when it began, on `time.perf_counter`.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    batch, parameters = options.used_batch, learner.parameters
    matrices = [p for p in parameters if p.dim() > 1 and options.kind != "head"]
    others = [p for p in parameters if not any(p is m for m in matrices)]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=options.used_rate,
    )
    steps = options.used_epochs * math.ceil(rows / batch)
    total = options.used_epochs * rows if learner.by_text else steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _half_cosine(steps))
    order = torch.Generator().manual_seed(options.seed)
    drawn_from = {"order": order, **learner.generators}
    training = Resumable(checkpoint, parameters, optimiser, schedule, drawn_from)
    found = training.load(options.patience)
    if found is None:
        first, _ = yield from learner.judge("train", 0)
        valid = yield from learner.judge("valid", 0)
        found = BestSoFar(parameters, options.patience, first, *valid, begin), Position()
    best, at = found
    last_yield = time.perf_counter()
    with checkpoint.on_close(lambda: training.save(best, at, total)):
        if at.done:
            yield Progress(at.done, total, "training", best.values)
        for epoch in range(at.epoch, options.used_epochs + 1):
            if best.stop:
                break
            if at.order is None:
                at = replace(at, order=torch.randperm(rows, generator=order))
            assert at.order is not None
            for start in range(at.start, rows, batch):
                chosen = at.order[start : start + batch]
                optimiser.zero_grad(set_to_none=True)
                # Whoever is stopped between two parts begins this batch anew: `at` stays before it.
                done, summed = at.done, at.loss
                for count, loss in learner.losses(chosen):
                    value = float(loss.detach())
                    _check_loss(value, epoch)
                    (loss * (count / len(chosen))).backward()  # type: ignore[no-untyped-call]
                    summed += value * count
                    if learner.by_text:
                        done += count
                        yield Progress(done, total, "training", best.values)
                        last_yield = time.perf_counter()
                if learner.most_norm is not None:
                    nn.utils.clip_grad_norm_(parameters, learner.most_norm)
                optimiser.step()
                schedule.step()
                done = done if learner.by_text else done + 1
                at = replace(at, start=start + len(chosen), done=done, loss=summed)
                if checkpoint.due:
                    training.save(best, at, total)
                if time.perf_counter() - last_yield > _STEP_SECONDS:
                    yield Progress(at.done, total, "training", best.values)
                    last_yield = time.perf_counter()
            valid = yield from learner.judge("valid", at.done)
            best.take(epoch, at.loss / rows, *valid)
            at = Position(epoch + 1, done=at.done)
            if checkpoint.due:
                training.save(best, at, total)
            yield Progress(at.done, total, "training", best.values)
            last_yield = time.perf_counter()
        training.save(best, at, total)
        best.restore()
    yield Progress(total, total, "training", best.values)
    return best


def measured(
    options: CalibrationOptions, states: Tensor, labels: Tensor, centres: Centroids
) -> tuple[float, float]:
    """Loss and accuracy of calibrated states; NaN of none."""
    if not len(labels):
        return math.nan, math.nan
    with torch.no_grad():
        loss = clustering_loss(options.loss, states, labels, centres, options.used_temperature)
        answers = centres.scores(states, options.inference).argmax(1)
        return float(loss), float((answers == labels).float().mean())


def _half_cosine(total: int) -> Callable[[int], float]:
    """Half a cosine from 1 to 0 over `total` steps."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))


def _check_loss(value: float, epoch: int) -> None:
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
