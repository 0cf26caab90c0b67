"""Tokens of a vocabulary, found by id, by text, or by a piece of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from engine.errors import OptionError, TokenError, shorten
from engine.frames.decomposition import HeadDecomposition
from engine.model.language_model import LanguageModel
from engine.model.vocabulary import Token


@dataclass(frozen=True)
class TokenHit:
    """A token found by a search."""

    token: Token
    leverage: float
    norm: float
    """‖s_i‖ of its semantic basis."""


class Lookup:
    """Finds tokens of one model.

    Args:
        model: whose vocabulary it is.
        decomposition: of its head, for what is said of each token that is found.
    """

    def __init__(self, model: LanguageModel, decomposition: HeadDecomposition) -> None:
        self._model = model
        self._texts = model.vocabulary_texts
        self._head = decomposition

    @cached_property
    def _by_text(self) -> dict[str, int]:
        """The first row of each text."""
        index: dict[str, int] = {}
        for i, text in enumerate(self._texts.texts):
            index.setdefault(text, i)
        return index

    def find(self, token: int | str) -> int:
        """A row of the vocabulary from its id, ``#id``, or its text.

        A text that is no token by itself is tried with a leading space, then tokenized.

        Raises:
            TokenError: no such row, or a text of several tokens.
        """
        v = self._model.vocabulary
        if isinstance(token, int):
            if not 0 <= token < v:
                raise TokenError(f"token id must be in [0, {v - 1}]; got {token}.")
            return token
        if token.startswith("#") and token[1:].isdecimal() and len(token) < 12:
            return self.find(int(token[1:]))
        if not token:
            raise TokenError("the token is empty; type a word, or # and an id such as #42.")
        if len(token) > 200:
            raise TokenError(
                f"a token may have at most 200 characters, this text has {len(token):,}."
            )
        index = self._by_text
        for text in (token, " " + token):
            if text in index:
                return index[text]
        pieces = self._model.tokenize(token, bos="no").items
        if len(pieces) == 1:
            return pieces[0].id
        parts = ", ".join(f"{p.label} (#{p.id})" for p in pieces[:6])
        more = f" and {len(pieces) - 6} more" if len(pieces) > 6 else ""
        raise TokenError(
            f"{shorten(token)!r} is {len(pieces)} tokens for this model:"
            f" {shorten(parts, 160)}{more}; choose one of them."
        )

    def search(self, text: str, *, limit: int = 20) -> list[TokenHit]:
        """Tokens whose text holds a piece of text: exact ones first, then by length.

        Raises:
            OptionError: nothing to search for, or too long a text.
        """
        if not text or len(text) > 200:
            raise OptionError(f"search for 1 to 200 characters; got {len(text):,}.")
        limit = max(1, min(limit, self._model.limits.max_search))
        wanted = text.casefold()
        hits = [
            (t.strip().casefold() != wanted.strip(), len(t), i)
            for i, t in enumerate(self._texts.texts)
            if wanted in t.casefold()
        ]
        hits.sort()
        return [
            TokenHit(
                self._texts.token(i),
                float(self._head.leverage[i]),
                float(self._head.basis_norms[i]),
            )
            for _, _, i in hits[:limit]
        ]
