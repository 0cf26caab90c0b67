"""Make the atlas of a model that ships: the UMAP of all its bases, with regions and quality.

    python -m training.atlas smollm2

Takes minutes on two cores, and writes ``engine/maps/atlases/FINGERPRINT.npz``. UMAP on another
machine gives another picture of the same quality.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import engine
from engine.maps import MapMaker
from engine.maps.atlas import FOLDER, OPTIONS, quantised, write_atlas
from engine.maps.quality import measure_quality
from engine.progress import Progress, drain, relabelled
from engine.trace.compute import model_info

LARGEST = 500_000
"""Bytes of an atlas at most."""


def make(model: str, threads: int, cache: Path) -> Path:
    """Make the atlas of a model and say how true it is.

    Args:
        model: as `engine.load` takes it.
        threads: of torch.
        cache: where a finished layout is kept, so that a second run goes on from it.
    """
    space = engine.load(model, device="cpu", threads=threads)
    with closing(MapMaker(space, cache_dir=cache)) as maps:
        options = maps.resolve(OPTIONS)
        problem = maps.umap_problem(options)
        result = drain(relabelled(maps.reduce(problem), _teller()))
        places = quantised(result.coordinates)[2]
        quality = measure_quality(maps.vectors(options), places, seed=options.seed)
    info = asdict(model_info(space.model))
    path = FOLDER / f"{space.model.fingerprint}.npz"
    FOLDER.mkdir(exist_ok=True)
    named = {name: info[name] for name in ("name", "revision", "fingerprint")}
    write_atlas(path, named, options, result, quality)
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes. {quality.sentence} Noise floor {result.noise_floor:.2f}.")
    if size > LARGEST:
        raise SystemExit(f"an atlas may have {LARGEST:,} bytes.")
    return path


def _teller() -> Callable[[Progress], Progress]:
    """Passes reports of work on, and prints each new part of it."""
    said = [""]

    def tell(step: Progress) -> Progress:
        if step.note != said[0]:
            said[0] = step.note
            print(step.note, file=sys.stderr, flush=True)
        return step

    return tell


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "atlas")
    given = parser.parse_args()
    given.cache.mkdir(exist_ok=True)
    make(given.model, given.threads, given.cache)


if __name__ == "__main__":
    main()
