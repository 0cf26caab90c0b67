"""Requests made from the API's own description, good and bad: every answer is one it describes.

The fixed corpus (`bad_corpus`) holds what is known to hurt; this looks for what nobody thought of.
``LEXISCOPE_TEST_FUZZ=n`` asks for about n requests; from 1,000 on, the boundary values of every
field and chains of requests that use each other's answers are tried as well.
``LEXISCOPE_TEST_SEED`` makes other requests.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from asgi import HOSTILE, PROMPT, load_tiny, settings_with
from fastapi import FastAPI
from live import live
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from starlette.responses import JSONResponse, Response
from waiting import PATIENCE

from app.main import create_app

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("LEXISCOPE_TEST_FUZZ", "330"))
THOROUGH = CASES >= 1_000
LARGEST_FAULT = 8192
# The models read query strings as well, so that in a body true is 1 and 0 is false.
LENIENT = "Incorrect type"
SEED = int(os.environ.get("LEXISCOPE_TEST_SEED", "1"))
TEXTS = [
    *HOSTILE, "", " ", "\0", "a\0b", "NaN", "Infinity", "-Infinity", "1e999", "null", "true",
    "__class__", "{text.__class__}", "{", "%", "%00", "%ed%a0%80", "../../etc/passwd",
    "/etc/passwd",
    "C:\\", "..", ".", "0" * 24, "f" * 24, "topics", "sentiment", "9" * 400, "-1", "0x10", "٣",
    "é", "\u200d", "\ufeff", "\ud7ff\ue000", "\U0001f600", "0:3", "0:3:0", "3:1", ":", "::", "#1",
    "#-1", "#99999999", "ids:1,2", "words:cat,dog", "search:a", "regex:((((", "regex:(a+)+$",
    "near:3", "prompt", "king-queen", "a-b,c-d", "umap", "fast", "all", ",,,,", PROMPT,
]  # fmt: skip
INTEGERS = [-1, 0, 1, 2, 3, 49, 50, 51, 64, 65, 2**31 - 1, 2**31, 2**53, 2**63, 2**64, -(2**63)]
NUMBERS = [0.0, -0.0, 1e-300, 5e-324, 1e300, 1e16, 0.1, 1.5, -1.0]


@pytest.fixture(scope="module")
def address(model_folder: Path, cache: Path) -> Iterator[str]:
    """One server for all of them, with few places, so that its refusals are seen as well."""
    settings = settings_with(deadline_s=20, job_places=2)
    with live(create_app(settings, load_tiny(model_folder, cache))) as address:
        yield address


def configuration(per_operation: int) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "continue-on-failure": True,
            "request-timeout": PATIENCE,
            "dictionaries": {
                "texts": {"values": TEXTS},
                "integers": {"values": INTEGERS},
                "numbers": {"values": NUMBERS},
            },
            "generation": {
                "mode": "all",
                "max-examples": per_operation,
                "no-shrink": True,
                "database": "none",
                "dictionaries": {
                    "string": {"dictionary": "texts", "probability": 0.3},
                    "integer": {"dictionary": "integers", "probability": 0.3},
                    "number": {"dictionary": "numbers", "probability": 0.3},
                },
            },
            "checks": {
                # What fits the description may still mean nothing: a layer that is not there.
                "positive_data_acceptance": {"enabled": False},
                # `fault` looks at these: 503, 504 and 507 are described, 500 is not allowed.
                "not_a_server_error": {"enabled": False},
            },
            "phases": {
                "examples": {"enabled": False},
                "coverage": {"enabled": THOROUGH},
                "stateful": {"enabled": THOROUGH},
            },
        }
    )


@dataclass
class Found:
    """What came of a run."""

    statuses: Counter[int] = field(default_factory=Counter)
    operations: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.statuses.total()

    def look(self, recorder: ScenarioRecorder) -> None:
        """Add what one group of requests shows."""
        for name, exchange in recorder.interactions.items():
            answer = exchange.response
            if answer is None:
                self.problems.append(f"no answer: {exchange.request.method} {exchange.request.uri}")
                continue
            self.statuses[answer.status_code] += 1
            self.operations.add(recorder.cases[name].value.operation.label)
            headers = {key.lower(): value[0] for key, value in answer.headers.items()}
            wrong = fault(answer.status_code, headers, answer.content or b"")
            if wrong:
                self.problems.append(f"{wrong}: {exchange.request.method} {exchange.request.uri}")
        for nodes in recorder.checks.values():
            for node in nodes:
                if node.failure_info is None:
                    continue
                failure = node.failure_info.failure
                text = f"{node.name}: {failure.title} {failure.message}"
                if not (node.name == "negative_data_rejection" and LENIENT in text):
                    self.problems.append(f"{text}: {node.failure_info.code_sample}")


def fault(status: int, headers: dict[str, str], body: bytes) -> str | None:
    """What is wrong about an answer that says that something went wrong, or None."""
    if status < 400:
        return None
    if status >= 500 and status not in (503, 504, 507):
        return f"an error of the server, {status}"
    if len(body) > LARGEST_FAULT:
        return f"{len(body)} bytes for an error"
    try:
        error = json.loads(body)["error"]
        said = error["status"] == status and error["sentence"].endswith(".")
    except (ValueError, KeyError, TypeError):
        said = False
    if not said:
        return f"{status} without a sentence"
    if status == 503 and not headers.get("retry-after", "").isdigit():
        return "503 that does not say when to try again"
    return None


def fuzz(address: str, cases: int) -> Found:
    """About so many requests, over all addresses of the API."""
    begun = f"{address}/api/v1/openapi.json"
    count = schemathesis.openapi.from_url(begun, timeout=PATIENCE).statistic.operations.total
    # Some are made twice and count once.
    per_operation = max(1, round(cases * 1.35 / count))
    schema = schemathesis.openapi.from_url(
        begun, config=configuration(per_operation), timeout=PATIENCE
    )
    found = Found()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            found.look(event.recorder)
        elif isinstance(event, events.NonFatalError | events.FatalError):
            found.problems.append(f"the run itself: {event}")
    found.operations.discard("")
    return found


@pytest.mark.slow
def test_nothing_that_is_sent_upsets_the_api(
    address: str, record_property: Callable[[str, object], None]
) -> None:
    found = fuzz(address, CASES)
    record_property("requests", found.cases)
    record_property("statuses", dict(sorted(found.statuses.items())))
    assert not found.problems, "\n".join(found.problems[:20])
    assert found.cases >= 0.9 * CASES
    assert len(found.operations) >= 40
    # Both sides of every door were tried.
    assert found.statuses[200] > 0.05 * found.cases
    assert found.statuses[422] > 0.05 * found.cases


def careless() -> FastAPI:
    """An app with the mistakes that are looked for."""
    app = FastAPI(openapi_url="/api/v1/openapi.json")
    texts: dict[int | str, Any] = {422: {"description": "No."}}

    @app.get("/api/v1/third", responses=texts)
    async def third(of: int) -> Response:
        return JSONResponse({"error": "no"}, 500)

    @app.get("/api/v1/secret", responses=texts)
    async def secret(of: int) -> Response:
        return JSONResponse({"error": "no"}, 418)

    return app


def test_the_fuzzer_finds_a_careless_app() -> None:
    with live(careless()) as address:
        found = fuzz(address, 12)
    told = "\n".join(found.problems)
    assert "an error of the server, 500" in told
    assert "status_code_conformance" in told
    assert "418 without a sentence" in told


@pytest.mark.parametrize(
    ("status", "headers", "body", "wrong"),
    [
        (500, {}, b"", "an error of the server, 500"),
        (422, {}, b"x" * 9000, "9000 bytes for an error"),
        (422, {}, b"Invalid", "422 without a sentence"),
        (422, {}, b'{"error": {"sentence": "no", "status": 422}}', "422 without a sentence"),
        (503, {}, b'{"error": {"sentence": "No.", "status": 503}}',
         "503 that does not say when to try again"),
        (503, {"retry-after": "2"}, b'{"error": {"sentence": "No.", "status": 503}}', None),
        (200, {}, b"", None),
    ],
)  # fmt: skip
def test_what_is_wrong_about_an_answer(
    status: int, headers: dict[str, str], body: bytes, wrong: str | None
) -> None:
    assert fault(status, headers, body) == wrong
