"""Label sets and calibrations over HTTP: what comes in, what is kept, what a kill leaves."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from asgi import BASE, load_tiny, settings_with
from calibration_calls import follow, question, sentences, upload
from fastapi import FastAPI
from processes import serve, server_process
from safetensors.torch import load_file
from same_numbers import assert_same
from starlette.testclient import TestClient
from waiting import PATIENCE, until

import app as app_package
import app.calibrate.sets as sets_module
from app.calibrate.parsing import Orders, load_table, parse
from app.calibrate.question import CalibrationQuestion
from app.main import create_app
from app.settings import Settings
from app.storage.store import new_id
from engine import LatentSpace
from engine.calibration.labelled.tables import read_table
from engine.calibration.training.artifact import load_calibration
from engine.calibration.training.readings import calibrated_readings
from engine.errors import BudgetExceeded, OptionError

LARGEST_REFUSAL = 8192


@pytest.fixture(scope="module")
def site(model_folder: Path, cache: Path) -> Iterator[TestClient]:
    """One app with an uploaded set and a saved calibration."""
    app = create_app(settings_with(), load_tiny(model_folder, cache))
    with TestClient(app, base_url=BASE) as client:
        yield client


@pytest.fixture(scope="module")
def rows(site: TestClient) -> str:
    answer = upload(site, sentences())
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture(scope="module")
def saved(site: TestClient, rows: str) -> str:
    answer = site.post("/api/v1/calibrations", json=question(rows, name="First"))
    assert answer.status_code == 202, answer.text
    view = follow(site, answer.json()["id"])
    assert view["state"] == "done", view["problem"]
    return str(view["result"])


# Sets


def test_an_upload_is_kept_as_rows_and_can_be_looked_at(site: TestClient) -> None:
    body = "text,label\nA cat sat,cat\nbad row\nA dog sat,dog\n"
    answer = upload(site, body, "C:\\Users\\me\\my <b>rows.csv")
    assert answer.status_code == 201
    view = answer.json()
    assert re.fullmatch(r"[0-9a-f]{24}", view["id"])
    assert view["name"] == "my <b>rows.csv"
    assert (view["rows"], view["columns"], view["problem_count"]) == (2, ["text", "label"], 1)
    assert view["problems"][0]["line"] == 3
    assert view["sha256"] == hashlib.sha256(body.encode()).hexdigest()
    one = site.get(f"/api/v1/sets/{view['id']}").json()
    assert one["sample"][1] == {"line": 4, "values": {"text": "A dog sat", "label": "dog"}}
    listed = site.get("/api/v1/sets").json()["sets"]
    assert view["id"] in [one["id"] for one in listed]
    assert site.delete(f"/api/v1/sets/{view['id']}").status_code == 204
    assert site.get(f"/api/v1/sets/{view['id']}").status_code == 404


def test_a_name_of_ones_own_is_shown(site: TestClient) -> None:
    view = upload(site, sentences(8), "../../etc/passwd").json()
    assert view["name"] == "passwd"
    answer = site.post(
        "/api/v1/sets",
        files={"file": ("a.csv", sentences(8).encode())},
        data={"name": "My\nown \u202e name"},
    )
    assert answer.json()["name"] == "My own name"


def test_the_examples_are_there_and_stay(site: TestClient) -> None:
    listed = site.get("/api/v1/sets").json()["sets"]
    examples = [one for one in listed if one["example"]]
    assert [one["id"] for one in examples] == ["topics", "sentiment"]
    assert all(one["rows"] > 300 for one in examples)
    answer = site.delete("/api/v1/sets/topics")
    assert answer.status_code == 422
    assert "cannot be deleted" in answer.json()["error"]["sentence"]


@pytest.mark.parametrize(
    ("what", "body", "name", "status"),
    [
        ("nothing", b"", "a.csv", 422),
        ("blanks", b"  \n ", "a.csv", 422),
        ("a header alone", b"text,label\n", "a.csv", 422),
        ("no text at all", bytes(range(256)) * 10, "a.csv", 422),
        ("no UTF-8", b"text,label\n\xff\xfe\xfa,b\n", "a.csv", 422),
        ("a broken Parquet file", b"PAR1" + bytes(200), "a.parquet", 422),
        ("a name of Parquet only", b"text,label\na,b\n", "a.parquet", 422),
        ("deep JSON", b"[" * 100_000, "a.jsonl", 422),
        ("JSON that is no object", b"3\n4\n", "a.jsonl", 422),
        ("an unclosed quote", b'text,label\n"' + b"x" * 200_000, "a.csv", 422),
        ("columns without end", b"a," * 5000 + b"\n" + b"1," * 5000, "a.csv", 422),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_sentence(
    site: TestClient, what: str, body: bytes, name: str, status: int
) -> None:
    before = site.get("/api/v1/sets").json()
    answer = upload(site, body, name)
    assert answer.status_code == status, (what, answer.text)
    assert len(answer.content) <= LARGEST_REFUSAL
    assert answer.json()["error"]["sentence"].endswith(".")
    assert "Traceback" not in answer.text
    assert site.get("/api/v1/sets").json() == before
    data = site.app.state.settings.data_dir  # type: ignore[attr-defined]
    assert list((data / "incoming").iterdir()) == []
    assert not list((data / "sets").glob(".tmp-*"))


@pytest.mark.parametrize("name", ["my rows", "rows", "my rows.csv", "rows.csv", "übung 1.csv"])
def test_a_file_keeps_its_name_at_the_beginning_of_a_sentence(site: TestClient, name: str) -> None:
    """A sentence gets a capital at its start, and a file's name is not its start."""
    table = f"text,{'c' * 300}\na,b\n"
    sentence = upload(site, table, name).json()["error"]["sentence"]
    assert sentence.startswith(f"The file {name} has a column whose name has 300 characters")


def test_what_is_no_upload_is_refused(site: TestClient) -> None:
    assert site.post("/api/v1/sets", json={"file": "x"}).status_code == 415
    assert site.post("/api/v1/sets").status_code == 415
    assert site.post("/api/v1/sets", files={"other": ("a", b"x")}).status_code == 422
    two = [("file", ("a.csv", b"a")), ("file", ("b.csv", b"b"))]
    assert site.post("/api/v1/sets", files=two).status_code == 400
    broken = site.post(
        "/api/v1/sets", content=b"--x\r\nno", headers={"Content-Type": "multipart/form-data"}
    )
    assert broken.status_code == 400
    for site_says in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}):
        answer = site.post("/api/v1/sets", files={"file": ("a.csv", b"a")}, headers=site_says)
        assert answer.status_code == 403
        assert site.delete("/api/v1/sets/topics", headers=site_says).status_code == 403


def test_uploads_have_limits_of_their_own(space: LatentSpace) -> None:
    settings = settings_with(body_limit=2048, upload_limit=20_000, upload_rows=50)
    with TestClient(create_app(settings, space), base_url=BASE) as client:
        middle = sentences(30)
        assert len(middle) > 800
        assert upload(client, middle * 1).status_code == 201
        large = upload(client, "x" * 30_000)
        assert large.status_code == 413
        assert "A file may have at most 20,000 bytes" in large.json()["error"]["sentence"]
        stream = (b"x" * 1000 for _ in range(40))
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        streamed = client.post("/api/v1/sets", content=stream, headers=kind)
        assert (streamed.status_code, streamed.json()["error"]["sentence"]) == (
            413, large.json()["error"]["sentence"],
        )  # fmt: skip
        assert client.post("/api/v1/trace", content=b"x" * 3000).status_code == 413
        view = upload(client, sentences(60)).json()
        assert (view["rows"], view["problem_count"]) == (50, 1)
        assert "at most 50" in view["problems"][0]["reason"]


def orders(source: Path, target: Path, **more: Any) -> Orders:
    target.mkdir()
    given: dict[str, Any] = {
        "source": str(source), "target": str(target), "name": source.name,
        "max_bytes": 50_000_000, "max_rows": 200_000, "max_cell": 32_000, "seconds": 60.0,
        "memory": 2**31,
    }  # fmt: skip
    return Orders(**(given | more))


def test_a_large_file_is_read_by_a_child_and_gives_the_same_rows(tmp_path: Path) -> None:
    source = tmp_path / "large.jsonl"
    texts = [f"row {i} " + "ü" * 30 for i in range(20_000)]
    lines = [json.dumps({"text": text, "label": str(i % 3)}) for i, text in enumerate(texts)]
    lines[7] = "{broken"
    source.write_text("\n".join(lines), encoding="utf-8")
    assert source.stat().st_size > 1_000_000
    head = parse(orders(source, tmp_path / "out"))
    expected = read_table(source)
    assert load_table(tmp_path / "out") == expected
    assert (head["rows"], head["problem_count"]) == (19_999, 1)


def test_a_crowd_of_uploads_is_not_read_at_once(
    space: LatentSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, go = threading.Semaphore(0), threading.Event()

    def slow(order: Orders) -> Any:
        held.release()
        assert go.wait(PATIENCE)
        return parse(order)

    monkeypatch.setattr(sets_module, "parse", slow)
    with TestClient(create_app(settings_with(), space), base_url=BASE) as client:
        answers: list[int] = []

        def send() -> None:
            answers.append(upload(client, sentences(8)).status_code)

        crowd = [threading.Thread(target=send) for _ in range(2)]
        for one in crowd:
            one.start()
        for _ in crowd:
            assert held.acquire(timeout=PATIENCE)
        refused = upload(client, sentences(8))
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        go.set()
        for one in crowd:
            one.join(PATIENCE)
        assert answers == [201, 201]
        assert upload(client, sentences(8)).status_code == 201


@pytest.mark.slow
def test_a_parquet_bomb_costs_its_sender_a_sentence(site: TestClient) -> None:
    """Forty kilobytes that unfold to gigabytes: one long text, a million times."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    word = "x" * 5000
    column = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(np.zeros(1_000_000, dtype=np.int32)), pyarrow.array([word])
    )
    table = pyarrow.table({"text": column, "label": column})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    body = buffer.getvalue()
    assert len(body) < 200_000
    process = psutil.Process()
    before = process.memory_info().rss
    answer = upload(site, body, "bomb.parquet")
    assert process.memory_info().rss - before < 200 * 2**20
    assert answer.status_code in (413, 422), answer.text


@pytest.mark.slow
def test_a_parquet_file_that_unfolds_is_refused_by_its_text(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    source = tmp_path / "much.parquet"
    texts = ["y" * 3000] * 10_000
    parquet.write_table(pyarrow.table({"text": texts, "label": ["a"] * 10_000}), source)
    assert source.stat().st_size < 100_000
    with pytest.raises(OptionError, match=r"unfolds to more than 20,000,000 bytes"):
        parse(orders(source, tmp_path / "a", max_bytes=10_000_000))
    assert parse(orders(source, tmp_path / "b"))["rows"] == 10_000


def test_a_child_that_takes_too_much_is_stopped(tmp_path: Path) -> None:
    source = tmp_path / "large.csv"
    source.write_text("text,label\n" + "some words of a row,a\n" * 400_000)
    with pytest.raises(BudgetExceeded, match="16 MiB"):
        parse(orders(source, tmp_path / "a", memory=16 * 2**20))
    with pytest.raises(BudgetExceeded, match="seconds and was stopped"):
        parse(orders(source, tmp_path / "b", seconds=-2.0, max_rows=10**6))
    with pytest.raises(OptionError, match="at most 100"):
        parse(orders(source, tmp_path / "c", max_bytes=100))


# Calibrations


def test_a_task_is_shown_before_anything_runs(site: TestClient, rows: str) -> None:
    answer = site.post("/api/v1/calibrations/task", json=question(rows, test=30, valid=10))
    assert answer.status_code == 200
    told = answer.json()
    assert told["sizes"] == {"train": 80, "valid": 10, "test": 30}
    assert [one["label"] for one in told["labels"]] == ["cat", "dog"]
    assert told["prompts"][0]["prompt"].endswith(" is a")
    assert sum(told["report"]["balance"]["test"].values()) == 30
    assert site.get("/api/v1/jobs").status_code == 200


def test_a_calibration_runs_as_a_job_and_is_kept(site: TestClient, saved: str) -> None:
    listed = site.get("/api/v1/calibrations").json()["calibrations"]
    mine = next(one for one in listed if one["id"] == saved)
    assert (mine["name"], mine["usable"]) == ("First", True)
    one = site.get(f"/api/v1/calibrations/{saved}").json()
    assert one["settings"]["epochs"] == 4
    assert one["settings"]["seed"] == 5
    assert [epoch["number"] for epoch in one["history"]][:2] == [0, 1]
    assert one["task"]["sizes"]["test"] == 30
    assert one["facts"]["versions"]["torch"]
    assert one["comparison"] is None
    job = next(j for j in site.get("/api/v1/jobs").json()["jobs"] if j["result"] == saved)
    assert job["result_href"] == f"/calibrate/{saved}"
    assert "history" not in job
    curve = site.get(f"/api/v1/jobs/{job['id']}").json()["history"]
    assert [point["epoch"] for point in curve if point.get("epoch")][-1] == 4


def test_the_export_is_whole_and_opens_elsewhere(
    site: TestClient, saved: str, tmp_path: Path, model_folder: Path, cache: Path
) -> None:
    answer = site.get(f"/api/v1/calibrations/{saved}/files")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"].startswith('attachment; filename="lexiscope-')
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    manifest = json.loads(archive.read("manifest.json"))
    names = set(archive.namelist()) - {"manifest.json"}
    assert names == set(manifest["files"])
    for name in names:
        assert hashlib.sha256(archive.read(name)).hexdigest() == manifest["files"][name]["sha256"]
    archive.extractall(tmp_path)
    space = load_tiny(model_folder, cache)
    reopened = load_calibration(tmp_path / "calibration", space)
    assert reopened.label_names == ("cat", "dog")


def test_a_calibration_switched_on_says_what_the_engine_says(
    site: TestClient, saved: str, reference: LatentSpace
) -> None:
    prompt = "The cat sat on the mat is a"
    answer = site.get(f"/api/v1/calibrations/{saved}/trace", params={"prompt": prompt, "k": 3})
    assert answer.status_code == 200
    data: Path = site.app.state.settings.data_dir  # type: ignore[attr-defined]
    own = load_calibration(data / "calibrations" / saved / "calibration", reference)
    expected = calibrated_readings(reference, own, prompt, k=3).to_dict()
    told = answer.json()
    assert told["labels"] == ["cat", "dog"]
    assert [t["id"] for t in told["tokens"]] == [t["id"] for t in expected["tokens"]]
    for one, other in zip(told["positions"], expected["positions"], strict=True):
        for side in ("before", "after"):
            mine = [label["score"] for label in one[side]["labels"]]
            theirs = [label["score"] for label in other[side]["labels"]]
            np.testing.assert_allclose(mine, theirs, atol=1e-6)
            assert one[side]["predicted"] == other[side]["predicted"]
            assert [t["id"] for t in one[side]["top"]] == [t["id"] for t in other[side]["top"]]
            assert sum(label["probability"] for label in one[side]["labels"]) == pytest.approx(1)


def test_another_models_calibration_is_listed_but_refused(site: TestClient, saved: str) -> None:
    store = site.app.state.sets.store  # type: ignore[attr-defined]
    record = store.record("calibrations", saved)
    foreign = {**record.summary, "model_fingerprint": "0" * 32, "model_name": "another"}
    folder = store.folder_of("calibrations", saved)

    def write(place: Path) -> Any:
        for name in ("run.json",):
            (place / name).write_bytes((folder / name).read_bytes())
        return foreign

    other = store.publish("calibrations", write).id
    listed = site.get("/api/v1/calibrations").json()["calibrations"]
    assert {one["id"]: one["usable"] for one in listed}[other] is False
    answer = site.get(f"/api/v1/calibrations/{other}/trace", params={"prompt": "The cat"})
    assert answer.status_code == 409
    assert "belongs to another (fingerprint 000000000000)" in answer.json()["error"]["sentence"]
    assert site.post(f"/api/v1/calibrations/{other}/ablation", json={}).status_code == 409
    assert site.delete(f"/api/v1/calibrations/{other}").status_code == 204


def test_a_damaged_calibration_is_refused_and_can_be_deleted(site: TestClient, rows: str) -> None:
    job = site.post("/api/v1/calibrations", json=question(rows, epochs=1)).json()["id"]
    broken = follow(site, job)["result"]
    data: Path = site.app.state.settings.data_dir  # type: ignore[attr-defined]
    weights = next((data / "calibrations" / broken).rglob("*.safetensors"))
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(bytes(body))
    for path in ("", "/files", "/trace?prompt=a"):
        answer = site.get(f"/api/v1/calibrations/{broken}{path}")
        assert answer.status_code == 409, path
        assert "damaged" in answer.json()["error"]["sentence"]
    assert site.delete(f"/api/v1/calibrations/{broken}").status_code == 204
    assert not (data / "calibrations" / broken).exists()


def test_the_same_question_gives_the_same_weights(site: TestClient, rows: str, saved: str) -> None:
    again = site.post("/api/v1/calibrations", json=question(rows, name="Again")).json()["id"]
    other = follow(site, again)["result"]
    data: Path = site.app.state.settings.data_dir  # type: ignore[attr-defined]
    bodies = [
        next((data / "calibrations" / one).rglob("*.safetensors")).read_bytes()
        for one in (saved, other)
    ]
    assert bodies[0] == bodies[1]


def test_a_cancelled_calibration_leaves_nothing_and_can_be_started_again(
    site: TestClient, rows: str
) -> None:
    before = site.get("/api/v1/calibrations").json()
    endless = question(rows, epochs=10_000, patience=0)
    job = site.post("/api/v1/calibrations", json=endless).json()["id"]
    until(lambda: site.get(f"/api/v1/jobs/{job}").json()["history"])
    view = site.post(f"/api/v1/jobs/{job}/cancel").json()
    assert view["stopping"] or view["finished"]
    view = follow(site, job)
    assert view["state"] == "cancelled"
    assert view["restartable"]
    assert site.get("/api/v1/calibrations").json() == before
    data: Path = site.app.state.settings.data_dir  # type: ignore[attr-defined]
    assert not list((data / "calibrations").glob(".tmp-*"))
    again = site.post(f"/api/v1/jobs/{job}/restart")
    assert again.status_code == 202
    assert again.headers["location"] == f"/api/v1/jobs/{again.json()['id']}"
    assert site.delete(f"/api/v1/jobs/{again.json()['id']}").status_code == 200
    follow(site, again.json()["id"])
    assert site.delete(f"/api/v1/jobs/{job}").status_code == 200
    assert site.get(f"/api/v1/jobs/{job}").status_code == 404


def test_questions_that_cannot_be_run_are_refused_before_they_are_queued(
    site: TestClient, rows: str
) -> None:
    before = len(site.get("/api/v1/jobs").json()["jobs"])
    bad: list[tuple[dict[str, Any], int]] = [
        ({"set": new_id()}, 404),
        ({"set": "../topics"}, 422),
        ({"set": "x" * 5000}, 422),
        ({"label_column": "nowhere"}, 422),
        ({"text_columns": []}, 422),
        ({"text_columns": ["label"]}, 422),
        ({"template": "no placeholder"}, 422),
        ({"template": "{nowhere}"}, 422),
        ({"template": "x" * 5000}, 422),
        ({"template": "\0{text}"}, 422),
        ({"template": "\ud800{text}"}, 422),
        ({"label_words": {"cat": ""}, "epochs": 0}, 422),
        ({"label_words": [1, 2]}, 422),
        ({"label_words": "no pair"}, 422),
        ({"epochs": 10**6}, 422),
        ({"learning_rate": 1e99}, 422),
        ({"temperature": -1}, 422),
        ({"seed": 2**40}, 422),
        ({"seed": "9" * 4000}, 422),
        ({"target": "layers:0"}, 422),
        ({"target": "lora", "layer": 2}, 422),
        ({"layer": 99}, 422),
        ({"valid": 1.5}, 422),
        ({"test": "nan"}, 422),
        ({"train": 1}, 422),
        ({"loss": "other"}, 422),
        ({"unknown": 1}, 422),
    ]
    for change, status in bad:
        body = json.dumps({**question(rows), **change}).encode("utf-8", "surrogatepass")
        for path in ("/api/v1/calibrations", "/api/v1/calibrations/task"):
            if change == {"layer": 99} and path.endswith("task"):
                continue
            answer = site.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code in (status, 400), (path, change, answer.text)
            assert len(answer.content) <= LARGEST_REFUSAL
            assert "error" in answer.json()
    assert len(site.get("/api/v1/jobs").json()["jobs"]) == before


@pytest.mark.parametrize("id_", ["0" * 24, "x", "..%2f..%2fetc", "a" * 5000, "%00", "topics"])
def test_ids_that_are_none_are_not_found(site: TestClient, id_: str) -> None:
    for path in ("jobs", "calibrations", "sets"):
        if (path, id_) == ("sets", "topics"):
            continue
        for method in ("GET", "DELETE"):
            answer = site.request(method, f"/api/v1/{path}/{id_}")
            assert answer.status_code in (404, 422), (method, path, id_)
            assert len(answer.content) <= LARGEST_REFUSAL
    for path in ("files", "trace?prompt=a"):
        assert site.get(f"/api/v1/calibrations/{id_}/{path}").status_code in (404, 422)


def test_a_full_disk_is_507_and_readings_go_on(space: LatentSpace) -> None:
    with TestClient(create_app(settings_with(disk_reserve_mib=2**20), space), base_url=BASE) as c:
        answer = upload(c, sentences(8))
        assert answer.status_code == 507
        assert "are to stay free" in answer.json()["error"]["sentence"]
        asked = question("topics", template="{text}")
        assert c.post("/api/v1/calibrations", json=asked).status_code == 507
        assert c.get("/api/v1/trace", params={"prompt": "The cat"}).status_code == 200
        assert c.get("/api/v1/jobs").json() == {"jobs": []}


@pytest.mark.slow
def test_without_a_data_folder_everything_else_works(space: LatentSpace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = settings_with(data_dir=tmp_path / "file" / "data")
    with TestClient(create_app(settings, space), base_url=BASE) as client:
        assert client.get("/api/v1/trace", params={"prompt": "The cat"}).status_code == 200
        assert [one["id"] for one in client.get("/api/v1/sets").json()["sets"]] == [
            "topics",
            "sentiment",
        ]
        assert client.get("/api/v1/calibrations").json() == {"calibrations": []}
        one = client.get("/api/v1/calibrations/" + "0" * 24)
        for answer in (upload(client, sentences(8)), one):
            assert answer.status_code == 507
            assert "LEXISCOPE_DATA_DIR" in answer.json()["error"]["sentence"]
            assert str(tmp_path) not in answer.text


def test_every_setting_of_a_calibration_can_be_asked_for() -> None:
    asked = CalibrationQuestion.model_validate(
        {"set": "topics", "label_words": "World=world\n a = b ", "text_columns": "x, y"}
    )
    assert asked.spec().label_words == {"World": "world", "a": "b"}
    assert asked.spec().text_columns == ("x", "y")
    assert asked.options() == type(asked.options())()
    spec_names = set(type(asked.spec()).__dataclass_fields__)
    option_names = set(type(asked.options()).__dataclass_fields__)
    left_out = {"pooling", "start", "standardise"}  # the paper's open choices: not for the web
    assert (spec_names | option_names) - left_out <= set(CalibrationQuestion.model_fields)


# kill -9 of the whole server


@pytest.mark.slow
def test_a_killed_server_names_the_job_it_lost_and_keeps_what_was_saved(
    tmp_path: Path, model_folder: Path, cache: Path
) -> None:
    data = tmp_path / "data"
    with (
        server_process(tmp_path, serve(model_folder), {"cache_dir": cache}) as server,
        server.client() as first,
    ):
        server.ready()
        up = first.post("/api/v1/sets", files={"file": ("a.csv", sentences().encode())})
        set_id = up.json()["id"]
        done = first.post("/api/v1/calibrations", json=question(set_id, name="Whole"))
        whole = follow(first, done.json()["id"])["result"]
        endless = question(set_id, name="Lost", epochs=10_000, patience=0)
        running = first.post("/api/v1/calibrations", json=endless).json()["id"]
        waiting = first.post("/api/v1/calibrations", json=question(set_id)).json()["id"]
        until(lambda: first.get(f"/api/v1/jobs/{running}").json()["history"])
        # A second server on the same folder refuses to start, in a sentence.
        second = subprocess.run(
            [sys.executable, "-m", "app.cli.main", "serve", "--port", "0"],
            env={**os.environ, "LEXISCOPE_DATA_DIR": str(data), "LEXISCOPE_OFFLINE": "true"},
            cwd=Path(app_package.__file__).parents[1], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert second.returncode == 2
        assert "in use by another Lexiscope" in second.stderr
        assert "Traceback" not in second.stderr
        time.sleep(random.Random(4).uniform(0, 0.3))
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    with (
        server_process(tmp_path, serve(model_folder), {"cache_dir": cache}) as server,
        server.client() as again,
    ):
        server.ready()
        views = {one["id"]: one for one in again.get("/api/v1/jobs").json()["jobs"]}
        assert views[running]["state"] == "interrupted"
        assert "The server ended while this ran" in views[running]["problem"]
        assert views[running]["title"] == "Calibration: Lost"
        assert views[waiting]["state"] == "interrupted"
        assert views[done.json()["id"]]["state"] == "done"
        listed = again.get("/api/v1/calibrations").json()["calibrations"]
        assert [one["id"] for one in listed] == [whole]
        assert not list((data / "calibrations").glob(".tmp-*"))
        told = again.get(f"/api/v1/calibrations/{whole}/trace", params={"prompt": "The cat"})
        assert told.status_code == 200
        # Started again, the one that waited ends with the numbers of one that nobody disturbed.
        restarted = again.post(f"/api/v1/jobs/{waiting}/restart").json()["id"]
        other = follow(again, restarted)["result"]
        undisturbed, found = [
            load_file(next((data / "calibrations" / one).rglob("*.safetensors")))
            for one in (whole, other)
        ]
        assert_same(found, undisturbed)
        # And a polite end interrupts as well, but says so before it goes.
        last = again.post(f"/api/v1/jobs/{running}/restart").json()["id"]
        until(lambda: again.get(f"/api/v1/jobs/{last}").json()["state"] == "running")
        assert server.stop(signal.SIGTERM) == 0
    rows = Settings(data_dir=data)
    assert rows.data_folder == data
    log = server.log
    assert "was interrupted" in log
    assert "Traceback" not in log


def test_pages_of_jobs_show_themselves_anew_until_they_have_ended(
    site: TestClient, saved: str
) -> None:
    app: Any = site.app
    assert isinstance(app, FastAPI)
    job = next(j for j in site.get("/api/v1/jobs").json()["jobs"] if j["result"] == saved)
    assert site.get("/jobs").status_code == 200
    page = site.get(f"/jobs/{job['id']}")
    assert page.status_code == 200
    assert f"/calibrate/{saved}" in page.text
    assert "http-equiv" not in page.text
    part = site.get(f"/jobs/{job['id']}", headers={"HX-Request": "true"})
    assert part.headers["hx-redirect"] == f"/calibrate/{saved}"
    assert "<html" not in part.text
    answer = site.post(f"/jobs/{job['id']}/cancel", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job['id']}")
    assert site.get(f"/jobs/{'0' * 24}").status_code == 404
