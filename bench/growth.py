"""How time grows with tokens, layers and vocabulary: exponents fitted on a log-log scale."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bench.measure import exponent, race
from bench.report import Section, ms
from bench.setting import BUDGET, Bench, K, make_module, make_tokenizer
from engine.frames.frame import Frame
from engine.model.language_model import LanguageModel
from engine.reading.read import read

TOKENS = (16, 32, 64, 128)
LAYERS = (3, 6, 12)
VOCABULARY = (5_000, 12_000, 25_000, 50_000)


@torch.no_grad()
def growth(bench: Bench) -> Section:
    """Exponent 1 is proportional; less than 1 has a constant part."""
    out = Section(
        "Growth",
        "Quickest round at each size, and the slope of log time over log size with its r²: `read`"
        " by three geometries, and the trace (forward pass included). The other two sizes are 64"
        f" tokens, 12 layers, v = {bench.setting.vocabulary:,}.",
        ("what", "sizes", "best ms", "exponent", "r²", "by cpu", "r²"),
    )
    rounds = max(2, bench.setting.rounds // 2)
    layers = bench.setting.layers
    output = bench.space.frame("output")
    long = bench.flat.repeat(2, 1)
    ids = [int(i) for i in bench.tokens.ids] * 2

    def line(what: str, works: dict[int, object]) -> None:
        got = race({str(k): w for k, w in works.items()}, rounds)  # type: ignore[misc]
        sizes = list(works)
        seconds = [got[str(s)].best for s in sizes]
        slope, fit = exponent([float(s) for s in sizes], seconds)
        steady, close = exponent([float(s) for s in sizes], [got[str(s)].best_cpu for s in sizes])
        out.add(
            what,
            " ".join(f"{s:,}" for s in sizes),
            " ".join(ms(s) for s in seconds),
            f"{slope:.2f}",
            f"{fit:.3f}",
            f"{steady:.2f}",
            f"{close:.3f}",
        )

    by_tokens = {t: t * (layers + 1) for t in TOKENS}
    line("read over tokens", {t: partial(_read, output, long[:n]) for t, n in by_tokens.items()})
    line(
        "read over layers",
        {n: partial(_read, output, long[: bench.setting.tokens * (n + 1)]) for n in LAYERS},
    )
    sizes = [v for v in VOCABULARY if v <= bench.setting.vocabulary]
    line("read over vocabulary", {v: partial(_read, _part(output, v), bench.flat) for v in sizes})
    line("trace over tokens", {t: partial(bench.trace, None, ids[:t]) for t in TOKENS})
    models = {n: _cut(bench, n) for n in LAYERS if n < layers} | {layers: bench.model}
    line("trace over layers", {n: partial(bench.trace, m) for n, m in models.items()})
    out.notes.append(
        "attention grows with the square of the tokens, but at these lengths the products do"
        " nearly all of the forward pass"
    )
    return out


def _read(frame: Frame, states: Tensor) -> object:
    targets = torch.zeros(len(states), 1, dtype=torch.long)
    return read(frame, states, k=K, targets=targets, budget_bytes=BUDGET)


def _part(frame: Frame, v: int) -> Frame:
    """The first v vectors of a frame."""
    assert frame.rows is not None
    return Frame(frame.name, frame.rows[:v], frame.transform, frame.norms[:v], frame.mean)


def _cut(bench: Bench, layers: int) -> LanguageModel:
    """The first blocks of the model, sharing its weights."""
    module = make_module(0, layers=1, vocabulary=16)
    whole = bench.module.transformer
    module.transformer.wte, module.transformer.wpe = whole.wte, whole.wpe
    module.transformer.h = whole.h[:layers]
    module.transformer.ln_f = whole.ln_f
    module.lm_head = bench.module.lm_head
    module.config.n_layer = layers
    module.config.vocab_size = bench.setting.vocabulary
    return LanguageModel(module, make_tokenizer(), name=f"{layers} layers")
