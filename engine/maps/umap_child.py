"""The process that runs UMAP: read a job per line, write where it is, line by line.

Run as a file, never imported by the engine. Compiling UMAP takes tens of seconds the first time,
and its threads may abort a process that uses them twice at once, so it has one of its own, which
can be ended. What was compiled is kept where numba keeps such things (`NUMBA_CACHE_DIR`).

A job is a line of JSON on standard input::

    {"points": "in.npy", "out": "out.npz", "dims": 2, "neighbours": 15, "min_dist": 0.1, "seed": 0,
     "epochs": 500, "exact": true, "draft": "draft.npy"}

for a layout, or ``{"points": "in.npy", "out": "out.npz", "regions": "places.npy"}`` for the regions
of one. The answers are lines of JSON on standard output: ``{"stage": …, "done": …, "total": …}``
while it runs (with ``"draft": true`` where the places as they are by now were written), then
``{"finished": true}`` or ``{"error": …}``.
"""

from __future__ import annotations

import functools
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
    """What the progress bar of UMAP writes to: ``12/500`` and the like.

    Args:
        draft: where the places are kept as they are by now.
    """

    def __init__(self, draft: str) -> None:
        self.draft = draft

    def write(self, text: str) -> None:
        """Pass on where the optimisation is."""
        done, slash, total = text.strip().partition("/")
        if slash and done.isdigit() and total.isdigit():
            drawn = self._sketch()
            say(stage="placing points", done=int(done), total=int(total), draft=drawn)

    def _sketch(self) -> bool:
        """Keep the places that UMAP is at work on: a variable of the loop whose bar this is."""
        frame: Any = sys._getframe()
        while frame is not None and "head_embedding" not in frame.f_locals:
            frame = frame.f_back
        if frame is None:
            return False
        keep(self.draft, frame.f_locals["head_embedding"])
        return True

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


def keep(path: str, places: Any) -> None:
    """Write an array so that a reader finds it whole."""
    import numpy as np

    aside = Path(path + ".part.npy")
    np.save(aside, np.ascontiguousarray(places, dtype=np.float32), allow_pickle=False)
    aside.replace(path)


SHARES = (125, 400, 1200)
"""A region of a level has at least one of so many of the points."""
LEAST = 8
"""And no fewer points than that."""
CENTRAL = 24
"""Points nearest to the middle of a region that are listed."""


def find_regions(places: Any, x: Any) -> tuple[Any, Any]:
    """Dense parts of a layout at several levels, the coarsest first, by HDBSCAN on the picture.

    Args:
        places: n × dims.
        x: the points that were laid out (n × d).

    Returns:
        The region of each point at each level, −1 for none (levels × n), regions counted through
        all levels; and of each region the points nearest to its mean in `x`, the nearest first and
        −1 behind them (regions × `CENTRAL`).
    """
    import numpy as np
    from sklearn.cluster import HDBSCAN

    n = len(places)
    sizes = sorted({max(LEAST, n // share) for share in SHARES}, reverse=True)
    labels = np.full((len(sizes), n), -1, dtype=np.int32)
    central: list[Any] = []
    for level, size in enumerate(sizes):
        say(stage="finding regions", done=level, total=len(sizes))
        found = HDBSCAN(
            min_cluster_size=size, min_samples=min(10, size), cluster_selection_method="leaf",
            copy=True,
        ).fit(places).labels_  # fmt: skip
        labels[level] = np.where(found >= 0, found + len(central), -1)
        for region in range(found.max() + 1):
            members = np.flatnonzero(found == region)
            away = np.linalg.norm(x[members] - x[members].mean(axis=0), axis=1)
            nearest = members[np.argsort(away, kind="stable")[:CENTRAL]]
            central.append(np.pad(nearest, (0, CENTRAL - len(nearest)), constant_values=-1))
    return labels, np.array(central, dtype=np.int32).reshape(-1, CENTRAL)


def work(job: dict[str, Any]) -> None:
    """Do one job and write what it gives."""
    import numpy as np

    if "regions" in job:
        places, x = (np.load(job[one], allow_pickle=False) for one in ("regions", "points"))
        labels, central = find_regions(places, x)
        found = {"labels": labels, "central": central}
    else:
        found = {"coordinates": fit(job)}
    aside = Path(job["out"] + ".part.npz")
    np.savez(aside, allow_pickle=False, **found)
    aside.replace(job["out"])


def fit(job: dict[str, Any]) -> Any:
    """The coordinates of a layout (n × dims, float32)."""
    import numpy as np

    say(stage="starting UMAP", done=0, total=0)
    import numba

    # UMAP itself keeps nothing that it compiled.
    vars(numba)["njit"] = functools.partial(numba.njit, cache=True)
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
            "file": Epochs(job["draft"]),
            "disable": False,
            "bar_format": "{n_fmt}/{total_fmt}",
            "mininterval": 0.2,
        },
        **extra,
    )
    return np.ascontiguousarray(reducer.fit_transform(x), dtype=np.float32)


def main() -> None:
    """Serve jobs until standard input ends."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    for line in sys.stdin:
        try:
            work(json.loads(line))
        except Exception as error:
            say(error=f"{type(error).__name__}: {error}")
        else:
            say(finished=True)


if __name__ == "__main__":
    main()
