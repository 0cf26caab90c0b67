"""Two Kneser–Ney n-grams of the training text, over bytes and over the model's own tokens.

Both are fitted on the same sample, drawn in the shares in which the model saw its sources, and
scored in bits per byte of text, so that they compare with any language model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.data import documents, split_files
from training.kneserney import KneserNey, fit

BYTE_ORDER: Final = 8
TOKEN_ORDER: Final = 4
_AT_ONCE: Final = 64
END_BYTE: Final = 0
"""Ends documents in the stream of bytes; text holds no such byte."""


@dataclass(frozen=True)
class NGram:
    """An n-gram and how it reads text."""

    name: str
    model: KneserNey
    tokenizer: Any = None
    """None reads bytes."""
    trained_bytes: int = 0
    """UTF-8 bytes of the text it was fitted on."""
    trained_symbols: int = 0
    """Bytes or tokens of it, marks between documents included."""

    def bits_per_byte(self, texts: Iterable[str]) -> float:
        """−Σ log₂ p over all symbols of the documents, by their UTF-8 bytes.

        Each document is read by itself after the mark that ends documents, which is not scored.
        """
        bits, size = 0.0, 0
        for stream, text in zip(*_both(texts, self.tokenizer), strict=True):
            bits += self.model.bits_of(stream, 1)
            size += len(text.encode())
        return bits / size

    def to_dict(self) -> dict[str, Any]:
        """For the report's JSON."""
        plain = {
            key: value for key, value in asdict(self).items() if key not in ("model", "tokenizer")
        }
        return plain | {
            "order": self.model.order,
            "symbols": self.model.symbols,
            "grams": self.model.grams,
            "discounts": [level.discount for level in self.model.levels],
        }


def sample(places: Mapping[str, Path], weights: Mapping[str, float], size: int) -> list[str]:
    """Training documents of several sources, each source up to its share of the bytes.

    Documents come in the order of the file; the last of a source is cut.
    """
    total = sum(weights[name] for name in places)
    texts = []
    for name, place in places.items():
        room = int(size * weights[name] / total)
        for text in (text for file in split_files(place)[0] for text in documents(file)):
            if room <= 0:
                break
            piece = text.encode()[:room].decode(errors="ignore")
            room -= max(1, len(piece.encode()))
            texts.append(piece)
    return texts


def fit_ngrams(texts: Sequence[str], tokenizer: Any, size: int) -> Iterator[NGram]:
    """The byte n-gram, then the token n-gram.

    Args:
        texts: training documents.
        tokenizer: a `transformers` tokenizer with an end-of-text mark.
        size: its number of tokens, that of the model's head.
    """
    held = sum(len(text.encode()) for text in texts)
    for name, reader, symbols, order in (
        ("byte", None, 256, BYTE_ORDER),
        # A large vocabulary packs fewer tokens into 64 bits.
        ("token", tokenizer, size, min(TOKEN_ORDER, 64 // max(1, (size - 1).bit_length()))),
    ):
        streams, _ = _both(texts, reader)
        stream = np.concatenate([*streams, streams[0][:1]])
        yield NGram(f"{name} {order}-gram", fit(stream, symbols, order), reader, held, len(stream))


def _both(texts: Iterable[str], tokenizer: Any) -> tuple[list[npt.NDArray[np.uint32]], list[str]]:
    """Every document as symbols, its mark first; and the documents themselves."""
    kept = list(texts)
    if tokenizer is None:
        mark = bytes([END_BYTE])
        bare = [text.encode().replace(mark, b" ") for text in kept]
        return [np.frombuffer(mark + row, dtype=np.uint8).astype(np.uint32) for row in bare], kept
    rows = []
    for start in range(0, len(kept), _AT_ONCE):
        some = kept[start : start + _AT_ONCE]
        for ids in tokenizer(some, add_special_tokens=False, verbose=False).input_ids:
            rows.append(np.asarray([tokenizer.bos_token_id, *ids], dtype=np.uint32))
    return rows, kept
