"""The process that runs UMAP: read a job per line, write where it is, line by line.

Run as a file, never imported by the engine. Compiling UMAP takes tens of seconds and its threads
may abort a process that uses them twice at once, so it has one of its own, which can be ended.

A job is a line of JSON on standard input::

    {"points": "in.npy", "out": "out.npy", "dims": 2, "neighbours": 15, "min_dist": 0.1, "seed": 0,
     "epochs": 500, "exact": true}

and the answers are lines of JSON on standard output: ``{"stage": …, "done": …, "total": …}`` while
it runs, then ``{"finished": true}`` or ``{"error": …}``.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any


def say(**what: Any) -> None:
    """Write one line to whoever reads."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Epochs:
    """What the progress bar of UMAP writes to: ``12/500`` and the like."""

    def write(self, text: str) -> None:
        """Pass on where the optimisation is."""
        done, slash, total = text.strip().partition("/")
        if slash and done.isdigit() and total.isdigit():
            say(stage="placing points", done=int(done), total=int(total))

    def flush(self) -> None:
        """Nothing is held back."""


def exact_neighbours(x: Any, k: int) -> tuple[Any, Any]:
    """Indices and Euclidean distances of the k nearest of each row, itself first."""
    import numpy as np

    n = len(x)
    ids = np.empty((n, k), dtype=np.int32)
    distances = np.empty((n, k), dtype=np.float32)
    half = (x * x).sum(axis=1) / 2
    step = max(1, min(1024, 2**25 // n))
    for start in range(0, n, step):
        stop = min(start + step, n)
        block = half - x[start:stop] @ x.T  # the row's own ‖a‖²/2 does not change the order
        block[np.arange(stop - start), np.arange(start, stop)] = -np.inf  # itself first
        near = np.argpartition(block, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(block, near, axis=1), axis=1, kind="stable")
        near = np.take_along_axis(near, order, axis=1)
        ids[start:stop] = near
        distances[start:stop] = np.linalg.norm(x[near] - x[start:stop, None], axis=2)
        say(stage="finding neighbours", done=stop, total=n)
    return ids, distances


def fit(job: dict[str, Any]) -> None:
    """Do one job and write its coordinates."""
    import numpy as np

    say(stage="starting UMAP", done=0, total=0)
    import umap

    x = np.load(job["points"], allow_pickle=False)
    k = min(int(job["neighbours"]), len(x) - 1)
    known = exact_neighbours(x, k) if job["exact"] else None
    say(stage="building the graph", done=0, total=0)
    extra = {} if known is None else {"precomputed_knn": (known[0], known[1], None)}
    reducer = umap.UMAP(
        n_components=int(job["dims"]),
        n_neighbors=k,
        min_dist=float(job["min_dist"]),
        metric="euclidean",
        init="pca",
        random_state=int(job["seed"]),
        n_jobs=1,
        n_epochs=int(job["epochs"]),
        # Below 4,096 rows UMAP would compare all pairs by a Python function, at ten times the cost.
        force_approximation_algorithm=True,
        tqdm_kwds={
            "file": Epochs(),
            "disable": False,
            "bar_format": "{n_fmt}/{total_fmt}",
            "mininterval": 0.2,
        },
        **extra,
    )
    out = np.ascontiguousarray(reducer.fit_transform(x), dtype=np.float32)
    aside = Path(job["out"] + ".part.npy")
    np.save(aside, out, allow_pickle=False)
    aside.replace(job["out"])


def main() -> None:
    """Serve jobs until standard input ends."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    for line in sys.stdin:
        try:
            fit(json.loads(line))
        except Exception as error:
            say(error=f"{type(error).__name__}: {error}")
        else:
            say(finished=True)


if __name__ == "__main__":
    main()
