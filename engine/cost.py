"""What a run will need, foretold from runs that were measured on this machine.

Time is modelled as non-negative combinations of what the work is made of (runs of the model, tokens
through it, states that are read, read again for words alone, and plain products, each times
vocabulary rows, states, and rows that are drawn), fitted by least squares on relative errors over
the latest runs; memory is counted from the sizes of what is held at once. Before any run there is a
short calibration at load.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from scipy.optimize import nnls

_KEPT = 48
clock: Callable[[], float] = time.perf_counter
"""What seconds are measured by: the wall clock; a bench on a busy machine takes another."""


@dataclass(frozen=True)
class Work:
    """The size of a run."""

    forward_tokens: int
    """Tokens through the model; 0 where the states are there already."""
    states: int
    """Layers × positions that are read."""
    vocabulary: int
    width: int
    layers: int
    tokens: int
    k: int
    budget_bytes: int
    products: int = 0
    """States that are multiplied with the vocabulary, and no more."""
    passes: float = 1.0
    """Runs of the model, of whose blocks a share counts as that share."""
    again: int = 0
    """States that are read once more, since words alone are listed."""
    drawn: int = 0
    """Rows that are drawn at random on the way, in passes over them that a tile of states takes."""
    made: int = 0
    """Bytes that a frame takes at its first use."""
    spans: int = 4
    """Copies of the listed vectors that are held at once for the walls of regions."""

    def features(self) -> tuple[float, ...]:
        """What time is made of."""
        return (
            self.passes,
            float(self.forward_tokens),
            float(self.states) * self.vocabulary * 1e-6,
            float(self.states),
            float(self.products) * self.vocabulary * 1e-6,
            float(self.again) * self.vocabulary * 1e-6,
            float(self.drawn) * self.vocabulary * self.width * 1e-6,
        )


@dataclass
class Measured:
    """Filled in when a run ends."""

    seconds: float = 0.0
    """On the clock."""
    bytes: int = 0
    busy: float = 0.0
    """Seconds in which the thread had a processor: what the run takes on an idle machine. 0 where
    an accelerator works meanwhile."""


@dataclass
class CostModel:
    """Learns what runs cost on this machine with this model."""

    _runs: deque[tuple[Work, Measured]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _pace: dict[str, float] = field(default_factory=dict)
    """Of a kind of long work: what its latest run took, over what was foretold."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, work: Work, measured: Measured) -> None:
        """Learn from a run."""
        with self._lock:
            self._runs.append((work, measured))

    def add_long(self, kind: str, work: Work, measured: Measured) -> None:
        """Learn from long work, whose parts are foretold from short runs: by its pace alone."""
        foretold = self.seconds(work)
        if foretold > 0:
            self._pace[kind] = (measured.busy or measured.seconds) / foretold

    def seconds(self, work: Work, kind: str = "") -> float:
        """Foretell how long a run takes on an idle machine.

        Args:
            work: its size.
            kind: of long work that may have run before (:meth:`add_long`).
        """
        with self._lock:
            runs = list(self._runs)
        if not runs:
            return 0.0
        x = np.array([w.features() for w, _ in runs])
        # What other programs took of the clock is no property of the work.
        y = np.array([max(m.busy or m.seconds, 1e-4) for _, m in runs])
        age = 0.97 ** np.arange(len(runs))[::-1]
        weights = (age / y)[:, None]
        coefficients, _ = nnls(x * weights, age)
        return float(np.dot(work.features(), coefficients)) * self._pace.get(kind, 1.0)

    def bytes(self, work: Work) -> int:
        """Foretell the peak memory of a run beyond what was held before it.

        States before and after the final norm, and the blocks of scores, which stop growing at
        the budget. Scaled by what the latest runs needed in truth.
        """
        counted = _count(work)
        with self._lock:
            ratios = [m.bytes / _count(w) for w, m in self._runs if m.bytes > 4 * 2**20]
        return int(counted * (float(np.median(ratios)) if ratios else 1.0))


def _count(work: Work) -> float:
    """Bytes that are held at once, counted from the sizes.

    The states before and after the final norm; then whichever is larger of the blocks of scores
    (:mod:`engine.reading.similarity` takes them in tiles) and the vectors of the nearest tokens,
    which are taken in steps of half the budget, or those of all layers' lists. A list shares about
    a quarter of its tokens with those beside it, and a tenth of them is distinct over all layers.
    """
    d, rows = work.width, work.states
    held = work.made + 4.0 * d * (4.0 * (work.layers + 1) * work.tokens + 10.0 * rows)
    blocks = 4.0 * 6 * min(work.vocabulary, 1024) * min(rows, 512)
    listed = max(work.k, 32)
    step = min(rows, work.budget_bytes / 2 / (28.0 * listed * d))
    near = (4.0 * work.spans + 1.5) * listed * d * step
    unique = min(20.0 * d * min(0.12 * rows * work.k, work.vocabulary), work.budget_bytes / 2)
    lists = 150.0 * rows * listed + 5.0 * work.again * min(work.vocabulary, 4096)
    return held + max(blocks, near, unique) + lists + 4 * 2**20


@contextmanager
def measured(device: torch.device) -> Iterator[Measured]:
    """Measure a run: seconds, and bytes of peak memory beyond what was held before.

    On CUDA the allocator's own peak; on Linux the kernel's high-water mark of this process, reset
    before the run; elsewhere the difference of the resident size.
    """
    out = Measured()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        give_memory_back()
        before = _reset_peak()
    try:
        with timed(device) as spent:
            yield out
    finally:
        out.seconds, out.busy = spent.seconds, spent.busy
        peak = torch.cuda.max_memory_allocated(device) if cuda else _peak()
        out.bytes = max(0, peak - before)


@contextmanager
def timed(device: torch.device) -> Iterator[Measured]:
    """Measure seconds alone, also within a run that is measured."""
    out = Measured()
    finish = partial(torch.cuda.synchronize, device) if device.type == "cuda" else int
    finish()
    begin, had = clock(), time.thread_time()
    try:
        yield out
    finally:
        finish()
        out.seconds = clock() - begin
        out.busy = time.thread_time() - had if device.type == "cpu" else 0.0


def give_memory_back() -> None:
    """Let the allocator return to the system what it holds unused."""
    gc.collect(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reset_peak() -> int:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return int(psutil.Process().memory_info().rss)


def _peak() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)


_LIBC = ctypes.CDLL(ctypes.util.find_library("c") or None)
