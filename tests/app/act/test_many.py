"""An action over many prompts: a job, then the same numbers on the page, as JSON, CSV, and here."""

from __future__ import annotations

import csv
import html
import io
from pathlib import Path
from typing import Any

from asgi import PROMPT
from starlette.testclient import TestClient
from waiting import until

from app.cli import main as cli
from engine import LatentSpace
from engine.interventions.action import Action
from engine.interventions.many import many, parse_cases
from engine.progress import drain

CASES = f"{PROMPT} | #70\nThe dog sat | #71\nThe cat | <b>not a token at all</b>\n"


def done(client: TestClient, job: str) -> dict[str, Any]:
    until(lambda: client.get(job).json()["finished"], lambda: client.get(job).json())
    found: dict[str, Any] = client.get(job).json()
    assert found["state"] == "done", found
    return found


def test_a_job_runs_it_and_every_way_out_says_the_same(
    client: TestClient, reference: LatentSpace, model_folder: Path, tmp_path: Path,
    capfd: Any,
) -> None:  # fmt: skip
    asked = {"do": "steer", "cases": CASES, "layers": "2", "dose": 1}
    started = client.post("/api/v1/many", json=asked)
    assert started.status_code == 202, started.text
    name = done(client, started.headers["location"])["result"]
    found = client.get(f"/api/v1/many/{name}").json()
    action = Action(kind="steer", token="a", foil="b", source="a", layers="2", dose=1.0)
    own = drain(many(reference, parse_cases(CASES), action))
    assert (found["used"], found["skipped"], found["successes"]) == (2, 1, own.successes)
    assert [row["after"] for row in found["rows"]] == [row.after for row in own.rows]
    table = client.get(f"/api/v1/many/{name}/rows.csv").content.decode()
    rows = list(csv.DictReader(io.StringIO(table.partition("\r\n")[2])))
    assert [row["skipped"] != "" for row in rows] == [False, False, True]
    page = client.get(f"/act/many/{name}")
    assert page.status_code == 200
    assert "&lt;b&gt;not" in page.text
    assert "2 prompts" in html.unescape(page.text)

    form = client.post("/act/many", data=asked | {"cases": CASES}, follow_redirects=False)
    assert form.status_code == 303
    assert done(client, "/api/v1" + form.headers["location"])["result"] == name

    path = tmp_path / "cases.txt"
    path.write_text(CASES)
    place = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    more = ["--cases", str(path), "--layers", "2", "--dose", "1"]
    assert cli.main(["many", "steer", *place, *more]) == 0
    assert "1 of 3 prompts were skipped" in capfd.readouterr().out


def test_what_cannot_be_run_is_a_sentence(client: TestClient) -> None:
    wrong = client.post("/api/v1/many", json={"cases": "no target"})
    assert wrong.status_code == 422
    assert "ine 1 must read" in wrong.text
    gone = client.get("/act/many/" + "0" * 24)
    assert gone.status_code == 404
    assert "run it again" in gone.text
    job = client.post("/api/v1/many", json={"cases": f"{PROMPT} | several tokens here"})
    place = job.headers["location"]
    until(lambda: client.get(place).json()["finished"], lambda: client.get(place).json())
    assert client.get(place).json()["state"] == "failed"
    assert "none of the 1 prompts" in client.get(place).text.lower()


def test_a_label_set_gives_the_cases(client: TestClient) -> None:
    """Its labels are several tokens of this model each, which is said of as many as were asked."""
    page = client.get("/act", params={"prompt": PROMPT})
    assert '<option value="topics">' in page.text
    form = {"do": "zero", "layers": "1", "label_set": "topics", "limit": "3"}
    started = client.post("/act/many", data=form, follow_redirects=False)
    assert started.status_code == 303
    place = "/api/v1" + started.headers["location"]
    until(lambda: client.get(place).json()["finished"], lambda: client.get(place).json())
    assert "none of the 3 prompts" in client.get(place).text.lower()
    gone = client.post("/api/v1/many", json={"do": "zero", "label_set": "nothing"})
    assert gone.status_code == 422
    assert "no text set of that name" in gone.text
