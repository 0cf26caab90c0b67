"""The tiny seeded models of the tests: recipes, and how they are built and opened.

Each is built from a config with every weight drawn anew (norm gains included, so that a final norm
applied twice shows) and saved by `save_pretrained` with a small tokenizer trained here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedTokenizerFast

import engine
from engine import LatentSpace

ROOT = Path(__file__).resolve().parents[1]
STORIES = ROOT.parent / "shared" / "data" / "models" / "stories260K-llama"
SMALL = ROOT / "models" / "small"

PROMPT = "The king and the queen went to the old house. The cat sat."
"""A prompt of a dozen tokens or two for the tiny models."""

_SENTENCES = [
    PROMPT,
    "Once upon a time there was a little girl who had a red ball.",
    "The dog ran to the house and the girl ran to the dog.",
    "It was a sunny day and the cat was happy, so the king was happy too.",
]
_CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def byte_level(
    texts: Iterable[str] = (),
    size: int = 256,
    *,
    special: Sequence[str] = (),
    use_regex: bool = True,
) -> Tokenizer:
    """A byte-level tokenizer: special tokens first, the 256 bytes, then merges learnt from texts.

    Args:
        texts: what the merges are learnt from.
        size: of the vocabulary.
        special: its special tokens.
        use_regex: whether words are split off before the merges.
    """
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    return raw


def byte_tokenizer(size: int = 300, *, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer trained on a few sentences.

    Args:
        size: of the vocabulary; 256 bytes, two special tokens and merges.
        bos: whether it puts a begin-of-text token in front by itself and knows a chat template.
    """
    raw = byte_level(_SENTENCES * 4, size, special=["<|bos|>", "<|eos|>"])
    if bos:
        raw.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
        )
    out = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|eos|>"
    )
    if bos:
        out.chat_template = _CHAT
    return out


_WIDTH, _HEADS, _LAYERS = 32, 4, 3
_COMMON = {
    "hidden_size": _WIDTH,
    "num_attention_heads": _HEADS,
    "num_hidden_layers": _LAYERS,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
_GROUPED = _COMMON | {"num_key_value_heads": 2, "head_dim": 8}

Recipe = tuple[str, dict[str, Any]]
RECIPES: dict[str, Recipe] = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": _WIDTH, "n_layer": _LAYERS, "n_head": _HEADS, "n_positions": 128},
    ),
    "llama": ("LlamaForCausalLM", _GROUPED | {"tie_word_embeddings": False}),
    "qwen3": ("Qwen3ForCausalLM", _GROUPED | {"tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2ForCausalLM",
        _GROUPED | {"final_logit_softcapping": 4.0, "query_pre_attn_scalar": 8},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", _COMMON | {"rotary_pct": 0.5}),
    "opt": ("OPTForCausalLM", _COMMON | {"ffn_dim": 48}),
    "opt_proj": (
        "OPTForCausalLM",
        _COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 20, "do_layer_norm_before": False},
    ),
    "mistral": ("MistralForCausalLM", _GROUPED | {"sliding_window": None}),
    "phi": ("PhiForCausalLM", _COMMON | {"partial_rotary_factor": 0.5}),
    "cohere": ("CohereForCausalLM", _COMMON | {"num_key_value_heads": 2, "logit_scale": 0.25}),
    "granite": (
        "GraniteForCausalLM",
        _COMMON
        | {
            "num_key_value_heads": 2,
            "logits_scaling": 3.0,
            "embedding_multiplier": 5.0,
            "residual_multiplier": 0.7,
        },
    ),
    "bert": ("BertForMaskedLM", _COMMON),
    # Heads that are no plain full-rank matrix.
    "wide": (
        "LlamaForCausalLM",
        _GROUPED | {"hidden_size": 320, "num_hidden_layers": 1, "tie_word_embeddings": False},
    ),
    "deficient": ("LlamaForCausalLM", _GROUPED | {"tie_word_embeddings": False}),
    "padded": ("LlamaForCausalLM", _GROUPED | {"tie_word_embeddings": False}),
    "bf16": ("LlamaForCausalLM", _GROUPED | {"tie_word_embeddings": True}),
    "nan": ("LlamaForCausalLM", _GROUPED | {"tie_word_embeddings": False}),
    "nan_head": ("LlamaForCausalLM", _GROUPED | {"tie_word_embeddings": False}),
}
ARCHITECTURES = (
    "gpt2",
    "llama",
    "qwen3",
    "gemma2",
    "gpt_neox",
    "opt",
    "opt_proj",
    "mistral",
    "phi",
    "cohere",
    "granite",
    "bert",
)
"""The sound models in float32 with a head of full rank."""
NAN_LAYER = 2
"""The model `nan` holds a NaN in its second block, so its states are NaN from layer 2 on."""


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int) -> None:
    """Draw every weight anew, so that each part of the model matters in its logits."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: torch.Tensor, scale: float) -> torch.Tensor:
        return scale * torch.randn(like.shape, generator=generator).to(like.dtype)

    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.copy_(draw(parameter, 0.35))
        else:  # norm gains and biases: spread around what they start from
            parameter.add_(draw(parameter, 0.3))


def build(name: str, folder: Path) -> Path:
    """Make one of the tiny models in a folder."""
    kind, settings_ = RECIPES[name]
    tokenizer = byte_tokenizer(
        size=300, bos=name in ("llama", "qwen3", "mistral", "deficient", "padded", "nan")
    )
    size = len(tokenizer) + (5 if name == "padded" else 0)
    factory = getattr(transformers, kind)
    config = factory.config_class(
        vocab_size=size, bos_token_id=0, eos_token_id=1, pad_token_id=1, **settings_
    )
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = factory(config).eval()
    randomize(model, seed=1 + list(RECIPES).index(name))
    head = model.get_output_embeddings()
    with torch.no_grad():
        if name == "deficient":
            head.weight[:, 24:] = head.weight[:, :8]  # rank 24 of 32
            head.weight[11:14] = head.weight[10]  # copies
            head.weight[20:22] = 0.0
        if name == "padded":
            head.weight[-5:] = 0.0
        if name == "nan":
            next(model.model.layers[NAN_LAYER - 1].mlp.parameters())[3, 4] = float("nan")
        if name == "nan_head":
            head.weight[7, 3] = float("nan")
    if name == "bf16":
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def made(kind: str, folder: Path, *, seed: int = 4, tokenizer: Any = None, **sizes: Any) -> Path:
    """A tiny model of any class of transformers, with every weight drawn anew."""
    factory = getattr(transformers, kind)
    sizes = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1} | sizes
    model = factory(factory.config_class(**sizes)).eval()
    randomize(model, seed)
    return save(model, folder, tokenizer)


def save(model: Any, folder: Path, tokenizer: Any = None) -> Path:
    """A model's folder, with a byte-level tokenizer where none is given."""
    model.save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], **config: Any) -> Path:
    """Change the tensors of a folder's file, and fields of its configuration (None: without)."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    path = folder / "config.json"
    plain = json.loads(path.read_text()) | config
    path.write_text(json.dumps({k: v for k, v in plain.items() if v is not None}))
    return folder


def turned_copy(folders: Folders, folder: Path) -> Path:
    """The model `llama` with its head turned by an orthogonal matrix and doubled."""
    shutil.copytree(folders["llama"], folder)
    draw = torch.Generator().manual_seed(0)

    def turn(tensors: dict[str, Any]) -> None:
        head = tensors["lm_head.weight"].double()
        q = torch.linalg.qr(torch.randn(head.shape[1], head.shape[1], generator=draw).double())[0]
        tensors["lm_head.weight"] = (2 * head @ q).float().contiguous()

    return rewrite(folder, turn)


class Folders:
    """The tiny models' folders, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: dict[str, Path] = {}

    def __getitem__(self, name: str) -> Path:
        """The folder of one of :data:`RECIPES`."""
        if name not in self._made:
            self._made[name] = build(name, self.root / name)
        return self._made[name]


class Spaces:
    """The tiny models opened by the engine, each when it is first asked for. Read-only."""

    def __init__(self, folders: Folders, cache: Path) -> None:
        self.folders, self.cache = folders, cache
        self._open: dict[str, LatentSpace] = {}

    def __getitem__(self, name: str) -> LatentSpace:
        """One space, shared by the whole session."""
        if name not in self._open:
            self._open[name] = self.fresh(name)
        return self._open[name]

    def fresh(self, name: str, **settings_: Any) -> LatentSpace:
        """A space of one's own, to be broken."""
        given = {"device": "cpu", "offline": True, "cache_dir": self.cache}
        if name == "bf16":
            given["dtype"] = "bfloat16"
        return engine.load(self.folders[name], **(given | settings_))


def hooks(space: LatentSpace) -> int:
    """How many hooks hang on a model: to be compared with before, since transformers puts some."""
    return sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks)
        for part in space.model.module.modules()
    )


def peak_bytes(work: Any) -> int:
    """The most that torch's allocator held at once for some work, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [
        (e.start_ns(), e.nbytes())
        for e in seen.profiler.kineto_results.events()
        if e.name() == "[memory]"
    ]
    held = peak = 0
    for _, size in sorted(events):
        held += size
        peak = max(peak, held)
    return peak
