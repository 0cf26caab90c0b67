"""A language made here, that a network of two small blocks can learn."""

from __future__ import annotations

import random


def toy_text(seed: int, sentences: int = 400) -> str:
    """Sentences in which the animal decides the verb: something a small network can learn."""
    chooser = random.Random(seed)
    verbs = {"dog": "barks", "cat": "purrs", "cow": "moos", "bee": "hums"}
    animals = [chooser.choice(sorted(verbs)) for _ in range(sentences)]
    return " ".join(f"The {animal} always {verbs[animal]} at night." for animal in animals)
