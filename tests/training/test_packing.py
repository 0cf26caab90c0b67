"""Packing and mixing: nothing lost, nothing invented, the same again."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from training.data import (
    END_OF_TEXT,
    Mixture,
    documents,
    open_streams,
    pack,
    pack_source,
    split_files,
)

TEXTS = ["The dog barks.", "", "Line one.\nLine two.", "漢字 🙂", "The cat purrs at night."]


def test_tokens_in_are_tokens_out(toy_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Cut at the end-of-text marks, the packed stream decodes to the documents, in order."""
    packed = pack(TEXTS, toy_tokenizer, tmp_path / "a.bin")
    stream = np.fromfile(tmp_path / "a.bin", dtype="<u2")
    end = toy_tokenizer.token_to_id(END_OF_TEXT)
    ends = np.flatnonzero(stream == end)
    pieces = np.split(stream, ends + 1)
    assert pieces.pop().size == 0
    decoded = [toy_tokenizer.decode(piece[:-1].tolist()) for piece in pieces]
    assert decoded == TEXTS
    assert packed.documents == len(TEXTS)
    assert packed.tokens == stream.size
    assert packed.tokens == sum(len(toy_tokenizer.encode(t).ids) for t in TEXTS) + len(TEXTS)
    assert packed.utf8_bytes == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("ending", [".jsonl.xz", ".jsonl", ".txt.xz", ".txt"])
def test_every_kind_of_file_gives_its_documents(tmp_path: Path, ending: str) -> None:
    """JSON lines give a document a line; plain text is one document."""
    lines = "".join(json.dumps({"text": text, "source": "toy"}) + "\n" for text in TEXTS)
    raw = (lines if "jsonl" in ending else "\n".join(TEXTS)).encode()
    file = tmp_path / f"some{ending}"
    file.write_bytes(lzma.compress(raw) if ending.endswith("xz") else raw)
    assert list(documents(file)) == (TEXTS if "jsonl" in ending else ["\n".join(TEXTS)])
    assert split_files(tmp_path) == ([file], [])


def test_a_folder_already_split_keeps_its_split(tmp_path: Path, toy_tokenizer: Tokenizer) -> None:
    """The validation stream of such a source is its validation file, whole."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.txt").write_text("The dog barks.")
    (folder / "valid.txt").write_text("The cat purrs.")
    packed = pack_source("s", folder, toy_tokenizer, tmp_path / "packed")
    train, valid = open_streams(tmp_path / "packed", "s")
    assert toy_tokenizer.decode(train[:-1].tolist()) == "The dog barks."
    assert toy_tokenizer.decode(valid[:-1].tolist()) == "The cat purrs."
    assert pack_source("s", folder, toy_tokenizer, tmp_path / "packed") == packed


def test_held_out_is_the_last_hundredth(toy_work: Path) -> None:
    """Training and held-out tokens together are the packed stream, without overlap."""
    whole = np.fromfile(toy_work / "packed" / "toy.train.bin", dtype="<u2")
    train, valid = open_streams(toy_work / "packed", "toy")
    assert np.array_equal(np.concatenate([train, valid]), whole)
    assert valid.size == whole.size // 100


def test_a_source_without_text_is_refused(tmp_path: Path) -> None:
    """The message names the kinds of file that are read."""
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.jsonl\.xz"):
        split_files(tmp_path)


def _streams() -> dict[str, np.ndarray]:
    return {
        "a": np.arange(0, 1000, dtype=np.uint16),
        "b": np.arange(2000, 2300, dtype=np.uint16),
    }


def test_rows_are_stretches_of_one_source_in_the_shares_asked_for() -> None:
    """Each row is consecutive tokens of one stream; rows of a source are its share."""
    mixture = Mixture(_streams(), {"a": 0.75, "b": 0.25}, context=9, seed=1)
    for step in range(20):
        rows = mixture.batch(step, 8)
        assert rows.shape == (8, 10)
        assert (rows.diff(dim=1) == 1).all()
        assert int((rows[:, 0] >= 2000).sum()) == 2


def test_an_epoch_visits_every_window_once() -> None:
    """Within an epoch no token is drawn twice, and all but the ends are drawn."""
    mixture = Mixture(_streams(), {"b": 1.0}, context=9, seed=3)
    windows = 300 // 10 - 1
    drawn = mixture.batch(0, windows).flatten().tolist()
    assert len(set(drawn)) == windows * 10
    following = mixture.batch(1, windows)
    assert len(set(following.flatten().tolist())) == windows * 10


def test_a_batch_depends_on_its_step_and_the_seed_alone() -> None:
    """Asked again, in another order, a mixture gives the same rows; another seed gives others."""
    first, second = (Mixture(_streams(), {"a": 1, "b": 1}, 9, seed=5) for _ in range(2))
    second.batch(7, 4)
    assert first.batch(3, 4).equal(second.batch(3, 4))
    assert not first.batch(3, 4).equal(Mixture(_streams(), {"a": 1, "b": 1}, 9, 6).batch(3, 4))


def test_a_stream_shorter_than_two_windows_is_refused() -> None:
    """The message says how long it must be."""
    with pytest.raises(ValueError, match="at least 402 tokens"):
        Mixture(_streams(), {"b": 1.0}, context=200, seed=0)
