"""A refusal says what is so: what the folder holds, and what to do about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import PROMPT, Folders, made, rewrite
from torch import Tensor

from engine import load
from engine.errors import LexiscopeError


def renamed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").rename(folder / name) and None


def pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
    (folder / "model.safetensors").write_text(text)


def classes(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": [*names]}))

    return change


def adapter(folder: Path) -> None:
    plain = {"peft_type": "LORA", "base_model_name_or_path": "some/base"}
    (folder / "adapter_config.json").write_text(json.dumps(plain))


SENTENCES = {
    "weights by another name": (renamed("consolidated.safetensors"), "'consolidated.safetensors'"),
    "a pointer of Git LFS": (pointer, "git lfs pull"),
    "weights of TensorFlow": (renamed("tf_model.h5"), "no safetensors weights"),
    "weights of ONNX": (renamed("model.onnx"), "no .safetensors weights"),
    "a class that is not there": (classes("FooForFoo"), "transformers does not have"),
    "a class without a head": (classes("LlamaModel"), "no output embedding"),
    "an adapter beside a model": (adapter, "beside a config.json"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_refusal_names_what_is_there(folders: Folders, tmp_path: Path, name: str) -> None:
    change, part = SENTENCES[name]
    folder = Path(shutil.copytree(folders["llama"], tmp_path / "model"))
    change(folder)
    with pytest.raises(LexiscopeError) as caught:
        load(folder, device="cpu", offline=True, cache_dir=tmp_path / "cache")
    text = str(caught.value)
    assert part in text
    assert text.endswith(".")
    assert "\n" not in text
    assert str(tmp_path) not in text


def test_numbers_of_eight_bits_that_transformers_scales_are_read(tmp_path: Path) -> None:
    """FP8 with a scale for each block: the reference multiplies both by hand, in float64."""
    folder = made(
        "LlamaForCausalLM", tmp_path / "m", hidden_size=32, intermediate_size=64,
        num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2,
        max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM.from_pretrained(folder).double().eval()
    scale = 0.37

    def pack(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if n.endswith("proj.weight")]:
            tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = torch.tensor([[scale]])
            weight = model.get_submodule(name.removesuffix(".weight")).weight
            weight.data = tensors[name].double() * torch.tensor(scale).double()

    method = {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
    }
    rewrite(folder, pack, quantization_config=method)
    space = load(folder, device="cpu", offline=True, cache_dir=tmp_path / "cache")
    ids = space.tokenize(PROMPT).ids
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids])).logits[0]
    found = space.model.logits(ids).double()
    assert space.self_check.ok
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
