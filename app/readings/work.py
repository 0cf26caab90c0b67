"""The measuring of a model's readings as one job: temperatures, the dial, the linear lens."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request

from app.jobs.job import JobView
from app.jobs.lanes import Jobs
from app.jobs.measuring import start_measuring
from app.model.explorer import Explorer
from engine import LatentSpace
from engine.errors import OptionError
from engine.frames.kinds import FRAMES
from engine.json_number import plain
from engine.lenses import LENSES
from engine.lenses.kind import Lens
from engine.progress import Check, Progress, Steps, as_part, relabelled
from engine.reading.temperature import Temperature
from engine.trace.dial import DialCurve

KIND = "readings"
TITLE = "Measuring which reading fits {name} best"


@dataclass(frozen=True)
class Measured:
    """What is known of a model's readings."""

    temperatures: Mapping[str, Mapping[str, Temperature]]
    """Frame → geometry; of the frames that were measured."""
    dial: DialCurve | None
    lenses: Mapping[str, Lens]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to measure."""
        fitted = [one.name for one in LENSES.values() if one.fit is not None]
        return self.dial is not None and self.lenses.keys() >= set(fitted)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON of ``/api/v1/readings``."""
        return {
            "temperatures": {frame: plain(rows) for frame, rows in self.temperatures.items()},
            "dial": None if self.dial is None else self.dial.to_dict(),
            "lenses": {
                name: {
                    "positions": lens.positions,
                    "held_out": lens.held_out,
                    "text": lens.text,
                    "seconds": lens.seconds,
                    "bytes": lens.bytes,
                    "layers": [row.to_dict() for row in lens.rows],
                }
                for name, lens in self.lenses.items()
            },
        }


def measured(space: LatentSpace, *, check: Check) -> Measured:
    """What was measured so far; nothing is computed."""
    check()
    return Measured(
        space.known_temperatures(),
        space.dial(),
        {name: lens for name in LENSES if (lens := space.known_lens(name)) is not None},
    )


def steps(space: LatentSpace) -> Steps[None]:
    """Measure all that is not known yet."""
    for n, frame in enumerate(FRAMES):
        note = "part 1 of 3: temperatures"
        yield Progress(n, len(FRAMES), note)
        with suppress(OptionError):  # a frame that this model does not have
            yield from as_part(space.measure_temperatures(frame), n, len(FRAMES), note)
    if space.dial() is None:
        yield from _part(2, space.measure_dial())
    for name, kind in LENSES.items():
        if kind.fit is not None and space.known_lens(name) is None:
            try:
                yield from _part(3, space.fit_lens(name))
            except OptionError:  # a model that writes no text
                continue


def _part(number: int, work: Steps[Any]) -> Steps[Any]:
    return relabelled(work, lambda step: replace(step, note=f"part {number} of 3: {step.note}"))


async def start(request: Request, explorer: Explorer, jobs: Jobs) -> JobView:
    """Queue the job; one that is under way for the same model is given instead."""
    title = TITLE.format(name=explorer.facts().name)
    return await start_measuring(request, explorer, jobs, KIND, title, steps, href="/readings")
