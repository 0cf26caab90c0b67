"""What larger models would need: the page, the API and the command line say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.cli import main as cli
from engine.bases import foretold
from engine.bases.foretold import EXAMPLES


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foretold, "WIDTHS", (8, 16, 32))


def test_the_page_has_a_row_for_the_open_model_and_each_example(client: TestClient) -> None:
    plain = client.get("/model").text
    assert "time this machine and work it out" in plain
    page = client.get("/model", params={"costs": "true"}).text
    table = page.split('id="costs"')[1]
    for name in ("this model", *EXAMPLES):
        assert f'<th scope="row">{name}</th>' in table
    assert "head apart took" in table
    assert "are foretold" in table


def test_the_api_and_the_command_line_have_one_contract(
    client: TestClient, capfdbinary: Any
) -> None:
    asked = {"width": 100, "vocabulary": 1000, "layers": 3, "tokens": 7}
    answer = client.get("/api/v1/models/cost", params=asked)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert {name: found[name] for name in asked} == asked
    assert found["states_bytes"] == 2 * 4 * 4 * 7 * 100
    assert found["measured"]["eigenvectors"]["counted"] == 3
    options = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
    assert cli.main(["cost", *options, "--json"]) == 0
    printed = json.loads(capfdbinary.readouterr().out)
    assert printed.keys() == found.keys()
    assert printed["states_bytes"] == found["states_bytes"]
    assert cli.main(["cost", *options]) == 0
    assert b"bases: seconds" in capfdbinary.readouterr().out
    refused = client.get("/api/v1/models/cost", params={"width": 0})
    assert refused.status_code == 422
    assert "Width must be at least 1" in refused.json()["error"]["sentence"]
