"""The installed package: the wheel holds the default model and all files, and works alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LOOK = """
import sys
sys.path.insert(0, sys.argv[1])
import app, engine
for package in (app, engine):
    assert package.__file__.startswith(sys.argv[1]), package.__file__
from pathlib import Path
from starlette.testclient import TestClient
from app.main import create_app
from app.settings import Settings
from engine import load
space = load("lexiscope-small", cache_dir=Path("cache"))
found = space.trace("The old king and the", k=3)
print(space.model.name, space.model.parameters, found.top_ids.shape)
settings = Settings(cache_dir=Path("cache"), data_dir=Path("data"), host="127.0.0.1")
with TestClient(create_app(settings, space), base_url="http://127.0.0.1") as client:
    for path in ("/", "/bases", "/model", "/method", "/static/css/lexiscope.css"):
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.status_code)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that this checkout builds."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--wheel-dir", str(folder), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_what_the_app_needs(wheel: Path) -> None:
    """Every template, static file and file of the default model; nothing of tests or training."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for source, place in (
        ("templates", "app/_assets/templates"),
        ("static", "app/_assets/static"),
        ("models", "engine/_models"),
    ):
        files = {p.relative_to(ROOT / source) for p in (ROOT / source).rglob("*") if p.is_file()}
        assert files
        assert {f"{place}/{p.as_posix()}" for p in files} <= names
    code = {
        p.relative_to(ROOT).as_posix() for n in ("app", "engine") for p in (ROOT / n).rglob("*.py")
    }
    assert code <= names
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"app", "engine"}


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere and run from an empty folder, it loads its model and shows its pages."""
    place = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(place)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("LEXISCOPE_", "PYTHON"))
    }
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(place)],
        cwd=empty,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("lexiscope-small ")
