"""Measurements that ship: what semantic bases are for on the default model, measured beforehand.

A file of `measured/` stands in for the measuring of the model whose weights have its fingerprint,
until somebody measures again. It holds the figures as `measure_uses` found them, and what they were
measured on. Made by ``python -m training.uses``; :func:`engine.uses.again.verify_uses` measures a
part of it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from engine.interventions.doses import Doses
from engine.json_number import Plain, plain
from engine.trace.dial import DialCurve
from engine.uses.words import Words

FOLDER: Final = Path(__file__).with_name("measured")
FORMAT: Final = 1


@dataclass(frozen=True)
class Made(Plain):
    """When, on what and by what a measurement was made."""

    date: str
    """Year, month and day."""
    device: str
    dtype: str
    threads: int
    seconds: float
    """Of the processor."""
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Shipped:
    """A measurement that ships."""

    model: str
    """The fingerprint of the weights."""
    made: Made
    dial: DialCurve
    doses: Doses
    words: Words


@cache
def find_shipped(model: str) -> Shipped | None:
    """What ships for the model with this fingerprint; None where nothing does."""
    path = FOLDER / f"{model}.json"
    if not model.isalnum() or not path.is_file():
        return None
    given = json.loads(path.read_text("utf-8"))
    if (given["format"], given["model"]) != (FORMAT, model):
        return None
    return Shipped(
        model,
        Made(**given["made"]),
        DialCurve.from_dict(given["dial"]),
        Doses.from_dict(given["doses"]),
        Words.from_dict(given["words"]),
    )


def write_shipped(found: Shipped) -> Path:
    """Put a measurement where it is found by its model's fingerprint."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{found.model}.json"
    path.write_text(json.dumps({"format": FORMAT, **plain(found)}, sort_keys=True) + "\n", "utf-8")
    return path
