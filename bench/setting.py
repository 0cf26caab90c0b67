"""The one model of a run: GPT-2's sizes with seeded random weights (only sizes matter here)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from engine.model.language_model import LanguageModel
from engine.model.prompts import Tokens
from engine.reading.read import read
from engine.space import LatentSpace
from engine.trace.options import TraceOptions, final_answers, prepare

K = 10
"""Tokens listed per state."""
BUDGET = 256 * 2**20
"""Bytes for the temporaries of a reading: what a trace takes by default."""


@dataclass(frozen=True)
class Setting:
    """Everything a run depends on."""

    tokens: int = 64
    layers: int = 12
    vocabulary: int = 50257
    width: int = 768
    threads: int = 2
    rounds: int = 5
    seed: int = 0

    @property
    def states(self) -> int:
        return self.tokens * (self.layers + 1)

    def words(self) -> str:
        return (
            f"{self.tokens} tokens × {self.layers + 1} layers = {self.states} states,"
            f" v = {self.vocabulary:,}, d = {self.width}, float32, torch threads {self.threads},"
            f" rounds {self.rounds}, seed {self.seed}"
        )


def make_module(
    seed: int, *, layers: int = 12, vocabulary: int = 50257, width: int = 768
) -> GPT2LMHeadModel:
    """A GPT-2 with random weights."""
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=layers,
        vocab_size=vocabulary,
        n_embd=width,
        n_head=max(1, width // 64),
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def make_tokenizer(size: int = 2048) -> PreTrainedTokenizerFast:
    """Words w0, w1 … by number: a prompt has as many tokens as words."""
    vocabulary = {"<eos>": 0} | {f"w{i}": i for i in range(1, size)}
    raw = Tokenizer(WordLevel(vocabulary, unk_token="<eos>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<eos>", eos_token="<eos>", unk_token="<eos>"
    )


def prompt(tokens: int, seed: int = 0) -> str:
    """A text of so many tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 2048, (tokens,), generator=generator).tolist()
    return " ".join(f"w{i}" for i in ids)


class Bench:
    """The model of a run with its frames, states and the works that several sections time."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.module = make_module(
            setting.seed,
            layers=setting.layers,
            vocabulary=setting.vocabulary,
            width=setting.width,
        )
        self.tokenizer = make_tokenizer()
        self.model = LanguageModel(self.module, self.tokenizer, name="gpt2-size, random weights")
        self.space = LatentSpace(self.model)
        self.text = prompt(setting.tokens, setting.seed)
        self.tokens: Tokens = self.model.tokenize(self.text)
        self.raw = self.model.states(self.tokens.ids)
        got = prepare(self.model, self.raw, TraceOptions())
        self.flat: Tensor = got.states.reshape(-1, setting.width).clone()
        self.last: Tensor = got.last.clone()
        answers, _ = final_answers(self.space.frame("head"), got.last, budget_bytes=BUDGET)
        self.targets: Tensor = answers.repeat(setting.layers + 1).unsqueeze(1)
        self.weight: Tensor = self.model.anatomy.weight.detach()
        self._product = torch.empty(len(self.flat), setting.vocabulary)

    def forward(self) -> object:
        """The model by itself: a plain forward pass with the logits of every token."""
        given = torch.tensor([self.tokens.ids])
        return self.module(input_ids=given, use_cache=False)

    def product(self) -> object:
        """One matrix product states × vocabulary into memory that is there already."""
        return torch.mm(self.flat, self.weight.T, out=self._product)

    def trace(self, model: LanguageModel | None = None, ids: Sequence[int] | None = None) -> Any:
        """Forward pass, three geometries on the output frame, top-10, entropy, exact ranks."""
        chosen = model or self.model
        states = chosen.states(ids or self.tokens.ids)
        got = prepare(chosen, states, TraceOptions(k=K))
        answers, _ = final_answers(self.space.frame("head"), got.last, budget_bytes=BUDGET)
        targets = answers.repeat(len(got.layers)).unsqueeze(1)
        flat = got.states.reshape(-1, self.setting.width)
        return read(self.space.frame("output"), flat, k=K, targets=targets, budget_bytes=BUDGET)

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and states where a child process can open them."""
        self.module.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        torch.save(
            {"ids": torch.tensor(self.tokens.ids), "raw": self.raw.raw, "targets": self.targets},
            folder / "states.pt",
        )


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes away."""
    return tempfile.TemporaryDirectory(prefix="lexiscope-bench-")
