"""The figures for watching: what they count, and that no client can make a series."""

from __future__ import annotations

import random
import string

import pytest
from asgi import PROMPT, settings_with
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

BASE = "http://127.0.0.1:8000"
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series(client: TestClient) -> Series:
    """Every sample of /metrics, read by Prometheus' own parser."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(found: Series, name: str, **labels: str) -> float:
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


def test_requests_are_counted_by_route_method_and_status(client: TestClient) -> None:
    """A route's template stands for all its addresses."""
    before = series(client)
    client.get("/api/v1/trace", params={"prompt": PROMPT})
    client.get("/api/v1/trace", params={"prompt": PROMPT, "k": 0})
    after = series(client)
    for status in ("200", "422"):
        labels = {"route": "/api/v1/trace", "method": "GET", "status": status}
        grown = [of(found, "lexiscope_requests_total", **labels) for found in (before, after)]
        assert grown[1] - grown[0] == 1
    count = "lexiscope_request_seconds_count"
    route = {"route": "/api/v1/trace"}
    assert of(after, count, **route) - of(before, count, **route) == 2


def test_the_model_s_work_is_counted(client: TestClient) -> None:
    """One forward pass for a prompt, however often it is asked for."""
    before = series(client)
    for _ in range(3):
        client.get("/api/v1/trace", params={"prompt": "a prompt for the counters"})
    after = series(client)

    def grown(name: str, **labels: str) -> float:
        return of(after, name, **labels) - of(before, name, **labels)

    assert grown("lexiscope_model", what="forward_passes") == 1
    assert grown("lexiscope_work_total", outcome="done") == 1
    assert of(after, "lexiscope_model", what="ready") == 1
    assert of(after, "lexiscope_process", what="resident_bytes") > 1e6
    assert of(after, "lexiscope_process", what="threads") >= 2
    assert of(after, "lexiscope_disk_bytes", what="free") > 0
    assert of(after, "lexiscope_disk_bytes", what="reserve") == 256 * 2**20


@pytest.mark.slow
def test_made_up_addresses_add_no_series(client: TestClient) -> None:
    """A thousand random paths, methods and queries are one label: other."""
    client.get("/nowhere")
    client.request("BREW", "/nowhere")
    series(client)  # itself an address
    before = set(series(client))
    draw = random.Random(5)
    for _ in range(1000):
        path = "/x" + "".join(draw.choices(string.ascii_letters + "/.-", k=12))
        client.request(draw.choice(["GET", "BREW"]), path, follow_redirects=False)
    added = {labels for _, labels in set(series(client)) - before}
    assert all(dict(labels).get("method") == "other" for labels in added), added
    assert len(added) <= 4


@pytest.mark.parametrize("given", [None, "Bearer wrong"])
def test_metrics_are_behind_the_token(app: FastAPI, given: str | None) -> None:
    """Where there is a token, the figures need it."""
    from app.main import create_app

    guarded = create_app(settings_with(token="a" * 40), app.state.explorer._space)
    with TestClient(guarded, base_url=BASE) as client:
        headers = {} if given is None else {"Authorization": given}
        assert client.get("/metrics", headers=headers).status_code == 401
        answer = client.get("/metrics", headers={"Authorization": f"Bearer {'a' * 40}"})
        assert answer.status_code == 200
