"""Whether a reading stays within the memory it was given, whatever the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from bench.measure import extra_bytes
from bench.report import MIB, Goal, Section, mib
from bench.setting import Bench, K
from engine.frames.frame import Frame
from engine.reading.read import Reading, read
from engine.reading.regions import borders
from engine.reading.similarity import divergence

BUDGETS = (64, 256)
VOCABULARY = (50_000, 150_000)


@torch.no_grad()
def memory(bench: Bench) -> Section:
    """Peak resident bytes beyond what was held before."""
    out = Section(
        "Memory of a reading against its budget",
        f"Peak extra resident memory of one call for {bench.setting.states} states by three"
        f" geometries, top-{K}, ranks; the larger of two calls. All scores written out would be"
        " 4·states·v bytes per geometry.",
        ("what", "v", "budget MiB", "extra MiB", "of budget", "all scores MiB"),
    )
    worst = 0.0
    for v in VOCABULARY:
        frame = _head(v, bench.setting.width, bench.setting.seed)
        for budget in BUDGETS:
            targets = torch.zeros(bench.setting.states, 1, dtype=torch.long)
            size = budget * MIB
            near = read(frame, bench.flat[:64], geometries=("cosine",), k=32)["cosine"]
            works: dict[str, Callable[[], object]] = {
                "read": partial(read, frame, bench.flat, k=K, targets=targets, budget_bytes=size),
                "KL": partial(
                    divergence,
                    frame,
                    bench.flat.view(bench.setting.layers + 1, bench.setting.tokens, -1),
                    bench.last,
                    budget_bytes=size,
                ),
                "borders": partial(
                    borders,
                    frame,
                    bench.flat[:64].repeat(bench.setting.states // 64, 1),
                    near.ids[:, 0].repeat(bench.setting.states // 64),
                    "cosine",
                    near=_repeated(near, bench.setting.states // 64),
                    budget_bytes=size,
                ),
            }
            for name, work in works.items():
                if name != "read" and (v != VOCABULARY[-1] or budget != BUDGETS[0]):
                    continue
                extra = max(extra_bytes(work) for _ in range(2 if name == "read" else 1))
                share = extra / size
                worst = max(worst, share) if name == "read" else worst
                out.add(
                    name,
                    f"{v:,}",
                    str(budget),
                    mib(extra),
                    f"{share:.2f}",
                    mib(4 * v * bench.setting.states),
                )
        del frame
    out.goals.append(Goal("largest share of its budget that `read` took", worst, 1.0))
    return out


def _repeated(near: Reading, times: int) -> Reading:
    """The same lists for so many copies of the states."""
    return replace(near, ids=near.ids.repeat(times, 1), scores=near.scores.repeat(times, 1))


def _head(v: int, d: int, seed: int) -> Frame:
    """Random rows as a frame of their own."""
    rows = torch.randn(v, d, generator=torch.Generator().manual_seed(seed))
    return Frame("head", rows, None, rows.norm(dim=1), rows.double().mean(0))
