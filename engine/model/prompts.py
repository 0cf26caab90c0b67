"""A prompt as a model gets it: limits, begin-of-text token, chat template, token ids.

Knows nothing about the model but its tokenizer and its sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import OptionError, PromptError, shorten
from engine.model.vocabulary import Token, Vocabulary

BOS: Final = ("auto", "yes", "no")


@dataclass(frozen=True)
class Tokens:
    """A prompt as the model gets it."""

    prompt: str
    ids: tuple[int, ...]
    items: tuple[Token, ...]
    added_bos: bool
    """Whether a begin-of-text token stands in front that the prompt does not hold."""


def tokenize(
    prompt: str,
    *,
    bos: str,
    chat: bool,
    tokenizer: Any,
    texts: Vocabulary,
    rows: int,
    max_characters: int,
    max_tokens: int,
) -> Tokens:
    """Turn a prompt into token ids.

    Args:
        prompt: any text.
        bos: one of :data:`BOS`.
        chat: write the prompt as a user's turn by the tokenizer's chat template.
        tokenizer: of the model.
        texts: what each token id says.
        rows: of the model's head: an id must have one.
        max_characters: counted before anything is tokenized.
        max_tokens: that the prompt may have.

    Raises:
        OptionError: an unknown `bos`.
        PromptError: empty, not text, too long, no chat template, or one that fails or leaves the
            prompt out.
    """
    if bos not in BOS:
        raise OptionError(f"bos must be one of {', '.join(BOS)}; got {shorten(str(bos))!r}.")
    if len(prompt) > max_characters:
        raise PromptError(
            f"a prompt may have at most {max_characters:,} characters, this one has"
            f" {len(prompt):,}; shorten it."
        )
    if not prompt.strip("\x00"):
        raise PromptError("the prompt is empty; type at least one character.")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise PromptError(
            "the prompt holds half of a surrogate pair, which is no text; remove it."
        ) from None
    if chat:
        ids, added = _chat_ids(tokenizer, prompt, max_characters), False
    else:
        ids, added = _plain_ids(tokenizer, prompt, bos)
    if not ids:
        raise PromptError("the prompt has no token for this model; type some text.")
    if len(ids) > max_tokens:
        raise PromptError(
            f"a prompt may have at most {max_tokens:,} tokens for this model, this one has"
            f" {len(ids):,}; shorten it."
        )
    if max(ids) >= rows:
        raise PromptError(
            f"token {max(ids)} of this prompt has no row in the model's head"
            f" ({rows:,} rows); remove that character."
        )
    return Tokens(prompt, tuple(ids), texts.prompt_tokens(ids), added)


def has_chat_template(tokenizer: Any) -> bool:
    """Whether the tokenizer knows how to write a chat."""
    return bool(getattr(tokenizer, "chat_template", None))


def _chat_ids(tokenizer: Any, prompt: str, most: int) -> list[int]:
    off = "switch 'chat' off to give the prompt as it is."
    templates = getattr(tokenizer, "chat_template", None)
    if not templates:
        raise PromptError(f"this model has no chat template; {off}")
    if isinstance(templates, Mapping) and "default" not in templates:
        names = shorten(", ".join(sorted(map(str, templates))), 80)
        raise PromptError(
            f"this model has chat templates for special uses only ({names}) and none for a plain"
            f" conversation; {off}"
        )
    try:
        text = str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
            )
        )
    except Exception as error:  # the template is code of the model's author
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, 160).rstrip(".")
        raise PromptError(
            f"the chat template of this model cannot write a turn of a user alone ({reason}); {off}"
        ) from error
    if " ".join(prompt.split()) not in " ".join(text.split()):
        what = "writes nothing" if not text.strip() else "does not write the prompt's text as it is"
        raise PromptError(f"the chat template of this model {what}; {off}")
    if len(text) > 2 * most:
        raise PromptError(
            f"the chat template of this model makes {len(text):,} characters of this prompt, and at"
            f" most {2 * most:,} are read; {off}"
        )
    return _encoded(tokenizer, text, special=False)


def _encoded(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [int(i) for i in tokenizer.encode(text, add_special_tokens=special)]
    # encode_batch lets other threads run meanwhile; encode holds the interpreter's lock.
    return list(backend.encode_batch([text], add_special_tokens=special)[0].ids)


def _plain_ids(tokenizer: Any, prompt: str, bos: str) -> tuple[list[int], bool]:
    special = bos != "no"
    ids = _encoded(tokenizer, prompt, special=special)
    begin = tokenizer.bos_token_id
    if bos == "yes":
        if begin is None:
            raise PromptError("this model has no begin-of-text token; set 'bos' to auto or no.")
        if not ids or ids[0] != begin:
            ids.insert(0, int(begin))
    if not special or begin is None or not ids or ids[0] != begin:
        return ids, False
    # The prompt may hold that token itself, in front.
    held = prompt.lstrip().startswith(str(tokenizer.bos_token))
    return ids, not held or ids[1:2] == [begin]
