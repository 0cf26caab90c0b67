"""What a run was foretold to cost, and what it cost."""

from __future__ import annotations

import statistics
import time
from typing import Any

from bench.report import Goal, Section, mib
from bench.setting import Bench, prompt
from engine import cost
from engine.space import LatentSpace
from engine.trace.options import TraceOptions

SETTINGS: tuple[tuple[int, dict[str, Any]], ...] = (
    (8, {}),
    (40, {"frame": "random"}),
    (24, {"words_only": True}),
    (32, {"k": 50}),
    (128, {"layers": "0:12:3"}),
    (64, {"frame": "dial", "alpha": 0.1}),
    (20, {"frame": "tight", "words_only": True, "k": 50}),
    (96, {"layers": "-1", "geometry": "l2"}),
    (12, {"frame": "random", "layers": "6:13"}),
    (80, {"positions": "0:10", "centred": True}),
)
"""Tokens, and what is asked besides; none was run before."""


def foretold(bench: Bench) -> Section:
    """Ten traces of the page, each foretold before it ran."""
    cost.clock = time.process_time  # other work on the machine is no error of what is foretold
    try:
        return _foretold(LatentSpace(bench.model))
    finally:
        cost.clock = time.perf_counter


def _foretold(space: LatentSpace) -> Section:
    out = Section(
        "Cost foretold against cost measured",
        "Ten whole traces of new prompts through `LatentSpace.trace`: processor seconds, peak bytes"
        " foretold before each run (calibrated at load, learning from each run) against what was"
        " measured. Relative error = (foretold − measured) / measured.",
        (
            "tokens, and what is asked besides",
            "s foretold",
            "s measured",
            "error",
            "MiB foretold",
            "MiB measured",
            "error",
        ),
    )
    time_errors, byte_errors = [], []
    for i, (tokens, asked) in enumerate(SETTINGS):
        options = TraceOptions(**asked)
        found = space.trace(prompt(tokens, seed=100 + i), options).cost
        assert found.seconds is not None
        assert found.bytes is not None
        a = found.predicted_seconds / found.seconds - 1
        b = found.predicted_bytes / max(found.bytes, 1) - 1
        time_errors.append(abs(a))
        byte_errors.append(abs(b))
        out.add(
            ", ".join([str(tokens), *(f"{name} {value}" for name, value in asked.items())]),
            f"{found.predicted_seconds:.2f}",
            f"{found.seconds:.2f}",
            f"{a:+.0%}",
            mib(found.predicted_bytes),
            mib(found.bytes),
            f"{b:+.0%}",
        )
    out.goals += [
        Goal("median relative error of seconds", statistics.median(time_errors), 0.15),
        Goal("median relative error of bytes", statistics.median(byte_errors), 0.15),
        Goal("largest relative error of seconds", max(time_errors), 0.25),
        Goal("largest relative error of bytes", max(byte_errors), 0.25),
    ]
    return out
