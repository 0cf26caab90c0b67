"""What a method of classification is: what it gets, what it gives, how its time is counted.

Every method gets the same task, the same split and the same seed. Time has two parts: `train` is
what is done once for a labelled set (reading its texts, building an index, fitting), `infer` what
is done for the test rows (reading them, deciding). Methods that share states share their cost: each
is charged with reading the texts as if it had been alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.calibration.evidence.untaught_words import UntaughtWords, read_by
from engine.calibration.labelled.tasks import Task
from engine.calibration.training.features import TaskStates
from engine.calibration.training.options import CalibrationOptions
from engine.errors import NonFiniteError, OptionError
from engine.progress import Steps
from engine.space import LatentSpace

T = TypeVar("T")
Needs = Literal["states", "prompts", "gradients"]
Clock = Literal["wall", "processor"]
Kind = Literal["model", "retrieval", "trained", "calibration", "control"]
CLOCKS: Final[Mapping[Clock, Callable[[], float]]] = MappingProxyType(
    {"wall": time.perf_counter, "processor": time.process_time}
)
KINDS: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        "model": "the model as it is",
        "retrieval": "retrieval",
        "trained": "trained competitors",
        "calibration": "calibration",
        "control": "controls",
    }
)
"""Groups of methods, in the order of the tables."""


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """What the methods may be told; every value has a default that fits small models.

    Raises:
        OptionError: a value outside its range.
    """

    shots: int | None = None
    """Demonstrations per class; None is as many as fit, at most eight."""
    context_tokens: int | None = None
    """Tokens of a prompt with demonstrations; None is what the model takes."""
    batch_tokens: int = 2048
    """Tokens of one forward pass, padding included."""
    share_prefix: bool = True
    """Run what prompts with demonstrations have in common through the model once; without it, whole
    prompts, as the methods' own code does. The answers are the same, the time is not."""
    anchors: int | None = None
    """Training rows that kNN prompting indexes; None is all."""
    adapter_rows: int | None = None
    """Training rows of LoRA and IA3; None is all."""
    adapter_epochs: int = 3
    """Passes over them."""
    adapter_batch: int = 16
    """Rows per step of LoRA and IA3."""
    clock: Clock = "wall"
    """What seconds are: on the ``wall`` clock, or of this process's ``processor`` time, which other
    work on the machine does not lengthen (with one thread: what an idle machine would take)."""
    untaught: Mapping[str, Sequence[str]] | None = None
    """Label → words that are not taught, by which calibrated states are read too; None proposes."""
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    """Of every variant of calibration; the variant sets loss, inference, frame and target."""

    def __post_init__(self) -> None:
        if self.clock not in CLOCKS:
            raise OptionError(f"clock must be wall or processor; got {str(self.clock)[:40]!r}.")
        limits = {
            "shots": (0, 64),
            "context_tokens": (8, 1_000_000),
            "batch_tokens": (16, 1_000_000),
            "anchors": (1, 1_000_000),
            "adapter_rows": (2, 1_000_000),
            "adapter_epochs": (1, 100),
            "adapter_batch": (1, 4096),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise OptionError(f"{name} must be from {least} to {most:,}; got {value}.")

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        names = [n for n in self.__dataclass_fields__ if n != "calibration"]
        return {n: getattr(self, n) for n in names} | {"calibration": self.calibration.to_dict()}


@dataclass(frozen=True)
class MethodContext:
    """What a method works with. Shared by the methods of one task and seed."""

    space: LatentSpace
    task: Task
    states: TaskStates
    """Of the zero-shot prompts; read once for all methods."""
    seed: int = 0
    settings: MethodSettings = field(default_factory=MethodSettings)
    state_seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Seconds to read each split's zero-shot prompts through the model, by split."""
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Prompts with demonstrations that another method has read already, with their seconds."""
    words: UntaughtWords | None = None
    """Words that are not taught; None where there are none."""

    def stopwatch(self, train: float = 0.0, infer: float = 0.0) -> Stopwatch:
        """One that has counted so much already."""
        return Stopwatch(train, infer, clock=self.settings.clock)

    def timed(self, steps: Steps[T]) -> Steps[tuple[T, float]]:
        """The same work, and its own seconds."""
        return timed(steps, self.settings.clock)

    def by_words(self, options: CalibrationOptions, states: Tensor) -> NDArray[np.int64] | None:
        """What states of the test rows say by each set of untaught words: k × n; None without."""
        if self.words is None:
            return None
        return read_by(self.space, options, self.words, states)

    @property
    def train_seconds(self) -> float:
        """To read the training and the validation texts."""
        return self.state_seconds.get("train", 0.0) + self.state_seconds.get("valid", 0.0)

    @property
    def test_seconds(self) -> float:
        """To read the test texts."""
        return self.state_seconds.get("test", 0.0)


@dataclass(frozen=True)
class Outcome:
    """What a method answered for the test rows, and what that took."""

    method: str
    scores: NDArray[np.float64]
    """n × C, larger is likelier; comparable within a row only."""
    probabilities: NDArray[np.float64] | None
    """n × C with rows that sum to 1; None where the method has none to give."""
    seconds_train: float
    """To read, index or fit, on the clock."""
    seconds_infer: float
    """To read and decide the test rows, on the clock."""
    stored_bytes: int
    """What has to be kept beside the model to answer: an index, weights, demonstrations."""
    peak_bytes: int = 0
    """Peak memory of the process during the method beyond what it held before."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was used or chosen, such as {"k": 3}."""
    notes: tuple[str, ...] = ()
    """Sentences on how it went, such as what did not fit."""
    untaught: NDArray[np.int64] | None = None
    """What each set of untaught words answers (k × n); None where a method reads by no words."""

    def __post_init__(self) -> None:
        if not bool(np.isfinite(self.scores).all()):
            raise NonFiniteError(
                f"the method {self.method} gave scores that are not finite; the model's states or"
                " the training went wrong."
            )

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The likeliest class of each row (n); of equal ones the first."""
        best: NDArray[np.int64] = self.scores.argmax(axis=1).astype(np.int64)
        return best

    def to_dict(self) -> dict[str, Any]:
        """Without the scores of the rows."""
        return {
            "method": self.method,
            "rows": len(self.scores),
            "seconds_train": self.seconds_train,
            "seconds_infer": self.seconds_infer,
            "peak_bytes": self.peak_bytes,
            "stored_bytes": self.stored_bytes,
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    """Short and stable, such as ``knn-prompting``."""
    title: str
    """For people."""
    needs: Needs
    """The dearest thing that it needs: states, prompts of its own, or gradients."""
    kind: Kind
    """Its group in the tables."""
    source: str
    """Where it is from."""
    run: Callable[[MethodContext], Steps[Outcome]] = field(repr=False)
    """Fit on the training rows and answer for the test rows."""


class Stopwatch:
    """Seconds of the two parts, without the time in which others had the device."""

    def __init__(self, train: float = 0.0, infer: float = 0.0, *, clock: Clock = "wall") -> None:
        self.train, self.infer = train, infer
        self._now = CLOCKS[clock]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Count what is done inside as training; nothing inside may yield."""
        begin = self._now()
        yield
        self.train += self._now() - begin

    @contextmanager
    def inferring(self) -> Iterator[None]:
        """Count what is done inside as inference; nothing inside may yield."""
        begin = self._now()
        yield
        self.infer += self._now() - begin


def timed(steps: Steps[T], clock: Clock = "wall") -> Steps[tuple[T, float]]:
    """The same work, and the seconds that it took itself.

    What passes between two steps, while somebody else has the device, is not counted.
    """
    spent, now = 0.0, CLOCKS[clock]
    try:
        while True:
            begin = now()
            try:
                progress = next(steps)
            except StopIteration as end:
                return end.value, spent + now() - begin
            spent += now() - begin
            yield progress
    finally:
        steps.close()


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows to probabilities, float64 (n × C)."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    out: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return out
