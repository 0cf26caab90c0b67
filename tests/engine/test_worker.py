"""The device thread: order, limits, cancelling, deadlines, and that it never falls over."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.errors import Cancelled, DeadlineExceeded, QueueFull
from engine.worker import Check, DeviceThread, Job

PATIENCE = 10.0


@pytest.fixture
def thread() -> Iterator[DeviceThread]:
    device = DeviceThread(places=2)
    device.start()
    yield device
    device.close()


class Blocker:
    """Work that holds the thread until it is let go, calling its check all the while."""

    def __init__(self, obedient: bool = True) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.obedient = obedient

    def __call__(self, check: Check) -> str:
        self.entered.set()
        while not self.release.wait(0.002):
            if self.obedient:
                check()
        return "released"


def hold(thread: DeviceThread) -> tuple[Blocker, Job[str]]:
    blocker = Blocker()
    job = thread.submit(blocker, deadline_s=None, label="hold")
    assert blocker.entered.wait(PATIENCE)
    return blocker, job


def test_results_and_exceptions_travel_through_the_future(thread: DeviceThread) -> None:
    assert thread.submit(lambda check: 6 * 7, deadline_s=1).future.result(PATIENCE) == 42

    def fail(check: Check) -> None:
        raise ZeroDivisionError("planted")

    with pytest.raises(ZeroDivisionError, match="planted"):
        thread.submit(fail, deadline_s=1).future.result(PATIENCE)
    # One failure does not stop the next job.
    assert thread.submit(lambda check: "next", deadline_s=1).future.result(PATIENCE) == "next"
    assert thread.counters["done"] == 2
    assert thread.counters["failed"] == 1


def test_a_system_exit_in_the_work_does_not_end_the_thread(thread: DeviceThread) -> None:
    def leave(check: Check) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        thread.submit(leave, deadline_s=1).future.result(PATIENCE)
    assert thread.alive
    assert thread.submit(lambda check: 1, deadline_s=1).future.result(PATIENCE) == 1


def test_all_work_runs_on_one_thread_in_the_order_it_came(thread: DeviceThread) -> None:
    blocker, _ = hold(thread)
    seen: list[tuple[str, int]] = []

    def note(name: str) -> Callable[[Check], None]:
        return lambda check: seen.append((name, threading.get_ident()))

    jobs = [thread.submit(note(name), deadline_s=None) for name in ("first", "second")]
    blocker.release.set()
    for job in jobs:
        job.future.result(PATIENCE)
    assert [name for name, _ in seen] == ["first", "second"]
    assert len({ident for _, ident in seen}) == 1
    assert seen[0][1] != threading.get_ident()


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(thread: DeviceThread) -> None:
    blocker, _ = hold(thread)
    queued = [thread.submit(lambda c: None, deadline_s=None) for _ in range(2)]
    assert thread.waiting == 2
    with pytest.raises(QueueFull) as refusal:
        thread.submit(lambda c: None, deadline_s=None)
    assert 1 <= refusal.value.retry_after <= 60
    assert str(refusal.value).endswith(".")
    assert thread.counters["refused"] == 1
    assert thread.waiting == 2
    blocker.release.set()
    for job in queued:
        job.future.result(PATIENCE)
    assert thread.waiting == 0


def test_cancelling_a_queued_job_frees_its_place_and_it_never_runs(thread: DeviceThread) -> None:
    blocker, _ = hold(thread)
    ran: list[int] = []
    first = thread.submit(lambda c: ran.append(1), deadline_s=None)
    second = thread.submit(lambda c: ran.append(2), deadline_s=None)
    first.cancel()
    assert thread.waiting == 1
    third = thread.submit(lambda c: ran.append(3), deadline_s=None)
    with pytest.raises(Cancelled):
        first.future.result(PATIENCE)
    blocker.release.set()
    second.future.result(PATIENCE)
    third.future.result(PATIENCE)
    assert ran == [2, 3]
    assert thread.counters["dropped"] == 1


def test_cancelling_a_running_job_stops_it_at_its_next_check(thread: DeviceThread) -> None:
    _, job = hold(thread)
    job.cancel()
    with pytest.raises(Cancelled):
        job.future.result(PATIENCE)
    assert thread.counters["cancelled"] == 1
    assert thread.running is None


def test_cancelling_a_finished_job_changes_nothing(thread: DeviceThread) -> None:
    job = thread.submit(lambda check: "kept", deadline_s=None)
    assert job.future.result(PATIENCE) == "kept"
    job.cancel()
    assert job.future.result(0) == "kept"
    assert thread.counters["cancelled"] == thread.counters["dropped"] == 0


def test_a_deadline_stops_running_work(thread: DeviceThread) -> None:
    blocker = Blocker()
    job = thread.submit(blocker, deadline_s=0.02)
    with pytest.raises(DeadlineExceeded):
        job.future.result(PATIENCE)
    assert thread.counters["expired"] == 1


def test_a_deadline_that_passed_in_the_queue_keeps_the_work_from_running(
    thread: DeviceThread,
) -> None:
    blocker, _ = hold(thread)
    ran: list[int] = []
    job = thread.submit(lambda check: ran.append(1), deadline_s=0.001)
    time.sleep(0.01)
    blocker.release.set()
    with pytest.raises(DeadlineExceeded):
        job.future.result(PATIENCE)
    assert ran == []
    assert thread.counters["expired"] == 1


def test_extending_moves_a_deadline_later_but_never_earlier(thread: DeviceThread) -> None:
    blocker, _ = hold(thread)
    job = thread.submit(lambda check: "in time", deadline_s=0.001)
    job.extend(PATIENCE)
    job.extend(0.0)
    time.sleep(0.01)
    blocker.release.set()
    assert job.future.result(PATIENCE) == "in time"


def test_one_client_cannot_take_every_place() -> None:
    device = DeviceThread(places=8, per_client=2)
    device.start()
    try:
        blocker = Blocker()
        device.submit(blocker, deadline_s=None, client="greedy")
        assert blocker.entered.wait(PATIENCE)
        device.submit(lambda c: None, deadline_s=None, client="greedy")
        with pytest.raises(QueueFull, match="2 requests under way"):
            device.submit(lambda c: None, deadline_s=None, client="greedy")
        polite = device.submit(lambda c: "served", deadline_s=None, client="polite")
        blocker.release.set()
        assert polite.future.result(PATIENCE) == "served"
    finally:
        device.close()


def test_the_heart_beats_with_every_check_and_is_quiet_when_idle(thread: DeviceThread) -> None:
    assert thread.heartbeat_age_s == 0.0
    deaf = Blocker(obedient=False)
    job = thread.submit(deaf, deadline_s=None)
    assert deaf.entered.wait(PATIENCE)
    before = thread.heartbeat_age_s
    time.sleep(0.02)
    assert thread.heartbeat_age_s > before
    deaf.release.set()
    job.future.result(PATIENCE)
    assert thread.heartbeat_age_s == 0.0


def test_running_names_the_work_and_then_nothing(thread: DeviceThread) -> None:
    blocker, job = hold(thread)
    assert thread.running == "hold"
    blocker.release.set()
    job.future.result(PATIENCE)
    assert thread.running is None


def test_the_thread_keeps_no_result_and_no_work_alive(thread: DeviceThread) -> None:
    class Thing:
        pass

    def make(check: Check) -> Thing:
        return Thing()

    def fail(check: Check) -> Thing:
        raise ValueError(Thing())

    made = thread.submit(make, deadline_s=None)
    watched = weakref.ref(made.future.result(PATIENCE))
    failed = thread.submit(fail, deadline_s=None)
    error = failed.future.exception(PATIENCE)
    assert error is not None
    carried = weakref.ref(error.args[0])
    del made, failed, error
    # The thread sits in its loop again once a further job is through.
    thread.submit(lambda check: None, deadline_s=None).future.result(PATIENCE)
    gc.collect()
    assert watched() is None
    assert carried() is None


def test_closing_refuses_new_work_and_lets_go_of_all_that_waits() -> None:
    device = DeviceThread(places=4)
    device.start()
    blocker = Blocker()
    running = device.submit(blocker, deadline_s=None)
    assert blocker.entered.wait(PATIENCE)
    queued = device.submit(lambda c: None, deadline_s=None)
    device.close()
    for job in (running, queued):
        with pytest.raises(Cancelled):
            job.future.result(PATIENCE)
    assert not device.alive
    with pytest.raises(QueueFull, match="shutting down"):
        device.submit(lambda c: None, deadline_s=None)
    device.close()  # twice is harmless


def test_counters_add_up_under_many_threads() -> None:
    device = DeviceThread(places=64)
    device.start()
    outcomes: list[str] = []

    def ask(n: int) -> None:
        try:
            job = device.submit(lambda check: n, deadline_s=None)
        except QueueFull:
            outcomes.append("refused")
            return
        if n % 3 == 0:
            job.cancel()
        try:
            outcomes.append("done" if job.future.result(PATIENCE) == n else "wrong")
        except Cancelled:
            outcomes.append("stopped")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(60)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(PATIENCE)
    device.close()
    counts = device.counters
    assert len(outcomes) == 60
    assert outcomes.count("done") == counts["done"]
    assert outcomes.count("stopped") == counts["dropped"] + counts["cancelled"]
    assert outcomes.count("refused") == counts["refused"]
    assert "wrong" not in outcomes


# Background work


def test_background_work_waits_until_nobody_else_does(thread: DeviceThread) -> None:
    order: list[str] = []
    blocker, _ = hold(thread)
    last = [
        thread.submit(
            lambda check, n=n: order.append(f"step {n}"), deadline_s=None, background=True
        )
        for n in range(3)
    ]
    first = [thread.submit(lambda check: order.append("asked"), deadline_s=5) for _ in range(2)]
    blocker.release.set()
    for job in [*first, *last]:
        job.future.result(PATIENCE)
    assert order == ["asked", "asked", "step 0", "step 1", "step 2"]


def test_background_work_takes_no_place_and_is_nobodys(thread: DeviceThread) -> None:
    blocker, _ = hold(thread)
    steps = [thread.submit(lambda check: 1, deadline_s=None, background=True) for _ in range(50)]
    assert thread.waiting == 0
    for _ in range(2):
        thread.submit(lambda check: 2, deadline_s=5)
    with pytest.raises(QueueFull):
        thread.submit(lambda check: 3, deadline_s=5)
    blocker.release.set()
    assert [step.future.result(PATIENCE) for step in steps] == [1] * 50
    assert thread.counters["done"] == 3
    assert thread.steps == 50


def test_a_running_step_does_not_use_up_its_clients_share() -> None:
    device = DeviceThread(places=4, per_client=1)
    device.start()
    blocker = Blocker()
    step = device.submit(blocker, deadline_s=None, client="me", background=True)
    assert blocker.entered.wait(PATIENCE)
    asked = device.submit(lambda check: 1, deadline_s=5, client="me")
    blocker.release.set()
    assert asked.future.result(PATIENCE) == 1
    assert step.future.result(PATIENCE) == "released"
    device.close()


def test_background_work_is_dropped_when_cancelled_or_closed(thread: DeviceThread) -> None:
    blocker, _ = hold(thread)
    ran: list[int] = []
    steps = [
        thread.submit(lambda check, n=n: ran.append(n), deadline_s=None, background=True)
        for n in range(2)
    ]
    steps[0].cancel()
    with pytest.raises(Cancelled):
        steps[0].future.result(PATIENCE)
    thread.close(0.0)
    with pytest.raises(Cancelled):
        steps[1].future.result(PATIENCE)
    with pytest.raises(QueueFull, match="shutting down"):
        thread.submit(lambda check: 1, deadline_s=None, background=True)
    blocker.release.set()
    assert ran == []
    assert thread.counters["dropped"] == 0


def test_the_heartbeat_counts_background_work_as_well(thread: DeviceThread) -> None:
    blocker = Blocker(obedient=False)
    thread.submit(blocker, deadline_s=None, background=True)
    assert blocker.entered.wait(PATIENCE)
    time.sleep(0.05)
    assert thread.heartbeat_age_s >= 0.05
    blocker.release.set()


def test_failed_work_is_freed_with_its_error(thread: DeviceThread) -> None:
    """What failing work held (a copy of a model, say) does not wait for the garbage collector."""

    class Held:
        pass

    def failing(check: Any) -> None:
        held = Held()
        seen.append(weakref.ref(held))
        raise ValueError("no")

    seen: list[Any] = []
    gc.disable()
    try:
        job = thread.submit(failing, deadline_s=None)
        assert isinstance(job.future.exception(timeout=10), ValueError)
        del job
        until = time.monotonic() + 5
        while seen[0]() is not None and time.monotonic() < until:
            time.sleep(0.01)
        assert seen[0]() is None
    finally:
        gc.enable()
