"""A page of a map takes one turn before the model, and what is kept of it ends when it must."""

from __future__ import annotations

from urllib.parse import quote

import numpy as np
import pytest
from asgi import PROMPT
from map_sources import source, turns
from parsed import page
from starlette.testclient import TestClient

from engine import LatentSpace
from engine.maps import MapOptions, UmapResult
from engine.maps.reduction import SEEDS

HERE = f"/map?prompt={quote(PROMPT)}"


@pytest.mark.parametrize(
    "more",
    [
        "&seed=41",
        "&seed=42&panel=quality&compare=layer:1&find=a&point=3&to=0",
        "&seed=43&panel=changes&compare=layer:1",
        "&seed=44&panel=layers&compare=prompt&compare_prompt=The+dog",
        "&seed=45&projection=umap",
        "&seed=46&compare=projection:umap",
    ],
)
def test_a_page_is_one_turn(client: TestClient, more: str) -> None:
    """Whatever stands on it, and a picture that is not there yet as well; kept, it is none."""
    with turns(client) as seen:
        answer = client.get(HERE + more)
        assert answer.status_code == 200
    assert len(seen) == 1
    if "umap" not in more:
        with turns(client) as seen:
            assert client.get(HERE + more).text == answer.text
        assert seen == []


@pytest.mark.slow
def test_what_is_kept_of_a_layout_ends_when_it_gets_further(
    client: TestClient, space: LatentSpace
) -> None:
    """First nothing, then the picture, then its noise floor: each in one turn, each kept."""
    maps = space.maps
    options = maps.resolve(MapOptions(prompt=PROMPT, projection="umap", seed=77))
    name, shape = options.fingerprint(space.model.fingerprint), (len(maps.points(options)), 2)
    places = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    address = f"{HERE}&projection=umap&seed=77"
    meta = address.replace("/map", "/api/v1/map/meta", 1)
    assert 'id="waiting"' in client.get(address).text
    assert client.get(meta).status_code == 409
    first = UmapResult(name, places)
    for result in (first, UmapResult(name, places, others=(places[::-1].copy(),) * SEEDS)):
        maps.umap_cache.put(result)
        for _ in range(2):
            with turns(client) as seen:
                got = page(client, address)
                assert client.get(meta).json()["noise_floor"] == result.noise_floor
            assert source(got)["n"] == shape[0]
            assert ("another seed moves a point" in got.one(id="result").text) == (
                bool(result.others)
            )
            assert len(seen) in (0, 2)
        assert seen == []
