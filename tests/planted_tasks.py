"""Small labelled tasks of the tests: rows written here, and states with planted classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from engine import LatentSpace
from engine.calibration.labelled.rows import Row
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tables import Table
from engine.calibration.labelled.tasks import SPLITS, Task, make_task
from engine.calibration.training.features import TaskStates

_TEXT = "the king queen old house cat dog girl red ball ran sat happy sunny day was time upon"
_WORDS = _TEXT.split(" ")


def table(n: int = 120, labels: tuple[str, ...] = ("king", "cat", "dog"), seed: int = 0) -> Table:
    """n different texts of a few words, labels in turn."""
    draw = np.random.default_rng(seed)
    rows, seen = [], set()
    while len(rows) < n:
        text = " ".join(draw.choice(_WORDS, int(draw.integers(3, 9))))
        if text not in seen:
            seen.add(text)
            label = labels[len(rows) % len(labels)]
            rows.append(Row(len(rows) + 2, {"text": text, "label": label}))
    return Table("planted.csv", ("text", "label"), tuple(rows), ())


def task(space: LatentSpace, n: int = 120, **settings: Any) -> Task:
    """A task of three labels for a tiny model."""
    spec = TaskSpec(**({"template": "{text}\nIt:", "seed": 3} | settings))
    return make_task(spec, table(n), space.model)


def planted(
    space: LatentSpace, n: int = 400, *, spread: float = 0.4, seed: int = 5, **settings: Any
) -> tuple[Task, TaskStates]:
    """States drawn around one random centre per class: separable where the spread is small."""
    made = task(space, n, **settings)
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(made.classes, space.model.width, generator=draw)
    normed = {}
    for split in SPLITS:
        own = centres[torch.from_numpy(made.labels[split])]
        normed[split] = own + spread * torch.randn(own.shape, generator=draw)
    return made, states_of(space, made, normed)


def states_of(space: LatentSpace, made: Task, normed: dict[str, torch.Tensor]) -> TaskStates:
    """States as if the model had given them."""
    layer = space.model.blocks
    return TaskStates(
        layers=(layer,),
        layer=layer,
        lengths={s: tuple(len(ids) for ids in made.ids[s]) for s in SPLITS},
        seconds=0.0,
        computed=0,
        cached=0,
        task=made.fingerprint,
        model=space.model.fingerprint,
        _normed={layer: normed},
        _blocks=layer,
    )


def with_task(states: TaskStates, made: Task) -> TaskStates:
    """The same states for a task with other labels."""
    return replace(states, task=made.fingerprint)
