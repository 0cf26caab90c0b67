"""A UMAP as a job of the API, bad questions about maps, and maps of next to nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from asgi import PROMPT, load_tiny
from calibration_calls import follow
from starlette.testclient import TestClient

from engine.maps import MapOptions

MAP = "/api/v1/map"


# ---- UMAP ----------------------------------------------------------------------------------------


def test_what_is_no_umap_is_no_job(shared_client: TestClient) -> None:
    answer = shared_client.post(f"{MAP}/umap")
    assert answer.status_code == 422
    assert "drawn at once" in answer.json()["error"]["sentence"]


@pytest.mark.slow
def test_umap_is_a_job_and_then_a_map(client: TestClient) -> None:
    """Refused before; two requests share one job; the health page answers; then it is there."""
    question = {"projection": "umap", "prompt": PROMPT, "layer": 2, "neighbours": 5}
    before = client.get(MAP, params=question)
    assert before.status_code == 409
    assert "job" in before.json()["error"]["sentence"]
    first = client.post(f"{MAP}/umap", params=question)
    second = client.post(f"{MAP}/umap", params=question)
    assert first.status_code == second.status_code == 202
    job = first.json()["job"]
    assert second.json()["job"]["id"] == job["id"]
    assert first.headers["location"] == f"/api/v1/jobs/{job['id']}"
    assert client.get("/livez").status_code == 200
    job = follow(client, job["id"])
    assert job["state"] == "done", job
    assert job["result_href"].startswith("/map?")
    assert "projection=umap" in job["result_href"]
    drawn = client.get(MAP, params=question).json()
    assert drawn["fingerprint"] == job["result"]
    assert drawn["noise_floor"] > 0
    assert client.post(f"{MAP}/umap", params=question).json() == {"ready": True}
    places = np.array(drawn["coordinates"])
    assert np.isfinite(places).all()
    assert np.ptp(places) > 1


# ---- bad questions -------------------------------------------------------------------------------

MARK = "plantedmark" + "z" * 60
BAD = [
    "vocabulary=plantedmark",
    "frame=plantedmark",
    "select=plantedmark",
    "select=near:5",
    "select=near:0&prompt=a",
    "select=ids:999999999",
    "select=ids:1,x",
    "select=words:",
    "select=regex:(",
    "select=search:%00",
    "select=" + "x" * 5000,
    "select=words:" + MARK,
    "prompt=" + "x" * 33_000,
    "prompt=%00",
    "bos=plantedmark",
    "chat=maybe",
    "texts=plantedmark",
    "texts=..%2f..%2fetc%2fpasswd",
    "texts=" + "x" * 50,
    "layer=99",
    "layer=-2",
    "layer=x",
    "layer=" + "9" * 4000,
    "state=plantedmark",
    "preprocessing=plantedmark",
    "projection=plantedmark",
    "projection=axes",
    "projection=axes&axes=plantedmark",
    "projection=axes&axes=a-b",
    "dims=1",
    "dims=4",
    "seed=-1",
    "seed=" + "9" * 30,
    "neighbours=1",
    "neighbours=201",
    "min_dist=nan",
    "min_dist=-0.1",
    "min_dist=1.1",
    "vocabulary=none",
    f"{MARK}=1",
]
ELSEWHERE = [
    "/api/v1/map?format=plantedmark",
    "/api/v1/map?format=png&width=99999",
    "/api/v1/map?format=png&height=1",
    "/api/v1/map?format=png&theme=plantedmark",
    "/api/v1/map?format=png&colour=plantedmark",
    "/api/v1/map?format=png&colour=..%2f..",
    "/api/v1/map/colour",
    "/api/v1/map/colour?by=plantedmark",
    "/api/v1/map/neighbours",
    "/api/v1/map/neighbours?index=-1",
    "/api/v1/map/neighbours?index=99999",
    "/api/v1/map/neighbours?index=99999999999",
    "/api/v1/map/neighbours?index=0&k=101",
    "/api/v1/map/neighbours?index=0&metric=plantedmark",
    "/api/v1/map/neighbours?index=0&to=99",
    "/api/v1/map/changes",
    "/api/v1/map/changes?to=99",
    "/api/v1/map/changes?to=0&limit=21",
    "/api/v1/map/search",
    "/api/v1/map/search?text=a&regex=b",
    "/api/v1/map/search?regex=(",
    "/api/v1/map/search?text=" + "x" * 500,
    "/api/v1/map/search?text=a&limit=501",
    "/api/v1/vocabulary?v=" + "x" * 100,
    "/api/v1/vocabulary?plantedmark=1",
]


@pytest.mark.parametrize("place", ["", "/meta", "/points", "/quality"])
@pytest.mark.parametrize("query", BAD)
def test_a_bad_question_about_a_map(shared_client: TestClient, place: str, query: str) -> None:
    is_a_sentence(shared_client.get(f"{MAP}{place}?{query}"))


@pytest.mark.parametrize("url", ELSEWHERE)
def test_a_bad_question_elsewhere(shared_client: TestClient, url: str) -> None:
    is_a_sentence(shared_client.get(url))


def is_a_sentence(answer: Any) -> None:
    assert 400 <= answer.status_code < 500, answer.text[:300]
    assert len(answer.content) < 2000
    assert MARK not in answer.text
    sentence = answer.json()["error"]["sentence"]
    assert sentence.endswith(".")
    assert sentence[0].isupper() or not sentence[0].isalpha()


def test_a_map_of_one_point_and_one_of_equal_points_are_answered(
    shared_client: TestClient,
) -> None:
    """No crash: a map, or a sentence why there is none."""
    for query in ("select=ids:5", "prompt=a&vocabulary=none", "select=ids:5&prompt=a&layer=0"):
        for place in ("", "/meta", "/quality", "/colour?by=distortion", "/cka"):
            joint = "&" if "?" in place else "?"
            answer = shared_client.get(f"{MAP}{place}{joint}{query}")
            assert answer.status_code in (200, 422), answer.text
            if answer.status_code == 422:
                is_a_sentence(answer)


def test_the_memory_budget_holds_for_maps(model_folder: Any, cache: Any) -> None:
    """A space with room for nothing refuses with a sentence that names both numbers."""
    from engine.errors import BudgetExceeded
    from engine.maps import MapMaker

    maker = MapMaker(load_tiny(model_folder, cache), vector_bytes=1000)
    with pytest.raises(BudgetExceeded, match="MiB"):
        maker.quality(MapOptions())
