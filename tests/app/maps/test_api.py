"""Maps over HTTP: the engine's numbers, the original space by brute force, bounded questions."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from asgi import HOSTILE, PROMPT
from starlette.testclient import TestClient

from app.calibrate.text_sets import text_set_of
from app.maps.inputs import concept_axes
from app.web import export
from app.web.words import begun
from engine import LatentSpace
from engine.calibration.labelled.rows import Problem, Row
from engine.calibration.labelled.tables import Table
from engine.errors import OptionError
from engine.maps import COLOURS, MapOptions

MAP = "/api/v1/map"
QUESTIONS: list[dict[str, Any]] = [
    {},
    {"prompt": PROMPT},
    {"prompt": PROMPT, "layer": 1, "preprocessing": "centred"},
    {"prompt": PROMPT, "layer": 0, "state": "raw", "preprocessing": "raw", "frame": "input"},
    {"prompt": PROMPT, "projection": "layer", "layer": 2, "dims": 3},
    {"prompt": PROMPT, "vocabulary": "none", "preprocessing": "standardised"},
    {"prompt": PROMPT, "select": "near:20"},
    {"vocabulary": "alone", "select": "search:a", "layer": 1},
    {"select": "search:t", "frame": "head"},
]


def ids(question: dict[str, Any]) -> str:
    return "&".join(f"{k}={v}" for k, v in question.items() if k != "prompt") or "as it is"


each_question = pytest.mark.parametrize("question", QUESTIONS, ids=ids)


@pytest.fixture(scope="module")
def reference(shared_client: TestClient) -> LatentSpace:
    """The very space that answers, since bits are promised of the same weights only; the app is
    idle while a test asks it."""
    space: LatentSpace = shared_client.app.state.explorer.models.space  # type: ignore[attr-defined]
    return space


def drawn_by(space: LatentSpace, question: dict[str, Any]) -> Any:
    return space.maps.map(MapOptions(**question))


def floats(text: str, dtype: str = "<f4") -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


# ---- what is on the map --------------------------------------------------------------------------


@each_question
def test_the_json_is_the_engines_map_byte_for_byte(
    shared_client: TestClient, reference: LatentSpace, question: dict[str, Any]
) -> None:
    answer = shared_client.get(MAP, params=question)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert "content-disposition" not in answer.headers
    assert answer.content == export.document(drawn_by(reference, question))


@each_question
def test_the_points_are_the_drawn_coordinates_in_float32(
    shared_client: TestClient, reference: LatentSpace, question: dict[str, Any]
) -> None:
    answer = shared_client.get(f"{MAP}/points", params=question)
    n, dims = map(int, answer.headers["x-lexiscope-points"].split(","))
    assert len(answer.content) == n * dims * 4
    drawn = drawn_by(reference, question)
    assert answer.headers["x-lexiscope-map"] == drawn.fingerprint
    np.testing.assert_array_equal(
        np.frombuffer(answer.content, "<f4").reshape(n, dims), drawn.border.clipped
    )


def test_who_has_the_points_already_is_told_so(shared_client: TestClient) -> None:
    first = shared_client.get(f"{MAP}/points", params={"prompt": PROMPT})
    again = shared_client.get(
        f"{MAP}/points", params={"prompt": PROMPT}, headers={"If-None-Match": first.headers["etag"]}
    )
    other = shared_client.get(
        f"{MAP}/points",
        params={"prompt": PROMPT, "layer": 1},
        headers={"If-None-Match": first.headers["etag"]},
    )
    assert (again.status_code, again.content) == (304, b"")
    assert other.status_code == 200
    assert other.content != first.content


@each_question
def test_the_description_names_every_point(
    shared_client: TestClient, reference: LatentSpace, question: dict[str, Any]
) -> None:
    """Runs of kinds and rows, put together again, are the map's points in order."""
    meta = shared_client.get(f"{MAP}/meta", params=question).json()
    drawn = drawn_by(reference, question)
    kinds: list[str] = []
    rows: list[int] = []
    for run in meta["kinds"]:
        assert run["start"] == len(kinds)
        kinds += [run["kind"]] * run["count"]
        rows += list(range(run["count"])) if run["rows"] is None else run["rows"]
    names = ("basis", "alone", "prompt", "text")
    assert kinds == [names[k] for k in drawn.points.kind]
    assert rows == drawn.points.row.tolist()
    for run in meta["labels"]:
        told = [drawn.points.label(run["start"] + i) for i in range(run["count"])]
        assert run["labels"] == told
    assert sum(run["count"] for run in meta["labels"]) == kinds.count("prompt")
    assert (meta["n"], meta["dims"], meta["layer"]) == (drawn.n, drawn.dims, drawn.layer)
    assert meta["layers"] == 4
    assert meta["border"]["inside"] + meta["border"]["count"] == meta["n"]
    assert len(meta["axes"]["ranges"]) == len(meta["axes"]["titles"]) == drawn.dims
    low, high = np.array(meta["axes"]["ranges"]).T
    assert (drawn.border.clipped > low).all()
    assert (drawn.border.clipped < high).all()
    assert meta["title"]
    assert meta["how_chosen"]


def test_a_point_at_the_border_is_listed_with_its_true_place(shared_client: TestClient) -> None:
    question = {"prompt": PROMPT, "preprocessing": "raw", "state": "raw", "layer": 3}
    meta = shared_client.get(f"{MAP}/meta", params=question).json()
    whole = shared_client.get(MAP, params=question).json()
    border = meta["border"]
    assert border["count"] == sum(whole["is_outside"])
    assert border["count"] == 0 or border["sentence"].startswith(f"{border['count']:,} of ")
    for one in border["points"]:
        assert whole["is_outside"][one["index"]]
        assert [one["x"], one["y"]] == pytest.approx(whole["coordinates"][one["index"]])
        assert one["at"] != pytest.approx([one["x"], one["y"]])


def test_all_layers_of_a_map_have_the_same_axes(shared_client: TestClient) -> None:
    ranges = [
        shared_client.get(f"{MAP}/meta", params={"prompt": PROMPT, "layer": layer}).json()["axes"]
        for layer in range(4)
    ]
    assert all(one == ranges[0] for one in ranges)
    assert ranges[0]["over"] == "all layers"


# ---- colour, quality and the original space ------------------------------------------------------


@pytest.mark.parametrize("by", COLOURS)
def test_every_colour_comes_packed_and_whole(
    shared_client: TestClient, reference: LatentSpace, by: str
) -> None:
    question = {"prompt": PROMPT, "layer": 2}
    answer = shared_client.get(f"{MAP}/colour", params={**question, "by": by.replace(" ", "_")})
    assert answer.status_code == 200, answer.text
    got = answer.json()
    colour = reference.maps.colour(MapOptions(**question), by)
    assert (got["by"], got["caption"]) == (by, colour.caption)
    if colour.values is not None:
        assert got["type"] == "number"
        values = floats(got["values"])
        np.testing.assert_array_equal(values, colour.values)
        finite = values[np.isfinite(values)]
        assert got["range"] == ([finite.min(), finite.max()] if len(finite) else None)
    else:
        assert got["type"] == "category"
        codes = floats(got["codes"], f"<{got['dtype']}")
        np.testing.assert_array_equal(codes, colour.codes)
        assert got["names"] == list(colour.names)
        assert got["counts"] == [int((codes == i).sum()) for i in range(len(got["names"]))]


def test_what_is_not_known_has_no_colour_but_a_sentence(shared_client: TestClient) -> None:
    answer = shared_client.get(f"{MAP}/colour", params={"by": "frequency"})
    assert answer.status_code == 422
    assert "not known" in answer.json()["error"]["sentence"]


def test_the_quality_leads_with_its_sentence(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    got = shared_client.get(f"{MAP}/quality", params={"prompt": PROMPT}).json()
    found = reference.maps.quality(MapOptions(prompt=PROMPT))
    assert next(iter(got)) == "sentence"
    assert got["sentence"] == found.sentence
    assert got["trustworthiness"]["value"] == pytest.approx(found.trustworthiness.value)
    assert got["weak"] is found.weak


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_neighbours_are_those_of_the_original_space(
    shared_client: TestClient, reference: LatentSpace, metric: str
) -> None:
    """By brute force in float64 over all bases."""
    got = shared_client.get(
        f"{MAP}/neighbours", params={"index": 40, "k": 5, "metric": metric}
    ).json()
    frame = reference.frame("output")
    vectors = frame.vectors(torch.arange(frame.size)).double().numpy()
    if metric == "cosine":
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        away = 1 - unit @ unit[40]
    else:
        away = np.linalg.norm(vectors - vectors[40], axis=1)
    away[40] = np.inf
    expected = np.argsort(away)[:5]
    assert [one["index"] for one in got["neighbours"]] == expected.tolist()
    assert [one["distance"] for one in got["neighbours"]] == pytest.approx(
        away[expected].tolist(), rel=1e-4
    )
    assert [one["rank"] for one in got["neighbours"]] == [1, 2, 3, 4, 5]
    assert [one["text"] for one in got["neighbours"]] == [
        reference.vocabulary.texts[i] for i in expected
    ]
    places = drawn_by(reference, {}).coordinates.astype(float)
    near = np.argsort(((places - places[40]) ** 2).sum(1))[1:6].tolist()
    assert [one["on_map"] for one in got["neighbours"]] == [i in near for i in expected]
    assert got["point"]["id"] == 40
    assert got["to"] is None


@pytest.mark.slow
def test_gained_and_lost_make_one_list_out_of_the_other(shared_client: TestClient) -> None:
    n = shared_client.get(f"{MAP}/meta", params={"prompt": PROMPT}).json()["n"]
    question = {"prompt": PROMPT, "layer": 1, "index": n - 1, "k": 10}
    here = shared_client.get(f"{MAP}/neighbours", params={**question, "to": 3}).json()
    there = shared_client.get(f"{MAP}/neighbours", params={**question, "layer": 3}).json()
    before = {one["index"] for one in here["neighbours"]}
    after = {one["index"] for one in there["neighbours"]}
    gained = {one["index"] for one in here["to"]["gained"]}
    lost = {one["index"] for one in here["to"]["lost"]}
    assert (before - lost) | gained == after
    assert here["to"]["layer"] == 3
    assert here["to"]["jaccard"] == pytest.approx(len(before & after) / len(before | after))


def test_changes_between_a_layer_and_itself_are_none(shared_client: TestClient) -> None:
    question = {"prompt": PROMPT, "layer": 2, "to": 2, "values": True}
    got = shared_client.get(f"{MAP}/changes", params=question).json()
    assert got["displacement"]["max"] == 0
    assert not floats(got["displacement_values"]).any()
    assert len(floats(got["displacement_values"])) == got["n"]


def test_the_biggest_movers_come_first_and_bases_stand_still(shared_client: TestClient) -> None:
    question = {"prompt": PROMPT, "layer": 0, "to": -1, "limit": 3, "values": True}
    got = shared_client.get(f"{MAP}/changes", params=question).json()
    values = floats(got["displacement_values"])
    told = [one["displacement"] for one in got["movers"]]
    assert told == sorted(told, reverse=True)
    assert len(told) == 3
    assert told[0] == pytest.approx(float(values.max()))
    assert {one["kind"] for one in got["movers"]} == {"prompt"}
    assert (got["layer"], got["to"]) == (0, 3)
    # In the shared frame: where a point is at one layer, minus where it is at the other.
    first, last = (
        np.array(
            shared_client.get(MAP, params={"prompt": PROMPT, "layer": layer}).json()["coordinates"]
        )
        for layer in (0, -1)
    )
    np.testing.assert_allclose(
        values, np.linalg.norm(last - first, axis=1) / got["radius"], rtol=1e-3, atol=1e-5
    )


def test_cka_is_symmetric_and_one_on_its_diagonal(shared_client: TestClient) -> None:
    got = shared_client.get(f"{MAP}/cka", params={"prompt": PROMPT}).json()
    for name in ("cka", "without"):
        table = np.array(got[name])
        assert table.shape == (4, 4)
        np.testing.assert_allclose(table, table.T)
        np.testing.assert_allclose(np.diag(table), 1)
    assert got["layers"] == [0, 1, 2, 3]
    assert got["sentence"].endswith(".")


# ---- finding and selecting -----------------------------------------------------------------------


def test_a_search_lists_every_hit(shared_client: TestClient, reference: LatentSpace) -> None:
    got = shared_client.get(f"{MAP}/search", params={"text": "at", "limit": 2}).json()
    expected = [i for i, text in enumerate(reference.vocabulary.texts) if "at" in text.lower()]
    assert got["indices"] == expected
    assert (got["count"], got["shown"], len(got["rows"])) == (len(expected), 2, 2)
    assert "the first 2 are listed" in got["sentence"]
    pattern = shared_client.get(f"{MAP}/search", params={"regex": "^ [a-c]"}).json()
    assert pattern["indices"] == [
        i for i, text in enumerate(reference.vocabulary.texts) if re.match("^ [a-c]", text)
    ]


@pytest.mark.slow
def test_a_catastrophic_expression_ends_in_a_sentence(shared_client: TestClient) -> None:
    answer = shared_client.get(f"{MAP}/search", params={"regex": "(a+)+$|(.*.*.*.*)*!"})
    assert answer.status_code in (200, 422)


@pytest.mark.parametrize(
    "polygon",
    [
        [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]],
        [[-0.9, -0.4], [0.1, 0.7], [0.3, -0.6]],
        # A star, which crosses itself: its middle is outside by the even-odd rule.
        [[0.0, 0.8], [0.5, -0.7], [-0.8, 0.25], [0.8, 0.25], [-0.5, -0.7]],
    ],
    ids=["square", "triangle", "star"],
)
def test_the_selection_is_what_lies_in_the_polygon(
    shared_client: TestClient, reference: LatentSpace, polygon: list[list[float]]
) -> None:
    """Against a winding of angles: the sum of the angles under which the edges are seen."""
    got = shared_client.post(f"{MAP}/select", json={"polygon": polygon}).json()
    places = drawn_by(reference, {}).border.clipped.astype(float)
    corners = np.array(polygon)
    angle = np.angle((corners[None] - places[:, None]) @ np.array([1, 1j]))
    steps = np.diff(np.concatenate([angle, angle[:, :1]], 1), axis=1)
    steps = (steps + np.pi) % (2 * np.pi) - np.pi
    turns = np.rint(steps.sum(1) / (2 * np.pi)).astype(int)
    expected = np.flatnonzero(turns % 2)
    assert 0 < len(expected) < len(places)
    assert got["indices"] == expected.tolist()
    table = shared_client.post(f"{MAP}/select?format=csv", json={"polygon": polygon})
    lines = table.content.decode().split("\r\n")
    assert [line.split('","')[0].strip('"') for line in lines[2:-1]] == [str(i) for i in expected]
    assert table.headers["content-disposition"].startswith('attachment; filename="lexiscope-map-')


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"polygon": [[0,0],[1,1]]}',
        b'{"polygon": [[0,0],[1,1],[2]]}',
        b'{"polygon": [[0,0],[1,1],[NaN,0]]}',
        b'{"polygon": [[0,0],[1,1],[1e999,0]]}',
        b'{"polygon": [[0,0],[1,1],["plantedmark",0]]}',
        b'{"polygon": "plantedmark"}',
        b'{"polygon": [[0,0],[1,1],[2,0]], "plantedmark": 1}',
        json.dumps({"polygon": [[0.0, float(i)] for i in range(501)]}).encode(),
    ],
)
def test_a_polygon_that_is_none_is_refused(shared_client: TestClient, body: bytes) -> None:
    answer = shared_client.post(
        f"{MAP}/select", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert "plantedmark" not in answer.text
    assert answer.json()["error"]["sentence"].endswith(".")


def test_a_selection_needs_two_dimensions(shared_client: TestClient) -> None:
    square = {"polygon": [[0, 0], [1, 0], [1, 1]]}
    answer = shared_client.post(f"{MAP}/select?dims=3", json=square)
    assert answer.status_code == 422
    assert "2 dimensions" in answer.json()["error"]["sentence"]


# ---- the vocabulary ------------------------------------------------------------------------------


def test_the_vocabulary_comes_once_and_may_be_kept(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    plain = {"Accept-Encoding": "identity"}
    answer = shared_client.get("/api/v1/vocabulary", headers=plain)
    got = answer.json()
    assert got["labels"] == reference.vocabulary.labels
    assert len(got["labels"]) == got["size"] == reference.model.vocabulary
    assert "immutable" not in answer.headers["cache-control"]
    name = got["fingerprint"]
    kept = shared_client.get("/api/v1/vocabulary", params={"v": name}, headers=plain)
    assert "immutable" in kept.headers["cache-control"]
    stale = shared_client.get("/api/v1/vocabulary", params={"v": "0" * 32}, headers=plain)
    assert "immutable" not in stale.headers["cache-control"]
    packed = shared_client.get("/api/v1/vocabulary", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == answer.content
    assert packed.headers["etag"] != answer.headers["etag"]
    assert len(gzip.compress(answer.content)) < len(answer.content) / 2
    again = shared_client.get(
        "/api/v1/vocabulary", headers={**plain, "If-None-Match": answer.headers["etag"]}
    )
    assert again.status_code == 304
    assert set(HOSTILE[:2]) <= set(got["labels"])


# ---- text sets and concept axes ------------------------------------------------------------------


def test_a_text_set_is_on_the_map_with_its_labels(client: TestClient) -> None:
    table = b"text,label\nThe cat sat,animal\nThe mat,thing\nThe dog sat on,animal\n"
    posted = client.post("/api/v1/sets", files={"file": ("my set.csv", table, "text/csv")})
    assert posted.status_code == 201, posted.text
    question = {"vocabulary": "none", "texts": posted.json()["id"], "layer": 2}
    meta = client.get(f"{MAP}/meta", params=question).json()
    assert [run["kind"] for run in meta["kinds"]] == ["text"]
    assert meta["options"]["texts"] == {"name": question["texts"], "count": 3}
    assert meta["labels"][0]["labels"] == ["The cat sat", "The mat", "The dog sat on"]
    label = client.get(f"{MAP}/colour", params={**question, "by": "label"}).json()
    assert dict(zip(label["names"], label["counts"], strict=True)) == {"animal": 2, "thing": 1}
    # The same state as the text's own trace: both are the last position's, past the final norm.
    both = client.get(MAP, params={**question, "prompt": "The dog sat on"}).json()
    assert both["kind"].count(2) > 1
    last = max(i for i, kind in enumerate(both["kind"]) if kind == 2)
    assert both["coordinates"][last] == pytest.approx(both["coordinates"][-1], abs=1e-4)


def test_a_text_too_long_for_the_model_is_refused(
    shared_client: TestClient,
) -> None:
    answer = shared_client.get(MAP, params={"vocabulary": "none", "texts": "sentiment"})
    assert answer.status_code == 422
    assert re.search(r"64 tokens.* has \d+", answer.json()["error"]["sentence"])


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a.csv is empty.", "a.csv is empty."),
        ("'x' is no layer.", "'x' is no layer."),
        ("layer must be a number.", "Layer must be a number."),
        ("unknown.", "Unknown."),
        ("", ""),
    ],
)
def test_a_file_keeps_its_name_where_a_sentence_starts_with_it(given: str, shown: str) -> None:
    assert begun(given) == shown


def test_the_columns_of_a_table_are_found() -> None:
    def table(*rows: dict[str, str]) -> Table:
        return Table(
            "t",
            tuple(rows[0]),
            tuple(Row(line=i + 2, values=row) for i, row in enumerate(rows)),
            (Problem(line=9, reason="x"),),
        )

    named = text_set_of("a", table({"label": "x", "text": "one"}, {"label": "y", "text": " "}))
    assert (named.texts, named.labels) == (("one",), ("x",))
    found = text_set_of("b", table({"n": "1", "words": "a long one"}, {"n": "2", "words": "two"}))
    assert (found.texts, found.labels) == (("a long one", "two"), ("1", "2"))
    # Labels that are longer than the texts are still labels: there are fewer of them.
    long = "a label that is longer than any text"
    rows = [{"kind": long, "words": word} for word in ("one", "two", "three")]
    turned = text_set_of("t", table(*rows))
    assert (turned.texts, turned.labels) == (("one", "two", "three"), (long,) * 3)
    alone = text_set_of("c", table({"words": "one"}))
    assert alone.labels == ()
    with pytest.raises(OptionError, match="no rows"):
        text_set_of("d", Table("d", ("text",), (), ()))


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", ()),
        ("a-b", (("a", "b"),)),
        (" king- queen,man-woman", ((" king", " queen"), ("man", "woman"))),
        ("a\\-b-c,\\,-#12,x-y", (("a-b", "c"), (",", "#12"), ("x", "y"))),
        ("\\\\-b", (("\\", "b"),)),
    ],
)
def test_concept_axes_are_read(text: str, pairs: tuple[tuple[str, str], ...]) -> None:
    assert concept_axes(text) == pairs


@pytest.mark.parametrize(
    "text", ["a", "a-", "-a", "a-b-c", "a-b,", "a-b,c-d,e-f,g-h", ",", "a\\-b"]
)
def test_axes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="plus and a minus"):
        concept_axes(text)


def test_a_concept_axis_is_the_difference_of_two_tokens(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    """By hand: unit bases times the difference of two of them, divided by its length."""
    question = {"projection": "axes", "axes": "#40-#41,#50-#60", "frame": "output"}
    got = np.array(shared_client.get(MAP, params=question).json()["coordinates"])
    vectors = reference.frame("output").vectors(torch.arange(reference.model.vocabulary))
    unit = torch.nn.functional.normalize(vectors.double(), dim=1).numpy()
    for column, (a, b) in enumerate(((40, 41), (50, 60))):
        axis = unit[a] - unit[b]
        along = unit @ (axis / np.linalg.norm(axis))
        moved = got[:, column] - got[:, column].mean() - (along - along.mean())
        np.testing.assert_allclose(moved, 0, atol=1e-5)


def test_a_map_by_the_dial_is_the_same_on_every_way(
    shared_client: TestClient, reference: LatentSpace
) -> None:
    """Page, API and Python take α and ridge alike; another frame lets a dial say nothing."""
    asked = {"prompt": "the king", "frame": "dial", "alpha": "0.4", "ridge": "0.2", "layer": "1"}
    found = shared_client.get("/api/v1/map", params=asked).json()
    own = MapOptions(prompt="the king", frame="dial", alpha=0.4, ridge=0.2, layer=1)
    assert found["fingerprint"] == reference.maps.map(own).fingerprint
    assert found["coordinates"] == reference.maps.map(own).to_dict()["coordinates"]
    page = shared_client.get("/map", params=asked)
    assert page.status_code == 200
    assert "dial (α 0.4, ridge 0.2) bases" in page.text
    beside = shared_client.get("/map", params=asked | {"compare": "frame:output"})
    assert beside.status_code == 200
    assert "PCA of the output bases" in beside.text
    wrong = shared_client.get("/api/v1/map", params=asked | {"frame": "output"})
    assert wrong.status_code == 422
    assert "belongs to the frame dial" in wrong.text
    missing = shared_client.get("/api/v1/map", params=asked | {"lens": "linear"})
    assert missing.status_code == 422
    assert "not fitted" in missing.text
