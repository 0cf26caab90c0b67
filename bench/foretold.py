"""What a run was foretold to cost, and what it cost."""

from __future__ import annotations

import statistics

from bench.report import Goal, Section, mib
from bench.setting import Bench, prompt
from engine.trace.options import TraceOptions

SETTINGS: tuple[tuple[int, str | None, str], ...] = (
    (8, None, "cosine"),
    (96, None, "l2"),
    (24, "0:6", "cosine"),
    (48, None, "matmul"),
    (128, "0:12:3", "cosine"),
    (16, "-1", "l2"),
    (64, None, "cosine"),
    (40, "6:13", "matmul"),
    (112, None, "cosine"),
    (32, None, "l2"),
)
"""Tokens, layers, geometry."""


def foretold(bench: Bench) -> Section:
    """Ten traces of the page, each foretold before it ran."""
    out = Section(
        "Cost foretold against cost measured",
        "Ten whole traces of new prompts through `LatentSpace.trace`: seconds and peak bytes"
        " foretold before each run (calibrated at load, learning from each run) against what was"
        " measured. Relative error = (foretold − measured) / measured.",
        (
            "tokens, layers, geometry",
            "s foretold",
            "s measured",
            "error",
            "MiB foretold",
            "MiB measured",
            "error",
        ),
    )
    time_errors, byte_errors = [], []
    for i, (tokens, layers, geometry) in enumerate(SETTINGS):
        options = TraceOptions(layers=layers, geometry=geometry)
        cost = bench.space.trace(prompt(tokens, seed=100 + i), options).cost
        assert cost.seconds is not None
        assert cost.bytes is not None
        a = cost.predicted_seconds / cost.seconds - 1
        b = cost.predicted_bytes / max(cost.bytes, 1) - 1
        time_errors.append(abs(a))
        byte_errors.append(abs(b))
        out.add(
            f"{tokens}, {layers or 'all'}, {geometry}",
            f"{cost.predicted_seconds:.2f}",
            f"{cost.seconds:.2f}",
            f"{a:+.0%}",
            mib(cost.predicted_bytes),
            mib(cost.bytes),
            f"{b:+.0%}",
        )
    out.goals += [
        Goal("median relative error of seconds", statistics.median(time_errors), 0.25),
        Goal("median relative error of bytes", statistics.median(byte_errors), 0.25),
        Goal("largest relative error of seconds", max(time_errors), 0.25),
        Goal("largest relative error of bytes", max(byte_errors), 0.25),
    ]
    out.notes.append(
        "other work on the machine during a single run shows as an error of the seconds here"
    )
    return out
