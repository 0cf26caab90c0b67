"""The recipes of CONTRIBUTING.md: what is added their way works everywhere at once.

Each recipe is followed in a copy of the tree: one new file, its place in the list, and nothing
else. Another process then opens a model and asks for the new thing by every way.
"""

from __future__ import annotations

import json
import os
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

GEOMETRY = '''
"""The inner product with vectors whose lengths count by their square root."""

import torch
from torch import Tensor

from engine.explanation import Explanation
from engine.reading.geometries.geometry import Columns, Geometry


def _bare(dots: Tensor, columns: Columns, out: Tensor | None) -> Tensor:
    return torch.mul(dots, columns.inverse.sqrt(), out=out)


HALF = Geometry(
    name="half",
    title="half product",
    what="The inner product, lengths counted by half.",
    score="half product (no unit)",
    temperature=2.0,
    formula="r·b_i / √‖b_i‖",
    bare=_bare,
    explanation=Explanation(
        "half", "Half product", "Lengths count by half.", "a test", True, (("cost", "Work"),)
    ),
)
'''
FRAME = '''
"""A quarter of the way from head rows to semantic bases: G^(-1/4)·w_i."""

from engine.frames.frame import Frame
from engine.frames.kinds.kind import FrameKind, Source


def _build(source: Source) -> Frame:
    matrix = source.decomposition.power(-0.25)
    rows = source.weight.detach().cpu().double() @ matrix
    norms = rows.norm(dim=1).float().to(source.device)
    return Frame("quarter", source.weight, matrix, norms, rows.mean(0), shift=source.shift())


QUARTER = FrameKind(
    name="quarter",
    title="quarter frame",
    phrase="the quarter frame",
    what="A quarter of the way from raw rows to bases.",
    note="G^(-1/4)w_i.",
    formula="G^(-1/4)w_i",
    build=_build,
)
'''


class Tree:
    """A copy of the tree, in which a recipe is followed."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        for name in ("app", "engine", "static", "templates"):
            shutil.copytree(ROOT / name, folder / name)

    def add(self, path: str, text: str) -> None:
        """The one new file."""
        assert not (self.folder / path).exists()
        (self.folder / path).write_text(text.lstrip())

    def list_it(self, path: str, last: str, name: str, module: str) -> None:
        """Its place in the list, behind the last one, and where it comes from."""
        file = self.folder / path
        text = file.read_text()
        assert text.count(f"{last})") == 1
        first = text.index("\nfrom engine")
        listed = text[first:].replace(f"{last})", f"{last}, {name})")
        file.write_text(f"{text[:first]}\nfrom {module} import {name}{listed}")

    def ask(self, addresses: list[str], command: list[str]) -> tuple[dict[str, Any], Any]:
        """What the app answers, by address, and what a command prints: JSON or text."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("LEXISCOPE_")} | {
            "PYTHONPATH": str(self.folder),
            "LEXISCOPE_DATA_DIR": str(self.folder / "data"),
            "LEXISCOPE_CACHE_DIR": str(self.folder / "cache"),
        }
        wanted = json.dumps([str(self.model), addresses, command])
        done = subprocess.run(
            [sys.executable, "-c", _ASK, wanted],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found, printed = json.loads(done.stdout)
        assert {status for status, _, _ in found.values()} == {200}, found
        answers = {
            address: json.loads(text) if "json" in kind else text
            for address, (_, kind, text) in found.items()
        }
        return answers, json.loads(printed)


_ASK = """
import contextlib, io, json, sys
from starlette.testclient import TestClient
import engine
from app.cli.main import main
from app.main import create_app
from app.settings import Settings

model, addresses, command = json.loads(sys.argv[1])
space = engine.load(model, device="cpu", threads=1)
with TestClient(create_app(Settings(), space), base_url="http://localhost:8000") as client:
    got = {address: client.get(address) for address in addresses}
printed = io.TextIOWrapper(io.BytesIO(), "utf-8")
with contextlib.redirect_stdout(printed):
    assert main([*command, "--model", model]) == 0
print(json.dumps([
    {a: (one.status_code, one.headers["content-type"], one.text) for a, one in got.items()},
    printed.buffer.getvalue().decode(),
]))
"""


@pytest.fixture
def tree(tmp_path: Path, folders: Folders) -> Tree:
    return Tree(tmp_path, folders["gpt2"])


def allowed(openapi: dict[str, Any], path: str, name: str) -> list[str]:
    """The values of a parameter, as the API describes itself."""
    (found,) = (p for p in openapi["paths"][path]["get"]["parameters"] if p["name"] == name)
    values: list[str] = found["schema"]["enum"]
    return values


def test_a_geometry_of_one_file_is_everywhere(tree: Tree) -> None:
    tree.add("engine/reading/geometries/half.py", GEOMETRY)
    tree.list_it(
        "engine/reading/geometries/__init__.py", "MATMUL", "HALF", "engine.reading.geometries.half"
    )
    asked = f"prompt={PROMPT}&geometry=half"
    trace, cell = f"/api/v1/trace?{asked}", f"/api/v1/cell?{asked}&layer=2&position=1&k=50"
    agreement, curves = f"/api/v1/agreement?{asked}", f"/api/v1/curves?{asked}"
    page = f"/?{asked}&cell=2,1&colour=border&curve=score&panel=agreement"
    bases = "/api/v1/bases?token=%2342&geometry=half&k=3"
    pages = [page, "/bases?geometry=half", "/method"]
    got, printed = tree.ask(
        [trace, cell, agreement, curves, bases, *pages, "/api/v1/openapi.json"],
        ["trace", PROMPT, "--geometry", "half", "--json"],
    )
    none = "By half product there is no formula for the distance to the border of a region."

    # The trace: a temperature that was measured, and the sentence where a border would stand.
    assert got[trace]["temperatures"]["half"]["fitted"]
    assert got[trace]["temperature"] == got[trace]["temperatures"]["half"]["value"] != 2.0
    assert none in got[trace]["warnings"]
    assert {one["border"] for one in got[trace]["cells"]} == {None}
    assert all(one["region"] == one["top"][0]["id"] for one in got[trace]["cells"])
    assert got[cell]["border"] is None
    assert got[cell]["tables"]["half"][0]["score"] == got[cell]["nearest"][0]["score"]
    assert got[curves]["geometry"] == "half"
    # Its scores by another route: the other geometries tell the length of each vector.
    tables = {
        name: {one["id"]: one["score"] for one in rows}
        for name, rows in got[cell]["tables"].items()
    }
    shared = tables["half"].keys() & tables["matmul"].keys() & tables["cosine"].keys()
    assert len(shared) > 5
    for token in shared:
        product = tables["matmul"][token]
        length = product / (tables["cosine"][token] * got[cell]["norm"])
        assert tables["half"][token] == pytest.approx(product / length**0.5, rel=1e-4)
    # Agreement on every frame, and the pages.
    rows = {(r["geometry"], r["frame"]) for r in got[agreement]["rows"]}
    assert {frame for geometry, frame in rows if geometry == "half"} == {
        frame for geometry, frame in rows if geometry == "cosine"
    }
    assert "half product" in got[page]
    assert none in got[page]
    assert got[bases]["geometry"] == "half"
    assert len(got[bases]["neighbours"]) == 3
    assert "half product (no unit)" in got["/bases?geometry=half"]
    assert "r·b_i / √‖b_i‖" in got["/method"]
    for path in ("/api/v1/trace", "/api/v1/bases"):
        assert allowed(got["/api/v1/openapi.json"], path, "geometry")[-2:] == ["matmul", "half"]
    assert printed["cells"] == got[trace]["cells"]


def test_a_frame_of_one_file_is_everywhere(tree: Tree) -> None:
    tree.add("engine/frames/kinds/quarter.py", FRAME)
    tree.list_it(
        "engine/frames/kinds/__init__.py", "RANDOM", "QUARTER", "engine.frames.kinds.quarter"
    )
    asked = f"prompt={PROMPT}&frame=quarter"
    trace, cell = f"/api/v1/trace?{asked}", f"/api/v1/cell?{asked}&layer=2&position=1"
    agreement, page = f"/api/v1/agreement?{asked}", f"/?{asked}&cell=2,1&panel=agreement"
    report, head = "/api/v1/frames/quarter", "/api/v1/frames/head"
    bases = "/api/v1/bases?token=%2342&frame=quarter"
    pages = [page, "/bases", "/model/frames", "/calibrate", "/map"]
    got, printed = tree.ask(
        [trace, cell, agreement, report, head, bases, *pages, "/api/v1/openapi.json"],
        ["trace", PROMPT, "--frame", "quarter", "--json"],
    )
    assert {one["border"] is not None for one in got[trace]["cells"]} == {True}
    assert got[cell]["frame"] == "quarter"
    # What the report finds from the vectors themselves: λ of Σ b_i b_iᵀ is the root of the head's.
    assert got[report]["rank"] == got[head]["rank"]
    for bound in ("lower_bound", "upper_bound"):
        assert got[report][bound] == pytest.approx(got[head][bound] ** 0.5, rel=1e-6)
    assert got[report]["residual"] is None
    rows = [r for r in got[agreement]["rows"] if r["frame"] == "quarter"]
    assert {r["geometry"] for r in rows} == {"cosine", "l2", "matmul"}
    assert not any(r["control"] for r in rows)
    assert got[bases]["frame"] == "quarter"
    for address in pages:
        assert "quarter frame" in got[address], address
    assert allowed(got["/api/v1/openapi.json"], "/api/v1/trace", "frame")[-1] == "quarter"
    assert printed["cells"] == got[trace]["cells"]
