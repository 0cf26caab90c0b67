"""The drawings of a report, as SVG that takes its colours from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from engine.calibration.evidence.evaluation import Average, Evaluation
from engine.calibration.evidence.findings import OURS
from engine.calibration.evidence.methods import METHODS
from engine.calibration.evidence.protocol import KINDS, Kind

KIND_LINES: Final[dict[Kind, int]] = {
    "model": 7,
    "retrieval": 5,
    "trained": 2,
    "calibration": 0,
    "control": 3,
}
"""Kind of method → which of the theme's line colours."""
_WIDTH = 960
_LEFT, _RIGHT, _ROW = 250, 110, 27


def dots_with_intervals(found: Evaluation) -> str:
    """Mean accuracy of every method that ran everywhere, by kind, the best of a kind first."""
    rows: list[tuple[Kind, str, Average]] = []
    for kind in KINDS:
        own = [m for m in found.methods if METHODS[m].kind == kind and m in found.averages]
        own.sort(key=lambda m: -found.averages[m].accuracy.value)
        rows += [(kind, m, found.averages[m]) for m in own]
    if not rows:
        return "<p>No method ran for every data set.</p>"
    chance = sum(t.chance for t in found.tasks) / len(found.tasks)
    low = min([chance, *(a.accuracy.low for _, _, a in rows)])
    high = max(a.accuracy.high for _, _, a in rows)
    first, last = math.floor(20 * low - 0.2) / 20, min(1.0, math.ceil(20 * high + 0.2) / 20)
    first = max(0.0, first)
    height = _ROW * len(rows) + 56

    def x(value: float) -> float:
        return _LEFT + (value - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    parts = []
    step = 0.05 if last - first <= 0.5 else 0.1
    for i in range(round((last - first) / step) + 1):
        at = first + i * step
        parts.append(
            f'<line class="rule" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="8" y2="{height - 40}"/>'
            f'<text class="soft" x="{x(at):.1f}" y="{height - 22}" text-anchor="middle">'
            f"{100 * at:.0f}</text>"
        )
    parts.append(
        f'<line class="chance" x1="{x(chance):.1f}" x2="{x(chance):.1f}" y1="8"'
        f' y2="{height - 40}"/><text class="soft" x="{x(chance):.1f}" y="{height - 4}"'
        f' text-anchor="middle">chance {100 * chance:.1f}</text>'
        f'<text class="soft" x="{_WIDTH - _RIGHT}" y="{height - 4}" text-anchor="end">'
        "mean accuracy, %</text>"
    )
    for place, (kind, method, average) in enumerate(rows):
        y = 22 + place * _ROW
        line = KIND_LINES[kind]
        value = average.accuracy
        title = escape(METHODS[method].title)
        words = f"{100 * value.value:.1f} ({100 * value.low:.1f} to {100 * value.high:.1f})"
        parts.append(
            f"<g><title>{title}: {words}</title>"
            f'<text x="{_LEFT - 14}" y="{y + 4}" text-anchor="end">{title}</text>'
            f'<line class="k{line}" x1="{x(value.low):.1f}" x2="{x(value.high):.1f}" y1="{y}"'
            f' y2="{y}" stroke-width="3" stroke-linecap="round" stroke-opacity=".55"/>'
            f'<circle class="f{line} ring" cx="{x(value.value):.1f}" cy="{y}" r="6"'
            ' stroke-width="1.5"/>'
            f'<text class="soft" x="{_WIDTH - _RIGHT + 14}" y="{y + 4}">'
            f"{100 * value.value:.1f}</text></g>"
        )
    return _svg(height, "Mean accuracy of every method with its interval", parts)


def accuracy_and_time(found: Evaluation) -> str:
    """Seconds against mean accuracy, a dot per method.

    Named are calibration and the front: methods that none is at least as accurate as and quicker.
    """
    own = [(m, found.averages[m]) for m in found.methods if m in found.averages]
    own = [(m, a) for m, a in own if a.seconds > 0]
    if not own:
        return "<p>No time was measured.</p>"
    height, top, bottom, left, right = 420, 18, 50, 60, 170
    least = math.log10(min(a.seconds for _, a in own))
    most = math.log10(max(a.seconds for _, a in own))
    least, most = least - 0.12, max(most + 0.12, least + 0.5)
    low = min(a.accuracy.value for _, a in own) - 0.02
    high = max(a.accuracy.value for _, a in own) + 0.02

    def x(seconds: float) -> float:
        return left + (math.log10(seconds) - least) / (most - least) * (_WIDTH - left - right)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (height - top - bottom)

    parts = []
    for value, words in _decades(least, most):
        parts.append(
            f'<line class="rule" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top}"'
            f' y2="{height - bottom}"/><text class="soft" x="{x(value):.1f}"'
            f' y="{height - bottom + 18}" text-anchor="middle">{words}</text>'
        )
    step = 0.1 if high - low > 0.25 else 0.05
    at = math.ceil(low / step) * step
    while at <= high:
        parts.append(
            f'<line class="rule" x1="{left}" x2="{_WIDTH - right}" y1="{y(at):.1f}"'
            f' y2="{y(at):.1f}"/><text class="soft" x="{left - 10}" y="{y(at) + 4:.1f}"'
            f' text-anchor="end">{100 * at:.0f}</text>'
        )
        at += step
    parts.append(
        f'<text class="soft" x="{(left + _WIDTH - right) / 2:.0f}" y="{height - 8}"'
        ' text-anchor="middle">seconds, all data sets</text>'
        f'<text class="soft" x="{left - 10}" y="{top - 4}" text-anchor="end">%</text>'
    )
    # Names stand right of their dots and move down until they cover neither a dot nor a name.
    taken = [(x(a.seconds) - 8, x(a.seconds) + 8, y(a.accuracy.value), 13.0) for _, a in own]
    for method, average in sorted(own, key=lambda pair: -pair[1].accuracy.value):
        px, py = x(average.seconds), y(average.accuracy.value)
        line = KIND_LINES[METHODS[method].kind]
        title = escape(METHODS[method].title)
        dot = (
            f"<title>{title}: {100 * average.accuracy.value:.1f} %, {average.seconds:,.2f} s"
            f'</title><circle class="f{line} ring" cx="{px:.1f}" cy="{py:.1f}" r="7"'
            ' stroke-width="1.5"/>'
        )
        if method != OURS and not _leads(average, [a for _, a in own]):
            parts.append(f"<g>{dot}</g>")
            continue
        begin, end, ty = px + 12, px + 14 + 6.6 * len(METHODS[method].title), py
        while any(begin < z and end > w and abs(ty - at) < gap for w, z, at, gap in taken):
            ty += 3.0
        taken.append((begin, end, ty, 14.0))
        joint = ""
        if abs(ty - py) > 5:
            joint = (
                f'<line class="rule" x1="{px:.1f}" y1="{py:.1f}" x2="{px + 9:.1f}" y2="{ty:.1f}"/>'
            )
        parts.append(f'<g>{joint}{dot}<text x="{px + 12:.1f}" y="{ty + 4:.1f}">{title}</text></g>')
    height = max(height, round(max(at for _, _, at, _ in taken)) + 30)
    return _svg(height, "Mean accuracy against seconds", parts)


def _leads(one: Average, others: Sequence[Average]) -> bool:
    """Whether no other is as accurate and quicker, or as quick and more accurate."""
    own = (one.accuracy.value, -one.seconds)
    return not any(
        all(b >= a for a, b in zip(own, theirs, strict=True)) and theirs != own
        for theirs in ((a.accuracy.value, -a.seconds) for a in others)
    )


def _decades(least: float, most: float) -> list[tuple[float, str]]:
    """1, 2, 5 steps of a logarithmic axis."""
    out = []
    for power in range(math.floor(least), math.ceil(most) + 1):
        for factor in (1, 2, 5):
            value = factor * 10.0**power
            if least <= math.log10(value) <= most:
                out.append((value, f"{value:g} s"))
    return out


def _svg(height: int, words: str, parts: list[str]) -> str:
    return (
        f'<div class="scroll"><svg viewBox="0 0 {_WIDTH} {height}" role="img"'
        f' aria-label="{escape(words)}">{"".join(parts)}</svg></div>'
    )
