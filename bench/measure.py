"""Timing in turns, and peak memory. Needs only torch, so that the peers' child can use it too."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import math
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Work = Callable[[], object]
_LIBC = ctypes.CDLL(ctypes.util.find_library("c") or None)


@dataclass
class Timing:
    """Rounds of one thing."""

    wall: list[float] = field(default_factory=list)
    """Seconds on the clock, a number per round."""
    cpu: list[float] = field(default_factory=list)
    """Processor seconds of all threads of the process, a number per round."""

    @property
    def best(self) -> float:
        """The quickest round: nearest to a machine with nothing else to do."""
        return min(self.wall)

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    @property
    def best_cpu(self) -> float:
        return min(self.cpu)


@dataclass(frozen=True)
class Ratio:
    """One thing's time over another's."""

    best: float
    """Quickest round over quickest round."""
    median: float
    """Median over rounds of the ratio within a round, whose sides ran one after the other."""
    cpu: float
    """Least processor time over least processor time."""


def clocked(work: Work) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def race(works: Mapping[str, Work], rounds: int, *, warm: bool = True) -> dict[str, Timing]:
    """Time several things in turn, the same number of rounds each.

    Args:
        works: by name.
        rounds: how often each runs.
        warm: run each once before, untimed.
    """
    if warm:
        for work in works.values():
            work()
    out = {name: Timing() for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            wall, cpu = clocked(work)
            out[name].wall.append(wall)
            out[name].cpu.append(cpu)
    return out


def added(*timings: tuple[float, Timing]) -> Timing:
    """Σ factor × timing, round by round."""
    return Timing(
        [sum(f * w for (f, _), w in zip(timings, row, strict=True)) for row in _rows(timings, 0)],
        [sum(f * c for (f, _), c in zip(timings, row, strict=True)) for row in _rows(timings, 1)],
    )


def _rows(timings: tuple[tuple[float, Timing], ...], which: int) -> list[tuple[float, ...]]:
    lists = [t.cpu if which else t.wall for _, t in timings]
    return list(zip(*lists, strict=True))


def ratio(a: Timing, b: Timing) -> Ratio:
    """How many times the time of b does a take?"""
    pairs = [x / y for x, y in zip(a.wall, b.wall, strict=False)]
    return Ratio(a.best / b.best, statistics.median(pairs), a.best_cpu / b.best_cpu)


def extra_bytes(work: Work) -> int:
    """Peak resident memory of one call beyond what the process held before it.

    The kernel's high-water mark, reset before; where there is none (not Linux), the resident size
    is sampled every millisecond.
    """
    gc.collect()
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _sampled(work)
    before = _status("VmRSS")
    held = work()
    peak = _status("VmHWM")
    del held
    return max(0, peak - before)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in /proc/self/status")


def _sampled(work: Work) -> int:
    import psutil

    process, done = psutil.Process(), threading.Event()
    peak: list[int] = [0]

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], process.memory_info().rss)

    before = int(process.memory_info().rss)
    thread = threading.Thread(target=watch)
    thread.start()
    held = work()
    done.set()
    thread.join()
    del held
    return max(0, peak[0] - before)


def exponent(sizes: list[float], values: list[float]) -> tuple[float, float]:
    """Slope of log value over log size by least squares, and r²."""
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    if len(x) < 2:
        return math.nan, math.nan
    slope, intercept = statistics.linear_regression(x, y)
    mean = statistics.fmean(y)
    total = sum((v - mean) ** 2 for v in y)
    left = sum((v - intercept - slope * u) ** 2 for u, v in zip(x, y, strict=True))
    return slope, 1 - left / total if total > 0 else math.nan
