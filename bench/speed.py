"""A trace against the forward pass and products; each reading against a product of its size."""

from __future__ import annotations

import torch

from bench.measure import added, extra_bytes, race, ratio
from bench.report import TIMES, Goal, Section, mib, times
from bench.setting import BUDGET, Bench, K
from engine.reading.geometries import GEOMETRIES
from engine.reading.read import read
from engine.reading.similarity import divergence
from engine.trace.compute import compute_trace, read_states
from engine.trace.options import TraceOptions, prepare
from engine.trace.result import Cost


@torch.no_grad()
def trace(bench: Bench) -> Section:
    """Forward pass, three geometries, top-10, exact ranks; and the page's whole trace."""
    out = Section(
        "Trace against the plain forward pass",
        "Forward pass with capture, final norm, the model's answers, then cosine, l2 and matmul on"
        f" the output frame with top-{K}, entropy and exact ranks of the final answer; against the"
        " plain forward pass (logits of all tokens) plus three matrix products"
        f" {bench.setting.states} × {bench.setting.vocabulary:,} × {bench.setting.width} into"
        " memory that is there already.",
        TIMES,
    )

    def page() -> object:
        options, warm = TraceOptions(k=K), bench.space.temperatures("output")
        model, frame, tokens = bench.model, bench.space.frame, bench.tokens
        states = model.states(tokens.ids)
        found = read_states(model, frame, tokens, states, options, temperatures=warm)
        return compute_trace(
            model, frame, tokens, found, options, temperatures=warm, cost=Cost(0.0, 0)
        )

    def kl() -> object:
        got = prepare(bench.model, bench.raw, TraceOptions())
        head = bench.space.frame("head")
        return divergence(head, got.reading, got.last, budget_bytes=BUDGET)

    got = race(
        {
            "forward": bench.forward,
            "product": bench.product,
            "capture": lambda: bench.model.states(bench.tokens.ids),
            "trace": bench.trace,
            "kl": kl,
            "page": page,
        },
        bench.setting.rounds,
    )
    base = added((1.0, got["forward"]), (3.0, got["product"]))
    against = ratio(got["trace"], base)
    out.add("plain forward + three products", *times(base))
    for name, words in (
        ("forward", "plain forward pass"),
        ("product", "one product"),
        ("capture", "forward pass with states kept"),
        ("trace", "trace, three geometries"),
        ("kl", "KL of every state to the final answer (part of the page)"),
        ("page", "the page's whole trace (32 nearest, KL, borders, isotropy, transitions)"),
    ):
        out.add(words, *times(got[name], ratio(got[name], base)))
    out.goals.append(
        Goal(
            "trace ÷ (forward + three products)",
            against.best,
            1.3,
            also=f"median {against.median:.2f}, processor time {against.cpu:.2f}",
        )
    )
    out.notes.append(
        f"trace ÷ (forward + one product, which is all it needs):"
        f" {ratio(got['trace'], added((1.0, got['forward']), (1.0, got['product']))).best:.2f}"
    )
    out.notes.append(
        f"extra memory, peak: trace {mib(extra_bytes(bench.trace))} MiB, page"
        f" {mib(extra_bytes(page))} MiB, one product written out {mib(4 * out_size(bench))} MiB"
    )
    return out


def out_size(bench: Bench) -> int:
    """Numbers in one block of all scores."""
    return bench.setting.states * bench.setting.vocabulary


@torch.no_grad()
def readings(bench: Bench) -> Section:
    """Each geometry by itself, and all three in one pass."""
    out = Section(
        "Each reading against one matrix product of its size",
        f"`read` on the output frame: top-{K}, log-sum-exp, entropy, exact rank of one token;"
        " against one product of states with the whole vocabulary into memory that is there"
        " already.",
        TIMES,
    )
    frame = bench.space.frame("output")

    def reader(*geometries: str) -> object:
        return read(
            frame,
            bench.flat,
            geometries=geometries,
            k=K,
            targets=bench.targets,
            budget_bytes=BUDGET,
        )

    got = race(
        {
            "product": bench.product,
            **{g: (lambda g=g: reader(g)) for g in GEOMETRIES},  # type: ignore[misc]
            "three": lambda: reader(*GEOMETRIES),
        },
        bench.setting.rounds,
    )
    out.add("one matrix product", *times(got["product"]))
    for name in GEOMETRIES:
        out.add(name, *times(got[name], ratio(got[name], got["product"])))
    out.add("all three in one pass", *times(got["three"], ratio(got["three"], got["product"])))
    return out
