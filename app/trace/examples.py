"""The prompts offered on the Trace page, each with one sentence of what to look at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A prompt worth a first look."""

    prompt: str
    look: str


LOOKED_AT = "63d646890637b118b7fea694a275a5fd"
"""The fingerprint of the model whose traces the examples' sentences were read from: of any other
model they need not be true, so its pages show the prompts alone."""
EXAMPLES: tuple[Example, ...] = (
    Example(
        "He opened the door and shut the",
        "An answer found half way up: after “shut the”, the state lies in the region of “door”, the"
        " model's own answer, from layer 5 on.",
    ),
    Example(
        "He ran as fast as he",
        "An ambiguity resolved: “fast” begins nearest to “asleep”, then to “est”; from layer 5 on"
        " the words before it have won, and it finds “as”, the model's answer.",
    ),
    Example(
        "The United States of",
        "A name completed: “United” stands nearest to “States” at every layer, the embedding"
        " included.",
    ),
    Example(
        "from side to side and from side to",
        "A repetition: over the last “to” the last two layers name “side”, the model's answer;"
        " over the first “to”, before anything was repeated, no layer does.",
    ),
    Example(
        "one two three four five six",
        "A failure: this model does not count. No column's answer, written above it, is the next"
        " number.",
    ),
)
"""True of the model that ships, by cosine to the semantic bases; tests/app/test_examples.py reads
them again."""
