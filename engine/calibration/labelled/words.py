"""The tokens that stand for labels.

A label is read through one basis (or a mean of bases) of the vocabulary, so its word must be one
token, or a rule must say which of its tokens counts. The paper does not say; its early code takes
the last one. Ours, shown wherever a label is:

- ``first`` (the default): the word's first token as it continues the prompt (so with the space in
  front that a word has there): it is what the model would predict next. Where two labels begin
  alike, the first token in which they differ.
- ``last``: the same from the end.
- ``mean``: the mean of the unit bases of all tokens of the word.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from engine.errors import OptionError, shorten
from engine.model.language_model import LanguageModel

WordRule = Literal["first", "last", "mean"]
WORD_RULES: Final[tuple[WordRule, ...]] = ("first", "last", "mean")
_ENDING: Final = 40
"""Characters in front of a word that can change how it is taken apart."""


@dataclass(frozen=True)
class LabelToken:
    """What stands for one label in the vocabulary."""

    label: str
    word: str
    ids: tuple[int, ...]
    """All tokens of the word, as it continues the prompt."""
    texts: tuple[str, ...]
    """The same in visible form."""
    id_used: int
    """The token whose basis is the label's; with the rule ``mean`` the first of `ids`."""
    rule: str
    """In words: ``the word is one token``, ``token 1 of 3`` …"""
    mean: bool = False
    """Whether the label's centroid is the mean over `ids`."""

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LabelToken:
        """From its fields, as JSON holds them."""
        return cls(
            str(plain["label"]),
            str(plain["word"]),
            tuple(int(i) for i in plain["ids"]),
            tuple(str(t) for t in plain["texts"]),
            int(plain["id_used"]),
            str(plain["rule"]),
            bool(plain["mean"]),
        )


def default_words(labels: Sequence[str]) -> list[str]:
    """The words of labels that were given none.

    A label that is made of words is written as running text: in lower case, with spaces for
    underscores and hyphens (``Not_Spam`` → ``not spam``). What its marks, digits or single letters
    tell apart stays as it is (``-1``, ``B-``, ``C++``, ``COVID-19``), and so do labels that differ
    in nothing but case.
    """
    plain = [_running(label) for label in labels]
    return [
        word if plain.count(word) == 1 else label.strip()
        for label, word in zip(labels, plain, strict=True)
    ]


def _running(label: str) -> str:
    parts = re.split(r"[\s_]+|(?<=[^\W\d])-(?=[^\W\d])", label.strip())
    words = [part for part in parts if part]
    if not words or any(len(word) < 2 or not word.isalpha() for word in words):
        return label.strip()
    return " ".join(words).lower()


def label_tokens(
    model: LanguageModel, labels: Sequence[str], words: Sequence[str], *, ending: str, rule: str
) -> tuple[LabelToken, ...]:
    """The tokens of every label.

    Args:
        model: whose vocabulary.
        labels: names.
        words: one for each.
        ending: of the prompt template, after its last placeholder: what a word follows.
        rule: one of :data:`WORD_RULES`.

    Raises:
        OptionError: an unknown rule, an empty word, or two labels with the same tokens.
    """
    if rule not in WORD_RULES:
        raise OptionError(
            f"the rule for label words must be one of {', '.join(WORD_RULES)}; got"
            f" {shorten(str(rule))!r}."
        )
    ids = [word_ids(model, word, ending) for word in words]
    by_tokens: dict[tuple[int, ...], str] = {}
    for label, own in zip(labels, ids, strict=True):
        if own in by_tokens:
            raise OptionError(
                f"the labels {shorten(by_tokens[own])!r} and {shorten(label)!r} have the same"
                " label word; give each label a word of its own."
            )
        by_tokens[own] = label
    places = _places(ids, from_end=rule == "last")
    out = []
    for label, word, own, place in zip(labels, words, ids, places, strict=True):
        many = len(own)
        if many == 1:
            said = "the word is one token"
        elif rule == "mean":
            said = f"mean of the bases of its {many} tokens"
        else:
            said = f"token {place + 1} of {many}"
            if place != (0 if rule == "first" else many - 1):
                said += ", the one in which labels that " + (
                    "begin alike differ" if rule == "first" else "end alike differ"
                )
        used = own[0] if rule == "mean" else own[place]
        texts = tuple(model.vocabulary_texts.labels[i] for i in own)
        out.append(LabelToken(label, word, own, texts, used, said, rule == "mean" and many > 1))
    return tuple(out)


def word_ids(model: LanguageModel, word: str, ending: str) -> tuple[int, ...]:
    """A word's tokens as they continue a prompt that ends with `ending`.

    Taken from the difference of two token sequences, so that it holds for every kind of tokenizer:
    one that marks spaces in front of words, after them, or not at all. A token in front that is
    nothing but the space says nothing of the word, and is not one of its tokens.

    Raises:
        OptionError: an empty word, or one that the vocabulary does not know.
    """
    if not word.strip():
        raise OptionError("a label word is empty; give each label a word.")
    front = "x" + ending[-_ENDING:]
    joint = "" if ending[-1:].isspace() or not ending else " "
    before = model.tokenize(front, bos="no").ids
    after = model.tokenize(front + joint + word.strip(), bos="no").ids
    shared = 0
    while shared < min(len(before), len(after)) and before[shared] == after[shared]:
        shared += 1
    found = after[shared:]
    while len(found) > 1 and not model.vocabulary_texts.texts[found[0]].strip():
        found = found[1:]
    if model.tokenizer.unk_token_id in found and model.tokenizer.unk_token not in word:
        raise OptionError(
            f"the label word {shorten(word)!r} holds what this model's vocabulary does not know"
            f" ({model.tokenizer.unk_token}); give another."
        )
    if not found:
        raise OptionError(
            f"the label word {shorten(word)!r} has no token of its own; give another."
        )
    return tuple(found)


def _places(ids: Sequence[tuple[int, ...]], *, from_end: bool) -> list[int]:
    """For each word the place of the token that counts: moved on while two words share it."""
    steps = [0] * len(ids)

    def place(i: int) -> int:
        last = len(ids[i]) - 1
        step = min(steps[i], last)
        return last - step if from_end else step

    longest = max(len(own) for own in ids)
    for _ in range(longest):
        groups: dict[int, list[int]] = defaultdict(list)
        for i, own in enumerate(ids):
            groups[own[place(i)]].append(i)
        crowded = [members for members in groups.values() if len(members) > 1]
        if not crowded:
            return [place(i) for i in range(len(ids))]
        for members in crowded:
            for i in members:
                steps[i] += 1
    raise OptionError(
        "two labels are left with the same token under this rule for label words; choose the rule"
        " mean or other words."
    )
