"""The explorer under load: one computation for many, room for the next, nobody waits for ever."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import uvicorn
from asgi import PROMPT, Blocked, Call, load_tiny, running, settings_with, until
from hypothesis import given
from hypothesis import strategies as st
from waiting import PATIENCE
from waiting import until as wait_until

from app.main import create_app
from app.model.cache import ResultCache, footprint
from app.model.explorer import token_reference
from app.trace.reading import predict_cost
from app.web.problems import less
from engine import LatentSpace, TraceOptions
from engine.errors import DeadlineExceeded, ModelNotFound, TokenError

TRACE = "/api/v1/trace"


def blocked_app(space: LatentSpace, **settings: Any) -> tuple[Any, Blocked]:
    blocked = Blocked(space)
    return create_app(settings_with(**settings), blocked), blocked  # type: ignore[arg-type]


async def test_identical_requests_under_way_are_computed_once(space: LatentSpace) -> None:
    app, blocked = blocked_app(space)
    async with running(app):
        calls = [Call(app, TRACE, {"prompt": PROMPT}) for _ in range(5)]
        await until(blocked.entered.is_set)
        await until(lambda: sum(f.waiters for f in app.state.explorer._flights.values()) == 5)
        blocked.release.set()
        answers = [await call.answer() for call in calls]
    assert [answer.status for answer in answers] == [200] * 5
    assert len({answer.body for answer in answers}) == 1
    assert blocked.calls == [PROMPT]


async def test_a_repeat_is_answered_from_memory(space: LatentSpace) -> None:
    app, blocked = blocked_app(space)
    blocked.release.set()
    async with running(app):
        first = await Call(app, TRACE, {"prompt": PROMPT}).answer()
        second = await Call(app, TRACE, {"prompt": PROMPT}).answer()
        other = await Call(app, TRACE, {"prompt": PROMPT, "k": 3}).answer()
    assert first.body == second.body
    assert other.body != first.body
    assert len(blocked.calls) == 2


async def test_shared_work_goes_on_while_one_of_its_waiters_is_left(space: LatentSpace) -> None:
    app, blocked = blocked_app(space)
    async with running(app):
        leaver = Call(app, TRACE, {"prompt": PROMPT})
        stayer = Call(app, TRACE, {"prompt": PROMPT})
        await until(lambda: sum(f.waiters for f in app.state.explorer._flights.values()) == 2)
        await until(blocked.entered.is_set)
        leaver.leave()
        await leaver.answer()
        blocked.release.set()
        assert (await stayer.answer()).status == 200
    assert blocked.stopped == []


async def test_work_that_nobody_waits_for_stops_between_two_layers(space: LatentSpace) -> None:
    app, blocked = blocked_app(space)
    async with running(app):
        call = Call(app, TRACE, {"prompt": PROMPT})
        await until(blocked.entered.is_set)
        call.leave()
        await call.answer()
        await until(lambda: blocked.stopped == ["Cancelled"])
        await until(lambda: app.state.explorer.device.running is None)
        blocked.release.set()
        # Asking again starts afresh; it does not join what was cancelled.
        assert (await Call(app, TRACE, {"prompt": PROMPT}).answer()).status == 200
    assert app.state.explorer.device.counters["cancelled"] == 1


async def test_a_client_that_leaves_the_queue_frees_its_place(space: LatentSpace) -> None:
    app, blocked = blocked_app(space, queue_places=1)
    device = app.state.explorer.device
    async with running(app):
        running_call = Call(app, TRACE, {"prompt": "one"})
        await until(blocked.entered.is_set)
        waiting = Call(app, TRACE, {"prompt": "two"})
        await until(lambda: device.waiting == 1)
        refused = await Call(app, TRACE, {"prompt": "three"}).answer()
        assert refused.status == 503
        waiting.leave()
        await waiting.answer()
        assert device.waiting == 0
        taken = Call(app, TRACE, {"prompt": "four"})
        await until(lambda: device.waiting == 1)
        blocked.release.set()
        assert (await taken.answer()).status == 200
        assert (await running_call.answer()).status == 200
    assert blocked.calls == ["one", "four"]
    assert device.counters["dropped"] == 1


@pytest.mark.slow
async def test_a_full_queue_is_answered_503_with_a_time_and_a_sentence(space: LatentSpace) -> None:
    app, blocked = blocked_app(space, queue_places=2)
    async with running(app):
        first = Call(app, TRACE, {"prompt": "one"})
        await until(blocked.entered.is_set)
        others = [Call(app, TRACE, {"prompt": f"more {n}"}) for n in range(2)]
        await until(lambda: app.state.explorer.device.waiting == 2)
        refused = await Call(app, TRACE, {"prompt": "too many"}).answer()
        page = await Call(app, "/", {"prompt": "too many"}).answer()
        ready = await Call(app, "/readyz").answer()
        alive = await Call(app, "/livez").answer()
        blocked.release.set()
        for call in (first, *others):
            assert (await call.answer()).status == 200
    for answer in (refused, page):
        assert answer.status == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert refused.json["error"]["sentence"].startswith("The model is busy")
    assert "The model is busy" in page.body.decode()
    assert ready.status == 503
    assert alive.status == 200


async def test_what_a_page_computed_is_written_out_without_computing_again(
    space: LatentSpace,
) -> None:
    app, blocked = blocked_app(space)
    blocked.release.set()
    async with running(app):
        page = await Call(app, "/", {"prompt": PROMPT}).answer()
        data = await Call(app, TRACE, {"prompt": PROMPT}).answer()
        table = await Call(app, "/api/v1/trace.csv", {"prompt": PROMPT}).answer()
    assert [page.status, data.status, table.status] == [200] * 3
    assert blocked.calls == [PROMPT]


async def test_a_forward_pass_stops_between_two_of_the_models_own_layers(
    model_folder: Path, cache: Path
) -> None:
    """The real engine, cancelled while its forward pass is under way."""
    space = load_tiny(model_folder, cache)
    entered, release = threading.Event(), threading.Event()
    seen: list[str] = []

    class Paused(Blocked):
        def _read(self, tokens: Any, options: Any, check: Any) -> Any:
            def slow_check() -> None:
                seen.append("asked")
                if seen.count("asked") == 2:
                    entered.set()
                    release.wait(PATIENCE)
                check()
                seen.append("went on")

            return LatentSpace._read(self, tokens, options, slow_check)

    app = create_app(settings_with(), Paused(space))  # type: ignore[arg-type]
    before = space.forward_passes
    async with running(app):
        call = Call(app, TRACE, {"prompt": "words that were never read"})
        await until(entered.is_set)
        call.leave()
        await call.answer()
        release.set()
        await until(lambda: app.state.explorer.device.running is None)
    assert seen.count("asked") == seen.count("went on") + 1
    assert space.forward_passes == before
    assert app.state.explorer.device.counters["cancelled"] == 1


def test_a_closed_socket_stops_the_work_behind_a_real_server(space: LatentSpace) -> None:
    """The same through uvicorn, whose own news of the end it is that we wait for."""
    app, blocked = blocked_app(space)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        with socket.create_connection(listener.getsockname(), timeout=PATIENCE) as client:
            client.sendall(b"GET /api/v1/trace?prompt=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert blocked.entered.wait(PATIENCE)
        wait_until(lambda: blocked.stopped)
        assert blocked.stopped == ["Cancelled"]
    finally:
        blocked.release.set()
        server.should_exit = True
        thread.join(PATIENCE)
        listener.close()
    assert not thread.is_alive()


async def test_past_the_deadline_the_answer_is_504_and_the_work_stops(space: LatentSpace) -> None:
    app, blocked = blocked_app(space, deadline_s=0.05)
    async with running(app):
        answer = await Call(app, TRACE, {"prompt": PROMPT}).answer()
        await until(lambda: blocked.stopped)
    assert answer.status == 504
    assert answer.json["error"]["sentence"].endswith(".")
    assert blocked.stopped[0] in ("DeadlineExceeded", "Cancelled")


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/", "; ask for fewer layers or a shorter prompt."),
        (TRACE, "; ask for fewer layers or a shorter prompt."),
        ("/bases?token=cat", "; ask for fewer tokens."),
        ("/map/quality", "; put fewer points on the map."),
        ("/calibrate?set=topics", "; use fewer rows or shorter texts."),
        (f"/api/v1/calibrations/{'0' * 24}/trace", "; use a shorter prompt."),
    ],
)
def test_what_is_advised_fits_what_was_asked_for(path: str, advice: str) -> None:
    assert f"; {less(path.partition('?')[0])}." == advice


async def test_what_took_too_long_says_so_in_words_that_fit_the_page(
    space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops it: the device thread, which knows nothing of pages, or the event loop."""
    app, _ = blocked_app(space, deadline_s=1)

    async def late(*_: object) -> object:
        raise DeadlineExceeded("The work took longer than allowed; ask for a shorter prompt.")

    monkeypatch.setattr("app.model.explorer.while_connected", late)
    async with running(app):
        for path, query, less_of_it in (
            (TRACE, {"prompt": PROMPT}, "ask for fewer layers or a shorter prompt."),
            ("/calibrate", {"set": "topics"}, "use fewer rows or shorter texts."),
            ("/api/v1/map/meta", {}, "put fewer points on the map."),
        ):
            answer = await Call(app, path, query).answer()
            assert answer.status == 504, path
            told = f"The answer took longer than 1 second and was stopped; {less_of_it}"
            assert told in answer.body.decode(), path


async def test_what_never_came_to_its_turn_is_told_so_and_not_to_be_shorter(
    space: LatentSpace,
) -> None:
    app, blocked = blocked_app(space, deadline_s=0.05)
    entered, release = threading.Event(), threading.Event()

    def other(check: object) -> None:
        entered.set()
        release.wait(PATIENCE)

    async with running(app):
        app.state.explorer.device.submit(other, deadline_s=None, client="192.0.2.9")
        await until(entered.is_set)
        asked = Call(app, TRACE, {"prompt": PROMPT})
        await until(lambda: app.state.explorer.device.waiting == 1)
        queue = (await Call(app, "/api/v1/queue").answer()).json
        answer = await asked.answer()
        release.set()
    assert (queue["ahead"], queue["own"], queue["waiting"]) == (1, 1, 1)
    assert answer.status == 504
    told = answer.json["error"]["sentence"]
    assert "busy with other work" in told
    assert "did not begin" in told
    assert "shorter" not in told
    assert blocked.calls == []


async def test_one_address_cannot_take_every_place(space: LatentSpace) -> None:
    app, blocked = blocked_app(space, client_places=1)
    async with running(app):
        first = Call(app, TRACE, {"prompt": "one"}, client="192.0.2.1")
        await until(blocked.entered.is_set)
        greedy = await Call(app, TRACE, {"prompt": "two"}, client="192.0.2.1").answer()
        polite = Call(app, TRACE, {"prompt": "three"}, client="192.0.2.2")
        await until(lambda: app.state.explorer.device.waiting == 1)
        blocked.release.set()
        assert greedy.status == 503
        assert (await polite.answer()).status == 200
        assert (await first.answer()).status == 200


async def test_leaving_is_no_error_and_nothing_is_logged(
    space: LatentSpace, caplog: pytest.LogCaptureFixture
) -> None:
    app, blocked = blocked_app(space)
    async with running(app):
        call = Call(app, TRACE, {"prompt": PROMPT})
        await until(blocked.entered.is_set)
        call.leave()
        assert (await call.answer()).status == 499
        await until(lambda: app.state.explorer.device.running is None)
    assert [r for r in caplog.records if r.levelname in ("ERROR", "CRITICAL")] == []


async def test_while_the_model_loads_pages_live_and_readings_are_503(
    space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def slowly(settings: object, *rest: object) -> LatentSpace:
        go.wait(PATIENCE)
        return space

    monkeypatch.setattr("app.model.explorer.load_space", slowly)
    app = create_app(settings_with())
    async with running(app):
        explorer = app.state.explorer
        assert explorer.state == "loading"
        assert (await Call(app, "/livez").answer()).status == 200
        ready = await Call(app, "/readyz").answer()
        assert (ready.status, ready.json["state"]) == (503, "loading")
        reading = await Call(app, TRACE, {"prompt": PROMPT}).answer()
        assert reading.status == 503
        assert "retry-after" in reading.headers
        go.set()
        await explorer.loaded()
        assert (await Call(app, "/readyz").answer()).status == 200
        assert (await Call(app, TRACE, {"prompt": PROMPT}).answer()).status == 200


async def test_a_model_that_is_not_there_is_said_in_every_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(settings: object, *rest: object) -> LatentSpace:
        raise ModelNotFound("There is no model in that folder.")

    monkeypatch.setattr("app.model.explorer.load_space", missing)
    app = create_app(settings_with())
    async with running(app):
        await app.state.explorer.loaded()
        reading = await Call(app, TRACE, {"prompt": PROMPT}).answer()
        again = await Call(app, "/api/v1/check").answer()
        ready = await Call(app, "/readyz").answer()
        method = await Call(app, "/method").answer()
        alive = await Call(app, "/livez").answer()
    assert (reading.status, again.status) == (404, 404)
    assert reading.json["error"]["sentence"] == "There is no model in that folder."
    assert ready.json["reason"] == "There is no model in that folder."
    assert (method.status, alive.status) == (200, 200)


async def test_an_unforeseen_failure_while_loading_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(settings: object, *rest: object) -> LatentSpace:
        raise RuntimeError("planted secret")

    monkeypatch.setattr("app.model.explorer.load_space", broken)
    app = create_app(settings_with())
    async with running(app):
        await app.state.explorer.loaded()
        reading = await Call(app, TRACE, {"prompt": PROMPT}).answer()
    assert reading.status == 503
    assert b"planted" not in reading.body
    assert "planted secret" in caplog.text


async def test_a_late_waiter_extends_the_time_of_shared_work(space: LatentSpace) -> None:
    app, blocked = blocked_app(space, deadline_s=30.0)
    async with running(app):
        first = Call(app, TRACE, {"prompt": PROMPT})
        await until(blocked.entered.is_set)
        (flight,) = app.state.explorer._flights.values()
        before = flight.job._watch.until
        second = Call(app, TRACE, {"prompt": PROMPT})
        await until(lambda: flight.waiters == 2)
        assert flight.job._watch.until > before
        blocked.release.set()
        await asyncio.gather(first.answer(), second.answer())


def test_the_cache_keeps_to_its_bytes_and_forgets_what_was_used_least() -> None:
    cache = ResultCache(100)
    for name in "abcd":
        cache.put(name, name.upper(), 25)
    assert cache.get("a") == "A"  # used now, so b goes first
    cache.put("e", "E", 25)
    assert cache.get("b") is None
    assert [cache.get(n) for n in "acde"] == ["A", "C", "D", "E"]
    cache.put("huge", "H", 26)
    assert cache.get("huge") is None
    cache.put("a", "again", 5)
    assert (cache.get("a"), cache.size) == ("again", 80)


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=60))
def test_the_cache_never_holds_more_than_its_limit(puts: list[tuple[int, int]]) -> None:
    cache = ResultCache(100)
    for key, size in puts:
        cache.put(key, key, size)
        assert 0 <= cache.size <= 100
    assert cache.size == sum(size for _, size in cache._held.values())


def test_the_footprint_counts_arrays_once_and_survives_cycles() -> None:
    array = np.zeros(1000, dtype=np.float64)
    once, twice = footprint([array]), footprint([array, array])
    assert 8000 <= once < 9000
    assert twice - once < 100
    loop: list[object] = []
    loop.append(loop)
    assert footprint(loop) > 0


def test_a_token_is_named_by_text_or_by_number() -> None:
    assert token_reference("#262") == 262
    assert token_reference("# 262") == "# 262"
    assert token_reference("#") == "#"
    assert token_reference("262") == "262"
    assert token_reference("##5") == "##5"
    with pytest.raises(TokenError):
        token_reference("#" + "9" * 4000)


async def test_a_call_to_the_engine_answers_the_engines_own_value(
    space: LatentSpace, reference: LatentSpace
) -> None:
    """Through the API each is called; here each result is what the engine says by itself."""
    app = create_app(settings_with(), space)
    async with running(app):
        explorer = app.state.explorer

        class Here:
            client = None
            scope: ClassVar[dict[str, Any]] = {}

            async def receive(self) -> dict[str, str]:
                await asyncio.Event().wait()
                return {}

        here: Any = Here()
        options = TraceOptions(k=3)
        trace = await explorer.ask(here, LatentSpace.trace, PROMPT, options)
        np.testing.assert_array_equal(trace.top_ids, reference.trace(PROMPT, options).top_ids)
        cell = await explorer.ask(here, LatentSpace.cell, PROMPT, 1, 0, options)
        assert (cell.layer, cell.position) == (1, 0)
        assert (
            await explorer.ask(here, LatentSpace.agreement, PROMPT, options)
        ).layers == trace.layers
        curves = await explorer.ask(here, LatentSpace.curves, PROMPT, (5, 6), options)
        assert [token.id for token in curves.tokens] == [5, 6]
        basis = await explorer.ask(here, LatentSpace.bases, 5, k=4)
        assert (basis.id, len(basis.neighbours)) == (5, 4)
        report = await explorer.ask(here, LatentSpace.frame_report, "output")
        assert report.rank == reference.frame_report("output").rank
        found = await explorer.ask(here, LatentSpace.search, "cat", limit=5)
        assert found
        assert all("cat" in hit.token.text for hit in found)
        tokens = reference.tokenize(PROMPT)
        cost = await explorer.ask(here, predict_cost, PROMPT, options)
        assert cost.tokens == len(tokens.ids)
        assert cost.predicted_bytes > 0
        assert explorer.info.layers == explorer.info.blocks + 1 == 4
        assert explorer.self_check is space.self_check
