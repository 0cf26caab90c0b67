"""Prompts that nobody asked before; needs nothing, so that locust's process can use it too."""

from __future__ import annotations

import random

WORDS = (
    *("the", "a", "one", "little", "big", "old", "red", "blue", "dog", "cat", "bird", "girl"),
    *("boy", "mother", "friend", "house", "tree", "door", "river", "garden", "ball", "box"),
    *("day", "night", "saw", "took", "found", "gave", "made", "wanted", "asked", "said", "ran"),
    *("went", "came", "looked", "with", "under", "over", "into", "from", "after", "because"),
    *("when", "and", "but", "so", "then", "very", "happy", "sad", "brave", "kind"),
)
LENGTH = 12
"""Words of a prompt: all prompts are of one size."""


def prompt(chance: random.Random) -> str:
    """Twelve words by chance."""
    return " ".join(chance.choice(WORDS) for _ in range(LENGTH))
