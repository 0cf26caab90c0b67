"""States of other texts at every layer, kept to be searched: a bank.

Of each text every position's state at every layer, past the final norm and scaled to length 1, in
float16; and beside it the same of the text with its tokens shuffled, the control. A file is one
bank of one model: safetensors that are read layer by layer, never as a whole.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.checkpoints import write_aside
from engine.errors import ArtifactError
from engine.trace.reference import TEXT

BUILT_IN: Final = "examples"
LONGEST: Final = 600
"""Characters of a text that are read; what lies beyond is left out."""
_FORMAT: Final = "1"
_CHUNK: Final = 8192
"""Positions whose states are compared at once."""
SIDES: Final = ("states", "shuffled")


@dataclass(frozen=True)
class BankTexts:
    """What a bank is built of."""

    name: str
    """How it is asked for."""
    title: str
    """For people."""
    texts: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Of the texts: part of the file's name."""
        plain = json.dumps(self.texts).encode()
        return hashlib.blake2b(plain, digest_size=12).hexdigest()


@cache
def built_in() -> BankTexts:
    """Texts that ship: paragraphs, news and reviews, all written for this project."""
    folder = TEXT.parent
    rows: list[Sequence[str]] = [TEXT.read_text(encoding="utf-8").split("\n\n")]
    for name in ("topics.csv", "sentiment.csv"):
        with (folder / name).open(encoding="utf-8", newline="") as file:
            rows.append([row["text"] for row in csv.DictReader(file)])
    # In turn: a beginning of it has something of each, however few fit.
    count = max(map(len, rows))
    texts = chain.from_iterable([own[i] for own in rows if i < len(own)] for i in range(count))
    return BankTexts(
        BUILT_IN, "texts that ship with Lexiscope", tuple(text.strip() for text in texts)
    )


@dataclass(frozen=True)
class Bank:
    """A bank that was built: what it holds, and where its states lie."""

    name: str
    title: str
    model: str
    """The model's fingerprint."""
    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    """Of each text."""
    left_out: int
    """Texts that were not taken: empty, or beyond the bytes that a bank may have."""
    width: int
    layers: int
    """L + 1."""
    seconds: float
    """What it took."""

    @property
    def positions(self) -> int:
        """States at each layer."""
        return sum(map(len, self.ids))

    @property
    def bytes(self) -> int:
        """Of the states and their control."""
        return bytes_of(self.positions, self.layers, self.width)

    @cached_property
    def starts(self) -> Any:
        """Where each text begins among the positions."""
        return np.cumsum([0, *map(len, self.ids)])[:-1]

    def similarities(self, side: str, layer: int, state: Tensor, source: Path | Parts) -> Any:
        """The cosine of one state and every position at a layer (positions), float32.

        Exact over the bank, by chunks; what was stored is rounded to float16.

        Args:
            side: one of :data:`SIDES`.
            layer: 0 to L.
            state: d.
            source: the bank's file, or its tensors.

        Raises:
            ArtifactError: the file is damaged.
        """
        unit = torch.nn.functional.normalize(state.cpu().float(), dim=0)
        out = np.empty(self.positions, np.float32)
        for start in range(0, self.positions, _CHUNK):
            stop = min(start + _CHUNK, self.positions)
            rows = _rows(source, side, layer, start, stop).float()
            norms = rows.norm(dim=1).clamp_min(torch.finfo(torch.float16).tiny)
            out[start:stop] = ((rows @ unit) / norms).numpy()
        return out


Parts = dict[str, Tensor]


def bytes_of(positions: int, layers: int, width: int) -> int:
    """Of a bank of so many positions: float16, the control beside."""
    return len(SIDES) * 2 * positions * layers * width


def _rows(source: Path | Parts, side: str, layer: int, start: int, stop: int) -> Tensor:
    if not isinstance(source, Path):
        return source[side][layer, start:stop]
    try:
        with safe_open(source, framework="pt") as file:
            rows: Tensor = file.get_slice(side)[layer, start:stop]
            return rows
    except (OSError, SafetensorError, IndexError) as error:
        raise ArtifactError("the bank's file is damaged or gone; build it anew.") from error


def path_of(folder: Path, digest: str, model: str) -> Path:
    """Where a bank lies."""
    return folder / f"contexts-{digest}-{model}.safetensors"


def save(bank: Bank, parts: Parts, path: Path) -> None:
    """Write a bank: whole, or not at all.

    Raises:
        OSError: it cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"format": _FORMAT, "bank": json.dumps(asdict(bank))}
    write_aside(path, partial(save_file, parts, metadata=meta))


def load(path: Path, *, model: str) -> Bank | None:
    """What a file says of its bank; None where there is none.

    Raises:
        ArtifactError: it is damaged, of another version or another model's.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            if meta.get("format") != _FORMAT:
                raise ValueError
            plain = json.loads(meta["bank"])
            plain["ids"] = tuple(tuple(int(i) for i in ids) for ids in plain["ids"])
            plain["texts"] = tuple(str(text) for text in plain["texts"])
            bank = Bank(**plain)
            shape = [bank.layers, bank.positions, bank.width]
            if any(list(file.get_slice(side).get_shape()) != shape for side in SIDES):
                raise ValueError
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError("the bank's file is damaged; build it anew.") from error
    if bank.model != model:
        raise ArtifactError(
            f"the bank was built of the model {bank.model[:12]} and {model[:12]} is open; build it"
            " anew."
        )
    return bank
