"""Lines, goals, and how a report is written."""

from __future__ import annotations

import datetime
import os
import platform
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:  # both bring torch along, which a soak run does without
    from bench.measure import Ratio, Timing
    from bench.setting import Setting

MIB = 2**20


@dataclass(frozen=True)
class Goal:
    """A number to be reached."""

    text: str
    value: float
    limit: float
    at_least: bool = False
    also: str = ""
    """The same by another clock, in words."""

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def verdict(self) -> str:
        also = f" ({self.also})" if self.also else ""
        if self.met:
            return f"met: {_short(self.value)}{also}, goal {self._sign} {_short(self.limit)}"
        large, small = (self.limit, self.value) if self.at_least else (self.value, self.limit)
        off = f" by ×{_short(large / small)}" if small else ""
        return f"MISSED{off}: {_short(self.value)}{also}, goal {self._sign} {_short(self.limit)}"

    @property
    def _sign(self) -> str:
        return "≥" if self.at_least else "≤"


@dataclass
class Section:
    """A table, and what it shows."""

    title: str
    compared: str
    """What is compared with what, in a sentence."""
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, *cells: str) -> None:
        """A row."""
        assert len(cells) == len(self.columns), (cells, self.columns)
        self.rows.append(cells)

    def text(self) -> str:
        """As Markdown, with columns aligned so that it reads in a terminal."""
        table = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.columns))]
        lines = [f"## {self.title}", "", self.compared, ""]
        for i, row in enumerate(table):
            cells = [
                c.ljust(w) if j == 0 else c.rjust(w)
                for j, (c, w) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("| " + " | ".join(cells) + " |")
            if i == 0:
                rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
                lines.append("| " + " | ".join(rule) + " |")
        lines.append("")
        lines += [f"- goal, {g.text}: **{g.verdict}**" for g in self.goals]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"


TIMES = ("what", "best ms", "median ms", "cpu ms", "× best", "× median", "× cpu")
"""Columns of a timing table; × is the time over that of the first line of the table."""


def times(timing: Timing, against: Ratio | None = None) -> tuple[str, ...]:
    """Cells for :data:`TIMES` but the first."""
    own = (ms(timing.best), ms(timing.median), ms(timing.best_cpu))
    if against is None:
        return (*own, "1", "1", "1")
    return (*own, f"{against.best:.2f}", f"{against.median:.2f}", f"{against.cpu:.2f}")


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"


def mib(count: float) -> str:
    return f"{count / MIB:,.1f}"


def _short(value: float) -> str:
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:,.3g}"


def hardware() -> tuple[str, str]:
    """The machine in words, and as part of a file name."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
        name = fields.get("model name", name)
        if "model" in fields:
            name += f", family {fields.get('cpu family', '?')} model {fields['model']}"
    cores = os.cpu_count() or 1
    memory = psutil.virtual_memory().total / 2**30
    flags = [f for f in ("avx2", "avx512f", "amx_tile") if f in fields.get("flags", "").split()]
    words = f"{name}, {cores} cores, {memory:.0f} GiB RAM"
    if flags:
        words += f" ({', '.join(flags)})"
    short = re.sub(r"\(.*?\)|,.*", "", name)
    slug = re.sub(r"[^a-z0-9]+", "-", f"{short} {cores} cores".lower()).strip("-")
    return words, slug


def write(
    sections: list[Section], setting: Setting, theme: str, loads: list[float], folder: Path
) -> Path:
    """The results file of one run."""
    words, slug = hardware()
    today = datetime.date.today().isoformat()
    goals = [(s.title, g) for s in sections for g in s.goals]
    met = sum(g.met for _, g in goals)
    versions = ", ".join(f"{n} {version(n)}" for n in ("torch", "transformers", "numpy", "scipy"))
    head = [
        f"# Benchmark: {theme}, {today}",
        "",
        f"- machine: {words}; Python {platform.python_version()}, {versions}",
        f"- setting: {setting.words()}",
        "- model: GPT-2's sizes with seeded random weights, no trained model: only sizes matter"
        " here, and random states are the harder case for lists (no token stands out)",
        f"- 1-minute load before and after the run: {loads[0]:.1f}, {loads[-1]:.1f} on"
        f" {os.cpu_count()} cores; sides of a ratio ran in turn in the same run; "
        "“best” is the quickest round, “median” the median of ratios within a round, “cpu” counts"
        " processor seconds of all threads; OpenMP wait policy"
        f" {os.environ.get('OMP_WAIT_POLICY', 'default').lower()}",
        f"- goals met: {met} of {len(goals)}",
        "",
    ]
    for title, goal in goals:
        head.append(
            f"  - {'met   ' if goal.met else 'MISSED'} {title}: {goal.text}: {goal.verdict}"
        )
    body = "\n".join(head) + "\n\n" + "\n".join(s.text() for s in sections)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{theme}_{slug}_{today}.md"
    path.write_text(body, encoding="utf-8")
    return path
