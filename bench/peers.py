"""Full-vocabulary lenses of other projects against our reading, on the same weights and states.

The peers live in an environment of their own under build/ and run as a child process, which
answers one measurement at a time, so that both sides run in turn.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import torch

from bench.measure import Timing, clocked, extra_bytes, ratio
from bench.report import MIB, TIMES, Goal, Section, mib, times
from bench.setting import BUDGET, Bench, K, scratch_folder
from engine.similarity import read

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).with_name("peers.txt")
PLACE = ROOT / "build" / "bench-venv"
LEAN = 32 * MIB
"""A smaller budget for our reading, on a line of its own."""
JUDGED = (
    "tuned-lens: trajectory, entropy",
    "TransformerLens: recipe, top-k, entropy, rank",
    "plain implementation, all logits",
)
"""Those that keep every score, as the goals mean; the plain one only where no peer ran."""


def prepare_environment() -> Path:
    """Create the peers' environment where it is not there, or where the pins have changed."""
    python = PLACE / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = PLACE / "peers.installed"
    wanted = PEERS.read_text() + (ROOT / "constraints.txt").read_text()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print("installing the peers into build/bench-venv", file=sys.stderr)
    if not python.exists():
        venv.create(PLACE, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    command += ["torch", "transformers", "-r", str(PEERS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"pip could not install the peers: {done.stderr.strip()[-300:]}")
    stamp.write_text(wanted)
    return python


class Child:
    """The peers' process."""

    def __init__(self, python: Path, folder: Path, threads: int) -> None:
        self._log = (folder / "child.log").open("w+")
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "WANDB_MODE": "disabled",
            "PYTHONPATH": str(ROOT),
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._process = subprocess.Popen(
            [str(python), "-m", "bench.peers_child", str(folder), str(threads), str(K)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
            cwd=folder,
        )
        self.offer = self._answer()

    def ask(self, name: str, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {what}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            last = [x for x in self._log.read().splitlines() if x.strip()][-1:]
            raise RuntimeError(f"the peers' process ended: {' '.join(last)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._log.close()


@torch.no_grad()
def peers(bench: Bench) -> Section:
    """Time and extra memory of the reading part: the states are there already."""
    out = Section(
        "Full-vocabulary lenses of other projects",
        "The reading part only, from states before the final norm. Ours: final norm, then three"
        f" geometries on the output frame, top-{K}, log-sum-exp, entropy, exact ranks. Theirs: one"
        " geometry, the matrix product with the head. × is ours over theirs, so theirs are"
        " greater than 1 where ours is quicker.",
        (*TIMES, "extra MiB", "× memory"),
    )

    def ours(budget: int = BUDGET) -> object:
        states = bench.model.read_out(bench.raw.raw).reshape(-1, bench.setting.width)
        return read(
            bench.space.frame("output"), states, k=K, targets=bench.targets, budget_bytes=budget
        )

    with scratch_folder() as name:
        folder = Path(name)
        bench.save(folder)
        try:
            child = Child(prepare_environment(), folder, bench.setting.threads)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            out.notes.append(f"no peer could be run: {_clean(str(error))}")
            child = Child(Path(sys.executable), folder, bench.setting.threads)
        works: list[str] = child.offer["works"]
        timings = {name: Timing() for name in works}
        own, lean = Timing(), Timing()
        ours()
        for _ in range(max(2, bench.setting.rounds // 2 + 1)):
            for budget, timing in ((BUDGET, own), (LEAN, lean)):
                wall, cpu = clocked(lambda budget=budget: ours(budget))  # type: ignore[misc]
                timing.wall.append(wall)
                timing.cpu.append(cpu)
            for peer in works:
                answer = child.ask(peer, "time")
                timings[peer].wall.append(answer["wall"])
                timings[peer].cpu.append(answer["cpu"])
        memory = {peer: int(child.ask(peer, "memory")["bytes"]) for peer in works}
        child.close()
    need, small = extra_bytes(ours), extra_bytes(lambda: ours(LEAN))
    label = f"ours, three geometries, budget {BUDGET // MIB} MiB"
    out.add(label, *times(own), mib(need), "1")
    out.add(
        f"ours, budget {LEAN // MIB} MiB",
        *times(lean, ratio(lean, own)),
        mib(small),
        f"{small / need:.2f}",
    )
    for peer in works:
        out.add(
            peer,
            *times(timings[peer], ratio(timings[peer], own)),
            mib(memory[peer]),
            f"{memory[peer] / need:.1f}",
        )
    judged = [p for p in JUDGED if p in works][:2]
    for peer in judged:
        slower = ratio(timings[peer], own)
        also = f"median {slower.median:.1f}, processor time {slower.cpu:.1f}"
        out.goals += [
            Goal(f"{peer} ÷ ours, time", slower.best, 3.0, at_least=True, also=also),
            Goal(f"{peer} ÷ ours, extra memory", memory[peer] / need, 20.0, at_least=True),
        ]
    for peer, error in child.offer["errors"].items():
        out.notes.append(f"{peer} could not be run: {_clean(str(error))}")
    pins = [x for x in PEERS.read_text().splitlines() if x and not x.startswith("#")]
    out.notes.append("pinned: " + ", ".join(pins))
    out.notes.append(
        "tuned-lens reads the blocks' inputs by its lens and takes the model's logits for the last"
        " layer as given; TransformerLens 4 reads rows in chunks and keeps no full logits"
    )
    return out


def _clean(text: str) -> str:
    """Without paths of this machine."""
    return re.sub(r"(/[\w.+-]+){2,}", "…", text.replace(str(ROOT), "")).strip()[:300]
