"""Whoever asks again before the time that it was told is held back, and nobody else is."""

from __future__ import annotations

import pytest
from asgi import PROMPT, Call, running
from fastapi import FastAPI
from waiting import Clock

from app.web import errors
from app.web.errors import HELD_S, Refusals
from engine.errors import QueueFull

pytestmark = pytest.mark.slow


def test_a_refusal_is_held_back_until_the_time_that_was_told() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    assert refusals.hold_s("a", 1) == 0
    clock.now += 0.25
    assert refusals.hold_s("b", 1) == 0  # another client
    assert refusals.hold_s("a", 1) == 0.75
    clock.now += 1.0  # at the time that it was told the second time
    assert refusals.hold_s("a", 60) == 0
    assert refusals.hold_s("a", 1) == HELD_S  # no longer than that, whatever it was told
    clock.now += 61
    assert refusals.hold_s("a", 1) == 0


async def test_only_who_does_not_wait_is_held_back(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, held = Clock(), []

    async def sleep(seconds: float) -> None:
        held.append(seconds)

    def full(*given: object, **named: object) -> None:
        raise QueueFull("The model is busy.", retry_after=1)

    app.state.refusals = Refusals(clock)
    monkeypatch.setattr(errors.asyncio, "sleep", sleep)
    async with running(app):
        monkeypatch.setattr(app.state.explorer.device, "submit", full)
        for client, wait in (("192.0.2.1", 0.25), ("192.0.2.1", 1.0), ("192.0.2.2", 0.0)):
            call = await Call(app, "/api/v1/trace", {"prompt": PROMPT}, client=client).answer()
            assert (call.status, call.headers["retry-after"]) == (503, "1")
            clock.now += wait
    assert held == [0, 0.75, 0]
