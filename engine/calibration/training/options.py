"""What can be set about a calibration. The defaults are measured: docs/decisions/0009."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from engine.calibration.training.losses import LOSSES, SCOPES, SIMILARITIES, Scope, Similarity
from engine.calibration.training.module import POOLINGS, STARTS, Pooling, Start
from engine.errors import OptionError, shorten
from engine.frames.kinds import FRAMES
from engine.reading.geometries import GEOMETRIES

TARGETS: Final = ("module", "head", "layers:k", "layers:all", "lora")
_LAYERS = re.compile(r"layers:(all|[1-9][0-9]{0,3})")

_MEASURED_WIDTH: Final = 160
"""d of the model that the learning rates were measured on."""
_RATES: Final = {"module": 1e-3, "head": 0.19, "layers": 3e-3, "lora": 1e-2}
"""At that width; the head's counts in lengths of a basis (:meth:`CalibrationOptions.for_width`)."""
_EPOCHS: Final = {"module": 100, "head": 100, "layers": 5, "lora": 5}
_BATCHES: Final = {"module": 256, "head": 256, "layers": 32, "lora": 32}


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Settings of one calibration; None takes the target's own default."""

    target: str = "module"
    """What is trained: the clustering ``module`` behind the model (the paper's), the ``head``'s
    rows, the model's last k blocks ``layers:k``, all of them ``layers:all``, or ``lora``."""
    frame: str = "output"
    """Whose vectors are the centroids: ``output`` (the paper's), ``input``, ``head``, ``tight``,
    ``random`` (the control)."""
    centroids: Scope = "labels"
    """Which compete in the loss: those of the ``labels``, or of the whole ``vocabulary``."""
    loss: str = "sm"
    """One of :data:`engine.calibration.training.losses.LOSSES`."""
    inference: Similarity = "sm"
    """How the calibrated state is read: ``sm`` cosine, ``mm`` matrix product."""
    inference_over: Scope = "labels"
    """Over which tokens probabilities are taken; the answer is always one of the labels."""
    temperature: float | None = None
    """T of the loss in units of a cosine, above 0 (``engine.calibration.training.losses``)."""
    learning_rate: float | None = None
    """AdamW's largest, falling to 0 by half a cosine; None is the default for the width."""
    weight_decay: float = 0.01
    """AdamW's, on matrices only."""
    epochs: int | None = None
    """At most."""
    batch: int | None = None
    """Texts per step."""
    patience: int = 20
    """Epochs without a lower validation loss after which training stops; 0 trains to the end."""
    seed: int = 42
    """Of the start, the order of batches and dropout."""
    layer: int = -1
    """Whose states are calibrated; −1 is the last, which the paper claims it for."""
    pooling: Pooling = "position"
    """What the channel attention pools over (``engine.calibration.training.module``)."""
    start: Start = "identity"
    """Where the module starts."""
    standardise: bool = True
    """Standardise each channel of r by the training states before the module."""
    dropout: float = 0.0
    """Of the module's hidden units, in [0, 1)."""
    rank: int = 8
    """Of LoRA."""

    @property
    def kind(self) -> str:
        """The target without its number: ``module``, ``head``, ``layers`` or ``lora``."""
        return self.target.split(":")[0]

    @property
    def used_temperature(self) -> float:
        """T in the loss, own or default."""
        if self.temperature is not None:
            return self.temperature
        if self.kind == "head":  # its cosines are those of raw states, which differ little
            return 0.02
        return 0.5 if self.centroids == "labels" else 0.05

    @property
    def reading_temperature(self) -> float:
        """What scores are divided by for probabilities where nothing is fitted: the loss's own T
        where it is a softmax of cosines and so is the reading, else the project's default."""
        if self.loss == self.inference == "sm":
            return self.used_temperature
        return GEOMETRIES["cosine" if self.inference == "sm" else "matmul"].temperature

    @property
    def used_rate(self) -> float:
        """The learning rate, own or the default before :meth:`for_width` scales it."""
        return _RATES[self.kind] if self.learning_rate is None else self.learning_rate

    def for_width(self, d: int, length: float = 1.0) -> CalibrationOptions:
        """The same with the learning rate written out for a model of width d.

        A default is scaled by 160/d: with AdamW each weight moves by about the rate, so a sum over
        d of them moves d times as far (Yang et al. 2022). The head's is scaled by `length` besides.

        Args:
            d: the width.
            length: ‖M·w‖/‖M‖_F of the rows w that are trained: how far each number of a row has to
                move for its basis M·w to move by its own length.
        """
        if self.learning_rate is not None:
            return self
        scale = min(1.0, _MEASURED_WIDTH / d) * (length if self.kind == "head" else 1.0)
        return replace(self, learning_rate=self.used_rate * scale)

    @property
    def used_epochs(self) -> int:
        """The most epochs, own or default."""
        return _EPOCHS[self.kind] if self.epochs is None else self.epochs

    @property
    def used_batch(self) -> int:
        """Texts per step, own or default."""
        return _BATCHES[self.kind] if self.batch is None else self.batch

    def validate(self) -> None:
        """Refuse what cannot be run.

        Raises:
            OptionError: one sentence.
        """
        if self.target not in ("module", "head", "lora") and not _LAYERS.fullmatch(self.target):
            raise OptionError(
                f"the target must be one of {', '.join(TARGETS)}; got {shorten(self.target)!r}."
            )
        for name, value, allowed in (
            ("frame", self.frame, FRAMES),
            ("centroids", self.centroids, SCOPES),
            ("loss", self.loss, LOSSES),
            ("inference", self.inference, SIMILARITIES),
            ("inference_over", self.inference_over, SCOPES),
            ("pooling", self.pooling, POOLINGS),
            ("start", self.start, STARTS),
        ):
            if value not in allowed:
                raise OptionError(
                    f"{name} must be one of {', '.join(allowed)}; got {shorten(str(value))!r}."
                )
        for name, number, low, high in (
            ("temperature", self.used_temperature, 1e-3, 1e3),
            ("learning_rate", self.used_rate, 1e-7, 10.0),
            ("weight_decay", self.weight_decay, 0.0, 10.0),
            ("epochs", self.used_epochs, 1, 10_000),
            ("batch", self.used_batch, 1, 65_536),
            ("patience", self.patience, 0, 10_000),
            ("seed", self.seed, 0, 2**31 - 1),
            ("rank", self.rank, 1, 1024),
            ("dropout", self.dropout, 0.0, 0.95),
        ):
            if not low <= number <= high:  # False for NaN
                raise OptionError(f"{name} must be in [{low}, {high}]; got {number}.")
        if self.kind == "head" and self.frame in ("input", "random"):
            raise OptionError(
                "training the head's rows needs centroids made of them: frame output, tight or"
                f" head; got {self.frame}."
            )
        if self.kind == "head" and self.inference_over != self.centroids:
            raise OptionError(
                "the head's rows are read over the tokens that were trained; set inference_over to"
                f" {self.centroids}."
            )
        if self.kind in ("layers", "lora") and self.layer != -1:
            raise OptionError(
                "tuning the model's layers works on the last layer's states; set layer to -1."
            )

    def to_dict(self) -> dict[str, Any]:
        """Every setting, and what the defaults came to."""
        plain = asdict(self)
        plain["learning_rate"], plain["epochs"] = self.used_rate, self.used_epochs
        plain["batch"], plain["temperature"] = self.used_batch, self.used_temperature
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> CalibrationOptions:
        """From :meth:`to_dict`.

        Raises:
            OptionError: an unknown name or a value out of range.
        """
        unknown = sorted(set(plain) - set(cls.__dataclass_fields__))
        if unknown:
            raise OptionError(
                f"a calibration has no setting {shorten(unknown[0])!r}; leave it out."
            )
        made = cls(**plain)
        made.validate()
        return made
