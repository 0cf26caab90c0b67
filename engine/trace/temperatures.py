"""The temperatures of one model: measured over a text of ours, once per frame, and kept.

A file in the cache is named by the weights' fingerprint and holds every frame that was measured.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from engine.checkpoints import write_aside
from engine.errors import PromptError
from engine.model.language_model import LanguageModel
from engine.model.prompts import Tokens
from engine.progress import Check, no_check
from engine.reading.geometries import GEOMETRIES
from engine.reading.similarity import scores
from engine.reading.temperature import Temperature, fit_temperatures
from engine.trace.compute import Frames

TEXT: Final = Path(__file__).resolve().parents[1] / "examples" / "reading.txt"
"""What the reference states are of: ten paragraphs, written for this."""
POSITIONS: Final = 64
"""How many of them, evenly spaced."""
_SKIPPED: Final = 4
"""First tokens of a paragraph, after which nearly anything may follow."""
_LONGEST: Final = 96
"""Tokens of a paragraph at most."""
_FORMAT: Final = 1


def default_temperatures() -> dict[str, Temperature]:
    """The geometries' own, where nothing was measured."""
    return {
        one.name: Temperature(one.temperature, fitted=False) for one in GEOMETRIES.values()
    }


def reference_tokens(model: LanguageModel) -> list[Tokens]:
    """The paragraphs of our text as this model's tokens, each cut to what it takes."""
    found = []
    limit = min(_LONGEST, model.max_tokens)
    for paragraph in TEXT.read_text("utf-8").split("\n\n"):
        words = paragraph.split()
        # Cut by words before tokens: a model may take very few of them.
        while words:
            try:
                tokens = model.tokenize(" ".join(words))
            except PromptError:
                words = words[: len(words) // 2]
                continue
            if len(tokens.ids) <= limit:
                found.append(tokens)
                break
            words = words[: len(words) * limit // len(tokens.ids) or len(words) - 1]
    return found


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
        if frame not in self._found:
            kept = self._kept()
            if frame not in kept:
                kept[frame] = self._measure(frame, check)
                self._keep(kept)
            self._found[frame] = kept[frame]
        return self._found[frame]

    @torch.no_grad()
    def _measure(self, frame: str, check: Check) -> dict[str, Temperature]:
        if self._states is None:
            self._states = self._reference(check)
        states = self._states
        if not len(states):
            return default_temperatures()
        own = torch.log_softmax(scores(self._frames("head"), states, "matmul"), 1)
        return fit_temperatures(self._frames(frame), states, own, check=check)

    def _reference(self, check: Check) -> Tensor:
        """Finite last-layer states at some positions of our text (n × d)."""
        parts = [
            self._model.read_out(self._model.states(tokens.ids, check=check).raw[-1])[_SKIPPED:]
            for tokens in reference_tokens(self._model)
        ]
        states = torch.cat([part.float() for part in parts]) if parts else torch.empty(0, 0)
        states = states[torch.isfinite(states).all(1)] if len(states) else states
        budget = self._model.limits.reading_bytes // (24 * self._model.vocabulary)
        count = max(1, min(POSITIONS, budget, len(states)))
        picked = torch.linspace(0, max(len(states) - 1, 0), count).long()
        return states[picked.to(states.device)] if len(states) else states

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
        """A reader sees a whole file or none; what cannot be kept is no error."""
        if self._path is None:
            return
        frames = {
            frame: {name: asdict(one) for name, one in rows.items()}
            for frame, rows in found.items()
        }
        body = json.dumps({"format": _FORMAT, "frames": frames}).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_aside(self._path, partial(_write, body))
        except OSError:
            return


def _write(body: bytes, path: Path) -> None:
    path.write_bytes(body)
