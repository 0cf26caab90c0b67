"""How long a work in parts will take, on schedules that were planted: told by a clock of turns."""

from __future__ import annotations

import numpy as np
import pytest

from engine.progress import Progress
from engine.schedule import Part, Schedule
from tests.waiting import Clock


def told(
    planted: list[tuple[Part, int, float, int]], clock: Clock
) -> tuple[list[tuple[float | None, float, float]], Schedule]:
    """Each report's seconds left, the true ones, and the share of the whole.

    Args:
        planted: each part, the steps that it might have, the seconds of each, and after how many
            it ends.
        clock: moved by each step.
    """
    plan = Schedule([part for part, *_ in planted], clock)
    end = clock.now + sum(seconds * stop for _, _, seconds, stop in planted)
    found = []
    for part, total, seconds, stop in planted:
        for done in range(1, stop + 1):
            clock.now += seconds
            step = plan.tell(Progress(done, total, "", part=part.name))
            found.append((step.left, end - clock.now, step.whole or 0.0))
        # What stops early reports that it is done.
        plan.tell(Progress(total, total, "", part=part.name))
    return found, plan


@pytest.mark.parametrize("seed", range(20))
def test_what_is_told_of_the_time_left_is_right_within_a_third(seed: int) -> None:
    draw = np.random.default_rng(seed)
    # Nobody knows beforehand how fast a kind goes; within one, parts differ by a sixth.
    pace = {kind: float(draw.uniform(0.2, 5)) for kind in ("reading", "training", "probe")}
    kinds = ["reading", "training", "probe", *["training"] * 8, *["probe"] * 11]
    ends = float(draw.uniform(0.3, 1))
    planted = []
    for i, kind in enumerate(kinds):
        cost = {"reading": 60.0, "training": 10.0, "probe": 1.0}[kind]
        total = 50 if kind != "probe" else 6
        stop = round(ends * total * draw.uniform(0.95, 1.05)) if kind == "training" else total
        stop = min(total, max(1, stop))
        seconds = cost * pace[kind] * float(draw.uniform(5 / 6, 7 / 6)) / stop
        part = Part(f"{kind} {i}", kind, cost, stops_early=kind == "training")
        planted.append((part, total, seconds, stop))
    found, _ = told(planted, Clock())
    whole = sum(seconds * stop for _, _, seconds, stop in planted)
    # Of the last twentieth "a few seconds" is all that anybody wants to know.
    judged = [(left, true) for left, true, _ in found if left is not None and true > whole / 20]
    wrong = [(left, true) for left, true in judged if not 2 / 3 <= left / true <= 4 / 3]
    assert not wrong, wrong[:3]
    assert len(judged) > len(found) / 3
    shares = [share for *_, share in found]
    assert shares == sorted(shares)
    assert shares[-1] > 0.9


def test_a_pace_that_changes_is_followed() -> None:
    """Other work comes in between: what went before soon counts for little."""
    clock = Clock()
    plan = Schedule([Part(f"{i}", "training", 1.0) for i in range(20)], clock)
    for i in range(10):
        clock.now += 1 if i < 5 else 4
        step = plan.tell(Progress(1, 1, part=f"{i}"))
    assert step.left is not None
    assert 2 / 3 <= step.left / (10 * 4) <= 4 / 3


def test_what_lay_on_the_disk_is_no_progress() -> None:
    """Texts that were read in an earlier run are most of the cost, and none of the time."""
    clock = Clock()
    reading = Part("a", "reading", 90.0, may_be_kept=True)
    parts = [reading, *(Part(f"{i}", "training", 1.0) for i in range(10))]
    plan = Schedule(parts, clock)
    clock.now += 0.01
    assert plan.tell(Progress(436, 436, part="a")).whole == 0
    clock.now += 2
    plan.tell(Progress(1, 1, part="0"))
    clock.now += 1
    step = plan.tell(Progress(1, 2, part="1"))
    assert step.whole == pytest.approx(0.15, abs=0.02)
    # Half of them lay there: the other half goes at its own pace.
    plan = Schedule(parts[:1], clock)
    plan.tell(Progress(50, 100, part="a"))
    clock.now += 10
    step = plan.tell(Progress(75, 100, part="a"))
    assert step.left == pytest.approx(10.0)
    assert step.whole == pytest.approx(0.5)


def test_no_time_is_told_while_most_of_what_is_left_was_never_seen() -> None:
    clock = Clock()
    plan = Schedule([Part("a", "reading", 1.0), Part("b", "training", 9.0)], clock)
    clock.now += 1
    step = plan.tell(Progress(5, 10, part="a"))
    assert step.left is None
    assert step.whole is not None
    assert 0 < step.whole < 0.2
    clock.now += 1
    plan.tell(Progress(10, 10, part="a"))
    clock.now += 2
    # Two seconds for a fifth: eight for the rest, by its own pace and by nothing else.
    assert plan.tell(Progress(2, 10, part="b")).left == pytest.approx(8.0)


def test_parts_that_were_done_before_take_no_time() -> None:
    clock = Clock()
    plan = Schedule([Part(f"{i}", "training", 1.0) for i in range(10)], clock)
    clock.now += 4
    step = plan.tell(Progress(0, 10, part="8"))
    assert step.left is None
    # Eight parts were passed over; half of the ninth took all the time there was.
    assert plan.tell(Progress(5, 10)).left == pytest.approx(4.0 + 8.0)
