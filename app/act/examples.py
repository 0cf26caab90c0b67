"""Actions worth a first look, for the models that ship or are fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """An action worth a first look."""

    title: str
    look: str
    state: Mapping[str, Any]


FRANCE, _ITALY = "The capital of France is", "The capital of Italy is"
_CAPITAL = {"prompt": FRANCE, "twin": _ITALY}
EXAMPLES: Mapping[str, tuple[Example, ...]] = {
    "b50e21679f11c8cddfbad4c444e5065e": (
        Example(
            "Paris becomes Rome",
            "One push of 0.3 of the state's length at layer 25 of 30, and the capital of France is"
            " Rome; none of five random pushes of that size does anything like it.",
            _CAPITAL | {"token": "Rome", "foil": "Paris", "layers": "25", "generate": 12},
        ),
        Example(
            "… and at layer 20 it does not",
            "The same push five layers lower: no more than chance. The model has not gone to its"
            " answer yet.",
            _CAPITAL | {"token": "Rome", "foil": "Paris", "layers": "20"},
        ),
        Example(
            "Where the fact is",
            "The state over “France” of the other prompt, put in at layer 10: the answer is the"
            " other prompt's.",
            _CAPITAL | {"do": "patch", "source": _ITALY, "layers": "10", "positions": "3"},
        ),
        Example(
            "… and where it went",
            "From layer 24 on the last word carries it.",
            _CAPITAL | {"do": "patch", "source": _ITALY, "layers": "24", "positions": "-1"},
        ),
        Example(
            "A swap of two words",
            "The mirror that exchanges “France” and “Italy”, at the embedding: as if the other had"
            " been typed.",
            _CAPITAL | {"do": "swap", "token": "France", "foil": "Italy", "layers": "0",
                        "frame": "head"},
        ),
        Example(
            "… that fails one layer up",
            "After the first block a word's vector is no longer where the model keeps the word.",
            _CAPITAL | {"do": "swap", "token": "France", "foil": "Italy", "layers": "1",
                        "frame": "head"},
        ),
    )
}  # fmt: skip
"""By the fingerprint of the model; tests/app/act/test_examples.py reads the sentences again."""
