"""The page Uses, its job, its JSON and its command: measured once, kept, each beside controls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asgi import BASE, load_tiny, settings_with
from starlette.testclient import TestClient
from waiting import until

from app.cli.main import main
from app.main import create_app
from engine.uses.findings import QUESTIONS


@pytest.mark.slow
def test_what_is_missing_is_measured_by_a_job_and_kept(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    space = load_tiny(model_folder, tmp_path)  # of its own: others are tested as not measured
    with TestClient(create_app(settings_with(), space), base_url=BASE) as client:
        before = client.get("/uses").text
        assert "Measure this model" in before
        assert "about" in before
        nothing = client.get("/api/v1/uses").json()
        assert nothing["missing"] == ["dial", "doses", "words"]
        assert all(not one["verdict"] for one in nothing["findings"])

        started = client.post("/uses/measure", follow_redirects=False)
        assert started.status_code == 303
        job = "/api/v1" + started.headers["location"]
        until(lambda: client.get(job).json()["finished"], lambda: client.get(job).json())
        assert client.get(job).json()["state"] == "done"

        found = client.get("/api/v1/uses").json()
        assert found["missing"] == []
        assert [one["key"] for one in found["findings"]] == list(QUESTIONS)
        said = {one["key"]: one for one in found["findings"] if one["verdict"]}
        page = client.get("/uses").text
        assert "Measure this model" not in page
        for one in said.values():
            assert one["verdict"] in page
        assert {"read", "keep"} <= set(said)
        # A model with drawn weights knows no fact.
        assert "knows none of the facts" in found["lacking"]["doses"]
        assert "knows none of the facts" in page

        # Nothing ships for drawn weights; all of it can be measured again, by one click.
        assert "came with the program" not in page
        assert "Measure again here" in page
        assert found["shipped"] == []

    monkeypatch.setenv("LEXISCOPE_CACHE_DIR", str(space.cache_dir))
    where = ["--model", str(model_folder), "--device", "cpu"]
    assert main(["uses", "--known", "--json", *where]) == 0
    again = json.loads(capsysbinary.readouterr().out)
    assert again["findings"] == found["findings"]
    assert again["words"] == found["words"]
    saved = tmp_path / "uses.json"
    saved.write_text(json.dumps(again))
    assert main(["verify", str(saved), "--json", *where]) == 0
    report = json.loads(capsysbinary.readouterr().out)
    assert report["ok"]
    assert report["compared"] > 50
    assert main(["uses", *where]) == 0
    text = capsysbinary.readouterr().out.decode()
    assert all(one["sentence"] in text for one in said.values())
