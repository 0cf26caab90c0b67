"""The numbers under /api/v1: the contract, the same bytes everywhere, nothing without a bound."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from asgi import BASE, HOSTILE, PROMPT, TWIN, settings_with
from same_numbers import assert_same_text
from starlette.testclient import TestClient

from app.cli import main as cli
from app.main import create_app
from engine import LatentSpace, TraceOptions


def run_cli(capfdbinary: Any, *arguments: str) -> tuple[int, bytes]:
    status = cli.main(list(arguments))
    return status, capfdbinary.readouterr().out


TRACES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    (
        {"geometry": "l2", "frame": "input", "k": 3, "layers": "1:4"},
        ["--geometry", "l2", "--frame", "input", "--k", "3", "--layers", "1:4"],
    ),
    (
        {"geometry": "matmul", "frame": "head", "state": "raw", "temperature": 0.7},
        ["--geometry", "matmul", "--frame", "head", "--state", "raw", "--temperature", "0.7"],
    ),
    ({"frame": "random", "centred": "true", "positions": "1:3"},
     ["--frame", "random", "--centred", "--positions", "1:3"]),
    ({"frame": "tight", "words_only": "true", "bos": "yes"},
     ["--frame", "tight", "--words-only", "--bos", "yes"]),
]  # fmt: skip


@pytest.mark.parametrize(("query", "options"), TRACES)
def test_trace_is_the_same_bytes_on_the_command_line(
    shared_client: TestClient,
    model_folder: Path,
    capfdbinary: Any,
    query: dict[str, Any],
    options: list[str],
) -> None:
    answer = shared_client.get("/api/v1/trace", params={"prompt": PROMPT, **query})
    assert answer.status_code == 200, answer.text
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    status, printed = run_cli(capfdbinary, "trace", PROMPT, *where, *options, "--json")
    assert status == 0
    assert_same_text(printed, answer.content)


def test_trace_csv_is_the_same_bytes_on_the_command_line(
    shared_client: TestClient, model_folder: Path, capfdbinary: Any
) -> None:
    answer = shared_client.get("/api/v1/trace.csv", params={"prompt": PROMPT, "k": 4})
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    status, printed = run_cli(capfdbinary, "trace", PROMPT, *where, "--k", "4", "--csv")
    assert status == 0
    assert_same_text(printed, answer.content)


@pytest.mark.parametrize(
    ("path", "query", "arguments"),
    [
        ("/api/v1/bases", {"token": "cat"}, ["bases", "--token", "cat"]),
        ("/api/v1/bases", {"token": "#7", "frame": "tight", "geometry": "l2", "k": 5},
         ["bases", "--token", "#7", "--frame", "tight", "--geometry", "l2", "--k", "5"]),
        ("/api/v1/frames/input", {}, ["bases", "--frame", "input"]),
        ("/api/v1/check", {}, ["check"]),
    ],
)  # fmt: skip
def test_bases_frames_and_check_are_the_same_bytes_on_the_command_line(
    shared_client: TestClient,
    model_folder: Path,
    capfdbinary: Any,
    path: str,
    query: dict[str, Any],
    arguments: list[str],
) -> None:
    answer = shared_client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    status, printed = run_cli(capfdbinary, *arguments, *where, "--json")
    assert status == 0
    assert_same_text(printed, answer.content)


def test_the_contract_of_a_trace(shared_client: TestClient, reference: LatentSpace) -> None:
    found = shared_client.get("/api/v1/trace", params={"prompt": PROMPT, "k": 4}).json()
    trace = reference.trace(PROMPT, TraceOptions(k=4))
    assert found["layers"] == [0, 1, 2, 3]
    assert (found["geometry"], found["frame"]) == ("cosine", "output")
    assert [t["id"] for t in found["tokens"]] == [t.id for t in trace.tokens]
    assert "".join(t["text"] for t in found["tokens"]) == PROMPT
    places = [(c["layer"], c["position"]) for c in found["cells"]]
    assert places == [(i, j) for i in range(4) for j in range(len(trace.tokens))]
    for one in found["cells"]:
        i, j = one["layer"], one["position"]
        assert [t["id"] for t in one["top"]] == trace.top_ids[i, j].tolist()
        scores = [t["score"] for t in one["top"]]
        assert scores == sorted(scores, reverse=True)
        assert set(one["top"][0]) >= {"id", "text", "score", "probability"}
        assert 1 <= one["final_rank"] <= reference.model.vocabulary
        assert 0 <= one["entropy"] <= math.log(reference.model.vocabulary) + 1e-3
    # What the last layer names by the head's own product is the model's answer.
    own = shared_client.get(
        "/api/v1/trace",
        params={"prompt": PROMPT, "geometry": "matmul", "frame": "head", "layers": "-1"},
    ).json()
    assert all(one["final_rank"] == 1 for one in own["cells"])


@pytest.mark.parametrize(
    ("path", "query", "options"),
    [
        ("cell", {"layer": "2", "position": "1"}, ["--layer", "2", "--position", "1"]),
        ("words", {"layer": "3", "words": "4"}, ["--layer", "3", "--words", "4"]),
        ("words", {"layer": "1", "frame": "tight"}, ["--layer", "1", "--frame", "tight"]),
        ("curves", {"ids": "5,3"}, ["--ids", "5,3"]),
        ("curves", {"position": "0"}, ["--position", "0"]),
        ("agreement", {"k": "4"}, ["--k", "4"]),
        ("finding", {"position": "1"}, ["--position", "1"]),
    ],
)
def test_cell_words_curves_and_agreement_are_the_same_bytes_on_the_command_line(
    shared_client: TestClient,
    model_folder: Path,
    capfdbinary: Any,
    path: str,
    query: dict[str, str],
    options: list[str],
) -> None:
    answer = shared_client.get(f"/api/v1/{path}", params={"prompt": PROMPT, **query})
    assert answer.status_code == 200, answer.text
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    status, printed = run_cli(capfdbinary, path, PROMPT, *where, *options)
    assert status == 0
    assert_same_text(printed, answer.content)


def test_posting_a_question_gives_the_same_bytes(shared_client: TestClient) -> None:
    asked = shared_client.get("/api/v1/trace", params={"prompt": PROMPT, "k": 2})
    posted = shared_client.post("/api/v1/trace", json={"prompt": PROMPT, "k": 2})
    assert posted.status_code == 200
    assert posted.content == asked.content


def test_a_fresh_server_gives_the_same_bytes(space: LatentSpace, client: TestClient) -> None:
    paths = [
        f"/api/v1/trace?prompt={PROMPT}",
        f"/api/v1/cell?prompt={PROMPT}&layer=2&position=1",
        f"/api/v1/words?prompt={PROMPT}&layer=2",
        f"/api/v1/agreement?prompt={PROMPT}",
        f"/api/v1/curves?prompt={PROMPT}",
        "/api/v1/bases?token=cat",
        "/api/v1/frames/output",
        "/api/v1/frames/random",
        "/api/v1/tokens?search=a",
        "/api/v1/model",
        "/api/v1/check",
    ]
    first = [client.get(path) for path in paths]
    with TestClient(create_app(settings_with(), space), base_url=BASE) as other:
        second = [other.get(path) for path in paths]
    for a, b in zip(first, second, strict=True):
        assert a.status_code == 200, a.text
        assert a.content == b.content, a.request.url
        assert json.loads(a.content, parse_constant=pytest.fail) is not None


def test_a_cell_and_its_curves_agree_with_the_trace(shared_client: TestClient) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "k": 5}
    trace = shared_client.get("/api/v1/trace", params=asked).json()
    cell = shared_client.get("/api/v1/cell", params={**asked, "layer": 2, "position": 1}).json()
    (same,) = [c for c in trace["cells"] if (c["layer"], c["position"]) == (2, 1)]
    assert [(t["id"], t["score"]) for t in cell["tables"]["cosine"]] == [
        (t["id"], t["score"]) for t in same["top"]
    ]
    last = shared_client.get("/api/v1/cell", params={**asked, "layer": -1, "position": -1}).json()
    assert (last["layer"], last["position"]) == (3, len(trace["tokens"]) - 1)
    pinned = [t["id"] for t in same["top"][:2]]
    curves = shared_client.get(
        "/api/v1/curves",
        params={**asked, "ids": ",".join(map(str, pinned)), "position": 1},
    ).json()
    assert [t["id"] for t in curves["tokens"]] == pinned
    for token, top in zip(curves["tokens"], same["top"], strict=False):
        assert token["scores"][2] == pytest.approx(top["score"], abs=1e-6)
        assert token["ranks"][2] == same["top"].index(top) + 1


def test_the_agreement_has_its_controls(shared_client: TestClient) -> None:
    rows = shared_client.get("/api/v1/agreement", params={"prompt": PROMPT}).json()["rows"]
    assert {row["geometry"] for row in rows} == {"cosine", "l2", "matmul", "share"}
    assert {row["frame"] for row in rows if row["control"]} == {"random"}


def test_the_contract_of_bases_and_frames(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    basis = shared_client.get("/api/v1/bases", params={"token": "#7", "k": 6}).json()
    assert basis["id"] == 7
    assert set(basis) >= {"id", "text", "norm", "leverage", "neighbours"}
    assert len(basis["neighbours"]) == 6
    assert 7 not in [n["id"] for n in basis["neighbours"]]
    by_text = shared_client.get("/api/v1/bases", params={"token": basis["text"], "k": 6}).json()
    assert by_text == basis
    for frame in ("output", "input", "head", "tight", "random"):
        report = shared_client.get(f"/api/v1/frames/{frame}").json()
        fields = ("rank", "condition_number", "residual", "round_trip_rate", "vocabulary", "width")
        assert set(fields) <= set(report)
        assert report["vocabulary"] == reference.model.vocabulary
        assert report["width"] == reference.model.width
        assert "seconds" not in report


def test_hostile_tokens_come_through_json_exactly_and_through_csv_safely(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    for text in HOSTILE:
        hit = shared_client.get("/api/v1/tokens", params={"search": text}).json()["tokens"][0]
        assert hit["text"] == text
        token = reference.vocabulary.token(hit["id"])
        assert hit["label"] == token.label
        answer = shared_client.get("/api/v1/bases.csv", params={"token": f"#{hit['id']}", "k": 50})
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"].startswith("attachment; filename=")
        assert answer.headers["content-disposition"].isascii()
        rows = list(csv.reader(io.StringIO(answer.text, newline="")))
        for row in rows[1:]:
            for value in (row[1], row[4]):
                assert value[:1] not in tuple("=+-@\t\r")
                assert "\u202e" not in value
                assert "\n" not in value
    names = rows[1]
    assert names == ["token_id", "token_text", "rank", "id", "text", "score"]
    float(rows[2][5])


def test_the_trace_csv_has_a_row_per_layer_position_and_rank(shared_client: TestClient) -> None:
    answer = shared_client.get("/api/v1/trace.csv", params={"prompt": PROMPT, "k": 3})
    rows = list(csv.reader(io.StringIO(answer.text, newline="")))
    trace = shared_client.get("/api/v1/trace", params={"prompt": PROMPT, "k": 3}).json()
    note, names, body = rows[0], rows[1], rows[2:]
    assert len(note) == 1
    assert "apostrophe" in note[0]
    assert trace["provenance"]["fingerprint"] in note[0]
    assert names[:6] == ["layer", "position", "token", "rank", "id", "text"]
    assert len(body) == len(trace["cells"]) * 3
    table = {name: [row[i] for row in body] for i, name in enumerate(names)}
    flat = [(c, n, t) for c in trace["cells"] for n, t in enumerate(c["top"], start=1)]
    for i, (one, rank, top) in enumerate(flat):
        assert (int(table["layer"][i]), int(table["position"][i])) == (
            one["layer"],
            one["position"],
        )
        assert (int(table["rank"][i]), int(table["id"][i])) == (rank, top["id"])
        assert float(table["score"][i]) == top["score"]


def test_the_cost_is_foretold_without_running(space: LatentSpace, client: TestClient) -> None:
    before = space.forward_passes
    prompt = "A prompt that was never asked for before, and never will be"
    cost = client.get("/api/v1/cost", params={"prompt": prompt}).json()
    assert space.forward_passes == before
    assert set(cost) == {"tokens", "predicted_seconds", "predicted_bytes"}
    assert cost["tokens"] == len(
        client.get("/api/v1/trace", params={"prompt": prompt}).json()["tokens"]
    )


def test_another_switch_does_not_run_the_model_again(
    space: LatentSpace, client: TestClient
) -> None:
    prompt = "One prompt for many switches"
    client.get("/api/v1/trace", params={"prompt": prompt})
    before = space.forward_passes
    for query in ({"geometry": "l2"}, {"frame": "tight"}, {"k": 2}, {"layers": "0:2"}):
        assert client.get("/api/v1/trace", params={"prompt": prompt, **query}).status_code == 200
    client.get("/api/v1/agreement", params={"prompt": prompt})
    client.get("/api/v1/cell", params={"prompt": prompt, "layer": 1, "position": 0})
    assert space.forward_passes == before


def test_the_model_says_what_it_is_and_what_is_allowed(shared_client: TestClient) -> None:
    found = shared_client.get("/api/v1/model").json()
    assert (found["blocks"], found["width"]) == (3, 24)
    assert found["limits"]["max_characters"] == 32_000
    assert found["limits"]["max_k"] == 50
    assert set(found["versions"]) == {"lexiscope", "torch", "transformers", "tokenizers", "numpy"}
    assert found["anatomy"]


# The description


def described(shared_client: TestClient) -> dict[str, Any]:
    answer = shared_client.get("/api/v1/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def unbounded(schema: dict[str, Any], components: dict[str, Any], where: str) -> list[str]:
    """Every place in a schema of what is asked where a value has no bound."""
    if "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]]
    if "enum" in schema or "const" in schema:
        return []
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return [x for s in schema[several] for x in unbounded(s, components, where)]
    match schema.get("type"):
        case "null" | "boolean":
            return []
        case "string":
            return [] if "maxLength" in schema else [where]
        case "integer" | "number":
            low = "minimum" in schema or "exclusiveMinimum" in schema
            high = "maximum" in schema or "exclusiveMaximum" in schema
            return [] if low and high else [where]
        case "array":
            each = schema.get("prefixItems") or [schema["items"]]
            inner = [x for one in each for x in unbounded(one, components, f"{where}[]")]
            return inner + ([] if "maxItems" in schema else [where])
        case "object" if isinstance(more := schema.get("additionalProperties"), dict):
            names = {"type": "string", **schema.get("propertyNames", {})}
            inner = [x for one in (names, more) for x in unbounded(one, components, f"{where}{{}}")]
            return inner + ([] if "maxProperties" in schema else [where])
        case "object":
            open_ended = [] if schema.get("additionalProperties") is False else [where]
            return open_ended + [
                x
                for name, one in schema["properties"].items()
                for x in unbounded(one, components, f"{where}.{name}")
            ]
    return [where]


@pytest.mark.slow
def test_every_field_that_is_asked_for_has_a_bound(shared_client: TestClient) -> None:
    description = described(shared_client)
    components = description["components"]["schemas"]
    loose, seen = [], 0
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                seen += 1
                where = f"{method} {path} {parameter['name']}"
                loose += unbounded(parameter["schema"], components, where)
            if "requestBody" in operation:
                seen += 1
                content = operation["requestBody"]["content"]
                ((kind, body),) = content.items()
                if (method, path) in (("post", "/api/v1/sets"), ("post", "/api/v1/history")):
                    # A form, read by hand: the file is bounded by the body, and by what reads it.
                    assert kind == "multipart/form-data"
                    fields = dict(body["schema"]["properties"])
                    assert fields.pop("file")["format"] == "binary"
                    assert all("maxLength" in one for one in fields.values())
                    continue
                assert kind == "application/json"
                loose += unbounded(body["schema"], components, f"{method} {path}")
    assert seen > 50
    assert loose == []


def test_the_walk_over_the_description_finds_what_has_no_bound() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"type": "string"}},
    }
    assert unbounded(schema, {}, "x") == ["x", "x.a", "x.b"]
    words = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 9}}
    assert unbounded(words, {}, "x") == ["x{}", "x"]
    pair = {"type": "array", "prefixItems": [{"type": "number"}], "maxItems": 1}
    assert unbounded(pair, {}, "x") == ["x[]"]


def test_every_address_of_the_api_is_described_with_its_errors(
    shared_client: TestClient,
) -> None:
    paths = described(shared_client)["paths"]
    assert set(paths) == {
        f"/api/v1/{name}"
        for name in (
            "trace", "trace.csv", "trace.npz", "trace.html", "compare", "cell", "words", "contexts",
            "contexts/plan", "agreement", "agreement/set", "curves", "finding", "cost", "bases",
            "bases.csv", "frames/{frame}",
            "tokens", "check", "model", "queue", "models", "models/open", "generate", "vocabulary",
            "map", "map/meta",
            "map/points", "map/colour", "map/quality", "map/neighbours", "map/changes", "map/cka",
            "map/search", "map/select", "map/umap", "map/regions", "map/draft",
            "jobs", "jobs/{id}", "jobs/{id}/cancel",
            "jobs/{id}/restart", "sets", "sets/{id}", "calibrations", "calibrations/task",
            "calibrations/{id}", "calibrations/{id}/files", "calibrations/{id}/competitors",
            "calibrations/{id}/ablation", "calibrations/{id}/trace", "readings",
            "calibrations/{id}/words", "calibrations/{id}/text", "act", "causal", "nudge", "many",
            "many/{id}", "many/{id}/rows.csv", "uses", "models/cost",
            "history", "history/file", "history/{id}", "history/{id}/file",
            "compare/models", "compare/frames", "compare/beside", "compare/map",
        )
    }  # fmt: skip
    for path, operations in paths.items():
        for operation in operations.values():
            told = set(operation["responses"])
            assert {"400", "401", "403", "404", "413", "422", "503", "504", "507"} <= told, path
            good = {status for status in told if status.startswith("2")}
            assert len(good) == 1 or (path, good) == ("/api/v1/map/umap", {"200", "202"})
            assert operation["summary"]
            assert operation["description"]


@pytest.mark.slow
def test_every_described_address_answers_as_described(shared_client: TestClient) -> None:
    examples = {"frame": "output", "prompt": PROMPT, "token": "cat", "search": "a", "layer": "1",
        "by": "class", "other": "The cat sat", "to": "1", "index": "0", "words": "cat,dog",
        "twin": TWIN, "text": PROMPT,
        "beside": shared_client.get("/api/v1/models").json()["open"]}  # fmt: skip
    either = {
        "/api/v1/compare": {"prompt": PROMPT, "other": "The cat sat"},
        "/api/v1/map/search": {"text": "a"},
        "/api/v1/map/changes": {"to": "1"},
        "/api/v1/act": {"steer": "cat"},
    }
    places = {"{frame}": "output", "sets/{id}": "sets/topics", "{id}": "0" * 24}
    for path, operations in described(shared_client)["paths"].items():
        for method, operation in operations.items():
            if method != "get":
                continue
            needed = [p for p in operation.get("parameters", []) if p["required"]]
            query = {p["name"]: examples[p["name"]] for p in needed if p["in"] == "query"}
            query |= either.get(path, {})
            address = path
            for part, value in places.items():
                address = address.replace(part, value)
            answer = shared_client.get(address, params=query)
            # Nothing is saved here; what a saved one answers is looked at where one is made.
            expected = 404 if "0" * 24 in address else 200
            if path == "/api/v1/contexts":  # nor is a bank built
                expected = 422
            expected = 409 if path == "/api/v1/agreement/set" else expected
            assert answer.status_code == expected, (path, answer.text)
            kind = answer.headers["content-type"].partition(";")[0]
            assert kind in operation["responses"][str(expected)]["content"]
