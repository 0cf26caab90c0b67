"""A text that goes on, read at every layer, against transformers' own `generate`."""

from __future__ import annotations

from typing import Final

import torch

import engine
from bench.measure import race, ratio
from bench.report import TIMES, Goal, Section, times
from bench.setting import Setting
from engine import GenerateOptions, TraceOptions
from engine.progress import drain

PROMPT: Final = "Once upon a time"
TOKENS: Final = 40


def generate(setting: Setting) -> Section:
    """40 greedy tokens of SmolLM2."""
    out = Section(
        "A text that goes on",
        f"{TOKENS} greedy tokens of SmolLM2 after “{PROMPT}”, each read at 31 layers; against"
        " `generate` of transformers with the states kept, and one product of each token's states"
        " with the head.",
        TIMES,
    )
    space = engine.load("smollm2", threads=setting.threads)
    model, head = space.model, space.model.anatomy.weight.detach().float()
    ids = torch.tensor([space.tokenize(PROMPT).ids])

    @torch.inference_mode()
    def plain() -> None:
        found = model.module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
        for layers in found.hidden_states:
            torch.stack([states[0, -1] for states in layers]) @ head.T

    works = {"plain": plain}
    named = {
        "bases": ("semantic bases, cosine", TraceOptions(k=3)),
        "head": ("head rows, matrix product", TraceOptions(k=3, frame="head", geometry="matmul")),
    }
    for name, (_, reading) in named.items():
        options = GenerateOptions(tokens=TOKENS, reading=reading)
        works[name] = lambda options=options: [*space.generate(PROMPT, options)]
    asked = GenerateOptions(tokens=TOKENS, reading=named["bases"][1])
    works["whole"] = lambda: drain(space.generation_steps(PROMPT, asked))
    got = race(works, setting.rounds)
    out.add("generate + one product a token", *times(got["plain"]))
    for name, (words, _) in named.items():
        out.add(words, *times(got[name], ratio(got[name], got["plain"])))
    out.add(
        "semantic bases, with the controls", *times(got["whole"], ratio(got["whole"], got["plain"]))
    )
    best = ratio(got["bases"], got["plain"])
    out.goals.append(
        Goal(
            "columns ÷ (generate + one product a token)",
            best.best,
            1.3,
            also=f"median {best.median:.2f}, processor time {best.cpu:.2f}",
        )
    )
    return out
