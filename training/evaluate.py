"""What a model folder is worth: bits per byte on given texts, and what it writes.

Bits per byte compare across tokenizers. Every token is scored once, given the end-of-text mark and
up to a window of the text before it; windows overlap by half, so that except at a document's start
a token is given at least half a window.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from training.data import documents, source, split_files, write_json

PROMPTS = (
    "The capital of France is",
    "The economy of a country depends on",
    "Once upon a time there was a",
    "In the United States, the government",
    "The doctor opened the door and",
    "A cell is the basic unit of",
    "She looked at him and said,",
    "Technology has changed the way that",
    "The old man and his dog",
    "Water is made of hydrogen and",
)
"""The ten beginnings that every model card continues."""


@dataclass(frozen=True)
class TextScore:
    """How well a model predicts one text."""

    documents: int
    """Documents scored."""
    utf8_bytes: int
    """UTF-8 bytes of the documents."""
    tokens: int
    """Tokens scored; end-of-text marks are given, not scored."""
    loss: float
    """Mean cross-entropy, nats per token; compares only within one tokenizer."""
    bits_per_byte: float
    """Bits the model needs for a byte of the text; compares across models."""
    xz_bits_per_byte: float
    """Bits `xz -9e` needs for a byte of the same documents, joined by newlines."""


@torch.no_grad()
def token_losses(
    model: PreTrainedModel, tokens: Tensor, window: int, windows_at_once: int = 16
) -> Tensor:
    """Cross-entropy in nats of every token after the first, shape (tokens - 1,).

    Args:
        model: A causal language model.
        tokens: One document, shape (tokens,), the first of them only given.
        window: Tokens the model reads at a time.
        windows_at_once: Windows in one forward pass.
    """
    count, stride = tokens.numel() - 1, window // 2
    losses = torch.full((count,), math.nan)
    # The last window ends with the text: no padding, and every window is whole if the text is.
    last = max(0, count - window)
    starts = [*range(0, last, stride), last]
    for first in range(0, len(starts), windows_at_once):
        chunk = starts[first : first + windows_at_once]
        rows = torch.stack([tokens[start : start + window + 1] for start in chunk])
        logits = model(input_ids=rows[:, :-1].to(model.device), use_cache=False).logits
        scored = functional.cross_entropy(
            logits.flatten(0, 1).float().cpu(), rows[:, 1:].flatten(), reduction="none"
        ).view(len(chunk), -1)
        for start, row in zip(chunk, scored, strict=True):
            part = losses[start : start + row.numel()]
            # Only the first window that reaches a token with context enough scores it.
            fresh = part.isnan()
            part[fresh] = row[fresh]
    return losses


def score(model: PreTrainedModel, tokenizer: Any, texts: Iterable[str], window: int) -> TextScore:
    """Scores documents one by one.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, with a beginning-of-text token.
        texts: The documents; empty ones are left out.
        window: Tokens the model reads at a time.

    Raises:
        ValueError: There is nothing to score.
    """
    nats, tokens, kept = 0.0, 0, []
    for text in texts:
        # Documents longer than the model reads are what windows are for: no warning (verbose).
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if ids:
            losses = token_losses(model, torch.tensor([tokenizer.bos_token_id, *ids]), window)
            nats, tokens = nats + float(losses.double().sum()), tokens + len(ids)
            kept.append(text)
    if not kept:
        raise ValueError("A text to score must hold at least one token; all documents are empty.")
    size = sum(len(text.encode()) for text in kept)
    packed = lzma.compress("\n".join(kept).encode(), preset=9 | lzma.PRESET_EXTREME)
    return TextScore(
        documents=len(kept),
        utf8_bytes=size,
        tokens=tokens,
        loss=nats / tokens,
        bits_per_byte=nats / math.log(2) / size,
        xz_bits_per_byte=8 * len(packed) / size,
    )


@torch.no_grad()
def continuation(
    model: PreTrainedModel, tokenizer: Any, prompt: str, tokens: int, seed: int | None = None
) -> str:
    """What the model writes after a prompt: greedy, or sampled when a seed is given.

    Sampling is at temperature 0.8 among the 40 likeliest tokens.
    """
    ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)], device=model.device)
    how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    if seed is not None:
        torch.manual_seed(seed)
        how = {"do_sample": True, "temperature": 0.8, "top_k": 40}
    mask = torch.ones_like(ids)
    written = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, **how)
    text: str = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    return text


def weights_digest(folder: Path) -> str:
    """SHA-256 over the weights' files of a model folder: whose figures these are."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def continuations(
    model: PreTrainedModel, tokenizer: Any, tokens: int, seed: int
) -> list[dict[str, str]]:
    """Every prompt of :data:`PROMPTS` with its greedy and its sampled continuation."""
    return [
        {
            "prompt": prompt,
            "greedy": continuation(model, tokenizer, prompt, tokens),
            "sampled": continuation(model, tokenizer, prompt, tokens, seed),
        }
        for prompt in PROMPTS
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Scores a model folder on texts and writes what it measured as JSON."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=main.__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/small"))
    parser.add_argument("--text", type=source, action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--window", type=int, help="tokens read at a time; all the model declares")
    parser.add_argument("--tokens", type=int, default=40, help="length of a continuation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/training/evaluation.json"))
    options = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    window = options.window or int(model.config.max_position_embeddings)
    scores = {}
    for name, place in options.text:
        train, valid = split_files(place)
        texts = (text for file in valid or train for text in documents(file))
        scores[name] = asdict(score(model, tokenizer, texts, window))
        print(name, scores[name], flush=True)
    written = continuations(model, tokenizer, options.tokens, options.seed)
    report = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights": weights_digest(options.model),
        "window_tokens": window,
        "texts": scores,
        "continuation_tokens": options.tokens,
        "sampling": {"temperature": 0.8, "top_k": 40, "seed": options.seed},
        "continuations": written,
    }
    write_json(options.out, report)
    for row in written:
        print(f"{row['prompt']}\n  greedy: {row['greedy']!r}\n  sampled: {row['sampled']!r}")


if __name__ == "__main__":
    main()
