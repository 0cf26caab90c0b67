"""GGUF files: the exact numbers, the tokenizer, what is said of them, and hostile ones."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_files import (
    HEADS,
    KEY_HEADS,
    as_transformers,
    dequantised,
    vocabulary,
    write_llama,
)
from safetensors.torch import load_file

import engine
from engine.errors import LexiscopeError, ModelError, ModelTooLarge, UnsupportedModel
from engine.model import gguf_copy
from engine.model.gguf_copy import as_folder
from engine.model.gguf_header import GgufHeader, read_header
from engine.model.origin import SMOLLM2, gguf_of, name_of
from engine.progress import no_check

pytestmark = pytest.mark.slow

PLACES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def place_of(name: str) -> str:
    """A Llama tensor's name in transformers."""
    parts = name.removesuffix(".weight").split(".")
    inside = PLACES[parts[-1]]
    return f"model.layers.{parts[1]}.{inside}.weight" if parts[0] == "blk" else f"{inside}.weight"


def same_bits(header: GgufHeader, file: Path, folder: Path, heads: int, keys: int) -> int:
    """Compare every tensor of a copy with our own dequantisation; gives how many there are."""
    kept = {}
    for shard in folder.glob("*.safetensors"):
        kept |= load_file(shard)
    raw = file.read_bytes()
    for tensor in header.tensors:
        stored = raw[tensor.start : tensor.start + tensor.size]
        values = dequantised(stored, tensor.kind, tensor.shape)
        wanted = as_transformers(tensor.name, values, keys if ".attn_k." in tensor.name else heads)
        found = kept.pop(place_of(tensor.name)).numpy()
        assert found.dtype == np.float32
        assert np.array_equal(found, wanted), tensor.name
    assert not kept
    return len(header.tensors)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are converted in this process: a process of its own takes seconds to begin."""

    def make(path: Path, target: Path, header: object, shown: str, check: object) -> None:
        try:
            gguf_copy._convert(path, target)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"{shown} cannot be opened: {error}") from error

    monkeypatch.setattr(gguf_copy, "_make", make)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16"])
def test_values_are_those_of_the_file_to_the_last_bit(
    kind: str, tmp_path: Path, cache: Path
) -> None:
    file = tmp_path / f"tiny.{kind}.gguf"
    write_llama(file, kind)
    with as_folder(file, "tiny", cache, no_check) as (folder, header):
        assert header.quantization == kind
        assert header.licence == "cc0-1.0"
        assert same_bits(header, file, folder, HEADS, KEY_HEADS) == 3 + 9 * 2


def test_a_file_opens_like_any_model_and_says_where_it_comes_from(
    tmp_path: Path, cache: Path
) -> None:
    file = tmp_path / "Tiny-1M.Q8_0.gguf"
    write_llama(file)
    space = engine.load(file, device="cpu", cache_dir=cache, threads=1)
    assert space.self_check.ok
    model = space.model
    assert (model.name, model.blocks, model.width) == ("Tiny-1M", 2, 64)
    assert model.origin.quantization == "Q8_0"
    assert model.origin.file == file.name
    assert model.origin.licence == "cc0-1.0"
    assert model.has_chat_template
    tokens = space.tokenize(" the cat sat")
    assert [t.text for t in tokens.items] == [" the", " cat", " sat"]
    again = engine.load(tmp_path, device="cpu", cache_dir=cache, threads=1)
    assert again.model.fingerprint == model.fingerprint
    assert len(list((cache / "gguf").iterdir())) == len(set((cache / "gguf").iterdir()))
    assert torch.equal(space.model.logits(tokens.ids), again.model.logits(tokens.ids))


def test_a_copy_is_kept_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, made = tmp_path / "tiny.gguf", []
    write_llama(file)
    make = gguf_copy._make

    def counted(*arguments: object) -> None:
        made.append(1)
        make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(gguf_copy, "_make", counted)
    for _ in range(2):
        with as_folder(file, "tiny", tmp_path / "cache", no_check) as (folder, _header):
            assert (folder / "config.json").is_file()
    assert made == [1]
    with as_folder(file, "tiny", None, no_check) as (folder, _header):
        assert (folder / "config.json").is_file()
    assert not folder.exists()
    assert made == [1, 1]


def test_names_lose_their_quantisation() -> None:
    for file, name in (
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("model-Q4_K_M.gguf", "model"), ("model.F16.gguf", "model"), ("plain.gguf", "plain"),
        ("a.IQ3_XS.gguf", "a"), ("Q8_0.gguf", "Q8_0"),
    ):  # fmt: skip
        assert name_of(Path(file)) == name


def test_sources_that_name_no_gguf_file_are_left_to_others(tmp_path: Path) -> None:
    assert gguf_of("gpt2", offline=True) is None
    assert gguf_of(str(tmp_path), offline=True) is None
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert gguf_of(str(tmp_path), offline=True) is not None
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="2 GGUF files"):
        gguf_of(str(tmp_path), offline=True)
    (tmp_path / "config.json").write_text("{}")
    assert gguf_of(str(tmp_path), offline=True) is None
    with pytest.raises(LexiscopeError, match="write hub:REPOSITORY@REVISION"):
        gguf_of("hub:one/two:file.gguf", offline=True)
    with pytest.raises(LexiscopeError, match="on this disk"):
        gguf_of("hub:one/two@main:file.gguf", offline=True)


# What is refused, each in a sentence


def refused(path: Path, kind: type[LexiscopeError], words: str) -> None:
    with (
        pytest.raises(kind, match=words) as caught,
        as_folder(path, "bad", path.parent / "cache", no_check),
    ):
        pass
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 700
    assert str(path.parent) not in said


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"architecture": "rwkv9"}, UnsupportedModel, "architecture 'rwkv9'.*llama.*qwen2"),
        ({"architecture": "t5"}, UnsupportedModel, "architecture 't5'"),
        ({"without": ("blk.1.attn_v.weight",)}, UnsupportedModel, "lacks the tensor"),
        ({"besides": {"rope_freqs.weight": np.ones(8, np.float32)}}, UnsupportedModel,
         "'rope_freqs.weight' would be left out"),
        ({"block_count": 1}, UnsupportedModel, "blk.1.* would be left out"),
        ({"block_count": 5000}, ModelTooLarge, "says 5000 layers"),
        ({"embedding_length": 32}, UnsupportedModel, "not what they seem"),
    ],
    ids=str,
)  # fmt: skip
def test_what_would_be_another_model_is_refused(
    wrong: dict[str, object], kind: type[LexiscopeError], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "bad.gguf"
    write_llama(file, **wrong)  # type: ignore[arg-type]
    refused(file, kind, words)


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    write_llama(whole)
    raw = whole.read_bytes()
    header = read_header(whole, "whole")
    begin = min(tensor.start for tensor in header.tensors)
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 4, 8, 20, 24, 30, begin // 3, begin // 2, begin - 40, begin, len(raw) - 33):
        cut.write_bytes(raw[:size])
        refused(cut, ModelError, "cut off|cannot be read|no GGUF|ends")


def edited(raw: bytes, at: int, form: str, value: int) -> bytes:
    size = struct.calcsize(form)
    return raw[:at] + struct.pack(form, value) + raw[at + size :]


def place(raw: bytes, text: bytes) -> int:
    """Behind a key's or a tensor's name."""
    return raw.index(struct.pack("<Q", len(text)) + text) + 8 + len(text)


TOKEN = b"tokenizer.ggml.tokens"
Damage = Callable[[bytes], bytes]
LIES: dict[str, Damage] = {
    "tensor count": lambda raw: edited(raw, 8, "<Q", 2**60),
    "a few tensors more": lambda raw: edited(raw, 8, "<Q", 90_000),
    "key count": lambda raw: edited(raw, 16, "<Q", 2**62),
    "a few keys more": lambda raw: edited(raw, 16, "<Q", 60_000),
    "key length": lambda raw: edited(raw, 24, "<Q", 2**63),
    "tokens": lambda raw: edited(raw, place(raw, TOKEN) + 8, "<Q", 2**61),
    "a few tokens more": lambda raw: edited(raw, place(raw, TOKEN) + 8, "<Q", 15_000_000),
    "token length": lambda raw: edited(raw, place(raw, TOKEN) + 16, "<Q", 2**50),
    "array of arrays": lambda raw: edited(raw, place(raw, TOKEN) + 4, "<I", 9),
    "type of a value": lambda raw: edited(raw, place(raw, TOKEN), "<I", 77),
    "dimensions": lambda raw: edited(raw, place(raw, b"output.weight"), "<I", 2**31),
    "a dimension": lambda raw: edited(raw, place(raw, b"output.weight") + 4, "<Q", 2**59),
    "no dimension": lambda raw: edited(raw, place(raw, b"output.weight") + 4, "<Q", 0),
    "type of numbers": lambda raw: edited(raw, place(raw, b"output.weight") + 20, "<I", 999),
    "offset": lambda raw: edited(raw, place(raw, b"output.weight") + 24, "<Q", 2**62),
    "version": lambda raw: edited(raw, 4, "<I", 1),
    "big-endian": lambda raw: edited(raw, 4, ">I", 3),
    "magic": lambda raw: b"GGML" + raw[4:],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_costs_a_sentence_and_no_memory(lie: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    write_llama(whole)
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(LIES[lie](whole.read_bytes()))
    tracked = __import__("tracemalloc")
    tracked.start()
    with pytest.raises(LexiscopeError) as caught:
        read_header(bad, "bad")
    _, peak = tracked.get_traced_memory()
    tracked.stop()
    assert peak < 32 * 2**20
    assert "\n" not in str(caught.value)


def test_a_damaged_body_never_ends_in_a_traceback(tmp_path: Path) -> None:
    """Every kind of damage opens as what it says, or is refused by a sentence of ours."""
    whole = tmp_path / "whole.gguf"
    write_llama(whole)
    raw = whole.read_bytes()
    rng = np.random.default_rng(5)
    begin = min(tensor.start for tensor in read_header(whole, "whole").tensors)
    bad = tmp_path / "bad.gguf"
    refusals = 0
    for _ in range(200):
        at = int(rng.integers(4, begin))
        bad.write_bytes(raw[:at] + rng.bytes(8) + raw[at + 8 :])
        try:
            read_header(bad, "bad")
        except LexiscopeError:
            refusals += 1
    assert refusals > 20


def test_a_reader_that_ends_abruptly_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.gguf"
    write_llama(file)
    monkeypatch.setattr(gguf_copy.sys, "executable", "/bin/false")
    refused(file, ModelError, "took more memory than its header says")


def test_a_disk_without_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tiny.gguf"
    write_llama(file)
    full = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(gguf_copy.shutil, "disk_usage", lambda folder: full)
    refused(file, ModelTooLarge, "make room there")


def test_opening_stops_when_it_is_told_to(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_llama(file)
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt

    cache = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt), as_folder(file, "tiny", cache, check):
        pass
    assert list((cache / "gguf").iterdir()) == []


def test_the_vocabulary_of_the_file_is_the_tokenizers(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_llama(file)
    space = engine.load(file, device="cpu", cache_dir=cache, threads=1)
    tokens, _ = vocabulary()
    assert space.model.tokenizer.convert_ids_to_tokens(range(len(tokens))) == tokens
    chat = space.tokenize("the cat", chat=True)
    assert "".join(t.text for t in chat.items) == "<the cat>"


# The real one


@pytest.mark.real
def test_the_packaged_model_is_dequantised_to_the_last_bit(smollm2_copy: Path) -> None:
    assert SMOLLM2.path is not None
    header = read_header(SMOLLM2.path, "SmolLM2")
    assert [kind for kind, _ in header.kinds] == ["Q4_1", "Q8_0", "F32"]
    assert header.licence == "apache-2.0"
    assert same_bits(header, SMOLLM2.path, smollm2_copy, 9, 3) == 272
