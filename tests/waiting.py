"""How a test waits: for something that comes true, never for a time; and a clock moved by hand.

How fast the machine is decides about no test. What takes long makes a test slow and not red, and
what depends on a time (a deadline, a heartbeat) is shown that time by a :class:`Clock`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeVar

import pytest

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds after which a wait gives up; only what hangs takes so long."""


def until(condition: Callable[[], T], why: Callable[[], object] = lambda: "") -> T:
    """Wait for a condition that will come true, and return what it says then.

    Args:
        condition: asked again and again.
        why: what the failure shows where it stays untrue for `PATIENCE` seconds.
    """
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"it did not come true: {why()}"
        time.sleep(0.005)
    return found


class Clock:
    """Monotonic seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The seconds so far."""
        return self.now

    def stand_in(self, patch: pytest.MonkeyPatch, module: str) -> None:
        """Be the clock of a module that reads it as ``time.monotonic()`` or ``time.time()``."""
        patch.setattr(f"{module}.time", SimpleNamespace(monotonic=self, time=self))
