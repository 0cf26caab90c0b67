"""Work that reports itself: drained, renamed, closed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.progress import Progress, Steps, drain, relabelled


def counting(to: int, closed: list[int]) -> Steps[str]:
    try:
        for i in range(1, to + 1):
            yield Progress(i, to)
    finally:
        closed.append(1)
    return "all"


def test_the_result_is_what_the_generator_returns() -> None:
    closed: list[int] = []
    assert drain(counting(3, closed)) == "all"
    assert closed == [1]


@pytest.mark.parametrize(("done", "total", "share"), [(0, 4, 0.0), (1, 4, 0.25), (9, 4, 1.0)])
def test_the_share_lies_between_nothing_and_all(done: int, total: int, share: float) -> None:
    assert Progress(done, total).share == share


def test_a_share_needs_a_total() -> None:
    assert Progress(3, 0).share is None


def test_told_changes_reports_and_not_the_result() -> None:
    closed: list[int] = []
    work = relabelled(counting(2, closed), lambda step: replace(step, note=f"step {step.done}"))
    found = []

    def through() -> Steps[None]:
        found.append((yield from work))

    seen = [step.note for step in through()]
    assert found == ["all"]
    assert seen == ["step 1", "step 2"]
    assert closed == [1]


def test_closing_closes_the_work() -> None:
    closed: list[int] = []
    work = relabelled(counting(5, closed), lambda step: step)
    next(work)
    work.close()
    assert closed == [1]
