"""The atlas on the page and over the API, what a search puts first, and the dots of trust."""

from __future__ import annotations

import numpy as np
from asgi import PROMPT
from parsed import page
from starlette.testclient import TestClient

from app.figures.map import figure
from app.maps.answers import search
from app.maps.panels import trust_dots
from engine import LatentSpace
from engine.maps import MapMaker, MapOptions
from engine.maps.quality import measure_quality

MAP = "/api/v1/map"


def test_what_was_typed_is_found_first(small: LatentSpace) -> None:
    """With its space and as it stands alone, then in other case, then words that begin with it."""
    maps = MapMaker(small)
    found = search(maps, MapOptions(), "king", False, check=lambda: None)
    texts = [found.map.points.text(i) for i in found.indices.tolist()]
    wanted = [i for i, text in enumerate(small.vocabulary.texts) if "king" in text.casefold()]
    assert sorted(found.indices.tolist()) == wanted  # nothing more and nothing less
    assert texts[0] == " king"
    assert found.exact == found.indices[0]

    def rank(text: str) -> int:
        bare = text.strip()
        if bare == "king":
            return 0
        return 1 if bare.casefold() == "king" else 2 if bare.casefold().startswith("king") else 3

    assert [rank(text) for text in texts] == sorted(rank(text) for text in texts)
    assert search(maps, MapOptions(), "kin", False, check=lambda: None).exact is None or any(
        text.strip() == "kin" for text in small.vocabulary.texts
    )
    by_rule = search(maps, MapOptions(), "^ king$", True, check=lambda: None)
    assert by_rule.exact == found.exact  # the only one


def test_trust_is_dots_by_what_was_measured() -> None:
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(200, 2)).astype(np.float32)
    assert trust_dots(measure_quality(plane, plane)) == 3
    assert trust_dots(measure_quality(plane, generator.permutation(plane))) == 1
    noisy = plane + 0.35 * generator.normal(size=plane.shape).astype(np.float32)
    assert trust_dots(measure_quality(plane, noisy)) == 2
    assert trust_dots(measure_quality(plane[:1], plane[:1])) == 0


def test_a_picture_that_is_missing_says_where_it_is_made(shared_client: TestClient) -> None:
    got = page(shared_client, "/map?projection=umap&prompt=")
    (waiting,) = [e for e in got.elements if e.attrs.get("id") == "waiting"]
    assert "data-auto" in waiting.attrs  # the atlas was asked for
    assert waiting.attrs["data-start"].startswith(f"{MAP}/umap?")
    draft = shared_client.get(waiting.attrs["data-draft"])
    assert draft.status_code == 200
    assert draft.content == b""
    assert draft.headers["x-lexiscope-points"] == "0,2"
    other = page(shared_client, f"/map?projection=umap&prompt={PROMPT}&seed=4")
    (waiting,) = [e for e in other.elements if e.attrs.get("id") == "waiting"]
    assert "data-auto" not in waiting.attrs


def test_other_pictures_have_no_regions(shared_client: TestClient) -> None:
    assert shared_client.get(f"{MAP}/regions").json() == {"regions": []}
    found = shared_client.get(f"{MAP}/regions", params={"projection": "umap"})
    assert found.json() == {"regions": []}  # not before they are found


def test_titles_of_three_axes_are_short(small: LatentSpace) -> None:
    """Along a turned axis a long one is cut off."""
    drawn = small.maps.map(MapOptions(select="search:king", dims=3))
    scene = figure(drawn).layout.scene
    for axis, name in zip("xyz", drawn.axis_names, strict=True):
        title = scene[f"{axis}axis"].title.text
        assert len(name) > len(title) <= 16
        assert title.split(" (")[0] == name.split(" (")[0]
