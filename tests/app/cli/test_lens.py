"""A lens on the command line: fitted on a file, kept in a folder, read by; others are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.cli import main as cli

pytestmark = pytest.mark.slow


def test_a_lens_of_a_file_is_read_by(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("LEXISCOPE_CACHE_DIR", str(tmp_path / "cache"))
    where = ["--model", str(model_folder), "--device", "cpu", "--threads", "1"]
    text, folder = tmp_path / "text.txt", tmp_path / "lens"
    text.write_text(" ".join(f"the cat sat on {n} mats" for n in range(200)), encoding="utf-8")
    fit = ["lens", "fit", "linear", "--text", str(text), "--out", str(folder), "--json", *where]
    assert cli.main(fit) == 0
    rows = json.loads(capfd.readouterr().out)
    assert {row["lens"] for row in rows} == {"linear"}
    read = ["trace", "the cat", "--json", "--frame", "head", "--geometry", "matmul", *where]
    assert cli.main([*read, "--lens", str(folder)]) == 0
    through = json.loads(capfd.readouterr().out)
    assert through["options"]["lens"] == "linear"
    assert cli.main(read) == 0
    plain = json.loads(capfd.readouterr().out)
    assert through["cells"][0]["top"] != plain["cells"][0]["top"]
    assert through["cells"][-1]["top"] == plain["cells"][-1]["top"]
    out = tmp_path / "map.json"
    drawn = ["map", "--prompt", "the cat", "--layer", "1", "--out", str(out), *where]
    assert cli.main([*drawn, "--lens", str(folder)]) == 0
    assert json.loads(out.read_text())["options"]["lens"] == "linear"
    capfd.readouterr()
    for wrong, says in (("linear", "not fitted"), (str(tmp_path), "no lens in"),
                        ("nowhere", "there is no folder 'nowhere'")):  # fmt: skip
        assert cli.main([*read, "--lens", wrong]) == 2
        assert says in capfd.readouterr().err
    assert cli.main(["lens", "fit", "linear", "--text", "nowhere.txt", *where]) == 2
    assert "cannot be read" in capfd.readouterr().err
