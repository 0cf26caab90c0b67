"""Measure what semantic bases are for on a model that ships, so that nobody waits for it.

    python -m training.uses smollm2

Takes minutes, and writes ``engine/uses/measured/FINGERPRINT.json``. A second run goes on from the
parts that are in the cache.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import engine
from engine.uses.measure import PARTS, known_uses, measure_uses
from engine.uses.shipped import Made, Shipped, write_shipped

_PACKAGES = ("lexiscope", "torch", "transformers", "tokenizers", "numpy")


def make(model: str, threads: int, cache: Path) -> Path:
    """Measure all of it afresh.

    Args:
        model: as `engine.load` takes it.
        threads: of torch.
        cache: where each part is kept as it ends.
    """
    space = engine.load(model, device="cpu", threads=threads, cache_dir=cache)
    begin, said = time.process_time(), ""
    for step in measure_uses(space, again=True):
        if step.note != said:
            said = step.note
            print(said, file=sys.stderr, flush=True)
    found = known_uses(space)
    assert found.dial is not None
    assert found.doses is not None
    assert found.words is not None
    made = Made(
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        device="cpu",
        dtype=space.model.dtype,
        threads=threads,
        seconds=round(time.process_time() - begin, 1),
        versions={name: version(name) for name in _PACKAGES},
    )
    path = write_shipped(Shipped(found.model, made, found.dial, found.doses, found.words))
    print(f"{path}: {path.stat().st_size:,} bytes; {', '.join(PARTS)} in {made.seconds:.0f} s.")
    return path


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "uses")
    given = parser.parse_args()
    given.cache.mkdir(exist_ok=True)
    make(given.model, given.threads, given.cache)


if __name__ == "__main__":
    main()
