"""The recipe of CONTRIBUTING.md for a projection: added its way, it works everywhere at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import Folders

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "The old king"
PROJECTION = '''
"""Axes of the largest coordinates of the mean basis: one file, for a test."""

import numpy as np

from engine.errors import OptionError
from engine.maps.axes import Axes
from engine.maps.projections.projection import Projection


def _check(options):
    if options.vocabulary == "none":
        raise OptionError("the projection 'mean' needs bases; choose vocabulary bases.")


def _fit(given):
    mean = given.moments().mean
    largest = np.argsort(-np.abs(mean), kind="stable")[: given.options.dims]
    directions = np.eye(len(mean))[:, largest]
    return Axes(mean, directions, np.zeros(given.options.dims)), []


MEAN = Projection(
    name="mean",
    title="of the mean",
    help="The dimensions in which the mean basis is largest.",
    brief="the dimensions of the mean",
    formula="y_j = x_j - b_j",
    fit=_fit,
    words=lambda options: "dimensions of the mean basis",
    heading=lambda options: "dimensions of the mean",
    provenance=lambda options: "mean projection",
    axis_names=lambda options, axes: tuple(f"mean {i + 1}" for i in range(options.dims)),
    blind_to=lambda options, axes: "Blind to every other dimension.",
    check=_check,
)
'''
ASK = """
import json, sys
from starlette.testclient import TestClient
import engine
from app.cli.main import main
from app.main import create_app
from app.maps.files.export import read
from app.settings import Settings
from engine.maps import verify

model, addresses, files = json.loads(sys.argv[1])
space = engine.load(model, device="cpu", threads=1)
found = {}
with TestClient(create_app(Settings(), space), base_url="http://localhost:8000") as client:
    for address in addresses:
        got = client.get(address)
        found[address] = got.status_code, got.text
    found["verify"] = []
    for format in files:
        got = client.get(f"/api/v1/map?prompt=The old king&projection=mean&format={format}")
        found["verify"].append(verify(space.maps, read(got.content)).ok)
    job = client.post("/api/v1/map/umap?projection=mean")
    found["job"] = job.status_code, job.text
found["cli"] = main(["map", "--projection", "mean", "--out", "map.csv", "--model", model])
print("\\n" + json.dumps(found))
"""
QUERY = f"prompt={PROMPT}&projection=mean"
META, PAGE = f"/api/v1/map/meta?{QUERY}", f"/map?{QUERY}"
QUALITY, MOVED = f"/api/v1/map/quality?{QUERY}", f"/api/v1/map/changes?{QUERY}&layer=0&to=1"
BARE, BESIDE = f"{META}&vocabulary=none", f"/map?prompt={PROMPT}&compare=projection:mean"
FILES = ("json", "csv", "npz", "html", "svg", "png")


@pytest.fixture
def answers(tmp_path: Path, folders: Folders) -> dict[str, Any]:
    """What a copy of the tree with one more file and one more name says of the new projection."""
    for name in ("app", "engine", "static", "templates"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "engine/maps/projections/mean.py").write_text(PROJECTION.lstrip())
    listed = tmp_path / "engine/maps/projections/__init__.py"
    text = listed.read_text()
    assert text.count("UMAP, AXES)") == 1
    text = text.replace("UMAP, AXES)", "UMAP, AXES, MEAN)")
    where = "from engine.maps.projections.layer import LAYER\n"
    listed.write_text(
        text.replace(where, where + "from engine.maps.projections.mean import MEAN\n")
    )
    asked = [META, PAGE, QUALITY, MOVED, BARE, BESIDE, "/api/v1/openapi.json"]
    given = json.dumps([str(folders["gpt2"]), asked, FILES])
    env = {
        "PYTHONPATH": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "LEXISCOPE_DATA_DIR": str(tmp_path / "data"),
        "LEXISCOPE_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, given], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_projection_is_one_file_and_a_name_in_a_list(answers: dict[str, Any]) -> None:
    """Map, quality, motion, page, API, files, verification and command line know it, or refuse."""
    for address in (META, PAGE, QUALITY, MOVED, BESIDE):
        assert answers[address][0] == 200, answers[address]
    meta = json.loads(answers[META][1])
    assert meta["axes"]["titles"] == ["mean 1", "mean 2"]
    assert "dimensions of the mean basis" in meta["title"]
    assert meta["blind_to"] == "Blind to every other dimension."
    assert json.loads(answers[MOVED][1])["sentence"].endswith("(kNN Jaccard).")
    page = answers[PAGE][1]
    assert "of the mean" in page
    assert "Blind to every other dimension." in page
    assert "dimensions of the mean" in answers[BESIDE][1]
    openapi = json.loads(answers["/api/v1/openapi.json"][1])
    asked = openapi["paths"]["/api/v1/map/meta"]["get"]["parameters"]
    (projection,) = [one for one in asked if one["name"] == "projection"]
    assert projection["schema"]["enum"][-1] == "mean"
    assert "the dimensions of the mean" in projection["description"]
    assert answers["verify"] == [True] * len(FILES)
    assert answers["cli"] == 0
    # What it does not offer is refused in a sentence.
    assert answers[BARE][0] == 422
    assert "needs bases" in answers[BARE][1]
    assert answers["job"][0] == 422
    assert "mean is drawn at once." in answers["job"][1]
