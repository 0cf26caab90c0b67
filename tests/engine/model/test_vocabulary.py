"""Token texts: the true ones, the visible ones, split characters, hostile tokens, chat and BOS."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import PROMPT, Spaces, byte_tokenizer, randomize
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from engine import LatentSpace, Limits, load
from engine.errors import OptionError, PromptError
from engine.model import prompts
from engine.model.vocabulary import Vocabulary, visible

HOSTILE = [
    "<script>alert(1)</script>",
    "=1+1",
    "\u202eevil\u202c",
    "\x00\x1b[31m",
    "a\tb\nc",
    "\u200b",
    "\ufeff",
    "\"'`&",
    "\u2066x\u2069",
    "e\u0301",
    "\u0301",
    " ",
    "  two  ",
    "\u3000",
    "\ue000",
]


def hostile_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(HOSTILE)
    return tokenizer


def model_for(tokenizer: Any, folder: Path, limits: Limits | None = None) -> LatentSpace:
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=8,
        n_layer=1,
        n_head=2,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = transformers.GPT2LMHeadModel(config)
    randomize(model, seed=5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load(folder, device="cpu", offline=True, cache_dir=folder / "cache", limits=limits)


# --- what can be seen -----------------------------------------------------------------------------

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


@given(st.text())
def test_what_is_shown_has_no_control_and_no_bidirectional_mark(text: str) -> None:
    shown = visible(text)
    assert shown
    for c in shown:
        assert unicodedata.category(c) not in HIDDEN
        assert c == " " or not c.isspace()
    assert shown[0] != " "
    assert shown[-1] != " "
    assert not unicodedata.combining(shown[0])


@given(st.text(alphabet=st.characters(categories=("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"))))
def test_every_hidden_character_leaves_a_trace(text: str) -> None:
    """Also where a text is nothing else: no token can vanish."""
    assert len(visible(text)) >= max(1, len(text) - text.count(" "))


def test_spaces_that_decide_what_a_token_is_are_drawn() -> None:
    assert visible(" the") == "␣the"
    assert visible("of the") == "of the"
    assert visible("a  b") == "a␣␣b"
    assert visible("\n") == "⏎"
    assert visible("") == "∅"
    assert visible("\u202e") == "<U+202E>"
    assert visible("\u0301") == "◌\u0301"


@given(st.text(min_size=1))
def test_different_texts_of_plain_letters_look_different(text: str) -> None:
    if text.isalnum() and text.isascii():
        assert visible(text) == text


# --- the vocabulary of a model --------------------------------------------------------------------


def test_texts_are_the_true_ones_and_bytes_alone_are_named(spaces: Spaces) -> None:
    vocabulary = spaces["gpt2"].vocabulary
    tokenizer = spaces["gpt2"].model.tokenizer
    lone = 0
    for i, text in enumerate(vocabulary.texts):
        decoded = tokenizer.decode([i])
        if "\ufffd" in decoded:
            assert text.startswith("<0x")
            lone += 1
        else:
            assert text == decoded
    assert lone == 128, "every byte from 0x80 on is a part of a character"
    assert vocabulary.texts[0] == "<|bos|>"
    assert vocabulary.is_special(0)


def test_hostile_tokens_keep_their_text_and_get_a_safe_label(tmp_path: Path) -> None:
    space = model_for(hostile_tokenizer(), tmp_path)
    texts = space.vocabulary.texts
    for wanted in HOSTILE:
        assert wanted in texts
        id = texts.index(wanted)
        token = space.vocabulary.token(id)
        assert token.text == wanted
        assert all(unicodedata.category(c) not in HIDDEN for c in token.label)
    trace = space.trace("".join(HOSTILE[:4]))
    assert trace.to_dict()["tokens"][0]["text"] == HOSTILE[0]


def test_rows_of_the_head_without_a_token_are_named(spaces: Spaces) -> None:
    vocabulary = spaces["padded"].vocabulary
    assert (vocabulary.size, vocabulary.tokenizer_size) == (305, 300)
    assert vocabulary.texts[304] == "<row 304>"
    assert not vocabulary.is_word(304)
    spaces["padded"].bases(304)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (" king", True),
        ("k", True),
        (" ", False),
        ("\n", False),
        ("<|bos|>", False),
        (".", False),
        ("5", True),
        ("=1+1", False),
        ("<0xF0>", False),
    ],
)
def test_words_are_letters_and_digits(tmp_path: Path, text: str, word: bool) -> None:
    """A reader's idea of a word; special tokens and lone bytes are none."""
    space_vocabulary = Vocabulary(hostile_tokenizer(), 315)
    assert space_vocabulary.is_word(space_vocabulary.texts.index(text)) == word
    assert space_vocabulary.words[space_vocabulary.texts.index(text)] == word


# --- split characters -----------------------------------------------------------------------------


@pytest.mark.parametrize("character", ["😀", "語", "é", "\U0001f469\u200d\U0001f4bb", "\u202e"])
def test_the_pieces_of_a_split_character_are_named(spaces: Spaces, character: str) -> None:
    """Row L9: each token of 😀 says which part of which character it is."""
    space = spaces["gpt2"]
    tokens = space.tokenize(f"a {character} b").items
    pieces = [t for t in tokens if t.piece]
    assert pieces, "the tiny tokenizer splits it"
    named: list[str] = []
    for token in pieces:
        shown, part = str(token.piece).rsplit(" ", 1)
        first, total = map(int, part.split("/"))
        assert 1 <= first <= total
        if first == 1:
            named.append(shown)
        assert token.text.startswith("<0x")
        assert all(unicodedata.category(c) not in HIDDEN for c in str(token.piece))
    assert "".join(named) == "".join(visible(c) for c in character)
    if character == "😀":
        assert [t.piece for t in pieces] == ["😀 1/4", "😀 2/4", "😀 3/4", "😀 4/4"]
    if character == "語":
        assert [t.piece for t in pieces] == ["語 1/3", "語 2/3", "語 3/3"]


@given(st.text(min_size=1, max_size=12))
def test_the_tokens_of_any_prompt_hold_its_bytes(text: str) -> None:
    """Pieces never lose or add a token, and every run of pieces is a whole: 1 … n of n."""
    tokenizer = _TOKENIZER
    ids = tokenizer.encode(text, add_special_tokens=False)
    tokens = _VOCABULARY.prompt_tokens(ids)
    assert [t.id for t in tokens] == ids
    expected = 1
    for token in tokens:
        if token.piece is None:
            assert expected == 1
            continue
        part, total = map(int, token.piece.rsplit(" ", 1)[1].split("/"))
        assert part == expected
        expected = 1 if part == total else part + 1
    assert expected == 1


_TOKENIZER = byte_tokenizer()
_VOCABULARY = Vocabulary(_TOKENIZER, len(_TOKENIZER))


def test_lone_bytes_that_never_make_a_character_stay_bytes() -> None:
    ids = [_VOCABULARY.texts.index(f"<0x{b:02X}>") for b in (0x80, 0x80, 0xF0)]
    tokens = _VOCABULARY.prompt_tokens(ids)
    assert [t.text for t in tokens] == ["<0x80>", "<0x80>", "<0xF0>"]
    assert all(t.piece is None for t in tokens)


def test_a_stray_byte_before_a_character_does_not_hide_it() -> None:
    """The byte stays a byte and the character after it is still found."""
    ids = [_VOCABULARY.texts.index(f"<0x{b:02X}>") for b in (0x80, *"é".encode())]
    assert [t.piece for t in _VOCABULARY.prompt_tokens(ids)] == [None, "é 1/2", "é 2/2"]


def test_byte_fallback_pieces_of_sentencepiece_are_bytes(stories: LatentSpace) -> None:
    """The real model's tokenizer writes bytes as <0xF0>; spaces as ▁."""
    tokens = stories.tokenize("the 😀 語").items
    assert [t.piece for t in tokens if t.piece] == [
        *(f"😀 {i}/4" for i in range(1, 5)),
        *(f"語 {i}/3" for i in range(1, 4)),
    ]
    assert not any("▁" in t for t in stories.vocabulary.texts)


def test_equal_tokens_keep_their_own_column(spaces: Spaces) -> None:
    """Row L9: 'a a a' has as many columns as tokens; nothing is merged by text."""
    space = spaces["gpt2"]
    tokens = space.tokenize("a a a", bos="no").items
    trace = space.trace(" a a a", bos="no")
    assert [t.text for t in trace.tokens][-3:] == [" a"] * 3 or len(tokens) >= 3
    assert trace.top_ids.shape[1] == len(trace.tokens) == len(trace.positions)
    cells = trace.to_dict()["cells"]
    assert len({(c["layer"], c["position"]) for c in cells}) == 4 * len(trace.tokens)


def test_three_equal_tokens_are_three_columns(stories: LatentSpace) -> None:
    trace = stories.trace("a a a", bos="no")
    assert [t.text for t in trace.tokens] == [" a", " a", " a"]
    assert len({t.id for t in trace.tokens}) == 1
    assert trace.positions == (0, 1, 2)
    assert trace.top_ids.shape[:2] == (6, 3)


# --- BOS and chat ---------------------------------------------------------------------------------


def test_the_begin_of_text_switch(spaces: Spaces) -> None:
    """Row L10: auto is the tokenizer's own way; yes never doubles, no never adds."""
    adds, plain = spaces["llama"], spaces["gpt2"]
    for space, auto in ((adds, True), (plain, False)):
        tokenizer = space.model.tokenizer
        bare = tuple(tokenizer.encode("the king", add_special_tokens=False))
        assert space.tokenize("the king").ids == tuple(tokenizer.encode("the king"))
        assert space.tokenize("the king", bos="no").ids == bare
        assert space.tokenize("the king", bos="yes").ids == (0, *bare)
        assert space.tokenize("the king", bos="yes").added_bos
        assert space.tokenize("the king").added_bos == auto
        assert not space.tokenize("the king", bos="no").added_bos
        assert space.tokenize("the king", bos="yes").items[0].text == "<|bos|>"
    with pytest.raises(OptionError, match="auto, yes, no"):
        plain.tokenize("x", bos="maybe")


def test_a_begin_of_text_that_the_prompt_itself_holds_is_not_called_added(spaces: Spaces) -> None:
    for bos in ("auto", "yes", "no"):
        tokens = spaces["gpt2"].tokenize("<|bos|>the king", bos=bos)
        assert tokens.ids[0] == 0
        assert tokens.ids[1] != 0
        assert not tokens.added_bos
    # Where the tokenizer puts one in front by itself there are two, and one was added.
    assert spaces["llama"].tokenize("<|bos|>the king").ids[:2] == (0, 0)
    assert spaces["llama"].tokenize("<|bos|>the king").added_bos


def test_a_chat_prompt_is_what_apply_chat_template_says(spaces: Spaces) -> None:
    """Row L10: the same ids, whatever the BOS switch."""
    space = spaces["llama"]
    wanted = space.model.tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    for bos in ("auto", "yes", "no"):
        tokens = space.tokenize(PROMPT, chat=True, bos=bos)
        assert list(tokens.ids) == list(wanted)
        assert not tokens.added_bos
    trace = space.trace(PROMPT, chat=True)
    assert [t.id for t in trace.tokens] == list(wanted)
    with pytest.raises(PromptError, match="chat template"):
        spaces["gpt2"].tokenize(PROMPT, chat=True)


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ("", "empty"),
        ("\x00", "empty"),
        ("a\ud800b", "surrogate"),
        ("x" * 301, "characters"),
        ("a b " * 40, "tokens"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(tmp_path: Path, prompt: str, what: str) -> None:
    space = model_for(byte_tokenizer(), tmp_path, Limits(max_characters=300, max_tokens=50))
    with pytest.raises(PromptError, match=what) as caught:
        space.trace(prompt)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_characters_are_counted_before_anything_is_tokenized(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = spaces["gpt2"]
    monkeypatch.setattr(prompts, "_plain_ids", lambda *_: pytest.fail("it was tokenized"))
    with pytest.raises(PromptError, match="characters"):
        space.tokenize("x" * 40_000)


def test_a_prompt_may_be_as_long_as_the_models_context_and_no_longer(spaces: Spaces) -> None:
    space = spaces["gpt2"]
    assert space.model.max_tokens == 128
    id = space.tokenize("a", bos="no").ids
    assert len(id) == 1
    assert space.trace("a" * 128, bos="no", layers="-1").finite.all()
    with pytest.raises(PromptError, match="128"):
        space.trace("a" * 129, bos="no")


def test_truncation_asked_for_by_a_tokenizers_own_files_is_switched_off(tmp_path: Path) -> None:
    """A tokenizer saved with truncation and padding would cut prompts in silence."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=32)
    space = model_for(tokenizer, tmp_path)
    assert len(space.tokenize("abcdefghij").ids) == len(byte_tokenizer().encode("abcdefghij"))


def test_a_token_past_the_heads_rows_is_refused(tmp_path: Path) -> None:
    """A tokenizer with more tokens than the head has rows: the badge is red, the prompt refused."""
    tokenizer = byte_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=8,
        n_layer=1,
        n_head=2,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = transformers.GPT2LMHeadModel(config)
    randomize(model, seed=5)
    model.save_pretrained(tmp_path)
    tokenizer.add_tokens(["<|far|>"])
    tokenizer.save_pretrained(tmp_path)
    space = load(tmp_path, device="cpu", offline=True, cache_dir=tmp_path / "cache")
    assert not space.self_check.ok
    assert "tokenizer" in space.self_check.summary
    with pytest.raises(PromptError, match="head"):
        space.trace("a<|far|>b")


def test_a_plain_tokenizer_without_a_decoder_keeps_its_pieces() -> None:
    raw = Tokenizer(BPE(vocab={"a": 0, "b": 1, "▁c": 2, "<0xF0>": 3}, merges=[]))
    plain = PreTrainedTokenizerFast(tokenizer_object=raw)
    assert Vocabulary(plain, 4).texts == ["a", "b", "▁c", "<0xF0>"]
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    fallback = PreTrainedTokenizerFast(tokenizer_object=raw)
    assert Vocabulary(fallback, 5).texts == ["a", "b", " c", "<0xF0>", "<row 4>"]


def test_torch_is_left_as_it_was(spaces: Spaces) -> None:
    """Loading and reading switch nothing global in torch."""
    space = spaces["gpt2"]
    before = torch.random.get_rng_state(), torch.is_grad_enabled(), torch.get_default_dtype()
    space.trace(PROMPT, frame="random")
    after = torch.random.get_rng_state(), torch.is_grad_enabled(), torch.get_default_dtype()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
