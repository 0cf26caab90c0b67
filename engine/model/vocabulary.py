"""What each token id says: its true text, and a visible form that is safe to show.

Knows nothing about latent space. A token is a piece of bytes; `text` is those bytes as text where
they are text by themselves, and ``<0xF0><0x9F>`` where they are a part of a character only.
`label` is the form for people: spaces and controls are drawn, bidirectional marks are named, so
that no token can hide, vanish or turn the line around. It is not escaped for HTML: whoever renders
it does that.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from engine.json_number import plain

_BYTE_PIECE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")
WORD_END: Final = "</w>"
"""At the end of a word in the vocabularies of GPT, XLM and others."""
GOES_ON: Final = "@@"
"""Where a word goes on behind a token, in those of CTRL, BERTweet and others."""
_VISIBLE = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"}


@dataclass(frozen=True)
class Token:
    """One token as it stands in a vocabulary or a prompt."""

    id: int
    """Its row in the vocabulary."""
    text: str
    """The true text; bytes that are no text by themselves as ``<0xF0>``."""
    label: str
    """A visible form: nothing in it is a control or a bidirectional mark."""
    piece: str | None = None
    """Where a prompt's character was split, the character and the part: ``😀 1/3``."""

    def to_dict(self) -> dict[str, object]:
        """As it stands in the JSON contract."""
        return {"id": self.id, "text": self.text, "label": self.label, "piece": self.piece}


def with_token(row: Any, *parts: str) -> dict[str, Any]:
    """A dataclass for JSON, with parts of its token in the token's place; without what is None."""
    out: dict[str, Any] = {}
    for name, value in plain(row).items():
        if name == "token":
            out |= {part: value[part] for part in parts}
        elif getattr(row, name) is not None:
            out[name] = value
    return out


def visible(text: str) -> str:
    """Draw what cannot be seen: spaces as ``␣``, line ends as ``⏎``, the rest as ``<U+202E>``.

    A space inside a word group stays a space; leading and trailing ones, which decide what a
    token is, are drawn. The empty text is ``∅``.
    """
    if not text:
        return "∅"
    out: list[str] = []
    last = len(text) - 1
    for i, c in enumerate(text):
        edge = i == 0 or i == last or text[i - 1] == " " or (i < last and text[i + 1] == " ")
        if c == " ":
            out.append("␣" if edge else " ")
        elif c in _VISIBLE:
            out.append(_VISIBLE[c])
        elif unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"):
            out.append(f"<U+{ord(c):04X}>")
        else:
            out.append(c)
    if unicodedata.combining(text[0]):
        out.insert(0, "◌")
    return "".join(out)


def _unicode_to_byte() -> dict[str, int]:
    """The byte-level alphabet that GPT-2's tokenizer introduced, built from its definition.

    Printable Latin-1 stands for itself, each other byte for the next free code point from 256.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in printable}
    free = 256
    for b in range(256):
        if b not in printable:
            table[chr(free)] = b
            free += 1
    return table


_BYTE_LEVEL = _unicode_to_byte()


def _bytes_text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{b:02X}>" for b in raw)


class Vocabulary:
    """The texts of every row of a model's head.

    Rows that are no token's (padding of the head, gaps between the ids) read ``<row 50300>``.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.size = size
        known = {int(i) for i in tokenizer.get_vocab().values()}
        self.tokenizer_size = max(known, default=-1) + 1
        """One more than the tokenizer's largest id: ids may have gaps."""
        self.homeless = frozenset(i for i in known if i >= size)
        """Ids that have no row."""
        named = sorted(i for i in known if 0 <= i < size)
        self.named = len(named)
        """Rows that are a token's."""
        self._special = {int(i) for i in tokenizer.all_special_ids}
        pieces = dict(zip(named, tokenizer.convert_ids_to_tokens(named), strict=True))
        self._style, mark = _decoder_style(tokenizer, pieces.values())
        added = {int(i) for i in getattr(tokenizer, "added_tokens_decoder", {})}
        self._raw: list[bytes | None] = [None] * size
        for i, piece in pieces.items():
            if piece is not None:
                self._raw[i] = (
                    piece.encode("utf-8", "replace")
                    if i in added
                    else _piece_bytes(piece, self._style, mark)
                )
        self.texts: list[str] = [
            f"<row {i}>" if raw is None else _bytes_text(raw) for i, raw in enumerate(self._raw)
        ]
        self.labels: list[str] = [visible(text) for text in self.texts]

    def token(self, id: int) -> Token:
        """The token of a row."""
        return Token(id, self.texts[id], self.labels[id])

    def is_special(self, id: int) -> bool:
        """Whether the tokenizer calls this id a special token."""
        return id in self._special

    def is_token(self, id: int) -> bool:
        """Whether the row is a token's, and not padding of the head."""
        return self._raw[id] is not None

    def is_word(self, id: int) -> bool:
        """Whether a reader would call it a word or a part of one: letters or digits only."""
        if id in self._special or self._raw[id] is None:
            return False
        text = self.texts[id].strip()
        if self._style == "wordpiece":
            text = text.removeprefix("##")
        return bool(text) and all(c.isalnum() or c in "'’-" for c in text) and text[0].isalnum()

    @cached_property
    def words(self) -> list[bool]:
        """:meth:`is_word` of every row."""
        return [self.is_word(i) for i in range(self.size)]

    def prompt_tokens(self, ids: Sequence[int]) -> tuple[Token, ...]:
        """The tokens of a prompt, with the parts of split characters named.

        A run of tokens whose bytes are a character only together gets `piece` ``😀 1/3``.
        """
        out = [self.token(i) for i in ids]
        start = 0
        while start < len(out):
            raw = self._raw[ids[start]]
            if raw is None or _is_text(raw):
                start += 1
                continue
            joined, end = raw, start + 1
            while end < len(out) and not _is_text(joined) and len(joined) < 16:
                nxt = self._raw[ids[end]]
                if nxt is None:
                    break
                joined += nxt
                end += 1
            if _is_text(joined) and end - start > 1:
                shown = visible(joined.decode("utf-8"))
                for j in range(start, end):
                    token = out[j]
                    part = f"{shown} {j - start + 1}/{end - start}"
                    out[j] = Token(token.id, token.text, token.label, part)
                start = end
            else:
                start += 1
        return tuple(out)


def listed_ids(folder: Path) -> frozenset[int] | None:
    """The ids that a folder's own files list; None where that is not told.

    transformers' classes add tokens of their own, such as an end of text, past the last of them.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    found = set(Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True).values())
    for name, key in (("tokenizer_config.json", "added_tokens_decoder"), ("added_tokens.json", "")):
        if (folder / name).is_file():
            plain = json.loads((folder / name).read_text(encoding="utf-8"))
            ids = plain.get(key, {}) if key else plain.values()
            found |= {int(i) for i in ids}
    return frozenset(found)


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _decoder_style(tokenizer: Any, pieces: Iterable[str | None]) -> tuple[str, str]:
    """How the tokenizer writes bytes and word ends into token strings, and its mark of the latter.

    Found in its own definition; of one that is written in Python, in its tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "plain", _mark_of(pieces)
    spec = json.loads(backend.to_str())
    mark = str((spec.get("model") or {}).get("end_of_word_suffix") or _suffix(spec.get("decoder")))
    kinds = json.dumps([spec.get("decoder"), spec.get("pre_tokenizer")])
    if '"ByteLevel"' in kinds:
        return "bytelevel", mark
    if '"WordPiece"' in kinds:
        return "wordpiece", mark
    if '"Metaspace"' in kinds or "\\u2581" in kinds or "▁" in kinds:
        return "metaspace", mark
    return "plain", mark


def _suffix(decoder: Any) -> str:
    """The mark that a decoder takes for the end of a word; empty where it takes none."""
    if not isinstance(decoder, dict):
        return ""
    if decoder.get("type") == "BPEDecoder":
        return str(decoder.get("suffix") or "")
    return next(filter(None, map(_suffix, decoder.get("decoders") or ())), "")


def _mark_of(pieces: Iterable[str | None]) -> str:
    """The mark with which one token in a hundred ends, of those that stand for a word's end or
    for its going on."""
    told = [piece for piece in pieces if piece]
    share = {one: sum(piece.endswith(one) for piece in told) for one in (WORD_END, GOES_ON)}
    mark, count = max(share.items(), key=lambda item: item[1])
    return mark if 100 * count > len(told) else ""


def _piece_bytes(piece: str, style: str, mark: str = "") -> bytes:
    if mark and mark != GOES_ON and piece.endswith(mark):
        return _piece_bytes(piece.removesuffix(mark), style) + b" "
    if mark == GOES_ON:
        inside = piece.endswith(mark)
        return piece.removesuffix(mark).encode("utf-8", "replace") + (b"" if inside else b" ")
    if style == "bytelevel" and all(c in _BYTE_LEVEL for c in piece):
        return bytes(_BYTE_LEVEL[c] for c in piece)
    if style == "metaspace":
        match = _BYTE_PIECE.match(piece)
        if match:
            return bytes([int(match[1], 16)])
        piece = piece.replace("▁", " ")
    return piece.encode("utf-8", "replace")
