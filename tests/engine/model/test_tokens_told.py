"""Which row is which token, where a word ends, and what an author's chat template may do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import PROMPT, Spaces, made
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from engine import LatentSpace, load
from engine.errors import PromptError
from engine.model.vocabulary import Vocabulary


def opened(folder: Path, tokenizer: Any, *, rows: int) -> LatentSpace:
    """A tiny model whose head has so many rows."""
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 64}
    made("GPT2LMHeadModel", folder, tokenizer=tokenizer, vocab_size=rows, **sizes)
    return load(folder, device="cpu", offline=True, cache_dir=folder / "cache")


# --- ids with gaps, marks of a word's end ---------------------------------------------------------


def word_level(words: dict[str, int]) -> PreTrainedTokenizerFast:
    raw = Tokenizer(WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")


def test_ids_may_have_gaps(tmp_path: Path) -> None:
    """Six tokens whose largest id is 11: a count is no largest id."""
    words = {"<unk>": 0, "river": 3, "stone": 4, "salt": 9, "grain": 10, "boat": 11}
    space = opened(tmp_path, word_level(words), rows=14)
    texts = space.vocabulary.texts
    assert {texts[i]: i for i in words.values()} == words
    assert [i for i, text in enumerate(texts) if text == f"<row {i}>"] == [1, 2, 5, 6, 7, 8, 12, 13]
    assert [t.text for t in space.tokenize("salt boat").items] == ["salt", "boat"]
    assert space.find_token("boat") == 11
    item = next(one for one in space.self_check.items if one.name == "head and tokenizer")
    assert (item.value, item.level) == ("14 rows, 6 tokens", "note")
    assert item.reason.startswith("8 rows")


def test_a_token_past_the_head_is_found_whatever_the_count(tmp_path: Path) -> None:
    words = {"<unk>": 0, "river": 3, "boat": 11}
    space = opened(tmp_path, word_level(words), rows=8)
    assert not space.self_check.ok
    assert "no row for" in space.self_check.summary
    with pytest.raises(PromptError, match="token 11"):
        space.tokenize("boat")


def test_a_token_that_transformers_adds_is_none_of_the_files(tmp_path: Path) -> None:
    """Its class for Qwen puts an end of text behind the last token, which no row was made for."""
    tokenizer = word_level({"<unk>": 0, "river": 1, "boat": 2})
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    more = {"num_key_value_heads": 2, "num_hidden_layers": 1, "max_position_embeddings": 32}
    made("Qwen2ForCausalLM", tmp_path, tokenizer=tokenizer, vocab_size=3, **sizes, **more)
    path = tmp_path / "tokenizer_config.json"
    plain = json.loads(path.read_text()) | {"tokenizer_class": "Qwen2Tokenizer"}
    path.write_text(json.dumps(plain))
    space = load(tmp_path, device="cpu", offline=True, cache_dir=tmp_path / "cache")
    assert space.model.tokenizer.convert_tokens_to_ids("<|endoftext|>") == 3
    assert space.self_check.ok, space.self_check.summary


def test_a_mark_of_a_words_end_is_the_space_behind_it(tmp_path: Path) -> None:
    """As in GPT's vocabulary; the tokens of a text are then its decoder's text."""
    raw = Tokenizer(BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=80, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    raw.train_from_iterator(["the cat sat on the mat, the rat sat."] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    space = opened(tmp_path, tokenizer, rows=len(tokenizer))
    the = raw.token_to_id("the</w>")
    vocabulary = space.vocabulary
    assert (vocabulary.texts[the], vocabulary.labels[the]) == ("the ", "the␣")
    assert vocabulary.is_word(the)
    assert not any("</w>" in text for text in vocabulary.texts)
    tokens = space.tokenize("the cat sat, the rat").items
    joined = "".join(token.text for token in tokens)
    assert joined.rstrip() == raw.decode([t.id for t in tokens]) == "the cat sat , the rat"
    assert space.find_token("the") == the


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        (["hel@@", "lo", "the", "@@"], ["hel", "lo ", "the ", ""]),
        (["hel", "lo</w>", "the</w>", "</w>"], ["hel", "lo ", "the ", " "]),
    ],
)
def test_marks_of_a_tokenizer_written_in_python_are_seen_in_its_tokens(
    pieces: list[str], texts: list[str]
) -> None:
    class Plain:
        all_special_ids: tuple[int, ...] = ()

        def get_vocab(self) -> dict[str, int]:
            return {piece: i for i, piece in enumerate(pieces)}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [pieces[i] for i in ids]

    assert Vocabulary(Plain(), len(pieces)).texts == texts


# --- chat templates -------------------------------------------------------------------------------

TURN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
TEMPLATES: dict[str, tuple[Any, str]] = {
    "raises": ("{{ raise_exception('a system turn\nfirst') }}", "a system turn first"),
    "does not parse": ("{% for m in messages %}{{ m.content }}{% endfo %}", "endfo"),
    "wants what is not there": ("{{ messages[0].content }}{{ documents[0].title }}", "cannot"),
    "adds a number to a text": ("{{ messages[0].content + 1 }}", "cannot"),
    "goes on for ever": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "cannot"),
    "writes nothing": ("{% if false %}x{% endif %}", "writes nothing"),
    "leaves the text out": ("[user] {{ messages[0].role }}", "prompt's text"),
    "cuts the text": ("{{ messages[0].content[:5] }}", "prompt's text"),
    "is far too long": ("{{ messages[0].content * 4000 }}", "characters"),
    "by name only": ({"rag": TURN, "tool_use": TURN}, "rag, tool_use"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_that_fails_or_swallows_the_text_is_a_sentence(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    template, part = TEMPLATES[name]
    space = spaces["llama"]
    monkeypatch.setattr(space.model.tokenizer, "chat_template", template)
    with pytest.raises(PromptError, match=part) as caught:
        space.tokenize(PROMPT, chat=True)
    text = str(caught.value)
    assert "\n" not in text
    assert "switch 'chat' off" in text
    assert space.tokenize(PROMPT).ids


@pytest.mark.parametrize("template", [TURN, {"default": TURN, "rag": "x"}, TURN + "{{ '  ' }}"])
def test_a_template_that_keeps_the_text_is_used(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch, template: Any
) -> None:
    space = spaces["llama"]
    monkeypatch.setattr(space.model.tokenizer, "chat_template", template)
    tokens = space.tokenize("the king ", chat=True)
    assert "".join(t.text for t in tokens.items).startswith("[user] the king ")
