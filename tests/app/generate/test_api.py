"""A text that goes on, over the API and the command line: the contract, the events, the queue."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgi import PROMPT, Call, running, settings_with, share, until
from fastapi import FastAPI
from same_numbers import assert_same_text
from starlette.testclient import TestClient

from app.cli import main as cli
from app.main import create_app
from engine import GenerateOptions, LatentSpace, TraceOptions
from engine.progress import Check

ASKED: dict[str, Any] = {
    "prompt": PROMPT, "tokens": 6, "temperature": 0.9, "top_p": 0.8, "top_k": 50, "seed": 5,
    "frame": "tight", "geometry": "l2", "k": 2, "fork": "2:40.4:41",
}  # fmt: skip


def events(body: bytes) -> list[dict[str, Any]]:
    assert body.endswith(b"\n")
    return [json.loads(line) for line in body.splitlines()]


class Stepped:
    """A model that says when it takes a step, and may be held or fail there."""

    def __init__(self, model: Any, before: Callable[[Check], None]) -> None:
        self._model, self._before = model, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def advance(self, *given: Any, check: Check) -> Any:
        self._before(check)
        return self._model.advance(*given, check=check)


class Watched(LatentSpace):
    """A space with something done before each step of the model in a text that goes on."""

    def __init__(self, space: LatentSpace, before: Callable[[Check], None]) -> None:
        share(self, space)
        self._before = before

    def _to_write(self, *given: Any) -> Any:
        model, tokens, reader = super()._to_write(*given)
        return Stepped(model, self._before), tokens, reader


class Slow(Watched):
    """A space whose text waits before each token but the first until it is let go."""

    def __init__(self, space: LatentSpace) -> None:
        super().__init__(space, self._wait)
        self.steps = 0
        self.waits, self.go_on, self.stopped = (threading.Event() for _ in range(3))

    def _wait(self, check: Check) -> None:
        if self.steps:
            self.waits.set()
            while not self.go_on.wait(0.002):
                try:
                    check()
                except Exception:
                    self.stopped.set()
                    raise
        self.steps += 1


@pytest.fixture
def slow(space: LatentSpace) -> Slow:
    return Slow(space)


def test_the_contract_of_a_text_that_goes_on(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    found = shared_client.get("/api/v1/generate", params=ASKED).json()
    reading = TraceOptions(frame="tight", geometry="l2", k=2)
    own = reference.generation(
        PROMPT,
        GenerateOptions(
            tokens=6, temperature=0.9, top_p=0.8, top_k=50, seed=5, forced=((2, 40), (4, 41)),
            reading=reading,
        ),
    )  # fmt: skip
    assert found["prompt"] == PROMPT
    assert found["text"] == own.text == PROMPT + found["continuation"]
    assert [one["id"] for one in found["tokens"]] == [one.token.id for one in own.columns]
    assert [found["tokens"][n]["id"] for n in (2, 4)] == [40, 41]
    assert found["deep_thinking_ratio"] == own.thinking.found.ratio
    assert [one["kind"] for one in found["controls"]] == ["random", "shuffled"]
    for one, column in zip(found["tokens"], own.columns, strict=True):
        assert 0 <= one["probability"] <= 1
        assert one["settling_layer"] == column.settling_layer
        assert [cell["layer"] for cell in one["layers"]] == [0, 1, 2, 3]
        assert [cell["top"][0]["id"] for cell in one["layers"]] == column.top_ids[:, 0].tolist()
        chances = [each["probability"] for each in one["alternatives"]]
        assert chances == sorted(chances, reverse=True)
    assert found["provenance"]["fingerprint"] == reference.model.fingerprint
    assert found["options"]["reading"]["frame"] == "tight"


def test_the_events_are_the_same_numbers(shared_client: TestClient) -> None:
    whole = shared_client.post("/api/v1/generate", json=ASKED).json()
    asked = {**ASKED, "stream": "true"}
    for how in (
        {"params": asked},
        {"params": ASKED, "headers": {"Accept": "application/x-ndjson"}},
    ):
        answer = shared_client.get("/api/v1/generate", **how)  # type: ignore[arg-type]
        assert answer.headers["content-type"] == "application/x-ndjson"
        *tokens, end = events(answer.content)
        assert {one.pop("event") for one in tokens} == {"token"}
        assert tokens == whole["tokens"]
        assert end.pop("event") == "end"
        assert end == {name: value for name, value in whole.items() if name != "tokens"}


def test_the_command_line_prints_the_same_bytes(
    shared_client: TestClient, model_folder: Path, capfdbinary: Any
) -> None:
    answer = shared_client.get("/api/v1/generate", params=ASKED)
    options = [
        part
        for name, value in ASKED.items()
        if name != "prompt"
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    assert cli.main(["generate", PROMPT, *where, *options, "--json"]) == 0
    assert_same_text(capfdbinary.readouterr().out, answer.content)


def test_the_command_line_without_json(model_folder: Path, capfdbinary: Any) -> None:
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    assert cli.main(["generate", PROMPT, *where, "--tokens", "3", "--fork", "1:40"]) == 0
    printed = capfdbinary.readouterr().out.decode()
    assert printed.startswith(PROMPT)
    table = [line for line in printed.splitlines() if "0." in line]
    assert len(table) == 3
    assert table[1].endswith("forced")
    assert "of 3 tokens settle only at layer 3 of 3 or above" in printed.replace("\n", " ")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"tokens": 257}, "from 1 to 256"),
        ({"tokens": 200}, "tokens are left behind this prompt"),
        ({"prompt": " cat" * 63, "tokens": 2}, "ask for at most"),
        ({"prompt": "cat " * 80}, "at most 64 tokens"),
        ({"prompt": ""}, "empty"),
        ({"fork": "9:4", "tokens": 3}, "number of a new token"),
        ({"fork": "1:999999"}, "token id must be in"),
        ({"chat": "true"}, "no chat template"),
        ({"lens": "linear"}, "not fitted"),
        ({"centred": "true"}, "does not know"),
        ({"alpha": 0.3}, "alpha"),
    ],
)
def test_mistakes_are_refused_before_an_answer_begins(
    shared_client: TestClient, asked: dict[str, Any], told: str
) -> None:
    for stream in ("false", "true"):
        given = {"prompt": PROMPT, "stream": stream, **asked}
        answer = shared_client.get("/api/v1/generate", params=given)
        assert answer.status_code == 422, answer.text
        assert told.lower() in answer.json()["error"]["sentence"].lower()


async def test_the_first_token_is_sent_before_the_second_is_computed(slow: Slow) -> None:
    app = create_app(settings_with(), slow)
    async with running(app):
        call = Call(app, "/api/v1/generate", {"prompt": PROMPT, "tokens": 3, "stream": "true"})
        await until(lambda: slow.waits.is_set() and call.body)
        assert [one["event"] for one in events(call.body)] == ["token"]
        assert slow.steps == 1
        slow.go_on.set()
        await call.answer()
        assert [one["event"] for one in events(call.body)] == ["token"] * 3 + ["end"]


async def test_others_are_served_between_two_tokens(space: LatentSpace) -> None:
    """A trace that is asked for while a text goes on is answered before it ends."""
    gate = threading.Event()
    app = create_app(settings_with(), Watched(space, lambda check: gate.set()))
    order: list[str] = []
    async with running(app):
        long = Call(app, "/api/v1/generate", {"prompt": PROMPT, "tokens": 40, "stream": "true"})
        long.task.add_done_callback(lambda _: order.append("text"))
        await until(gate.is_set)
        trace = Call(app, "/api/v1/trace", {"prompt": "The dog sat"})
        trace.task.add_done_callback(lambda _: order.append("trace"))
        assert (await trace.answer()).status == 200
        assert (await long.answer()).status == 200
        await until(lambda: len(order) == 2)
    assert order == ["trace", "text"]


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["true", "false"])
async def test_leaving_stops_the_text_and_frees_its_place(slow: Slow, stream: str) -> None:
    app = create_app(settings_with(queue_places=1), slow)
    async with running(app):
        device = app.state.explorer.device
        call = Call(app, "/api/v1/generate", {"prompt": PROMPT, "tokens": 9, "stream": stream})
        await until(slow.waits.is_set)
        assert device.held_by("127.0.0.1") == 1
        refused = await Call(app, "/api/v1/trace", {"prompt": "another"}).answer()
        assert refused.status == 503
        call.leave()
        await until(slow.stopped.is_set)
        await until(lambda: device.held_by("127.0.0.1") == 0)
        assert slow.steps == 1
        assert (await Call(app, "/api/v1/trace", {"prompt": "another"}).answer()).status == 200


async def test_a_text_takes_one_place_of_its_client(slow: Slow) -> None:
    app = create_app(settings_with(client_places=1), slow)
    async with running(app):
        asked = {"prompt": PROMPT, "tokens": 3, "stream": "true"}
        first = Call(app, "/api/v1/generate", asked, client="10.0.0.1")
        await until(slow.waits.is_set)
        second = await Call(app, "/api/v1/generate", asked, client="10.0.0.1").answer()
        assert second.status == 503
        assert "may have 1" in second.json["error"]["sentence"]
        first.leave()
        await until(lambda: app.state.explorer.device.held_by("10.0.0.1") == 0)


async def test_a_step_that_takes_too_long_is_the_last_line(slow: Slow) -> None:
    app = create_app(settings_with(deadline_s=0.3), slow)
    async with running(app):
        asked = {"prompt": PROMPT, "tokens": 3, "stream": "true"}
        call = await Call(app, "/api/v1/generate", asked).answer()
        token, error = events(call.body)
        assert token["event"] == "token"
        assert error == {
            "event": "error", "status": 504,
            "sentence": "One step took longer than 0.3 seconds and was stopped; ask for fewer "
            "tokens or a shorter prompt.",
        }  # fmt: skip


async def test_what_nobody_foresaw_is_a_line_without_a_traceback(space: LatentSpace) -> None:
    steps: list[int] = []

    def fail(check: Check) -> None:
        steps.append(1)
        if len(steps) > 1:
            raise RuntimeError("a secret")

    app = create_app(settings_with(), Watched(space, fail))
    async with running(app):
        asked = {"prompt": PROMPT, "tokens": 3, "stream": "true"}
        call = await Call(app, "/api/v1/generate", asked).answer()
        assert events(call.body)[-1]["status"] == 500
        assert b"secret" not in call.body


async def test_a_text_that_was_written_before_is_kept(app: FastAPI, space: LatentSpace) -> None:
    async with running(app):
        device = app.state.explorer.device
        asked = {"prompt": PROMPT, "tokens": 4, "seed": 9, "temperature": 1}
        first = await Call(app, "/api/v1/generate", asked).answer()
        before = device.steps
        again = await Call(app, "/api/v1/generate", asked).answer()
        streamed = await Call(app, "/api/v1/generate", {**asked, "stream": "true"}).answer()
        assert device.steps == before
        assert again.body == first.body
        assert [one["id"] for one in events(streamed.body)[:-1]] == [
            one["id"] for one in first.json["tokens"]
        ]
