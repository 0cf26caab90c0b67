"""A training's state as tensors and plain values, so that it goes on with the same bits.

What is kept: the parameters, AdamW's moments, the learning rate's place in its schedule, every
generator, the history with the best parameters so far, the order of the epoch's rows and the place
in it. A training that goes on from it on the same machine and thread count ends as one that was
never interrupted, on the CPU bit for bit; only the seconds differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from engine.calibration.training.calibrated import Epoch
from engine.checkpoints import Checkpoint


@dataclass(frozen=True)
class Position:
    """Where a training is, between two steps of its optimiser."""

    epoch: int = 1
    """The one under way."""
    start: int = 0
    """Rows of it that are done."""
    done: int = 0
    """What the progress counts."""
    loss: float = 0.0
    """Sum over those rows."""
    order: Tensor | None = None
    """The epoch's rows in the order in which they are taken; None before it is drawn."""


class BestSoFar:
    """The history, the best parameters so far, and whether to go on.

    Best is the lowest validation loss; without validation rows, the last epoch.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        patience: int,
        train_loss: float,
        valid_loss: float,
        valid_accuracy: float,
        begin: float,
    ) -> None:
        self._parameters, self._patience, self._begin = parameters, patience, begin
        self.history: list[Epoch] = []
        self.epoch, self._lowest = 0, math.inf
        self.kept: list[Tensor] = []
        """The best parameters so far."""
        # A run without validation rows has no loss on them from the start; one that becomes NaN
        # later has diverged, and is no better than what there was.
        self._blind = math.isnan(valid_loss)
        self.take(0, train_loss, valid_loss, valid_accuracy)

    @classmethod
    def going_on(
        cls,
        parameters: list[nn.Parameter],
        patience: int,
        values: Mapping[str, Any],
        kept: list[Tensor],
    ) -> BestSoFar:
        """As it was when `to_dict` gave these values, with the best parameters of then."""
        _, train_loss, valid_loss, accuracy, _ = values["history"][0]
        began = time.perf_counter() - values["seconds"]
        made = cls(parameters, patience, train_loss, valid_loss, accuracy, began)
        made.history = [Epoch(*one) for one in values["history"]]
        made.epoch, made._lowest, made.kept = values["best"], values["lowest"], kept
        return made

    def to_dict(self) -> dict[str, Any]:
        """All but the parameters, in plain values; floats are exact."""
        return {
            "history": [list(astuple(epoch)) for epoch in self.history],
            "best": self.epoch,
            "lowest": self._lowest,
            "seconds": self.seconds,
        }

    @torch.no_grad()
    def take(self, epoch: int, train_loss: float, valid_loss: float, valid_accuracy: float) -> None:
        """Note one epoch."""
        self.history.append(Epoch(epoch, train_loss, valid_loss, valid_accuracy, self.seconds))
        if self._blind or valid_loss < self._lowest:
            self.epoch, self._lowest = epoch, valid_loss
            self.kept = [p.detach().clone() for p in self._parameters]

    @property
    def seconds(self) -> float:
        """Since the training began, without the time between an interruption and going on."""
        return time.perf_counter() - self._begin

    @property
    def stop(self) -> bool:
        """Whether patience is at its end."""
        waited = self.history[-1].number - self.epoch
        return self._patience > 0 and waited >= self._patience

    @property
    def values(self) -> dict[str, float]:
        """Figures of the last epoch, for the progress."""
        last = self.history[-1]
        return {
            "epoch": float(last.number),
            "train_loss": last.train_loss,
            "valid_loss": last.valid_loss,
            "valid_accuracy": last.valid_accuracy,
        }

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best parameters back."""
        for parameter, kept in zip(self._parameters, self.kept, strict=True):
            parameter.copy_(kept)


class Resumable:
    """A training's moving parts beside its checkpoint.

    Args:
        checkpoint: keyed by everything that the training depends on.
        parameters: what is trained, in an order that is always the same.
        optimiser: over these.
        schedule: of its learning rate.
        generators: by name, those that the training draws from.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        parameters: list[nn.Parameter],
        optimiser: Optimizer,
        schedule: LambdaLR,
        generators: Mapping[str, torch.Generator],
    ) -> None:
        self.checkpoint = checkpoint
        self._parameters, self._optimiser, self._schedule = parameters, optimiser, schedule
        self._generators = generators

    def load(self, patience: int) -> tuple[BestSoFar, Position] | None:
        """Put everything as it was kept; None, with nothing touched, where nothing was."""
        found = self.checkpoint.load()
        if found is None:
            return None
        tensors, values = found.tensors, found.values
        with torch.no_grad():
            for i, parameter in enumerate(self._parameters):
                parameter.copy_(tensors[f"parameter.{i}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("moment."):
                _, number, what = name.split(".", 2)
                moments.setdefault(int(number), {})[what] = tensor
        groups = self._optimiser.state_dict()["param_groups"]
        for group, rate in zip(groups, values["rates"], strict=True):
            group["lr"] = rate
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self._schedule.last_epoch = values["steps"]
        self._schedule._last_lr = list(values["rates"])
        for name, generator in self._generators.items():
            generator.set_state(tensors[f"generator.{name}"])
        kept = [tensors[f"kept.{i}"].to(p.device, p.dtype) for i, p in enumerate(self._parameters)]
        best = BestSoFar.going_on(self._parameters, patience, values["keeper"], kept)
        epoch, start, done, loss = values["at"]
        return best, Position(epoch, start, done, loss, tensors.get("order"))

    def save(self, best: BestSoFar, at: Position, total: int) -> None:
        """Keep everything as it stands; `at` lies between two steps of the optimiser."""
        tensors: dict[str, Tensor] = {}
        for i, parameter in enumerate(self._parameters):
            tensors[f"parameter.{i}"] = parameter
            tensors[f"kept.{i}"] = best.kept[i]
        for number, state in self._optimiser.state_dict()["state"].items():
            for what, tensor in state.items():
                tensors[f"moment.{number}.{what}"] = tensor
        for name, generator in self._generators.items():
            tensors[f"generator.{name}"] = generator.get_state()
        if at.order is not None:
            tensors["order"] = at.order
        values = {
            "rates": [group["lr"] for group in self._optimiser.param_groups],
            "steps": self._schedule.last_epoch,
            "keeper": best.to_dict(),
            "at": [at.epoch, at.start, at.done, at.loss],
        }
        self.checkpoint.save(tensors, values, place=f"step {at.done} of {total} of the training")
