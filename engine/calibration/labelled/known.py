"""Tasks that are known beforehand: public data sets, and the sets that ship with the project."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tables import Table, read_table
from engine.errors import OptionError, shorten

_SENTIMENT: Final = {"negative": "negative", "positive": "positive"}
_KNOWN: Final = (
    TaskSpec(
        name="agnews",
        template="Input: {text}\nType:",
        label_words={
            "World": "world",
            "Sports": "sports",
            "Business": "business",
            "Technology": "technology",
        },
    ),
    TaskSpec(name="sst2", template="Review: {text}\nSentiment:", label_words=_SENTIMENT),
    TaskSpec(name="mr", template='Review: "{text}"\nSentiment:', label_words=_SENTIMENT),
    TaskSpec(
        name="subj",
        template='Input: "{text}"\nType:',
        label_words={"subjective": "subjective", "objective": "objective"},
    ),
    TaskSpec(
        name="trec",
        template="Question: {text}\nType:",
        label_words={
            "description": "description",
            "entity": "entity",
            "abbreviation": "expression",
            "human": "human",
            "location": "location",
            "number": "number",
        },
    ),
)
KNOWN_TASKS: Final[Mapping[str, TaskSpec]] = MappingProxyType({one.name: one for one in _KNOWN})
"""Prompts and label words of public data sets, from the paper's table and early code."""


def known_spec(name: str, **changes: Any) -> TaskSpec:
    """The settings of a known task.

    Raises:
        OptionError: not a known one.
    """
    if name not in KNOWN_TASKS:
        raise OptionError(
            f"the known tasks are {', '.join(KNOWN_TASKS)}; got {shorten(name)!r}; give a template"
            " and label words."
        )
    return replace(KNOWN_TASKS[name], **changes)


@dataclass(frozen=True)
class ExampleSet:
    """A labelled set that ships with the project."""

    name: str
    title: str
    table: Table
    spec: TaskSpec

    @property
    def texts(self) -> tuple[str, ...]:
        """Of every row."""
        return self.table.column("text")

    @property
    def labels(self) -> tuple[str, ...]:
        """Of every row."""
        return self.table.column("label")


_EXAMPLES: Final = {
    "topics": ("Topics of short news", "Text: {text}\nTopic:"),
    "sentiment": ("Sentiment of short reviews", "Review: {text}\nSentiment:"),
}


@functools.cache
def example_sets() -> Mapping[str, ExampleSet]:
    """The sets that ship, by name; those whose file is there. Read once."""
    folder = Path(__file__).resolve().parents[2] / "examples"
    out = {}
    for name, (title, template) in _EXAMPLES.items():
        path = folder / f"{name}.csv"
        if path.is_file():
            table = read_table(path)
            out[name] = ExampleSet(name, title, table, TaskSpec(name=name, template=template))
    return MappingProxyType(out)
