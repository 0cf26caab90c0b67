"""The temperatures of one model: measured over a text of ours, once per frame, and kept.

A file in the cache is named by the weights' fingerprint and holds every frame that was measured.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from engine.checkpoints import write_text
from engine.model.language_model import LanguageModel
from engine.progress import Check, Progress, Steps, drain, no_check
from engine.reading.geometries import GEOMETRIES
from engine.reading.similarity import scores
from engine.reading.temperature import Temperature, fit_temperatures
from engine.trace.compute import Frames
from engine.trace.reference import read_reference

POSITIONS: Final = 64
"""How many states the temperatures are measured on."""
_FORMAT: Final = 1


def default_temperatures() -> dict[str, Temperature]:
    """The geometries' own, where nothing was measured."""
    return {one.name: Temperature(one.temperature, fitted=False) for one in GEOMETRIES.values()}


class Temperatures:
    """What each reading's temperature is on a model.

    Args:
        model: whose readings they are; called on its thread.
        frames: gives a frame by its key.
        cache_dir: where they are kept; None keeps none.
    """

    def __init__(self, model: LanguageModel, frames: Frames, cache_dir: Path | None) -> None:
        self._model = model
        self._frames = frames
        self._path = cache_dir and cache_dir / f"temperatures-{model.fingerprint}.json"
        self._found: dict[str, dict[str, Temperature]] = {}
        self._states: Tensor | None = None

    def of(self, frame: str, *, check: Check = no_check) -> dict[str, Temperature]:
        """By geometry, on a frame by its key; measured at the first call.

        Where the model answers none of our text with finite numbers, the geometries' own.
        """
        return drain(self.measuring(frame, check=check))

    def measuring(self, frame: str, *, check: Check = no_check) -> Steps[dict[str, Temperature]]:
        """The same in small steps: the text, the model's own answers, the frame, each geometry."""
        if frame not in self._found:
            found = self._kept().get(frame)
            if found is None:
                found = yield from self._measure(frame, check)
                self._keep(self._kept() | {frame: found})  # others may have come meanwhile
            self._found[frame] = found
        return self._found[frame]

    def known(self) -> dict[str, dict[str, Temperature]]:
        """Those that were measured, by frame."""
        return self._kept() | self._found

    def _measure(self, frame: str, check: Check) -> Steps[dict[str, Temperature]]:
        step = Progress(0, 0, "temperatures")
        if self._states is None:
            states = yield from read_reference(self._model, POSITIONS, check=check)
            self._states = states[-1].clone()
        states = self._states
        if not len(states):
            return default_temperatures()
        with torch.no_grad():
            own = torch.log_softmax(scores(self._frames("head"), states, "matmul"), 1)
        yield step
        vectors = self._frames(frame)
        yield step
        found: dict[str, Temperature] = {}
        for name in GEOMETRIES:
            found |= fit_temperatures(vectors, states, own, geometries=(name,), check=check)
            yield step
        return found

    def _kept(self) -> dict[str, dict[str, Temperature]]:
        """What the file holds; nothing where it is damaged or of another format."""
        if self._path is None:
            return {}
        try:
            given = json.loads(self._path.read_text("utf-8"))
            if given["format"] != _FORMAT:
                return {}
            found = {
                frame: {name: Temperature(**one) for name, one in rows.items()}
                for frame, rows in given["frames"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        return {frame: rows for frame, rows in found.items() if rows.keys() == GEOMETRIES.keys()}

    def _keep(self, found: dict[str, dict[str, Temperature]]) -> None:
        """A reader sees a whole file or none; what cannot be kept is no error.

        The geometries' own are not kept: they say that this process could measure nothing.
        """
        if self._path is None:
            return
        frames = {
            frame: {name: asdict(one) for name, one in rows.items()}
            for frame, rows in found.items()
            if any(one.fitted for one in rows.values())
        }
        with contextlib.suppress(OSError):
            write_text(self._path, json.dumps({"format": _FORMAT, "frames": frames}))
