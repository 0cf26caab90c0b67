"""How work that takes long reports itself: a generator that yields where it is.

Cancel is ``close()``; clean-up stands in ``finally``; the result is what the generator returns. A
step is one batch, so that whoever drives the work can let others have the device in between.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

T = TypeVar("T")

Check = Callable[[], None]
"""What long work calls in its small steps; it raises to stop the work."""


def no_check() -> None:
    """The check of work that nobody can cancel."""


@dataclass(frozen=True)
class Progress:
    """Where a piece of work is."""

    done: int
    """Steps done, in [0, total]."""
    total: int
    """Steps in all; 0 where that is not known yet."""
    note: str = ""
    """What is being done, for people."""
    values: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Figures of this step, such as ``{"loss": 0.7}``."""
    part: str = ""
    """The part of a larger work that this is of, where that has several; see `engine.schedule`."""
    whole: float | None = None
    """The share of the larger work that is done, in [0, 1]; None where nothing larger is known."""
    left: float | None = None
    """Seconds that all of it will take from now on; None where that cannot be said."""

    @property
    def share(self) -> float | None:
        """The part that is done, in [0, 1]; None where the total is not known."""
        return min(1.0, self.done / self.total) if self.total > 0 else None


Steps = Generator[Progress, None, T]
"""Work under way: yields its progress, returns its result."""


def drain(steps: Generator[Any, None, T]) -> T:
    """Do all of the work at once and give its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def relabelled(steps: Steps[T], tell: Callable[[Progress], Progress]) -> Steps[T]:
    """The same work under another name: each report goes through `tell`, the result stays.

    Closing it closes the work.
    """
    try:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            yield tell(step)
    finally:
        steps.close()


def named(part: str, steps: Steps[T]) -> Steps[T]:
    """The same work, as a part of this name of a larger one that `engine.schedule` foretells."""
    return relabelled(steps, lambda step: replace(step, part=part))


def as_part(steps: Steps[T], done: int, total: int, note: str) -> Steps[T]:
    """The same work, reported as one part of a larger whole that is so far."""
    return relabelled(steps, lambda step: Progress(done, total, note, step.values))
