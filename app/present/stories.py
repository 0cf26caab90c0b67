"""A story: a file of steps, each an address of this app with a note and what is claimed there.

A claim is an address of the API and what its answer holds, so that a check recomputes it the way
the pages do. Stories are TOML files in `app/present/stories/`.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "stories"


def _known(value: Any) -> bool:
    return value is not None


COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "is": lambda found, wanted: found == wanted,
    "is not": lambda found, wanted: found != wanted,
    "at least": lambda found, wanted: _known(found) and found >= wanted,
    "at most": lambda found, wanted: _known(found) and found <= wanted,
    "is missing": lambda found, wanted: (found is None) == wanted,
}
"""How a value of an answer is compared with what a story says."""


@dataclass(frozen=True)
class Claim:
    """Something that a story says, as numbers of the API."""

    ask: str
    """An address under ``/api/v1``."""
    holds: tuple[tuple[str, str, Any], ...]
    """(place in the answer, one of `COMPARISONS`, the value); a place is ``after.answer.text`` or
    ``controls.*.probability_after``, where all are compared."""


@dataclass(frozen=True)
class Step:
    """One picture of a story."""

    title: str
    address: str
    """Of a page of this app."""
    note: str
    """What the speaker says."""
    show: str = "all"
    """``all``; ``prompt``: the text alone; ``reveal``: the layers rise one by one."""
    point: str = ""
    """A selector of what is pointed at."""
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Story:
    """What is told, step by step."""

    name: str
    """Its file's, in addresses and on the command line."""
    title: str
    model: str
    """Whose story it is, as `lexiscope models` names it."""
    fingerprint: str
    """Of that model: on another one nothing of it need be so."""
    steps: tuple[Step, ...]

    def href(self, number: int) -> str:
        """The address of a step, from 1."""
        address = self.steps[number - 1].address
        return f"{address}{'&' if '?' in address else '?'}present={self.name}:{number}"


def read_story(path: Path) -> Story:
    """A story's file."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    steps = tuple(
        Step(**{**one, "claims": tuple(_claim(claim) for claim in one.get("claims", ()))})
        for one in raw.pop("steps")
    )
    return Story(path.stem, steps=steps, **raw)


def _claim(raw: dict[str, Any]) -> Claim:
    return Claim(raw["ask"], tuple((place, how, value) for place, how, value in raw["holds"]))


@functools.cache
def stories() -> dict[str, Story]:
    """The stories that ship, by their names."""
    return {one.name: one for one in map(read_story, sorted(FOLDER.glob("*.toml")))}


@dataclass(frozen=True)
class Outcome:
    """Whether a step is so."""

    step: int
    """From 1."""
    said: str
    """What was asked, and what was found where that is not what the story says."""
    holds: bool


Get = Callable[[str], tuple[int, Any]]
"""Asks for an address: the status, and the JSON of the answer where it is one."""


def check_story(story: Story, get: Get) -> Iterator[Outcome]:
    """Ask for every step and recompute every claim.

    Args:
        story: which.
        get: asks the app, with the story's model open.
    """
    for number, step in enumerate(story.steps, 1):
        status, _ = get(story.href(number))
        said = f"{step.address} is there"
        yield Outcome(number, said if status == 200 else f"{said}: status {status}", status == 200)
        for claim in step.claims:
            status, answer = get(claim.ask)
            if status != 200:
                yield Outcome(number, f"{claim.ask}: status {status}", False)
                continue
            for place, how, wanted in claim.holds:
                found = list(_at(answer, place.split(".")))
                holds = bool(found) and all(COMPARISONS[how](one, wanted) for one in found)
                said = f"{place} {how} {wanted!r}"
                if not holds:
                    said += f": found {', '.join(map(repr, found)) or 'nothing'}, by {claim.ask}"
                yield Outcome(number, said, holds)


def _at(value: Any, place: list[str]) -> Iterator[Any]:
    if not place:
        yield value
    elif place[0] == "*":
        for one in value if isinstance(value, list) else ():
            yield from _at(one, place[1:])
    elif isinstance(value, list) and place[0].lstrip("-").isdigit():
        if -len(value) <= int(place[0]) < len(value):
            yield from _at(value[int(place[0])], place[1:])
    elif isinstance(value, dict) and place[0] in value:
        yield from _at(value[place[0]], place[1:])
