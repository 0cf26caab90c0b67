"""Files are put in place whole, and a terminal is told where long work is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from app.cli.terminal import follow, save
from engine.errors import OptionError
from engine.progress import Progress, Steps


def work() -> Steps[int]:
    yield Progress(1, 4, "reading the texts")
    yield Progress(0, 0, "training")
    return 7


def test_a_terminal_is_told_and_left_clean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert follow(work()) == 7
    assert capsys.readouterr().err == ""  # a file or a pipe gets nothing
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert follow(work()) == 7
    clear = "\r\033[K"
    told = capsys.readouterr().err
    assert told == f"{clear} 25%  reading the texts{clear}training{clear}"


def test_a_file_is_an_ordinary_one_and_alone(tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    file.write_text("old")
    save(file, b"new")
    assert file.read_bytes() == b"new"
    assert [one.name for one in tmp_path.iterdir()] == ["map.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~mask


def test_what_cannot_be_written_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "no" / "x.csv", tmp_path / "folder", Path(__file__) / "x.csv"):
        with pytest.raises(OptionError, match="cannot be written"):
            save(path, b"new")
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]
