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
from bench.report import TIMES, Goal, Section, mib, times
from bench.setting import BUDGET, Bench, K, scratch_folder
from engine.reading.geometries import GEOMETRIES
from engine.reading.read import read

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).with_name("peers.txt")
PLACE = ROOT / "build" / "bench-venv"
JUDGED = (
    "tuned-lens: trajectory, entropy, rank",
    "TransformerLens: recipe, top-k, entropy, rank",
    "plain implementation, all logits",
)
"""Those that keep every score and give what ours gives; the plain one only where a peer did not."""


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
        " geometry, the matrix product with the head. × is a line's time over ours with"
        " three geometries: above 1, ours is quicker.",
        (*TIMES, "extra MiB", "× memory"),
    )

    def ours(frame: str = "output", geometries: tuple[str, ...] = GEOMETRIES) -> object:
        states = bench.model.read_out(bench.raw.raw).reshape(-1, bench.setting.width)
        return read(
            bench.space.frame(frame),
            states,
            geometries=geometries,
            k=K,
            targets=bench.targets,
            budget_bytes=BUDGET,
        )

    def alike() -> object:
        return ours("head", ("matmul",))

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
        own, one, floor = Timing(), Timing(), Timing()
        ours()
        alike()
        for _ in range(max(2, bench.setting.rounds // 2 + 1)):
            for work, timing in ((ours, own), (alike, one), (bench.product, floor)):
                wall, cpu = clocked(work)
                timing.wall.append(wall)
                timing.cpu.append(cpu)
            for peer in works:
                answer = child.ask(peer, "time")
                timings[peer].wall.append(answer["wall"])
                timings[peer].cpu.append(answer["cpu"])
        memory = {peer: int(child.ask(peer, "memory")["bytes"]) for peer in works}
        child.close()
    need, less = extra_bytes(ours), extra_bytes(alike)
    out.add("ours: three geometries, output frame", *times(own), mib(need), "1")
    out.add(
        "ours: matmul on the head, as the peers read",
        *times(one, ratio(one, own)),
        mib(less),
        f"{less / need:.1f}",
    )
    out.add(
        "one matrix product, the floor of any exact one",
        *times(floor, ratio(floor, own)),
        "",
        "",
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
    for peer in judged:
        out.notes.append(
            f"like for like (matmul on the head only): {peer} ÷ ours"
            f" {ratio(timings[peer], one).best:.1f} in time (processor"
            f" {ratio(timings[peer], one).cpu:.1f}), {memory[peer] / less:.1f} in memory"
        )
    for peer, why in child.offer["errors"].items():
        out.notes.append(f"{peer} could not be run: {_clean(str(why))}")
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
