"""Nearest contexts on the page, in the API and on the command line: one bank, built by a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from asgi import BASE, PROMPT, load_tiny, settings_with
from parsed import page
from same_numbers import assert_same_text
from starlette.testclient import TestClient
from waiting import until

from app.cli import main as cli
from app.main import create_app

ROWS = b"label,text\na,The cat sat on the hat\nb,A dog ran\na,The cat was on a mat\n"


@pytest.mark.slow
def test_a_bank_is_foretold_built_by_a_job_and_looked_in(
    model_folder: Path, tmp_path: Path, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = load_tiny(model_folder, tmp_path)
    with TestClient(create_app(settings_with(), space), base_url=BASE) as client:
        client.post("/api/v1/sets", files={"file": ("a.csv", ROWS)})
        bank = next(s["id"] for s in client.get("/api/v1/sets").json()["sets"] if not s["example"])
        asked = {"prompt": PROMPT, "layer": 2, "position": 3, "bank": bank}
        plan = client.get("/api/v1/contexts/plan", params={"bank": bank}).json()
        assert plan["texts"] == 3
        refused = client.get("/api/v1/contexts", params=asked)
        assert refused.status_code == 422
        assert "not in a bank" in refused.text
        shown = f"/?prompt={PROMPT}&cell=2,3&panel=contexts&bank={bank}"
        before = page(client, shown).one(id="contexts")
        assert "3 texts" in before.text
        assert "Read and keep them" in before.text

        started = client.post("/trace/contexts/build", data={"bank": bank}, follow_redirects=False)
        assert started.status_code == 303
        job = "/api/v1" + started.headers["location"]
        until(lambda: client.get(job).json()["finished"], lambda: client.get(job).json())
        assert client.get(job).json()["state"] == "done"

        found = client.get("/api/v1/contexts", params=asked).json()
        assert [hit["text"] for hit in found["near"]] != []
        assert all(hit["layer"] == 2 for hit in found["near"])
        whole = page(client, shown)
        panel = whole.one(id="contexts")
        assert found["sentence"] in panel.text
        assert [e.text.strip() for e in whole.all("mark")] == [
            hit["tokens"][hit["lit"]]["text"].strip() for hit in found["near"]
        ]
        # A click opens that text's trace at that cell.
        link = whole.all("a", title="Open this text's trace at this cell")[0].attrs["href"]
        there = page(client, link)
        first = found["near"][0]
        assert there.one("textarea", id="prompt").text.strip() == first["text"]
        assert f"position {first['position']}" in there.one(id="cell-title").text
        # A job that is asked for again finds the bank.
        again = client.post("/api/v1/contexts", json={"bank": bank})
        assert again.status_code == 202

    table = tmp_path / "a.csv"
    table.write_bytes(ROWS)
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    place = ["--layer", "2", "--position", "3", "--texts", str(table)]
    monkeypatch.setenv("LEXISCOPE_CACHE_DIR", str(tmp_path / "another"))
    assert cli.main(["contexts", PROMPT, *where, *place]) == 2
    assert b"--build" in capfdbinary.readouterr().err
    assert cli.main(["contexts", PROMPT, *where, *place, "--build"]) == 0
    printed = json.loads(capfdbinary.readouterr().out)
    assert_same_text(json.dumps(printed["near"]).encode(), json.dumps(found["near"]).encode())


def test_a_set_that_is_not_there_is_a_sentence(shared_client: TestClient) -> None:
    for path in ("/api/v1/contexts?prompt=a&bank=nobody", "/api/v1/contexts/plan?bank=nobody"):
        answer = shared_client.get(path)
        assert answer.status_code == 404
        assert "no label set" in answer.text
    assert shared_client.get("/?prompt=a&panel=contexts&bank=nobody").status_code == 404
