"""SmolLM2 itself: a trace, its switches, agreement and bases against the products they need."""

from __future__ import annotations

import torch

import engine
from bench.measure import Timing, added, clocked, race, ratio
from bench.report import TIMES, Goal, Section, times
from bench.setting import Setting
from engine.frames.decomposition import decompose
from engine.reading.geometries import GEOMETRIES
from engine.reading.read import read
from engine.trace.options import TraceOptions, final_answers, prepare

TEXT = "The quick brown fox jumps over the lazy dog, and the capital of France is a city called"


@torch.no_grad()
def smollm2(setting: Setting) -> Section:
    """The rows of readings, on the model that opens by default."""
    space = engine.load("smollm2", device="cpu", threads=setting.threads, offline=True)
    model, options = space.model, TraceOptions()
    tokens = space.tokenize(TEXT)
    got = prepare(model, model.states(tokens.ids), options)
    flat = got.states.reshape(-1, model.width).clone()
    weight = model.anatomy.weight.detach().float()
    room = torch.empty(len(flat), len(weight))
    given = torch.tensor([tokens.ids])
    head, frame = space.frame("head"), space.frame("output")
    answers, _ = final_answers(head, got.last, budget_bytes=model.limits.reading_bytes)
    targets = answers.repeat(len(got.layers)).unsqueeze(1)
    space.frame("tight")
    out = Section(
        "SmolLM2: trace, switches, agreement, bases",
        f"{len(tokens.ids)} tokens × {len(got.layers)} layers = {len(flat)} states,"
        f" v = {len(weight):,}, d = {model.width}; a trace is the whole of `LatentSpace.trace`"
        " (32 nearest by three geometries, ranks, KL, borders, isotropy, transitions), against the"
        " plain forward pass and a product for the frame and one for the head.",
        TIMES,
    )

    def trace(**settings: object) -> object:
        space._traces.clear()
        return space.trace(TEXT, options, **settings)

    def anew() -> object:
        space._reads.clear()
        space._states._kept.clear()
        space._said.clear()
        return trace()

    def other_frame() -> object:
        space._reads.clear()
        return trace(frame="tight")

    def other_geometry() -> object:
        return trace(geometry="l2")

    works = {
        "forward": lambda: model.module(input_ids=given, use_cache=False),
        "product": lambda: torch.mm(flat, weight.T, out=room),
        "three": lambda: read(frame, flat, k=10, targets=targets),
        "other frame": other_frame,
        "whole": anew,
        "again": trace,
        "other geometry": other_geometry,
    }
    found = race(works, setting.rounds)
    base = added((1.0, found["forward"]), (2.0, found["product"]))
    out.add("plain forward + two products", *times(base))
    for name, words in (
        ("forward", "plain forward pass"),
        ("product", "one product"),
        ("whole", "the whole trace"),
        ("three", "a reading by three geometries (10 nearest, ranks)"),
        ("other frame", "switch of the frame"),
        ("other geometry", "switch of the geometry"),
    ):
        out.add(words, *times(found[name], ratio(found[name], base)))
    agreement = Timing()
    for _ in range(2):
        space._agreements.clear()
        wall, cpu = clocked(lambda: space.agreement(TEXT, options))
        agreement.wall.append(wall)
        agreement.cpu.append(cpu)
    out.add("agreement, all frames and geometries", *times(agreement, ratio(agreement, base)))
    single = found["product"]

    def goal(words: str, name: str, against: Timing, limit: float) -> Goal:
        r = ratio(found[name], against)
        return Goal(words, r.best, limit, also=f"median {r.median:.2f}, processor time {r.cpu:.2f}")

    ours, exact = (
        clocked(lambda: decompose(weight)),
        clocked(lambda: torch.linalg.pinv(weight.double())),
    )
    out.goals += [
        goal("trace ÷ (forward + two products)", "whole", base, 1.5),
        goal("switch of the frame ÷ one product", "other frame", single, 1.6),
        goal(f"reading by {len(GEOMETRIES)} geometries ÷ one product", "three", single, 1.3),
        Goal("switch of the geometry, processor seconds", found["other geometry"].best_cpu, 0.15),
        Goal("agreement, processor seconds", agreement.best_cpu, 2.5),
        Goal("pinv float64 ÷ decompose, processor time", exact[1] / ours[1], 10.0, at_least=True),
    ]
    return out
