"""Jobs: one at a time, in steps that let others go first; cancelled, remembered, named again.

The steps here are not of any model: what is tested is the driving.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgi import settings_with
from waiting import PATIENCE, Clock, until

from app.jobs.job import POINTS, Job, JobView, interrupted
from app.jobs.lanes import Jobs
from app.main import create_app
from app.model.device import DeviceThread
from app.storage.store import Store
from app.web.problems import NotFound, StorageError
from engine.errors import OptionError, QueueFull
from engine.progress import Progress, Steps


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """By which the heartbeat and the time of a job go."""
    clock = Clock()
    clock.stand_in(monkeypatch, "app.model.device")
    clock.stand_in(monkeypatch, "app.jobs.job")
    clock.stand_in(monkeypatch, "app.jobs.lanes")
    return clock


@pytest.fixture
def device() -> Iterator[DeviceThread]:
    thread = DeviceThread(places=2)
    thread.start()
    yield thread
    thread.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data")
    yield store
    store.close()


@pytest.fixture
def jobs(device: DeviceThread, store: Store) -> Iterator[Jobs]:
    jobs = Jobs(device, places=2)
    jobs.begin(store)
    yield jobs
    jobs.close()


class Work:
    """Steps that stop at each place where they are not let on."""

    def __init__(self, total: int = 3, *, free: bool = True, result: str = "made") -> None:
        self.total = total
        self.result = result
        self.gate = threading.Semaphore(10**6 if free else 0)
        self.threads: list[str] = []
        self.entered = threading.Event()
        self.closed = threading.Event()
        self.saved: list[str] = []
        self.seen = 0

    def __call__(self) -> Steps[str]:
        try:
            for n in range(self.total):
                self.entered.set()
                assert self.gate.acquire(timeout=PATIENCE)
                self.threads.append(threading.current_thread().name)
                self.seen = n + 1
                yield Progress(n + 1, self.total, "walking", {"loss": 1 / (n + 1)})
            return self.result
        finally:
            self.threads.append(threading.current_thread().name)
            self.closed.set()

    def save(self, result: str) -> str:
        self.saved.append(result)
        return f"{result}-id"


def ended(jobs: Jobs, view: JobView) -> JobView:
    until(lambda: jobs.get(view.id).finished)
    return jobs.get(view.id)


def begin(jobs: Jobs, work: Work, **more: Any) -> JobView:
    return jobs.submit("walk", "A walk", work, work.save, **more)


def test_a_job_runs_is_saved_and_says_where_its_result_is(jobs: Jobs) -> None:
    work = Work()
    view = begin(jobs, work, href="/walks/{result}")
    assert view.state in ("queued", "running")
    view = ended(jobs, view)
    assert (view.state, view.result, view.result_href) == ("done", "made-id", "/walks/made-id")
    assert (view.done, view.total, view.share, view.note) == (3, 3, 1.0, "walking")
    assert work.saved == ["made"]
    assert [point["loss"] for point in view.history] == [1, 1 / 2, 1 / 3]
    assert view.started is not None
    assert view.ended is not None
    assert view.problem is None
    assert not view.restartable


def test_every_step_and_the_clean_up_run_on_the_device_thread(
    jobs: Jobs, device: DeviceThread
) -> None:
    work = Work(total=50)
    ended(jobs, begin(jobs, work))
    assert set(work.threads) == {"lexiscope-device"}
    # 50 steps, the end, making the generator, closing it, saving.
    assert device.steps >= 54
    assert device.counters["done"] == 0


def test_a_long_step_of_a_job_is_no_hang(jobs: Jobs, device: DeviceThread, clock: Clock) -> None:
    """A step calls no check on its way; a watchdog must not end the server in the middle of it."""
    inside, leave = threading.Event(), threading.Event()

    def steps() -> Steps[str]:
        inside.set()
        leave.wait(PATIENCE)
        yield Progress(1, 1)
        return "x"

    jobs.submit("probe", "long", steps, lambda result: result)
    assert inside.wait(PATIENCE)
    clock.now += 500
    assert device.heartbeat_age_s == 0.0
    clock.now += 300
    assert device.heartbeat_age_s > 150
    leave.set()


def test_the_other_lane_keeps_off_the_device_thread(jobs: Jobs, device: DeviceThread) -> None:
    inner, work = Work(total=2), Work(total=2)

    def steps() -> Steps[str]:
        first = yield from jobs.on_device(inner)
        rest = yield from work()
        return first + rest

    view = ended(jobs, jobs.submit("walk", "Both", steps, work.save, lane="process"))
    assert view.result == "mademade-id"
    assert set(inner.threads) == {"lexiscope-device"}
    assert set(work.threads) == {"lexiscope-jobs-process"}


def test_one_runs_and_the_others_queue_in_their_order(jobs: Jobs) -> None:
    first, second, third = Work(free=False), Work(), Work()
    views = [begin(jobs, first)]
    until(lambda: jobs.get(views[0].id).state == "running")
    views += [begin(jobs, second), begin(jobs, third)]
    assert [jobs.get(view.id).ahead for view in views] == [None, 1, 2]
    with pytest.raises(QueueFull, match="2 jobs wait already and 2 may"):
        begin(jobs, Work())
    # The other lane has its own places.
    assert ended(jobs, begin(jobs, Work(), lane="process")).state == "done"
    assert second.seen == 0
    first.gate.release(10)
    assert [ended(jobs, view).state for view in views] == ["done"] * 3
    assert [view.id for view in jobs.list()][-3:] == [view.id for view in reversed(views)]


def test_interactive_work_goes_between_two_steps_and_loses_no_place(
    jobs: Jobs, device: DeviceThread
) -> None:
    work = Work(total=5, free=False)
    view = begin(jobs, work)
    assert work.entered.wait(PATIENCE)
    assert device.waiting == 0  # a job takes no place
    order: list[int] = []
    asked = [
        device.submit(lambda check: order.append(work.seen), deadline_s=None) for _ in range(2)
    ]
    work.gate.release()
    for one in asked:
        one.future.result(PATIENCE)
    # Both went before the second step, which had come to the queue by itself.
    assert order == [1, 1]
    work.gate.release(10)
    assert ended(jobs, view).state == "done"


def test_a_crowd_of_clicks_is_served_while_a_job_runs(jobs: Jobs, device: DeviceThread) -> None:
    begun: list[int] = []

    def steps() -> Steps[str]:
        for n in itertools.count():
            begun.append(n)
            yield Progress(n, 0)
        return ""

    view = jobs.submit("walk", "Long", steps, lambda _: None)
    until(lambda: jobs.get(view.id).done > 3)
    for _ in range(50):
        click = device.submit(lambda check: len(begun), deadline_s=None)
        stood = len(begun)
        # It waits for the step under way at most, which may begin while it comes.
        assert click.future.result(PATIENCE) - stood <= 1
    jobs.cancel(view.id)
    assert ended(jobs, view).state == "cancelled"


def test_cancel_stops_after_the_step_cleans_up_and_saves_nothing(
    jobs: Jobs, device: DeviceThread
) -> None:
    work = Work(total=1000, free=False)
    view = begin(jobs, work, spec={"n": 1})
    until(lambda: jobs.get(view.id).state == "running")
    work.gate.release(2)
    until(lambda: jobs.get(view.id).done == 2)
    assert jobs.cancel(view.id).stopping
    work.gate.release()  # the step that was under way
    view = ended(jobs, view)
    assert view.state == "cancelled"
    assert work.closed.is_set()
    assert work.threads[-1] == "lexiscope-device"
    assert work.seen <= 3
    assert work.saved == []
    assert view.restartable
    until(lambda: device.running is None)


def test_a_job_that_waits_is_cancelled_at_once(jobs: Jobs) -> None:
    first, second = Work(free=False), Work()
    begin(jobs, first)
    view = begin(jobs, second)
    assert jobs.cancel(view.id).state == "cancelled"
    first.gate.release(10)
    assert ended(jobs, begin(jobs, Work())).state == "done"
    assert second.seen == 0


def test_a_cancelled_step_that_still_waits_for_the_device_never_runs(
    jobs: Jobs, device: DeviceThread
) -> None:
    hold = threading.Event()
    held = device.submit(lambda check: hold.wait(PATIENCE), deadline_s=None)
    work = Work()
    view = begin(jobs, work)
    until(lambda: jobs.get(view.id).state == "running")
    until(lambda: device._background)
    jobs.cancel(view.id)
    until(lambda: not device._background)
    hold.set()
    held.future.result(PATIENCE)
    assert ended(jobs, view).state == "cancelled"
    assert work.seen == 0


def test_a_failure_is_one_sentence_and_the_lane_goes_on(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    def known() -> Steps[str]:
        yield Progress(0, 2)
        raise OptionError("the column 'x' is not there.")

    def unknown() -> Steps[str]:
        yield Progress(0, 2)
        raise ZeroDivisionError("planted secret")

    def full(_: str) -> str:
        raise OSError(28, "No space left on device")

    view = ended(jobs, jobs.submit("walk", "", known, lambda _: None))
    assert (view.state, view.problem) == ("failed", "the column 'x' is not there.")
    view = ended(jobs, jobs.submit("walk", "", unknown, lambda _: None))
    assert view.problem is not None
    assert "secret" not in view.problem
    assert view.id in view.problem
    assert "planted secret" in caplog.text
    view = ended(jobs, jobs.submit("walk", "", Work(), full))
    assert view.state == "failed"
    assert "disk is full" in str(view.problem)
    assert ended(jobs, begin(jobs, Work())).state == "done"


@pytest.mark.parametrize(("step_s", "hangs"), [(0.0, True), (60.0, False)])
def test_a_step_has_the_patience_that_is_set_and_no_more(
    device: DeviceThread, clock: Clock, step_s: float, hangs: bool
) -> None:
    """Within a step there is no sign of life; how long that is no hang, the operator may say."""
    jobs = Jobs(device, step_s=step_s)
    assert create_app(settings_with(step_patience_s=step_s)).state.jobs._step_s == step_s
    jobs.begin(None)
    work = Work(free=False)
    begin(jobs, work)
    assert work.entered.wait(PATIENCE)
    clock.now += 50
    assert device.heartbeat_age_s == (50.0 if hangs else 0.0)
    work.gate.release(3)
    jobs.close()


def test_the_same_key_under_way_is_one_job(jobs: Jobs) -> None:
    work = Work(free=False)
    view = begin(jobs, work, key="map 1")
    assert begin(jobs, Work(), key="map 1").id == view.id
    assert begin(jobs, Work(), key="map 2").id != view.id
    work.gate.release(10)
    ended(jobs, view)
    again = begin(jobs, Work(), key="map 1")
    assert again.id != view.id
    ended(jobs, again)


def test_the_curve_is_thinned_evenly(jobs: Jobs) -> None:
    view = ended(jobs, begin(jobs, Work(total=5 * POINTS)))
    places = [point["done"] for point in view.history]
    assert POINTS / 2 <= len(places) <= POINTS
    assert places[0] == 1
    assert places[-1] >= 5 * POINTS - 8
    steps = {after - before for before, after in pairwise(places)}
    assert steps == {8}


def test_the_time_left_follows_the_pace(jobs: Jobs, clock: Clock) -> None:
    """Three seconds a step, and another pace in the next phase."""
    turn = threading.Semaphore(0)

    def steps() -> Steps[str]:
        for total in (100, 50):
            for n in range(1, total + 1):
                assert turn.acquire(timeout=PATIENCE)
                yield Progress(n, total)
        return ""

    def after(steps: int, seconds: float, *, total: int, done: int) -> JobView:
        for _ in range(steps):
            clock.now += seconds
            turn.release()
        until(lambda: (jobs.get(view.id).total, jobs.get(view.id).done) == (total, done))
        return jobs.get(view.id)

    view = jobs.submit("walk", "", steps, lambda _: None, lane="process")
    until(lambda: jobs.get(view.id).state == "running")
    after(1, 0, total=100, done=1)
    now = after(39, 3, total=100, done=40)
    assert now.seconds_left == pytest.approx(60 * 3)
    assert now.seconds_run == pytest.approx(39 * 3)
    after(60, 3, total=100, done=100)
    after(1, 3, total=50, done=1)
    assert after(24, 5, total=50, done=25).seconds_left == pytest.approx(25 * 5)
    turn.release(100)
    assert ended(jobs, view).state == "done"


def test_the_mark_says_what_is_under_way(jobs: Jobs) -> None:
    assert jobs.mark is None
    work = Work(free=False)
    view = begin(jobs, work)
    until(lambda: jobs.get(view.id).state == "running")
    waiting = begin(jobs, Work())
    assert jobs.mark is not None
    assert (jobs.mark.text, jobs.mark.level) == ("1 running", "wait")
    work.gate.release(100)
    ended(jobs, view)
    ended(jobs, waiting)
    assert jobs.mark is None


def test_a_server_that_stops_says_what_it_interrupted(
    device: DeviceThread, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs(device)
    jobs.begin(store)
    work = Work(total=1000, free=False)
    running, waiting = begin(jobs, work, spec={}), begin(jobs, Work(), spec={})
    work.gate.release(2)
    until(lambda: jobs.get(running.id).done == 2)
    work.gate.release()
    jobs.close()
    assert work.closed.is_set()
    again = Jobs(device)
    again.begin(store)
    views = [again.get(running.id), again.get(waiting.id)]
    assert [view.state for view in views] == ["interrupted", "interrupted"]
    assert " of 1000 (walking)" in str(views[0].problem)
    assert "before this ran" in str(views[1].problem)
    assert all(view.restartable for view in views)
    assert all(view.id in caplog.text for view in views)
    assert not any(view.title in caplog.text for view in views)  # people's own names
    assert again.mark is not None
    assert (again.mark.text, again.mark.level) == ("2 interrupted", "note")
    assert [view.started is None for view in views] == [False, True]
    assert [view.seconds_run is None for view in views] == [False, True]
    again.settle(running.id)
    assert not again.get(running.id).restartable
    row = next(row for row in store.jobs() if row["id"] == waiting.id)
    store.put_job({**row, "state": "running", "ended": None})  # as one that was killed leaves it
    caplog.clear()
    later = Jobs(device)
    later.begin(store)
    assert waiting.id in caplog.text
    assert later.mark is not None
    assert later.mark.text == "1 interrupted"
    later.close()
    with pytest.raises(QueueFull, match="shutting down"):
        begin(jobs, Work())
    again.close()


def test_only_the_latest_are_remembered(device: DeviceThread, store: Store) -> None:
    jobs = Jobs(device, kept=3)
    jobs.begin(store)
    views = [ended(jobs, begin(jobs, Work(total=1))) for _ in range(5)]
    until(lambda: len(jobs.list()) == 3)
    assert [view.id for view in jobs.list()] == [view.id for view in reversed(views[2:])]
    assert len(store.jobs()) == 3
    jobs.forget(views[-1].id)
    with pytest.raises(NotFound):
        jobs.get(views[-1].id)
    assert len(store.jobs()) == 2
    jobs.close()


def test_no_job_is_taken_when_the_disk_is_full(device: DeviceThread, tmp_path: Path) -> None:
    store = Store(tmp_path, reserve=2**62)
    jobs = Jobs(device)
    jobs.begin(store)
    with pytest.raises(StorageError, match="are to stay free"):
        begin(jobs, Work())
    assert jobs.list() == ()
    jobs.close()
    store.close()


def test_jobs_run_without_a_data_folder(device: DeviceThread) -> None:
    jobs = Jobs(device)
    jobs.begin(None)
    assert ended(jobs, begin(jobs, Work())).state == "done"
    jobs.close()


@pytest.mark.parametrize("written", [True, False])
def test_the_time_of_a_job_is_that_of_its_work_and_not_of_the_night(
    device: DeviceThread, store: Store, written: bool
) -> None:
    """A row of a killed server says how long it ran; one of an older version does not say."""
    row = Job(id="1" * 24, kind="walk", title="", lane="device", created=0.0).row()
    row |= {"state": "running", "started": -50_000.0, "ran_s": 12.5}
    if not written:
        del row["ran_s"]
    store.put_job(row)
    jobs = Jobs(device)
    jobs.begin(store)
    view = jobs.get(row["id"])
    assert view.state == "interrupted"
    assert view.seconds_run == (12.5 if written else None)
    jobs.close()
    assert store.jobs()[0]["ran_s"] == view.seconds_run


def test_an_interrupted_job_is_not_said_to_stand_in_two_places() -> None:
    lost: Any = SimpleNamespace(progress=SimpleNamespace(note="", done=0, total=None))
    lost.resumes = "step 78 of 200"
    sentence = interrupted("The server ended", lost)
    assert sentence == ("The server ended while this ran; resumed, it goes on from step 78 of 200.")
    lost.resumes = None
    assert ", at its beginning; nothing" in interrupted("The server ended", lost)


def test_clients_take_turns_and_each_has_its_share(device: DeviceThread) -> None:
    """One asks for four jobs before two others ask for one each: these come second and third."""
    share = {"greedy": 4}
    jobs = Jobs(device, places=8, per_client=share.get)
    jobs.begin(None)
    try:
        first = Work(total=1, free=False)
        views = [begin(jobs, first, client="greedy")]
        assert first.entered.wait(PATIENCE)
        ran: list[str] = []

        def work(name: str) -> Any:
            def steps() -> Steps[str]:
                ran.append(name)
                yield Progress(1, 1)
                return name

            return steps

        def ask(name: str, client: str) -> JobView:
            return jobs.submit("walk", name, work(name), lambda made: made, client=client)

        views += [ask(f"greedy {n}", "greedy") for n in range(3)]
        with pytest.raises(QueueFull, match="4 jobs under way already and may have 4"):
            ask("greedy 3", "greedy")
        with pytest.raises(QueueFull):  # whatever lane it is for
            jobs.submit("walk", "x", work("x"), str, client="greedy", lane="process")
        others = [ask("polite", "polite"), ask("third", "third")]
        assert [jobs.get(view.id).ahead for view in (*views[1:], *others)] == [3, 4, 5, 1, 2]
        first.gate.release()
        for view in (*views, *others):
            assert ended(jobs, view).state == "done"
        assert ran == ["polite", "third", "greedy 0", "greedy 1", "greedy 2"]
        assert ended(jobs, ask("greedy 4", "greedy")).state == "done"
    finally:
        jobs.close()
