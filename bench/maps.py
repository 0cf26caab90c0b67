"""Maps: the first picture, the next layer, the badge, and how much goes to the browser."""

from __future__ import annotations

import json
import math

from bench.measure import Timing, clocked, extra_bytes
from bench.report import TIMES, Goal, Section, mib, times
from bench.setting import Setting, make_module, make_tokenizer, prompt
from engine.maps import Map, MapMaker, MapOptions
from engine.model.language_model import LanguageModel
from engine.space import LatentSpace

LAYERS = 4
SIZES = ((30_000, 768), (250_000, 256))
"""Vocabulary and width: the size of the budgets, and the largest that is promised."""


def maps(setting: Setting) -> Section:
    """Cold and warm times at 30 thousand and 250 thousand bases, with a prompt over them."""
    text = prompt(setting.tokens, setting.seed)
    out = Section(
        "Maps",
        f"All bases and the states of {setting.tokens} tokens, frame A (PCA of the unit bases), of"
        f" models of random weights with {LAYERS} blocks. Cold: nothing of the map is kept. Warm:"
        " another layer of the same map. What is sent: float32 places as drawn, and the map's"
        " header as JSON; token texts are sent once per model.",
        (*TIMES[:4], "extra MiB"),
    )
    for vocabulary, width in SIZES:
        module = make_module(setting.seed, layers=LAYERS, vocabulary=vocabulary, width=width)
        space = LatentSpace(LanguageModel(module, make_tokenizer(), name="random weights"))
        _measure(out, space, text, setting)
        del module, space
    return out


def _measure(out: Section, space: LatentSpace, text: str, setting: Setting) -> None:
    n, d = space.model.vocabulary, space.model.width
    name = f"{n:,} × {d}"
    first = MapOptions(prompt=text, layer=0)
    space.states(text)
    cold, warm, badge, near = Timing(), Timing(), Timing(), Timing()
    drawn: list[Map] = []
    for _ in range(setting.rounds if n < 100_000 else 2):
        maker = MapMaker(space)
        _add(cold, clocked(lambda maker=maker: drawn.append(maker.map(first))))
        for layer in range(1, LAYERS + 1):
            other = MapOptions(prompt=text, layer=layer)
            _add(warm, clocked(lambda maker=maker, o=other: maker.map(o)))
        _add(badge, clocked(lambda maker=maker: maker.quality(first)))
        _add(near, clocked(lambda maker=maker: maker.neighbours(first, 0)))
    memory = extra_bytes(lambda: MapMaker(space).map(first))
    out.add(f"{name}: first map, cold", *times(cold)[:3], mib(memory))
    out.add(f"{name}: next layer, warm", *times(warm)[:3], "")
    out.add(f"{name}: badge (its vectors written out first)", *times(badge)[:3], "")
    out.add(f"{name}: neighbours of one point", *times(near)[:3], "")
    seen = drawn[-1]
    places = seen.border.clipped.astype("<f4").tobytes()
    header = json.dumps(seen.header()).encode()
    size = (len(places) + len(header)) / 1e6
    limit = 1.0 if n <= 30_000 else 4.0
    out.goals.append(Goal(f"MB sent for a map of {seen.n:,} points", size, limit))
    if n <= 30_000:
        out.goals += [
            _seconds(f"first map of {name}, cold, seconds", cold, 5.0),
            _seconds(f"next layer of {name}, warm, seconds (median)", warm, 0.1, median=True),
            _seconds(f"badge of {name}, seconds", badge, 5.0),
        ]
    share = seen.variance_of_bases or math.nan
    out.notes.append(
        f"{name}: {seen.border.count} points at the border; the frame shows {100 * share:.2f} % of"
        " the bases' variance (random weights: there is nothing to see)"
    )


def _add(timing: Timing, found: tuple[float, float]) -> None:
    timing.wall.append(found[0])
    timing.cpu.append(found[1])


def _seconds(text: str, timing: Timing, limit: float, *, median: bool = False) -> Goal:
    value = timing.median if median else timing.best
    return Goal(text, value, limit, also=f"processor time {timing.best_cpu:.2f}")
