"""The process that runs UMAP, seen from here: started, fed, watched, ended.

One layout runs at a time. The process is kept warm between layouts, since compiling UMAP takes
longer than most layouts, and is ended when it has had nothing to do for ten minutes.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout

from engine.errors import WorkError, shorten
from engine.maps.arrays import Floats, Ints
from engine.progress import Progress, Steps

EXACT: Final = 40_000
"""Up to so many points every pair is compared."""
_IDLE: Final = 600.0
"""Seconds after which a process that has nothing to do is ended."""
_POLL: Final = 0.1


@dataclass(frozen=True)
class UmapProblem:
    """What UMAP is to lay out; everything it needs, without the model."""

    fingerprint: str
    """Of the map: settings, model, versions."""
    points: Floats
    """Unit vectors on their principal axes (n × axes)."""
    variance: float
    """Share of the unit vectors' variance that those axes hold, in [0, 1]."""
    dims: int
    neighbours: int
    min_dist: float
    seed: int

    @property
    def epochs(self) -> int:
        """UMAP's own choice by size."""
        return 500 if len(self.points) <= 10_000 else 200

    @property
    def exact(self) -> bool:
        """Whether every pair of points is compared for the nearest neighbours."""
        return len(self.points) <= EXACT


class UmapProcess:
    """The process that runs UMAP: started when first needed, kept warm, ended when idle.

    One layout runs at a time, within this process by a lock and between processes by a lock file
    in `folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._lock = threading.Lock()
        # Any thread may drive a layout, and another may close it.
        self._between: BaseFileLock | None = None
        if folder is not None:
            self._between = FileLock(folder / "umap.lock", thread_local=False)
        self._child: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._timer: threading.Timer | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there (at work or waiting)."""
        return self._child is not None and self._child.poll() is None

    def layout(
        self, problem: UmapProblem, *, note: str = "", watch: Callable[[Floats], None] | None = None
    ) -> Steps[Floats]:
        """Lay one problem out. Closing the generator ends the process and so the work.

        Args:
            watch: is given the places as they are by now (n × dims), now and then.

        Raises:
            WorkError: the process failed; the message says how.
        """
        job = {
            "dims": problem.dims,
            "neighbours": problem.neighbours,
            "min_dist": problem.min_dist,
            "seed": problem.seed,
            "epochs": problem.epochs,
            "exact": problem.exact,
        }
        found = yield from self._work({"points": problem.points}, job, note, watch)
        layout: Floats = found["coordinates"]
        if layout.shape != (len(problem.points), problem.dims) or not np.isfinite(layout).all():
            raise WorkError("UMAP gave no usable coordinates; choose another seed or min_dist.")
        return layout

    def regions(self, problem: UmapProblem, coordinates: Floats) -> Steps[tuple[Ints, Ints]]:
        """The dense parts of a layout: see ``find_regions`` of the process.

        Args:
            problem: that was laid out.
            coordinates: its layout (n × dims).
        """
        arrays = {"points": problem.points, "regions": coordinates}
        found = yield from self._work(arrays, {}, "", None)
        return found["labels"], found["central"]

    def _work(
        self,
        arrays: Mapping[str, Floats],
        job: Mapping[str, Any],
        note: str,
        watch: Callable[[Floats], None] | None,
    ) -> Steps[dict[str, Any]]:
        """One job of the process: arrays go there as files, and come back as one."""
        yield Progress(0, 0, f"{note}waiting for another layout to end")
        while not self._lock.acquire(timeout=_POLL):
            yield Progress(0, 0, f"{note}waiting for another layout to end")
        finished = False
        try:
            with contextlib.ExitStack() as stack:
                if self._between is not None:
                    stack.callback(self._between.release)
                    while not _take(self._between):
                        time.sleep(_POLL)
                        yield Progress(0, 0, f"{note}waiting for another program's layout to end")
                room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lexiscope-")))
                self._send(arrays, job, room)
                yield from self._watch(note, room / "draft.npy", watch)
                with np.load(room / "out.npz", allow_pickle=False) as file:
                    found = {name: file[name] for name in file.files}
                finished = True
        finally:
            if finished:
                self._rest()
            else:
                self.close()
            self._lock.release()
        return found

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._timer is not None:
            self._timer.cancel()
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _send(self, arrays: Mapping[str, Floats], job: Mapping[str, Any], room: Path) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.running:
            self.close()
            self._start()
        files = {name: str(room / f"{name}.npy") for name in arrays}
        for name, array in arrays.items():
            np.save(files[name], array, allow_pickle=False)
        job = {**job, **files, "out": str(room / "out.npz"), "draft": str(room / "draft.npy")}
        assert self._child is not None
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(job) + "\n")
            self._child.stdin.flush()
        except OSError:
            raise WorkError("the process that runs UMAP ended by itself; try again.") from None

    def _start(self) -> None:
        self._lines = queue.Queue()
        self._child = subprocess.Popen(  # nosec B603  # our own file, a list, no shell
            [sys.executable, "-P", str(Path(__file__).with_name("umap_child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(
            target=_read, args=(self._child.stdout, self._lines), name="umap-reader", daemon=True
        ).start()

    def _watch(
        self, note: str, draft: Path, watch: Callable[[Floats], None] | None
    ) -> Iterator[Progress]:
        """Pass on what the process says until it is done."""
        latest = Progress(0, 0, f"{note}starting UMAP")
        while True:
            try:
                line = self._lines.get(timeout=_POLL)
            except queue.Empty:
                yield latest
                continue
            if line is None:
                raise WorkError(
                    "the process that runs UMAP ended by itself (out of memory?); try fewer points."
                )
            try:
                said: dict[str, Any] = json.loads(line)
            except ValueError:
                continue  # a library's own words
            if said.get("finished"):
                return
            if "error" in said:
                raise WorkError(f"UMAP failed ({shorten(str(said['error']), 160)}).")
            if watch is not None and said.get("draft"):
                watch(np.load(draft, allow_pickle=False))
            latest = Progress(
                int(said.get("done", 0)), int(said.get("total", 0)), note + str(said.get("stage"))
            )
            yield latest

    def _rest(self) -> None:
        self._timer = threading.Timer(_IDLE, self._end_idle)
        self._timer.daemon = True
        self._timer.start()

    def _end_idle(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self.close()
            finally:
                self._lock.release()


def _read(stream: Any, lines: queue.Queue[str | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in stream:
            lines.put(line)
    lines.put(None)


def _take(lock: BaseFileLock) -> bool:
    """Whether the lock is ours now; where files cannot be locked it always is."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except (OSError, NotImplementedError):
        return True
    return True
