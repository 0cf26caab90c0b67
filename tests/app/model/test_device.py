"""The device thread: order, limits, cancelling, deadlines, and that it never falls over."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from waiting import PATIENCE, Clock, until

from app.model.device import DeviceThread, Job
from engine.errors import Cancelled, DeadlineExceeded, QueueFull
from engine.progress import Check


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """By which deadlines and the heartbeat go."""
    clock = Clock()
    clock.stand_in(monkeypatch, "app.model.device")
    return clock


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


def test_a_deadline_stops_running_work(thread: DeviceThread, clock: Clock) -> None:
    blocker = Blocker()
    job = thread.submit(blocker, deadline_s=20)
    assert blocker.entered.wait(PATIENCE)
    clock.now += 21
    with pytest.raises(DeadlineExceeded):
        job.future.result(PATIENCE)
    assert thread.counters["expired"] == 1


def test_a_deadline_that_passed_in_the_queue_keeps_the_work_from_running(
    thread: DeviceThread, clock: Clock
) -> None:
    blocker, _ = hold(thread)
    ran: list[int] = []
    job = thread.submit(lambda check: ran.append(1), deadline_s=1)
    clock.now += 2
    blocker.release.set()
    with pytest.raises(DeadlineExceeded):
        job.future.result(PATIENCE)
    assert ran == []
    assert thread.counters["expired"] == 1


def test_extending_moves_a_deadline_later_but_never_earlier(
    thread: DeviceThread, clock: Clock
) -> None:
    blocker, _ = hold(thread)
    job = thread.submit(lambda check: "in time", deadline_s=1)
    job.extend(10)
    job.extend(0.0)
    clock.now += 9
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


def test_the_heart_beats_with_every_check_and_is_quiet_when_idle(
    thread: DeviceThread, clock: Clock
) -> None:
    assert thread.heartbeat_age_s == 0.0
    deaf = Blocker(obedient=False)
    job = thread.submit(deaf, deadline_s=None)
    assert deaf.entered.wait(PATIENCE)
    clock.now += 7
    assert thread.heartbeat_age_s == 7.0
    deaf.release.set()
    job.future.result(PATIENCE)
    assert thread.heartbeat_age_s == 0.0
    obedient, held = hold(thread)
    clock.now += 7
    until(lambda: thread.heartbeat_age_s == 0.0)
    obedient.release.set()
    held.future.result(PATIENCE)


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


def test_the_heartbeat_counts_background_work_as_well(thread: DeviceThread, clock: Clock) -> None:
    blocker = Blocker(obedient=False)
    thread.submit(blocker, deadline_s=None, background=True)
    assert blocker.entered.wait(PATIENCE)
    clock.now += 5
    assert thread.heartbeat_age_s == 5.0
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
        assert isinstance(job.future.exception(PATIENCE), ValueError)
        del job
        until(lambda: seen[0]() is None)
    finally:
        gc.enable()


def turns(thread: DeviceThread, arrivals: str) -> str:
    """Who is served in which order when these clients, one letter each, have come in this order
    while the thread was held."""
    blocker, _ = hold(thread)
    seen: list[str] = []
    jobs = [
        thread.submit(partial(lambda n, check: seen.append(n), who), deadline_s=None, client=who)
        for who in arrivals
    ]
    blocker.release.set()
    for job in jobs:
        job.future.result(PATIENCE)
    return "".join(seen)


@pytest.fixture
def roomy() -> Iterator[DeviceThread]:
    device = DeviceThread(places=12)
    device.start()
    yield device
    device.close()


@pytest.mark.parametrize(
    ("arrivals", "served"),
    [
        ("ggggggp", "gpggggg"),
        ("ggggpq", "gpqggg"),
        ("ggppqq", "gpqgpq"),
        ("pggggp", "pgpggg"),
        ("abcabc", "abcabc"),
    ],
)
def test_clients_take_turns_and_each_is_served_in_its_own_order(
    roomy: DeviceThread, arrivals: str, served: str
) -> None:
    assert turns(roomy, arrivals) == served


@pytest.mark.parametrize("arrivals", ["ggggggp", "ggggpq", "pggggp", "abcabc", "cbbbaab"])
def test_the_place_in_the_queue_is_the_number_of_those_who_are_served_before(
    roomy: DeviceThread, arrivals: str
) -> None:
    turns(roomy, "ba")  # so that some have been served before
    blocker, _ = hold(roomy)
    served: list[str] = []
    roomy.submit(lambda check: served.append("-"), deadline_s=None, background=True)
    for who in arrivals:
        roomy.submit(partial(lambda n, check: served.append(n), who), deadline_s=None, client=who)
    told = {who: roomy.ahead_of(who) for who in arrivals}
    assert roomy.ahead_of("nobody") is None
    blocker.release.set()
    until(lambda: len(served) == len(arrivals) + 1)
    assert told == {who: served.index(who) + 1 for who in arrivals}  # and the one that ran
    assert roomy.ahead_of(arrivals[0]) is None


def test_whoever_was_served_longest_ago_goes_first_in_a_round(roomy: DeviceThread) -> None:
    assert turns(roomy, "gp") == "gp"
    assert turns(roomy, "pg") == "gp"  # p was served later than g


def greedy_and_polite(thread: DeviceThread) -> tuple[int, int]:
    """A client that has as many requests before the thread as it may at any moment, and one with
    one; how many turns each gets while the polite one has a request there."""
    order: list[str] = []
    go = threading.Semaphore(0)

    def turn(client: str, check: Check) -> None:
        assert go.acquire(timeout=PATIENCE)
        order.append(client)

    def ask(client: str) -> Job[None]:
        return thread.submit(partial(turn, client), deadline_s=None, client=client)

    def grab() -> None:
        with suppress(QueueFull):
            while True:
                ask("greedy")

    greedy = polite = 0
    grab()
    for _ in range(50):
        own, begun = ask("polite"), len(order)
        while "polite" not in order[begun:]:
            grab()
            before = len(order)
            go.release()
            until(lambda before=before: len(order) > before)
        own.future.result(PATIENCE)
        polite += 1
        greedy += order[begun:].count("greedy")
    go.release(10_000)
    return greedy, polite


@pytest.mark.parametrize("per_client", [None, 4])
def test_a_polite_client_beside_a_greedy_one_gets_a_third_of_the_turns_at_least(
    per_client: int | None,
) -> None:
    device = DeviceThread(places=16, per_client=per_client)
    device.start()
    try:
        greedy, polite = greedy_and_polite(device)
    finally:
        device.close()
    assert polite >= (greedy + polite) / 3


def test_a_client_without_a_place_gets_one_from_the_end_of_the_longest_line(
    thread: DeviceThread,
) -> None:
    blocker, _ = hold(thread)
    first, last = (thread.submit(lambda c: None, deadline_s=None, client="g") for _ in range(2))
    polite = thread.submit(lambda c: "served", deadline_s=None, client="p")
    with pytest.raises(QueueFull, match="gave its place up") as refusal:
        last.future.result(PATIENCE)
    assert refusal.value.retry_after >= 1
    assert thread.waiting == 2
    assert thread.counters["refused"] == 1
    # Two clients with a place each: nobody gives up more.
    for client in ("g", "p", "q"):
        with pytest.raises(QueueFull, match="wait already"):
            thread.submit(lambda c: None, deadline_s=None, client=client)
    blocker.release.set()
    first.future.result(PATIENCE)
    assert polite.future.result(PATIENCE) == "served"


def test_a_limit_may_go_by_the_client() -> None:
    device = DeviceThread(places=8, per_client={"far": 1}.get)
    device.start()
    try:
        blocker, _ = hold(device)
        for _ in range(3):
            device.submit(lambda c: None, deadline_s=None, client="near")
        device.submit(lambda c: None, deadline_s=None, client="far")
        with pytest.raises(QueueFull, match="You have 1 requests under way"):
            device.submit(lambda c: None, deadline_s=None, client="far")
        assert (device.held_by("near"), device.held_by("far"), device.waiting) == (3, 1, 4)
        blocker.release.set()
    finally:
        device.close()


def test_new_clients_without_end_do_not_keep_one_that_waits_from_its_turn(
    roomy: DeviceThread,
) -> None:
    """Each newcomer is served once, and so is who has waited: a round ends."""
    turns(roomy, "p")  # it was served just now, so it goes last in its round
    blocker, _ = hold(roomy)
    served: list[str] = []

    def serve(who: str, check: Check) -> None:
        served.append(who)
        if len(served) < 30:
            newcomer = f"new {len(served)}"
            roomy.submit(partial(serve, newcomer), deadline_s=None, client=newcomer)

    for who in ("new a", "p", "new b"):
        roomy.submit(partial(serve, who), deadline_s=None, client=who)
    blocker.release.set()
    until(lambda: len(served) >= 30)
    assert "p" in served[:4]


def test_what_the_owner_does_goes_before_all_that_waits_and_takes_no_place(
    thread: DeviceThread,
) -> None:
    blocker, _ = hold(thread)
    seen: list[str] = []
    for name in ("one", "two"):
        thread.submit(partial(lambda n, check: seen.append(n), name), deadline_s=None)
    owner = thread.submit(lambda check: seen.append("owner"), deadline_s=None, first=True)
    dropped = thread.submit(lambda check: seen.append("no"), deadline_s=None, first=True)
    dropped.cancel()
    step = thread.submit(lambda check: seen.append("step"), deadline_s=None, background=True)
    assert thread.waiting == 2
    blocker.release.set()
    owner.future.result(PATIENCE)
    step.future.result(PATIENCE)
    assert seen == ["owner", "one", "two", "step"]
    assert isinstance(dropped.future.exception(PATIENCE), Cancelled)
    assert thread.counters["dropped"] == 0
    assert thread.counters["done"] == 3


@pytest.mark.parametrize(("patience_s", "looks_hung"), [(0.0, True), (60.0, False), (None, False)])
def test_a_step_that_is_known_to_be_long_does_not_look_like_a_hang(
    thread: DeviceThread, clock: Clock, patience_s: float | None, looks_hung: bool
) -> None:
    blocker = Blocker(obedient=False)
    job = thread.submit(blocker, deadline_s=None, patience_s=patience_s)
    assert blocker.entered.wait(PATIENCE)
    clock.now += 50
    assert thread.heartbeat_age_s == (50.0 if looks_hung else 0.0)
    blocker.release.set()
    job.future.result(PATIENCE)


def test_a_reserved_place_counts_until_it_is_given_back() -> None:
    """Of two places one is reserved: one job may wait beside what runs, and it is the client's."""
    device = DeviceThread(places=2, per_client={"far": 1}.get)
    device.start()
    try:
        release = device.reserve("far")
        assert device.held_by("far") == 1
        for ask in (device.reserve, partial(device.submit, lambda check: None, deadline_s=None)):
            with pytest.raises(QueueFull, match="may have 1"):
                ask(client="far")
        blocker, running = hold(device)
        waiting = device.submit(lambda check: "served", deadline_s=None, client="near")
        with pytest.raises(QueueFull, match="2 requests wait already and 2 may"):
            device.reserve("near")
        # Background work needs no place: that is what the reserved one is for.
        step = device.submit(lambda check: "step", deadline_s=None, client="far", background=True)
        blocker.release.set()
        assert running.future.result(PATIENCE) == "released"
        assert waiting.future.result(PATIENCE) == "served"
        assert step.future.result(PATIENCE) == "step"
        release()
        assert device.held_by("far") == 0
        device.reserve("far")()
    finally:
        device.close()
