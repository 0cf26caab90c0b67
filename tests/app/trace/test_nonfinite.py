"""A model whose numbers end somewhere: pages and files show what is finite and say the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import BASE, PROMPT, load_tiny, settings_with
from starlette.testclient import TestClient

from app.main import create_app
from app.maps.files.export import FORMATS, drawing_of, read, write
from engine import LatentSpace
from engine.maps import MapOptions, verify
from engine.progress import no_check

pytestmark = pytest.mark.slow

LAST = 3
"""The layer that is not finite."""


def spoilt(folder: Path, cache: Path, where: Any) -> LatentSpace:
    """The tiny model with NaN at its last layer, at some positions of longer prompts."""
    space = load_tiny(folder, cache)

    def change(module: Any, args: Any, output: Any) -> Any:
        states = (output[0] if isinstance(output, tuple) else output).clone()
        if states.shape[1] > 3:
            states[:, where] = float("nan")
        return (states, *output[1:]) if isinstance(output, tuple) else states

    space.model.anatomy.blocks[LAST - 1].register_forward_hook(change)
    space.run_self_check()
    return space


@pytest.fixture(scope="module", params=["every position", "one position"])
def site(
    request: pytest.FixtureRequest, model_folder: Path, cache: Path
) -> Iterator[tuple[TestClient, bool]]:
    """An app around such a model, and whether a whole layer is lost."""
    whole = request.param == "every position"
    space = spoilt(model_folder, cache, slice(None) if whole else 2)
    with TestClient(create_app(settings_with(), space), base_url=BASE) as client:
        yield client, whole


def refuse(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


PAGES = [
    ("/", {}),
    ("/", {"geometry": "l2", "frame": "head"}),
    ("/", {"cell": f"{LAST},2"}),
    ("/", {"cell": f"{LAST},5", "curve": "rank", "colour": "kl"}),
    ("/", {"state": "raw", "centred": "true"}),
    ("/", {"panel": "agreement", "colour": "border"}),
    ("/trace/agreement", {}),
    ("/map", {"layer": LAST}),
    ("/map", {"layer": LAST, "compare": "layer:0"}),
    ("/map", {"layer": LAST, "dims": 3, "projection": "layer"}),
    ("/map/quality", {"layer": LAST}),
    ("/map/layers", {"layer": LAST}),
    ("/model", {}),
    ("/model/frames", {}),
    ("/bases", {}),
    ("/calibrate", {}),
]
DOCUMENTS = [
    ("/api/v1/trace", {}),
    ("/api/v1/trace", {"state": "raw", "words_only": "true"}),
    ("/api/v1/cell", {"layer": LAST, "position": 2}),
    ("/api/v1/cell", {"layer": 1, "position": 2}),
    ("/api/v1/curves", {"position": 2}),
    ("/api/v1/agreement", {}),
    ("/api/v1/map", {"layer": LAST}),
    ("/api/v1/map/meta", {"layer": LAST}),
    ("/api/v1/map/quality", {"layer": LAST}),
    ("/api/v1/map/neighbours", {"layer": LAST, "index": 3}),
    ("/api/v1/map/cka", {}),
    ("/api/v1/check", {}),
]


@pytest.mark.parametrize(("path", "query"), PAGES, ids=str)
def test_pages_show_what_is_finite(
    site: tuple[TestClient, bool], path: str, query: dict[str, Any]
) -> None:
    client, _ = site
    prompt = {"prompt": PROMPT} if path == "/" or path.startswith(("/map", "/trace")) else {}
    answer = client.get(path, params={**prompt, **query})
    assert answer.status_code == 200, answer.text[-2000:]
    if path == "/":
        assert f"ot finite from layer {LAST}" in answer.text or "ot finite at layer" in answer.text
    if path == "/map":
        assert "NaN or infinity" in answer.text
    if path == "/model":
        assert f"NaN or infinity from layer {LAST} on" in answer.text


@pytest.mark.parametrize(("path", "query"), DOCUMENTS, ids=str)
def test_documents_are_json_and_say_where_the_numbers_end(
    site: tuple[TestClient, bool], path: str, query: dict[str, Any]
) -> None:
    client, _ = site
    given = query if path.endswith("check") else {"prompt": PROMPT, **query}
    answer = client.get(path, params=given)
    assert answer.status_code == 200, answer.text
    found = json.loads(answer.content, parse_constant=refuse)
    match path.rpartition("/")[2]:
        case "trace" | "curves" | "agreement":
            assert any(f"layer {LAST}" in one for one in found["warnings"])
        case "cell":
            assert found["finite"] is (query["layer"] == 1)
            assert (found["nearest"] == []) is (query["layer"] == LAST)
        case "map":
            assert any("NaN or infinity" in one for one in found["warnings"])


def test_the_drawn_coordinates_hold_the_gap(site: tuple[TestClient, bool]) -> None:
    client, whole = site
    answer = client.get("/api/v1/map/points", params={"prompt": PROMPT, "layer": LAST})
    assert answer.status_code == 200
    places = np.frombuffer(answer.content, "<f4").reshape(-1, 2)
    tokens = client.get("/api/v1/trace", params={"prompt": PROMPT}).json()["tokens"]
    states = places[-len(tokens) :]
    gaps = np.isnan(states).all(axis=1)
    assert gaps.sum() == (len(tokens) if whole else 1)
    assert np.isfinite(places[: -len(tokens)]).all()


def test_what_cannot_be_said_without_the_lost_states_is_a_sentence(
    site: tuple[TestClient, bool],
) -> None:
    client, whole = site
    asked = {"prompt": PROMPT, "layer": LAST}
    refused = [("/api/v1/map/changes", {"to": 0}), ("/api/v1/map/colour", {"by": "distortion"})]
    if whole:
        refused.append(("/api/v1/map", {"select": "near:4"}))
    for path, more in refused:
        answer = client.get(path, params={**asked, **more})
        assert answer.status_code == 422, (path, answer.text)
        assert "NaN or infinity" in answer.json()["error"]["sentence"]


def test_the_csv_leaves_out_what_has_no_ranking(site: tuple[TestClient, bool]) -> None:
    client, whole = site
    answer = client.get("/api/v1/trace.csv", params={"prompt": PROMPT})
    assert answer.status_code == 200
    rows = [line for line in answer.text.splitlines() if line.startswith(f'"{LAST}",')]
    assert bool(rows) is not whole
    assert not any(line.startswith(f'"{LAST}","2",') for line in rows)
    listed = [line for line in answer.text.splitlines() if not line.startswith('"# ')]
    assert "nan" not in "".join(listed).lower()


@pytest.mark.parametrize("format", FORMATS)
def test_a_map_with_a_gap_is_the_same_map_in_every_file(
    model_folder: Path, cache: Path, format: Any
) -> None:
    space = spoilt(model_folder, cache, 2)
    options = MapOptions(prompt=PROMPT, layer=LAST)
    body = write(drawing_of(space.maps, options, format, "class", check=no_check), format)
    report = verify(space.maps, read(body))
    assert report.ok, report.sentence
    assert not verify(load_tiny(model_folder, cache).maps, read(body)).ok  # where it has a place
