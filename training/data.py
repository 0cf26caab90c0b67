"""Text on disk to batches of token numbers: reading, packing, mixing.

A *source* is a name and a place: a file (`.jsonl.xz`, `.jsonl`, `.txt`, each also without or with
`.xz`) or a folder. A folder that holds `train.*` and `valid.*` is already split; from any other
source the last 1 % of its tokens is held out. Knows nothing about models.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

END_OF_TEXT = "<|endoftext|>"
HELD_OUT = 0.01
SUFFIXES = (".jsonl.xz", ".jsonl", ".txt.xz", ".txt")


@dataclass(frozen=True)
class Packed:
    """One packed stream: what went in and what came out."""

    documents: int
    """Documents read; each is followed by one end-of-text token."""
    tokens: int
    """Tokens written, end-of-text tokens included."""
    utf8_bytes: int
    """UTF-8 bytes of the documents' text, the end-of-text marks not counted."""


def split_files(place: Path) -> tuple[list[Path], list[Path]]:
    """The training and validation files of a source.

    Returns:
        Training files, then validation files; the second is empty where the source is not already
        split.

    Raises:
        ValueError: There is no file of a known kind.
    """
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    files = [file for file in files if file.name.endswith(SUFFIXES)]
    if not files:
        raise ValueError(
            f"A source must hold files ending in {', '.join(SUFFIXES)}; {place} does not."
        )
    train = [file for file in files if file.name.startswith("train.")]
    valid = [file for file in files if file.name.startswith("valid.")]
    return (train, valid) if train and valid else (files, [])


def documents(file: Path) -> Iterator[str]:
    """The texts of one file: one per JSON line (its `text` field), or the whole of a plain file."""
    with _open_text(file) as lines:
        if ".jsonl" not in file.name:
            yield lines.read()
            return
        for line in lines:
            yield json.loads(line)["text"]


def pack(texts: Iterable[str], tokenizer: Tokenizer, out: Path) -> Packed:
    """Writes the texts as one stream of little-endian uint16 numbers, end-of-text after each.

    Args:
        texts: Documents, read once, in order.
        tokenizer: At most 65,536 tokens, of which one is `<|endoftext|>`.
        out: The file to write; it appears only when complete.

    Raises:
        ValueError: The vocabulary does not fit 16 bits, or lacks the end-of-text token.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    if end is None or tokenizer.get_vocab_size() > 1 << 16:
        raise ValueError(
            f"Packing needs a tokenizer of at most 65536 tokens with {END_OF_TEXT}; "
            f"got {tokenizer.get_vocab_size()} tokens."
        )
    count = tokens = size = 0
    texts = iter(texts)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    with part.open("wb") as stream:
        while batch := list(islice(texts, 32)):
            for text, encoding in zip(
                batch, tokenizer.encode_batch(batch, add_special_tokens=False), strict=True
            ):
                row = np.asarray([*encoding.ids, end], dtype="<u2")
                stream.write(row.tobytes())
                count, tokens, size = count + 1, tokens + row.size, size + len(text.encode())
    part.replace(out)
    return Packed(count, tokens, size)


def pack_source(name: str, place: Path, tokenizer: Tokenizer, folder: Path) -> dict[str, Packed]:
    """Packs a source to `NAME.train.bin` and, if it comes already split, `NAME.valid.bin`.

    What was packed is written beside them as `NAME.json`; a source packed before with the same
    tokenizer is not packed again.
    """
    train, valid = split_files(place)
    note = folder / f"{name}.json"
    key = {
        "tokenizer": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        "files": [[file.name, file.stat().st_size] for file in train + valid],
    }
    if note.exists():
        known = json.loads(note.read_text())
        if known["key"] == key:
            return {split: Packed(**fields) for split, fields in known["packed"].items()}
    packed = {
        split: pack(_all_documents(files), tokenizer, folder / f"{name}.{split}.bin")
        for split, files in (("train", train), ("valid", valid))
        if files
    }
    fields = {split: asdict(value) for split, value in packed.items()}
    write_json(note, {"key": key, "packed": fields})
    return packed


def open_streams(folder: Path, name: str) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """The training and validation tokens of a packed source, mapped, not read.

    Raises:
        FileNotFoundError: The source was not packed in this folder.
    """
    train = _memmap(folder / f"{name}.train.bin")
    held_out = folder / f"{name}.valid.bin"
    if held_out.exists():
        return train, _memmap(held_out)
    cut = train.size - max(1, int(train.size * HELD_OUT))
    return train[:cut], train[cut:]


@dataclass(frozen=True)
class Mixture:
    """Batches drawn from several streams by weight, a pure function of the step.

    Each stream is cut into windows of `context + 1` tokens; an epoch visits each window once in a
    seeded order, and every epoch cuts at another offset. Nothing is remembered between calls, so a
    resumed run sees what an uninterrupted one would.
    """

    streams: Mapping[str, npt.NDArray[np.uint16]]
    """Tokens by source name; each longer than two windows."""
    weights: Mapping[str, float]
    """Share of the rows by source name; any positive numbers."""
    context: int
    """Tokens the model reads; rows hold one more, the last target."""
    seed: int

    def __post_init__(self) -> None:
        for name in self.weights:
            if self.streams[name].size < 2 * (self.context + 1):
                raise ValueError(
                    f"Source {name!r} must hold at least {2 * (self.context + 1)} tokens for a "
                    f"context of {self.context}; it holds {self.streams[name].size}."
                )

    def batch(self, step: int, rows: int) -> Tensor:
        """The rows of one step, shape (rows, context + 1), int64.

        Every step has the same number of rows of a source: its share, rounded so that all sum to
        `rows`.
        """
        names = sorted(self.weights)
        shares = np.cumsum([self.weights[name] for name in names])
        bounds = np.rint(shares / shares[-1] * rows).astype(int)
        picked = [
            self._window(place, names[place], step * count + row)
            for place, count in enumerate(np.diff(bounds, prepend=0).tolist())
            for row in range(count)
        ]
        return torch.from_numpy(np.stack(picked))

    def _window(self, place: int, name: str, number: int) -> npt.NDArray[np.int64]:
        stream, width = self.streams[name], self.context + 1
        windows = stream.size // width - 1
        epoch, index = divmod(number, windows)
        offset, order = _epoch_order(self.seed, place, epoch, windows, width)
        start = offset + width * int(order[index])
        return stream[start : start + width].astype(np.int64)


def source(argument: str) -> tuple[str, Path]:
    """Parses `NAME=PATH`, the command line's form of a source."""
    name, found, place = argument.partition("=")
    if not (found and name and place):
        raise argparse.ArgumentTypeError(f"a source is NAME=PATH; got {argument!r}")
    return name, Path(place)


def write_json(file: Path, value: object) -> None:
    """Writes JSON so that the file is either the old one or the new one, never a part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)


@lru_cache(maxsize=8)
def _epoch_order(
    seed: int, place: int, epoch: int, windows: int, width: int
) -> tuple[int, npt.NDArray[np.int64]]:
    rng = np.random.default_rng((seed, place, epoch))
    return int(rng.integers(width)), rng.permutation(windows)


def _memmap(file: Path) -> npt.NDArray[np.uint16]:
    return np.memmap(file, dtype="<u2", mode="r")


def _all_documents(files: Iterable[Path]) -> Iterator[str]:
    return (text for file in files for text in documents(file))


def _open_text(file: Path) -> IO[str]:
    if file.suffix == ".xz":
        return lzma.open(file, "rt", encoding="utf-8")
    return file.open(encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Packs every source given, with the tokenizer in the work folder."""
    parser = argparse.ArgumentParser(prog="python -m training.data", description=main.__doc__)
    parser.add_argument(
        "--source", type=source, action="append", required=True, metavar="NAME=PATH"
    )
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    options = parser.parse_args(arguments)
    tokenizer = Tokenizer.from_file(str(options.work / "tokenizer" / "tokenizer.json"))
    for name, place in options.source:
        for split, packed in pack_source(name, place, tokenizer, options.work / "packed").items():
            print(
                f"{name}.{split}: {packed.documents} documents, {packed.tokens} tokens, "
                f"{packed.utf8_bytes} bytes"
            )


if __name__ == "__main__":
    main()
