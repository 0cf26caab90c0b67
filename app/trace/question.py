"""What is asked of a trace, by the page and by the API, examples, and links that ask it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import Field

from app.settings import TOKEN_CEILING
from app.web.questions import (
    LayerNumber,
    PageQuestion,
    PromptText,
    RangeText,
    ReadingQuestion,
    undialled,
)
from app.web.rendering import link
from engine import TraceOptions
from engine.reading.pursuit import MOST
from engine.trace.bank import BUILT_IN

BankName = Annotated[str, Field(max_length=40, pattern=r"^[a-z0-9-]{1,40}$")]
"""A label set by its id, or the texts that ship."""
BOS = (("auto", "as the model does"), ("yes", "yes"), ("no", "no"))
"""Whether the model's first special token stands before a prompt, as a page says it."""
MAX_PINS = 8
"""Tokens whose curves a page shows at most."""
IdList = Annotated[str, Field(max_length=320, pattern=r"^[0-9]{1,9}(,[0-9]{1,9}){0,31}$")]


class TraceQuestion(ReadingQuestion):
    """A prompt and how to read it."""

    prompt: PromptText = Field(description="The text to trace.")
    centred: bool = Field(False, description="Take the layer's mean over the prompt "
        "off each state, and the mean basis off each basis.")  # fmt: skip
    temperature: float | None = Field(None, ge=1e-3, le=1e4, description="Of the probabilities; "
        "left out: the one that fits this model best.")  # fmt: skip
    layers: RangeText | None = Field(None, description="Which layers: 0:6, 0:12:2, 3; left out: "
        "all.")  # fmt: skip
    positions: RangeText | None = Field(None, description="Which positions, written like layers.")

    def options(self) -> TraceOptions:
        """The engine's options."""
        plain = {name: getattr(self, name) for name in TraceOptions.__dataclass_fields__}
        ranges = {"layers": self.layers or None, "positions": self.positions or None}
        return TraceOptions(**plain | ranges)


class CellQuestion(TraceQuestion):
    """A prompt, how to read it, and one cell of the grid."""

    layer: LayerNumber = Field(description="The layer: 0 is the embedding, -1 the last.")
    position: Annotated[int, Field(ge=-1, le=TOKEN_CEILING)] = Field(
        -1, description="The token's place in the prompt, from 0; -1: the last."
    )


class WordsQuestion(CellQuestion):
    """A prompt, how to read it, one cell of the grid, and in how many words."""

    words: Annotated[int, Field(ge=1, le=MOST)] = Field(
        MOST, description="Words of the sum at most."
    )


class FindingQuestion(TraceQuestion):
    """A prompt, how to read it, and the position whose answer is looked for."""

    position: Annotated[int, Field(ge=-1, le=TOKEN_CEILING)] = Field(
        -1, description="The token's place in the prompt, from 0; -1: the last."
    )


class CurvesQuestion(FindingQuestion):
    """A prompt, how to read it, and the tokens to follow."""

    ids: IdList | None = Field(None, description="Token ids, separated by commas, at most 32; "
        "left out: those that are nearest at any layer.")  # fmt: skip

    def pins(self) -> tuple[int, ...] | None:
        """The ids, each once, in their order."""
        if self.ids is None:
            return None
        return tuple(dict.fromkeys(int(one) for one in self.ids.split(",")))


@dataclass(frozen=True)
class Example:
    """A prompt worth a first look."""

    kind: str
    """What it is an example of, in a word or two."""
    prompt: str
    look: str


_SMALL: tuple[Example, ...] = (
    Example(
        "Half way up",
        "He opened the door and shut the",
        "An answer found half way up: after “shut the”, the state lies in the region of “door”, the"
        " model's own answer, from layer 5 on.",
    ),
    Example(
        "Ambiguity",
        "He ran as fast as he",
        "An ambiguity resolved: “fast” begins nearest to “asleep”, then to “est”; from layer 5 on"
        " the words before it have won, and it finds “as”, the model's answer.",
    ),
    Example(
        "A name",
        "The United States of",
        "A name completed: “United” stands nearest to “States” at every layer, the embedding"
        " included.",
    ),
    Example(
        "Repetition",
        "from side to side and from side to",
        "A repetition: over the last “to” the last two layers name “side”, the model's answer;"
        " over the first “to”, before anything was repeated, no layer does.",
    ),
    Example(
        "A failure",
        "one two three four five six",
        "A failure: this model does not count. No column's answer, written above it, is the next"
        " number.",
    ),
)
_SMOLLM2: tuple[Example, ...] = (
    Example(
        "A fact",
        "The capital of France is",
        "A fact: by the semantic bases the state over “is” stands nearest to “Paris”, the model's"
        " own answer, from layer 25 of 30 on, and at no layer below.",
    ),
    Example(
        "Counting",
        "Monday, Tuesday, Wednesday, Thursday,",
        "Counting: by the semantic bases the last comma stands nearest to “Friday”, the model's"
        " answer, from layer 24 on.",
    ),
    Example(
        "Grammar",
        "When Mary and John went to the store, John gave a drink to",
        "Across a distance: “Mary”, the one who is not named again, is the model's answer, and by"
        " the semantic bases the nearest token from layer 28 on.",
    ),
    Example(
        "Repetition",
        "the dog and the cat and the dog and the",
        "A repetition: over the last “the” the model answers “cat”, which the semantic bases name"
        " in the last two layers.",
    ),
    Example(
        "An idiom",
        "It is raining cats and",
        "An idiom that comes late: “dogs” is the model's answer, and by the semantic bases the last"
        " layer is the first to stay with it.",
    ),
    Example(
        "A failure",
        "The capital of Australia is",
        "A failure: the model answers “Sydney”, and by the semantic bases only the last layer says"
        " so. The capital is Canberra.",
    ),
)
EXAMPLES: Mapping[str, tuple[Example, ...]] = {
    "63d646890637b118b7fea694a275a5fd": _SMALL,
    "b50e21679f11c8cddfbad4c444e5065e": _SMOLLM2,
}
"""By the fingerprint of the model whose traces the sentences were read from, by cosine to the
semantic bases; tests/app/trace/test_examples.py reads them again."""


def examples_of(fingerprint: str) -> tuple[Example, ...]:
    """The examples for a model; of another than those they were read from the prompts alone."""
    found = EXAMPLES.get(fingerprint)
    return found or tuple(Example(one.kind, one.prompt, "") for one in _SMOLLM2)


class TraceQuery(TraceQuestion, PageQuestion):
    """The whole state of the page."""

    empty_counts = ("prompt",)
    prompt: PromptText = _SMALL[0].prompt
    colour: Literal["probability", "entropy", "rank", "kl", "agreement", "deviation", "border"] = (
        "rank"
    )
    curve: Literal["rank", "probability", "score"] = "rank"
    pin: tuple[Annotated[int, Field(ge=0, le=99_999_999)], ...] = Field((), max_length=MAX_PINS)
    cell: str | None = Field(None, pattern=r"^[0-9]{1,4},[0-9]{1,5}$")
    start: int | None = Field(None, ge=0, le=100_000)
    panel: Literal["agreement", "words", "contexts"] | None = None
    bank: BankName = BUILT_IN
    """The texts in which contexts are looked for."""
    calibration: str | None = Field(None, pattern=r"^[0-9a-f]{24}$")
    """A saved calibration that is switched on."""

    def options(self) -> TraceOptions:
        """The engine's options; a dial that stands in the form of another frame says nothing."""
        return TraceQuestion.options(undialled(self))

    @property
    def place(self) -> tuple[int, int] | None:
        """The cell as (layer, position)."""
        if self.cell is None:
            return None
        layer, position = self.cell.split(",")
        return int(layer), int(position)


def link_to(request: Request, query: TraceQuery, /, path: str = "/", **changes: Any) -> str:
    """A link that keeps the entire state but for the changes; defaults are left out."""
    state = query.model_dump(exclude_defaults=True) | changes
    fields = type(query).model_fields
    kept = {k: v for k, v in state.items() if v != fields[k].default}
    for name in ("temperature", "alpha", "ridge"):
        if kept.get(name) is not None:
            kept[name] = f"{kept[name]:g}"
    return link(request, path, **kept)
