"""A folder of an adapter opens with its model merged in, or says what it is and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_models import PROMPT, made

from engine import load
from engine.errors import LexiscopeError, ModelNotFound, UnsafeModel, UnsupportedModel
from engine.model.adapter import adapter_of, hub_adapter

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 64,
}  # fmt: skip
RANK, ALPHA = 3, 7


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter of drawn weights beside its model."""
    base = made("LlamaForCausalLM", tmp_path / "base-model", **SIZES)
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        lora = peft.get_peft_model(model, config)
        for name, parameter in lora.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    lora.save_pretrained(tmp_path / "adapter")
    _write(tmp_path / "adapter", base_model_name_or_path="some/base-model")
    return tmp_path / "adapter"


def _write(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder: Path, kind: type[LexiscopeError]) -> str:
    with pytest.raises(kind) as caught:
        load(folder, device="cpu", offline=True, cache_dir=folder.parent / "cache")
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert str(folder.parent) not in text
    return text


@pytest.mark.slow
def test_an_adapter_opens_with_its_model_merged_in(adapter: Path) -> None:
    """The reference adds s·B·A to the weights by hand, in float64."""
    space = load(adapter, device="cpu", offline=True, cache_dir=adapter.parent / "cache")
    assert space.self_check.ok, space.self_check.summary
    assert space.model.name == "adapter"
    model = transformers.LlamaForCausalLM.from_pretrained(adapter.parent / "base-model").double()
    plain = model.eval()
    ids = torch.tensor([space.tokenize(PROMPT).ids])
    with torch.no_grad():
        before = plain(input_ids=ids).logits[0]
        parts = load_file(adapter / "adapter_model.safetensors")
        for name in [n for n in parts if n.endswith("lora_A.weight")]:
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = parts[name.replace("lora_A", "lora_B")].double()
            weight = model.get_submodule(path).weight
            weight += ALPHA / RANK * b @ parts[name].double()
        wanted = model(input_ids=ids).logits[0]
    assert (wanted - before).abs().max() > 0.1, "an adapter that changes nothing shows nothing"
    found = space.model.logits(ids[0].tolist()).double()
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_an_adapter_without_its_model_says_what_it_is(adapter: Path) -> None:
    shutil.rmtree(adapter.parent / "base-model")
    text = refusal(adapter, ModelNotFound)
    assert "adapter for 'some/base-model'" in text
    assert "merge" in text


def test_what_is_no_plain_adapter_is_refused(adapter: Path) -> None:
    _write(adapter, peft_type="PREFIX_TUNING")
    assert "PREFIX_TUNING" in refusal(adapter, UnsupportedModel)
    _write(adapter, peft_type="LORA", init_lora_weights="pissa")
    assert "pissa" in refusal(adapter, UnsupportedModel)
    _write(adapter, init_lora_weights=True, megatron_config={"a": 1})
    assert "megatron_config" in refusal(adapter, UnsupportedModel)
    _write(adapter, megatron_config=None)
    path = adapter / "adapter_model.safetensors"
    parts = load_file(path)
    odd = {"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.ones(3, 32)}
    save_file(parts | odd, path)
    assert "layers.7" in refusal(adapter, UnsupportedModel)
    lacking = dict(list(parts.items())[1:])
    save_file(lacking, path)
    assert "lacks" in refusal(adapter, UnsupportedModel)
    path.rename(adapter / "adapter_model.bin")
    assert "pickle" in refusal(adapter, UnsafeModel)
    (adapter / "code.py").write_text("raise SystemExit\n")
    assert "code.py" in refusal(adapter, UnsafeModel)


def _in_the_hub(cache: Path, name: str, folder: Path) -> None:
    """A repository as the hub's cache holds it."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))


def test_an_adapter_by_its_hub_id(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both repositories are in the hub's cache, and its base is named with or without hub:."""
    cache = adapter.parent / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    plain = load(adapter, device="cpu", offline=True, cache_dir=adapter.parent / "cache")
    wanted = plain.model.logits(plain.tokenize(PROMPT).ids)
    _write(adapter, base_model_name_or_path="hub:some/base-model")
    _in_the_hub(cache, "some/adapter", adapter)
    _in_the_hub(cache, "some/base-model", adapter.parent / "base-model")
    away = adapter.parent / "away"
    (adapter.parent / "base-model").rename(away)
    found = load("some/adapter", device="cpu", offline=True, cache_dir=adapter.parent / "cache")
    assert found.model.name == "some/adapter"
    assert found.model.fingerprint == plain.model.fingerprint
    assert torch.equal(found.model.logits(found.tokenize(PROMPT).ids), wanted)
    shutil.rmtree(cache / "models--some--base-model")
    with pytest.raises(ModelNotFound, match="not on this disk"):
        load("some/adapter", device="cpu", offline=True, cache_dir=adapter.parent / "cache")


def test_its_model_may_come_from_the_hub(adapter: Path, tmp_path: Path) -> None:
    """Only for an adapter that was named by its hub id, and never a path of the author's."""
    shutil.rmtree(adapter.parent / "base-model")
    found = adapter_of(adapter, name="some/adapter", fetch=True)
    assert found is not None
    assert (found.base, found.present) == ("some/base-model", False)
    _write(adapter, base_model_name_or_path="/home/author/model")
    with pytest.raises(ModelNotFound):
        adapter_of(adapter, name="some/adapter", fetch=True)
    for name in ("a model", "../up", "", "x" * 300):
        assert hub_adapter(name, None, offline=True) is None
