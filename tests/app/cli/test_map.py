"""Maps on the command line: the web's bytes, files that verify, mistakes in one sentence."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import PROMPT
from PIL import Image
from same_numbers import assert_same_text
from starlette.testclient import TestClient
from tiny_models import SMALL

from app.cli import main as cli
from app.maps.files.export import FORMATS, read
from engine.maps import UmapProcess

QUESTION = {"prompt": PROMPT, "layer": 1, "preprocessing": "centred", "select": "search:a"}
OPTIONS = ["--prompt", PROMPT, "--layer", "1", "--preprocessing", "centred", "--select", "search:a"]


@pytest.fixture
def where(model_folder: Path) -> list[str]:
    return ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_file_is_the_one_of_the_web_and_verifies(
    shared_client: TestClient, where: list[str], tmp_path: Path, capfd: Any, format: str
) -> None:
    file = tmp_path / f"map.{format}"
    assert cli.main(["map", *OPTIONS, "--out", str(file), *where]) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "tokens of the prompt" in err
    answer = shared_client.get("/api/v1/map", params={**QUESTION, "format": format})
    assert answer.content == file.read_bytes()
    assert [one.name for one in tmp_path.iterdir()] == [file.name]
    assert cli.main(["verify", str(file), *where]) == 0
    assert "the same picture" in capfd.readouterr().out


def test_json_on_the_terminal_is_the_address_of_the_api(
    shared_client: TestClient, where: list[str], capfdbinary: Any
) -> None:
    assert cli.main(["map", *OPTIONS, "--json", *where]) == 0
    answer = shared_client.get("/api/v1/map", params=QUESTION)
    assert_same_text(capfdbinary.readouterr().out, answer.content)


def test_every_option_reaches_the_map(where: list[str], capfdbinary: Any) -> None:
    given = {
        "vocabulary": "alone", "frame": "input", "select": "ids:40,41,42,43", "prompt": PROMPT,
        "bos": "yes", "layer": 2, "state": "raw", "preprocessing": "raw",
        "projection": "axes", "dims": 3, "seed": 9, "neighbours": 7, "min_dist": 0.5,
    }  # fmt: skip
    words = [w for name, one in given.items() for w in (f"--{name.replace('_', '-')}", str(one))]
    axes = ["--axes", "#40-#41,#42-#43,#50-#51"]
    assert cli.main(["map", *words, *axes, "--json", *where]) == 0
    options = json.loads(capfdbinary.readouterr().out)["options"]
    assert {name: options[name] for name in given} == given
    assert options["axes"] == [["#40", "#41"], ["#42", "#43"], ["#50", "#51"]]


def test_what_moves_to_another_layer_is_that_of_the_api(
    shared_client: TestClient, where: list[str], tmp_path: Path, capfdbinary: Any
) -> None:
    assert cli.main(["map", *OPTIONS, "--to", "2", "--json", *where]) == 0
    out, err = capfdbinary.readouterr()
    answer = shared_client.get("/api/v1/map/changes", params={**QUESTION, "to": 2})
    assert_same_text(out, answer.content)
    assert answer.json()["sentence"] in err.decode()
    assert cli.main(["map", *OPTIONS, "--exact", "--out", str(tmp_path / "m.npz"), *where]) == 0
    quality = shared_client.get("/api/v1/map/quality", params={**QUESTION, "exact": True}).json()
    assert quality["exact"]
    assert quality["sentence"] in capfdbinary.readouterr().err.decode()


@pytest.mark.slow
def test_a_picture_has_the_size_and_the_theme_that_were_asked_for(
    where: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "map.png"
    more = ["--width", "600", "--height", "420", "--theme", "dark", "--colour", "norm"]
    assert cli.main(["map", "--prompt", PROMPT, "--out", str(file), *more, *where]) == 0
    with Image.open(file) as picture:
        assert picture.size == (1200, 840)
        assert sum(picture.convert("RGB").getpixel((1, 1))) < 150


def test_a_table_of_ones_own_texts(where: list[str], tmp_path: Path, capfdbinary: Any) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("text,label\nThe cat,a\nThe dog,b\n")
    question = ["--vocabulary", "none", "--texts", str(table), "--json"]
    assert cli.main(["map", *question, *where]) == 0
    document = json.loads(capfdbinary.readouterr().out)
    assert document["options"]["texts"] == {
        "name": "mine",
        "texts": ["The cat", "The dog"],
        "labels": ["a", "b"],
    }
    assert document["label"] == ["The cat", "The dog"]


def test_a_map_of_another_model_does_not_verify(
    where: list[str], tmp_path: Path, capfd: Any
) -> None:
    file = tmp_path / "map.json"
    assert cli.main(["map", *OPTIONS, "--out", str(file), *where]) == 0
    document = json.loads(file.read_bytes())
    document["model"]["fingerprint"] = "0" * 32
    file.write_text(json.dumps(document))
    capfd.readouterr()
    assert cli.main(["verify", str(file), *where]) == 1
    assert "another model" in capfd.readouterr().out


def test_a_changed_number_does_not_verify(where: list[str], tmp_path: Path, capfd: Any) -> None:
    file = tmp_path / "map.npz"
    assert cli.main(["map", *OPTIONS, "--out", str(file), *where]) == 0
    with np.load(file) as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    kept["coordinates"] = kept["coordinates"] + np.float32(0.5)
    np.savez(file, **kept)
    capfd.readouterr()
    assert cli.main(["verify", str(file), "--json", *where]) == 1
    report = json.loads(capfd.readouterr().out)
    assert report["ok"] is False
    assert report["largest_difference"] == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["map"], "--out"),
        (["map", "--out", "x.json", "--json"], "--out"),
        (["map", "--out", "x.pdf"], "must end in"),
        (["map", "--json", "--vocabulary", "none"], "the map is empty"),
        (["map", "--json", "--vocabulary", "some"], "invalid choice"),
        (["map", "--json", "--layer", "99"], "layer must be"),
        (["map", "--json", "--layer", "x"], "a whole number, -1 for the last"),
        (["map", "--json", "--min-dist", "nan"], "--min-dist: it must be"),
        (["map", "--json", "--texts", "nothing"], "text set"),
        (["map", "--json", "--axes", "a"], "plus and a minus"),
        (["map", "--json", "--select", "regex:("], "expression"),
        (
            ["map", "--out", "x.png", "--width", "10"],
            "--width: it must be a whole number from 400",
        ),
        (["map", "--out", "x.png", "--colour", "green"], "colour must be"),
        (["map", "--out", "no/such/folder/x.json"], "cannot be written"),
        (["verify"], "required"),
        (["verify", "no-such-file.json"], "cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_two(
    where: list[str], capfd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: list[str], part: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, *where]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("lexiscope: ")
    assert err.count("\n") == 1
    assert part in err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_map_is_a_mistake(where: list[str], tmp_path: Path, capfd: Any) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"a": 1}')
    assert cli.main(["verify", str(file), *where]) == 2
    assert "holds no map" in capfd.readouterr().err


@pytest.mark.slow
def test_the_atlas_is_used_where_there_is_one(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract of `lexiscope map`: no UMAP is run, and the file verifies by its quality."""
    if not (SMALL / "config.json").is_file():
        pytest.skip("the small model is not there")
    monkeypatch.setattr(UmapProcess, "layout", lambda *_, **__: pytest.fail("it was laid out"))
    file = tmp_path / "map.html"
    where = ["--model", str(SMALL), "--device", "cpu", "--threads", "1"]
    words = ["--select", "all", "--projection", "umap", "--out", str(file)]
    assert cli.main(["map", *words, *where]) == 0
    document = read(file.read_bytes())
    assert json.loads(document["meta"])["atlas"]
    assert cli.main(["verify", str(file), *where]) == 0
    said = capfd.readouterr().out
    assert "the same picture" in said
    assert "a random picture" in said


@pytest.mark.slow
def test_umap_runs_here_and_verifies(where: list[str], tmp_path: Path, capfd: Any) -> None:
    file = tmp_path / "map.npz"
    words = ["--projection", "umap", "--neighbours", "5", "--prompt", PROMPT]
    assert cli.main(["map", *words, "--out", str(file), *where]) == 0
    document = read(file.read_bytes())
    assert json.loads(document["meta"])["versions"]["umap-learn"]
    assert np.ptp(document["coordinates"]) > 1
    assert cli.main(["verify", str(file), *where]) == 0
    assert io.StringIO(capfd.readouterr().out).read().startswith("Recomputed")
