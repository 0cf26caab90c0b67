"""What leaves the server as a file: no formula, nothing lost, no header broken.

Names of sets and calibrations are what a stranger chose, and so are a model's tokens.
"""

from __future__ import annotations

import csv
import io
import json
import re
from hashlib import sha256
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from asgi import BASE, HOSTILE, PROMPT, settings_with
from calibration_calls import csv_of
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from app.main import create_app
from app.web import export
from engine import LatentSpace

pytestmark = pytest.mark.slow

SIGNS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
SPACES = " \u00a0\u2003\u3000\u2028\x0b\x0c\n"
NAMES = (
    'a"; filename="evil.exe', "two\r\nSet-Cookie: a=b", "\r\n\r\n<script>", "naïve 名前 🙂 \u202e",
    "=1+1", "../../etc/passwd", "'; attachment; x=", "n" * 5000, "\\", "%0d%0aX: y", "\x00\x7f",
)  # fmt: skip
# Whatever a vocabulary may hold, formulas and controls far oftener than by chance.
TOKENS = st.one_of(
    st.text(max_size=30),
    st.builds(
        "".join, st.tuples(st.text(SPACES, max_size=3), st.sampled_from(SIGNS), st.text(max_size=9))
    ),
    st.sampled_from(HOSTILE),
)


def cells(body: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(body.decode(), newline="")))


def is_formula(shown: str) -> bool:
    """Whether a spreadsheet may take it for one; plain numbers are none."""
    bare = shown.lstrip()
    if not bare.startswith(SIGNS) and not shown.startswith(SIGNS):
        return False
    return re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", bare) is None


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.lists(TOKENS, min_size=1, max_size=5), TOKENS)
def test_no_cell_of_a_table_begins_a_formula(texts: list[str], name: str) -> None:
    """Cells, column names and the line about the table alike."""
    rows = [{"text": text, name: text, "n": -1.5} for text in texts]
    read = cells(export.table(name, rows))
    assert len(read) == 2 + len(rows)
    assert not [one for row in read for one in row if is_formula(one)]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=6))
def test_json_and_parquet_give_every_text_back_exactly(texts: list[str]) -> None:
    assert json.loads(export.dumps({"tokens": texts})) == {"tokens": texts}
    kept = io.BytesIO()
    parquet.write_table(arrow.table({"text": arrow.array(texts, arrow.string())}), kept)
    assert parquet.read_table(io.BytesIO(kept.getvalue()))["text"].to_pylist() == texts


@pytest.mark.parametrize(
    ("path", "question"),
    [
        ("/api/v1/trace.csv", {"prompt": "\n".join(HOSTILE), "k": 50}),
        ("/api/v1/bases.csv", {"token": "#5", "k": 50}),
        ("/api/v1/map", {"format": "csv", "select": "ids:" + ",".join(map(str, range(280)))}),
    ],
)
def test_every_table_of_the_server_is_without_formulas_and_says_where_it_is_from(
    shared_client: TestClient, path: str, question: dict[str, Any]
) -> None:
    answer = shared_client.get(path, params=question)
    assert answer.status_code == 200, answer.text
    read = cells(answer.content)
    assert len(read) > 20
    assert not [one for row in read for one in row if is_formula(one)]
    model = shared_client.get("/api/v1/model").json()
    where = (model["device"], model["dtype"], model["name"], model["fingerprint"])
    for part in (*where, "torch ", "Lexiscope "):
        assert part in read[0][0]
    if "prompt" in question:
        assert sha256(question["prompt"].encode()).hexdigest() in read[0][0]


@pytest.mark.parametrize(
    ("path", "question"),
    [
        ("trace", {"prompt": PROMPT}),
        ("cell", {"prompt": PROMPT, "layer": 1}),
        ("words", {"prompt": PROMPT, "layer": 1}),
        ("curves", {"prompt": PROMPT}),
        ("compare", {"prompt": PROMPT, "other": "The dog"}),
        ("agreement", {"prompt": PROMPT}),
        ("bases", {"token": "#5"}),
        ("frames/output", {}),
    ],
)
def test_every_json_of_numbers_says_which_model_text_and_versions_they_are_of(
    shared_client: TestClient, path: str, question: dict[str, Any]
) -> None:
    found = shared_client.get(f"/api/v1/{path}", params=question).json()["provenance"]
    model = shared_client.get("/api/v1/model").json()
    same = ("name", "revision", "fingerprint", "device", "dtype", "versions")
    assert {key: found[key] for key in same} == {key: model[key] for key in same}
    prompt = question.get("prompt")
    digest = None if prompt is None else sha256(prompt.encode()).hexdigest()
    assert found["prompt_sha256"] == digest
    assert set(found) == {*same, "prompt_sha256"}


def test_a_token_that_is_a_formula_is_exact_in_the_json(shared_client: TestClient) -> None:
    """The same rows once guarded and once as they are."""
    guarded = 0
    for id_ in range(0, 60, 5):
        question = {"token": f"#{id_}", "k": 50}
        exact = shared_client.get("/api/v1/bases", params=question).json()["neighbours"]
        read = cells(shared_client.get("/api/v1/bases.csv", params=question).content)
        place = read[1].index("text")
        texts = [one["text"] for one in exact]
        assert [row[place] for row in read[2:]] == [export.text_cell(text) for text in texts]
        guarded += sum(row[place].startswith("'") for row in read[2:])
    assert guarded > 5


@pytest.mark.parametrize("name", NAMES)
def test_no_name_breaks_the_header_of_a_download(space: LatentSpace, name: str) -> None:
    """Whatever a set, a calibration or a file is called: one header, ASCII, named by us."""
    app = create_app(settings_with(), space)
    with TestClient(app, base_url=BASE) as client:
        file = {"file": (name.replace("\x00", ""), csv_of(9)), "name": (None, name)}
        sent = client.post("/api/v1/sets", files=file)
        assert sent.status_code in (201, 400, 413, 422), sent.text
        if sent.status_code == 201:
            assert len(sent.json()["name"]) <= 80
            assert sent.json()["name"].isprintable()
        store = app.state.sets.store

        def write(folder: Any) -> dict[str, Any]:
            (folder / "run.json").write_bytes(export.dumps({"name": name}))
            told = dict.fromkeys(("set_name", "method", "sentence", "model_name"), name)
            return {"name": name, "set_id": "topics", "model_fingerprint": "x", "bytes": 1, **told}

        id_ = store.publish("calibrations", write).id
        for path in (
            f"/api/v1/calibrations/{id_}/files",
            f"/api/v1/trace.csv?prompt={PROMPT}",
            "/api/v1/bases.csv?token=%235",
        ):
            answer = client.get(path)
            assert answer.status_code == 200, answer.text
            found = answer.headers.get_list("content-disposition")
            assert len(found) == 1
            assert re.fullmatch(r'attachment; filename="[a-z0-9.-]{5,80}"', found[0]), found
            assert "set-cookie" not in answer.headers
            assert "x" not in answer.headers
