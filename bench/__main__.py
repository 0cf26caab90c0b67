"""`python -m bench`: run the sections, print the report, write it to bench/results.

python -m bench                         everything
python -m bench --only bases,readings   some sections
python -m bench --quick                 fewer rounds
python -m bench --threads 1             one thread: steadier where other work shares the machine
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Idle OpenMP threads sleep at a barrier. Where other work shares the cores, spinning ones keep the
# core from the thread that they wait for, and every time below would be that of the scheduler.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

RESULTS = Path(__file__).with_name("results")
NAMES = ("smollm2", "trace", "readings", "generate", "peers", "memory", "growth", "cost", "bases",
         "maps", "maps-browser", "calibration", "acting")  # fmt: skip


def main() -> int:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", default="", help=f"some of {','.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="two rounds instead of five")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each timing")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--no-file", action="store_true", help="print only")
    given = parser.parse_args()
    chosen = [n.strip() for n in given.only.split(",") if n.strip()] or list(NAMES)
    unknown = [n for n in chosen if n not in NAMES]
    if unknown:
        parser.error(f"--only takes {', '.join(NAMES)}; got {', '.join(unknown)}")
    # SciPy's BLAS has threads of its own, counted when it is first imported.
    os.environ["OPENBLAS_NUM_THREADS"] = str(given.threads)
    return _run(chosen, given)


def _run(chosen: list[str], given: argparse.Namespace) -> int:
    import torch

    from bench.acting import acting
    from bench.bases import bases
    from bench.browser_maps import maps_in_the_browser
    from bench.calibration import calibration
    from bench.foretold import foretold
    from bench.generate import generate
    from bench.growth import growth
    from bench.maps import maps
    from bench.memory import memory
    from bench.peers import peers
    from bench.report import Section, write
    from bench.setting import Bench, Setting
    from bench.smollm2 import smollm2
    from bench.speed import readings, trace

    sections: dict[str, Callable[[Bench], Section]] = {
        "smollm2": lambda bench: smollm2(bench.setting),
        "trace": trace,
        "readings": readings,
        "generate": lambda bench: generate(bench.setting),
        "peers": peers,
        "memory": memory,
        "growth": growth,
        "cost": foretold,
        "bases": lambda bench: bases(bench.setting),
        "maps": lambda bench: maps(bench.setting),
        "maps-browser": lambda _: maps_in_the_browser(),
        "calibration": lambda bench: calibration(bench.setting),
        "acting": lambda bench: acting(bench.setting),
    }
    torch.set_num_threads(given.threads)
    setting = Setting(threads=given.threads, rounds=given.rounds or (2 if given.quick else 5))
    loads = [os.getloadavg()[0]]
    print(f"setting: {setting.words()}; load {loads[0]:.1f}\n", flush=True)
    begin = time.perf_counter()
    bench = Bench(setting)
    done = []
    for name in chosen:
        start = time.perf_counter()
        section = sections[name](bench)
        section.seconds = time.perf_counter() - start
        section.notes.append(
            f"this section took {section.seconds:.0f} s, load {os.getloadavg()[0]:.1f}"
        )
        print(section.text(), flush=True)
        done.append(section)
    loads.append(os.getloadavg()[0])
    print(f"whole run: {time.perf_counter() - begin:.0f} s")
    if not given.no_file:
        theme = "all" if len(chosen) == len(NAMES) else "-".join(chosen)
        if given.threads != 2:
            theme += f"-threads{given.threads}"
        path = write(done, setting, theme, loads, RESULTS)
        print(f"written: bench/results/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
