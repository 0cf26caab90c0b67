"""A trained calibration: what it holds, and how states are read by it.

Knows nothing about how it was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from engine.calibration.labelled.tasks import Task
from engine.calibration.labelled.words import LabelToken
from engine.calibration.training.losses import Centroids, Scope, Similarity, centroids
from engine.calibration.training.module import CalibrationModule
from engine.calibration.training.options import CalibrationOptions
from engine.errors import ArtifactError, OptionError
from engine.space import LatentSpace


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows."""

    number: int
    """From 1; epoch 0 is before training."""
    train_loss: float
    """Mean over the epoch's batches while they were trained on; at epoch 0 over the rows."""
    valid_loss: float
    """After the epoch; NaN without validation rows."""
    valid_accuracy: float
    seconds: float
    """Since the start."""


@dataclass(frozen=True)
class Prediction:
    """What n calibrated states say. In the order of the states; columns in that of the labels."""

    scores: Tensor
    """n × C: cosines, matrix products, or log-probabilities over the whole vocabulary."""
    probabilities: Tensor
    """n × C; rows sum to 1, or to less where other tokens of the vocabulary have a part."""
    predicted: Tensor
    """Index of the best label (n)."""


KEPT_ITS_START: Final = (
    "No epoch lowered the validation loss (best epoch 0), so nothing that was trained is in it: its"
    " figures are those of the start; set a lower learning rate."
)
"""Said wherever a figure of such a training stands."""


@dataclass(eq=False)
class Calibration:
    """A trained calibration of one model for one task."""

    options: CalibrationOptions
    model: str
    """The model's fingerprint."""
    model_name: str
    task: str
    """The task's fingerprint."""
    task_info: Mapping[str, Any]
    """What identifies the task: name, settings, label tokens, sizes."""
    label_names: tuple[str, ...]
    label_words: tuple[str, ...]
    centroids: Centroids
    """Those that states are read by; for the target ``head`` the trained ones."""
    module: CalibrationModule | None = None
    """λ; None is the identity."""
    tuned: Mapping[str, Tensor] = field(default_factory=dict)
    """For layers and LoRA: parameter name → trained value. For the head: its trained rows."""
    history: tuple[Epoch, ...] = ()
    best_epoch: int = 0
    """The one that was kept; 0 means that training did not lower the validation loss."""
    reading_temperature: float = 1.0
    """What scores are divided by for probabilities: fitted on the validation rows where there are
    enough of them, else that of the loss (1 for matrix products)."""
    seconds: float = 0.0
    """Of training, without the states."""
    trained_weights: int = 0
    """How many numbers were trained."""

    @property
    def kept_its_start(self) -> bool:
        """Whether it was trained and no epoch was better than the start."""
        return bool(self.history) and self.best_epoch == 0

    @property
    def warning(self) -> str:
        """A sentence that belongs beside every figure of it, or nothing."""
        return KEPT_ITS_START if self.kept_its_start else ""

    @property
    def stored_bytes(self) -> int:
        """What has to be kept beside the model."""
        held = list(self.tuned.values())
        if self.module is not None:
            held += [*self.module.parameters(), *self.module.buffers()]
        return sum(t.numel() * t.element_size() for t in held)

    @torch.no_grad()
    def apply(self, states: Tensor) -> Tensor:
        """Calibrated states λ(r): n × d → n × d; the identity for the target ``head``.

        Args:
            states: after the final norm, of the layer that was calibrated.

        Raises:
            OptionError: layers or LoRA were tuned: their states come from the tuned model.
        """
        if self.options.kind in ("layers", "lora"):
            raise OptionError(
                "this calibration tunes the model's layers, so calibrated states come from running"
                " the texts again; use predict."
            )
        if self.module is None:
            return states.float()
        self.module.eval()
        out: Tensor = self.module(states.to(self.module.centre.device, torch.float32))
        return out

    @torch.no_grad()
    def read(self, states: Tensor) -> Prediction:
        """What the labels' centroids say about states: those of the untuned model."""
        return self.read_calibrated(self.apply(states))

    @torch.no_grad()
    def read_calibrated(self, states: Tensor) -> Prediction:
        """The same for states that are calibrated already."""
        return predict_from(
            self.centroids,
            states.to(self.centroids.labels.device),
            self.options.inference,
            self.options.inference_over,
            self.reading_temperature,
        )

    def check_model(self, space: LatentSpace) -> None:
        """Refuse another model.

        Raises:
            ArtifactError: its weights are not those that this was trained on.
        """
        if space.model.fingerprint != self.model:
            raise ArtifactError(
                f"this calibration belongs to {self.model_name} (fingerprint {self.model[:12]}) and"
                f" the open model is {space.model.name} ({space.model.fingerprint[:12]}); open that"
                " model or train anew."
            )


def centroids_for(
    space: LatentSpace, labels: Sequence[LabelToken], options: CalibrationOptions
) -> Centroids:
    """The labels' bases of the untrained model, as a calibration's settings want them."""
    return centroids(
        space,
        labels,
        frame=options.frame,
        scope=options.centroids,
        whole=options.inference_over == "vocabulary",
    )


def untrained(
    space: LatentSpace, task: Task, options: CalibrationOptions | None = None
) -> Calibration:
    """The reading before: λ is the identity, the centroids are the labels' bases."""
    options = options or CalibrationOptions()
    options.validate()
    return Calibration(
        options=options,
        model=space.model.fingerprint,
        model_name=space.model.name,
        task=task.fingerprint,
        task_info=task.to_dict(),
        label_names=task.label_names,
        label_words=task.label_words,
        centroids=centroids_for(space, task.label_tokens, options),
        reading_temperature=options.reading_temperature,
    )


@torch.no_grad()
def predict_from(
    centres: Centroids, states: Tensor, kind: Similarity, over: Scope, temperature: float
) -> Prediction:
    """Scores, probabilities and answers of calibrated states."""
    if over == "vocabulary":
        parts = [states.new_empty(0, centres.classes, dtype=torch.float32)]
        for start in range(0, len(states), 256):
            whole = centres.scores(states[start : start + 256], kind, "vocabulary")
            logs = torch.log_softmax(whole / temperature, dim=1)
            parts.append(logs[:, list(centres.ids)])
        scores = torch.cat(parts)
        return Prediction(scores.cpu(), scores.exp().cpu(), scores.argmax(1).cpu())
    scores = centres.scores(states, kind)
    probabilities = torch.softmax(scores / temperature, dim=1)
    return Prediction(scores.cpu(), probabilities.cpu(), scores.argmax(1).cpu())
