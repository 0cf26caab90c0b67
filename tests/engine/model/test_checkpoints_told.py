"""What a checkpoint is, told by its file and by trying it: never by a name, never in part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_models import PROMPT, made, rewrite, save
from torch import Tensor

from engine import LatentSpace, load
from engine.errors import LexiscopeError, UnsupportedModel
from engine.model.mlx import dequantise
from engine.model.texts import batches, text_states
from engine.progress import drain

STATES = 1e-5
"""Largest difference of a state, relative to the largest: fp32 against float64."""
LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
}
BERT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def opened(folder: Path) -> LatentSpace:
    return load(folder, device="cpu", offline=True, cache_dir=str(folder / "cache"))


def refusal(folder: Path) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        opened(folder)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def reference(model: Any, space: LatentSpace, text: str = PROMPT) -> tuple[Tensor, Tensor]:
    """Logits of a text in float64 by transformers alone, and the engine's."""
    ids = space.tokenize(text).ids
    with torch.no_grad():
        wanted = model.double().eval()(input_ids=torch.tensor([ids])).logits[0]
    return wanted, space.model.logits(ids).double()


def close(wanted: Tensor, found: Tensor) -> None:
    assert wanted.std() > 0.1, "logits so small would hide a wrong part"
    assert (wanted - found).abs().max() <= 1e-4 * wanted.abs().max()


# --- every tensor of the file ---------------------------------------------------------------------

PROJECTION = "model.layers.1.mlp.down_proj.weight"


def scales(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        weight = tensors[PROJECTION]
        tensors[f"{PROJECTION}{name}"] = weight.abs().max().reshape(1) / 127

    return change


def whole_numbers(tensors: dict[str, Tensor]) -> None:
    tensors[PROJECTION] = (tensors[PROJECTION] * 50).to(torch.int8)


def named(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = torch.ones(32)

    return change


NOT_TAKEN: dict[str, tuple[Callable[[dict[str, Tensor]], None], dict[str, Any], str]] = {
    "a scale": (scales("_scale"), {}, f"{PROJECTION}_scale"),
    "an inverse scale": (scales("_scale_inv"), {}, f"{PROJECTION}_scale_inv"),
    "integers": (whole_numbers, {}, PROJECTION),
    "a layer too many": (lambda _: None, {"num_hidden_layers": 1}, "model.layers.1."),
    "an adapter's part": (
        named("model.layers.0.self_attn.q_proj.lora_A.default.weight"),
        {},
        "lora_A",
    ),
    "a norm among the parts": (named("model.embedding_norm.weight"), {}, "model.embedding_norm"),
    "a head's bias": (named("lm_head.bias"), {}, "lm_head.bias"),
    "a vocabulary of another size": (lambda _: None, {"vocab_size": 320}, "300 × 32"),
    "another width": (lambda _: None, {"intermediate_size": 48}, "64"),
    "a layer too few": (lambda _: None, {"num_hidden_layers": 3}, "model.layers.2."),
    "a method that nobody reads": (
        scales("_scale"),
        {"quantization_config": {"quant_method": "rowint8", "bits": 8}},
        "rowint8",
    ),
    "a method without a name": (lambda _: None, {"quantization_config": {"bits": 8}}, "quantised"),
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_a_file_that_the_model_does_not_take_whole_is_refused_by_what_is_left(
    tmp_path: Path, name: str
) -> None:
    change, config, part = NOT_TAKEN[name]
    folder = rewrite(made("LlamaForCausalLM", tmp_path / "m", **LLAMA), change, **config)
    text = refusal(folder)
    assert part in text
    assert "above" not in text


def test_parts_beside_the_language_model_are_left_and_said(tmp_path: Path) -> None:
    """BertForPreTraining has a pooler and a second head, which no logit depends on."""
    folder = made("BertForPreTraining", tmp_path, **BERT)
    space = opened(folder)
    assert space.model.anatomy.kind == "masked"
    assert len(space.model.left_over) == 4
    item = next(one for one in space.self_check.items if one.name == "beside the model")
    assert item.level == "note"
    assert space.self_check.ok
    whole = transformers.BertForPreTraining.from_pretrained(folder).double().eval()
    ids = space.tokenize(PROMPT).ids
    with torch.no_grad():
        wanted = whole(input_ids=torch.tensor([ids])).prediction_logits[0]
    close(wanted, space.model.logits(ids).double())


@pytest.mark.slow
def test_a_model_that_also_takes_pictures_is_read_by_its_language_part(tmp_path: Path) -> None:
    text = LLAMA | {"head_dim": 8, "vocab_size": 300, "pad_token_id": 1, "bos_token_id": 0}
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    kinds = {
        "Gemma3ForConditionalGeneration": {
            "text_config": text, "vision_config": vision, "mm_tokens_per_image": 4,
            "image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7,
        },
        "LlavaForConditionalGeneration": {
            "text_config": text | {"model_type": "llama"},
            "vision_config": vision | {"model_type": "clip_vision_model"},
            "image_token_index": 5,
        },
    }  # fmt: skip
    for kind, sizes in kinds.items():
        folder = made(kind, tmp_path / kind, **sizes)
        space = opened(folder)
        assert space.self_check.ok, space.self_check.summary
        assert space.model.anatomy.kind == "causal"
        assert space.model.vocabulary == 300
        assert len(space.model.anatomy.blocks) == 2
        close(*reference(getattr(transformers, kind).from_pretrained(folder), space))


def test_a_classifier_is_refused_for_want_of_a_head(tmp_path: Path) -> None:
    text = refusal(made("BertForSequenceClassification", tmp_path, **BERT))
    assert "BertForSequenceClassification" in text
    assert "no output embedding" in text


def test_weights_that_mlx_packed_are_plain_numbers(tmp_path: Path) -> None:
    """Planted: the reference takes s·q + b from the integers before they are packed."""
    folder = made("LlamaForCausalLM", tmp_path, **LLAMA)
    generator = np.random.default_rng(3)
    plain: dict[str, Tensor] = {}
    bits, group = {"up": 3, "down": 8}, 32

    def pack(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if n.endswith("proj.weight")]:
            rows, columns = tensors[name].shape
            own = next((b for part, b in bits.items() if part in name), 4)
            q = generator.integers(0, 2**own, (rows, columns))
            s = generator.normal(0, 0.1, (rows, columns // group)).astype(np.float16)
            b = generator.normal(0, 0.3, s.shape).astype(np.float16)
            wide = (np.repeat(one.astype(np.float64), group, axis=1) for one in (s, b))
            scale, offset = wide
            plain[name] = torch.from_numpy(scale * q + offset)
            words = [
                [int(v) for v in int_words(row.tolist(), own, columns * own // 32)] for row in q
            ]
            tensors[name] = torch.tensor(words, dtype=torch.int64).to(torch.uint32)
            base = name.removesuffix("weight")
            tensors[f"{base}scales"] = torch.from_numpy(s)
            tensors[f"{base}biases"] = torch.from_numpy(b)

    settings: dict[str, Any] = {"group_size": group, "bits": 4}
    for layer in range(2):
        for part, own in bits.items():
            path = f"model.layers.{layer}.mlp.{part}_proj"
            settings[path] = {"group_size": group, "bits": own}
    model = transformers.LlamaForCausalLM.from_pretrained(folder).double()
    rewrite(folder, pack, quantization=settings, quantization_config=settings)
    space = opened(folder)
    assert space.self_check.ok, space.self_check.summary
    assert space.model.origin.quantization == "MLX, 4 bits"
    model.load_state_dict(plain, strict=False)
    close(*reference(model, space))


def int_words(values: list[int], bits: int, count: int) -> list[int]:
    """Integers written one behind the other from the lowest bit on, cut into words of 32 bits."""
    whole = sum(value << (bits * place) for place, value in enumerate(values))
    return [(whole >> (32 * word)) & 0xFFFFFFFF for word in range(count)]


def test_mlx_settings_that_do_not_fit_are_said(tmp_path: Path) -> None:
    folder = made("LlamaForCausalLM", tmp_path, **LLAMA)

    def pack(tensors: dict[str, Tensor]) -> None:
        base = PROJECTION.removesuffix("weight")
        tensors[PROJECTION] = torch.zeros(32, 8, dtype=torch.uint32)
        tensors[f"{base}scales"] = torch.zeros(32, 1)
        tensors[f"{base}biases"] = torch.zeros(32, 1)

    text = refusal(rewrite(folder, pack, quantization={"group_size": 32, "bits": 4}))
    assert "MLX (4 bits in groups of 32)" in text
    assert PROJECTION in text
    path = folder / "config.json"
    odd = json.loads(path.read_text()) | {
        "quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    }
    path.write_text(json.dumps(odd))
    assert "mxfp4" in refusal(folder)
    with pytest.raises(ValueError, match="bits"):
        dequantise(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), bits=7, group_size=4)


# --- what it does ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "config", "wanted"),
    [
        ("BertForMaskedLM", {"architectures": None}, "masked"),
        ("BertLMHeadModel", {}, "masked"),
        ("BertLMHeadModel", {"architectures": None, "is_decoder": None}, "masked"),
        ("BertLMHeadModel", {"is_decoder": True}, "causal"),
        ("BertForMaskedLM", {"is_decoder": True}, "causal"),
        ("BigBirdForCausalLM", {"is_decoder": True, "attention_type": "original_full"}, "causal"),
    ],
)
def test_whether_a_model_reads_ahead_is_tried(
    tmp_path: Path, kind: str, config: dict[str, Any], wanted: str
) -> None:
    folder = rewrite(made(kind, tmp_path, **BERT), lambda _: None, **config)
    space = opened(folder)
    assert space.model.anatomy.kind == wanted
    ids = list(space.tokenize(PROMPT).ids)
    with torch.no_grad():  # by hand: another last token, through the model as it stands
        one, two = (space.model.module(input_ids=torch.tensor([[*ids[:-1], i]])) for i in (5, 200))
    moves = bool((one.logits[0, :-1] - two.logits[0, :-1]).abs().max() > 1e-3)
    assert moves == (wanted == "masked")
    warned = any("masked model" in one for one in space.trace(PROMPT).warnings)
    assert warned == (wanted == "masked")


def test_a_model_that_reads_ahead_and_is_no_masked_one_says_so(tmp_path: Path) -> None:
    sizes = LLAMA | {"head_dim": 8, "use_bidirectional_attention": True}
    space = opened(made("Gemma3ForCausalLM", tmp_path, **sizes))
    assert space.model.anatomy.kind == "bidirectional"
    warnings = space.trace(PROMPT).warnings
    assert any("already knows the tokens behind it" in one for one in warnings)
    assert not any("masked model" in one for one in warnings)


def test_a_text_has_the_same_states_beside_a_longer_one(tmp_path: Path) -> None:
    """ConvBERT's convolution runs over the padding, whatever the mask says."""
    sizes = BERT | {"embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 3}
    folder = made("ConvBertForMaskedLM", tmp_path, **sizes)
    space = opened(folder)
    assert not space.model.pads
    texts = [space.tokenize(t).ids for t in ("Salt.", "the king and the queen went", "a cat")]
    whole = transformers.ConvBertForMaskedLM.from_pretrained(folder).double().eval()
    found = drain(text_states(space.model, texts))
    together = space.model.last_states(texts, range(space.model.blocks + 1))
    for ids, ours, others in zip(texts, found.raw, together, strict=True):
        with torch.no_grad():
            out = whole(input_ids=torch.tensor([ids]), output_hidden_states=True)
        wanted = torch.stack(out.hidden_states)[:, 0, -1]
        for states in (ours, others):
            assert (states.double() - wanted).abs().max() <= STATES * wanted.abs().max()
    lengths = [len(ids) for ids in texts]
    order = sorted(range(3), key=lengths.__getitem__)
    assert list(batches(order, texts, 10_000, mixed=False)) == [[i] for i in order]


def test_padding_that_does_not_show_is_kept(tmp_path: Path) -> None:
    assert opened(made("BertForMaskedLM", tmp_path, **BERT)).model.pads


def test_a_model_without_attention_is_read(tmp_path: Path) -> None:
    """Its cache knows no length; nothing that is read here goes on from a cache."""
    sizes = LLAMA | {
        "attn_layer_offset": 4, "attn_layer_period": 8, "mamba_d_state": 4, "mamba_dt_rank": 4,
        "num_experts": 2, "num_experts_per_tok": 1, "use_mamba_kernels": False,
    }  # fmt: skip
    folder = made("JambaForCausalLM", tmp_path, **sizes)
    space = opened(folder)
    assert space.self_check.ok
    model = transformers.JambaForCausalLM.from_pretrained(folder, experts_implementation="eager")
    model = model.double().eval()
    ids = space.tokenize(PROMPT).ids
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    close(wanted, space.model.logits(ids).double())


def test_states_that_are_not_the_prompts_are_refused(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 16, "num_attention_heads": 2, "dim_head": 8, "dim_ff": 16,
        "num_hidden_layers": 2, "prompt_length": 4, "prompt_types": 4, "segment_types": 4,
    }  # fmt: skip
    assert "9 states for 5 tokens" in refusal(made("CpmAntForCausalLM", tmp_path, **sizes))


def test_what_fails_behind_the_probe_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made("LlamaForCausalLM", tmp_path, **LLAMA)
    plain = transformers.LlamaForCausalLM.forward

    def forward(self: Any, input_ids: Tensor, **kwargs: Any) -> Any:
        if input_ids.shape[1] > 11:
            raise IndexError("index 12 is out of range\nin a table")
        return plain(self, input_ids, **kwargs)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", forward)
    with pytest.raises(LexiscopeError, match="index 12 is out of range in a table"):
        opened(folder)


def test_the_cache_may_be_named_by_a_text(tmp_path: Path) -> None:
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=2, n_positions=64)
    )
    opened(save(model, tmp_path))
    assert list((tmp_path / "cache").iterdir())
