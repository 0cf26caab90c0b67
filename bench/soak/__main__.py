"""`python -m bench.soak`: run the parts, print their tables, write the report of the day.

python -m bench.soak                         every part
python -m bench.soak load memory             some parts
python -m bench.soak load --minutes 30       each of them about so long
python -m bench.soak --missing               the parts that have not been run today

A part takes at most about ten minutes by default. What it finds is kept under build/soak, so that
the report in bench/results holds every part that was run on the day, however they were started.
The exit status is 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> int:
    """Parse, run, print, write."""
    from bench.report import Section
    from bench.soak.audit import audit
    from bench.soak.load import load
    from bench.soak.memory import memory
    from bench.soak.report import keep, kept, load_now, write
    from bench.soak.start import start
    from bench.soak.suites import SUITES, suite
    from bench.soak.viewers import viewers

    parts: dict[str, Callable[[float | None], Section]] = {
        "start": start,
        "load": load,
        "viewers": viewers,
        "memory": memory,
        **{name: partial(suite, name) for name in SUITES},
        "audit": audit,
    }
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"some of {', '.join(parts)}")
    parser.add_argument("--minutes", type=float, help="about how long each part takes")
    parser.add_argument("--missing", action="store_true", help="only what was not run today")
    parser.add_argument("--no-file", action="store_true", help="print only, keep nothing")
    given = parser.parse_args()
    unknown = [name for name in given.parts if name not in parts]
    if unknown:
        parser.error(f"a part is one of {', '.join(parts)}; got {', '.join(unknown)}")
    if given.minutes is not None and not 0 < given.minutes <= 24 * 60:
        parser.error(f"--minutes is more than 0 and at most a day; got {given.minutes}")
    # So that a run that is stopped ends its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    broken = []
    for name in given.parts or parts:
        if given.missing and kept(name) is not None:
            continue
        before, began = load_now(), time.perf_counter()
        try:
            section = parts[name](given.minutes)
        except Exception:  # the other parts are still worth their time
            traceback.print_exc()
            broken.append(f"{name}: it could not be run")
            continue
        section.seconds = time.perf_counter() - began
        if not given.no_file:
            keep(name, section, before)
        print(section.text(), flush=True)
        broken += [f"{name}: {goal.text}: {goal.verdict}" for goal in section.goals if not goal.met]
    if not given.no_file:
        print(f"written: bench/results/{write(tuple(parts)).name}")
    for one in broken:
        print(f"BROKEN {one}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
