"""Semantic bases by the Gram matrix against `torch.linalg.pinv`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.measure import Timing, clocked, extra_bytes, race, ratio
from bench.report import TIMES, Goal, Section, mib, times
from bench.setting import Setting
from engine.frames.decomposition import decompose, gram
from engine.frames.kinds import build_frame
from engine.frames.kinds.kind import Source

SAMPLE = 512
"""Bases that are compared, evenly spaced."""


def ill_conditioned(setting: Setting) -> Tensor:
    """A head with column scales from 1 to 1/100 and a common mean of 0.5: condition ~10³."""
    generator = torch.Generator().manual_seed(setting.seed + 1)
    rows = torch.randn(setting.vocabulary, setting.width, generator=generator)
    return rows * torch.logspace(0, -2, setting.width) + 0.5


@torch.no_grad()
def bases(setting: Setting) -> Section:
    """Time, error, extra memory; and what the float32 call with its default cut-off loses."""
    head = ill_conditioned(setting)
    v, d = head.shape
    ids = torch.arange(0, v, max(1, v // SAMPLE))
    out = Section(
        "Bases against torch.linalg.pinv",
        f"`engine.frames.decomposition.decompose` of a {v:,} × {d} head (random, column"
        " scales 1 … 1/100,"
        " common mean 0.5), with leverage and norms of every basis, against the pseudo-inverse"
        " written out. Bases themselves are G⁻¹w_i and are made when asked for; a line below"
        f" makes all {v:,}.",
        (*TIMES, "error", "extra MiB"),
    )

    def all_bases() -> object:
        inverse = decompose(head).power(-1.0).float()
        return torch.cat([head[i : i + 8192] @ inverse for i in range(0, v, 8192)])

    def eigen() -> object:
        return torch.linalg.eigh(gram(head))

    # One call each before: their results are what is looked at. The float64 call takes so long
    # that it is timed there and then, between two timings of ours.
    decomposition = decompose(head)
    before = clocked(lambda: decompose(head))
    kept: list[Tensor] = []
    exact_time = Timing()

    def pseudo_inverse() -> None:
        """Timed where its memory is measured: once."""
        wall, cpu = clocked(lambda: kept.append(torch.linalg.pinv(head.double())))
        exact_time.wall.append(wall)
        exact_time.cpu.append(cpu)

    exact_bytes = extra_bytes(pseudo_inverse)
    after = clocked(lambda: decompose(head))
    exact = kept.pop()
    reference = exact[:, ids].T
    condition = float((decomposition.eigenvalues[0] / decomposition.eigenvalues[-1]).sqrt())
    rest = race(
        {
            "gram": lambda: gram(head),
            "eigen": eigen,
            "all": all_bases,
            "single": lambda: torch.linalg.pinv(head),
        },
        1 if setting.rounds < 4 else 2,
        warm=False,
    )
    ours = Timing([before[0], after[0]], [before[1], after[1]])
    inverse32 = torch.linalg.pinv(head)
    frame = build_frame("output", Source(weight=head, embedding=head, decomposition=decomposition))
    errors = {
        "ours": _error(frame.vectors(ids), reference),
        "exact": 0.0,
        "single": _error(inverse32[:, ids].T.double(), reference),
        "all": _error((head[ids] @ decomposition.power(-1.0).float()).double(), reference),
    }
    memory = {
        "ours": extra_bytes(lambda: decompose(head)),
        "exact": exact_bytes,
        "single": extra_bytes(lambda: torch.linalg.pinv(head)),
        "all": extra_bytes(all_bases),
    }
    out.add("torch.linalg.pinv, float64", *times(exact_time), "0", mib(memory["exact"]))
    for name, words, timing in (
        ("single", "torch.linalg.pinv, float32, default rtol", rest["single"]),
        ("ours", "decompose", ours),
        ("gram", "its Gram matrix alone", rest["gram"]),
        ("eigen", "Gram matrix + eigh alone", rest["eigen"]),
        ("all", "decompose, then every basis written out in float32", rest["all"]),
    ):
        out.add(
            words,
            *times(timing, ratio(timing, exact_time)),
            f"{errors[name]:.1e}" if name in errors else "",
            mib(memory[name]) if name in memory else "",
        )
    out.goals += [
        Goal(
            "pinv float64 ÷ decompose",
            exact_time.best / ours.best,
            10.0,
            at_least=True,
            also=f"processor time {exact_time.best_cpu / ours.best_cpu:.1f}",
        ),
        Goal(f"relative error of {len(ids)} bases against pinv float64", errors["ours"], 1e-6),
    ]
    eigen_only = ratio(exact_time, rest["eigen"])
    out.notes.append(
        "the part that stands for the pseudo-inverse, Gram matrix + eigh (every s_i follows by one"
        f" d × d product): pinv float64 ÷ it {eigen_only.best:.1f} (processor time"
        f" {eigen_only.cpu:.1f}); the rest of decompose is leverage and ‖s_i‖ of every token, which"
        " pinv does not give"
    )
    lost = _lost(inverse32, head)
    full = _lost(exact, head)
    gap = decomposition.power(-1.0) @ gram(head)
    own = float((gap - torch.eye(d, dtype=gap.dtype)).norm()) / math.sqrt(d)
    cut = max(v, d) * torch.finfo(torch.float32).eps
    out.notes += [
        f"condition number {condition:,.0f}, rank {decomposition.rank} of {d}",
        f"float32 call with its default cut-off {cut:.2g}·σ_max"
        f" keeps {lost[1]:.0f} of {d} directions and loses {d - lost[1]:.0f} without a word:"
        f" |W⁺W − I|_F/√d = {lost[0]:.2g} (float64 {full[0]:.1e}, ours {own:.1e})",
    ]
    return out


def _error(found: Tensor, reference: Tensor) -> float:
    """Largest relative error of a basis."""
    return float(((found - reference).norm(dim=1) / reference.norm(dim=1)).max())


def _lost(inverse: Tensor, head: Tensor) -> tuple[float, float]:
    """|W⁺W − I|_F/√d, and the trace of W⁺W, which is the rank that was kept."""
    d = head.shape[1]
    product = torch.zeros(d, d, dtype=torch.float64)
    for start in range(0, len(head), 8192):
        rows = head[start : start + 8192].double()
        product += inverse[:, start : start + 8192].double() @ rows
    eye = torch.eye(d, dtype=torch.float64)
    return float((product - eye).norm()) / math.sqrt(d), float(product.trace())
