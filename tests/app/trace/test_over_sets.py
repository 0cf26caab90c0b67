"""Agreement over a set of texts: the job, its table on page and in JSON, and the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from asgi import BASE, load_tiny, settings_with
from parsed import Parsed
from starlette.testclient import TestClient
from waiting import until

from app.cli import main as cli
from app.main import create_app
from app.trace.over_sets import evenly
from engine import LatentSpace, TraceOptions
from engine.progress import drain

ASKED: dict[str, Any] = {"limit": 5, "k": 3, "layers": "1:"}
TABLE = b"text,label\n" + b"".join(b"the cat sat on %d,%d\n" % (n, n % 2) for n in range(12))


def test_texts_are_taken_evenly() -> None:
    texts = [str(n) for n in range(10)]
    assert evenly(texts, 3) == ("0", "3", "6")
    assert evenly(texts, 99) == tuple(texts)
    assert evenly([], 3) == ()


@pytest.mark.slow
def test_it_is_measured_by_a_job_and_shown(model_folder: Path, cache: Path, tmp_path: Path) -> None:
    space = load_tiny(model_folder, cache)
    app = create_app(settings_with(data_dir=tmp_path), space)
    with TestClient(app, base_url=BASE) as client:
        sent = client.post("/api/v1/sets", files={"file": ("mine.csv", TABLE)})
        asked = ASKED | {"texts": sent.json()["id"]}
        before = client.get("/agreement", params=asked)
        assert before.status_code == 200
        assert "not measured on the open model" in before.text
        assert "mine" in before.text
        assert client.get("/api/v1/agreement/set", params=asked).status_code == 409
        started = client.post("/api/v1/agreement/set", params=asked)
        assert started.status_code == 202
        job = f"/api/v1/jobs/{started.json()['id']}"
        until(lambda: client.get(job).json()["finished"], lambda: client.get(job).json())
        assert client.get(job).json()["state"] == "done", client.get(job).text
        found = client.get("/api/v1/agreement/set", params=asked).json()
        page = Parsed(client.get(client.get(job).json()["result_href"]).text)
        for wrong in ({"texts": "nothing"}, {"limit": 0}, {"lens": "linear"}):
            for path in ("/agreement", "/api/v1/agreement/set"):
                assert client.get(path, params=asked | wrong).status_code == 422, (path, wrong)
    assert len(found["positions"]) == 5
    (head,) = [r for r in found["rows"] if (r["geometry"], r["frame"]) == ("matmul", "head")]
    assert head["top1"][-1] == 1
    assert head["top1_interval"][-1][0] > 0.5
    table = page.one(id="agreement").text
    assert "over 5 positions" in table
    assert "what chance gives" in table


@pytest.mark.slow
def test_the_command_reads_a_table(
    model_folder: Path, tmp_path: Path, reference: LatentSpace, capfd: Any
) -> None:
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    file = tmp_path / "texts.csv"
    file.write_text("text\nthe cat sat\na dog ran\nthe king\n", encoding="utf-8")
    assert cli.main(["agreement", "--texts", str(file), "--k", "3", *where]) == 0
    found = json.loads(capfd.readouterr().out)
    texts = ("the cat sat", "a dog ran", "the king")
    wanted = drain(reference.agreement_over(texts, TraceOptions(k=3)))
    assert [row["top1"] for row in found["rows"]] == [
        pytest.approx(row.top1.tolist()) for row in wanted.rows
    ]
    for both in ([], ["the cat", "--texts", str(file)]):
        assert cli.main(["agreement", *both, *where]) == 2
        assert "and not both" in capfd.readouterr().err
