"""The measurements together: in steps, kept for each model, and what they would cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from engine.calibration.labelled.known import example_sets
from engine.checkpoints import write_text
from engine.errors import InputError
from engine.interventions.doses import Doses, measure_doses, rows_of_doses
from engine.interventions.many import facts
from engine.json_number import plain
from engine.progress import Progress, Steps, relabelled
from engine.space import LatentSpace
from engine.trace.dial import ALPHAS, POSITIONS, RIDGES, DialCurve
from engine.uses.shipped import Made, find_shipped
from engine.uses.words import SET, TEST, TRAIN, Words, measure_words

_FORMAT: Final = 1


@dataclass(frozen=True)
class Uses:
    """What is known of what a model's semantic bases are for; None where it was not measured."""

    model: str
    """The fingerprint of the weights."""
    dial: DialCurve | None = None
    """Whether they read next words, and whether they name neighbours."""
    doses: Doses | None = None
    """Whether they act."""
    words: Words | None = None
    """Whether calibrated states keep their meaning."""
    lacking: Mapping[str, str] = field(default_factory=dict)
    """One of :data:`PARTS` → why it cannot be measured on this model, a sentence."""
    shipped: tuple[str, ...] = ()
    """The parts that came with the program and were not measured here."""
    made: Made | None = None
    """When and on what those were measured."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Which of :data:`PARTS` are left to measure."""
        return tuple(
            name for name in PARTS if getattr(self, name) is None and name not in self.lacking
        )

    def to_dict(self) -> dict[str, Any]:
        """Its part of the JSON contract."""
        return {name: plain(getattr(self, name)) for name in (*PARTS, "lacking", "shipped", "made")}


PARTS: Final[Mapping[str, Callable[[LatentSpace], Steps[Any]]]] = {
    "dial": lambda space: space.measure_dial(),
    "doses": lambda space: measure_doses(space, facts()),
    "words": measure_words,
}
_NOTHING: Final = {
    "dial": "This model answers nothing finite on the text that readings are measured on.",
    "doses": "This model knows none of the facts whose answers would be turned.",
}
_known: WeakKeyDictionary[LatentSpace, Uses] = WeakKeyDictionary()


def known_uses(space: LatentSpace) -> Uses:
    """What was measured so far, also by a process before, or else ships; nothing is computed."""
    found, ships = _measured(space), find_shipped(space.model.fingerprint)
    if ships is None:
        return found
    given = {name: getattr(ships, name) for name in found.missing}
    return replace(found, **given, shipped=found.missing, made=ships.made if given else None)


def _measured(space: LatentSpace) -> Uses:
    """Without what ships."""
    found = _known.get(space)
    if found is None:
        found = _known[space] = _load(space)
    return replace(found, dial=space.dial())


def measure_uses(space: LatentSpace, *, again: bool = False) -> Steps[Uses]:
    """Measure all that is not known yet; each part is kept as it ends.

    Args:
        space: called on its thread.
        again: everything, also what is known.
    """
    parts = tuple(PARTS) if again else known_uses(space).missing
    for number, name in enumerate(parts, 1):
        value, why = None, ""
        try:
            value = yield from _part(PARTS[name](space), number, len(parts))
        except InputError as error:
            why = str(error)
        _keep(space, name, value, why or _NOTHING.get(name, ""))
    return known_uses(space)


def _part(steps: Steps[Any], number: int, count: int) -> Steps[Any]:
    def told(step: Progress) -> Progress:
        return replace(step, note=f"part {number} of {count}: {step.note}")

    return relabelled(steps, told)


def predict_uses(space: LatentSpace, *, again: bool = False) -> float:
    """Seconds that measuring what is missing would take, or all of it; nothing is run.

    Counted are tokens through the model and products with the vocabulary; of the facts all, though
    those that the model does not know take next to nothing.
    """
    tokens = products = runs = 0
    layers = space.model.blocks + 1
    for name in PARTS if again else known_uses(space).missing:
        if name == "dial":
            places = len(ALPHAS) + len(RIDGES) + 1
            tokens, products = tokens + 4 * POSITIONS, products + POSITIONS * (1 + places * layers)
        elif name == "doses":
            rows = len(facts()) * rows_of_doses(space.model.blocks)
            tokens, products = tokens + rows * _TOKENS, products + rows
            runs += len(facts()) * _RUNS
        else:
            texts = example_sets()[SET].texts[: TRAIN + TEST]
            given = space.model.tokenizer(list(texts), verbose=False)["input_ids"]
            tokens += sum(min(len(ids), space.model.max_tokens) for ids in given)
    return space.predict_work(tokens, products, passes=runs or 1)


_TOKENS: Final = 3
"""Tokens of a fact that a changed state sends through the model: half of the blocks are below."""
_RUNS: Final = 6
"""Runs of the model for a fact, those of a few blocks together."""


def _keep(space: LatentSpace, name: str, value: Any, why: str) -> None:
    """One part, in memory and where the model's other measurements are kept."""
    found = _measured(space)
    if value is None:
        found = replace(found, lacking={**found.lacking, name: why})
    elif name != "dial":  # the space keeps it
        found = replace(found, **{name: value})
    _known[space] = found
    if space.cache_dir is not None:
        kept = {"format": _FORMAT, "model": found.model}
        kept |= {part: plain(getattr(found, part)) for part in ("doses", "words", "lacking")}
        with suppress(OSError):
            write_text(_path(space.cache_dir, found.model), json.dumps(kept))


def _load(space: LatentSpace) -> Uses:
    """What was kept; nothing where that is damaged, or of another model or format."""
    model = space.model.fingerprint
    nothing = Uses(model)
    if space.cache_dir is None:
        return nothing
    try:
        given = json.loads(_path(space.cache_dir, model).read_text("utf-8"))
        if (given["format"], given["model"]) != (_FORMAT, model):
            return nothing
        made = (("doses", Doses), ("words", Words))
        parts: dict[str, Any] = {
            name: None if given[name] is None else kind.from_dict(given[name])
            for name, kind in made
        }
        lacking = {name: str(given["lacking"][name]) for name in PARTS if name in given["lacking"]}
        return replace(nothing, lacking=lacking, **parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return nothing


def _path(folder: Path, model: str) -> Path:
    return folder / f"uses-{model}.json"
