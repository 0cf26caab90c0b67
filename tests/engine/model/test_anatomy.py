"""Every architecture's parts are found, and what cannot be read is refused with one sentence."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import (
    ARCHITECTURES,
    PROMPT,
    Folders,
    Spaces,
    hooks,
    made,
    randomize,
    save,
)

from engine import load
from engine.errors import (
    LexiscopeError,
    ModelError,
    ModelNotFound,
    ModelTooLarge,
    NonFiniteError,
    OptionError,
    PromptError,
    UnsafeModel,
    UnsupportedModel,
    WorkError,
)
from engine.model.anatomy import dissect
from engine.reading.similarity import scores

LOGITS = 1e-4
"""Row L2: largest difference of a logit, fp32."""

PARTS = {
    # embedding, blocks, readout, head
    "gpt2": ("transformer.wte", "transformer.h", ("transformer.ln_f",), "lm_head"),
    "llama": ("model.embed_tokens", "model.layers", ("model.norm",), "lm_head"),
    "qwen3": ("model.embed_tokens", "model.layers", ("model.norm",), "lm_head"),
    "gemma2": ("model.embed_tokens", "model.layers", ("model.norm",), "lm_head"),
    "gpt_neox": ("gpt_neox.embed_in", "gpt_neox.layers", ("gpt_neox.final_layer_norm",), "lm_head"),
    "opt": (
        "model.decoder.embed_tokens",
        "model.decoder.layers",
        ("model.decoder.final_layer_norm",),
        "lm_head",
    ),
    "opt_proj": (
        "model.decoder.embed_tokens",
        "model.decoder.layers",
        ("model.decoder.project_out",),
        "lm_head",
    ),
    "mistral": ("model.embed_tokens", "model.layers", ("model.norm",), "lm_head"),
    "phi": ("model.embed_tokens", "model.layers", ("model.final_layernorm",), "lm_head"),
    "cohere": ("model.embed_tokens", "model.layers", ("model.norm",), "lm_head"),
    "granite": ("model.embed_tokens", "model.layers", ("model.norm",), "lm_head"),
    "bert": (
        "bert.embeddings.word_embeddings",
        "bert.encoder.layer",
        ("cls.predictions.transform",),
        "cls.predictions.decoder",
    ),
}
TIED = {"gpt2", "qwen3", "gemma2", "opt", "opt_proj", "cohere", "bert"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_parts_are_found_where_the_architecture_keeps_them(spaces: Spaces, name: str) -> None:
    anatomy = spaces[name].model.anatomy
    found = (anatomy.embedding_path, anatomy.blocks_path, anatomy.readout_paths, anatomy.head_path)
    assert found == PARTS[name]
    assert anatomy.tied == (name in TIED)
    assert (anatomy.bias is not None) == (name in ("phi", "bert"))
    assert anatomy.softcap == (4.0 if name == "gemma2" else None)
    assert anatomy.logit_scale == pytest.approx({"cohere": 0.25, "granite": 1 / 3}.get(name, 1.0))
    assert anatomy.embedding_scale == pytest.approx(
        {"gemma2": 32**0.5, "granite": 5.0}.get(name, 1.0)
    )
    assert anatomy.residual_width == 32
    assert spaces[name].model.width == (20 if name == "opt_proj" else 32)
    assert len(dict(anatomy.describe())) == len(anatomy.describe())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_last_layer_read_by_us_gives_the_models_own_logits(spaces: Spaces, name: str) -> None:
    """Row L2, through what the engine reads and through a forward pass of ours on the folder."""
    space = spaces[name]
    ids = space.tokenize(PROMPT).ids
    states = space.model.states(ids)
    ours = scores(space.frame("head"), space.model.read_out(states.raw[-1]), "matmul")
    factory = getattr(transformers, space.model.architecture)
    own = factory.from_pretrained(spaces.folders[name]).eval()
    with torch.no_grad():
        given = torch.tensor([ids])
        wanted = own(input_ids=given, attention_mask=torch.ones_like(given)).logits[0]
    assert (ours - wanted).abs().max() <= LOGITS
    assert (space.model.logits(ids) - wanted).abs().max() <= LOGITS
    assert wanted.std() > 0.3, "logits so small would hide a wrong part"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_final_norm_is_applied_once_and_a_second_time_would_show(
    spaces: Spaces, name: str
) -> None:
    space = spaces[name]
    if name == "opt_proj":
        assert "norm" not in " ".join(space.model.anatomy.readout_paths)
        return
    ids = space.tokenize(PROMPT).ids
    once = space.model.read_out(space.model.states(ids).raw[-1])
    twice = space.model.read_out(once)
    head = space.frame("head")
    gap = (scores(head, once, "matmul") - scores(head, twice, "matmul")).abs().max()
    assert gap > 100 * LOGITS


SIZES = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
FURTHER = {
    # Each keeps a part somewhere else, or has none: the way to the head, soft cap, context length.
    "BloomForCausalLM": ({"hidden_size": 16, "n_head": 2, "n_layer": 2}, ("transformer.ln_f",)),
    "GPTJForCausalLM": (
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "rotary_dim": 4},
        ("transformer.ln_f",),
    ),
    "MptForCausalLM": (
        {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 64},
        ("transformer.norm_f",),
    ),
    "OpenAIGPTLMHeadModel": ({"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}, ()),
    "MambaForCausalLM": (
        {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
        ("backbone.norm_f",),
    ),
    "MixtralForCausalLM": (
        SIZES | {"num_key_value_heads": 1, "num_local_experts": 2},
        ("model.norm",),
    ),
    "Gemma3ForCausalLM": (SIZES | {"num_key_value_heads": 1, "head_dim": 8}, ("model.norm",)),
    "ModernBertForMaskedLM": (SIZES, ("model.final_norm", "head")),
    "DistilBertForMaskedLM": (
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 64},
        ("vocab_transform", "activation", "vocab_layer_norm"),
    ),
}


@pytest.mark.parametrize("kind", FURTHER)
def test_further_architectures_are_dissected_too(tmp_path: Path, kind: str) -> None:
    """Nothing goes by names, so what was never tried before loads as well, or is refused."""
    sizes, readout = FURTHER[kind]
    space = load(
        made(kind, tmp_path, **sizes), device="cpu", offline=True, cache_dir=tmp_path / "cache"
    )
    assert space.self_check.ok, space.self_check.summary
    assert space.model.anatomy.readout_paths == readout
    trace = space.trace(PROMPT, geometry="matmul", frame="head")
    assert trace.agrees[-1].all()
    # As long a prompt as is allowed can be run, and one token more is refused with a sentence.
    longest = min(space.model.max_tokens, 80)
    assert space.trace("a" * longest, bos="no", layers="-1", k=1).finite.all()
    if longest < 80:
        with pytest.raises(PromptError, match=str(longest)):
            space.trace("a" * (longest + 1), bos="no")


@pytest.mark.parametrize(
    ("kind", "sizes", "part"),
    [
        ("RobertaForMaskedLM", SIZES, "head"),
        ("AlbertForMaskedLM", SIZES | {"embedding_size": 8}, "layers"),
        ("XLNetLMHeadModel", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}, "head"),
    ],
)
def test_what_does_not_fit_the_chain_is_refused_by_its_part(
    tmp_path: Path, kind: str, sizes: dict[str, object], part: str
) -> None:
    """A function between two modules, layers used twice, a second stream: refused, not guessed."""
    text = refusal(UnsupportedModel, made(kind, tmp_path, **sizes))
    assert kind in text
    assert part in text


def test_a_model_whose_own_code_fails_is_refused_in_one_sentence(spaces: Spaces) -> None:
    model = copy.deepcopy(spaces["gpt2"].model.module)

    def fail(*_: object) -> None:
        raise RuntimeError("planted\nfailure")

    model.transformer.h[1].register_forward_pre_hook(fail)
    with pytest.raises(UnsupportedModel, match="planted") as caught:
        dissect(model)
    assert "\n" not in str(caught.value)


def test_the_soft_cap_of_the_fixture_matters(spaces: Spaces) -> None:
    """The Gemma 2 fixture has logits in the bent part of the cap, or it would test nothing."""
    space = spaces["gemma2"]
    ids = space.tokenize(PROMPT).ids
    product = space.model.read_out(space.model.states(ids).raw[-1]) @ space.model.anatomy.weight.T
    capped = space.model.logits(ids)
    assert (product - capped).abs().max() > 1.0
    assert capped.abs().max() < 4.0


def test_a_bfloat16_model_is_read_in_its_own_precision(spaces: Spaces) -> None:
    """The final norm runs in bfloat16 as in the model; logits agree to bfloat16's grain (2⁻⁸)."""
    space = spaces["bf16"]
    assert space.model.dtype == "bfloat16"
    ids = space.tokenize(PROMPT).ids
    ours = scores(
        space.frame("head"), space.model.read_out(space.model.states(ids).raw[-1]), "matmul"
    )
    own = space.model.logits(ids)
    assert (ours - own).abs().max() <= 2**-7 * own.abs().max()


def test_auto_dtype_on_the_cpu_is_float32(spaces: Spaces) -> None:
    space = spaces.fresh("bf16", dtype="auto")
    assert space.model.dtype == "float32"
    assert space.self_check.ok


@pytest.mark.parametrize("name", ["gpt2", "opt_proj", "bert"])
def test_dissecting_leaves_no_hook_behind(spaces: Spaces, name: str) -> None:
    space = spaces[name]
    before = hooks(space)
    dissect(space.model.module, kind=space.model.anatomy.kind)
    assert hooks(space) == before


def test_a_path_to_the_head_that_is_no_module_is_refused() -> None:
    """A step in plain code between the last block and the head would be read wrongly: refused."""
    config = transformers.GPT2Config(
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=32,
        vocab_size=97,
        bos_token_id=0,
        eos_token_id=1,
    )

    class Odd(transformers.GPT2LMHeadModel):
        def forward(self, input_ids: torch.Tensor, **rest: object):  # type: ignore[no-untyped-def]
            out = self.transformer(input_ids)
            from transformers.modeling_outputs import CausalLMOutput

            return CausalLMOutput(logits=self.lm_head(out[0] * 1.5 + 0.1))

    class Bent(transformers.GPT2LMHeadModel):
        def forward(self, input_ids: torch.Tensor, **rest: object):  # type: ignore[no-untyped-def]
            out = super().forward(input_ids)
            out.logits = out.logits**3
            return out

    for kind, part in ((Odd, "final norm"), (Bent, "head")):
        model = kind(config).eval()
        randomize(model, seed=3)
        with pytest.raises(UnsupportedModel, match=part):
            dissect(model)


# --- refusals: the right class, one sentence, the missing part by name --------------------------


def refusal(kind: type[LexiscopeError], *args: object, **settings: object) -> str:
    """The message of a refusal, checked to be of that very class and one tidy sentence."""
    given = {"device": "cpu", "offline": True, "cache_dir": Path("/nonexistent")}
    with pytest.raises(kind) as caught:
        load(*args, **(given | settings))  # type: ignore[arg-type]
    assert type(caught.value) is kind
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert 20 < len(text) < 420
    assert "Traceback" not in text
    assert "site-packages" not in text
    return text


BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 300,
}


def test_a_classifier_without_a_vocabulary_head_is_refused(tmp_path: Path) -> None:
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**BERT))
    text = refusal(UnsupportedModel, save(model, tmp_path / "cls"))
    assert "BertForSequenceClassification" in text
    assert "head" in text
    assert str(tmp_path) not in text


def test_a_bare_trunk_is_refused_because_its_head_weights_are_missing(tmp_path: Path) -> None:
    config = transformers.BertConfig(**BERT)
    text = refusal(UnsupportedModel, save(transformers.BertModel(config), tmp_path / "trunk"))
    assert "BertModel" in text
    # The same weights under a name that promises a head: the head would be random.
    settings = json.loads((tmp_path / "trunk" / "config.json").read_text())
    settings["architectures"] = ["BertForMaskedLM"]
    (tmp_path / "trunk" / "config.json").write_text(json.dumps(settings))
    text = refusal(UnsupportedModel, tmp_path / "trunk")
    assert "cls.predictions" in text
    assert "random" in text


def test_an_untied_llama_without_its_head_is_refused(folders: Folders, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(folders["llama"], tmp_path / "headless"))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lm_head.weight" in refusal(UnsupportedModel, folder)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=300,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config)
    text = refusal(UnsupportedModel, save(model, tmp_path / "t5"))
    assert "encoder-decoder" in text


def test_pickled_weights_are_never_opened(folders: Folders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["gpt2"], tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    planted = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (planted,)

    torch.save({"weight": Bomb()}, folder / "pytorch_model.bin")
    text = refusal(UnsafeModel, folder)
    assert "pytorch_model.bin" in text
    assert "pickle" in text
    assert not planted.exists()


def test_weights_that_were_cut_off_are_called_damaged(folders: Folders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["gpt2"], tmp_path / "cut"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    text = refusal(ModelError, folder)
    assert "damaged or incomplete" in text
    assert "cannot be opened" not in text


def test_code_of_the_models_author_is_not_run(folders: Folders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["gpt2"], tmp_path / "remote"))
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "odd",
        "auto_map": {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddModel"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    planted = tmp_path / "ran"
    (folder / "odd.py").write_text(f"open({str(planted)!r}, 'w')\n")
    text = refusal(UnsafeModel, folder)
    assert "trust_remote_code" in text
    assert not planted.exists()


def test_code_that_comes_with_a_tokenizer_is_not_run(folders: Folders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["gpt2"], tmp_path / "remote_tokenizer"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {
        "tokenizer_class": "OddTokenizer",
        "auto_map": {"AutoTokenizer": ["odd.OddTokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    planted = tmp_path / "ran"
    (folder / "odd.py").write_text(f"open({str(planted)!r}, 'w')\n")
    text = refusal(UnsafeModel, folder)
    assert "tokenizer_config.json" in text
    assert not planted.exists()


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("vocab_size", 10**15, ModelTooLarge),
        ("vocab_size", 10**400, ModelError),
        ("vocab_size", -5, ModelError),
        ("vocab_size", "many", ModelError),
        ("n_layer", "three", ModelError),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(
    folders: Folders, tmp_path: Path, field: str, value: object, kind: type[ModelError]
) -> None:
    folder = Path(shutil.copytree(folders["gpt2"], tmp_path / "absurd"))
    settings = json.loads((folder / "config.json").read_text())
    settings[field] = value
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError) as caught:
        load(folder, device="cpu", offline=True, cache_dir=tmp_path / "cache")
    assert isinstance(caught.value, kind)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 420


@pytest.mark.parametrize("text", ["{", "[]", '"gpt2"', "\x00\x01", ""])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "model.safetensors").write_bytes(b"")
    refusal(ModelError, tmp_path)


def test_a_damaged_weight_file_is_refused(folders: Folders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["gpt2"], tmp_path / "cut"))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    text = refusal(ModelError, folder)
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "bert"])
def test_a_folder_without_a_tokenizer_is_refused(
    folders: Folders, tmp_path: Path, name: str
) -> None:
    """transformers makes up an empty tokenizer for some kinds; its badge would be green."""
    folder = Path(shutil.copytree(folders[name], tmp_path / "mute"))
    for file in folder.glob("*token*"):
        file.unlink()
    text = refusal(UnsupportedModel, folder)
    assert "tokenizer" in text


def test_what_is_not_there_is_said_to_be_missing(folders: Folders, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "at" / "all"
    assert "no folder" in refusal(ModelNotFound, missing)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "config.json" in refusal(ModelNotFound, empty)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"x")
    assert "file" in refusal(ModelNotFound, file)
    assert "no-such-model-at-all" in refusal(ModelNotFound, "no-such-model-at-all")
    bare = Path(shutil.copytree(folders["gpt2"], tmp_path / "weightless"))
    (bare / "model.safetensors").unlink()
    assert "safetensors" in refusal(ModelNotFound, bare)


def test_an_unknown_device_or_dtype_is_refused_with_what_is_allowed(folders: Folders) -> None:
    assert "cuda" in refusal(OptionError, folders["gpt2"], device="tpu")
    assert "bfloat16" in refusal(OptionError, folders["gpt2"], dtype="int8")
    if not torch.cuda.is_available():
        assert "cpu" in refusal(OptionError, folders["gpt2"], device="cuda")


def test_long_or_hostile_names_are_shortened_in_the_message() -> None:
    text = refusal(ModelNotFound, "/" + "x" * 5000)
    assert "x" * 200 not in text
    assert "home" not in refusal(ModelNotFound, "~nobody-of-that-name/model")
    text = refusal(ModelNotFound, "./\u202eevil\x1b[31m")
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_head_that_holds_nan_is_refused(folders: Folders, tmp_path: Path) -> None:
    text = refusal(NonFiniteError, folders["nan_head"])
    assert "NaN" in text


def test_a_model_works_only_on_the_thread_that_loaded_it(spaces: Spaces) -> None:
    import threading

    space, caught = spaces["gpt2"], []

    def elsewhere() -> None:
        for work in (
            lambda: space.model.states((1, 2, 3)),
            lambda: space.model.logits((1, 2, 3)),
            lambda: space.model.read_out(torch.zeros(1, 32)),
        ):
            try:
                work()
            except WorkError as error:
                caught.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(caught) == 3
    assert "thread" in caught[0]
