"""Small labelled sets for the tests of methods, and a context of one on a tiny model."""

from __future__ import annotations

import random
from typing import Any

from engine import LatentSpace
from engine.calibration.evidence.evaluation import prepare
from engine.calibration.evidence.protocol import MethodContext, MethodSettings
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tables import read_table
from engine.calibration.labelled.tasks import Task, make_task
from engine.calibration.training.options import CalibrationOptions
from engine.progress import drain

_SUBJECTS = ("king", "queen", "girl", "dog", "cat")
_WORDS = {
    "left": ("red ball", "old red house"),
    "right": ("sunny day", "happy day"),
    "up": ("sat",),
}


def sentences_csv(rows: int = 90, labels: tuple[str, ...] = ("left", "right")) -> bytes:
    """Short sentences whose label stands in a word; no sentence twice."""
    draw = random.Random(5)
    seen: dict[str, str] = {}
    while len(seen) < rows:
        label = labels[len(seen) % len(labels)]
        words = [draw.choice(_SUBJECTS), str(draw.randrange(1000)), draw.choice(_WORDS[label])]
        seen.setdefault(" ".join(words), label)
    return ("text,label\n" + "".join(f"{t},{x}\n" for t, x in seen.items())).encode()


def small_task(
    space: LatentSpace,
    *,
    rows: int = 90,
    labels: tuple[str, ...] = ("left", "right"),
    seed: int = 3,
    **changes: Any,
) -> Task:
    """A task for one of the tiny models; label words are single letters, one token each."""
    words = {label: "abcdef"[i] for i, label in enumerate(labels)}
    given: dict[str, Any] = {
        "name": "small",
        "template": "{text} =",
        "label_words": words,
        "word_rule": "last",
        "valid": 16,
        "test": 24,
        "seed": seed,
    }
    spec = TaskSpec(**(given | changes))
    return make_task(spec, read_table(sentences_csv(rows, labels), "small.csv"), space.model)


def quick_settings(**changes: Any) -> MethodSettings:
    """Settings that take a second on a tiny model."""
    given: dict[str, Any] = {
        "shots": 1,
        "adapter_epochs": 1,
        "adapter_batch": 8,
        "calibration": CalibrationOptions(epochs=8),
    }
    return MethodSettings(**(given | changes))


def small_context(space: LatentSpace, task: Task | None = None, **settings: Any) -> MethodContext:
    """What a method gets."""
    own = task or small_task(space)
    return drain(prepare(space, own, seed=1, settings=quick_settings(**settings)))
