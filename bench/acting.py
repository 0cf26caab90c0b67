"""What actions do to SmolLM2, over our facts and beside their controls; and where they fail.

No times: shares and probabilities. The figures of the first measurements of this kind (directions
by frame, causal maps, the swap that does nothing above the embedding) are found again.
"""

from __future__ import annotations

from typing import Any, Final

import engine
from bench.report import Section
from bench.setting import Setting
from engine.interventions.action import Action
from engine.interventions.doses import DOSES, FRAMES, Dose, measure_doses
from engine.interventions.many import Many, facts
from engine.interventions.sentences import causal_sentence
from engine.progress import drain

TWINS: Final = (
    ("The capital of France is", "The capital of Italy is"),
    ("The capital of Japan is", "The capital of Germany is"),
    ("The opposite of hot is", "The opposite of big is"),
)
LAYERS: Final = {
    "steer": (10, 15, 20, 23, 25, 27),
    "patch": (10, 15, 20, 22, 23, 24, 25),
    "swap": (0, 1, 2, 15, 25),
}
_NAMES: Final = {
    "head": "head rows",
    "dial:0.1": "α = 0.1",
    "tight": "tight",
    "output": "bases",
    "random": "random",
}


def acting(setting: Setting) -> Section:
    """Directions, causal maps, and three actions by layer over all facts."""
    out = Section(
        "What actions do",
        f"Over our {len(facts())} facts, each towards the answer of another one of its relation:"
        " share of answers that became the target with Wilson's 95 % interval, and the mean"
        " probability of the target; steered at the last position.",
        ("what", *_NAMES.values()),
    )
    space = engine.load("smollm2", device="cpu", threads=setting.threads)
    found = drain(measure_doses(space, facts()))
    assert found is not None
    for layer in found.layers:
        for dose in DOSES:
            cells = (found.at(frame, layer, dose) for frame in FRAMES)
            out.add(f"steer, layer {layer}, dose {dose:g}", *map(_pushed, cells))
    swaps = {(one.frame, one.layer): one for one in found.swaps}
    for layer in sorted({one.layer for one in found.swaps}):
        cell = {frame: _pushed(swaps[frame, layer]) for frame in ("head", "output", "random")}
        out.add(f"swap, layer {layer}", *(cell.get(frame, "") for frame in FRAMES))
    why = "; ".join(f"{count}: {reason}" for reason, count in found.skipped.items())
    out.notes.append(f"{found.used} facts used; skipped {why}")
    for kind, layers in LAYERS.items():
        for layer in layers:
            action = Action(kind=kind, layers=str(layer), **_NEEDS[kind])
            done = drain(space.many(facts(), action))
            out.notes.append(f"{kind} at layer {layer}: {_many(done)}")
    for prompt, twin in TWINS:
        mapped = drain(space.causal_map(prompt, twin))
        out.notes.append(f"“{prompt}” / “{twin}”: {causal_sentence(mapped)}")
    return out


_NEEDS: Final[dict[str, dict[str, Any]]] = {
    "steer": {"token": "a"},
    "patch": {"source": "a"},
    "swap": {"token": "a", "foil": "b"},
}
"""Stand for those of each fact."""


def _pushed(one: Dose) -> str:
    share = one.share
    return f"{_share(share.value, share.low, share.high)}; {one.probability:.2f}"


def _many(found: Many) -> str:
    own, controls = "none", "none"
    if found.share is not None and found.interval is not None:
        own = f"{_share(found.share, *found.interval)} of {found.used}"
    if found.control_share is not None and found.control_interval is not None:
        controls = f"{_share(found.control_share, *found.control_interval)} of {found.controls}"
    return f"turned {own}, controls {controls}; skipped {found.skipped}"


def _share(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
