"""A story: a file of steps, each an address of this app with a note and what is claimed there.

A claim is an address of the API and what its answer holds, so that a check recomputes it the way
the pages do. Stories are TOML files in `app/present/stories/`; one that was recorded in a browser
is the same as JSON.
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from engine.errors import OptionError

FOLDER: Final = Path(__file__).parent / "stories"
OWN: Final = "own"
"""The story that a visitor's own browser keeps."""
MADE: Final = "{made}"
"""In a claim: the id of what the step's `make` made."""
SHOWS: Final = ("all", "prompt", "reveal")
STEPS_AT_MOST: Final = 40
_PAGE: Final = re.compile(r"/(?![/\\])[^\s\\]*")


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
    address: str = ""
    """Of a page of this app."""
    note: str = ""
    """What the speaker says."""
    show: str = "all"
    """``all``; ``prompt``: the text alone; ``reveal``: the layers rise one by one."""
    point: str = ""
    """A selector of what is pointed at."""
    ready: tuple[str, ...] = ()
    """Addresses of the API that are asked before the page, so that it has what they compute."""
    make: Mapping[str, Any] = field(default_factory=dict)
    """A calibration whose page the step is, as ``POST /api/v1/calibrations`` takes it; it is known
    again by its name."""
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
        step = self.steps[number - 1]
        if step.make:
            return f"/present/{self.name}/{number}"
        address = step.address
        return f"{address}{'&' if '?' in address else '?'}present={self.name}:{number}"


def read_story(path: Path) -> Story:
    """A story's file, TOML or JSON.

    Raises:
        OptionError: it cannot be read, or is no story.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        steps = tuple(map(_step, raw.pop("steps")))
        name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:40] or "story"
        name = "story" if name == OWN else name
        told = Story(name, steps=steps, **raw)
        if not 1 <= len(steps) <= STEPS_AT_MOST:
            raise ValueError(f"it has {len(steps)} steps and may have 1 to {STEPS_AT_MOST}")
        if not all(isinstance(one, str) for one in (told.title, told.model, told.fingerprint)):
            raise ValueError("title, model and fingerprint are texts")
    except OSError as error:
        raise OptionError(f"{path.name} cannot be read: {error.strerror}.") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OptionError(
            f"{path.name} is no story: {str(error)[:200]}; a story is TOML or JSON with a title, a"
            " model, its fingerprint, and steps of a title, an address and a note."
        ) from None
    return told


def _step(raw: dict[str, Any]) -> Step:
    claims = tuple(_claim(claim) for claim in raw.get("claims", ()))
    step = Step(**{**raw, "claims": claims, "ready": tuple(raw.get("ready", ()))})
    texts = (step.title, step.note, step.point, step.address, *step.ready)
    if not all(isinstance(one, str) for one in texts):
        raise ValueError("a step's title, note, address and what it points at are texts")
    if step.show not in SHOWS:
        raise ValueError(f"a step shows {', '.join(SHOWS)}, not {step.show!r:.40}")
    if not step.make and not _PAGE.fullmatch(step.address):
        raise ValueError(
            f"an address is of a page of this app and begins with /, not {step.address!r:.40}"
        )
    if not all(one.startswith("/api/v1/") for one in (*step.ready, *(c.ask for c in claims))):
        raise ValueError("what a step asks begins with /api/v1/")
    return step


def _claim(raw: dict[str, Any]) -> Claim:
    holds = tuple((str(place), how, value) for place, how, value in raw["holds"])
    if unknown := [how for _, how, _ in holds if how not in COMPARISONS]:
        raise ValueError(f"a claim says {', '.join(COMPARISONS)}, not {unknown[0]!r:.40}")
    return Claim(raw["ask"], holds)


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
Make = Callable[[Mapping[str, Any]], str]
"""Makes a calibration, or finds it, and gives its id."""


def check_story(story: Story, get: Get, make: Make) -> Iterator[Outcome]:
    """Make what is needed, ask for every step, and recompute every claim.

    Args:
        story: which.
        get: asks the app, with the story's model open.
        make: makes the calibration of a step that is one.
    """
    for number, step in enumerate(story.steps, 1):
        made = make(step.make) if step.make else ""
        for ask in step.ready:
            get(ask)
        status, _ = get(story.href(number))
        said = f"{step.address or story.href(number)} is there"
        yield Outcome(number, said if status == 200 else f"{said}: status {status}", status == 200)
        for claim in step.claims:
            ask = claim.ask.replace(MADE, made)
            status, answer = get(ask)
            if status != 200:
                yield Outcome(number, f"{ask}: status {status}", False)
                continue
            for place, how, wanted in claim.holds:
                found = list(_at(answer, place.split(".")))
                holds = bool(found) and all(COMPARISONS[how](one, wanted) for one in found)
                said = f"{place} {how} {wanted!r}"
                if not holds:
                    said += f": found {', '.join(map(repr, found)) or 'nothing'}, by {ask}"
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
