"""Small GGUF files made here: a Llama of two blocks with a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize

WIDTH, HEADS, KEY_HEADS, INNER, BLOCKS = 64, 4, 2, 96, 2
WORDS = ("Ġthe", "Ġcat", "Ġsat", "Ġon", "Ġmat")


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges: the 256 bytes, what leads to some words, and two special tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    signs = {byte: chr(byte) for byte in printable}
    for n, byte in enumerate(sorted(set(range(256)) - set(printable))):
        signs[byte] = chr(256 + n)
    tokens = ["<|begin|>", "<|end|>", *(signs[byte] for byte in range(256))]
    merges = []
    for word in WORDS:
        made = word[0]
        for sign in word[1:]:
            pair = f"{made} {sign}"
            made += sign
            if made not in tokens:
                tokens.append(made)
                merges.append(pair)
    return tokens, merges


def weights(seed: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors by their names in the file, float32."""
    rng = np.random.default_rng(seed)
    size = len(vocabulary()[0])
    keys = WIDTH // HEADS * KEY_HEADS
    shapes = {"token_embd": (size, WIDTH), "output_norm": (WIDTH,), "output": (size, WIDTH)}
    for n in range(BLOCKS):
        shapes |= {
            f"blk.{n}.attn_norm": (WIDTH,), f"blk.{n}.ffn_norm": (WIDTH,),
            f"blk.{n}.attn_q": (WIDTH, WIDTH), f"blk.{n}.attn_k": (keys, WIDTH),
            f"blk.{n}.attn_v": (keys, WIDTH), f"blk.{n}.attn_output": (WIDTH, WIDTH),
            f"blk.{n}.ffn_gate": (INNER, WIDTH), f"blk.{n}.ffn_up": (INNER, WIDTH),
            f"blk.{n}.ffn_down": (WIDTH, INNER),
        }  # fmt: skip
    return {
        f"{name}.weight": (rng.normal(0, 0.3, shape) + ("norm" in name)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_llama(
    path: Path,
    kind: str = "Q8_0",
    *,
    architecture: str = "llama",
    without: tuple[str, ...] = (),
    besides: dict[str, np.ndarray[Any, Any]] | None = None,
    template: str | None = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}",
    **facts: int,
) -> dict[str, np.ndarray[Any, Any]]:
    """Write a file whose matrices have this type; gives the float32 weights it was made from.

    Args:
        path: the file.
        kind: of the matrices: ``Q8_0``, ``Q4_1``, ``F16`` …; norms stay F32.
        architecture: what the file says it is.
        without: tensors that are left out.
        besides: further tensors, F32.
        template: the chat template.
        facts: numbers of the header that are not as they should be, such as ``block_count``.
    """
    tokens, merges = vocabulary()
    made = weights()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_license("cc0-1.0")
    writer.add_uint32(f"{architecture}.block_count", facts.get("block_count", BLOCKS))
    writer.add_context_length(128)
    writer.add_embedding_length(facts.get("embedding_length", WIDTH))
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(facts.get("vocab_size", len(tokens)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(1)
    if template is not None:
        writer.add_chat_template(template)
    typed = gguf.GGMLQuantizationType[kind]
    for name, values in made.items():
        if name in without:
            continue
        if values.ndim == 1 or kind == "F32":
            writer.add_tensor(name, values)
        elif kind == "F16":
            writer.add_tensor(name, values.astype(np.float16))
        else:
            writer.add_tensor(name, quantize(values, typed), raw_dtype=typed)
    for name, values in (besides or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def dequantised(raw: bytes, kind: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Numbers of a tensor by the format's definition, value by value of a block of 32.

    Q8_0: a half-precision factor d and 32 signed bytes q: d·q. Q4_1: d, a half-precision minimum m
    and 16 bytes whose low halves are the first 16 values and high halves the others: d·q + m.
    """
    if kind == "F32":
        return np.frombuffer(raw, "<f4").reshape(shape)
    if kind == "F16":
        return np.frombuffer(raw, "<f2").astype(np.float32).reshape(shape)
    if kind == "Q8_0":
        blocks = np.frombuffer(raw, np.dtype([("d", "<f2"), ("q", "i1", 32)]))
        return (blocks["d"].astype(np.float32)[:, None] * blocks["q"]).reshape(shape)
    assert kind == "Q4_1", kind
    blocks = np.frombuffer(raw, np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]))
    halves = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1).astype(np.float32)
    scaled = blocks["d"].astype(np.float32)[:, None] * halves
    return (scaled + blocks["m"].astype(np.float32)[:, None]).reshape(shape)


def as_transformers(name: str, values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """A Llama's query and key rows in transformers' order: halves of a head, not pairs."""
    if ".attn_q." not in name and ".attn_k." not in name:
        return values
    rows, width = values.shape
    return values.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
