"""A vocabulary of thousands of tokens that try to be something else."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import torch
from driving import HOSTILE
from tiny_models import byte_level
from tokenizers import AddedToken
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

COUNT = int(os.environ.get("LEXISCOPE_TEST_HOSTILE_TOKENS", "5000"))
"""How many tokens, pieces of characters included."""
BYTES = 256
_MORE = [
    "<b>", "<i>", "</i>", "<sup>", "</sup>", "<em>", "<a href='javascript:alert(3)'>", "</a>",
    "<svg onload=alert(4)>", "<iframe src=//example.org>", "<style>*{display:none}</style>",
    "<base href=//example.org/>", "<form action=//example.org>", "<meta http-equiv=refresh>",
    "<math><mi>", "<!--", "-->", "]]>", "<![CDATA[", "<title>", "</title>", "</main>", "</body>",
    'hx-get="/livez"', "hx-on::load=alert(5)", "data-hx-post=/x", "hx-trigger=load", "hx-swap-oob",
    "%{text}", "%{x:.2f}", "<extra></extra>", "${7*7}", "#{7*7}", "{{config}}", "{#", "#}",
    "&lt;b&gt;", "&#60;", "&nbsp;", "&", "<", ">", "=1+1", "+1", "-1", "@SUM(A1)",
    "=cmd|' /C calc'!A0",
    "\u202e", "\u2066x\u2069", "\u200b", "\u200fabc", "\ufeff", "\u0301", "\u00ad",
    "\u2028", "\u2029",
    "\x00", "\x08", "\x1b[31m", "\x7f", "\r", "\n", "\r\n", "\t", " ", "  ", "\u00a0", "\u3000",
    "👩\u200d👩\u200d👧", "🇩🇪", "नि", "שלום", "مرحبا", "ﷺ", "Ω̶", "a" * 300,
    "$\\frac{1}{2}$", "\\(x\\)",
    "javascript:alert(6)", "data:text/html,x", "//example.org", "https://example.org/",
    "../../etc/passwd",
    "_legend_", "__proto__", "constructor", "toString", "null", "undefined", "NaN", "true", "0",
]  # fmt: skip


def hostile_tokens(count: int) -> list[str]:
    """So many different texts: each seed alone, then two of them, one around the other."""
    seeds = [*dict.fromkeys([*HOSTILE, *_MORE])]
    pairs = (
        f"{a}{mark}{b}"
        for mark in ("", " ", "\n", '"')
        for a, b in itertools.product(seeds, repeat=2)
    )
    made = dict.fromkeys(itertools.chain(seeds, pairs))
    return list(itertools.islice(made, count))


def hostile_model(folder: Path) -> list[str]:
    """Save a tiny random model whose vocabulary is every byte and then `COUNT` hostile texts.

    Returns:
        The hostile texts; the id of each is `BYTES` and its place here.
    """
    raw = byte_level(use_regex=False)
    words = [w for w in hostile_tokens(COUNT) if len(w) > 1 or not w.isascii()][: COUNT - BYTES]
    raw.add_tokens([AddedToken(w, normalized=False) for w in words])
    assert raw.get_vocab_size() == BYTES + len(words)
    PreTrainedTokenizerFast(tokenizer_object=raw).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=BYTES + len(words), n_positions=128, n_embd=24, n_layer=2, n_head=2,
                bos_token_id=0, eos_token_id=0,
            )
        )  # fmt: skip
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    return words
