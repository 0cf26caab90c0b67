"""What a GGUF file says of itself, checked before anything is allocated for it.

A GGUF file begins with counts, keys and tensor descriptions that name how much is to be read. One
that lies could ask its reader for any amount of memory, so the header is walked here by bounds:
every length is compared with what is left of the file, every tensor with where the file ends.
Nothing is interpreted beyond that; :mod:`gguf` and transformers read what passes.

Layout (GGUF version 2 and 3, little-endian): ``GGUF``, version, number of tensors, number of keys;
each key with its typed value; each tensor with name, dimensions, type and offset; the data.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.errors import ModelError, ModelTooLarge, UnsupportedModel, shorten
from engine.model.folder import MOST_LAYERS

_MAGIC: Final = b"GGUF"
_KEYS: Final = 65_536
_TENSORS: Final = 100_000
_ELEMENTS: Final = 16_000_000
"""Of one array: a vocabulary and its merges have less than a million."""
_TEXT: Final = 2**26
_STRING, _ARRAY = 8, 9
_NUMBERS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""Type of a value to its form; 8 is a text, 9 an array."""


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the file."""

    name: str
    shape: tuple[int, ...]
    """Rows first, as torch has it."""
    kind: str
    """``Q4_1``, ``Q8_0``, ``F32`` …"""
    start: int
    """Where its bytes begin in the file."""
    size: int
    """Bytes in the file."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """What stands before the weights."""

    architecture: str
    """As the file calls it: ``llama``, ``qwen2`` …"""
    licence: str | None
    """What the file says of its licence, such as ``apache-2.0``."""
    vocabulary: int
    """Tokens that the file lists."""
    tensors: tuple[GgufTensor, ...]

    @property
    def quantization(self) -> str:
        """The type that most of the numbers have."""
        return self.kinds[0][0]

    @property
    def kinds(self) -> tuple[tuple[str, int], ...]:
        """Every type with its share of the numbers, the most frequent first."""
        counted: Counter[str] = Counter()
        for tensor in self.tensors:
            counted[tensor.kind] += tensor.elements
        return tuple(counted.most_common())

    @property
    def parameters(self) -> int:
        """How many numbers the file holds."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def dequantised_bytes(self) -> int:
        """What they take in float32."""
        return 4 * self.parameters


def read_header(path: Path, shown: str) -> GgufHeader:
    """The header of a GGUF file, every length of it checked.

    Args:
        path: the file.
        shown: what people call it.

    Raises:
        ModelError: no GGUF file, cut off, damaged, or saying what cannot be.
        ModelTooLarge: more layers, keys, tensors or text than any model has.
        UnsupportedModel: a version or a type of numbers that is not read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Walk(data, shown).header()
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise ModelError(
            f"{shown} cannot be read as a GGUF file ({shorten(str(error), 120)}); copy or download"
            " it again."
        ) from error


class _Walk:
    """A place in the file, and what is read from there on."""

    def __init__(self, data: mmap.mmap, shown: str) -> None:
        self._data, self._shown, self._at = data, shown, 0

    def header(self) -> GgufHeader:
        if self._data[:4] != _MAGIC:
            raise ModelError(f"{self._shown} is no GGUF file: it does not begin with GGUF.")
        self._at = 4
        version = self._number("I")
        if version not in (2, 3):
            big = version in (2 << 24, 3 << 24)
            what = "written for big-endian machines" if big else f"GGUF of version {version}"
            raise UnsupportedModel(
                f"{self._shown} is {what}, and versions 2 and 3, little-endian, are read; convert"
                " it anew."
            )
        tensors = self._count("tensors", _TENSORS)
        facts = self._facts(self._count("keys", _KEYS))
        architecture = facts.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise ModelError(f"{self._shown} does not say its architecture; convert it anew.")
        blocks = facts.get(f"{architecture}.block_count", 0)
        if not isinstance(blocks, int) or blocks > MOST_LAYERS:
            raise ModelTooLarge(
                f"{self._shown} says {shorten(str(blocks), 20)} layers, and at most"
                f" {MOST_LAYERS:,} are opened."
            )
        alignment = facts.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
            raise ModelError(f"{self._shown} aligns its tensors to {alignment!r} bytes.")
        listed = [self._tensor() for _ in range(tensors)]
        begin = -(-self._at // alignment) * alignment
        placed = tuple(self._placed(begin, *one) for one in listed)
        if not placed:
            raise ModelError(f"{self._shown} holds no tensors; give the file with the weights.")
        if len({tensor.name for tensor in placed}) < len(placed):
            raise ModelError(f"{self._shown} names two tensors alike; convert it anew.")
        licence = facts.get("general.license")
        tokens = facts.get("tokenizer.ggml.tokens")
        return GgufHeader(
            architecture,
            shorten(licence, 60) if isinstance(licence, str) else None,
            tokens if isinstance(tokens, int) else 0,
            placed,
        )

    def _facts(self, count: int) -> Mapping[str, Any]:
        """Keys with their values; of arrays how many values they have."""
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self._text(65_535)
            found[key] = self._value(self._number("I"), key)
        return found

    def _value(self, kind: int, key: str) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._text(_TEXT)
        if kind != _ARRAY:
            raise ModelError(f"{self._shown} has a value of no known type under {shorten(key)!r}.")
        inner, count = self._number("I"), self._count(f"values under {shorten(key)}", _ELEMENTS)
        if inner in _NUMBERS:
            self._skip(count * struct.calcsize(f"<{_NUMBERS[inner]}"))
        elif inner == _STRING:
            for _ in range(count):
                self._skip(self._number("Q"))
        else:
            raise ModelError(f"{self._shown} has an array of arrays under {shorten(key)!r}.")
        return count

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text(65_535)
        shape = tuple(self._number("Q") for _ in range(self._count(f"dimensions of {name}", 4, 4)))
        return name, shape, self._number("I"), self._number("Q")

    def _placed(
        self, begin: int, name: str, shape: tuple[int, ...], kind: int, offset: int
    ) -> GgufTensor:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            typed = GGMLQuantizationType(kind)
        except ValueError:
            raise UnsupportedModel(
                f"the tensor {shorten(name)!r} of {self._shown} has numbers of a type ({kind}) that"
                " is not known; update the package gguf, or convert the file to Q8_0."
            ) from None
        block, size = GGML_QUANT_SIZES[typed]
        elements = math.prod(shape)
        if not shape or elements == 0 or elements > 2**42 or shape[0] % block:
            raise ModelError(
                f"the tensor {shorten(name)!r} of {self._shown} has dimensions that its type"
                f" {typed.name} cannot have: {shorten(str(shape))}."
            )
        start, stored = begin + offset, elements // block * size
        if start + stored > len(self._data):
            raise ModelError(
                f"{self._shown} ends before its tensor {shorten(name)!r} does; it is cut off, copy"
                " or download it again."
            )
        return GgufTensor(name, shape[::-1], typed.name, start, stored)

    def _number(self, form: str) -> Any:
        size = struct.calcsize(f"<{form}")
        self._skip(size)
        return struct.unpack_from(f"<{form}", self._data, self._at - size)[0]

    def _count(self, what: str, most: int, size: int = 8) -> int:
        count = int(self._number("Q" if size == 8 else "I"))
        if count > most:
            raise ModelTooLarge(
                f"{self._shown} says it has {shorten(f'{count:,}', 30)} {shorten(what, 60)}, and"
                f" at most {most:,} are read; it is damaged."
            )
        return count

    def _text(self, most: int) -> str:
        size = int(self._number("Q"))
        if size > most:
            raise ModelTooLarge(
                f"{self._shown} holds a text of {shorten(f'{size:,}', 30)} bytes, and at most"
                f" {most:,} are read; it is damaged."
            )
        self._skip(size)
        return self._data[self._at - size : self._at].decode("utf-8", "replace")

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self._at:
            raise ModelError(
                f"{self._shown} ends in the middle of its header; it is cut off, copy or download"
                " it again."
            )
        self._at += size
